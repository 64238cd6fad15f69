"""Figures in, a table for a terminal and files for everything else out."""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import Final

from rich.table import Table
from rich.text import Text

from pipeline.bench.figures import Figure

ALL: Final = "all sets"
# What may be averaged over sets: 1 is perfect.
SHARES: Final = ("balanced accuracy", "AUROC", "pAUC", "right band")
BETTER, WORSE = "green", "red"


def summaries(figures: Sequence[Figure]) -> list[Figure]:
    """The figures that stand for their sets; a measure with one case needs no mark."""
    cases: dict[tuple[str, str, str], set[str]] = {}
    for f in figures:
        cases.setdefault((f.set, f.measure, f.distance), set()).add(f.case)
    return [f for f in figures if f.summary or len(cases[f.set, f.measure, f.distance]) == 1]


def overall(figures: Sequence[Figure]) -> list[Figure]:
    """Mean over sets of the summaries that are shares, each set with the same weight.

    Sets are independent, so the variances of their intervals add.
    """
    found = []
    groups: dict[tuple[str, str, str], dict[str, list[Figure]]] = {}
    for f in summaries(figures):
        if f.measure not in SHARES:
            continue
        sets = groups.setdefault((f.representation, f.against, f.distance), {})
        sets.setdefault(f.set, []).append(f)
    for (name, against, distance), sets in groups.items():
        values = [_mean([f.value for f in part]) for part in sets.values()]
        halves = [_mean([(f.high - f.low) / 2 for f in part]) for part in sets.values()]
        value, half = _mean(values), math.hypot(*halves) / len(sets)
        found.append(
            Figure(ALL, "mean", "of the sets", name, value, value - half, value + half, against,
                   distance, sum(max(f.units for f in part) for part in sets.values()))
        )  # fmt: skip
    return found


def _mean(values: Iterable[float]) -> float:
    kept = list(values)
    return sum(kept) / len(kept)


def table(figures: Sequence[Figure], title: str, distance: str) -> Table:
    """One line per case, one column per representation; the best of a line in bold."""
    shown = [f for f in figures if f.distance in (distance, "") and not f.against]
    names = list(dict.fromkeys(f.representation for f in shown))
    found = _empty(title, names)
    for case, measure in dict.fromkeys((f.case, f.measure) for f in shown):
        line = {f.representation: f for f in shown if (f.case, f.measure) == (case, measure)}
        best = (min if measure.endswith("lower") else max)(f.value for f in line.values())
        found.add_row(f"{case}, {measure}", *(_plain(line.get(name), best) for name in names))
    return found


def differences(figures: Sequence[Figure], distance: str) -> Table:
    """What each encoder gains, set by set, with intervals; coloured where they leave out 0."""
    shown = [
        f for f in [*summaries(figures), *overall(figures)]
        if f.against and f.distance in (distance, "")
    ]  # fmt: skip
    others = list(dict.fromkeys(f.against for f in shown))
    found = _empty("Differences, 95 % intervals", [f"minus {name}" for name in others])
    for name in dict.fromkeys(f.representation for f in shown):
        mine = [f for f in shown if f.representation == name]
        for key in dict.fromkeys((f.set, f.case, f.measure) for f in mine):
            line = {f.against: f for f in mine if (f.set, f.case, f.measure) == key}
            label = f"{name}: {key[0]} {key[1]}, {key[2]}"
            found.add_row(label, *(_difference(line.get(other)) for other in others))
    return found


def _empty(title: str, columns: Iterable[str]) -> Table:
    found = Table(title=title, title_justify="left", box=None, pad_edge=False)
    found.add_column("case", min_width=30)
    for column in columns:
        found.add_column(column, justify="right", overflow="fold")
    return found


def _plain(figure: Figure | None, best: float) -> Text:
    if figure is None:
        return Text("")
    text = f"{figure.value:.2f}"
    return Text(text, style="bold" if text == f"{best:.2f}" else "")


def _difference(figure: Figure | None) -> Text:
    if figure is None:
        return Text("")
    style = BETTER if figure.low > 0 else WORSE if figure.high < 0 else ""
    if figure.measure.endswith("lower"):
        style = {BETTER: WORSE, WORSE: BETTER}.get(style, "")
    text = f"{figure.value:+.2f} ({figure.low:+.2f} {figure.high:+.2f})"
    return Text(text, style=style)


def write_csv(path: Path, figures: Sequence[Figure]) -> None:
    """One line per figure, differences with their other representation in `against`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(Figure))
        writer.writerows(
            [round(x, 5) if isinstance(x, float) else x for x in astuple(f)] for f in figures
        )


def write_json(path: Path, figures: Sequence[Figure], about: Mapping[str, object]) -> None:
    """Everything, with how it was measured."""
    rows = [{k: _finite(v) for k, v in asdict(f).items()} for f in figures]
    text = json.dumps({**about, "figures": rows}, indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _finite(value: object) -> object:
    if not isinstance(value, float):
        return value
    return round(value, 5) if math.isfinite(value) else None
