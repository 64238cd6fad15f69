import json
import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.fleet import load_fleet
from pipeline.messages import NS_PER_S
from pipeline.service_settings import Kafka
from pipeline.simulation.live import Job, planned
from pipeline.simulation.record import Record, SimulateError, Watermark, load, save
from pipeline.wire import decode
from worker_cases import wait_for

ECHOWATCH = Path(sys.executable).with_name("echowatch")
JOB = {"plant": "mill", "seed": 0}
PARTITIONS = 3


class Topic:
    """A topic of signals without workers, and the command that fills it."""

    def __init__(self, bootstrap, folder):
        self.bootstrap, self.folder = bootstrap, folder
        self.name = f"t{uuid.uuid4().hex[:10]}.signals"
        self.environment = {
            **os.environ,
            "ECHOWATCH_KAFKA__BOOTSTRAP": bootstrap,
            "ECHOWATCH_KAFKA__SIGNALS": self.name,
            "ECHOWATCH_KAFKA__GROUP": self.name,
        }
        with closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
            admin.create_topics({self.name: {"num_partitions": PARTITIONS}})

    def start(self, *arguments):
        return subprocess.Popen(
            [ECHOWATCH, "simulate", "--to", "kafka", "--no-orders", *arguments],
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments):
        process = self.start(*arguments)
        out, error = process.communicate(timeout=120)
        return process.returncode, out, error

    def chunks(self):
        partitions = [TopicPartition(self.name, number) for number in range(PARTITIONS)]
        with closing(KafkaConsumer(bootstrap_servers=self.bootstrap)) as consumer:
            ends, found = consumer.end_offsets(partitions), []
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            while any(consumer.position(p) < ends[p] for p in partitions):
                for records in consumer.poll(500).values():
                    found += [decode(record.value) for record in records]
        return found


@pytest.fixture
def topic(kafka, tmp_path):
    return Topic(kafka.bootstrap, tmp_path)


def keys(chunks):
    return [(chunk.sensor_id, chunk.epoch, chunk.seq) for chunk in chunks]


def test_the_history_ends_now_and_the_same_command_sends_only_what_is_new(topic):
    given = ("--history", "3min", "--every", "20", "--max-lag", "0", "--json")
    code, out, error = topic.run(*given, "--fleet-out", "fleet.yaml")
    assert code == 0, error
    first = topic.chunks()
    assert json.loads(out)["sent"] == len(first) >= 58 * 8
    assert 0 < time.time_ns() - max(chunk.end_ns for chunk in first) < 60 * NS_PER_S
    code, out, error = topic.run(*given)
    assert code == 0, error
    both = topic.chunks()
    assert len(set(keys(both))) == len(both) == len(first) + json.loads(out)["sent"]
    fleet = load_fleet(topic.folder / "fleet.yaml")
    assert {chunk.sensor_id for chunk in both} <= {info.sensor_id for info in fleet.sensors}


def test_live_signals_are_sent_when_the_clock_has_reached_their_end(topic):
    process = topic.start("--history", "0", "--every", "2", "--live", "--max-lag", "0")
    try:
        chunks = wait_for(lambda: [c for c in topic.chunks() if c.seq >= 1], "two rounds", 60)
        assert max(chunk.end_ns for chunk in chunks) <= time.time_ns()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, error
    assert "live until Ctrl-C" in error


def test_without_workers_it_waits_says_so_and_can_be_interrupted(topic):
    process = topic.start("--history", "10min", "--every", "20", "--max-lag", "50")
    try:
        wait_for(lambda: len(topic.chunks()) >= 40, "the first messages", 60)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert len(topic.chunks()) <= 50
    assert "the same command goes on" in error


def test_a_topic_that_does_not_exist_is_named(topic):
    code, _, error = topic.run("--topic", "no.such.topic")
    assert code == 1
    assert "there is no topic no.such.topic" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--history", "soon"), "--history takes a length"),
        (("--plant", "sample"), "--plant demo goes --to kafka"),
    ],
)
def test_wrong_usage_is_refused_in_words(arguments, said):
    done = CliRunner().invoke(app, ["simulate", "--to", "kafka", *arguments])
    assert done.exit_code == 2
    assert said in " ".join(done.output.replace("│", " ").split())


def test_captures_that_would_overlap_are_refused():
    with pytest.raises(SimulateError, match="must begin further apart"):
        planned(Job(Kafka(), "signals", every_s=1.0))


def test_a_dry_run_needs_no_kafka_and_writes_the_fleet_file(tmp_path):
    done = subprocess.run(
        [ECHOWATCH, "simulate", "--to", "kafka", "--dry-run", "--json", "--fleet-out", "f.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(json.loads(done.stdout)["sensors"]) == len(load_fleet(tmp_path / "f.yaml").sensors)
    assert "ECHOWATCH_PROFILE=accelerated" in done.stderr  # a day of learning is too long


def test_what_is_stored_in_any_order_counts_up_to_the_first_hole():
    mark = Watermark(5)
    for number, start_ns in enumerate((10, 20, 30)):
        mark.send(number, start_ns)
    mark.store(1)
    assert mark.at_ns() == 5
    mark.store(0)
    assert mark.at_ns() == 21


def test_a_record_comes_back_and_belongs_to_one_plant(tmp_path):
    path = tmp_path / "record.json"
    assert load(path, JOB) is None
    save(path, Record(JOB, 1, 2))
    assert load(path, JOB) == Record(JOB, 1, 2)
    with pytest.raises(SimulateError, match=r"another plant.*seed"):
        load(path, {**JOB, "seed": 1})
    path.write_text('{"format": 1}', encoding="utf-8")
    with pytest.raises(SimulateError, match="no record"):
        load(path, JOB)
