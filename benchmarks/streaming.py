"""What the worker costs beside Faust alone and beside the embedded run, on a real Kafka.

    python benchmarks/streaming.py [--messages 6000] [--sensors 64]

All readers take the same messages (1 s of 25.6 kHz i16, 51 kB each) from the same topics, each in a
process of its own, in turns; a rate is messages over the seconds from its first to its last one.

- aiokafka: `getmany` and decode, nothing else.
- faust: one bare agent that only decodes.
- no-op: the worker with an encoder that answers a constant.
- nano, embedded: the worker and the pure core with the shipped encoder, fewer messages.
- 1 and 2 workers: nano, from the first message sent until all are acknowledged.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from aiokafka import AIOKafkaConsumer  # noqa: E402
from kafka.admin import KafkaAdminClient  # noqa: E402

import services  # noqa: E402
from connectors.kafka_access import Access  # noqa: E402
from connectors.kafka_producer import ChunkProducer  # noqa: E402
from pipeline.assembly import build_monitor  # noqa: E402
from pipeline.encoders import load_engine  # noqa: E402
from pipeline.fleet import Fleet  # noqa: E402
from pipeline.messages import BandEdges, Samples, SensorChunk  # noqa: E402
from pipeline.service_settings import Kafka, WorkerSettings  # noqa: E402
from pipeline.services.topics import specs  # noqa: E402
from pipeline.settings import load  # noqa: E402
from pipeline.streaming.encoder_process import EncoderProcess  # noqa: E402
from pipeline.streaming.faust_role import make_app  # noqa: E402
from pipeline.streaming.worker import Worker  # noqa: E402
from pipeline.wire import decode  # noqa: E402
from service_process import free_port  # noqa: E402

RATE_HZ = 25_600.0
PARTITIONS = 4


class NoEncoder:
    """Answers every window with the same embedding."""

    model_id, trained = "none", False

    def embed(
        self,
        samples: Sequence[Samples],
        sample_rates_hz: Sequence[float],  # noqa: ARG002  (as encoders are asked)
        gains: Sequence[float] | None = None,  # noqa: ARG002
    ) -> list[NDArray[np.float32]]:
        """(10, 8) ones each."""
        return [np.ones((10, 8), np.float32) for _ in samples]

    def band_edges_hz(self, sample_rate_hz: float) -> BandEdges:
        """Ten equal bands."""
        width = sample_rate_hz / 20
        return tuple((k * width, (k + 1) * width) for k in range(10))


def chunks(messages: int, sensors: int) -> Iterator[SensorChunk]:
    """Captures of 1 s, all sensors in turn."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1000, (64, int(RATE_HZ))).astype(np.int16)
    for i in range(messages):
        turn, sensor = divmod(i, sensors)
        yield SensorChunk(
            sensor_id=f"plant/m{sensor}/a",
            sample_rate_hz=RATE_HZ,
            start_ns=1_700_000_000 * 10**9 + turn * 1_000_000_000,
            samples=noise[(7 * turn + sensor) % 64],
            seq=turn,
            encoding="i16",
            scale=1e-3,
            unit="g",
        )


# Readers: each runs in a process of its own and prints seconds from first to last message.


