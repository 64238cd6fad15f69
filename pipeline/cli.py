"""Command line in, the right shell called, errors as one line and an exit code."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from connectors.files import ReadError, ReadOptions, describe
from connectors.local import LocalStore, StoreError
from pipeline import __version__, commands, show
from pipeline.fleet import FleetError
from pipeline.settings import SettingsError

EXIT_TROUBLE = 1
EXIT_OPEN_CASE = 3
EXIT_INTERRUPTED = 130

USER_ERRORS = (ReadError, StoreError, FleetError, SettingsError, commands.RunError)

app = typer.Typer(
    name="echowatch",
    help="Condition monitoring a plant can trust: vibration in, few explained alarms out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console(stderr=True, highlight=False)

Paths = Annotated[list[Path], typer.Argument(help="Recordings: files or folders, of any mix.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for results; made if absent.")]
Profile = Annotated[
    str, typer.Option(help="plant, accelerated, short, or auto (by the length of the recordings).")
]
Model = Annotated[str | None, typer.Option(help="Shipped name or checkpoint file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Rate = Annotated[float | None, typer.Option(help="Sample rate in Hz where files hold none.")]
Unit = Annotated[str | None, typer.Option(help="Unit of the values (g, m/s2, Pa, ...).")]
Scale = Annotated[float | None, typer.Option(help="Unit per number in the files.")]
Start = Annotated[str | None, typer.Option(help="ISO time of the first file without a time.")]
Period = Annotated[float | None, typer.Option(help="Seconds between files without a time.")]
OnError = Annotated[
    Literal["stop", "skip"], typer.Option(help="At a broken file: stop, or report and skip it.")
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda[:N].")]


def _options(
    rate: float | None,
    unit: str | None,
    scale: float | None,
    start: str | None,
    period: float | None,
    on_error: Literal["stop", "skip"],
    problems: list[str],
) -> ReadOptions:
    def problem(text: str) -> None:
        problems.append(text)
        console.print(f"note: {text}", markup=False)

    try:
        return ReadOptions(
            sample_rate_hz=rate,
            unit=unit,
            scale=scale,
            start=start,
            period_s=period,
            on_error=on_error,
            on_problem=problem,
        )
    except ValueError as error:
        raise commands.RunError(str(error)) from error


@app.command()
def run(
    paths: Paths,
    out: Out = Path("echowatch-out"),
    fleet: Annotated[
        Path | None, typer.Option(help="Fleet file (YAML), see docs/fleet.md.")
    ] = None,
    profile: Profile = "auto",
    model: Model = None,
    device: Device = None,
    rate: Rate = None,
    unit: Unit = None,
    scale: Scale = None,
    start: Start = None,
    period: Period = None,
    on_error: OnError = "stop",
    fresh: Annotated[bool, typer.Option(help="Discard what the output folder holds.")] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help=f"Exit {EXIT_OPEN_CASE} while a case is open.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Monitor recordings: learn each sensor's health, score it, alarm, write results and a report.

    An interrupted run goes on where it stood when the same command is given again.
    """
    problems: list[str] = []
    options = _options(rate, unit, scale, start, period, on_error, problems)
    done = commands.run(
        paths,
        options,
        out=out,
        fleet_path=fleet,
        profile=profile,
        overrides={"model": model, "device": device},
        fresh=fresh,
        console=console,
    )
    _finish(done, problems, as_json=as_json, exit_code=exit_code)


@app.command()
def demo(
    out: Out = Path("echowatch-demo"),
    seed: Annotated[int, typer.Option(help="Another seed, another plant.")] = 0,
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Watch a small simulated plant: one bearing wears out, one sensor breaks."""
    done = commands.demo(out=out, seed=seed, overrides={"model": model}, console=console)
    _finish(done, [], as_json=as_json, exit_code=False)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The --out folder of a run.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="File; report.html in the folder.")
    ] = None,
) -> None:
    """Write one self-contained HTML file with everything a run has found."""
    with LocalStore(folder) as store:
        path = commands.write_report(store, to or folder / "report.html")
    console.print(f"report: {path}", markup=False)


@app.command()
def simulate(
    out: Out = Path("echowatch-plant"),
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    sensors: Annotated[int, typer.Option(min=1, help="How many sensors.")] = 20,
    hours: Annotated[float, typer.Option(min=0.05, help="Length in hours.")] = 2.0,
    every: Annotated[float, typer.Option(min=1.0, help="Seconds between captures.")] = 10.0,
    faults: Annotated[bool, typer.Option(help="Inject machine and sensor faults.")] = True,
) -> None:
    """Write recordings of a simulated plant, its fleet file and the truth about its faults."""
    commands.simulate(out, seed=seed, sensors=sensors, hours=hours, every_s=every, faults=faults)
    console.print(f"try: echowatch run {out} --fleet {out / 'fleet.yaml'}", markup=False)


@app.command()
def embed(
    paths: Paths,
    out: Annotated[Path, typer.Option("--out", "-o", help="Parquet file.")],
    model: Model = None,
    device: Device = None,
    profile: Profile = "auto",
    rate: Rate = None,
    unit: Unit = None,
    scale: Scale = None,
    start: Start = None,
    period: Period = None,
    on_error: OnError = "stop",
) -> None:
    """Write the embeddings of all windows of recordings to a Parquet file."""
    options = _options(rate, unit, scale, start, period, on_error, [])
    rows = commands.embed(
        paths, options, out, profile=profile, overrides={"model": model, "device": device}
    )
    console.print(f"{rows} windows in {out}", markup=False)


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the encoders that can be named with --model."""
    show.show_models(Console(highlight=False), as_json=as_json)


@app.command()
def inspect(
    paths: Paths,
    rate: Rate = None,
    unit: Unit = None,
    scale: Scale = None,
    start: Start = None,
    period: Period = None,
    as_json: AsJson = False,
) -> None:
    """Show what a reader sees in files: channels, rate, unit, time; nothing is processed."""
    options = _options(rate, unit, scale, start, period, "stop", [])
    found = [describe(path, options) for path in paths]
    show.show_descriptions(found, Console(highlight=False), as_json=as_json)


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
    """Condition monitoring a plant can trust."""


def _finish(done: dict[str, Any], problems: list[str], *, as_json: bool, exit_code: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**done, "problems": problems}))
    else:
        show.show_outcome(done, console)
    if not done["finished"]:
        raise typer.Exit(EXIT_INTERRUPTED)
    if exit_code and done["open_cases"]:
        raise typer.Exit(EXIT_OPEN_CASE)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: known errors become one line on stderr and exit code 1."""
    try:
        app(arguments, standalone_mode=True)
    except USER_ERRORS as error:
        console.print(f"error: {error}", markup=False, style="bold red")
        sys.exit(EXIT_TROUBLE)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
