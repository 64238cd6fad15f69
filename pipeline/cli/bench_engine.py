"""`echowatch bench engine`: models and rates in, what this machine embeds out."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.terminal import steps

if TYPE_CHECKING:
    from pipeline.bench.engine import Cell

console = Console(stderr=True, highlight=False, emoji=False)
# The seven usual rates of condition monitoring, thinned out: a table in under two minutes.
RATES = "8000,16000,25600,51200"
SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|h)?")
SECONDS = {"ms": 1e-3, None: 1.0, "s": 1.0, "min": 60.0, "h": 3600.0}
MAX_WIDTH = 100


def bench_engine(
    models: Annotated[str, typer.Option(help="Names or files, comma between.")] = "nano,tiny,small",
    rates: Annotated[str, typer.Option(help="Sample rates in Hz, comma between.")] = RATES,
    window: Annotated[str, typer.Option(help="Length of a window (1s, 100ms).")] = "1s",
    interval: Annotated[
        str, typer.Option(help="A sensor gives one window per interval (10s, 1min).")
    ] = "10s",
    device: Annotated[str, typer.Option(help="cpu or cuda[:N].")] = "cpu",
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16 or fp32,bf16; absent: all native here.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file, too.")
    ] = None,
) -> None:
    """Measure the encoder engine on this machine, against the machine's own limit."""
    from pipeline.bench import engine as bench
    from pipeline.commands import RunError
    from pipeline.memory import keep_memory

    keep_memory()
    window_s, interval_s = seconds("--window", window), seconds("--interval", interval)
    if to is not None and (to.is_dir() or not to.absolute().parent.is_dir()):
        raise RunError(f"--json must be a file in a folder that is there, got {to}")
    try:
        plan = bench.plan(
            [name.strip() for name in models.split(",")],
            [_rate(text) for text in rates.split(",")],
            device=device,
            precisions=None if precision is None else precision.split(","),
        )
        cells = _measured(plan, window_s, interval_s)
    except (ValueError, OSError) as error:
        raise RunError(str(error)) from error
    _show(cells, window_s, interval)
    if to is not None:
        rows = [asdict(cell) for cell in cells]
        to.write_text(json.dumps({"machine": bench.machine(device), "cells": rows}, indent=1))


def _measured(plan: Sequence[Any], window_s: float, interval_s: float) -> list["Cell"]:
    cells = []
    with steps(console, len(plan), line_every_s=0.0) as advance:
        for step in plan:
            cells.append(step.measure(window_s, interval_s))
            advance(step.name)
    return cells


def _show(cells: Sequence["Cell"], window_s: float, interval: str) -> None:
    from pipeline.bench import engine as bench

    out = Console(highlight=False, emoji=False)
    if not out.is_terminal:
        out = Console(highlight=False, emoji=False, width=MAX_WIDTH)
    table = Table(box=box.SIMPLE_HEAD, title=f"{window_s:g} s windows", title_justify="left")
    for name in ("model", "rate Hz", "precision"):
        table.add_column(name, no_wrap=True)
    for name in ("windows/s a core", f"sensors at {interval}", "of the limit", "spectrogram"):
        table.add_column(name, justify="right", no_wrap=True)
    before = None
    for cell in cells:
        if before not in (None, cell.model):
            table.add_section()
        table.add_row(
            "" if before == cell.model else cell.model,
            f"{cell.sample_rate_hz:g}",
            cell.precision,
            f"{cell.windows_per_s:,.0f}",
            f"{cell.sensors:,}",
            f"{100 * cell.limit_share:.0f} %",
            f"{100 * cell.spectrum_share:.0f} %",
        )
        before = cell.model
    out.print(bench.machine_line(cells[0]), markup=False)
    out.print(table)
    out.print(
        "Encoder alone, int16 windows to embeddings; decoding, indicators and alarms come on top.\n"
        "Sensors: all cores, a worker of one thread on each. Limit: the matrix products alone.",
        markup=False,
    )


def seconds(option: str, text: str) -> float:
    """A span such as 10s, 100ms or 1min in seconds."""
    found = SPAN.fullmatch(text.strip())
    value = float(found[1]) * SECONDS[found[2]] if found else 0.0
    if value <= 0:
        raise typer.BadParameter(f"{option} must be a time such as 10s, 100ms or 1min: {text!r}")
    return value


def _rate(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"--rates must be numbers in Hz, got {text!r}") from None
