"""Chunks of many sensors in, megabytes per second through one core out.

    python benchmarks/windower.py [--sensors 200] [--seconds 20]

Measured is `Windower.push` alone, with the windows it makes; i16 at 25.6 kHz, in order.
"""

import argparse
import time
from collections import deque

import numpy as np

from pipeline.messages import NS_PER_S, SensorChunk, Window
from pipeline.windows import Windower

RATE_HZ = 25_600.0
START_NS = 1_750_000_000 * NS_PER_S


def stream(sensors: int, seconds: float, chunk_s: float) -> list[SensorChunk]:
    """All sensors' chunks, in turn."""
    n = round(chunk_s * RATE_HZ)
    samples = np.random.default_rng(0).integers(-1000, 1000, n).astype(np.int16)
    return [
        SensorChunk(
            sensor_id=f"s{sensor}",
            sample_rate_hz=RATE_HZ,
            start_ns=START_NS + round(turn * n * NS_PER_S / RATE_HZ),
            samples=samples,
            seq=turn,
            encoding="i16",
        )
        for turn in range(int(seconds / chunk_s))
        for sensor in range(sensors)
    ]


def measure(chunks: list[SensorChunk], sensors: int) -> tuple[float, int, float]:
    """Push all chunks: (seconds, windows, largest buffer in bytes per sensor)."""
    windowers = {f"s{sensor}": Windower(f"s{sensor}") for sensor in range(sensors)}
    waiting: deque[Window] = deque(maxlen=32)  # windows live for a while, as in a micro-batch
    count = 0
    begin = time.perf_counter()
    for chunk in chunks:
        for output in windowers[chunk.sensor_id].push(chunk):
            if isinstance(output, Window):
                waiting.append(output)
                count += 1
    spent_s = time.perf_counter() - begin
    return spent_s, count, max(windower.buffered_bytes for windower in windowers.values())


def main() -> None:
    """Print one line per chunk length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sensors", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    print(" chunk s      MB/s  chunks/s  us/chunk  windows  buffer kB")
    for chunk_s in (0.1, 0.25, 0.5, 1.0, 2.0):
        chunks = stream(options.sensors, options.seconds, chunk_s)
        spent_s, windows, buffered = measure(chunks, options.sensors)
        total_mb = sum(chunk.samples.nbytes for chunk in chunks) / 1e6
        rate = len(chunks) / spent_s
        print(
            f"{chunk_s:8.2f}{total_mb / spent_s:10.0f}{rate:10.0f}{1e6 / rate:10.1f}"
            f"{windows:9d}{buffered / 1e3:11.1f}"
        )


if __name__ == "__main__":
    main()
