"""Chunks of a simulated plant in; sent at a pace into a plant of workers that are hurt meanwhile.

The truth is what the pure core makes of the same chunks, with the sensors shared out over the
partitions as Kafka does it.
"""

import itertools
import re
import signal
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field

import pytest
import torch
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from connectors.kafka_producer import ChunkProducer
from connectors.kafka_records import partition_of
from pipeline.assembly import build_sensor
from pipeline.cases import CaseBook
from pipeline.encoders import load_engine
from pipeline.fleet import parse_fleet
from pipeline.messages import Processed
from pipeline.monitor import Monitor
from pipeline.points import PointMaker
from pipeline.services.topics import group_of
from pipeline.simulation import simulate
from service_influx import InfluxError
from worker_cases import wait_for

CAPTURE_S = 0.25
EVERY_S = 10.0
BATCH = 64
SLOW = 5.0
COMPARED = ("sensor_health", "vib_features", "drift")
OURS = re.compile(r"signals: (?:partitions ([0-9, none]+) are ours|\d+ partitions (given back))")


@dataclass
class Stream:
    """A plant with faults of machines and sensors; the same seed gives the same bytes.

    Attributes:
        captures: Of each sensor, faults aside.
    """

    seed: int
    sensors: int
    captures: int
    partitions: int = 4

    def __post_init__(self):
        self.plant = simulate.plant(
            self.seed,
            sensors=self.sensors,
            hours=self.captures * EVERY_S / 3600 + 1e-9,
            capture_s=CAPTURE_S,
            every_s=EVERY_S,
        )
        self.fleet = parse_fleet(self.plant.fleet_yaml)

    @property
    def chunks(self):
        return self.plant.chunks()

    @property
    def number(self):
        """Chunks to be sent, more or less: faults take some away and double others."""
        return self.sensors * self.captures

    def home(self, sensor_id):
        """Partition of a sensor."""
        return partition_of(sensor_id.encode(), self.partitions)


class Truth:
    """What an undisturbed run makes of a stream: windows, points, transitions, cases, states."""

    def __init__(self, stream, settings):
        torch.set_num_threads(1)
        encoder = load_engine(settings)
        self.fresh = lambda name: build_sensor(stream.fleet.sensor(name), settings, encoder)
        self.monitor = Monitor(encoder, self.fresh, stream.home)
        book, maker = CaseBook(reopen_s=settings.delays.reopen_s), PointMaker(stream.fleet)
        self.windows, self.transitions = set(), {}
        self.points = {name: {} for name in COMPARED}
        chunks = iter(stream.chunks)
        while batch := list(itertools.islice(chunks, BATCH)):
            done = self.monitor.process(batch)
            for point in maker.points(Processed(done.windows, (), ())):
                if point.measurement in COMPARED:
                    key = (dict(point.tags)["sensor"], point.at_ns)
                    self.points[point.measurement].setdefault(key, {}).update(point.fields)
            for window in done.windows:
                self.windows.add((window.sensor_id, window.window_end_ns))
                for transition in window.transitions:
                    self.transitions[transition.transition_id] = transition
                    book.add(transition)
        self.cases = [case for case in book.cases() if not case.superseded_by]


class Feeder(threading.Thread):
    """Sends a stream at a pace, in order, until all of it is stored.

    Attributes:
        sent: Chunks handed over.
        ahead: Share of the stream from which on it goes slowly, lest it end before its time.
        hurry: Set it to send the rest as fast as Kafka takes it.
    """

    def __init__(self, plant, stream, seconds):
        super().__init__(name="feeder", daemon=True)
        self._plant, self._stream, self._seconds = plant, stream, seconds
        self.sent, self.failure, self.ahead = 0, None, 1.0
        self.hurry = threading.Event()

    def run(self):
        try:
            self._feed()
        except Exception as error:  # noqa: BLE001  (told by the thread that waits)
            self.failure = error

    def _feed(self):
        due_s, pause_s = time.monotonic(), self._seconds / self._stream.number
        with closing(
            ChunkProducer(
                self._plant.access, self._plant.conf.kafka.signals[0], acked=lambda *_: None
            )
        ) as producer:
            for chunk in self._stream.chunks:
                due_s += pause_s * (SLOW if self.share > self.ahead else 1.0)
                self.hurry.wait(max(0.0, due_s - time.monotonic()))
                self.sent += 1
                producer.send(self.sent, chunk)
            while not producer.flush(1.0):
                pass

    @property
    def share(self):
        return self.sent / self._stream.number

    def finish(self, deadline_s):
        """Wait until everything is stored."""
        self.hurry.set()
        self.join(deadline_s)
        if self.failure is not None:
            raise self.failure
        assert not self.is_alive(), f"sent only {self.sent} chunks"


