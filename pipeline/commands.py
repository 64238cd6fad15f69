"""What each command does, joined from readers, monitor, store and report.

The one place that knows both connectors and the pipeline; `pipeline.cli` only parses and prints.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from connectors.files import Description, ReadError, ReadOptions, describe, read
from connectors.files.times import parse_time
from connectors.files.write import write_recordings
from connectors.influx import InfluxError
from connectors.kafka_access import AccessError, KafkaTrouble
from connectors.local import FILE_NAME, LocalStore, StoreError
from pipeline import __version__
from pipeline.assembly import build_monitor
from pipeline.cases import CaseBook
from pipeline.embedded import EmbeddedRun, Progress, RestoreError
from pipeline.encoders import ModelError, load_engine
from pipeline.extent import Extent, extent_of
from pipeline.fleet import Fleet, FleetError, load_fleet, parse_fleet
from pipeline.messages import SensorChunk
from pipeline.operator import OperatorError
from pipeline.orders import BadOrder
from pipeline.outcome import outcome
from pipeline.replay.record import ReplayError
from pipeline.report.page import render
from pipeline.report.run import collect, describe_case
from pipeline.service_settings import SecretError
from pipeline.services.live_alarms import LiveError
from pipeline.settings import Settings, SettingsError, load
from pipeline.simulation import simulate as simulation
from pipeline.simulation.record import SimulateError
from pipeline.terminal import interruptible, meter

LOCK_NAME = "echowatch.lock"


class RunError(ValueError):
    """A run that cannot be done as asked, in words."""


USER_ERRORS = (
    ReadError, StoreError, FleetError, SettingsError, OperatorError, RunError, RestoreError,
    ReplayError, SimulateError, ModelError, AccessError, KafkaTrouble, InfluxError, LiveError,
    BadOrder, SecretError, OSError, sqlite3.DatabaseError,
)  # fmt: skip
"""Mistakes that a person can mend; anything else is one of ours and shows its traceback."""


def run(
    paths: Sequence[Path],
    options: ReadOptions,
    *,
    out: Path,
    fleet_path: Path | None,
    profile: str,
    overrides: Mapping[str, Any],
    fresh: bool,
    console: Console,
) -> dict[str, Any]:
    """Monitor recordings into a folder and write its report."""
    fleet = _fleet(fleet_path)
    found = [describe(path, options) for path in paths]
    extent = recorded_extent(found, options)
    chunks = read(paths, options=options)
    settings = chosen_settings(extent, profile, overrides, console)
    if fleet_path is not None:
        _compare(fleet, found, console)
    title = fleet.name or ", ".join(path.resolve().name for path in paths)
    return _monitor(
        chunks,
        fleet,
        settings,
        out=out,
        facts={
            "title": title,
            "sources": [str(path.resolve()) for path in paths],
            "recordings": dict(extent.facts),
        },
        extent=extent,
        fresh=fresh,
        console=console,
    )


def demo(*, out: Path, seed: int, overrides: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """Simulate a small plant and monitor it; the truth lies beside the report."""
    plant = simulation.demo_plant(seed)
    _make_folder(out)
    (out / "fleet.yaml").write_text(plant.fleet_yaml, encoding="utf-8")
    (out / "truth.csv").write_text(simulation.truth_csv(plant), encoding="utf-8")
    sensors = len(plant.sensors)
    extent = Extent(
        plant.start_ns, plant.hours * 3600, timed=True, channels=sensors, captures=plant.captures
    )
    return _monitor(
        plant.chunks(),
        parse_fleet(plant.fleet_yaml, "fleet.yaml"),
        load(profile="accelerated", **overrides),
        out=out,
        facts={
            "title": f"Demo plant (simulated, seed {seed})",
            "sources": [f"demo seed {seed}"],
            "recordings": dict(extent.facts),
        },
        extent=extent,
        fresh=True,
        console=console,
    )


def _monitor(
    chunks: Iterable[SensorChunk],
    fleet: Fleet,
    settings: Settings,
    *,
    out: Path,
    facts: dict[str, Any],
    extent: Extent,
    fresh: bool,
    console: Console,
) -> dict[str, Any]:
    engine = load_engine(settings)
    facts |= {
        "profile": settings.profile,
        "model_id": engine.model_id,
        "trained": engine.trained,
        "settings": settings.of_results(),
        "fleet": [asdict(info) for info in fleet.sensors],
    }
    _make_folder(out)
    with _alone(out):
        if fresh:
            _discard(out)
        with LocalStore(out, create=True) as store:
            _check_same_run(store, facts, out)
            store.set_facts({**facts, "version": __version__})
            job = EmbeddedRun(
                build_monitor(settings, fleet, engine),
                CaseBook(reopen_s=settings.delays.reopen_s),
                store,
                describe_case=lambda case: describe_case(case, fleet),
            )
            began, already = time.monotonic(), job.progress.finished
            if not already:
                _drive(job, chunks, extent, console)
            seconds = round(time.monotonic() - began, 2)
            _check_not_empty(store, job.progress, settings)
            report_path = write_report(store, out / "report.html")
            found = outcome(store, job.progress, timed=extent.timed)
    return {**found, "already_complete": already, "seconds": seconds, "report": str(report_path)}


def _drive(
    job: EmbeddedRun, chunks: Iterable[SensorChunk], extent: Extent, console: Console
) -> None:
    with meter(console, extent.first_ns, extent.length_s) as show, interruptible() as stop:

        def advance(progress: Progress) -> None:
            show(progress.event_ns, f"{progress.windows} windows")

        job.run(chunks, stop=stop, advance=advance)


def write_report(store: LocalStore, path: Path) -> Path:
    """Write the self-contained HTML report of a store."""
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    path.write_text(render(collect(store, created=created)), encoding="utf-8")
    return path


def report(folder: Path, to: Path | None) -> Path:
    """Write the report of what a run has found so far.

    Raises:
        StoreError: where the folder holds no results.
    """
    with LocalStore(folder) as store:
        if "settings" not in store.facts():
            raise StoreError(f"{folder} holds no results yet: give the --out folder of a run")
        return write_report(store, to or folder / "report.html")


def simulate(
    out: Path,
    *,
    seed: int,
    sensors: int,
    hours: float,
    every_s: float,
    faults: bool,
    console: Console,
) -> None:
    """Write recordings, fleet file and truth of a simulated plant."""
    if (out / "index.csv").exists():
        raise RunError(f"{out} holds recordings already: remove them, or give another --out")
    try:
        plant = simulation.plant(seed, sensors=sensors, hours=hours, every_s=every_s, faults=faults)
    except ValueError as error:
        raise RunError(str(error)) from error
    _make_folder(out)
    with meter(console, plant.start_ns, plant.hours * 3600) as show:

        def record(chunks: Iterable[SensorChunk], folder: Path) -> int:
            return write_recordings(_shown(chunks, show), folder, description="simulated plant")

        simulation.write(plant, out, record)


def _shown(
    chunks: Iterable[SensorChunk], show: Callable[[int, str], None]
) -> Iterator[SensorChunk]:
    for number, chunk in enumerate(chunks, start=1):
        show(chunk.start_ns, f"{number} captures")
        yield chunk


def recorded_extent(found: Sequence[Description], options: ReadOptions) -> Extent:
    """What recordings span when they are read with these options."""
    start_ns = None if options.start is None else parse_time(options.start)
    return extent_of(found, start_ns=start_ns, period_s=options.period_s)


def chosen_settings(
    extent: Extent, profile: str, overrides: Mapping[str, Any], console: Console
) -> Settings:
    """Settings of the profile that was asked for, or of the one that suits the recordings."""
    if profile == "auto":
        profile, why = extent.profile()
        settings = load(profile=profile, **overrides)
        console.print(f"profile {profile}: {why}", markup=False)
        return settings
    return load(profile=profile, **overrides)


def _fleet(path: Path | None) -> Fleet:
    if path is None:
        return Fleet()
    try:
        return load_fleet(path)
    except OSError as error:
        raise RunError(f"fleet file {path}: {error.strerror}") from error


def _compare(fleet: Fleet, found: Sequence[Description], console: Console) -> None:
    """Say which sensors only the fleet file or only the recordings know: often a typing error."""
    recorded = dict.fromkeys(c.sensor_id for d in found for c in d.channels)
    missing = [info.sensor_id for info in fleet.sensors if info.sensor_id not in recorded]
    unknown = [sensor_id for sensor_id in recorded if sensor_id not in fleet]
    for names, where in ((missing, "not in the recordings"), (unknown, "not in the fleet file")):
        if names:
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            console.print(f"note: {len(names)} sensors are {where}: {shown}", markup=False)


def _check_same_run(store: LocalStore, facts: Mapping[str, Any], out: Path) -> None:
    """A folder goes on only with the recordings, model and settings it began with."""
    old = store.facts()
    for name in ("sources", "recordings", "model_id", "settings", "fleet"):
        if "chunks" in old and old.get(name) != facts[name]:
            what = _difference(old.get(name), facts[name])
            raise RunError(
                f"{out} belongs to a run with other {name} ({what}): use --fresh to discard it, "
                "or another --out"
            )


def _difference(old: object, new: object) -> str:
    """The first thing that differs, short enough for one line."""
    if isinstance(old, dict) and isinstance(new, dict):
        name = next(key for key in {**old, **new} if old.get(key) != new.get(key))
        return f"{name}: {_difference(old.get(name), new.get(name))}"
    return f"was {str(old)[:80]}, now {str(new)[:80]}"


def _check_not_empty(store: LocalStore, progress: Progress, settings: Settings) -> None:
    if progress.finished and not store.summary()["windows"]:
        window_s = 0.16 * settings.windows.patches + 0.015
        remedy = "" if settings.profile == "short" else "; try --profile short"
        raise RunError(
            f"nothing to judge: no stretch of signal filled a window of {window_s:.3f} s{remedy}"
        )


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"--out {out} cannot be made: {error.strerror}") from error


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Two runs into one folder would spoil each other; SQLite's lock ends with the process."""
    with closing(sqlite3.connect(out / LOCK_NAME, timeout=0, isolation_level=None)) as lock:
        try:
            lock.execute("begin exclusive")
        except sqlite3.OperationalError as error:
            raise RunError(f"--out {out} cannot be used: {error}, by another run?") from error
        yield


def _discard(out: Path) -> None:
    for path in out.glob(f"{FILE_NAME}*"):
        path.unlink()
