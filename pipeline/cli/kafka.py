"""`echowatch topics|lag|rewind`: what a person does to Kafka beside the workers.

What takes time to import is imported by the command that needs it: `--help` answers at once.
"""

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.cli.options import AsJson

if TYPE_CHECKING:
    from connectors.kafka_access import Access
    from pipeline.service_settings import Kafka
    from pipeline.services.rewind import Rewind
    from pipeline.services.topic_plan import Plan
    from pipeline.services.topics import TopicSpec

topics_app = typer.Typer(help="Make or check the topics of Kafka.", no_args_is_help=True)
EXIT_TROUBLE = 1
MAX_WIDTH = 200
SETTLE_S = 5.0
SHOWN = ("retention.ms", "max.message.bytes", "cleanup.policy")
UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s"))


@topics_app.command()
def create(as_json: AsJson = False) -> None:
    """Make the topics that are missing and raise settings; nothing is shrunk.

    Topics, partitions, copies and retention are settings, see docs/settings.md. If anything has to
    be refused, nothing is changed.
    """
    from connectors import kafka as admin

    access, kafka = _kafka()
    before = _plan(access, kafka)
    refused = [f"{d.topic}: {d.what} {d.found} -> {d.wanted}: {d.refusal}" for d in before.refusals]
    done: list[str] = []
    if not refused:
        _enough_brokers(access, kafka, before)
        admin.create(access, [_topic(spec) for spec in before.missing])
        admin.grow(access, before.growth())
        admin.configure(access, before.settings())
        done = [f"{spec.name}: made, {spec.partitions} partitions" for spec in before.missing]
        done += [f"{d.topic}: {d.what} {d.found} -> {d.wanted}" for d in before.differences]
        left = _settled(access, kafka) if done else before
        refused += [left.uneven] if left.uneven else []
    if as_json:
        typer.echo(json.dumps({"done": done, "refused": refused}))
    else:
        _say(done or ([] if refused else ["all topics are as they should be"]))
        _say(refused and ["refused, nothing was changed:" if not done else "but:", *refused])
    if refused:
        raise typer.Exit(EXIT_TROUBLE)


@topics_app.command()
def check(as_json: AsJson = False) -> None:
    """Compare the topics with the settings; exit 1 if one differs or is missing."""
    from pipeline.services.topics import specs

    access, kafka = _kafka()
    found = _found(access)
    plan = _plan(access, kafka, found)
    if as_json:
        rows = [_as_json(spec, found.get(spec.name), plan) for spec in specs(kafka)]
        typer.echo(json.dumps({"topics": rows, "uneven": plan.uneven or None, "ok": plan.fits}))
    else:
        _print(_table(specs(kafka), found, plan))
        for one in plan.differences:
            if one.what not in ("partitions", "replication", *SHOWN):
                _say([f"{one.topic}: {one.what} is {one.found or 'not set'}, should {one.wanted}"])
        _say([plan.uneven] if plan.uneven else [])
        _say(["make what is missing: `echowatch topics create`"] if plan.missing else [])
    if not plan.fits:
        raise typer.Exit(EXIT_TROUBLE)


