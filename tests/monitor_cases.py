"""A plant's few lines -> chunks, and what a monitor made of them, for the monitor's tests."""

import itertools

import numpy as np

from pipeline.messages import NS_PER_S, Flags, SensorChunk
from pipeline.settings import load

# Silence is told of short streams, too.
SETTINGS = load(
    {}, profile="accelerated", learning={"min_windows": 32}, windows={"first_silence_s": 0.0}
)
RATE = 8000.0


def capture(sensor, i, samples, *, every_s=10.0, unit="g", rate=RATE, at_s=None):
    start = 1_700_000_000 * NS_PER_S + round((i * every_s if at_s is None else at_s) * NS_PER_S)
    return SensorChunk(
        sensor, rate, start, samples.astype(np.float32), seq=i, unit=unit,
        flags=Flags.END_OF_CAPTURE,
    )  # fmt: skip


def noise(rng, level=1.0, n=8000):
    return level * rng.normal(size=n)


def drive(monitor, chunks, size=16):
    stream, windows, events = iter(chunks), [], []
    while batch := list(itertools.islice(stream, size)):
        done = monitor.process(batch)
        windows += done.windows
        events += done.events
    done = monitor.flush()
    return windows + list(done.windows), events + list(done.events)


def stream(sensor, seconds, *, start_s=0.0, slower=0.0, unit="g", signal=None, first=0):
    """Continuous chunks of 1 s; their stamps may pass faster than their samples."""
    rng = np.random.default_rng(first)
    for i in range(seconds):
        samples = noise(rng) if signal is None else signal(np.arange(8000 * i, 8000 * (i + 1)))
        at_ns = 1_700_000_000 * NS_PER_S + round((start_s + i * (1 + slower)) * NS_PER_S)
        yield SensorChunk(
            sensor, RATE, at_ns, samples.astype(np.float32), seq=first + i, unit=unit
        )  # fmt: skip
