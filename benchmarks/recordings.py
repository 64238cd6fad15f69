"""What the defaults find on real and simulated recordings, beside plain rules on the same windows.

    python benchmarks/recordings.py --data ../shared/data [--model nano] [--markdown]

Figures per run-to-failure life (after the FAR-gated metric of the field: an alarm is valid if its
first episode begins between onset and failure and at most 10 % of the time before onset was in
alarm): when each severity first stood, share of the time and number of episodes before the onset,
share after it. Onset: the first point from which the running median of 15 RMS values stays above
twice the median of 5-20 % of life, in either channel; hindsight, from RMS alone, so it favours RMS.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from connectors.files import read
from echo_model.echo import Echo
from echo_model.engine import EchoEngine
from pipeline.assembly import build_monitor
from pipeline.fleet import Fleet, parse_fleet
from pipeline.messages import SensorChunk, Severity, Transition, WindowResult
from pipeline.monitor import Encoder
from pipeline.settings import load
from pipeline.simulation import simulate

RANK = {"advisory": Severity.ADVISORY, "alert": Severity.ALERT, "alarm": Severity.ALARM}


def encoder(model: str = "nano") -> EchoEngine:
    """The engine for a model name or file."""
    return EchoEngine(Echo.from_pretrained(model))


def monitor(
    chunks: Iterable[SensorChunk], profile: str, engine: Encoder, fleet: Fleet | None = None
) -> list[WindowResult]:
    """All window results of a stream under one profile's defaults."""
    job = build_monitor(load({}, profile=profile), fleet or Fleet(), engine)
    results: list[WindowResult] = []
    stream = iter(chunks)
    while batch := list(itertools.islice(stream, 256)):
        results += job.process(batch).windows
    return results + list(job.flush().windows)


@dataclass(frozen=True, slots=True)
class Standing:
    """How one severity (or rule) stood over a life.

    Attributes:
        first: Life fraction where it first stood; nan = never.
        before: Share of the windows between the end of learning and onset in which it stood.
        episodes: How often it rose there.
        after: Share of the windows from onset to the end.
        valid: FAR-gated verdict.
        lead: Share of the time from onset to the end that was left at the first valid alarm; nan
            where it is not valid.
        delay: Windows from onset to that alarm, likewise.
    """

    first: float
    before: float
    episodes: int
    after: float
    valid: bool
    lead: float
    delay: float


def standing(on: NDArray[np.bool_], learnt: int, onset: int) -> Standing:
    """Figures of one severity from its per-window state."""
    scored = on.copy()
    scored[:learnt] = False
    where = np.flatnonzero(scored)
    early = scored[learnt:onset]
    share = float(early.mean()) if early.size else 0.0
    rises = int(np.sum(np.diff(early.astype(np.int8), prepend=0) == 1))
    valid = bool(where.size and where[0] >= onset) if share == 0 else share <= 0.1
    after = scored[onset:]
    valid = valid and bool(after.any())
    delay = float(np.argmax(after)) if valid else float("nan")
    return Standing(
        first=float(where[0] / on.size) if where.size else float("nan"),
        before=share,
        episodes=rises,
        after=float(after.mean()),
        valid=valid,
        lead=1.0 - delay / after.size,
        delay=delay,
    )


def onset_index(rms: NDArray[np.float64]) -> int:
    """Where the centred running median's last rise above twice the baseline begins, in any channel.

    Args:
        rms: (channels, n).
    """
    n = rms.shape[1]
    first = n
    for channel in rms:
        median = np.median(np.lib.stride_tricks.sliding_window_view(channel, 15), axis=1)
        base = np.median(channel[int(0.05 * n) : int(0.20 * n)])
        below = np.flatnonzero(median <= 2 * base)
        start = int(below[-1]) + 1 if below.size else 0
        if start < median.size:
            first = min(first, start + 7)
    return first


def states(results: Sequence[WindowResult], severity: Severity) -> NDArray[np.bool_]:
    """(n,) whether the severity's condition stood at each window of one sensor (latches do not)."""
    on, found = False, []
    for result in results:
        for change in result.transitions:
            on = _stands(change, severity, now=on)
        found.append(on)
    return np.array(found, np.bool_)