class Watcher(threading.Thread):
    """Looks at committed offsets all the time: they never fall."""

    def __init__(self, plant):
        super().__init__(name="watcher", daemon=True)
        self._plant = plant
        self._ended = threading.Event()
        self.fell, self.seen = [], 0

    def run(self):
        newest = {}
        while not self._ended.wait(0.5):
            for role in ("signals", "cases"):
                for partition, offset in self._committed(role).items():
                    key = (role, partition.topic, partition.partition)
                    before = newest.get(key, -1)
                    if offset < before:
                        self.fell.append(f"{key}: {before} -> {offset}")
                    newest[key] = offset
                    self.seen += 1

    def _committed(self, role):
        group = group_of(self._plant.conf.kafka, role)
        try:
            with closing(
                KafkaAdminClient(
                    bootstrap_servers=self._plant.kafka.bootstrap,
                    request_timeout_ms=4000,
                    bootstrap_timeout_ms=2000,
                    reconnect_backoff_max_ms=1000,
                )
            ) as admin:
                found = admin.list_group_offsets(group)[group]
        except (KafkaError, OSError):  # no coordinator yet, or the broker is away
            return {}
        return {p: o.offset for p, o in found.items() if isinstance(p, TopicPartition)}

    def end(self):
        self._ended.set()
        self.join(30)


@dataclass
class Takeover:
    """How long the partitions of a worker stood still.

    Attributes:
        first_s, all_s: Until the first of its partitions, or all of them, gave a new window.
    """

    what: str
    partitions: tuple
    first_s: float
    all_s: float


@dataclass
class Crew:
    """Workers that come and go.

    Attributes:
        ended: What ended without our doing: (worker, exit code).
    """

    plant: object
    stream: Stream
    fleet_file: object
    alive: list = field(default_factory=list)
    ended: list = field(default_factory=list)
    takeovers: list = field(default_factory=list)

    def add(self):
        self.alive.append(self.plant.start("--fleet", str(self.fleet_file)))
        return self.alive[-1]

    def restore(self, number):
        """Start those that are missing, as a supervisor would; give how many."""
        for worker in list(self.alive):
            if (code := worker.process.poll()) is not None:
                self.alive.remove(worker)
                self.ended.append((worker, code))
        missing = max(0, number - len(self.alive))
        for _ in range(missing):
            self.add()
        return missing

    def wait_ready(self, deadline_s=240.0):
        """Until all are at work and every partition is somebody's."""

        def all_at_work():
            self.restore(len(self.alive))
            owned = [n for worker in self.alive for n in partitions_of(worker)]
            return sorted(owned) == list(range(self.stream.partitions)) and all(
                worker.get("/ready")[0] == 200 for worker in self.alive
            )

        try:
            wait_for(all_at_work, "workers at work", deadline_s, 0.3)
        except pytest.fail.Exception as waited:
            told = [
                f"{worker.log.name}: {worker.get('/ready')}\n{worker.text[-1500:]}"
                for worker in self.alive
            ]
            raise AssertionError("\n".join([str(waited), *told])) from None

    def at_work(self):
        """Those that own partitions."""
        return [worker for worker in self.alive if partitions_of(worker)]

    def kill(self, worker):
        worker.end(signal.SIGKILL)
        self.alive.remove(worker)

    def newest(self):
        """Partition -> end of its newest window in InfluxDB."""
        rows = self.plant.influx.query(
            self.plant.bucket, 'select last("state") from "sensor_health" group by "sensor"'
        )
        found = {}
        for row in rows:
            home = self.stream.home(row["sensor"])
            found[home] = max(found.get(home, 0), row["time"])
        return found

    def measure(self, what, partitions, since_s, deadline_s=120.0):
        """Wait until these partitions give new windows; note how long that took."""
        before, first_s, waiting = self.newest(), None, set(partitions)
        while waiting:
            assert time.monotonic() - since_s < deadline_s, f"{what}: {waiting} stand still"
            time.sleep(0.1)
            try:
                now = self.newest()
            except (InfluxError, OSError):
                continue
            moved = {p for p in waiting if now.get(p, 0) > before.get(p, 0)}
            if moved and first_s is None:
                first_s = time.monotonic() - since_s
            waiting -= moved
        all_s = time.monotonic() - since_s
        self.takeovers.append(Takeover(what, tuple(partitions), first_s or all_s, all_s))


def partitions_of(worker):
    """Partitions of signals that a worker says are its own."""
    last = None
    for last in OURS.finditer(worker.text):  # noqa: B007
        pass
    if last is None or last[2] or "none" in last[1]:
        return ()
    return tuple(int(number) for number in last[1].split(","))
