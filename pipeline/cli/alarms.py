"""`echowatch alarms ...`: what people say about alarms, of a stored run or of the live plant."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from connectors.kafka_access import Access
    from pipeline.fleet import Fleet
    from pipeline.operator import Action
    from pipeline.services.live_alarms import Answer
    from pipeline.settings import Settings

LIVE = "kafka"
EXIT_TROUBLE = 1
EXIT_UNANSWERED = 4
# Of a worker that is busy, or that starts: an idle one answers within a second or two.
WAIT_S = 30.0
EPILOG = (
    "Exit codes: 0 done (or, with --wait 0, stored), 1 could not be done or was refused, 2 wrong "
    "usage, 4 stored, but no worker has answered in time: they obey when they run."
)
AGES = ((86_400, "d"), (3600, "h"), (60, "min"))

app = typer.Typer(
    help="List, acknowledge, shelve and unshelve alarms: of a run that is not running now "
    f"(its folder), or of the live plant (the word {LIVE}).",
    no_args_is_help=True,
)

Where = Annotated[
    str, typer.Argument(help=f"The --out folder of a run, or {LIVE}: the live plant.")
]
Targets = Annotated[list[str], typer.Argument(help="Case, asset or sensor ids, see `list`.")]
By = Annotated[str, typer.Option(help="Who says so.")]
Why = Annotated[str, typer.Option(help="Why; kept with the alarm.")]
Wait = Annotated[
    float, typer.Option(min=0, help="Live: seconds to wait for the workers' answer; 0 = do not.")
]
FleetFile = Annotated[
    Path | None, typer.Option(help="Live: fleet file, if ECHOWATCH_WORKER__FLEET names none.")
]


@app.command("list")
def show(
    where: Where,
    everything: Annotated[bool, typer.Option("--all", help="Closed cases too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
    watch: Annotated[
        float | None, typer.Option(min=0.5, help="Live: show changes every so many seconds.")
    ] = None,
) -> None:
    """List the open cases, worst first."""
    if _is_live(where):
        _show_live(everything=everything, as_json=as_json, watch=watch)
        return
    if watch is not None:
        raise typer.BadParameter(f"a folder does not change: use it with {LIVE}")
    from connectors.local import LocalStore
    from pipeline.messages import Severity

    with LocalStore(Path(where)) as store:
        cases = [case for case in store.cases() if everything or case["closed_ns"] is None]
    cases.sort(key=lambda case: (-case["current"], case["opened_ns"]))
    if as_json:
        typer.echo(json.dumps(cases))
        return
    _print([(Severity(c["current"]).name, c["case_id"], "", c["sentence"]) for c in cases])


@app.command(epilog=EPILOG)
def ack(
    where: Where,
    targets: Targets,
    by: By,
    why: Why = "",
    wait: Wait = WAIT_S,
    fleet: FleetFile = None,
) -> None:
    """Acknowledge: somebody has seen the alarm; a latched one whose condition has gone ends."""
    _say(where, targets, "ack", by=by, why=why, wait=wait, fleet=fleet)


@app.command(epilog=EPILOG)
def shelve(
    where: Where,
    targets: Targets,
    by: By,
    why: Why,
    hours: Annotated[
        float, typer.Option(help="For how long, at most 168; event time, see docs/alarms.md.")
    ] = 24.0,
    wait: Wait = WAIT_S,
    fleet: FleetFile = None,
) -> None:
    """Notify nobody for a while; the alarm goes on being watched."""
    seconds = 3600.0 * hours
    _say(where, targets, "shelve", by=by, why=why, shelve_s=seconds, wait=wait, fleet=fleet)


@app.command(epilog=EPILOG)
def unshelve(
    where: Where,
    targets: Targets,
    by: By,
    why: Why = "",
    wait: Wait = WAIT_S,
    fleet: FleetFile = None,
) -> None:
    """End a shelving early."""
    _say(where, targets, "unshelve", by=by, why=why, wait=wait, fleet=fleet)


@app.command(epilog=EPILOG)
def rebaseline(
    where: Where,
    targets: Targets,
    by: By,
    why: Why,
    wait: Wait = WAIT_S,
    fleet: FleetFile = None,
) -> None:
    """Live: forget what is known of health, and the alarm with it, and learn anew."""
    _live_only(where, "a stored run learns anew with `echowatch run ... --fresh`")
    _say_live(targets, ("rebaseline",), by=by, why=why, wait=wait, fleet=fleet)


@app.command(epilog=EPILOG)
def maintenance(
    where: Where,
    targets: Targets,
    by: By,
    why: Why,
    rebaseline: Annotated[
        bool, typer.Option("--rebaseline", help="Learn anew as well: another machine now.")
    ] = False,
    wait: Wait = WAIT_S,
    fleet: FleetFile = None,
) -> None:
    """Live: note what was done to a machine; it appears beside its trends."""
    _live_only(where, "a stored run has no board to note it on")
    actions = ("maintenance", "rebaseline") if rebaseline else ("maintenance",)
    _say_live(targets, actions, by=by, why=why, wait=wait, fleet=fleet)


def _is_live(where: str) -> bool:
    if where == LIVE and Path(LIVE).exists():
        typer.echo(f"{LIVE} is the live plant; the folder of that name is ./{LIVE}", err=True)
    return where == LIVE


def _live_only(where: str, instead: str) -> None:
    if not _is_live(where):
        raise typer.BadParameter(f"only the live plant ({LIVE}) takes this: {instead}")


def _say(
    where: str,
    targets: Sequence[str],
    action: "Action",
    *,
    by: str,
    why: str,
    shelve_s: float = 0.0,
    wait: float,
    fleet: Path | None,
) -> None:
    if _is_live(where):
        actions = (action,)
        _say_live(targets, actions, by=by, why=why, shelve_s=shelve_s, wait=wait, fleet=fleet)
        return
    for target in targets:
        _say_stored(Path(where), target, action, by=by, why=why, shelve_s=shelve_s)


def _say_stored(
    folder: Path, target: str, action: "Action", *, by: str, why: str, shelve_s: float
) -> None:
    from connectors.local import LocalStore
    from pipeline.operator import OperatorError, command
    from pipeline.report.run import describe_case, stored_fleet

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


def _say_live(
    targets: Sequence[str],
    actions: Sequence[str],
    *,
    by: str,
    why: str,
    shelve_s: float = 0.0,
    wait: float,
    fleet: Path | None,
) -> None:
    from pipeline.orders import new_order
    from pipeline.services import live_alarms

    settings, access, plant = _plant(fleet)
    cases = live_alarms.read_cases(access, settings.kafka)
    chosen = {
        name: None for target in targets for name in live_alarms.resolve(target, cases, plant)
    }
    now_ns = time.time_ns()
    orders = [
        new_order(sensor_id, action, by=by, why=why, at_ns=now_ns, shelve_s=shelve_s)
        for sensor_id in chosen
        for action in actions
    ]
    with live_alarms.asking(access, settings.kafka, orders, listen=wait > 0) as asked:
        workers = wait > 0 and live_alarms.wait(asked, wait)
    if wait == 0:
        for order in orders:
            typer.echo(f"{order.sensor_id}: {order.action} is stored; workers obey it")
        return
    for answer in asked.answers.values():
        typer.echo(_answered(answer), err=bool(answer.refused))
    if not all(answer.heard for answer in asked.answers.values()):
        said = "no worker is running: the order is stored, workers obey it when they run"
        if workers:
            said = (
                f"no worker answered within {wait:g} s: the order is stored and will be obeyed, do "
                "not give it again; workers are busy or behind: `echowatch lag` tells"
            )
        typer.echo(said, err=True)
        raise typer.Exit(EXIT_UNANSWERED)
    if any(answer.refused for answer in asked.answers.values()):
        raise typer.Exit(EXIT_TROUBLE)


def _answered(answer: "Answer") -> str:
    order = answer.order
    if answer.refused:
        return f"{order.sensor_id}: {order.action} was refused: {answer.refused}"
    said = f"{order.sensor_id}: {order.action} by {order.by}"
    if not answer.heard:
        return f"{said}, stored"
    if order.action == "maintenance":
        return f"{said}, noted"
    if not answer.changes:
        return f"{said}, nothing to change"
    change = answer.changes[-1]
    marks = [
        "acknowledged" if change.acked else "",
        f"shelved until {_time(change.shelved_until_ns)}" if change.shelved_until_ns else "",
    ]
    return f"{said}, now {change.after}{_bracket(marks)}"


def _bracket(marks: Sequence[str]) -> str:
    told = ", ".join(filter(None, marks))
    return f" ({told})" if told else ""


def _time(at_ns: int) -> str:
    from pipeline.alarm_messages import iso_time

    return f"{iso_time(at_ns)[:16]}Z".replace("T", " ")


def _plant(fleet: Path | None) -> tuple["Settings", "Access", "Fleet"]:
    from pipeline.fleet import Fleet, load_fleet
    from pipeline.services.kafka_settings import access_of
    from pipeline.settings import load

    settings = load(worker=None if fleet is None else {"fleet": fleet})
    named = settings.worker.fleet
    return settings, access_of(settings.kafka), Fleet() if named is None else load_fleet(named)


def _show_live(*, everything: bool, as_json: bool, watch: float | None) -> None:
    from connectors.kafka_access import KafkaTrouble
    from pipeline.services.live_alarms import read_cases

    settings, access, _ = _plant(None)
    shown: list[dict[str, Any]] | None = None
    while True:
        try:
            found = read_cases(access, settings.kafka)
        except KafkaTrouble as trouble:
            if watch is None:
                raise
            typer.echo(f"{trouble}", err=True)
        else:
            cases = [case for case in found if everything or case["state"] == "open"]
            if cases != shown:
                _show_cases(cases, as_json=as_json, clear=watch is not None)
            shown = cases
        if watch is None:
            return
        time.sleep(watch)


def _show_cases(cases: list[dict[str, Any]], *, as_json: bool, clear: bool) -> None:
    if as_json:
        typer.echo(json.dumps(cases))
        return
    if clear and Console().is_terminal:
        Console().clear()
    elif clear:
        typer.echo(f"-- {_time(time.time_ns())}")
    _print([(c["current"].upper(), c["case_id"], _marks(c), c["sentence"]) for c in cases])


def _marks(case: Mapping[str, Any]) -> str:
    age_s = max(0, time.time_ns() - case["opened_ns"]) / 1e9
    size, unit = next((pair for pair in AGES if age_s >= pair[0]), (1, "s"))
    shelved = [sensor["shelved_until_ns"] for sensor in case["sensors"]]
    until_ns = max(shelved, default=0)
    marks = [
        "closed" if case["state"] == "closed" else "",
        f"{age_s / size:.0f} {unit}",
        "acknowledged" if case["acked"] else "",
        f"shelved until {_time(until_ns)}" if case["shelved"] and until_ns else "",
    ]
    return ", ".join(filter(None, marks))


def _print(cases: Sequence[tuple[str, str, str, str]]) -> None:
    """Severity, id, marks and sentence of each case."""
    console = Console(highlight=False)
    for severity, case_id, marks, sentence in cases:
        more = f"  [dim]{escape(marks)}[/]" if marks else ""
        console.print(f"[bold]{severity:8}[/] {escape(case_id)}{more}", soft_wrap=True)
        console.print(f"         {escape(sentence)}", soft_wrap=True)
    if not cases:
        console.print("no open case")