def lag(
    role: Annotated[
        Literal["signals", "cases"] | None, typer.Option(help="Whose group; both if not given.")
    ] = None,
    seconds: Annotated[
        bool, typer.Option(help="Look how old the next message of each partition is.")
    ] = True,
    watch: Annotated[
        float | None, typer.Option(min=0.5, help="Show it again every so many seconds.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how far the workers are behind; exit 1 if their group does not exist."""
    from connectors.kafka_access import KafkaTrouble

    access, kafka = _kafka()
    while True:
        try:
            exists = _lag_once(access, kafka, role, seconds=seconds, as_json=as_json)
        except KafkaTrouble as trouble:
            if watch is None:
                raise
            typer.echo(f"{trouble}", err=True)
            exists = True
        if watch is None:
            break
        time.sleep(watch)
    if not exists:
        raise typer.Exit(EXIT_TROUBLE)


def rewind(
    to: Annotated[str, typer.Option("--to", help="ISO time of Kafka's stamps, or `earliest`.")],
    role: Annotated[
        Literal["signals", "cases"], typer.Option(help="Whose group; its workers are stopped.")
    ] = "signals",
    relearn: Annotated[
        bool, typer.Option("--relearn", help="Forget the baselines, too: learn health anew.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Let the workers, which must be stopped, read old messages again.

    Baselines stay unless --relearn is given; what people said about alarms is not obeyed again.
    """
    from connectors.files.times import parse_time
    from pipeline.services.rewind import carry_out, plan

    try:
        # First message not before: a part of a millisecond counts up.
        to_ms = None if to == "earliest" else -(-parse_time(to) // 1_000_000)
    except ValueError as error:
        raise typer.BadParameter(f"{error}, or `earliest`", param_hint="--to") from error
    access, kafka = _kafka()
    wanted = plan(access, kafka, role, to_ms, relearn=relearn)
    _say(_described(wanted, role))
    if dry_run:
        return
    if not yes:
        typer.confirm("Go on?", abort=True, err=True)
    carry_out(access, wanted)
    _say(["done: start the workers"])


def _kafka() -> tuple["Access", "Kafka"]:
    from pipeline.services.kafka_settings import access_of
    from pipeline.settings import load

    kafka = load().kafka
    return access_of(kafka), kafka


def _found(access: "Access") -> dict[str, "TopicSpec"]:
    from connectors.kafka import topics
    from connectors.kafka_access import KafkaTrouble
    from pipeline.services.topics import TopicSpec

    found = topics(access)
    if hidden := [name for name, topic in found.items() if not topic.config]:
        raise KafkaTrouble(
            f"user {access.username!r} may not see the settings of {', '.join(hidden)}: log in as "
            "one who may (DescribeConfigs), such as the admin"
        )
    return {
        name: TopicSpec(name, "", topic.partitions, topic.replication, topic.config)
        for name, topic in found.items()
    }


def _plan(access: "Access", kafka: "Kafka", found: dict[str, "TopicSpec"] | None = None) -> "Plan":
    from pipeline.services.topic_plan import plan
    from pipeline.services.topics import specs

    existing = _found(access) if found is None else found
    return plan(specs(kafka), existing, kafka.signals_pattern)


def _settled(access: "Access", kafka: "Kafka") -> "Plan":
    """What is left to do, once Kafka shows everywhere what it has done."""
    deadline = time.monotonic() + SETTLE_S
    while not (left := _plan(access, kafka)).fits and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def _topic(spec: "TopicSpec") -> Any:
    from connectors.kafka import Topic

    return Topic(spec.name, spec.partitions, spec.replication, spec.config)


def _enough_brokers(access: "Access", kafka: "Kafka", plan: "Plan") -> None:
    from connectors.kafka import brokers
    from connectors.kafka_access import KafkaTrouble

    if plan.missing and kafka.replication > (count := brokers(access)):
        raise KafkaTrouble(
            f"{kafka.replication} copies need as many brokers, there is {count}: set "
            "ECHOWATCH_KAFKA__REPLICATION"
        )


def _as_json(spec: "TopicSpec", found: "TopicSpec | None", plan: "Plan") -> dict[str, Any]:
    differences = [asdict(one) for one in plan.differences if one.topic == spec.name]
    return {
        "topic": spec.name,
        "kind": spec.kind,
        "missing": found is None,
        "ok": found is not None and not differences,
        "should": _values(spec, spec),
        "is": None if found is None else _values(spec, found),
        "differences": differences,
    }


def _values(spec: "TopicSpec", topic: "TopicSpec") -> dict[str, Any]:
    config = {key: topic.config.get(key) for key in spec.config}
    return {"partitions": topic.partitions, "replication": topic.replication, "config": config}


def _table(wanted: tuple["TopicSpec", ...], found: dict[str, "TopicSpec"], plan: "Plan") -> Table:
    columns = ("partitions", "replication", "retention", "max bytes", "cleanup", "")
    table = _grid("topic", *columns)
    wrong = {(one.topic, one.what) for one in plan.differences}
    for spec in wanted:
        now = found.get(spec.name)
        if now is None:
            table.add_row(spec.name, *_cells(spec), "[red]missing[/]")
            continue
        cells = []
        names = ("partitions", "replication", *SHOWN)
        for name, is_now, should in zip(names, _cells(now), _cells(spec), strict=True):
            off = (spec.name, name) in wrong
            cells.append(f"[red]{is_now} / {should}[/]" if off else is_now)
        differs = any(topic == spec.name for topic, _ in wrong)
        table.add_row(spec.name, *cells, "[red]differs[/]" if differs else "ok")
    table.caption = "is / should"
    return table


def _grid(*columns: str) -> Table:
    """A table that shows names in full, however narrow the terminal."""
    table = Table(box=box.SIMPLE, title_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _cells(topic: "TopicSpec") -> list[str]:
    config = topic.config
    forever = "delete" not in config["cleanup.policy"]
    retention = "for ever" if forever else _duration(int(config.get("retention.ms", -1)))
    cleanup = ",".join(sorted(config["cleanup.policy"].split(",")))
    numbers = [str(topic.partitions), str(topic.replication)]
    return [*numbers, retention, config["max.message.bytes"], cleanup]


def _duration(ms: int) -> str:
    if ms < 0:
        return "for ever"
    size, unit = next((pair for pair in UNITS if ms % pair[0] == 0), (1, "ms"))
    return f"{ms // size} {unit}"


def _lag_once(
    access: "Access", kafka: "Kafka", role: str | None, *, seconds: bool, as_json: bool
) -> bool:
    from pipeline.services.lag import measure
    from pipeline.services.topics import ROLES

    roles = [one for one in ROLES if role in (None, one)]
    found = [measure(access, kafka, one, seconds=seconds) for one in roles]
    if as_json:
        typer.echo(json.dumps({"groups": [asdict(one) | {"total": one.total} for one in found]}))
    else:
        for one in found:
            _print(_lag_table(one))
    return all(one.exists for one in found)


def _lag_table(found: Any) -> Table:
    members = f"{found.members} member{'' if found.members == 1 else 's'}"
    title = f"group {found.group}: {found.state}, {members}"
    if not found.exists:
        title = f"group {found.group} does not exist: no worker has run"
    if not found.partitions:
        title += "; its topics are missing: `echowatch topics create`"
    table = _grid("topic", "partition", "committed", "end", "lag", "behind")
    table.title = title
    for one in found.partitions:
        behind = "" if one.waiting_s is None else f"{one.waiting_s:.1f} s"
        committed = "-" if one.committed is None else str(one.committed)
        table.add_row(one.topic, str(one.partition), committed, str(one.end), str(one.lag), behind)
    waits = [one.waiting_s for one in found.partitions if one.waiting_s is not None]
    table.add_row("total", "", "", "", str(found.total), f"{max(waits):.1f} s" if waits else "")
    return table


def _described(wanted: "Rewind", role: str) -> list[str]:
    """What will happen, in lines."""
    lines = [f"group {wanted.group}:"]
    moving = [move for move in wanted.moves if move.again]
    for move in moving:
        now = "none" if move.now is None else move.now
        line = f"  {move.topic} {move.partition}: offset {now} -> {move.to}, "
        line += f"{move.again} messages again" if move.again >= 0 else f"skips {-move.again}"
        lines.append(line)
    if still := len(wanted.moves) - len(moving):
        lines.append(f"  {still} partition{'' if still == 1 else 's'} with nothing to do")
    again = sum(max(move.again, 0) for move in wanted.moves)
    skipped = sum(max(-move.again, 0) for move in wanted.moves)
    lines.append(f"  {again} messages are read again")
    if skipped:
        lines.append(f"  {skipped} messages that nobody has read are skipped")
    if wanted.beyond:
        lines.append("  the time is after the newest message: every partition goes to its end")
    what = "cases are made anew" if role == "cases" else "baselines are forgotten, too"
    kept = what if wanted.relearn else "sensors keep their baselines and forget what they heard"
    lines.append(f"  {wanted.state_topic}: {len(wanted.writes)} records, {kept}")
    return lines


def _print(table: Table) -> None:
    """Print a table; where nobody looks, a line is as long as it must be."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=MAX_WIDTH)
    console.print(table)


def _say(lines: list[str]) -> None:
    for line in lines:
        typer.echo(line, err=True)
