"""Figures in, one self-contained SVG out: dots with intervals, set by set; no script."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

from pipeline.bench.figures import Figure
from pipeline.bench.report import SHARES, overall, summaries

WIDTH: Final = 1160
MARGIN: Final = 24
GUTTER: Final = 28
ROW: Final = 34
TITLE, AXIS = 34, 30
LABEL: Final = 190
INK, FAINT, BAND = "#1d2733", "#6b7683", "#f5f7f9"
GRID: Final = "#dde3e8"
# Encoders in strong colours, what they have to beat in grey and earth.
TRAINED: Final = ("#0b63ad", "#12956f", "#7a4fc0", "#c2335a")
OTHERS: Final = ("#8c96a1", "#b4bcc4")
BASELINES: Final = ("#dc7f1f", "#eab676", "#a08468")
STYLE: Final = (
    "text{font-family:Inter,'Segoe UI','Helvetica Neue',Arial,sans-serif;fill:#1d2733}"
    ".t{font-size:14px;font-weight:600}.s{font-size:11px;fill:#6b7683}.l{font-size:12px}"
)

MEAN: Final = re.compile(r"\bmean\b")

Line = tuple[str, list[Figure]]


@dataclass(frozen=True, slots=True)
class Panel:
    """A plot: one line per case, one dot per representation.

    Attributes:
        lines: (label, figures) from top to bottom.
        zero: A line at 0 instead of an axis from 0 to 1: for differences.
    """

    title: str
    lines: tuple[Line, ...]
    zero: bool = False

    @property
    def height(self) -> int:
        """In pixels."""
        return TITLE + ROW * len(self.lines) + AXIS


def draw(
    picture: Path,
    figures: Sequence[Figure],
    kinds: Mapping[str, str],
    titles: Mapping[str, str],
    note: str,
) -> None:
    """Draw the mean of each set, differences to what has to be beaten, then every case.

    Args:
        picture: SVG file to write.
        figures: Of one distance.
        kinds: `trained`, `untrained`, ... of each representation, in the order of the legend.
        titles: Of each set.
        note: How it was measured, one line.
    """
    colours = _colours(kinds)
    models = [name for name, kind in kinds.items() if kind == "trained"] or list(kinds)[:1]
    top = [p for p in (_means(figures), _differences(figures, models[0])) if p.lines]
    columns = _balanced(list(_details(figures, titles)))
    y = 96
    parts = [_head(models, colours, note)]
    wide = (WIDTH - 2 * MARGIN - GUTTER) // 2
    for panel, x in zip(top, (MARGIN, MARGIN + wide + GUTTER), strict=False):
        parts.append(_panel(panel, colours, x, y, wide))
    below = y + max((panel.height + GUTTER for panel in top), default=0)
    bottom = below
    for column, x in zip(columns, (MARGIN, MARGIN + wide + GUTTER), strict=True):
        at = below
        for panel in column:
            parts.append(_panel(panel, colours, x, at, wide))
            at += panel.height + GUTTER
        bottom = max(bottom, at)
    picture.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom}" '
        f'width="{WIDTH}" height="{bottom}"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n',
        encoding="utf-8",
    )


def _colours(kinds: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, kind in kinds.items():
        shades = {"trained": TRAINED, "untrained": OTHERS}.get(kind, BASELINES)
        taken = sum(colour in shades for colour in found.values())
        found[name] = shades[taken % len(shades)]
    return found


def _means(figures: Sequence[Figure]) -> Panel:
    kept = [f for f in summaries(figures) if not f.against and _is_share(f)]
    lines = list(_lines(kept, _summary))
    every = [f for f in overall(figures) if not f.against]
    return Panel("Mean of each set", (*lines, ("mean of the sets", every)) if every else ())


def _differences(figures: Sequence[Figure], model: str) -> Panel:
    kept = [f for f in summaries(figures) if f.against and f.representation == model]
    kept = [f for f in kept if _is_share(f)]
    lines = list(_lines(kept, _summary))
    every = [f for f in overall(figures) if f.against and f.representation == model]
    shown = (*lines, ("mean of the sets", every)) if every else ()
    return Panel(f"{model} minus ...", shown, zero=True)


def _details(figures: Sequence[Figure], titles: Mapping[str, str]) -> Iterator[Panel]:
    plain = [f for f in figures if not f.against]
    for name, measure in dict.fromkeys((f.set, f.measure) for f in plain):
        part = [f for f in plain if (f.set, f.measure) == (name, measure)]
        lines = tuple(_lines(part, lambda f: f.case))
        if len(lines) > 1 or not _is_share(part[0]):
            better = " (lower is better)" if measure.endswith("lower") else ""
            what = measure.removesuffix(", lower") + better
            yield Panel(f"{titles.get(name, name)}: {what}", lines)


def _lines(figures: Sequence[Figure], label: Callable[[Figure], str]) -> Iterator[Line]:
    names = dict.fromkeys(label(f) for f in figures)
    return ((name, [f for f in figures if label(f) == name]) for name in names)


def _summary(figure: Figure) -> str:
    """`anomaly cwru, AUROC` where a set has several parts."""
    part = figure.case.removesuffix("mean").strip() if figure.case.endswith("mean") else ""
    return f"{figure.set} {part}".strip() + f", {figure.measure}"


def _is_share(figure: Figure) -> bool:
    return figure.measure in SHARES


def _balanced(panels: list[Panel]) -> tuple[list[Panel], list[Panel]]:
    left: list[Panel] = []
    right: list[Panel] = []
    for panel in panels:
        shorter = min((left, right), key=lambda column: sum(p.height + GUTTER for p in column))
        shorter.append(panel)
    return left, right


def _head(models: Sequence[str], colours: Mapping[str, str], note: str) -> str:
    what = (
        f"How well {' and '.join(models)} {'tells' if len(models) == 1 else 'tell'} signals apart"
    )
    parts = [
        f'<text x="{MARGIN}" y="32" font-size="20" font-weight="600">{escape(what)}</text>',
        f'<text class="s" x="{MARGIN}" y="51">{escape(note)}</text>',
    ]
    x = MARGIN
    for name, colour in colours.items():
        parts.append(f'<circle cx="{x + 5}" cy="74" r="5" fill="{colour}"/>')
        parts.append(f'<text class="l" x="{x + 15}" y="78">{escape(name)}</text>')
        x += 42 + round(6.6 * len(name))
    return "".join(parts)


def _panel(panel: Panel, colours: Mapping[str, str], x: int, y: int, width: int) -> str:
    left, right = x + LABEL, x + width - 14
    low, high, ticks = _axis(panel)

    def at(value: float) -> float:
        return left + (min(max(value, low), high) - low) / (high - low) * (right - left)

    foot = y + TITLE + ROW * len(panel.lines)
    parts = [f'<text class="t" x="{x}" y="{y + 18}">{escape(panel.title)}</text>']
    for i, (label, _) in enumerate(panel.lines):
        row = y + TITLE + ROW * i
        if i % 2 == 0:
            parts.append(f'<rect x="{x}" y="{row}" width="{width}" height="{ROW}" fill="{BAND}"/>')
        weight = ' font-weight="600"' if MEAN.search(label) else ""
        parts.append(
            f'<text class="l" x="{x + 8}" y="{row + ROW / 2 + 4}"{weight}>{escape(label)}</text>'
        )
    for tick in ticks:
        dark = FAINT if panel.zero and tick == 0 else GRID
        parts.append(
            f'<path d="M{at(tick):.1f} {y + TITLE}V{foot}" stroke="{dark}"/>'
            f'<text class="s" x="{at(tick):.1f}" y="{foot + 16}" text-anchor="middle">'
            f"{tick:{'+.3g' if panel.zero and tick else '.3g'}}</text>"
        )
    for i, (_, figures) in enumerate(panel.lines):
        parts += _dots(figures, colours, y + TITLE + ROW * i, at)
    return "".join(parts)


def _dots(
    figures: Sequence[Figure],
    colours: Mapping[str, str],
    row: int,
    at: Callable[[float], float],
) -> Iterator[str]:
    """One below the other inside a row, in the order of the legend; encoders drawn last."""
    mine = [f for name in colours for f in figures if (f.against or f.representation) == name]
    step = (ROW - 8) / max(1, len(mine))
    for i in reversed(range(len(mine))):
        figure, height = mine[i], row + 4 + step * (i + 0.5)
        colour = colours[figure.against or figure.representation]
        said = f"{figure.representation}{' minus ' + figure.against if figure.against else ''}"
        text = f"{said}: {figure.value:.3f}"
        if math.isfinite(figure.low):
            text += f" ({figure.low:.3f} to {figure.high:.3f})"
            yield (
                f'<path d="M{at(figure.low):.1f} {height:.1f}H{at(figure.high):.1f}" '
                f'stroke="{colour}" stroke-width="1.6" stroke-opacity="0.55"/>'
            )
        yield (
            f'<circle cx="{at(figure.value):.1f}" cy="{height:.1f}" r="3.4" fill="{colour}" '
            f'stroke="white" stroke-width="0.6">'
            f"<title>{escape(text)}</title></circle>"
        )


def _axis(panel: Panel) -> tuple[float, float, list[float]]:
    """Ends and ticks: up to 1 for shares, symmetric for differences, else what there is."""
    figures = [f for _, part in panel.lines for f in part]
    ends = [v for f in figures for v in (f.low, f.value, f.high) if math.isfinite(v)]
    if panel.zero:
        low = min(-0.1, math.floor(10 * min(ends, default=0.0)) / 10)
        high = max(0.1, math.ceil(10 * max(ends, default=0.0)) / 10)
        return low, high, _ticks(low, high, 0.1 if high - low < 0.75 else 0.2)
    if all(0 <= v <= 1 for v in ends):
        low = min(0.5, math.floor(4 * min(ends)) / 4)
        return low, 1.0, _ticks(low, 1.0, 0.1 if low == 0.5 else 0.25)
    high = max(ends)
    unit = 10 ** math.floor(math.log10(high))
    top = next(n * unit for n in (1, 2, 3, 4, 5, 6, 8, 10) if n * unit >= high)
    return min(0.0, *ends), top, [0.0, top / 2, top]


def _ticks(low: float, high: float, step: float) -> list[float]:
    """Multiples of a step from end to end."""
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 6) for n in range(first, last + 1)]
