"""Messages and windows that no worker can use, among those that it can."""

import hashlib
import itertools
import re
import time
from collections import Counter
from contextlib import closing

import pytest
from kafka import KafkaProducer

from connectors.kafka_records import partition_of
from embedded_truth import truth
from pipeline.encoders import load_engine
from pipeline.fleet import Fleet, parse_fleet
from pipeline.records import Header, key_of, write_record
from pipeline.services.topics import state_topic
from pipeline.settings import load
from pipeline.simulation import simulate
from pipeline.state import pack
from pipeline.streaming.metrics import Metrics
from pipeline.streaming.signal_stage import SignalStage
from pipeline.streaming.stage import Partition, Received
from pipeline.wire import REASONS, encode
from poison_cases import large, one_of_each
from test_worker import assert_same
from worker_cases import Plant, wait_for

pytestmark = pytest.mark.long

ROUNDS = 92
LARGE_ROUNDS = 8


class PoisonedPlant(Plant):
    """A plant whose topics hold messages that are none.

    Attributes:
        poisoned: Their places.
    """

    poisoned = frozenset()

    def records(self, topic):
        """The other records of a topic."""
        places = self.poisoned
        found = super().records(topic)
        return [r for r in found if (r.topic, r.partition, r.offset) not in places]


@pytest.fixture
def plant(kafka, influx, tmp_path):
    made = PoisonedPlant(kafka, influx, tmp_path)
    made.environment["ECHOWATCH_LEARNING__MIN_WINDOWS"] = "32"
    yield made
    made.close()


class Mixer:
    """Sends healthy chunks and poison; remembers where each poison lies."""

    def __init__(self, plant, producer):
        self._plant, self._producer = plant, producer
        self._topics = {
            name: getattr(plant.conf.kafka, name) for name in ("commands", "transitions")
        }
        self._topics["signals"] = plant.conf.kafka.signals[0]
        self._sent = []
        self._turn = itertools.count()

    def healthy(self, chunks):
        for chunk in chunks:
            key = chunk.sensor_id.encode()
            place = partition_of(key, self._plant.partitions)
            self._producer.send(
                self._topics["signals"], value=encode(chunk), key=key, partition=place
            )

    def poison(self, messages, known):
        home = partition_of(known.encode(), self._plant.partitions)
        for message in messages:
            place = next(self._turn) % self._plant.partitions
            if message.misplaced and place == home:
                place = (home + 1) % self._plant.partitions
            future = self._producer.send(
                self._topics[message.topic],
                value=message.value,
                key=message.key,
                headers=[*message.headers.items()],
                partition=place,
            )
            self._sent.append((future, message))

    def placed(self):
        """(topic, partition, offset) -> poison."""
        self._producer.flush()
        where = ((future.get(30), message) for future, message in self._sent)
        return {(at.topic, at.partition, at.offset): message for at, message in where}


def mixed(plant, chunks, known):
    """Send healthy chunks with poison among them; give where the poison lies."""
    now_ns, share = time.time_ns(), len(chunks) // ROUNDS + 1
    with closing(KafkaProducer(bootstrap_servers=plant.kafka.bootstrap)) as producer:
        mixer = Mixer(plant, producer)
        for number in range(ROUNDS):
            mixer.poison(one_of_each(known, number, now_ns), known)
            mixer.healthy(chunks[number * share : (number + 1) * share])
            if number < LARGE_ROUNDS:
                mixer.poison(large(number), known)
        return mixer.placed()


def assert_told(letter, message, place):
    """A dead letter keeps to docs/topics.md."""
    headers = {name: text.decode() for name, text in letter.headers}
    value = message.value or b""
    detail = headers.pop("detail")
    assert 0 < len(detail) <= 200, message.kind
    assert headers == {
        "reason": message.reason,
        "source_topic": place[0],
        "source_partition": str(place[1]),
        "source_offset": str(place[2]),
        "source_bytes": str(len(value)),
        "sha256": hashlib.sha256(value).hexdigest(),
    }, message.kind
    assert letter.key == message.key
    assert letter.value == value[:1024]


