"""A sensor's trend and spectra in, the compact value its plots are drawn from out.

A report of 200 sensors must open in a browser within seconds, so every sensor gets a share of a
byte budget: rows of the trend are picked (never averaged, so that each point is a real window),
heat maps are averaged over time cells and stored in 8 bits, spectra are peak-held in 16 bits.
Status and faults travel as spans from the full trend, so no alarm edge depends on the picking.
"""

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.messages import Spectrum, SpectrumKind, Trend

# Bytes of the whole report that data may take; plotly.js adds about 5 MB.
DATA_BYTES = 18_000_000
TREND_POINTS = 1500
SPECTRUM_LINES = 2000
# A trend row costs 8 columns of 4 bytes and a spectrum line 6 bytes in each of 3 spectra, both by
# 4/3 for base64; 60 % and 20 % of a sensor's share go to them.
ROW_BYTES = 8 * 4 * 4 / 3
LINE_BYTES = 3 * 6 * 4 / 3
TIME_CELLS = 240
MAX_SPANS = 300
# 1/3-octave levels further below the loudest than this are drawn as that.
DYNAMIC_DB = 100.0

RANKS = ("ok", "stopped", "learning", "unknown", "advisory", "alert", "alarm")
"""Statuses from the best to the worst, as a report sorts them."""

SEVERE = ("advisory", "alert", "alarm")
COLUMNS = ("rms", "peak", "kurtosis", "velocity_mm_s", "score", "limit", "level_ratio", "ratio")
# Extremes of these are kept in every stretch; level_ratio and ratio follow rms and score.
KEY_COLUMNS = ("rms", "peak", "kurtosis", "velocity_mm_s", "score", "ratio")

_NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time with one status or one fault."""

    start_ns: int
    end_ns: int
    name: str


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of one sensor a report carries.

    Attributes:
        points: Rows of its trend.
        lines: Lines of each of its spectra.
    """

    points: int
    lines: int

    @classmethod
    def share(cls, sensors: int) -> "Budget":
        """One sensor's part where there are so many.

        >>> Budget.share(1), Budget.share(400)
        (Budget(points=1500, lines=2000), Budget(points=632, lines=375))
        """
        share = max(DATA_BYTES / max(sensors, 1), 20_000.0)
        return cls(
            points=min(TREND_POINTS, int(0.6 * share / ROW_BYTES)),
            lines=min(SPECTRUM_LINES, int(0.2 * share / LINE_BYTES)),
        )


def status_spans(trend: Trend) -> list[Span]:
    """The sensor's status over time, without gaps; a status holds until the next window's."""
    first, names = _changes(trend.status)
    codes = np.array([RANKS.index(name) for name in names], np.int64)
    return [Span(a, b, RANKS[code]) for a, b, code in _runs(trend.end_ns, first, codes)]


def fault_spans(trend: Trend) -> dict[str, list[Span]]:
    """When each sensor fault stood, by its name."""
    first, texts = _changes(trend.faults)
    lists = [set(text.split(",")) - {""} for text in texts]
    spans = {}
    for name in sorted(set().union(*lists)):
        stands = np.array([name in one for one in lists], np.int64)
        runs = _runs(trend.end_ns, first, stands)
        spans[name] = [Span(a, b, name) for a, b, code in runs if code]
    return spans


def _changes(texts: NDArray[np.str_]) -> tuple[NDArray[np.int64], list[str]]:
    """Where equal texts in a row begin, and these texts."""
    if texts.size == 0:
        return np.empty(0, np.int64), []
    first = np.append(0, np.flatnonzero(texts[1:] != texts[:-1]) + 1)
    return first, texts[first].tolist()


def _runs(
    end_ns: NDArray[np.int64], first: NDArray[np.int64], codes: NDArray[np.int64]
) -> list[tuple[int, int, int]]:
    """(start_ns, end_ns, code) of equal codes in a row; the largest per cell if there are too many.

    Args:
        end_ns: (n,) of every window.
        first: (m,) windows where a code begins.
        codes: (m,) codes >= 0.
    """
    if codes.size == 0:
        return []
    change = np.flatnonzero(np.diff(codes, prepend=-1))
    first, codes = first[change], codes[change]
    if codes.size > MAX_SPANS:
        cell = _cell_of(end_ns, MAX_SPANS)
        cell_first = np.flatnonzero(np.diff(cell, prepend=-1))
        every = np.repeat(codes, np.diff(first, append=end_ns.size))
        return _runs(end_ns, cell_first, np.maximum.reduceat(every, cell_first))
    starts = end_ns[first]
    ends = np.append(starts[1:], end_ns[-1])
    return list(zip(starts.tolist(), ends.tolist(), codes.tolist(), strict=True))