async def read_aiokafka(bootstrap: str, topic: str, messages: int) -> float:
    """Plain aiokafka."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", group_id=None
    )
    await consumer.start()
    seen, began = 0, 0.0
    while seen < messages:
        for records in (await consumer.getmany(timeout_ms=1000)).values():
            began = began or time.perf_counter()
            for record in records:
                decode(record.value)
            seen += len(records)
    took = time.perf_counter() - began
    await consumer.stop()
    return took


async def read_faust(bootstrap: str, topic: str, messages: int) -> float:
    """A bare agent."""
    kafka = Kafka(bootstrap=(bootstrap,), group=f"bare{os.getpid()}", partitions=PARTITIONS)
    app = make_app("signals", Access((bootstrap,)), kafka, WorkerSettings(), PARTITIONS)
    source = app.topic(
        topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
    )
    finished = asyncio.Event()
    times: list[float] = []

    async def read(stream: Any) -> None:
        seen = 0
        async for value in stream:
            if not seen:
                times.append(time.perf_counter())
            decode(value)
            seen += 1
            if seen == messages:
                times.append(time.perf_counter())
                finished.set()

    app.agent(source)(read)
    await app.start()
    await finished.wait()
    await app.stop()
    return times[1] - times[0]


async def read_worker(encoder: str, messages: int) -> float:
    """The worker, until InfluxDB has all results; its settings come from the environment."""
    settings = load(worker={"role": "signals", "port": 0}, profile="accelerated")
    if encoder == "none":
        return await _seconds(Worker(settings, Fleet(), NoEncoder()), messages)
    process = EncoderProcess(settings)
    try:
        process.wait_ready()
        return await _seconds(Worker(settings, Fleet(), process), messages)
    finally:
        process.close()


async def _seconds(worker: Worker, messages: int) -> float:
    running = asyncio.ensure_future(worker.run())
    began = 0.0
    while True:
        await asyncio.sleep(0.01)
        if running.done():
            running.result()
        delivery = worker.runners[0].delivery
        if delivery is None:
            continue
        began = began or (time.perf_counter() if delivery.read else 0.0)
        if delivery.done >= messages and not worker.runners[0].sink.pending_bytes:
            took = time.perf_counter() - began
            break
    worker.stop()
    await running
    return took


def embedded(messages: int, sensors: int) -> float:
    """The pure core over the same chunks, without store."""
    settings = load({}, profile="accelerated")
    monitor = build_monitor(settings, Fleet(), load_engine(settings))
    batch: list[SensorChunk] = []
    began = time.perf_counter()
    for chunk in chunks(messages, sensors):
        batch.append(chunk)
        if len(batch) == 40:
            monitor.process(batch)
            batch = []
    monitor.process(batch)
    return time.perf_counter() - began


def make_topics(bootstrap: str, environment: dict[str, str]) -> None:
    """All topics that these settings name."""
    wanted = {
        spec.name: {
            "num_partitions": spec.partitions,
            "replication_factor": 1,
            "configs": dict(spec.config),
        }
        for spec in specs(load(environment).kafka)
    }
    with closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
        admin.create_topics(wanted)


class Broker:
    """A real Kafka and InfluxDB with filled topics."""

    def __init__(self, kafka: Any, influx: Any, folder: Path) -> None:
        self.kafka, self.influx = kafka, influx
        self.token = folder / "token"
        self.token.write_text(influx.token, encoding="utf-8")
        self.runs = 0

    def fill(self, name: str, messages: int, sensors: int) -> None:
        """Make the topics of a plant called `name` and send its signals."""
        make_topics(self.kafka.bootstrap, self.environment(name))
        self.send(name, messages, sensors)

    def send(self, name: str, messages: int, sensors: int) -> None:
        """Send so many signals."""
        access = Access((self.kafka.bootstrap,))
        with closing(ChunkProducer(access, name, acked=lambda *_: None)) as producer:
            for number, chunk in enumerate(chunks(messages, sensors)):
                producer.send(number, chunk)
            producer.flush(120)

    def environment(self, name: str, group: str = "g") -> dict[str, str]:
        """Settings of a worker of this plant."""
        return {
            "ECHOWATCH_KAFKA__BOOTSTRAP": self.kafka.bootstrap,
            "ECHOWATCH_KAFKA__GROUP": f"{name}{group}",
            "ECHOWATCH_KAFKA__PARTITIONS": str(PARTITIONS),
            "ECHOWATCH_KAFKA__SIGNALS": name,
            "ECHOWATCH_KAFKA__TRANSITIONS": f"{name}.transitions",
            "ECHOWATCH_KAFKA__ALARMS": f"{name}.alarms",
            "ECHOWATCH_KAFKA__COMMANDS": f"{name}.commands",
            "ECHOWATCH_KAFKA__SNAPSHOTS": f"{name}.snapshots",
            "ECHOWATCH_KAFKA__DEAD_LETTERS": f"{name}.dead",
            "ECHOWATCH_INFLUX__URL": self.influx.url,
            "ECHOWATCH_INFLUX__ORG": self.influx.org,
            "ECHOWATCH_INFLUX__BUCKET": self.influx.new_bucket("bench"),
            "ECHOWATCH_INFLUX__TOKEN_FILE": str(self.token),
        }

    def seconds(self, name: str, kind: str, messages: int, sensors: int, workers: int = 1) -> float:
        """Longest time of so many processes of a kind over one topic, a new group each call."""
        self.runs += 1
        environment = os.environ | self.environment(name, f"g{self.runs}")
        share = [str(messages // workers)] * workers
        running = [
            subprocess.Popen(  # noqa: S603  (our own)
                [sys.executable, __file__, "--read", kind, "--topic", name, "--messages", n,
                 "--sensors", str(sensors)],
                stdout=subprocess.PIPE, env=environment, text=True,
            )
            for n in share
        ]  # fmt: skip
        return max(float(process.communicate()[0].split()[-1]) for process in running)


def scaling(broker: Broker, workers: int, messages: int, sensors: int) -> float:
    """Messages per second of so many workers, Kafka, InfluxDB and the sender beside them."""
    name = f"bench.{workers}workers"
    environment = broker.environment(name) | {
        "ECHOWATCH_PROFILE": "accelerated",
        "ECHOWATCH_WORKER__CHECKPOINT_S": "0.5",
    }
    make_topics(broker.kafka.bootstrap, environment)
    ports = [free_port() for _ in range(workers)]
    echowatch = str(Path(sys.executable).with_name("echowatch"))
    running = [
        subprocess.Popen(  # noqa: S603  (our own)
            [echowatch, "worker", "--role", "signals", "--port", str(port)],
            env=os.environ | environment,
            stderr=subprocess.DEVNULL,
        )
        for port in ports
    ]
    try:
        while not all(_ready(port) for port in ports):
            time.sleep(0.2)
        time.sleep(5.0)  # the second one's joining moves partitions
        began = time.perf_counter()
        broker.send(environment["ECHOWATCH_KAFKA__SIGNALS"], messages, sensors)
        while _acknowledged(broker, environment) < messages:
            time.sleep(0.1)
        return messages / (time.perf_counter() - began)
    finally:
        for process in running:
            process.terminate()
            process.wait(30)


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _acknowledged(broker: Broker, environment: dict[str, str]) -> int:
    kafka = load(environment).kafka
    group, topic = kafka.group, kafka.signals[0]
    with closing(KafkaAdminClient(bootstrap_servers=broker.kafka.bootstrap)) as admin:
        found = admin.list_group_offsets(f"{group}-signals")[f"{group}-signals"]
    return sum(offset.offset for place, offset in found.items() if place.topic == topic)


def read(kind: str, topic: str, messages: int, sensors: int) -> float:
    """One reader in this process."""
    bootstrap = os.environ["ECHOWATCH_KAFKA__BOOTSTRAP"]
    if kind == "aiokafka":
        return asyncio.run(read_aiokafka(bootstrap, topic, messages))
    if kind == "faust":
        return asyncio.run(read_faust(bootstrap, topic, messages))
    if kind == "embedded":
        return embedded(messages, sensors)
    return asyncio.run(read_worker("none" if kind == "no-op" else "nano", messages))


def rates(broker: Broker, arguments: argparse.Namespace) -> dict[str, float]:
    """Messages per second of every kind of reader, median of the rounds."""
    plans = [
        ("bench.fast", arguments.messages, ("aiokafka", "faust", "no-op")),
        ("bench.slow", arguments.messages // 2, ("embedded", "nano")),
    ]
    found: dict[str, float] = {}
    for topic, messages, kinds in plans:
        broker.fill(topic, messages, arguments.sensors)
        took: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(arguments.rounds):
            for kind in kinds:
                took[kind].append(broker.seconds(topic, kind, messages, arguments.sensors))
        found |= {kind: messages / statistics.median(times) for kind, times in took.items()}
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=6000)
    parser.add_argument("--sensors", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    parser.add_argument("--topic", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        print(read(arguments.read, arguments.topic, arguments.messages, arguments.sensors))
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        services.kafka() as kafka,
        services.influx() as db,
    ):
        broker = Broker(kafka, db, Path(folder))
        found = rates(broker, arguments)
        for workers in (1, 2):
            rate = scaling(broker, workers, arguments.messages // 3, arguments.sensors)
            found[f"{workers} workers"] = rate
    for kind, rate in found.items():
        print(f"{kind:10} {rate:8.0f} messages/s {51.2e-3 * rate:8.1f} MB/s")
    print(f"no-op / faust     {found['no-op'] / found['faust']:.2f}")
    print(f"no-op / aiokafka  {found['no-op'] / found['aiokafka']:.2f}")
    print(f"nano / embedded   {found['nano'] / found['embedded']:.2f}")
    print(f"2 workers / 1     {found['2 workers'] / found['1 workers']:.2f}")


if __name__ == "__main__":
    main()