def _stands(change: Transition, severity: Severity, *, now: bool) -> bool:
    if change.action in ("raise", "escalate", "ease"):
        return change.after in RANK and RANK[change.after] >= severity
    if change.action == "return":
        return False
    return now


def in_a_row(over: NDArray[np.bool_], n: int = 3) -> NDArray[np.bool_]:
    """(len,) True where this and the n - 1 windows before are over."""
    runs = np.convolve(over.astype(np.int64), np.ones(n, np.int64))[: over.size]
    return runs >= n


def life(folder: Path, engine: Encoder) -> dict[str, object]:
    """Figures of one run-to-failure life: severities per channel and both, rules on both."""
    by_sensor: dict[str, list[WindowResult]] = {}
    for result in monitor(read([folder]), "accelerated", engine):
        by_sensor.setdefault(result.sensor_id, []).append(result)
    rms = np.array([[r.features.rms for r in rs if r.features] for rs in by_sensor.values()])
    onset = onset_index(rms)
    learnt = max(
        next(i for i, r in enumerate(rs) if any(t.action == "learnt" for t in r.transitions))
        for rs in by_sensor.values()
    )
    rows: dict[str, Standing] = {}
    for name, severity in RANK.items():
        each = [states(rs, severity) for rs in by_sensor.values()]
        rows[name] = standing(np.any(each, axis=0), learnt, onset)
        for sensor, on in zip(by_sensor, each, strict=True):
            rows[f"{name} {sensor.rsplit('/', 1)[-1]}"] = standing(on, learnt, onset)
    rows |= _plain_rules(rms, learnt, onset)
    return {
        "life": folder.name,
        "windows": int(rms.shape[1]),
        "learnt": learnt / rms.shape[1],
        "onset": onset / rms.shape[1],
        "interval_s": _interval_s(by_sensor),
        "rows": rows,
    }


def _interval_s(by_sensor: dict[str, list[WindowResult]]) -> float:
    ends = [result.window_end_ns for result in next(iter(by_sensor.values()))]
    return float(np.median(np.diff(ends))) / 1e9


def _plain_rules(rms: NDArray[np.float64], learnt: int, onset: int) -> dict[str, Standing]:
    base = np.median(rms[:, :learnt], axis=1, keepdims=True)
    logs = np.log(rms)
    centre = np.median(logs[:, :learnt], axis=1, keepdims=True)
    spread = 1.4826 * np.median(np.abs(logs[:, :learnt] - centre), axis=1, keepdims=True)
    rules = {"RMS > 2 x baseline": rms > 2 * base, "RMS z > 5": (logs - centre) / spread > 5}
    return {
        name: standing(np.any([in_a_row(channel) for channel in over], axis=0), learnt, onset)
        for name, over in rules.items()
    }


Part = Callable[[], Iterator[SensorChunk]]


def _half(chunks: Sequence[SensorChunk], *, second: bool) -> list[SensorChunk]:
    middle = len(chunks) // 2
    return list(chunks[middle:] if second else chunks[:middle])


def _worst(results: Sequence[WindowResult], after_ns: int) -> Severity:
    """Highest severity that stood after a time."""
    worst = Severity.OK
    for result in results:
        if result.window_end_ns > after_ns and result.status in RANK:
            worst = max(worst, RANK[result.status])
    return worst


def _recordings(folder: Path) -> dict[tuple[str, int], list[SensorChunk]]:
    """(sensor id, epoch) -> chunks: one entry per recording and channel of an indexed set."""
    found: dict[tuple[str, int], list[SensorChunk]] = {}
    for chunk in read([folder]):
        found.setdefault((chunk.sensor_id, chunk.epoch), []).append(chunk)
    return found


def _after(first: Sequence[SensorChunk], then: Sequence[SensorChunk]) -> list[SensorChunk]:
    """The second recording placed directly behind the first, as a new epoch."""
    shift = first[-1].end_ns - then[0].start_ns
    epoch = first[0].epoch + 1000
    return [
        *first,
        *(_moved(chunk, shift, epoch) for chunk in then),
    ]


