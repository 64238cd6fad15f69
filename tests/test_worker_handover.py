"""Workers, services and topics that come and go: what is handed over, how fast, and what is said.

Times are printed (`pytest -s`); they are asserted with three times the room that is promised, for
the machine is shared.
"""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import services
from embedded_truth import truth
from pipeline.settings import load
from pipeline.simulation import simulate
from service_influx import InfluxServer
from service_kafka import KafkaServer
from service_process import free_port
from test_worker import assert_same
from worker_cases import Plant, wait_for

SLACK = 3.0
SESSION_S = 6.0
SENSORS = 8
ROUND = SENSORS


@pytest.fixture(scope="module")
def broker():
    """A Kafka that these tests stop and start."""
    with services.started(KafkaServer) as server:
        yield server


@pytest.fixture(scope="module")
def store():
    """An InfluxDB that these tests stop and start."""
    with services.started(InfluxServer) as server:
        yield server


@pytest.fixture
def plant(broker, store, tmp_path):
    broker.start()
    store.start()
    made = Plant(broker, store, tmp_path)
    made.environment["ECHOWATCH_WORKER__SESSION_TIMEOUT_S"] = str(SESSION_S)
    made.environment["ECHOWATCH_LEARNING__MIN_WINDOWS"] = "16"
    yield made
    made.close()


class Stream:
    """The signals of some sensors, sent by and by."""

    def __init__(self, plant):
        self._plant = plant
        self._left = simulate.plant(4, sensors=SENSORS, hours=1.0, every_s=10.0).chunks()
        self.sent = []

    def send(self, rounds=1):
        """A chunk of every sensor, so many times."""
        batch = list(itertools.islice(self._left, rounds * ROUND))
        self.sent += batch
        self._plant.send(batch)

    def assert_arrived(self):
        """All of it, and as if nothing had happened."""
        self._plant.finish()
        assert_same(self._plant, truth(self.sent, load(self._plant.environment)))


def since(began_s, what):
    took_s = time.monotonic() - began_s
    print(f"{what}: {took_s:.1f} s")  # noqa: T201  (a measured figure)
    return took_s


def partitions(worker, role="signals"):
    status, body = worker.get("/ready")
    return json.loads(body).get(role, {}).get("partitions", 0) if status == 200 else 0


