"""Messages and windows that no worker can use, among those that it can."""

import hashlib
import itertools
import time
from collections import Counter
from contextlib import closing

import pytest
from kafka import KafkaProducer

from connectors.kafka_records import partition_of
from embedded_truth import truth
from pipeline import simulate
from pipeline.fleet import parse_fleet
from pipeline.settings import load
from pipeline.wire import REASONS, encode
from poison_cases import large, one_of_each
from test_worker import assert_same
from worker_cases import Plant

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
