"""Spans, trends and times in; small inline pictures and words for people out.

Pictures are SVG without ids or scripts; colours come from the style sheet by class. In a status bar
height says what colour says: the worse, the taller.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pipeline.messages import NS_PER_S, Trend
from pipeline.report.data import Span

# Share of the bar's height per status; `unknown` is full height and hatched.
HEIGHTS = {
    "alarm": 1.0,
    "alert": 0.8,
    "advisory": 0.6,
    "unknown": 1.0,
    "learning": 0.3,
    "stopped": 0.12,
    "ok": 0.3,
}
SPARK_POINTS = 90
# A sparkline ends at this multiple of the alarm limit, so that all share one scale.
SPARK_TOP = 2.5
TICK_STEPS_S = (
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400,
    172800, 345600, 604800, 1209600, 2592000, 7776000, 31536000,
)  # fmt: skip


class Tick(NamedTuple):
    """A mark of the time axis.

    Attributes:
        percent: How far along it lies, 0-100.
        major: Whether a narrow screen shows it too.
    """

    percent: float
    text: str
    major: bool


def utc(at_ns: int, *, seconds: bool = False) -> str:
    """Time for people.

    >>> utc(1_700_000_000_000_000_000)
    '2023-11-14 22:13'
    """
    moment = datetime.fromtimestamp(at_ns // NS_PER_S, tz=UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")


def duration(span_ns: int) -> str:
    """The two largest units of a length of time.

    >>> duration(93_784 * NS_PER_S), duration(59 * NS_PER_S)
    ('1 d 2 h', '59 s')
    """
    left = max(0, span_ns) // NS_PER_S
    parts: list[str] = []
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {unit}" if count else "")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if part) or "0 s"


def frequency(low_hz: float, high_hz: float) -> str:
    """A band in Hz below 1 kHz, in kHz above.

    >>> frequency(0.0, 800.0), frequency(3200.0, 4000.0)
    ('0-800 Hz', '3.2-4 kHz')
    """
    if high_hz < 1000:
        return f"{low_hz:.3g}-{high_hz:.3g} Hz"
    return f"{low_hz / 1000:.3g}-{high_hz / 1000:.3g} kHz"


def ticks(first_ns: int, last_ns: int, most: int = 7) -> list[Tick]:
    """Round UTC times between two times, at most `most` + 1 of them."""
    span_s = (last_ns - first_ns) / NS_PER_S
    if span_s <= 0:
        return []
    step_s = next((s for s in TICK_STEPS_S if span_s / s <= most), TICK_STEPS_S[-1])
    form = "%H:%M:%S" if step_s < 60 else "%H:%M" if step_s < 86_400 else "%d %b"
    marks: list[Tick] = []
    at_s = -(-first_ns // (step_s * NS_PER_S)) * step_s
    day = ""
    while at_s * NS_PER_S <= last_ns and len(marks) <= most:
        moment = datetime.fromtimestamp(at_s, tz=UTC)
        new_day = moment.strftime("%d %b")
        text = moment.strftime(form)
        if step_s < 86_400 and span_s > 86_400 and new_day != day:
            text = f"{new_day} {text}"
        day = new_day
        days = step_s < 86_400 and span_s > 2 * 86_400
        major = at_s % 86_400 == 0 if days else len(marks) % 2 == 0
        percent = 100 * (at_s * NS_PER_S - first_ns) / (last_ns - first_ns)
        marks.append(Tick(percent, text, major))
        at_s += step_s
    return marks


def status_bar(spans: Iterable[Span], first_ns: int, last_ns: int) -> Markup:
    """One row of the status timeline, stretched to the width it is given."""
    length = max(1, last_ns - first_ns)
    shapes = []
    for span in spans:
        x = 1000 * (span.start_ns - first_ns) / length
        # Nothing that happened may be too narrow to be seen.
        width = max(1000 * (span.end_ns - span.start_ns) / length, 1.5)
        height = 20 * HEIGHTS[span.name]
        title = (
            f"{span.name}: {utc(span.start_ns)} to {utc(span.end_ns)} "
            f"({duration(span.end_ns - span.start_ns)})"
        )
        shapes.append(
            f'<rect class="s-{span.name}" x="{x:.1f}" y="{20 - height:.0f}" width="{width:.1f}" '
            f'height="{height:.0f}"><title>{title}</title></rect>'
        )
    # Short severe spans are drawn last, over the long quiet ones.
    shapes.sort(key=lambda shape: 's-ok"' not in shape)
    return Markup(  # noqa: S704  (numbers and our own status names only)
        '<svg class="bar" viewBox="0 0 1000 20" preserveAspectRatio="none" aria-hidden="true">'
        + "".join(shapes)
        + "</svg>"
    )


def sparkline(trend: Trend, first_ns: int, last_ns: int, status: str) -> Markup:
    """Evidence over alarm limit through the run; the dashed line is the alarm limit."""
    known = np.isfinite(trend.ratio)
    if not known.any():
        return Markup('<span class="none">no score yet</span>')
    at = (trend.end_ns[known] - first_ns) / max(1, last_ns - first_ns)
    cell = np.clip((at * SPARK_POINTS).astype(np.int64), 0, SPARK_POINTS - 1)
    first = np.flatnonzero(np.diff(cell, prepend=-1))
    filled = cell[first]
    value = np.maximum.reduceat(trend.ratio[known], first)
    x = (filled + 0.5) * 160 / SPARK_POINTS
    y = 30 - 28 * np.clip(value, 0.0, SPARK_TOP) / SPARK_TOP
    limit = 30 - 28 / SPARK_TOP
    return Markup(  # noqa: S704  (numbers and our own status names only)
        f'<svg class="spark s-{status}" viewBox="0 0 160 32" role="img" '
        f'aria-label="highest {value.max():.0%}, now {value[-1]:.0%} of the alarm limit">'
        f'<line class="limit" x1="0" x2="160" y1="{limit:.1f}" y2="{limit:.1f}"/>'
        f'{_path(filled, x, y)}<circle cx="{x[-1]:.1f}" cy="{y[-1]:.1f}" r="2.6"/></svg>'
    )


def _path(cells: NDArray[np.int64], x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    """A line, broken where two cells or more in a row hold nothing."""
    broken = np.diff(cells, prepend=-9) > 2
    steps = zip(np.where(broken, "M", "L").tolist(), x.tolist(), y.tolist(), strict=True)
    return '<path d="' + "".join(f"{step}{px:.1f},{py:.1f}" for step, px, py in steps) + '"/>'