def test_poison_is_told_by_reason_and_touches_no_healthy_window(plant, tmp_path):
    simulated = simulate.plant(5, sensors=10, hours=0.3, every_s=10.0)
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(simulated.fleet_yaml, encoding="utf-8")
    worker = plant.start("--fleet", str(fleet))
    expected = truth(simulated.chunks(), load(plant.environment), parse_fleet(simulated.fleet_yaml))
    chunks = list(simulated.chunks())
    # Every sensor is known, and where it lies, before anything lies about it.
    plant.send(chunks[:20])
    plant.finish()
    placed = mixed(plant, chunks[20:], chunks[0].sensor_id)
    plant.poisoned = frozenset(placed)
    assert len(placed) >= 10_000
    assert len({message.kind for message in placed.values()}) >= 100
    assert {message.reason for message in placed.values()} >= set(REASONS)
    plant.finish()
    letters = plant.records(plant.conf.kafka.dead_letters)
    for letter in letters:
        headers = {name: text.decode() for name, text in letter.headers}
        names = ("source_topic", "source_partition", "source_offset")
        place = tuple(headers[name] for name in names)
        place = (place[0], int(place[1]), int(place[2]))
        assert_told(letter, placed.pop(place), place)
    assert not placed, Counter(message.kind for message in placed.values())
    reasons = Counter(dict(letter.headers)["reason"].decode() for letter in letters)
    counted = {
        reason: worker.metric("echowatch_dead_letters_total", reason=reason) for reason in reasons
    }
    assert counted == reasons
    assert worker.metric("echowatch_dead_letters_total") == len(letters)
    assert any(t.after == "alarm" for t in expected[1].values())
    assert_same(plant, expected)
    assert worker.end() == 0


@pytest.fixture
def fleet(tmp_path):
    """A fleet file that names half of the sensors of the simulated plant."""
    simulated = simulate.plant(6, sensors=8, hours=0.1, every_s=10.0, faults=False)
    known = simulate.plant(6, sensors=4, hours=0.1, every_s=10.0)
    path = tmp_path / "fleet.yaml"
    path.write_text(known.fleet_yaml, encoding="utf-8")
    return path, {s.sensor_id for s in known.sensors}, list(simulated.chunks())


def sensors_of(plant, measurement):
    return {row["sensor"] for row in plant.points(measurement)}


def test_sensors_that_no_fleet_file_names_are_treated_as_set(plant, fleet):
    path, named, chunks = fleet
    every = {chunk.sensor_id for chunk in chunks}
    assert len(named) == 4 < len(every)
    plant.send(chunks)
    topic = plant.conf.kafka.signals[0]
    found = {}
    for setting in ("refuse", "quarantine", "accept"):
        plant.environment["ECHOWATCH_KAFKA__GROUP"] = f"{plant.name}-{setting}"
        bucket = plant.influx.new_bucket(f"{plant.name}-{setting}")
        plant.environment["ECHOWATCH_INFLUX__BUCKET"] = plant.bucket = bucket
        plant.conf = load(plant.environment)
        worker = plant.start(
            "--fleet", str(path), role="signals", ECHOWATCH_WORKER__UNKNOWN_SENSORS=setting
        )
        wait_for(lambda: plant.done("signals", topic), f"all signals, {setting}")
        refused = worker.metric("echowatch_dead_letters_total", reason="unknown_sensor")
        assert worker.end() == 0
        found[setting] = (
            sensors_of(plant, "sensor_health"),
            sensors_of(plant, "quarantine_sensor_health"),
            refused,
        )
    strangers = sum(chunk.sensor_id not in named for chunk in chunks)
    shared = found["quarantine"][1]
    assert found == {
        "refuse": (named, set(), strangers),
        "quarantine": (named, shared, 0),
        "accept": (every, set(), 0),
    }
    assert len(shared) == 1
    assert not shared & every
    letters = [r for r in plant.letters() if r["reason"] == b"unknown_sensor"]
    assert len(letters) == strangers


def test_more_sensors_than_allowed_are_refused_and_the_first_go_on(plant):
    chunks = list(simulate.plant(6, sensors=8, hours=0.05, every_s=10.0).chunks())
    worker = plant.start(role="signals", ECHOWATCH_WORKER__MAX_SENSORS="5")
    plant.send(chunks)
    topic = plant.conf.kafka.signals[0]
    wait_for(lambda: plant.done("signals", topic), "all signals")
    assert worker.metric("echowatch_sensors", role="signals") == 5
    taken = sensors_of(plant, "sensor_health")
    assert len(taken) == 5
    refused = Counter(letter["reason"] for letter in plant.letters())
    strangers = sum(chunk.sensor_id not in taken for chunk in chunks)
    assert refused == {b"too_many_sensors": strangers}
    # And whoever looks at the worker sees it, as often as they were told in all.
    assert worker.end() == 0
    said = re.findall(r"dead letters on \S+: (\d+) too_many_sensors$", worker.text, re.MULTILINE)
    assert sum(map(int, said)) == strangers


BROKEN = (
    b"no record at all",
    b'{"version": 99}\nfrom a later version',
    write_record(Header(), b"a damaged body"),
    write_record(Header(), pack({"version": 1})),
)


