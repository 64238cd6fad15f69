"""Windows in, classical vibration indicators and picture spectra out.

Everything comes from the mean-free signal and one Hann-windowed FFT. Powers are scaled so that they
add up to the mean square of the signal, for tones and for noise alike: 2 |X|^2 / (n_fft sum w^2).

Windows of one length and rate are measured in blocks: SciPy transforms several rows at once, 31 us
per 15,600 samples beside 105 us for one alone. What a window gives does not depend on the others.

Deviations from the standards: the 1/3-octave bands are sums of FFT lines (IEC 61260-1 midband and
edge frequencies, base 10) and not filters; the 10-1000 Hz velocity band has brick-wall edges.
Levels are those of the window, without time weighting.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.signal.windows import hann

from pipeline.blocks import blocks
from pipeline.messages import Features, Window

# Unit of acceleration -> m/s^2; CGPM 1901 for g. A unit that is not here is never guessed.
UNIT_TO_M_S2: dict[str, float] = {"g": 9.80665, "m/s2": 1.0, "m/s^2": 1.0, "mm/s2": 1e-3}

# ISO 20816-1: broad-band vibration velocity is taken from 10 to 1000 Hz.
VELOCITY_BAND_HZ = (10.0, 1000.0)

# Shorter signals resolve 10 Hz too coarsely for a verdict by ISO zones; from half of that on a
# window may be one part of an average that is long enough.
MIN_VELOCITY_S = 1.0
MIN_VELOCITY_PART_S = 0.5

# IEC 61260-1:2014, base 10: bands are 10**(1/10) apart, edges lie 10**(1/20) off the centre.
BAND_RATIO = 10.0**0.1
LOWEST_BAND = -15  # band number of 31.5 Hz; band 0 is 1 kHz
NOMINAL = (1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0)

# A band is given only where it is at least as wide as the main lobe of the Hann window, 4 lines
# of 1 / duration: 31.5 Hz needs 0.55 s, 200 Hz needs 0.09 s.
MIN_BAND_LINES = 4.0

# Silence reads this instead of minus infinity, dB re 1 unit.
LEVEL_FLOOR_DB = -200.0


@dataclass(frozen=True, slots=True)
class _Plan:
    """What depends on length and rate only.

    Attributes:
        taper: (N,) float32 Hann window, scaled so that |FFT|^2 is the mean square per line.
        n_fft: Transform length >= N, free of large primes.
        centres_hz: (B,) nominal midband frequencies.
        first: (B+1,) FFT line in which each band edge lies.
        share: (B+1,) share of that line below the edge, 0-1.
        velocity_lines: First and last + 1 line of the velocity band; (0, 0) where it does not fit.
        velocity_weight: 1 / (2 pi f)^2 of these lines, edge lines by their share.
    """

    taper: NDArray[np.float32]
    n_fft: int
    centres_hz: tuple[float, ...]
    first: NDArray[np.int64]
    share: NDArray[np.float64]
    velocity_lines: tuple[int, int]
    velocity_weight: NDArray[np.float32]


def features(window: Window) -> Features:
    """Indicators of one window.

    A constant signal has crest 0 and kurtosis 0; one that is not finite has nan and no octaves.
    """
    found = features_of([window])[0]
    if window.samples.size < MIN_VELOCITY_S * window.sample_rate_hz:
        return replace(found, velocity_mm_s=None)
    return found


def features_of(windows: Sequence[Window]) -> list[Features]:
    """Indicators of many windows, each as it would be alone.

    The only difference to `features`: velocity is given from `MIN_VELOCITY_PART_S` on, to be
    averaged by whoever knows that windows follow each other.
    """
    found: dict[int, Features] = {}
    for block in blocks(windows):
        part = [windows[i] for i in block]
        plan = _plan(part[0].samples.size, part[0].sample_rate_hz)
        found.update(zip(block, _measured(part, plan), strict=True))
    return [found[i] for i in range(len(windows))]


def spectrum(
    values: NDArray[np.float32], sample_rate_hz: float, *, bins: int = 400
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Amplitude spectrum for pictures: 7 half-overlapping Hann segments, averaged in power.

    A tone of amplitude A reads A on a line of the segment's FFT and down to 0.85 A between two
    (scalloping of the Hann window). Neighbouring lines are pooled by their maximum, so that no tone
    is lost. The axis depends on length, rate and `bins` only, so spectra can be compared.

    Args:
        values: (N,) float32, N >= 2, in the sensor's unit.
        sample_rate_hz: > 0.
        bins: Most points to return, >= 1.

    Returns:
        freq_hz: (P,) float32, P <= bins, middle of the pooled lines.
        amplitude: (P,) float32, in the sensor's unit.

    Raises:
        ValueError: for no bins or a signal without two samples.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    if values.size < 2:
        raise ValueError(f"a spectrum needs at least 2 samples, got {values.size}")
    # A quarter of the window, but no less than the picture has points.
    length = min(values.size, max(values.size // 4, 2 * (bins - 1), 2))
    taper = _taper(length)
    step = max(length // 2, 1)
    segments = np.lib.stride_tricks.sliding_window_view(values - np.mean(values), length)[::step]
    lines = np.abs(fft.rfft(segments * taper, axis=-1)) * (2.0 / float(np.sum(taper)))
    amplitude = np.sqrt(np.mean(lines * lines, axis=0))
    amplitude[0] /= 2.0  # DC has no mirror line; the Nyquist line neither
    if length % 2 == 0:
        amplitude[-1] /= 2.0
    pool = -(-amplitude.size // bins)
    starts = np.arange(0, amplitude.size, pool)
    ends = np.minimum(starts + pool, amplitude.size)
    freq_hz = (starts + ends - 1) * (0.5 * sample_rate_hz / length)
    return freq_hz.astype(np.float32), np.maximum.reduceat(amplitude, starts).astype(np.float32)


def _measured(windows: Sequence[Window], plan: _Plan) -> list[Features]:
    """Indicators of windows of one length and rate."""
    shape, peaks = _shapes(windows, plan.n_fft)
    signal = shape[:, : windows[0].samples.size]
    square = np.square(signal)
    mean_square = np.mean(square, axis=1)
    fourth = np.mean(np.square(square, out=square), axis=1)
    signal *= plan.taper
    lines = fft.rfft(shape, axis=-1, overwrite_x=True)
    power = lines.real**2  # mean square per line, (B, n_fft // 2 + 1)
    power += lines.imag**2
    numbers = np.column_stack([peaks, mean_square, fourth, _velocities(power, plan)]).tolist()
    levels = _octaves_db(power, peaks, plan).tolist()
    return [
        _record(window, plan, row, octaves)
        for window, row, octaves in zip(windows, numbers, levels, strict=True)
    ]


def _shapes(
    windows: Sequence[Window], n_fft: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Mean-free signals over their peaks, and these peaks in the sensor's unit.

    ADC numbers will do: the offset is no part of a mean-free signal, the scale one of its peak. The
    division keeps the fourth power inside float32 for any unit.

    Returns:
        shape: (B, n_fft) float32, zeros behind the signal; all zeros for one that is not finite.
        peaks: (B,) float64, nan for a signal that is not finite.
    """
    size = windows[0].samples.size
    shape = np.empty((len(windows), n_fft), np.float32)
    shape[:, size:] = 0.0
    signal = shape[:, :size]
    with np.errstate(invalid="ignore", over="ignore"):
        for row, window in zip(signal, windows, strict=True):
            row[:] = window.samples
        signal -= np.mean(signal, axis=1, keepdims=True)
        reach = np.maximum(np.max(signal, axis=1), -np.min(signal, axis=1))
        peaks = reach * np.abs([window.scale for window in windows])
    measurable = np.isfinite(peaks) & (peaks > 0.0)
    signal[~measurable] = 0.0
    signal /= np.where(measurable, reach, np.float32(1.0))[:, None]
    peaks[~np.isfinite(peaks)] = np.nan
    return shape, peaks


