"""What each command does, joined from readers, monitor, store and report.

The one place that knows both connectors and the pipeline; `pipeline.cli` only parses and prints.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as ProgressBar

from connectors.embeddings import EmbeddingsFile
from connectors.files import Description, ReadOptions, describe, read
from connectors.files.write import write_recordings
from connectors.local import FILE_NAME, LocalStore
from echo_model.echo import Echo
from echo_model.engine import EchoEngine
from pipeline import __version__
from pipeline import simulate as simulation
from pipeline.assembly import build_monitor, build_windower
from pipeline.cases import CaseBook
from pipeline.embedded import EmbeddedRun, Progress
from pipeline.fleet import Fleet, load_fleet, parse_fleet
from pipeline.messages import NS_PER_S, SensorChunk, Window
from pipeline.report import render
from pipeline.run_report import collect, describe_case
from pipeline.settings import Settings, load

# Logs up to these spans get the time constants of short recordings or of accelerated tests.
SHORT_S = 600.0
ACCELERATED_S = 4 * 86_400.0


class RunError(ValueError):
    """A run that cannot be done as asked, in words."""


def load_engine(settings: Settings) -> EchoEngine:
    """The encoder that the settings name.

    Raises:
        RunError: for an unknown name, a damaged or wrong file, or a device that is not there.
    """
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    try:
        model = Echo.from_pretrained(settings.model, sha256=settings.model_sha256)
        return EchoEngine(model, device=settings.device, precision=settings.precision)
    except (ValueError, OSError) as error:
        raise RunError(f"model {settings.model!r}: {error}") from error


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
    fleet = load_fleet(fleet_path) if fleet_path else Fleet()
    found = [describe(path, options) for path in paths]
    span = _span(found)
    chosen = _profile_for(span) if profile == "auto" else profile
    settings = load(profile=chosen, **overrides)
    title = fleet.name or ", ".join(path.name or str(path) for path in paths)
    return _monitor(
        lambda: read(paths, options=options),
        fleet,
        settings,
        out=out,
        facts={"title": title, "sources": [str(path) for path in paths]},
        span=span,
        fresh=fresh,
        console=console,
    )


def demo(*, out: Path, seed: int, overrides: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """Simulate a small plant and monitor it; the truth lies beside the report."""
    plant = simulation.demo_plant(seed)
    out.mkdir(parents=True, exist_ok=True)
    (out / "fleet.yaml").write_text(plant.fleet_yaml, encoding="utf-8")
    (out / "truth.csv").write_text(simulation.truth_csv(plant), encoding="utf-8")
    return _monitor(
        plant.chunks,
        parse_fleet(plant.fleet_yaml, "fleet.yaml"),
        load(profile="accelerated", **overrides),
        out=out,
        facts={"title": f"Demo plant (simulated, seed {seed})", "sources": [f"demo seed {seed}"]},
        span=(plant.start_ns, plant.start_ns + round(plant.hours * 3600 * NS_PER_S)),
        fresh=True,
        console=console,
    )


def _monitor(
    chunks: Callable[[], Iterable[SensorChunk]],
    fleet: Fleet,
    settings: Settings,
    *,
    out: Path,
    facts: dict[str, Any],
    span: tuple[int, int],
    fresh: bool,
    console: Console,
) -> dict[str, Any]:
    engine = load_engine(settings)
    if fresh and (out / FILE_NAME).exists():
        _discard(out)
    with LocalStore(out, create=True) as store:
        _check_same_run(store, facts, settings, engine)
        store.set_facts(
            {
                **facts,
                "profile": settings.profile,
                "model_id": engine.model_id,
                "trained": engine.trained,
                "settings": settings.model_dump(mode="json"),
                "fleet": [asdict(info) for info in fleet.sensors],
                "version": __version__,
            }
        )
        cases = CaseBook(reopen_s=settings.delays.reopen_s)
        job = EmbeddedRun(
            build_monitor(settings, fleet, engine),
            cases,
            store,
            describe_case=lambda case: describe_case(case, fleet),
        )
        began = time.monotonic()
        if job.progress.finished:
            console.print("already complete: --fresh does it anew", markup=False)
        else:
            _drive(job, chunks, span, console)
        report = write_report(store, out / "report.html")
        return _outcome(store, job.progress, report, time.monotonic() - began)


def _drive(
    job: EmbeddedRun,
    chunks: Callable[[], Iterable[SensorChunk]],
    span: tuple[int, int],
    console: Console,
) -> None:
    first_ns, last_ns = span
    total = max(1, last_ns - first_ns) if last_ns else None
    with _bar(console) as bar, _interruptible() as stop:
        task = bar.add_task("monitoring", total=total, note="")

        def advance(progress: Progress) -> None:
            when = datetime.fromtimestamp(progress.event_ns / NS_PER_S, UTC)
            note = f"{progress.windows} windows, at {when:%Y-%m-%d %H:%M} UTC"
            at = (progress.event_ns - first_ns) if total else None
            bar.update(task, completed=at, note=note)
            if progress.finished and total:
                bar.update(task, completed=total)

        job.run(chunks(), stop=stop, advance=advance)


def write_report(store: LocalStore, path: Path) -> Path:
    """Write the self-contained HTML report of a store."""
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    path.write_text(render(collect(store, created=created)), encoding="utf-8")
    return path


def simulate(
    out: Path, *, seed: int, sensors: int, hours: float, every_s: float, faults: bool
) -> None:
    """Write recordings, fleet file and truth of a simulated plant."""
    plant = simulation.plant(seed, sensors=sensors, hours=hours, every_s=every_s, faults=faults)
    simulation.write(plant, out, write_recordings)


def embed(
    paths: Sequence[Path],
    options: ReadOptions,
    out: Path,
    *,
    profile: str,
    overrides: Mapping[str, Any],
) -> int:
    """Write the embeddings of all windows; returns how many."""
    found = [describe(path, options) for path in paths]
    chosen = _profile_for(_span(found)) if profile == "auto" else profile
    settings = load(profile=chosen, **overrides)
    engine = load_engine(settings)
    count = 0
    with EmbeddingsFile(out, engine.model_id, trained=engine.trained) as file:
        for windows in _window_batches(read(paths, options=options), settings):
            gains = [window.scale for window in windows]
            vectors = engine.embed(
                [window.samples for window in windows],
                [window.sample_rate_hz for window in windows],
                gains,
            )
            file.write(windows, vectors)
            count += len(windows)
    return count


def _window_batches(
    chunks: Iterable[SensorChunk], settings: Settings, size: int = 64
) -> Iterator[list[Window]]:
    windowers: dict[str, Any] = {}
    batch: list[Window] = []
    for chunk in chunks:
        if chunk.sensor_id not in windowers:
            windowers[chunk.sensor_id] = build_windower(chunk.sensor_id, settings.windows)
        pushed = windowers[chunk.sensor_id].push(chunk)
        batch.extend(item for item in pushed if isinstance(item, Window))
        if len(batch) >= size:
            yield batch
            batch = []
    for windower in windowers.values():
        batch.extend(item for item in windower.flush() if isinstance(item, Window))
    if batch:
        yield batch


def _span(found: Sequence[Description]) -> tuple[int, int]:
    """First and last event time of recordings; (0, 0) where headers do not tell."""
    starts = [c.start_ns for d in found for c in d.channels if c.start_ns is not None]
    ends = [
        c.start_ns + round((d.duration_s or 0.0) * NS_PER_S)
        for d in found
        for c in d.channels
        if c.start_ns is not None
    ]
    return (min(starts), max(ends)) if starts else (0, 0)


def _profile_for(span: tuple[int, int]) -> str:
    seconds = (span[1] - span[0]) / NS_PER_S
    if seconds <= SHORT_S:
        return "short"
    return "accelerated" if seconds <= ACCELERATED_S else "plant"


def _check_same_run(
    store: LocalStore, facts: Mapping[str, Any], settings: Settings, engine: EchoEngine
) -> None:
    """A folder goes on only with the recordings, model and settings it began with."""
    old = store.facts()
    new = {
        "sources": facts["sources"],
        "model_id": engine.model_id,
        "settings": settings.model_dump(mode="json"),
    }
    for name, value in new.items():
        if "chunks" in old and old.get(name) != value:
            raise RunError(
                f"the output folder belongs to a run with other {name}: "
                "use --fresh to discard it, or another --out"
            )


def _discard(out: Path) -> None:
    for path in out.glob(f"{FILE_NAME}*"):
        path.unlink()


def _outcome(store: LocalStore, progress: Progress, report: Path, seconds: float) -> dict[str, Any]:
    """What the run found, JSON-able; cases worst first."""
    cases = sorted(store.cases(), key=lambda case: (-case["severity"], case["opened_ns"]))
    faults, learning = _sensor_states(store)
    return {
        **store.summary(),
        "finished": progress.finished,
        "processed_windows": progress.windows,
        "seconds": round(seconds, 2),
        "open_cases": sum(case["closed_ns"] is None for case in cases),
        "cases": cases,
        "sensor_faults": faults,
        "still_learning": learning,
        "report": str(report),
        **{name: store.facts()[name] for name in ("profile", "model_id", "trained")},
    }


def _sensor_states(store: LocalStore) -> tuple[list[str], int]:
    """A line per sensor that was not believable, and how many sensors still learn."""
    faults, learning = [], 0
    for sensor_id in store.sensor_ids():
        trend = store.trend(sensor_id)
        known = trend.status[trend.status != "unknown"]
        learning += bool(known.size) and known[-1] == "learning"
        bad = np.flatnonzero(trend.faults != "")
        if bad.size:
            names = sorted({name for text in trend.faults[bad] for name in str(text).split(",")})
            when = datetime.fromtimestamp(int(trend.end_ns[bad[0]]) / NS_PER_S, UTC)
            faults.append(
                f"{sensor_id}: {', '.join(names)} in {bad.size} of {trend.end_ns.size} windows "
                f"since {when:%Y-%m-%d %H:%M} UTC"
            )
    return faults, int(learning)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask for a commit after the running batch; a second one kills."""
    asked: list[int] = []

    def ask(number: int, _: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bar(console: Console) -> ProgressBar:
    return ProgressBar(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    )