def with_state(plant, number, key, value):
    """A worker of a group of its own, whose changelog holds a record that no worker wrote."""
    plant.environment["ECHOWATCH_KAFKA__GROUP"] = f"{plant.name}-{number}"
    topic = state_topic(load(plant.environment).kafka, "signals")
    config = {"num_partitions": plant.partitions, "replication_factor": 1}
    plant.admin.create_topics({topic: config | {"configs": {"cleanup.policy": "compact"}}})
    home = partition_of(key.partition(b"|")[2], plant.partitions)
    with closing(KafkaProducer(bootstrap_servers=plant.kafka.bootstrap)) as producer:
        producer.send(topic, value=value, key=key, partition=home).get(30)
    return plant.start(role="signals")


def test_a_state_that_cannot_be_used_ends_the_worker_and_acknowledges_nothing(plant):
    chunks = list(simulate.plant(6, sensors=1, hours=0.1).chunks())
    sensor = chunks[0].sensor_id
    plant.send(chunks)
    key = key_of("live", sensor)
    workers = [with_state(plant, number, key, value) for number, value in enumerate(BROKEN)]
    for number, worker in enumerate(workers):
        plant.environment["ECHOWATCH_KAFKA__GROUP"] = f"{plant.name}-{number}"
        plant.conf = load(plant.environment)
        assert_ends_unacknowledged(plant, worker, sensor)


def assert_ends_unacknowledged(plant, worker, sensor, before=None):
    """Exit code 1, one line that names the sensor and what to do; every message is left."""
    assert worker.process.wait(60) == 1, worker.text
    errors = [line for line in worker.text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, worker.text
    assert sensor in errors[0]
    assert "echowatch rewind --to earliest" in errors[0]
    assert "Traceback" not in worker.text
    assert plant.committed("signals", plant.conf.kafka.signals[0]) == (before or {})


def test_a_state_of_another_model_ends_the_worker_and_acknowledges_nothing(plant):
    chunks = list(simulate.plant(6, sensors=1, hours=0.2).chunks())
    plant.send(chunks[:60])
    worker, topic = plant.start(role="signals"), plant.conf.kafka.signals[0]
    wait_for(lambda: plant.done("signals", topic), "all signals")
    assert worker.end() == 0
    before = plant.committed("signals", topic)
    plant.send(chunks[60:])
    other = plant.start("--model", "tiny", role="signals")
    assert_ends_unacknowledged(plant, other, chunks[0].sensor_id, before)
    again = plant.start(role="signals")
    wait_for(lambda: plant.done("signals", topic), "all signals")
    assert again.end() == 0
    assert_same_windows(plant, chunks)


def assert_same_windows(plant, chunks):
    expected = truth(chunks, load(plant.environment))[0]
    assert {(r["sensor"], r["time"]) for r in plant.points("sensor_health")} == set(expected)


class Refusing:
    """An encoder that cannot take one window, however it comes."""

    def __init__(self, encoder, number):
        self._encoder, self._number = encoder, number
        self._seen = 0
        self._target = None
        self.calls = []

    def __getattr__(self, name):
        return getattr(self._encoder, name)

    def embed(self, samples, *others):
        whole = [window.tobytes() for window in samples]
        self._seen += len(whole)
        if self._target is None and self._seen >= self._number:
            self._target = whole[0]
        if self._target in whole:
            self.calls.append(len(whole))
            raise RuntimeError("no kernel for this window")
        return self._encoder.embed(samples, *others)


class NoStates:
    def get(self, key):  # noqa: ARG002  (a protocol)
        return None

    def keys(self):
        return iter(())


def test_a_window_that_the_encoder_cannot_take_is_tried_alone_once_and_told():
    settings = load({"ECHOWATCH_PROFILE": "accelerated"})
    encoder = Refusing(load_engine(settings), 150)
    metrics = Metrics("signals")
    stage = SignalStage(settings, Fleet(), encoder, metrics=metrics)
    stage.assign(NoStates(), {})
    chunks = list(simulate.plant(6, sensors=4, hours=0.15, every_s=10.0, faults=False).chunks())
    received = [
        Received(Partition("sensors.signals", 0), offset, b"", encode(chunk), {})
        for offset, chunk in enumerate(chunks)
    ]
    outcomes = [stage.begin(received[i : i + 40]).finish() for i in range(0, len(received), 40)]
    expected = truth(chunks, settings)[0]
    assert sum(outcome.windows for outcome in outcomes) == len(expected)
    letters = [m for o in outcomes for m in o.messages if m.headers.get("reason")]
    assert [letter.headers["reason"] for letter in letters] == [b"encoder_failed"]
    assert metrics.snapshot()["nan_scores"] == 1.0
    (letter,) = letters
    assert (letter.key.decode(), int(letter.headers["window_end_ns"])) in expected
    together, alone = encoder.calls
    assert together > 1
    assert alone == 1