def test_partitions_move_at_once_where_a_worker_is_told_to_end_and_soon_where_it_dies(plant):
    stream = Stream(plant)
    first, second = plant.start(), plant.start()
    every = plant.partitions
    wait_for(lambda: partitions(first) == partitions(second) == every // 2, "a fair share")
    stream.send(20)
    plant.finish()
    stream.send(5)
    began_s = time.monotonic()
    first.process.send_signal(signal.SIGTERM)
    wait_for(lambda: partitions(second) == every, "the partitions of the ended worker")
    assert since(began_s, "SIGTERM to the other worker's partitions") <= SLACK * 3.0
    assert first.process.wait(30) == 0
    plant.finish()
    third = plant.start()
    wait_for(lambda: partitions(second) == partitions(third) == every // 2, "a fair share")
    stream.send(5)
    began_s = time.monotonic()
    second.end(signal.SIGKILL)
    wait_for(lambda: partitions(third) == every, "the partitions of the dead worker")
    assert since(began_s, "SIGKILL to the other worker's partitions") <= SESSION_S + SLACK * 3.0
    stream.assert_arrived()


def test_topics_are_awaited_and_those_that_come_later_are_read(plant):
    name = plant.name
    late = {"ECHOWATCH_KAFKA__SIGNALS": f"{name}.first,{name}.listed"}
    late["ECHOWATCH_KAFKA__SIGNALS_PATTERN"] = rf"{name}\.more.*"
    worker = plant.start(**late)
    wait_for(lambda: "waiting for topic" in worker.get("/ready")[1], "the reason on /ready")
    status, body = worker.get("/ready")
    assert status == 503
    assert f"{name}.first" in body
    assert worker.get("/live")[0] == 200
    stream = Stream(plant)
    for rounds, topic in ((20, "first"), (1, "listed"), (1, "more1")):
        plant.environment["ECHOWATCH_KAFKA__SIGNALS"] = f"{name}.{topic}"
        plant.conf = load(plant.environment)
        before = worker.metric("echowatch_windows_total")
        began_s = time.monotonic()
        plant.admin.create_topics(
            {f"{name}.{topic}": {"num_partitions": plant.partitions, "replication_factor": 1}}
        )
        stream.send(rounds)
        wait_for(
            lambda: worker.metric("echowatch_windows_total") >= before + rounds * ROUND,  # noqa: B023
            f"windows of {topic}",
        )
        assert since(began_s, f"topic {topic} made to all its windows") <= SLACK * 10.0
    stream.assert_arrived()


def test_a_worker_waits_for_kafka_and_goes_on_after_it_was_away(plant, broker):
    stream = Stream(plant)
    broker.stop()
    worker = plant.start()
    wait_for(lambda: "waiting for Kafka" in worker.get("/ready")[1], "the reason on /ready")
    assert worker.get("/ready")[0] == 503
    broker.start()
    wait_for(worker.ready, "the worker at work")
    stream.send(20)
    plant.finish()
    done = worker.metric("echowatch_windows_total")
    for away in (broker.stop, broker.kill):
        away()
        wait_for(lambda: "Kafka is silent" in worker.get("/ready")[1], "the outage on /ready")
        broker.start()
        began_s = time.monotonic()
        stream.send()
        done += ROUND
        wait_for(lambda: worker.metric("echowatch_windows_total") >= done, "results")  # noqa: B023
        assert since(began_s, "Kafka back to the first results") <= SLACK * 5.0
        wait_for(worker.ready, "the worker ready again")
    assert worker.process.poll() is None
    stream.assert_arrived()


@pytest.mark.long
def test_kafka_may_go_away_while_partitions_move(plant, broker):
    stream = Stream(plant)
    first, second, every = plant.start(), plant.start(), plant.partitions
    wait_for(lambda: partitions(first) == partitions(second) == every // 2, "a fair share")
    stream.send(20)
    for moment_s in (0.0, 0.2, 0.4, 0.8):  # a hand-over takes about a second
        stream.send(2)
        first.process.send_signal(signal.SIGTERM)
        time.sleep(moment_s)
        broker.kill()
        broker.start()
        began_s = time.monotonic()
        assert first.process.wait(30) == 0
        wait_for(lambda: partitions(second) == every, "the partitions of the ended worker")  # noqa: B023
        since(began_s, f"Kafka killed {moment_s} s after SIGTERM, back to all partitions")
        first, second = second, plant.start()
        wait_for(lambda: partitions(first) < every, "a rebalance", every_s=0.05)  # noqa: B023
        time.sleep(moment_s)
        broker.kill()
        broker.start()
        began_s = time.monotonic()
        wait_for(lambda: partitions(first) == partitions(second) == every // 2, "a fair share")  # noqa: B023
        since(began_s, f"Kafka killed {moment_s} s into a rebalance, back to a fair share")
    stream.assert_arrived()


@pytest.mark.long
def test_influxdb_away_costs_no_result_no_memory_and_no_partition(plant, store):
    stream, cap = Stream(plant), 500
    store.stop()
    worker = plant.start(
        ECHOWATCH_WORKER__PENDING_MESSAGES=str(cap), ECHOWATCH_WORKER__WATCHDOG_S="8"
    )
    wait_for(lambda: "InfluxDB" in worker.get("/ready")[1], "the reason on /ready")
    assert worker.get("/ready")[0] == 503
    store.start()
    wait_for(worker.ready, "the worker at work")
    stream.send(20)
    plant.finish()
    joined = worker.text.count("are ours")
    store.stop()
    stream.send(160)
    queue = []
    until_s = time.monotonic() + 20.0  # longer than a session, and than the watchdog's patience
    while time.monotonic() < until_s:
        queue.append(worker.metric("echowatch_queue_messages", role="signals"))
        assert worker.process.poll() is None
        time.sleep(0.25)
    assert max(queue) == queue[-1] == cap
    assert worker.text.count("are ours") == joined
    began_s = time.monotonic()
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(240) == 0
    assert since(began_s, "SIGTERM to the end without InfluxDB") <= SLACK * 10.0
    assert "will be done again" in worker.text
    store.start()
    plant.start()
    stream.assert_arrived()


def one_line_of(process, log):
    """The error that a process ended with: exit code 1, one line, no traceback."""
    assert process.wait(240) == 1, log.read_text()
    text = log.read_text()
    assert "Traceback" not in text
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, text
    return errors[0]


def test_what_waiting_would_not_mend_ends_the_start_in_one_line(plant, tmp_path):
    wrong = tmp_path / "wrong.token"
    wrong.write_text("not-the-token", encoding="utf-8")
    empty = tmp_path / "empty.token"
    empty.touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        started = {
            "401": plant.start(ECHOWATCH_INFLUX__TOKEN_FILE=str(wrong)),
            "empty.token is empty": plant.start(ECHOWATCH_INFLUX__TOKEN_FILE=str(empty)),
            port: plant.start("--port", port),
            "PLAINTEXT to kafka.plant:9092": plant.start(
                ECHOWATCH_KAFKA__BOOTSTRAP="kafka.plant:9092"
            ),
        }
        del plant.environment["ECHOWATCH_INFLUX__TOKEN_FILE"]
        started["no token for InfluxDB"] = plant.start()
        lines = {word: one_line_of(w.process, w.log) for word, w in started.items()}
    assert all(word in line for word, line in lines.items()), lines
    assert not plant.committed("signals", plant.conf.kafka.signals[0])


@pytest.mark.long
def test_of_two_workers_with_one_name_one_ends_and_says_why(plant):
    plant.environment["ECHOWATCH_WORKER__INSTANCE_ID"] = "hall-3"
    pair = [plant.start(role="cases")]
    wait_for(pair[0].ready, "the first one")
    pair.append(plant.start(role="cases"))
    newcomer = pair[1]
    wait_for(lambda: newcomer.process.poll() is not None, "the end of the newcomer", 240)
    assert "instance id 'hall-3'" in one_line_of(newcomer.process, newcomer.log)
    assert pair[0].end() == 0


@pytest.mark.long
def test_a_worker_that_waits_for_its_group_ends_when_told_to(plant):
    plant.environment["ECHOWATCH_WORKER__INSTANCE_ID"] = "hall-3"
    pair = [plant.start(role="cases") for _ in range(2)]  # Kafka lets one of them wait for ever
    wait_for(lambda: all("given back" in w.text for w in pair), "both at the door", 240)
    began_s = time.monotonic()
    for worker in pair:
        worker.process.send_signal(signal.SIGTERM)
    assert [w.process.wait(30) for w in pair] == [0, 0]
    assert since(began_s, "SIGTERM to the end of a worker without partitions") <= SLACK * 10.0


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