def _cell_of(end_ns: NDArray[np.int64], cells: int) -> NDArray[np.int64]:
    """(n,) index of the time cell in which each window ends."""
    since = (end_ns - end_ns[0]).astype(np.float64)
    width = max(float(since[-1]) / cells, 1.0)
    cell: NDArray[np.int64] = np.minimum(since / width, cells - 1).astype(np.int64)
    return cell


def keep_rows(trend: Trend, points: int) -> NDArray[np.int64]:
    """Rows of a trend worth drawing, at most `points`, increasing.

    Kept are both sides of every status change that enters or leaves a severity, the extremes of
    every column, and in equal stretches the extremes of the main columns.
    """
    n = trend.end_ns.size
    if n <= points:
        return np.arange(n)
    severe = np.isin(trend.status, SEVERE)
    changed = trend.status[1:] != trend.status[:-1]
    edge = np.flatnonzero(changed & (severe[1:] | severe[:-1]))
    if edge.size > points // 4:  # chatter beyond what a plot can show: its shading still can
        edge = edge[np.linspace(0, edge.size - 1, points // 4).astype(np.int64)]
    must = np.zeros(n, np.bool_)
    must[[0, n - 1]] = True
    must[edge] = must[edge + 1] = True
    for name in COLUMNS:
        must[_extremes(getattr(trend, name)[None, :])] = True
    stretches = points // 4
    while True:
        kept = must.copy()
        kept[_stretch_extremes(trend, stretches)] = True
        if np.count_nonzero(kept) <= points:
            return np.flatnonzero(kept)
        stretches = int(stretches * 0.85)


def _stretch_extremes(trend: Trend, stretches: int) -> NDArray[np.int64]:
    """Rows of the extremes of the key columns, and of the start, of equal stretches."""
    n = trend.end_ns.size
    if stretches == 0:
        return np.empty(0, np.int64)
    width = -(-n // stretches)
    padded = np.full((len(KEY_COLUMNS), width * stretches), np.nan)
    for row, name in zip(padded, KEY_COLUMNS, strict=True):
        row[:n] = getattr(trend, name)
    begins = np.arange(stretches) * width
    blocks = padded.reshape(len(KEY_COLUMNS) * stretches, width)
    rows = _extremes(blocks, np.tile(begins, len(KEY_COLUMNS)))
    # The first row of each stretch shows where nothing was scored.
    return np.concatenate([rows, begins.clip(0, n - 1)])


def _extremes(
    blocks: NDArray[np.float64], first: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Positions of the finite minimum and maximum of each row; `first` is added to each."""
    known = np.isfinite(blocks)
    some = known.any(axis=1)
    low = np.where(known, blocks, np.inf).argmin(axis=1)
    high = np.where(known, blocks, -np.inf).argmax(axis=1)
    start = np.zeros(some.size, np.int64) if first is None else first
    return np.concatenate([(start + low)[some], (start + high)[some]])


def packed(
    trend: Trend, spectra: Mapping[SpectrumKind, Spectrum], budget: Budget
) -> dict[str, Any]:
    """All that the browser needs to draw one sensor, as a JSON value."""
    if trend.end_ns.size == 0:
        return {"n": 0, "spectra": {}}
    rows = keep_rows(trend, budget.points)
    first_ms = int(trend.end_ns[0]) // _NS_PER_MS
    ms = trend.end_ns[rows] // _NS_PER_MS - first_ms
    tick_ms = max(1, math.ceil(int(ms[-1]) / (2**32 - 1)))
    return {
        "n": int(trend.end_ns.size),
        "t0": first_ms,
        "tick_ms": tick_ms,
        "t": _base64(ms // tick_ms, np.uint32),
        "columns": {name: _column(getattr(trend, name)[rows]) for name in COLUMNS},
        "spans": [[*_ms(span), span.name] for span in status_spans(trend)],
        "faults": {
            name: [_ms(span) for span in spans] for name, spans in fault_spans(trend).items()
        },
        "bands": _bands(trend),
        "octaves": _octaves(trend),
        "spectra": {kind: _spectrum(one, budget.lines) for kind, one in spectra.items()},
    }


def safe_json(value: object) -> str:
    r"""JSON that may stand inside a script element of an HTML page.

    >>> safe_json("</script>")
    '"\\u003c/script\\u003e"'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _ms(span: Span) -> list[int]:
    return [span.start_ns // _NS_PER_MS, span.end_ns // _NS_PER_MS]


def _base64(values: NDArray[Any], dtype: type[np.generic]) -> str:
    """Little endian numbers of one type."""
    numbers = np.ascontiguousarray(values.astype(np.dtype(dtype).newbyteorder("<")))
    return base64.b64encode(numbers.tobytes()).decode("ascii")


def _column(values: NDArray[np.float64]) -> str | float | None:
    """Base64 float32; one number where all are equal; None where nothing is known."""
    known = values[np.isfinite(values)]
    if known.size == 0:
        return None
    if known.size == values.size and bool((known == known[0]).all()):
        return float(known[0])
    with np.errstate(over="ignore"):
        return _base64(values, np.float32)


def _quantised(values: NDArray[np.floating[Any]], dtype: type[np.unsignedinteger[Any]]) -> Any:
    """Numbers as low + step x integer; the largest integer means unknown."""
    known = np.isfinite(values)
    low, high = (float(values[known].min()), float(values[known].max())) if known.any() else (0, 0)
    top = np.iinfo(dtype).max - 1
    step = (high - low) / top or 1.0
    steps = np.where(known, np.round((np.where(known, values, low) - low) / step), top + 1)
    return {"low": low, "step": step, "q": _base64(steps, dtype)}


def _cells(trend: Trend) -> tuple[int, NDArray[np.int64]]:
    """Number of time cells of the heat maps, none narrower than the usual window spacing."""
    n = trend.end_ns.size
    span = int(trend.end_ns[-1] - trend.end_ns[0])
    usual = float(np.median(np.diff(trend.end_ns))) if n > 1 else 1.0
    cells = max(1, min(TIME_CELLS, int(span / (1.5 * max(usual, 1.0)))))
    return cells, _cell_of(trend.end_ns, cells)


def _heat_map(trend: Trend, values: NDArray[np.float32]) -> dict[str, Any]:
    """Mean of each time cell: (cells, width) in 8 bits, cell after cell."""
    cells, cell = _cells(trend)
    known = np.isfinite(values)
    total = np.zeros((cells, values.shape[1]))
    count = np.zeros((cells, values.shape[1]))
    first = np.flatnonzero(np.diff(cell, prepend=-1))
    filled = cell[first]
    total[filled] = np.add.reduceat(np.where(known, values, 0.0), first, axis=0)
    count[filled] = np.add.reduceat(known.astype(np.float64), first, axis=0)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    edges = [int(trend.end_ns[i]) // _NS_PER_MS for i in (0, -1)]
    return {"cells": cells, "span": edges, **_quantised(mean, np.uint8)}


def _bands(trend: Trend) -> dict[str, Any] | None:
    if not trend.band_edges_hz or not np.isfinite(trend.band_shares).any():
        return None
    return {"edges_hz": trend.band_edges_hz, **_heat_map(trend, trend.band_shares)}


def _octaves(trend: Trend) -> dict[str, Any] | None:
    """Levels, and what they were while learning (None where that was not seen)."""
    levels = trend.octaves_db
    known = np.isfinite(levels)
    if trend.octaves_hz.size == 0 or not known.any():
        return None
    floor = float(levels[known].max()) - DYNAMIC_DB
    levels = np.where(known, np.maximum(levels, floor), np.nan).astype(np.float32)
    learnt = levels[(trend.status == "learning") & known.all(axis=1)]
    healthy = np.median(learnt, axis=0).round(1).tolist() if len(learnt) >= 5 else None
    hz = trend.octaves_hz.tolist()
    return {"hz": hz, "healthy_db": healthy, **_heat_map(trend, levels)}


def _spectrum(picture: Spectrum, lines: int) -> dict[str, Any]:
    """The largest line of each stretch, with its own frequency; stretches widen with frequency."""
    known = np.isfinite(picture.amplitude)
    hz, amplitude = picture.freq_hz[known], picture.amplitude[known]
    n = hz.size
    if n > lines:
        edges = np.unique((np.linspace(0.0, 1.0, lines + 1) ** 1.5 * n).astype(np.int64))[:-1]
        largest = np.maximum.reduceat(amplitude, edges)
        tops = np.flatnonzero(amplitude == np.repeat(largest, np.diff(edges, append=n)))
        first = tops[np.searchsorted(tops, edges)]
        hz, amplitude = hz[first], amplitude[first]
    floor = float(amplitude.max(initial=0.0)) * 1e-6 or 1e-12
    return {
        "at": picture.at_ns // _NS_PER_MS,
        "hz": _base64(hz, np.float32),
        "log10": _quantised(np.log10(np.maximum(amplitude.astype(np.float64), floor)), np.uint16),
    }
