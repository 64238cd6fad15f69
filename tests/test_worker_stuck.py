"""Encoders that die or never answer, states that never come, Kafka away at the worst moment."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from handover_cases import SLACK, Stream, one_line_of, partitions, since
from service_process import free_port
from worker_cases import wait_for


def encoder_of(worker):
    """Process id of the encoder of a worker."""
    pid = worker.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return int(children[0])


def test_a_worker_whose_encoder_never_answers_ends_with_the_reason_or_when_told_to(plant):
    few = {"ECHOWATCH_WORKER__WATCHDOG_S": "4", "ECHOWATCH_WORKER__DRAIN_S": "1"}
    told, dog = plant.start(role="signals"), plant.start(role="signals", **few)
    every = plant.partitions
    wait_for(lambda: partitions(told) == partitions(dog) == every // 2, "a fair share")
    for worker in (told, dog):
        os.kill(encoder_of(worker), signal.SIGSTOP)
    Stream(plant).send(20)
    wait_for(lambda: told.metric("echowatch_queue_messages", role="signals"), "messages in hand")
    began_s = time.monotonic()
    assert told.end() == 0
    assert since(began_s, "SIGTERM to the end of a worker with a stuck encoder") <= SLACK * 10.0
    line = one_line_of(dog.process, dog.log)
    assert "nothing was processed for" in line
    assert "messages wait" in line
    assert not any(plant.committed("signals", plant.conf.kafka.signals[0]).values())


def test_a_worker_whose_encoder_dies_ends_with_the_reason_and_loses_nothing(plant):
    stream = Stream(plant)
    first = plant.start()
    wait_for(first.ready, "the worker at work")
    stream.send(20)
    os.kill(encoder_of(first), signal.SIGKILL)
    stream.send(2)
    assert "the encoder's process has ended with code -9" in one_line_of(first.process, first.log)
    plant.start()
    stream.assert_arrived()
    assert not plant.letters()


STANDING = """
import asyncio, sys
from pipeline.streaming.faust_role import FaustRole

given = FaustRole._assigned
async def assigned(self, *arguments, **named):
    if self.settled and self.role == "signals":
        await asyncio.sleep(3600)
    await given(self, *arguments, **named)
FaustRole._assigned = assigned
from pipeline.cli import main
main(sys.argv[1:])
"""


@pytest.mark.long
def test_a_worker_that_never_gets_its_state_back_ends_with_the_reason(plant, tmp_path):
    script, log = tmp_path / "standing.py", tmp_path / "standing.log"
    script.write_text(STANDING, encoding="utf-8")
    environment = os.environ | plant.environment | {"ECHOWATCH_WORKER__WATCHDOG_S": "8"}
    command = [sys.executable, str(script), "worker", "--port", str(free_port())]
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: "signals: reading" in log.read_text(), "the first worker at work")
        other = plant.start()
        line = one_line_of(process, log)
        wait_for(lambda: partitions(other) == plant.partitions, "the partitions of the ended one")
    finally:
        process.kill()
        process.wait()
    assert "s for partitions and their state" in line


# Kafka goes away just as the app makes sure of its changelog.
REFUSED = """
import sys
from aiokafka.errors import NodeNotReadyError
from faust.transport.drivers import aiokafka as driver

given = driver.Transport._create_topic
async def create(self, *arguments, **named):
    if not hasattr(driver, "refused"):
        driver.refused = True
        raise NodeNotReadyError("Attempt to send a request to node which is not ready")
    await given(self, *arguments, **named)
driver.Transport._create_topic = create
from pipeline.cli import main
main(sys.argv[1:])
"""


def test_a_worker_that_kafka_leaves_at_the_start_begins_anew(plant, tmp_path):
    script = tmp_path / "refused.py"
    script.write_text(REFUSED, encoding="utf-8")
    stream = Stream(plant)
    worker = plant.start(script=script)
    stream.send(20)
    wait_for(worker.ready, "the worker at work")
    assert "Kafka went away as we came" in worker.text
    assert "Traceback" not in worker.text
    stream.assert_arrived()
    assert worker.end() == 0


# Waits before it asks Kafka where the changelog ends, so that a test can take Kafka away.
ASKING = """
import asyncio, sys
from faust.tables import recovery

given = recovery.Recovery._build_highwaters
async def build(self, *arguments):
    if not hasattr(self, "asked"):
        self.asked = True
        print("about to ask", flush=True)
        await asyncio.sleep(2.0)
    await given(self, *arguments)
recovery.Recovery._build_highwaters = build
from pipeline.cli import main
main(sys.argv[1:])
"""


@pytest.mark.long
def test_kafka_may_be_away_for_long_when_a_worker_asks_for_its_state(plant, broker, tmp_path):
    script = tmp_path / "asking.py"
    script.write_text(ASKING, encoding="utf-8")
    stream = Stream(plant)
    first = plant.start(role="signals")
    stream.send(20)
    wait_for(lambda: plant.done("signals", plant.conf.kafka.signals[0]), "the first messages")
    assert first.end() == 0
    second = plant.start(script=script, role="signals")
    wait_for(lambda: "about to ask" in second.text, "the question", every_s=0.05)
    broker.kill()
    time.sleep(45.0)  # no condition to wait for: longer than a question may take
    broker.start()
    began_s = time.monotonic()
    wait_for(lambda: partitions(second) == plant.partitions, "the partitions and their state")
    assert since(began_s, "Kafka back to all partitions and their state") <= SLACK * 10.0
    assert "asking for the state anew" in second.text
    stream.send(5)
    plant.start(role="cases")
    stream.assert_arrived()


# Fetches whatever comes at any time: what otherwise happens in a few milliseconds of a rebalance.
GREEDY = """
import asyncio, sys
from faust.transport import consumer
from faust.transport.drivers import aiokafka as driver

async def next_records(self, timeout):
    ours = self.assignment()
    if not ours:
        await asyncio.sleep(0.05)
        return {}, set()
    return await self._getmany(active_partitions=ours, timeout=timeout), ours
consumer.Consumer._wait_next_records = next_records

async def fetch(self, client, ours, timeout=None, max_records=None):
    with client._fetcher._subscriptions.fetch_context():
        return await client._fetcher.fetched_records(ours, timeout=timeout, max_records=max_records)
driver.AIOKafkaConsumerThread._fetch_records = fetch

sought = driver.AIOKafkaConsumerThread.seek_wait
async def seek_wait(self, offsets):
    await sought(self, offsets)
    await asyncio.sleep(1.0)
driver.AIOKafkaConsumerThread.seek_wait = seek_wait

from pipeline.cli import main
main(sys.argv[1:])
"""


@pytest.mark.long
def test_what_was_fetched_too_early_for_the_state_is_fetched_again(plant, tmp_path):
    script = tmp_path / "greedy.py"
    script.write_text(GREEDY, encoding="utf-8")
    first, second = plant.start(), plant.start(script=script)
    every = plant.partitions
    wait_for(lambda: partitions(first) == partitions(second) == every // 2, "a fair share")
    stream = Stream(plant)
    stream.send(30)
    wait_for(lambda: plant.done("signals", plant.conf.kafka.signals[0]), "the first messages")
    assert first.end() == 0
    wait_for(lambda: partitions(second) == every, "the partitions and their state")
    stream.send(30)
    stream.assert_arrived()
