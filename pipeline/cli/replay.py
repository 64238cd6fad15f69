"""`echowatch replay ...`: recordings as live signals on Kafka."""

import json
import math
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from pipeline.cli.options import (
    AsJson,
    AtError,
    OnError,
    Paths,
    Period,
    Rate,
    Scale,
    Start,
    Unit,
    read_options,
)

if TYPE_CHECKING:
    from connectors.kafka_access import Access
    from pipeline.replay.stream import Selection
    from pipeline.service_settings import Kafka

EXIT_INTERRUPTED = 130
# Of a table that goes into a file or another program.
MAX_WIDTH = 300
EPILOG = (
    "Brokers, passwords and certificates are settings: docs/settings.md; the rest is in "
    "docs/replay.md. Exit codes: 0 all sent, 1 could not be done, 2 wrong usage, 130 interrupted."
)
console = Console(stderr=True, highlight=False, emoji=False)


class Target(StrEnum):
    """Where signals can be sent to."""

    KAFKA = "kafka"


To = Annotated[Target, typer.Option(help="Where to; see ECHOWATCH_KAFKA__*.")]
Topic = Annotated[
    str | None, typer.Option(help="Topic; default the first of ECHOWATCH_KAFKA__SIGNALS.")
]
Speed = Annotated[
    str, typer.Option(help="Seconds of recording per second, or max.", metavar="N|max")
]
MaxGap = Annotated[
    float | None, typer.Option(min=0, help="Shorten longer pauses to these seconds.")
]
From = Annotated[
    str | None, typer.Option("--from", help="ISO time; what starts earlier is left out.")
]
Until = Annotated[str | None, typer.Option(help="ISO time; what starts then or later is left out.")]
Loop = Annotated[str, typer.Option(help="How often, time going on.", metavar="N|forever")]
Shift = Annotated[
    str, typer.Option(help="Move all times; now: begin at the present.", metavar="SECONDS|now")
]
Names = Annotated[
    Path | None, typer.Option("--map", help="YAML file, `recorded sensor: sensor` per line.")
]
Prefix = Annotated[str, typer.Option(help="Put before all sensor ids, with a slash.")]
MaxLag = Annotated[
    int, typer.Option(min=0, help="Messages that may wait for the workers; 0 = any number.")
]
Resume = Annotated[
    Path | None,
    typer.Option(help="Record of what was sent; default replay-TOPIC-xxxxxxxx.json here."),
]
Again = Annotated[bool, typer.Option("--again", help="Begin anew, whatever the record says.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Read all, show what would be sent, send nothing.")
]


