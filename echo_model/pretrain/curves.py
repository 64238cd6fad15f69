"""The log of a run in, a picture of its curves out: one SVG, no library, no script."""

import csv
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 720, 170, 64, 26, 22
COLOURS = ("#1f6fb4", "#d2691e", "#2e8b57")
# (title, columns) of each panel; a column that the log lacks is left out.
PANELS = (
    ("loss (mean squared error of hidden patches and of bands)", ("patch", "band")),
    ("spread of targets and predictions: near 0 means collapse", ("target_std", "prediction_std")),
    ("effective rank of the embeddings: near 1 means collapse", ("rank",)),
    ("learning rate", ("rate",)),
    ("tokens per second", ("tokens_per_s",)),
    ("share of time for data", ("data_share",)),
)


def draw_curves(log: Path, picture: Path, *, title: str) -> None:
    """Draw every column of a run's log over its steps.

    Args:
        log: CSV as the trainer writes it.
        picture: SVG file to write.
        title: Headline.
    """
    with log.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    steps = [float(row["step"]) for row in rows]
    parts = [f'<text x="{LEFT}" y="20" font-size="15" font-weight="bold">{escape(title)}</text>']
    top = 34
    for name, columns in PANELS:
        lines = {c: [float(row[c]) for row in rows] for c in columns if rows and c in rows[0]}
        parts.append(_panel(name, steps, lines, top))
        top += HEIGHT
    picture.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" '
        f'height="{top}" font-family="sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n',
        encoding="utf-8",
    )


def _panel(name: str, steps: Sequence[float], lines: dict[str, list[float]], top: int) -> str:
    values = [v for line in lines.values() for v in line if math.isfinite(v)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    high = high if high > low else low + 1.0
    first, last = (steps[0], steps[-1]) if steps else (0.0, 1.0)
    last = last if last > first else first + 1.0
    y0, y1 = top + HEIGHT - BOTTOM, top + TOP
    x1 = WIDTH - 12

    def at(step: float, value: float) -> str:
        x = LEFT + (step - first) / (last - first) * (x1 - LEFT)
        y = y0 + (value - low) / (high - low) * (y1 - y0)
        return f"{x:.1f},{y:.1f}"

    drawn = [
        f'<text x="{LEFT}" y="{top + 18}">{escape(name)}</text>',
        f'<path d="M{LEFT} {y1}V{y0}H{x1}" fill="none" stroke="#999"/>',
        f'<text x="{LEFT - 6}" y="{y1 + 4}" text-anchor="end">{high:.3g}</text>',
        f'<text x="{LEFT - 6}" y="{y0}" text-anchor="end">{low:.3g}</text>',
        f'<text x="{x1}" y="{y0 + 14}" text-anchor="end">step {last:.0f}</text>',
    ]
    for colour, line in zip(COLOURS, lines.values(), strict=False):
        points = " ".join(at(s, v) for s, v in zip(steps, line, strict=True) if math.isfinite(v))
        drawn.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.3"/>'
        )
    for i, (colour, column) in enumerate(zip(COLOURS, lines, strict=False)):
        x = x1 - 100 * (len(lines) - i) + 20
        drawn.append(f'<text x="{x}" y="{top + 18}" fill="{colour}">{escape(column)}</text>')
    return "".join(drawn)
