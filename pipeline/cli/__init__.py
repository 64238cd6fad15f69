"""Command line in, the right shell called, errors as one line and an exit code.

What takes seconds to import (the encoder, the detectors) is imported by the command that needs it,
so that `--help`, completion and a mistyped option answer at once.
"""

import json
import math
import sqlite3
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pipeline import __version__
from pipeline.cli import (
    alarms,
    baselines,
    bench,
    influx,
    kafka,
    pretrain,
    replay,
    serve,
    simulate,
    worker,
)
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

EXIT_TROUBLE = 1
EXIT_OPEN_CASE = 3
EXIT_INTERRUPTED = 130
EXIT_CODES = (
    "Exit codes: 0 done, 1 could not be done, 2 wrong usage, 3 a case is open (only with "
    "--exit-code), 130 interrupted. Files left out by --on-error skip do not change it."
)

app = typer.Typer(
    name="echowatch",
    help="Condition monitoring a plant can trust: vibration in, few explained alarms out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console(stderr=True, highlight=False, emoji=False)


class ProfileName(StrEnum):
    """Named sets of time constants, and the choice by length."""

    AUTO = "auto"
    PLANT = "plant"
    ACCELERATED = "accelerated"
    SHORT = "short"


app.add_typer(alarms.app, name="alarms")
app.command(epilog=replay.EPILOG)(replay.replay)
app.command(epilog=simulate.EPILOG)(simulate.simulate)
app.command(epilog=worker.EPILOG)(worker.worker)
app.command(epilog=serve.EPILOG)(serve.serve)
app.add_typer(kafka.topics_app, name="topics")
app.add_typer(influx.app, name="influx")
app.add_typer(baselines.app, name="baselines")
app.add_typer(bench.app, name="bench")
app.command()(kafka.lag)
app.command()(kafka.rewind)
app.command(epilog=pretrain.EPILOG)(pretrain.pretrain)

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for results; made if absent.")]
Profile = Annotated[
    ProfileName,
    typer.Option(help="Time constants; auto: by length of recording.", envvar="ECHOWATCH_PROFILE"),
]
Model = Annotated[str | None, typer.Option(help="Shipped name, published id or checkpoint file.")]
FleetFile = Annotated[Path | None, typer.Option(help="Fleet file (YAML), see docs/fleet.md.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda[:N].")]


@app.command(epilog=EXIT_CODES)
def run(
    paths: Paths,
    out: Out = Path("echowatch-out"),
    fleet: FleetFile = None,
    profile: Profile = ProfileName.AUTO,
    model: Model = None,
    device: Device = None,
    rate: Rate = None,
    unit: Unit = None,
    scale: Scale = None,
    start: Start = None,
    period: Period = None,
    on_error: OnError = AtError.STOP,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Discard what the output folder holds.")
    ] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help=f"Exit {EXIT_OPEN_CASE} while a case is open.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Monitor recordings: learn each sensor's health, score it, alarm, write a report.

    An interrupted run goes on where it stood when the same command is given again.
    """
    from pipeline import commands

    problems: list[str] = []
    done = commands.run(
        paths,
        read_options(rate, unit, scale, start, period, on_error, problems, console),
        out=out,
        fleet_path=fleet,
        profile=profile.value,
        overrides={"model": model, "device": device},
        fresh=fresh,
        console=console,
    )
    _finish({**done, "problems": problems}, as_json=as_json, exit_code=exit_code)


@app.command()
def demo(
    out: Out = Path("echowatch-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another plant.")] = 0,
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Watch a small simulated plant: one bearing wears out, one sensor breaks."""
    from pipeline import commands

    done = commands.demo(out=out, seed=seed, overrides={"model": model}, console=console)
    _finish({**done, "problems": []}, as_json=as_json, exit_code=False)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The --out folder of a run.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="File to write; default FOLDER/report.html.")
    ] = None,
) -> None:
    """Write one self-contained HTML file with everything a run has found."""
    from pipeline import commands

    console.print(f"report: {commands.report(folder, to)}", markup=False, soft_wrap=True)


@app.command()
def embed(
    paths: Paths,
    out: Annotated[Path, typer.Option("--out", "-o", help="Parquet file.")],
    model: Model = None,
    device: Device = None,
    profile: Profile = ProfileName.AUTO,
    rate: Rate = None,
    unit: Unit = None,
    scale: Scale = None,
    start: Start = None,
    period: Period = None,
    on_error: OnError = AtError.STOP,
) -> None:
    """Write the embeddings of all windows of recordings to a Parquet file.

    Windows and gains are those of the monitor; windows of a sensor that lies are left out.
    """
    from pipeline.vectors import embed as write_embeddings

    written, left_out = write_embeddings(
        paths,
        read_options(rate, unit, scale, start, period, on_error, [], console),
        out,
        profile=profile.value,
        overrides={"model": model, "device": device},
        console=console,
    )
    rest = f", {left_out} left out: sensor not believable" if left_out else ""
    console.print(f"{written} windows in {out}{rest}", markup=False, soft_wrap=True)


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the encoders that can be named with --model."""
    from pipeline import show

    show.show_models(_stdout(), as_json=as_json)


@app.command()
def inspect(
    paths: Paths,
    rate: Rate = None,
    unit: Unit = None,
    scale: Scale = None,
    start: Start = None,
    period: Period = None,
    on_error: OnError = AtError.STOP,
    as_json: AsJson = False,
) -> None:
    """Show what a reader sees in files: channels, rate, unit, time; nothing is processed."""
    from connectors.files import describe
    from pipeline import show

    options = read_options(rate, unit, scale, start, period, on_error, [], console)
    found = [describe(path, options) for path in paths]
    show.show_descriptions(found, _stdout(), as_json=as_json)


def _version(value: bool) -> None:  # noqa: FBT001  (typer's callback signature)
    if value:
        typer.echo(f"echowatch {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Condition monitoring a plant can trust: vibration in, few explained alarms out."""


def _stdout() -> Console:
    return Console(highlight=False, emoji=False)


def _finish(done: dict[str, Any], *, as_json: bool, exit_code: bool) -> None:
    from pipeline import show

    if as_json:
        typer.echo(json.dumps(_finite(done), allow_nan=False))
    else:
        show.show_outcome(done, console)
    if not done["finished"]:
        raise typer.Exit(EXIT_INTERRUPTED)
    if exit_code and done["open_cases"]:
        raise typer.Exit(EXIT_OPEN_CASE)


def _finite(value: Any) -> Any:
    """JSON has no nan or infinity: null instead."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main(arguments: list[str] | None = None) -> None:
    """Entry point: known errors become one line on stderr and exit code 1."""
    try:
        app(arguments, standalone_mode=True)
    except (ValueError, RuntimeError, OSError, sqlite3.DatabaseError) as error:
        from pipeline.commands import USER_ERRORS

        if not isinstance(error, USER_ERRORS):
            raise
        console.print(f"error: {_said(error)}", markup=False, style="bold red", soft_wrap=True)
        sys.exit(EXIT_TROUBLE)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)
