"""`echowatch influx ...`: what an operator does to InfluxDB beside the workers.

What takes time to import is imported by the command that needs it: `--help` answers at once.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.cli.options import AsJson

if TYPE_CHECKING:
    from pipeline.services.influx_status import Status

app = typer.Typer(
    help="Set InfluxDB up and look after it; needs the operator's token.", no_args_is_help=True
)
EXIT_TROUBLE = 1
MAX_WIDTH = 200
DAY_S = 86_400


@app.command()
def init(
    tokens: Annotated[
        Path | None,
        typer.Option(help="Folder for the tokens of workers and Grafana; what works there stays."),
    ] = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="Make new tokens; the old ones go on to work.")
    ] = False,
    revoke: Annotated[
        bool, typer.Option("--revoke", help="End all earlier tokens that are not in the folder.")
    ] = False,
    backfill: Annotated[
        str | None, typer.Option(help="ISO time from which to roll history up again.")
    ] = None,
    shorten: Annotated[
        bool, typer.Option("--shorten", help="Let buckets keep points for less time than now.")
    ] = False,
) -> None:
    """Make buckets, roll-ups, the removal of old points, and tokens that may do one thing only.

    What exists stays, and is changed where the settings say otherwise. A server that was never set
    up gets its organisation and the operator's token that the settings name.
    """
    from pipeline.services import influx_init
    from pipeline.settings import load

    if tokens is None and (renew or revoke):
        raise typer.BadParameter("--renew and --revoke need --tokens")
    start_s = None if backfill is None else _time_s(backfill)
    influx = load().influx
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        typer.echo(line, err=True)

    with influx_init.operator_of(influx) as admin:
        influx_init.init(admin, influx, say, backfill_s=start_s, shorten=shorten)
        if tokens is not None:
            influx_init.write_tokens(admin, influx, tokens, say, renew=renew, revoke=revoke)
    if not said:
        typer.echo("InfluxDB is as it should be", err=True)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show buckets, tasks and series; exit 1 if something is missing or has failed."""
    from pipeline.services import influx_init, influx_status
    from pipeline.settings import load

    influx = load().influx
    with influx_init.operator_of(influx) as admin:
        found = influx_status.status(admin, influx)
    if as_json:
        more = {"series": found.series, "most_series": influx_status.MOST_SERIES}
        typer.echo(json.dumps({**asdict(found), **more, "problems": found.problems}))
    else:
        _show(found, influx_status.MOST_SERIES)
    if found.problems:
        raise typer.Exit(EXIT_TROUBLE)


def _time_s(text: str) -> int:
    """Unix seconds of an ISO time."""
    from connectors.files.times import parse_time  # takes seconds to import

    try:
        return parse_time(text) // 1_000_000_000
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--backfill") from error


def _show(found: "Status", most: int) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=MAX_WIDTH)
    buckets = _grid("bucket", "keeps", "series")
    for row in found.buckets:
        buckets.add_row(row.name, _days(row.keep_s), f"{row.series:,}")
    buckets.add_row("all", "", f"{found.series:,} of {most:,}")
    tasks = _grid("task", "state", "has run up to", "")
    for task in found.tasks:
        tasks.add_row(task.name, task.state, task.last_at, task.why)
    console.print(buckets, tasks)
    for problem in found.problems:
        typer.echo(problem, err=True)


def _grid(*columns: str) -> Table:
    table = Table(box=box.SIMPLE)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _days(keep_s: int | None) -> str:
    if keep_s is None:
        return "missing"
    return f"{keep_s / DAY_S:g} d" if keep_s else "for ever"