def _moved(chunk: SensorChunk, shift_ns: int, epoch: int) -> SensorChunk:
    fields = {name: getattr(chunk, name) for name in SensorChunk.__slots__}
    return SensorChunk(**{**fields, "start_ns": chunk.start_ns + shift_ns, "epoch": epoch})


def compare(
    healthy: Sequence[SensorChunk], tests: Sequence[Sequence[SensorChunk]], engine: Encoder
) -> tuple[Severity, list[Severity]]:
    """Learn on the first half of a healthy recording; judge its other half and other recordings.

    Returns:
        Worst severity on the held-out half, and on each test recording.
    """
    base = _half(healthy, second=False)
    end_ns = base[-1].end_ns
    runs = [_half(healthy, second=True), *tests]
    worst = [_worst(monitor(_after(base, run), "short", engine), end_ns) for run in runs]
    return worst[0], worst[1:]


def labelled(folder: Path, engine: Encoder, healthy: str) -> list[dict[str, object]]:
    """Every fault recording of a labelled set against the healthy one of its condition."""
    import csv  # noqa: PLC0415  (one use)

    with (folder / "index.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    files = list(dict.fromkeys(row["file"] for row in rows))
    chunks = _recordings(folder)
    epochs = {key: i for i, key in enumerate(sorted({epoch for _, epoch in chunks}))}
    by_file = {(s, files[epochs[epoch]]): found for (s, epoch), found in chunks.items()}
    condition = {row["file"]: row.get("load_hp") or row.get("load_percent") for row in rows}
    label = {row["file"]: row["label"] for row in rows}
    out: list[dict[str, object]] = []
    for base in (f for f in files if label[f] == healthy):
        tests = [f for f in files if label[f] != healthy and condition[f] == condition[base]]
        for sensor in sorted({s for s, _ in by_file}):
            held, worst = compare(
                by_file[sensor, base], [by_file[sensor, test] for test in tests], engine
            )
            out.append(
                {
                    "sensor": sensor,
                    "condition": condition[base],
                    "held_out": held.name.lower(),
                    "faults": {t: w.name.lower() for t, w in zip(tests, worst, strict=True)},
                }
            )
    return out


def plant(engine: Encoder, seed: int = 0, hours: float = 2.0) -> dict[str, object]:
    """The simulated plant: which injected faults were found, where, and what health gave."""
    simulated = simulate.plant(seed, hours=hours)
    fleet = parse_fleet(simulated.fleet_yaml, "fleet.yaml")
    results = monitor(simulated.chunks(), "accelerated", engine, fleet)
    by_sensor: dict[str, list[WindowResult]] = {}
    for result in results:
        by_sensor.setdefault(result.sensor_id, []).append(result)
    machine, sensor = [], []
    ill = {fault.asset for fault in simulated.truth if fault.kind == "machine"}
    for fault in simulated.truth:
        watching = [s for s in by_sensor if fleet.asset_of(s) == fault.asset]
        if fault.kind == "machine":
            machine.append(_machine_fault(fault, by_sensor, watching))
        else:
            sensor.append(_sensor_fault(fault, by_sensor[fault.sensor_id]))
    quiet = [s for s in by_sensor if fleet.asset_of(s) not in ill]
    false = {
        s: sorted({t.after for r in by_sensor[s] for t in r.transitions if t.after in RANK})
        for s in quiet
    }
    return {
        "machine": machine,
        "sensor": sensor,
        "healthy_sensors": len(quiet),
        "false": {s: names for s, names in false.items() if names},
    }


def _machine_fault(
    fault: simulate.InjectedFault, by_sensor: dict[str, list[WindowResult]], watching: list[str]
) -> dict[str, object]:
    raised = [
        t
        for s in watching
        for r in by_sensor[s]
        for t in r.transitions
        if t.after == "alarm" and t.action in ("raise", "escalate") and t.at_ns >= fault.onset_ns
    ]
    first = min(raised, key=lambda t: t.at_ns, default=None)
    low, high = fault.band_hz
    in_band = first is not None and first.band_hz[0] < high and first.band_hz[1] > low
    return {
        "name": fault.name,
        "asset": fault.asset,
        "alarm": first is not None,
        "right_band": in_band,
        "band_hz": first.band_hz if first else (),
        "truth_hz": fault.band_hz,
        "delay_s": (first.at_ns - fault.onset_ns) / 1e9 if first else float("nan"),
        "reason": first.reason if first else "",
    }


def _sensor_fault(fault: simulate.InjectedFault, results: list[WindowResult]) -> dict[str, object]:
    # By position, not by time: a clock that steps back stamps what follows before the onset.
    ends = [r.window_end_ns for r in results]
    begin = next(
        i for i, end in enumerate(ends) if end > fault.onset_ns or (i and end < ends[i - 1])
    )
    after = results[begin:]
    windows = next((i + 1 for i, r in enumerate(after) if not r.health.ok), 0)
    faults = sorted({name for r in after for name in r.health.faults})
    return {"name": fault.name, "sensor": fault.sensor_id, "windows": windows, "faults": faults}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default="nano")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    engine = encoder(chosen.model)
    if not chosen.data.is_dir():
        print(f"no recordings at {chosen.data} (--data): the simulated plant only\n")
        _print_plant(plant(engine))
        return
    lives = [life(chosen.data / f"femto_bearing1_{i}", engine) for i in (1, 2)]
    sets = {
        "gearbox": labelled(chosen.data / "gearbox_gfd", engine, "healthy"),
        "cwru": labelled(chosen.data / "cwru_12k", engine, "normal"),
    }
    found = {"model": engine.model_id, "lives": lives, **sets, "plant": plant(engine)}
    if chosen.json:
        print(json.dumps(found, default=asdict, indent=1))
        return
    _print(found)


