"""`echowatch simulate ...`: a simulated plant as recordings, or as live signals on Kafka."""

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pipeline.cli.options import AsJson

if TYPE_CHECKING:
    from pipeline.settings import Settings
    from pipeline.simulation.live import Job

EXIT_INTERRUPTED = 130
EPILOG = (
    "What the plant on Kafka contains is in docs/simulation.md; brokers and passwords are "
    "settings (docs/settings.md). Exit codes: 0 all sent (live: until Ctrl-C), 1 could not be "
    "done, 2 wrong usage, 130 interrupted before the present was reached."
)
EVERY_S = {"files": 10.0, "kafka": 60.0}
UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
console = Console(stderr=True, highlight=False, emoji=False)


class To(StrEnum):
    """Where a plant goes."""

    FILES = "files"
    KAFKA = "kafka"


class PlantName(StrEnum):
    """Plants that can be simulated."""

    SAMPLE = "sample"
    DEMO = "demo"


Out = Annotated[Path, typer.Option("--out", "-o", help="Files: folder for them; made if absent.")]
Where = Annotated[To, typer.Option(help="Recordings, or messages as of now.")]
Plant = Annotated[
    PlantName | None,
    typer.Option(help="sample: files of any number of sensors; demo: a mill of 60, on Kafka."),
]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same machines.")]
Sensors = Annotated[int, typer.Option(min=1, help="Files: how many sensors.")]
Hours = Annotated[float, typer.Option(min=0.05, help="Files: length in hours.")]
Every = Annotated[
    float | None,
    typer.Option(min=1.0, help="Seconds between captures; default files 10, Kafka 60."),
]
Faults = Annotated[bool, typer.Option(help="Files: inject machine and sensor faults.")]
History = Annotated[
    str, typer.Option(help="Kafka: length of what is sent first, up to now.", metavar="8h|0")
]
Live = Annotated[bool, typer.Option("--live", help="Kafka: go on in real time, until Ctrl-C.")]
FleetOut = Annotated[
    Path | None, typer.Option(help="Kafka: write the fleet file that the workers need.")
]
Topic = Annotated[
    str | None, typer.Option(help="Kafka: default the first of ECHOWATCH_KAFKA__SIGNALS.")
]
Orders = Annotated[
    bool, typer.Option(help="Kafka: send what people say (acknowledge, re-baseline), too.")
]
MaxLag = Annotated[
    int, typer.Option(min=0, help="Kafka: messages that may wait for the workers; 0 = any.")
]
Resume = Annotated[
    Path | None,
    typer.Option(help="Kafka: how far it is; default simulate-TOPIC-xxxxxxxx.json here."),
]
Again = Annotated[
    bool, typer.Option("--again", help="Kafka: begin anew, whatever the record says.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Kafka: show what would be sent, send nothing.")
]


def simulate(
    *, out: Out = Path("echowatch-plant"), to: Where = To.FILES, plant: Plant = None,
    seed: Seed = 0, sensors: Sensors = 20, hours: Hours = 2.0, every: Every = None,
    faults: Faults = True, history: History = "8h", live: Live = False,
    fleet_out: FleetOut = None, topic: Topic = None, orders: Orders = True,
    max_lag: MaxLag = 2000, resume: Resume = None, again: Again = False,
    dry_run: DryRun = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Make a simulated plant: recordings, or signals on Kafka that end now and may go on.

    Sent to Kafka, a mill lives through a few hours as fast as the workers follow, and then goes on
    in real time. The same command goes on where it was interrupted.
    """
    every_s = EVERY_S[to] if every is None else every
    if plant is not None and (plant is PlantName.DEMO) != (to is To.KAFKA):
        raise typer.BadParameter("--plant demo goes --to kafka, --plant sample --to files")
    if to is To.FILES:
        _write(out, seed=seed, sensors=sensors, hours=hours, every_s=every_s, faults=faults)
        return
    from pipeline.settings import load
    from pipeline.simulation.live import Job

    settings = load()
    job = Job(
        kafka=settings.kafka,
        topic=topic or settings.kafka.signals[0],
        seed=seed,
        history_s=_seconds(history),
        every_s=every_s,
        live=live,
        orders=orders,
        max_lag=max_lag,
        record=resume,
        again=again,
    )
    _send(job, settings, fleet_out, dry_run=dry_run, as_json=as_json)


def _write(
    out: Path, *, seed: int, sensors: int, hours: float, every_s: float, faults: bool
) -> None:
    from pipeline import commands

    commands.simulate(
        out,
        seed=seed,
        sensors=sensors,
        hours=hours,
        every_s=every_s,
        faults=faults,
        console=console,
    )
    fleet = out / "fleet.yaml"
    console.print(f"try: echowatch run {out} --fleet {fleet}", markup=False, soft_wrap=True)


def _send(
    job: "Job", settings: "Settings", fleet_out: Path | None, *, dry_run: bool, as_json: bool
) -> None:
    from pipeline.services.kafka_settings import access_of
    from pipeline.simulation import live as simulate_live
    from pipeline.simulation.fleet import fleet_yaml

    if fleet_out is not None:
        fleet_out.write_text(fleet_yaml(), encoding="utf-8")
        console.print(
            f"fleet file for the workers: ECHOWATCH_WORKER__FLEET={fleet_out}",
            markup=False, soft_wrap=True,
        )  # fmt: skip
    _advise(job, settings)
    if dry_run:
        _show_plan(simulate_live.planned(job), as_json=as_json)
        return
    done = simulate_live.simulate(job, access_of(settings.kafka), console)
    finished = done["status"] == "finished"
    if as_json:
        typer.echo(json.dumps(done))
    else:
        end = "" if finished else "; interrupted before the present"
        said = f"sent {done['sent']} messages{end}; the same command goes on ({done['path']})"
        console.print(said, markup=False, soft_wrap=True)
    if not finished:
        raise typer.Exit(EXIT_INTERRUPTED)


def _advise(job: "Job", settings: "Settings") -> None:
    """Say where workers with these settings would not have learnt when the story begins."""
    from pipeline.simulation.live import STORY_S
    from pipeline.simulation.story import QUIET

    quiet_s = QUIET * (job.history_s or STORY_S)
    needed_s = max(settings.learning.min_span_s, settings.learning.min_windows * job.every_s)
    if needed_s > quiet_s:
        console.print(
            f"note: with these settings workers learn for {needed_s / 3600:.1f} h, but the first "
            f"machine falls ill after {quiet_s / 3600:.1f} h: set ECHOWATCH_PROFILE=accelerated "
            "for the workers, a longer --history, or captures more often (--every)",
            markup=False,
            soft_wrap=True,
        )


def _show_plan(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found))
        return
    for sensor_id, rate_hz in found["sensors"].items():
        typer.echo(f"{sensor_id:44} {rate_hz:>7g} Hz")
    typer.echo(
        f"{len(found['sensors'])} sensors, up to {found['captures']} captures of each up to now, "
        f"for {found['topic']}; nothing was sent"
    )


def _seconds(text: str) -> float:
    """A length of time, e.g. 8h, 90min, 0."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h|d)?", text.strip())
    if match is None or (match[2] is None and float(match[1])):
        raise typer.BadParameter(f"--history takes a length as 8h, 90min or 0, got {text!r}")
    return float(match[1]) * UNITS_S[match[2] or "s"]
