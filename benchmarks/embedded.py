"""What the embedded run costs beside the encoder, and that memory does not grow with the log.

    python benchmarks/embedded.py [--windows 2400] [--hours 1 10]

Speed: windows per CPU second of the whole run (windows, health, indicators, encoder, baseline,
detectors, alarms, SQLite) over those of the encoder alone before and after it, one thread, in
turns, median of the ratios. Short runs read too low: learning and the last commit weigh more in
them than in a log of hours. Memory: peak resident size of runs over simulated logs.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from connectors.local import LocalStore
from echo_model.echo import Echo
from echo_model.engine import EchoEngine
from pipeline.assembly import build_monitor
from pipeline.cases import CaseBook
from pipeline.embedded import EmbeddedRun
from pipeline.fleet import Fleet
from pipeline.messages import SensorChunk
from pipeline.report.run import describe_case
from pipeline.settings import Settings, load
from pipeline.simulation import simulate
from pipeline.windows import window_samples

RATE_HZ = 16_000.0
SENSORS = 8


def signal(windows: int) -> list[SensorChunk]:
    """Continuous int16 noise of several sensors, 0.5 s chunks, enough for so many windows."""
    rng = np.random.default_rng(0)
    size = int(RATE_HZ / 2)
    chunks = -(-windows * window_samples(RATE_HZ, 6) // (SENSORS * size)) + 1
    noise = rng.normal(0, 1000, (64, size)).astype(np.int16)
    return [
        SensorChunk(
            sensor_id=f"plant/m{sensor}/a",
            sample_rate_hz=RATE_HZ,
            start_ns=1_700_000_000 * 10**9 + i * 500_000_000,
            samples=noise[(7 * i + sensor) % 64],
            seq=i,
            encoding="i16",
            scale=1e-3,
            unit="g",
        )
        for i in range(chunks)
        for sensor in range(SENSORS)
    ]


def run_seconds(chunks: list[SensorChunk], engine: EchoEngine, settings: Settings) -> float:
    """CPU seconds per window of an embedded run."""
    with tempfile.TemporaryDirectory() as folder, LocalStore(Path(folder), create=True) as store:
        job = EmbeddedRun(
            build_monitor(settings, Fleet(), engine),
            CaseBook(),
            store,
            describe_case=lambda case: describe_case(case, Fleet()),
        )
        began = time.process_time()
        done = job.run(chunks)
        return (time.process_time() - began) / done.windows


def encoder_seconds(engine: EchoEngine, windows: int) -> float:
    """CPU seconds per window of the encoder alone, in calls of 64 windows."""
    size = window_samples(RATE_HZ, 6)
    rng = np.random.default_rng(0)
    batch = list(rng.normal(0, 1000, (64, size)).astype(np.int16))
    calls = -(-windows // 64)
    began = time.process_time()
    for _ in range(calls):
        engine.embed(batch, [RATE_HZ] * 64, [1e-4] * 64)
    return (time.process_time() - began) / (64 * calls)


def speed(model: str, windows: int, turns: int = 5) -> dict[str, float]:
    """Median windows per CPU second of both, and the median of their ratios."""
    engine = EchoEngine(Echo.from_pretrained(model))
    settings = load({}, profile="accelerated", learning={"min_windows": 20})
    chunks = signal(windows)
    run_seconds(chunks[: 40 * SENSORS], engine, settings)
    pairs = []
    for _ in range(turns):
        before = encoder_seconds(engine, windows // 4)
        run = run_seconds(chunks, engine, settings)
        pairs.append((run, (before + encoder_seconds(engine, windows // 4)) / 2))
    return {
        "run_per_s": 1 / statistics.median(run for run, _ in pairs),
        "encoder_per_s": 1 / statistics.median(alone for _, alone in pairs),
        "ratio": statistics.median(alone / run for run, alone in pairs),
    }


def soak(hours: float) -> dict[str, float]:
    """Run over a simulated log of this length; peak and final resident memory in MB."""
    engine = EchoEngine(Echo.from_pretrained("nano"))
    settings = load({}, profile="accelerated")
    with tempfile.TemporaryDirectory() as folder, LocalStore(Path(folder), create=True) as store:
        job = EmbeddedRun(
            build_monitor(settings, Fleet(), engine),
            CaseBook(),
            store,
            describe_case=lambda case: describe_case(case, Fleet()),
        )
        done = job.run(simulate.long_signal(hours, rate_hz=12_800.0))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"hours": hours, "windows": done.windows, "peak_mb": peak}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=2400)
    parser.add_argument("--hours", type=float, nargs="*", default=[1.0, 10.0])
    parser.add_argument("--soak", type=float, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.soak:
        print(json.dumps(soak(chosen.soak)))
        return
    print(
        "| model | encoder alone, windows/s | embedded run, windows/s | ratio |\n|---|---|---|---|"
    )
    for model in ("nano", "tiny"):
        # tiny's windows cost five of nano's.
        found = speed(model, chosen.windows // (1 if model == "nano" else 3))
        print(
            f"| {model} | {found['encoder_per_s']:.0f} | {found['run_per_s']:.0f} "
            f"| {found['ratio']:.2f} |"
        )
    print("\n| simulated log, h | windows | peak memory, MB |\n|---|---|---|")
    for hours in chosen.hours:
        # A process of its own: peak memory of a process never falls.
        command = [sys.executable, __file__, "--soak", str(hours)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603  (ourselves)
        found = json.loads(out)
        print(f"| {found['hours']:g} | {found['windows']} | {found['peak_mb']:.0f} |")


if __name__ == "__main__":
    main()