def _print(found: dict[str, object]) -> None:
    """The README's tables."""
    print(f"model {found['model']}\n")
    print(
        "| life (end of learning, onset) | rule, both channels | first at | before onset "
        "| episodes | after onset | valid | lead | delay, min |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    for each in found["lives"]:  # type: ignore[attr-defined]
        head = f"{each['life']} ({each['learnt']:.3f}, {each['onset']:.3f})"
        for name, s in each["rows"].items():
            if name in RANK or name.startswith("RMS"):
                print(
                    f"| {head} | {name} | {s.first:.3f} | {s.before:.2%} | {s.episodes} "
                    f"| {s.after:.0%} | {'yes' if s.valid else 'no'} | {s.lead:.2f} "
                    f"| {s.delay * each['interval_s'] / 60:.1f} |"
                )
    for name in ("gearbox", "cwru"):
        print(f"\n| {name}, condition | sensor | held out | faults |\n|---|---|---|---|")
        for row in found[name]:  # type: ignore[attr-defined]
            worst = [str(value) for value in row["faults"].values()]
            faults = ", ".join(f"{worst.count(w)} {w}" for w in sorted(set(worst)))
            print(f"| {row['condition']} | {row['sensor']} | {row['held_out']} | {faults} |")
    print()
    _print_plant(found["plant"])  # type: ignore[arg-type]


def _print_plant(plant_found: dict[str, object]) -> None:
    print("| simulated fault | alarm | band named | after, min | sensor health after, windows |")
    print("|---|---|---|---|---|")
    for fault in plant_found["machine"]:  # type: ignore[attr-defined]
        low, high = fault["band_hz"] or (0, 0)
        right = "right" if fault["right_band"] else "wrong"
        alarm = "yes" if fault["alarm"] else "no"
        minutes = fault["delay_s"] / 60
        print(f"| {fault['name']} | {alarm} | {low:.0f}-{high:.0f} Hz, {right} | {minutes:.0f} | |")
    for fault in plant_found["sensor"]:  # type: ignore[attr-defined]
        named = ", ".join(fault["faults"])
        print(f"| {fault['name']} (sensor) | | {named} | | {fault['windows']} |")
    print(
        f"\nhealthy sensors with any alarm: {plant_found['false'] or 'none'} "
        f"of {plant_found['healthy_sensors']}"
    )


if __name__ == "__main__":
    main()
