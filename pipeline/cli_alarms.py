"""`echowatch alarms ...`: what people say about the alarms of a stored run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from pipeline.operator import Action

app = typer.Typer(
    help="List, acknowledge, shelve and unshelve the alarms of a run that is not running now.",
    no_args_is_help=True,
)

Folder = Annotated[Path, typer.Argument(help="The --out folder of a run.")]
Target = Annotated[str, typer.Argument(help="Case id, asset id or sensor id, see `list`.")]
By = Annotated[str, typer.Option(help="Who says so.")]
Why = Annotated[str, typer.Option(help="Why; kept with the alarm.")]


@app.command("list")
def show(
    folder: Folder,
    everything: Annotated[bool, typer.Option("--all", help="Closed cases too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """List the open cases, worst first."""
    from connectors.local import LocalStore
    from pipeline.messages import Severity

    with LocalStore(folder) as store:
        cases = [case for case in store.cases() if everything or case["closed_ns"] is None]
    cases.sort(key=lambda case: (-case["current"], case["opened_ns"]))
    if as_json:
        typer.echo(json.dumps(cases))
        return
    console = Console(highlight=False)
    for case in cases:
        severity = Severity(case["current"]).name
        console.print(f"[bold]{severity:8}[/] {escape(case['case_id'])}", soft_wrap=True)
        console.print(f"         {escape(case['sentence'])}", soft_wrap=True)
    if not cases:
        console.print("no open case")


@app.command()
def ack(folder: Folder, target: Target, by: By, why: Why = "") -> None:
    """Acknowledge: somebody has seen the alarm; a latched one whose condition has gone ends."""
    _say(folder, target, "ack", by=by, why=why)


@app.command()
def shelve(
    folder: Folder,
    target: Target,
    by: By,
    why: Why,
    hours: Annotated[float, typer.Option(help="For how long, at most 168.")] = 24.0,
) -> None:
    """Notify nobody for a while; the alarm goes on being watched."""
    _say(folder, target, "shelve", by=by, why=why, shelve_s=3600.0 * hours)


@app.command()
def unshelve(folder: Folder, target: Target, by: By, why: Why = "") -> None:
    """End a shelving early."""
    _say(folder, target, "unshelve", by=by, why=why)


def _say(
    folder: Path, target: str, action: "Action", *, by: str, why: str, shelve_s: float = 0.0
) -> None:
    from connectors.local import LocalStore
    from pipeline.operator import OperatorError, command
    from pipeline.run_report import describe_case, stored_fleet

    with LocalStore(folder) as store:
        facts = store.facts()
        if "settings" not in facts or "chunks" not in facts:
            raise OperatorError(f"{folder} holds no processed window yet: run first")
        fleet = stored_fleet(facts)
        done = command(
            store,
            target,
            action,
            by=by,
            why=why,
            shelve_s=shelve_s,
            describe_case=lambda case: describe_case(case, fleet),
            asset_of=fleet.asset_of,
        )
    for change in done:
        typer.echo(f"{change.sensor_id}: {change.action} by {by}, now {change.after}")
    if not done:
        typer.echo("nothing to change")
