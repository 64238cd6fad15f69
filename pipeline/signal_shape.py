"""ADC numbers in, what they look like out: runs, extremes, mean, slow and fast power.

Pure measurements for `pipeline.health`, in ADC steps, made for speed: the common case, a live
signal, costs a few passes over the samples; runs are only counted where there are long ones.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.messages import Samples

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
        codes: Number of distinct values: 1, 2, or 3 for more.
        slow_rms: RMS of the 50 ms block means about their mean; 0 in windows below 0.4 s.
        fast_rms: RMS of the rest.
        slope: Von Neumann ratio of the block means: 2 for noise, near 0 for a drift.
        run_s: Longest run of one value that was looked for, else 0.
        held: Share of the samples that stand still inside a live signal, 0-1.
    """

    duration_s: float
    low: float
    high: float
    codes: int
    mean: float
    slow_rms: float
    fast_rms: float
    slope: float
    run_s: float
    held: float

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


def shape_of(
    samples: Samples, sample_rate_hz: float, dropout_s: float, *, stood_still: bool = False
) -> SignalShape:
    """Measure (N,) finite samples.

    Args:
        samples: (N,) int16, int32 or float32, finite.
        sample_rate_hz: > 0.
        dropout_s: Shortest run of one value to look for.
        stood_still: The window before ended in such a run; then this one may begin in it.
    """
    low, high = float(np.min(samples)), float(np.max(samples))
    mean, slow_rms, fast_rms, slope = _powers(samples, sample_rate_hz, max(abs(low), abs(high)))
    # No signal between two bounds has more power than the one that only ever takes these two values
    # (Bhatia and Davis 2000); what lies well below need not be counted.
    codes = 1 if high == low else 3
    if high > low and slow_rms**2 + fast_rms**2 > 0.99 * (high - mean) * (mean - low):
        ends = int(np.count_nonzero(samples == samples.dtype.type(high)))
        ends += int(np.count_nonzero(samples == samples.dtype.type(low)))
        codes = 2 if ends == samples.size else 3
    least = max(MIN_RUN, math.ceil(dropout_s * sample_rate_hz))
    starts, lengths = _long_runs(samples, least)
    held = 0
    if starts.size:
        jump = max(JUMP_RMS * fast_rms, JUMP_STEPS if samples.dtype.kind == "i" else 0.0)
        dropped = _drops_out(samples, starts, jump, stood_still=stood_still)
        # A flat top is clipping, however long.
        dropped &= (samples[starts] > low) & (samples[starts] < high)
        held = int(np.sum(lengths[dropped]))
    return SignalShape(
        duration_s=samples.size / sample_rate_hz,
        low=low,
        high=high,
        codes=codes,
        mean=mean,
        slow_rms=slow_rms,
        fast_rms=fast_rms,
        slope=slope,
        run_s=float(np.max(lengths, initial=0)) / sample_rate_hz,
        held=held / samples.size,
    )


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
    flat = sum(_flat_top(samples, end, shape) for end in (shape.high, shape.low))
    if flat < least * samples.size or np.unique(samples).size < MIN_CLIP_VALUES:
        flat = 0
    return at_rail / samples.size, flat / samples.size


def _flat_top(samples: Samples, end: float, shape: SignalShape) -> int:
    """Number of samples on a cut-off top or bottom, 0 if it was not cut off."""
    top = samples == samples.dtype.type(end)
    count = int(np.count_nonzero(top))
    if count < 3:
        return 0
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


def _powers(
    samples: Samples, sample_rate_hz: float, largest: float
) -> tuple[float, float, float, float]:
    """Mean, RMS of the slow and of the fast part, and slope of the slow part."""
    narrow = samples.dtype != np.int32 and (largest == 0.0 or 1e-15 < largest < 1e15)
    work: NDArray[np.floating[Any]] = samples.astype(np.float32 if narrow else np.float64)
    block = max(round(SLOW_BLOCK_S * sample_rate_hz), 1)
    blocks = samples.size // block
    sums = np.add.reduce(work[: blocks * block].reshape(blocks, block), axis=1).astype(np.float64)
    total = float(np.add.reduce(sums))
    mean = (total + float(np.add.reduce(work[blocks * block :]))) / samples.size
    work -= mean
    mean_square = float(np.einsum("i,i->", work, work)) / samples.size
    if blocks < MIN_SLOW_BLOCKS:
        return mean, 0.0, math.sqrt(mean_square), 2.0
    sums -= total / blocks
    means = sums / block
    steps = means[1:] - means[:-1]
    slow = float(means @ means)
    slope = float(steps @ steps) / slow if slow > 0.0 else 2.0
    slow = min(slow / blocks, mean_square)
    return mean, math.sqrt(slow), math.sqrt(mean_square - slow), slope


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
