"""Numbers -> cut streams, and what a windower made of them, for the windowers' tests."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from pipeline.messages import NS_PER_S, Flags, SensorChunk, StreamEvent, Window
from pipeline.windows import Output, Windower, window_samples

START_NS = 1_750_000_000 * NS_PER_S
RATE_HZ = 1000.0
LENGTH = window_samples(RATE_HZ, 1)  # 175 samples
RATES = st.sampled_from([1000.0, 997.3, 1024.0, 97656.25 / 64, 44100 / 32])
END = Flags.END_OF_CAPTURE


def cut(
    n: int,
    lengths: Sequence[int],
    rate_hz: float = RATE_HZ,
    start_ns: int = START_NS,
    first_seq: int = 0,
    **fields: object,
) -> list[SensorChunk]:
    """The ramp 0..n-1 as chunks of the given lengths, the last one repeated."""
    chunks: list[SensorChunk] = []
    at = 0
    while at < n:
        length = min(lengths[min(len(chunks), len(lengths) - 1)], n - at)
        chunks.append(
            replace(
                SensorChunk(
                    sensor_id="s",
                    sample_rate_hz=rate_hz,
                    start_ns=start_ns + round(at * NS_PER_S / Fraction(rate_hz)),
                    samples=np.arange(at, at + length, dtype=np.int32),
                    seq=first_seq + len(chunks),
                    encoding="i32",
                ),
                **fields,
            )
        )
        at += length
    return chunks


def make(**options: object) -> Windower:
    return Windower("s", **{"k": 1, **options})  # type: ignore[arg-type]


def run(windower: Windower, chunks: Iterable[SensorChunk], *, flush: bool = True) -> Output:
    outputs = [output for chunk in chunks for output in windower.push(chunk)]
    return outputs + windower.flush() if flush else outputs


def windows(outputs: Output) -> list[Window]:
    return [output for output in outputs if isinstance(output, Window)]


def events(outputs: Output) -> list[StreamEvent]:
    return [output for output in outputs if isinstance(output, StreamEvent)]


def kinds(outputs: Output) -> list[str]:
    return [event.kind for event in events(outputs)]


def content(outputs: Output) -> list[tuple[object, ...]]:
    """All that a window is, bit by bit."""
    return [
        (
            w.start_ns,
            w.start_index,
            w.epoch,
            w.flags,
            w.gap_s,
            w.sample_rate_hz,
            w.samples.tobytes(),
        )
        for w in windows(outputs)
    ]


def gapless(window: Window) -> bool:
    return bool((np.diff(window.samples) == 1).all())


LENGTHS = st.lists(st.integers(1, 400), min_size=1, max_size=12)
