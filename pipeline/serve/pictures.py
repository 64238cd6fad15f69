"""Signals now and in health in; small SVG plots for people, and the same as numbers, out.

Curves stretch with the page, words do not: a plot reads the same on a phone. Colours come from the
style sheet by class. Long signals are drawn by the lowest and highest value of each column, so that
no peak is lost.
"""

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from pipeline.indicators import spectrum
from pipeline.snapshots import Snapshot
from pipeline.wording import band

COLUMNS: Final = 600
LINES: Final = 500
CLOSE_S: Final = 0.05
# Shorter than this and a closer look shows nothing new.
CLOSE_PART: Final = 0.5
# Amplitudes further below the highest than this are floor, not machine.
DECADES: Final = 4
UNIT_SYMBOLS: Final = {"m/s2": "m/s²", "unknown": "ADC"}

Signal = NDArray[np.float32]


class Axis(NamedTuple):
    """Values from `low` to `high`, with marks.

    Attributes:
        marks: (value, text) pairs.
        log: Whether distances are ratios.
    """

    low: float
    high: float
    marks: tuple[tuple[float, str], ...]
    log: bool = False

    def at(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Place on the axis, 0-1, of values; what lies outside is cut to its ends."""
        given = np.clip(values.astype(np.float64), self.low, self.high)
        if self.log:
            found = np.log(given / self.low) / math.log(self.high / self.low)
        else:
            found = (given - self.low) / (self.high - self.low)
        return np.asarray(found, np.float64)

    def percent(self, value: float) -> float:
        """The same of one value, 0-100."""
        return 100.0 * float(self.at(np.asarray([value]))[0])


class Curve(NamedTuple):
    """One line of a plot.

    Attributes:
        kind: `now` or `healthy`; the class of its colour.
        x, low, high: (N,); `low` and `high` are equal where it is a plain line.
    """

    kind: str
    x: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def symbol(unit: str) -> str:
    """A unit as people write it.

    >>> symbol("m/s2"), symbol("g"), symbol("unknown")
    ('m/s²', 'g', 'ADC')
    """
    return UNIT_SYMBOLS.get(unit, unit)


def columns(values: Signal, most: int = COLUMNS) -> tuple[Signal, Signal, float]:
    """(lowest, highest) of equal stretches of a signal, and their length in samples.

    >>> low, high, length = columns(np.float32([0, 3, 1, -2, 5, 0]), 2)
    >>> low.tolist(), high.tolist(), length
    ([0.0, -2.0], [3.0, 5.0], 3.0)
    """
    if values.size <= 2 * most:
        return values, values, 1.0
    starts = np.linspace(0, values.size, most, endpoint=False).astype(np.int64)
    low = np.minimum.reduceat(values, starts)
    return low, np.maximum.reduceat(values, starts), values.size / most


def level_axis(signals: Sequence[Signal], unit: str) -> Axis:
    """One axis for signals that are to be compared, with 0 in its middle."""
    top = max((float(np.abs(one).max()) for one in signals if one.size), default=0.0) or 1.0
    step = _round_up(top / 2.0)
    count = math.ceil(top / step - 1e-9)
    values = [step * i for i in range(-count, count + 1)]
    marks = [(value, f"{value:.3g}") for value in values]
    marks[-1] = (values[-1], f"{values[-1]:.3g} {symbol(unit)}")
    return Axis(values[0], values[-1], tuple(marks))


def time_axis(length_s: float) -> Axis:
    """From 0 to the length of a signal, in s or ms."""
    name, per = ("s", 1.0) if length_s >= 1.0 else ("ms", 1000.0)
    return _linear(length_s, name, per)


def frequency_axis(high_hz: float) -> Axis:
    """From 0 to a frequency, in Hz or kHz."""
    name, per = ("Hz", 1.0) if high_hz < 2000.0 else ("kHz", 0.001)
    return _linear(high_hz, name, per)


def amplitude_axis(lines: Sequence[Signal], unit: str) -> Axis:
    """Logarithmic, whole decades, for spectra that are to be compared."""
    top = max((float(one.max()) for one in lines if one.size), default=0.0)
    floor = min((float(np.percentile(one, 2)) for one in lines if one.size), default=0.0)
    if not top > 0.0:
        top, floor = 1.0, 0.1
    high = math.ceil(math.log10(top) + 1e-9)
    low = max(math.floor(math.log10(max(floor, 1e-300))), high - DECADES)
    low = min(low, high - 1)
    marks = [(10.0**power, f"{10.0**power:g}") for power in range(low, high + 1)]
    marks[-1] = (marks[-1][0], f"{marks[-1][1]} {symbol(unit)}")
    return Axis(10.0**low, 10.0**high, tuple(marks), log=True)


def _linear(high: float, name: str, per: float) -> Axis:
    step = _round_up(high * per / 8.0)
    count = math.floor(high * per / step + 1e-9)
    marks = [(step * i / per, f"{step * i:.4g}") for i in range(count + 1)]
    marks[-1] = (marks[-1][0], f"{marks[-1][1]} {name}")
    return Axis(0.0, high, tuple(marks))


def _round_up(value: float) -> float:
    """The next of 1, 2 or 5 times a power of ten.

    >>> [_round_up(value) for value in (0.013, 2.0, 4.9, 7.0)]
    [0.02, 2.0, 5.0, 10.0]
    """
    power = 10.0 ** math.floor(math.log10(value))
    # A division tells 2.0000000000000004 from 2.
    return next(f * power for f in (1.0, 2.0, 5.0, 10.0) if value / power <= f + 1e-9)


def waveform(values: Signal, rate_hz: float, kind: str) -> Curve:
    """A signal as a curve over seconds."""
    low, high, length = columns(values)
    x = (np.arange(low.size, dtype=np.float64) + (length > 1.0) / 2) * (length / rate_hz)
    return Curve(kind, x, low.astype(np.float64), high.astype(np.float64))


def lines_of(snapshot: Snapshot, lines: int = LINES) -> tuple[Signal, Signal]:
    """Frequencies and amplitudes of a snapshot's spectrum."""
    return amplitudes(snapshot.values(), float(snapshot.facts["sample_rate_hz"]), lines)


def amplitudes(values: Signal, rate_hz: float, lines: int = LINES) -> tuple[Signal, Signal]:
    """Frequencies and amplitudes of a signal, however large: squares of 1e30 are no float32."""
    peak = float(np.abs(values).max()) or 1.0
    freq_hz, amplitude = spectrum((values / peak).astype(np.float32), rate_hz, bins=lines)
    return freq_hz, (amplitude * peak).astype(np.float32)


def closer(values: Signal, rate_hz: float) -> Signal:
    """The stretch around the largest peak; empty where the signal is short.

    Args:
        values: Less their mean.
        rate_hz: Samples per second.
    """
    size = round(CLOSE_S * rate_hz)
    if size < 8 or size > CLOSE_PART * values.size:
        return values[:0]
    middle = int(np.argmax(np.abs(values)))
    first = min(max(0, middle - size // 2), values.size - size)
    return values[first : first + size]


def signal_plot(curve: Curve, x: Axis, y: Axis, title: str) -> Markup:
    """A plot of one signal."""
    return _plot([curve], x, y, title)


def spectrum_plot(
    found: Sequence[tuple[str, Signal, Signal]], unit: str, band_hz: Sequence[float], title: str
) -> Markup:
    """Spectra over each other, with the band of the change shaded.

    Args:
        found: (kind, frequencies, amplitudes), the one to be seen best last.
        unit: Of the amplitudes.
        band_hz: (low, high) of the band; (0, 0) = none.
        title: For those who cannot see it.
    """
    x = frequency_axis(max((float(freq[-1]) for _, freq, _ in found), default=1.0))
    y = amplitude_axis([amplitude[1:] for _, _, amplitude in found], unit)
    # The line of 0 Hz is the sensor's, not the machine's.
    curves = [_line(kind, freq[1:], amplitude[1:]) for kind, freq, amplitude in found]
    return _plot(curves, x, y, title, band_hz=band_hz)


def _line(kind: str, x: Signal, y: Signal) -> Curve:
    height = y.astype(np.float64)
    return Curve(kind, x.astype(np.float64), height, height)


def _plot(
    curves: Sequence[Curve],
    x: Axis,
    y: Axis,
    title: str,
    *,
    band_hz: Sequence[float] = (0.0, 0.0),
) -> Markup:
    below, above = _band(band_hz, x) if band_hz[1] > 0.0 else (Markup(), Markup())
    paths = "".join(_drawn(curve, x, y, filled=len(curves) > 1) for curve in curves)
    drawn = Markup(paths)  # noqa: S704  (numbers only)
    frame = Markup(
        '<svg class="plot" role="img" aria-label="{}">{}{}<svg width="100%" height="100%" '
        'viewBox="0 0 1000 1000" preserveAspectRatio="none">{}</svg>'
        "{}</svg>"
    )
    return frame.format(title, below, _marks(x, y), drawn, above)


def _drawn(curve: Curve, x: Axis, y: Axis, *, filled: bool) -> str:
    px = 1000.0 * x.at(curve.x)
    top = 1000.0 * (1.0 - y.at(curve.high))
    if curve.low is curve.high or np.array_equal(curve.low, curve.high):
        line = _path(px, top)
        area = ""
        if filled and curve.kind == "healthy":
            area = (
                f'<path class="area {curve.kind}" d="{line}L{px[-1]:.1f},1000L{px[0]:.1f},1000Z"/>'
            )
        return f'{area}<path class="line {curve.kind}" d="{line}"/>'
    bottom = 1000.0 * (1.0 - y.at(curve.low))
    back = _path(px[::-1], bottom[::-1]).replace("M", "L", 1)
    return f'<path class="body {curve.kind}" d="{_path(px, top)}{back}Z"/>'


def _path(px: NDArray[np.float64], py: NDArray[np.float64]) -> str:
    pairs = zip(px.tolist(), py.tolist(), strict=True)
    return "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in pairs)


def _marks(x: Axis, y: Axis) -> Markup:
    """Grid and words; of narrow pages every second word of the x axis is left out."""
    parts = []
    for value, text in y.marks:
        at = 100.0 - y.percent(value)
        middle = " zero" if value == 0.0 and not y.log else ""
        parts.append(f'<line class="grid{middle}" x1="0" x2="100%" y1="{at:.2f}%" y2="{at:.2f}%"/>')
        parts.append(f'<text class="y" x="-6" y="{at:.2f}%">{escape(text)}</text>')
    for index, (value, text) in enumerate(x.marks):
        at = x.percent(value)
        minor = " minor" if index % 2 and index + 1 < len(x.marks) else ""
        parts.append(f'<line class="grid" y1="0" y2="100%" x1="{at:.2f}%" x2="{at:.2f}%"/>')
        parts.append(f'<text class="x{minor}" x="{at:.2f}%" y="100%" dy="16">{escape(text)}</text>')
    return Markup("".join(parts))  # noqa: S704  (numbers, and words that are escaped)


def _band(band_hz: Sequence[float], x: Axis) -> tuple[Markup, Markup]:
    """What shades a band, below the curves, and its words, above them."""
    low, high = x.percent(band_hz[0]), x.percent(band_hz[1])
    if high <= low:
        return Markup(), Markup()
    words = band(band_hz[0], band_hz[1])
    place = "end" if low > 50.0 else "start"
    at = high if place == "end" else low
    shade = f'<rect class="band" x="{low:.2f}%" width="{high - low:.2f}%" y="0" height="100%"/>'
    text = f'<text class="band {place}" x="{at:.2f}%" y="0" dy="-5">{words}</text>'
    return Markup(shade), Markup(text)  # noqa: S704  (numbers only)


def numbers(snapshot: Snapshot, most: int = COLUMNS, lines: int = LINES) -> dict[str, Any]:
    """A snapshot as JSON: its facts, the signal by columns, and its spectrum."""
    low, high, length = columns(snapshot.values(), most)
    freq_hz, amplitude = lines_of(snapshot, lines)
    facts = {name: value for name, value in snapshot.facts.items() if name != "version"}
    return {
        **facts,
        "waveform": {
            "step_s": length / facts["sample_rate_hz"],
            "low": _short(low),
            "high": _short(high),
        },
        "spectrum": {"freq_hz": _short(freq_hz), "amplitude": _short(amplitude)},
    }


def _short(values: Signal) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist()]
