"""ADC numbers in, what they look like out: runs, extremes, mean, slow and fast power.

Pure measurements for `pipeline.health`, in ADC steps, made for speed: windows are measured in
blocks, and runs are only counted where a sparse look finds long ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.blocks import blocks
from pipeline.messages import Samples, Window

# Block means over 50 ms are a low-pass at 9 Hz (-3 dB, sinc), well below a 25 Hz shaft.
SLOW_BLOCK_S = 0.05
# Fewer blocks (0.4 s) cannot tell a slope from a slow vibration.
MIN_SLOW_BLOCKS = 8
# Shorter runs are rounding at any rate.
MIN_RUN = 16
# A dropout begins with a jump out of a live signal; a machine that stops, or a strike that fades,
# does not: loudest of the 16 samples before, as a multiple of the RMS, and in ADC steps.
JUMP_REACH, JUMP_RMS, JUMP_STEPS = 16, 0.5, 3
# Samples this near to full scale are at full scale.
RAIL_SHARE = 0.999
# A top that was cut off holds more samples than the next 5 % of the range below it.
CLIP_BAND = 0.05
# With fewer values in use, rounding alone makes flat tops.
MIN_CLIP_VALUES = 64


@dataclass(frozen=True, slots=True)
class SignalShape:
    """What a window's samples look like, in ADC steps.

    Attributes:
        at_low, at_high: Number of samples at the two extremes.
        codes: Number of distinct values: 1, 2, or 3 for more.
        slow_rms: RMS of the 50 ms block means about their mean; 0 in windows below 0.4 s.
        fast_rms: RMS of the rest.
        slope: Von Neumann ratio of the block means: 2 for noise, near 0 for a drift.
        run_s: Longest run of one value that was looked for, else 0; see `with_runs`.
        held: Share of the samples that stand still inside a live signal, 0-1; likewise.
    """

    duration_s: float
    low: float
    high: float
    at_low: int
    at_high: int
    codes: int
    mean: float
    slow_rms: float
    fast_rms: float
    slope: float
    run_s: float = 0.0
    held: float = 0.0

    @property
    def ac_rms(self) -> float:
        """RMS about the mean."""
        return math.hypot(self.slow_rms, self.fast_rms)


def count_non_finite(samples: Samples) -> int:
    """Number of samples that are nan or infinite."""
    if samples.dtype.kind != "f":
        return 0
    with np.errstate(over="ignore", invalid="ignore"):
        if math.isfinite(float(np.max(samples)) - float(np.min(samples))):
            return 0
    return int(samples.size - np.count_nonzero(np.isfinite(samples)))


def shapes_of(windows: Sequence[Window]) -> list[SignalShape | None]:
    """Measure many windows, each as it would be alone; None for one that is not finite."""
    kinds = [_working_type(window.samples) for window in windows]
    found: dict[int, SignalShape | None] = {}
    for block in blocks(
        windows, [(kind, w.samples.dtype) for kind, w in zip(kinds, windows, strict=True)]
    ):
        kind = kinds[block[0]]
        part = [windows[i].samples for i in block]
        rate_hz = windows[block[0]].sample_rate_hz
        shapes = [None] * len(part) if kind is None else _measured(np.stack(part), rate_hz, kind)
        found.update(zip(block, shapes, strict=True))
    return [found[i] for i in range(len(windows))]


def with_runs(
    shape: SignalShape, window: Window, dropout_s: float, *, stood_still: bool = False
) -> SignalShape:
    """Add to a shape where its samples stand still.

    Args:
        shape: Of this window.
        window: Finite.
        dropout_s: Shortest run of one value to look for.
        stood_still: The window before ended in such a run; then this one may begin in it.
    """
    samples, sample_rate_hz = window.samples, window.sample_rate_hz
    starts, lengths = _long_runs(samples, max(MIN_RUN, math.ceil(dropout_s * sample_rate_hz)))
    if not starts.size:
        return shape
    jump = max(JUMP_RMS * shape.fast_rms, JUMP_STEPS if samples.dtype.kind == "i" else 0.0)
    dropped = _drops_out(samples, starts, jump, stood_still=stood_still)
    # A flat top is clipping, however long.
    dropped &= (samples[starts] > shape.low) & (samples[starts] < shape.high)
    held = int(np.sum(lengths[dropped])) / samples.size
    return replace(shape, run_s=float(np.max(lengths)) / sample_rate_hz, held=held)


def clipped_share(
    samples: Samples, shape: SignalShape, rail: float, offset: float, least: float
) -> tuple[float, float]:
    """Shares of the samples at full scale, and in runs of 3 or more on cut-off tops.

    Args:
        samples: (N,) ADC numbers.
        shape: Of these samples.
        rail: Full scale in ADC steps, infinite if unknown.
        offset: What the full scale is measured from, in ADC steps.
        least: Flat tops below this share read 0.
    """
    top, bottom = RAIL_SHARE * rail - offset, -RAIL_SHARE * rail - offset
    at_rail = 0
    if shape.high >= top:
        at_rail += int(np.count_nonzero(samples >= top))
    if shape.low <= bottom:
        at_rail += int(np.count_nonzero(samples <= bottom))
    flat = 0
    for end, count in ((shape.high, shape.at_high), (shape.low, shape.at_low)):
        flat += _flat_top(samples, end, count, shape) if count >= 3 else 0
    if flat < least * samples.size or np.unique(samples).size < MIN_CLIP_VALUES:
        flat = 0
    return at_rail / samples.size, flat / samples.size


def _flat_top(samples: Samples, end: float, count: int, shape: SignalShape) -> int:
    """Number of samples on a cut-off top or bottom, 0 if it was not cut off."""
    top = samples == samples.dtype.type(end)
    triple = top[:-2] & top[1:-1] & top[2:]
    if not triple.any():
        return 0
    near = np.abs(samples - end) <= CLIP_BAND * (shape.high - shape.low)
    if np.count_nonzero(near) >= 2 * count:
        return 0
    in_run = np.zeros(samples.size, bool)
    for shift in range(3):
        in_run[shift : shift + triple.size] |= triple
    return int(np.count_nonzero(in_run))


def _working_type(samples: Samples) -> type[np.floating[Any]] | None:
    """Type in which squares are exact enough and finite; None for samples that are not finite."""
    if samples.dtype.kind == "i":
        return np.float64 if samples.dtype == np.int32 else np.float32
    if count_non_finite(samples):
        return None
    largest = max(abs(float(np.min(samples))), abs(float(np.max(samples))))
    return np.float32 if largest == 0.0 or 1e-15 < largest < 1e15 else np.float64


def _measured(
    samples: NDArray[Any], sample_rate_hz: float, kind: type[np.floating[Any]]
) -> list[SignalShape]:
    """Shapes of (B, N) finite samples."""
    low, high = samples.min(axis=1), samples.max(axis=1)
    at_low = [int(np.count_nonzero(row == end)) for row, end in zip(samples, low, strict=True)]
    at_high = [int(np.count_nonzero(row == end)) for row, end in zip(samples, high, strict=True)]
    powers = _powers(samples.astype(kind), sample_rate_hz).T.tolist()
    duration_s, size = samples.shape[1] / sample_rate_hz, samples.shape[1]
    shapes = []
    for ends in zip(low.tolist(), high.tolist(), at_low, at_high, powers, strict=True):
        lowest, highest, n_low, n_high, power = ends
        codes = 1 if lowest == highest else 2 if n_low + n_high == size else 3
        shapes.append(
            SignalShape(duration_s, float(lowest), float(highest), n_low, n_high, codes, *power)
        )
    return shapes


def _powers(work: NDArray[np.floating[Any]], sample_rate_hz: float) -> NDArray[np.float64]:
    """Mean, RMS of the slow and of the fast part, slope of the slow part: (4, B).

    Args:
        work: (B, N), used up.
        sample_rate_hz: > 0.
    """
    rows, size = work.shape
    block = max(round(SLOW_BLOCK_S * sample_rate_hz), 1)
    count = size // block
    whole = work[:, : count * block].reshape(rows, count, block)
    sums = np.add.reduce(whole, axis=2).astype(np.float64)
    total = np.add.reduce(sums, axis=1)
    mean = (total + np.add.reduce(work[:, count * block :], axis=1)) / size
    work -= mean[:, None].astype(work.dtype)
    np.square(work, out=work)
    mean_square = np.add.reduce(work, axis=1).astype(np.float64) / size
    if count < MIN_SLOW_BLOCKS:
        zeros = np.zeros(rows)
        return np.stack([mean, zeros, np.sqrt(mean_square), zeros + 2.0])
    means = (sums - total[:, None] / count) / block
    steps = means[:, 1:] - means[:, :-1]
    slow = np.einsum("bn,bn->b", means, means)
    slope = np.full(rows, 2.0)
    np.divide(np.einsum("bn,bn->b", steps, steps), slow, out=slope, where=slow > 0.0)
    slow = np.minimum(slow / count, mean_square)
    return np.stack([mean, np.sqrt(slow), np.sqrt(mean_square - slow), slope])


def _long_runs(samples: Samples, least: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and lengths of the runs of `least` or more equal samples."""
    # A run of `least` holds four samples in turn of every (least // 4)th: a cheap look first.
    sparse = samples[:: least // 4]
    alike = sparse[1:] == sparse[:-1]
    if not (alike[2:] & alike[1:-1] & alike[:-2]).any():
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    bounds = np.flatnonzero(samples[1:] != samples[:-1]) + 1
    bounds = np.concatenate(([0], bounds, [samples.size]))
    lengths = np.diff(bounds)
    return bounds[:-1][lengths >= least], lengths[lengths >= least]


def _drops_out(
    samples: Samples, starts: NDArray[np.int64], jump: float, *, stood_still: bool
) -> NDArray[np.bool_]:
    """Which runs the signal jumps into."""
    before = np.maximum(starts[:, None] - np.arange(1, JUMP_REACH + 1), 0)
    away = samples[before].astype(np.float64) - samples[starts, None].astype(np.float64)
    found: NDArray[np.bool_] = np.max(np.abs(away), axis=1) > jump
    found[0] |= stood_still and bool(starts[0] == 0)
    return found