def replay(
    paths: Paths, *, to: To = Target.KAFKA, topic: Topic = None, speed: Speed = "1",
    max_gap: MaxGap = None, from_time: From = None, until: Until = None, loop: Loop = "1",
    shift: Shift = "0", names: Names = None, prefix: Prefix = "", max_lag: MaxLag = 20_000,
    resume: Resume = None, again: Again = False, dry_run: DryRun = False, rate: Rate = None,
    unit: Unit = None, scale: Scale = None, start: Start = None, period: Period = None,
    on_error: OnError = AtError.STOP, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Send recordings to Kafka as if their sensors were speaking now.

    An interrupted replay goes on where it stood when the same command is given again: nothing is
    left out, nothing is sent twice.
    """
    from pipeline.replay import replay as shell
    from pipeline.services.topics import group_of
    from pipeline.settings import load

    del to  # there is one
    settings = load()
    kafka = settings.kafka
    job = shell.Job(
        paths=paths,
        options=read_options(rate, unit, scale, start, period, on_error, [], console),
        topic=topic or kafka.signals[0],
        group=group_of(kafka, "signals"),
        selection=_selection(from_time, until, names, prefix, loop),
        shift_ns=_shift(shift),
        speed=_speed(speed),
        max_gap_s=math.inf if max_gap is None else max_gap,
        max_lag=max_lag,
        record=resume,
        again=again,
        future_s=settings.worker.future_s,
    )
    if dry_run:
        found = shell.dry_run(job, _access(kafka), kafka.partitions, console)
        _show_plan(found, as_json=as_json)
        return
    _show_done(shell.replay(job, _access(kafka), console), as_json=as_json)


def _selection(
    from_time: str | None, until: str | None, names: Path | None, prefix: str, loop: str
) -> "Selection":
    from pipeline.replay.replay import names_in
    from pipeline.replay.stream import Selection

    return Selection(
        from_ns=_time(from_time, "--from"),
        until_ns=_time(until, "--until"),
        names={} if names is None else names_in(names),
        prefix=prefix.rstrip("/"),
        laps=_laps(loop),
    )


def _shift(text: str) -> int | Literal["now"]:
    from pipeline.replay.stream import seconds_ns

    return "now" if text == "now" else seconds_ns(_number(text, "--shift", "or now"))


def _access(kafka: "Kafka") -> "Access":
    from pipeline.replay.record import ReplayError
    from pipeline.services.kafka_settings import access_of

    try:
        return access_of(kafka)
    except ValueError as error:
        raise ReplayError(str(error)) from error


def _show_done(done: dict[str, Any], *, as_json: bool) -> None:
    totals, finished = done["totals"], done["status"] == "finished"
    if as_json:
        typer.echo(json.dumps(done))
    else:
        left_out = sum(done["refused"].values())
        said = (
            f"sent {totals['chunks']} chunks ({totals['bytes'] / 1e6:.1f} MB) of "
            f"{len(done['sensors'])} sensors to {done['job']['topic']}"
            + (f", {left_out} left out" if left_out else "")
        )
        next_step = (
            f"record: {done['path']}"
            if finished
            else f"interrupted: the same command goes on (record: {done['path']})"
        )
        console.print(f"{said}; {next_step}", markup=False, soft_wrap=True)
    if not finished:
        raise typer.Exit(EXIT_INTERRUPTED)


def _show_plan(found: dict[str, Any], *, as_json: bool) -> None:
    from connectors.files.times import format_time

    if as_json:
        typer.echo(json.dumps(found))
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("sensor", "chunks", "MB", "Hz", "first", "last", "partition"):
        table.add_column(title, overflow="fold")
    for name, tally in found["sensors"].items():
        table.add_row(
            name,
            str(tally["chunks"]),
            f"{tally['bytes'] / 1e6:.2f}",
            f"{tally['rate_hz']:g}",
            format_time(tally["first_ns"])[:19],
            format_time(tally["last_ns"])[:19],
            str(tally["partition"]),
        )
    out = Console(highlight=False, emoji=False)
    if not out.is_terminal:
        out.width = MAX_WIDTH
    out.print(table)
    totals, laps = found["totals"], found["laps"]
    times = "" if laps == 1 else f", {'without end' if laps is None else f'{laps} times'}"
    out.print(
        f"{totals['chunks']} chunks, {totals['bytes'] / 1e6:.1f} MB{times}, for {found['topic']}; "
        "nothing was sent",
        markup=False,
    )


def _time(text: str | None, option: str) -> int | None:
    from connectors.files.times import parse_time

    if text is None:
        return None
    try:
        return parse_time(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {error}") from error


def _number(text: str, option: str, otherwise: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise typer.BadParameter(f"{option} takes a number {otherwise}, got {text!r}")
    return number


def _speed(text: str) -> float:
    speed = math.inf if text == "max" else _number(text, "--speed", "above 0, or max")
    if speed <= 0:
        raise typer.BadParameter(f"--speed takes a number above 0, or max, got {text!r}")
    return speed


def _laps(text: str) -> int | None:
    if text == "forever":
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text) or not int(text):
        raise typer.BadParameter(f"--loop takes a number from 1 on, or forever, got {text!r}")
    return int(text)