def _octaves_db(
    power: NDArray[np.float32], peaks: NDArray[np.float64], plan: _Plan
) -> NDArray[np.float64]:
    """1/3-octave levels (B, bands) of signals that were divided by their peaks."""
    if not plan.centres_hz:
        return np.zeros((len(peaks), 0))
    low_part = plan.share * power[:, plan.first]
    sums = np.add.reduceat(power, plan.first, axis=1)[:, :-1] - low_part[:, :-1] + low_part[:, 1:]
    floor = 10.0 ** (LEVEL_FLOOR_DB / 10.0)
    levels: NDArray[np.float64] = np.fmax(sums * peaks[:, None] ** 2, floor)
    np.log10(levels, out=levels)
    levels *= 10.0
    return levels


def _velocities(power: NDArray[np.float32], plan: _Plan) -> NDArray[np.float64]:
    """RMS of the integral, 10-1000 Hz, (B,) per unit of peak; 0 where the plan has no velocity."""
    low, high = plan.velocity_lines
    mean_square = np.sum(power[:, low:high] * plan.velocity_weight, axis=1, dtype=np.float64)
    return np.sqrt(mean_square)


def _record(window: Window, plan: _Plan, row: list[float], levels: list[float]) -> Features:
    """The record of one window; its row is measured on the signal over its peak."""
    peak, mean_square, fourth, velocity = row
    broken = math.isnan(peak)
    rms, still = math.sqrt(mean_square), math.nan if broken else 0.0
    to_m_s2 = None if broken or plan.velocity_lines == (0, 0) else UNIT_TO_M_S2.get(window.unit)
    return Features(
        sensor_id=window.sensor_id,
        window_start_ns=window.start_ns,
        window_end_ns=window.end_ns,
        sample_rate_hz=window.sample_rate_hz,
        rms=peak * rms,
        peak=peak,
        crest=1.0 / rms if rms > 0.0 else still,
        kurtosis=fourth / mean_square**2 if rms > 0.0 else still,
        velocity_mm_s=None if to_m_s2 is None else 1000.0 * to_m_s2 * peak * velocity,
        octaves_db=() if broken else tuple(zip(plan.centres_hz, levels, strict=True)),
    )


