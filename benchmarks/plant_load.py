"""A thousand live sensors on one machine: do lag and memory stay flat, how late are scores.

    python benchmarks/plant_load.py [--sensors 1000] [--every 10] [--minutes 10] [--workers 1]

Every sensor sends a capture of 1 s (16 kHz i16, 32 kB) every so many seconds, stamped with the
present and spread evenly over time. Kafka, InfluxDB, the sender and the workers share the machine.
Baselines freeze after 16 windows, so that most of the time is spent scoring. Every 10 s: messages
not yet acknowledged, resident memory of the workers, and p50 and p99 of the time from a window's
last sample to its score and from a message's arrival to its results in InfluxDB.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

from streaming import Broker, make_topics  # noqa: E402

import services  # noqa: E402
from connectors.kafka_access import Access  # noqa: E402
from connectors.kafka_producer import ChunkProducer  # noqa: E402
from pipeline.messages import Flags, SensorChunk  # noqa: E402
from service_process import free_port  # noqa: E402

RATE_HZ = 16_000.0
TOPIC = "bench.plant"
REPORT_S = 10.0


class Sender(threading.Thread):
    """Sends captures at their time until told to stop."""

    def __init__(self, bootstrap: str, sensors: int, every_s: float) -> None:
        super().__init__(daemon=True)
        self._address, self._sensors, self._every_s = bootstrap, sensors, every_s
        self.stopping = threading.Event()
        self.sent = 0

    def run(self) -> None:
        """Send until `stopping`."""
        rng = np.random.default_rng(0)
        noise = rng.normal(0, 1000, (64, int(RATE_HZ))).astype(np.int16)
        began_ns, step_ns = time.time_ns(), round(self._every_s / self._sensors * 1e9)
        with closing(
            ChunkProducer(Access((self._address,)), TOPIC, acked=lambda *_: None)
        ) as producer:
            while not self.stopping.is_set():
                due_ns = began_ns + self.sent * step_ns
                self.stopping.wait(max(0.0, (due_ns - time.time_ns()) * 1e-9))
                turn, sensor = divmod(self.sent, self._sensors)
                chunk = SensorChunk(
                    sensor_id=f"plant/a{sensor // 50}/m{sensor // 4}/s{sensor}",
                    sample_rate_hz=RATE_HZ,
                    start_ns=due_ns - 1_000_000_000,
                    samples=noise[(7 * turn + sensor) % 64],
                    seq=turn,
                    encoding="i16",
                    scale=1e-3,
                    unit="g",
                    flags=Flags.END_OF_CAPTURE,
                )
                producer.send(self.sent, chunk)
                self.sent += 1
            producer.flush(30)


def numbers(port: int) -> dict[str, float]:
    """Metric -> sum over its series, of one worker; of quantiles the largest."""
    found: dict[str, float] = {}
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            name, _, value = line.rpartition(" ")
            if line.startswith("#") or value == "NaN":
                continue
            name = name.partition("{")[0]
            number, old = float(value), found.get(name, 0.0)
            found[name] = max(number, old) if name.endswith(("_p50", "_p99")) else number + old
    return found


def both(said: dict[str, float], name: str) -> float:
    """Of a worker and of the process that embeds for it."""
    return said[name] + said[f"encoder_{name}"]


def row(ports: list[int]) -> dict[str, float]:
    """What all workers say now."""
    said = [numbers(port) for port in ports]

    def total(name: str) -> float:
        return sum(one.get(f"echowatch_{name}", 0.0) for one in said)

    def worst(name: str) -> float:
        return max(one.get(f"echowatch_{name}", 0.0) for one in said)

    return {
        "lag": total("lag_messages"),
        "windows": total("windows_total"),
        "rss_mb": max(both(one, "process_resident_memory_bytes") for one in said) / 1e6,
        "cpu_s": sum(both(one, "process_cpu_seconds_total") for one in said),
        "score_p50": worst("sample_to_score_seconds_p50"),
        "score_p99": worst("sample_to_score_seconds_p99"),
        "stored_p99": worst("received_to_stored_seconds_p99"),
    }


def watch(ports: list[int], minutes: float) -> list[dict[str, float]]:
    """Print and give a row every `REPORT_S`."""
    rows: list[dict[str, float]] = []
    began = time.monotonic()
    print("   s    lag  windows/s  RSS MB  CPU %  score p50  score p99  stored p99")
    while time.monotonic() - began < 60 * minutes:
        time.sleep(REPORT_S)
        now = {"at_s": time.monotonic() - began, **row(ports)}
        if rows:
            passed = now["at_s"] - rows[-1]["at_s"]
            rate = (now["windows"] - rows[-1]["windows"]) / passed
            cpu = 100 * (now["cpu_s"] - rows[-1]["cpu_s"]) / passed
            print(
                f"{now['at_s']:4.0f} {now['lag']:6.0f} {rate:10.1f} {now['rss_mb']:7.0f} "
                f"{cpu:6.0f} {now['score_p50']:10.2f} {now['score_p99']:10.2f} "
                f"{now['stored_p99']:11.2f}",
                flush=True,
            )
        rows.append(now)
    return rows


def start(environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], int]:
    """One worker."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("echowatch")), "worker", "--port", str(port)]
    return subprocess.Popen(command, env=os.environ | environment), port  # noqa: S603  (our own)


def ready(port: int) -> bool:
    """Whether a worker works."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def load(arguments: argparse.Namespace, kafka: Any, influx: Any, folder: Path) -> None:
    """Run the whole plant."""
    broker = Broker(kafka, influx, folder)
    environment = broker.environment(TOPIC) | {
        "ECHOWATCH_PROFILE": "accelerated",
        "ECHOWATCH_LEARNING__MIN_WINDOWS": "16",
        "ECHOWATCH_LEARNING__BANK_SIZE": "64",
    }
    make_topics(broker.kafka.bootstrap, environment)
    workers = [start(environment) for _ in range(arguments.workers)]
    sender = Sender(kafka.bootstrap, arguments.sensors, arguments.every)
    try:
        while not all(ready(port) for _, port in workers):
            time.sleep(0.5)
        sender.start()
        rows = watch([port for _, port in workers], arguments.minutes)
    finally:
        sender.stopping.set()
        for process, _ in workers:
            process.terminate()
            process.wait(30)
    half = rows[len(rows) // 2 :]
    first, last = half[: len(half) // 2], half[len(half) // 2 :]
    for name in ("lag", "rss_mb", "score_p99"):
        early, late = (np.median([one[name] for one in part]) for part in (first, last))
        print(f"{name:10} third quarter {early:9.2f}  last quarter {late:9.2f}")
    print(f"sent {sender.sent} captures, {rows[-1]['windows']:.0f} windows judged")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sensors", type=int, default=1000)
    parser.add_argument("--every", type=float, default=10.0)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        services.kafka() as kafka,
        services.influx() as influx,
    ):
        load(arguments, kafka, influx, Path(folder))


if __name__ == "__main__":
    main()