@lru_cache(maxsize=32)
def _taper(length: int) -> NDArray[np.float32]:
    """Taper of the segments of a picture."""
    taper: NDArray[np.float32] = hann(length, sym=False).astype(np.float32)
    return taper


@lru_cache(maxsize=32)
def _plan(n_samples: int, sample_rate_hz: float) -> _Plan:
    """Taper, band edges and velocity weights of one window length and rate."""
    taper = hann(n_samples, sym=False)
    n_fft = int(fft.next_fast_len(n_samples, real=True))
    # Two mirrored halves of the spectrum make the 2; DC is left out of every band.
    taper *= math.sqrt(2.0 / (n_fft * float(np.sum(taper**2))))
    line_hz = sample_rate_hz / n_fft
    bands = _bands(n_samples / sample_rate_hz, sample_rate_hz / 2.0)
    edges_hz = [1000.0 * BAND_RATIO ** (band - 0.5) for band in (*bands, bands.stop)]
    edges = np.array(edges_hz if bands else []) / line_hz + 0.5  # line k spans k -+ 0.5
    first = np.minimum(np.floor(edges).astype(np.int64), n_fft // 2)
    lines, weight = _velocity_weight(n_samples / sample_rate_hz, sample_rate_hz, line_hz)
    return _Plan(
        taper=taper.astype(np.float32),
        n_fft=n_fft,
        centres_hz=tuple(NOMINAL[band % 10] * 10.0 ** (3 + band // 10) for band in bands),
        first=first,
        share=edges - first,
        velocity_lines=lines,
        velocity_weight=weight,
    )


def _bands(duration_s: float, nyquist_hz: float) -> range:
    """Numbers of the 1/3-octave bands that are resolved and lie wholly below Nyquist."""
    width = BAND_RATIO**0.5 - BAND_RATIO**-0.5  # of the midband frequency
    lowest_hz = MIN_BAND_LINES / (duration_s * width)
    first = max(LOWEST_BAND, math.ceil(10.0 * math.log10(lowest_hz / 1000.0)))
    last = math.floor(10.0 * math.log10(nyquist_hz / 1000.0) - 0.5)
    return range(first, max(first, last + 1))


def _velocity_weight(
    duration_s: float, sample_rate_hz: float, line_hz: float
) -> tuple[tuple[int, int], NDArray[np.float32]]:
    """Lines of the velocity band and what turns their power into velocity."""
    low_hz, high_hz = VELOCITY_BAND_HZ
    if duration_s < MIN_VELOCITY_PART_S or sample_rate_hz < 2.0 * high_hz:
        return (0, 0), np.zeros(0, np.float32)
    low, high = low_hz / line_hz, high_hz / line_hz
    lines = np.arange(math.floor(low + 0.5), math.floor(high + 0.5) + 1)
    lines = lines[lines <= sample_rate_hz / 2.0 / line_hz]
    inside = np.minimum(lines + 0.5, high) - np.maximum(lines - 0.5, low)
    weight = np.clip(inside, 0.0, 1.0) / (2.0 * np.pi * lines * line_hz) ** 2
    return (int(lines[0]), int(lines[-1]) + 1), weight.astype(np.float32)
