"""Machines over time in, alarms and false alarms of the whole product out.

Three sets, all through the product's own monitor: recorded lives of bearings to their end (FEMTO),
simulated machines that change speed or load, with and without a small fault, and the band that the
product names for a simulated fault. What stands in the encoder's place: `pipeline.bench.watching`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.alarms import AlarmLogic
from pipeline.assembly import rules
from pipeline.bench.figures import F64, Figure, Subject
from pipeline.bench.lives import Life, read_life
from pipeline.bench.neighbours import area
from pipeline.bench.representations import RMS_KURTOSIS, Representation
from pipeline.bench.rigs import LEARNING, Rig, rig_of
from pipeline.bench.sets import Bench
from pipeline.bench.watching import Watch, settings, watchable
from pipeline.messages import SensorStatus, WindowResult

# Shares of the speed that was learnt, and loads beside the 0.75 that was learnt.
SPEEDS: Final = (0.9, 0.96, 1.04, 1.1)
LOADS: Final = (0.5, 1.0)
SMALL_DB: Final = -6.0
# Windows after each change: enough for 5 of 6 to raise an alarm.
STEP: Final = 10
LEVELS_DB: Final = (0.0, -6.0, -12.0)
NAMED: Final = 6
RIGS: Final = 6
QUICK_RIGS: Final = 2

# Where the RMS has doubled for good, as a share of life: `onset2x` in the notes of the data.
BEARINGS: Final = {"femto_bearing1_2": 0.952, "femto_bearing1_1": 0.690}
RANKS: Final[dict[SensorStatus, int]] = {"ok": 0, "advisory": 1, "alert": 2, "alarm": 3}
ADVISORY, ALARM = 1, 3
AHEAD: Final = ("advisory, share of life ahead", "alarm, share of life ahead")
EARLY: Final = "raised too early, lower"

Moment = tuple[int, int]
"""End of a window in ns, rank of what stands there."""
Values = dict[tuple[str, str], float]
"""(case, measure) -> value, of one machine."""


@dataclass(frozen=True, slots=True)
class StreamSteps:
    """Counts the pieces of work of a set: one per machine and representation.

    Attributes:
        recorded: Whether the machines are recorded ones.
        simple: Whether RMS + kurtosis takes part.
    """

    recorded: bool = False
    simple: bool = True

    def __call__(self, bench: Bench) -> int:
        """See `pipeline.bench.sets.BenchSet`."""
        machines = len(_bearings(bench)) if self.recorded else bench.seeds * _count(bench)
        return machines * len(_taking_part(bench, simple=self.simple))


def femto(bench: Bench) -> Iterator[Figure]:
    """Two bearings to their end: how long before it alarms stand, and what is raised too early.

    As shipped, and by the drift alone: the plain rule that an RMS at twice the baseline's is an
    alarm does not depend on the representation.
    """
    found: list[tuple[str, Values]] = []
    for folder, onset in _bearings(bench).items():
        life = read_life(folder)
        for one in _taking_part(bench):
            found.append((one.name, life_values(one, life, onset)))
            bench.advance(f"femto, {one.name}")
    yield from _figures(bench, "femto", found)


def life_values(one: Representation, life: Life, onset: float) -> Values:
    """What one representation makes of one machine's life."""
    heard = [Watch(one).hear(life.chunks(sensor)) for sensor in life.sensors]
    values: Values = {}
    for case, sensors in (
        ("as shipped", [_statuses(results) for results in heard]),
        ("drift alone", [_by_drift(results) for results in heard]),
    ):
        for measure, rank in zip(AHEAD, (ADVISORY, ALARM), strict=True):
            values[case, measure] = max(ahead(moments, rank) for moments in sensors)
        values[case, EARLY] = float(sum(raised(moments, until=onset) for moments in sensors))
    return values


def speed(bench: Bench) -> Iterator[Figure]:
    """Healthy machines at other speeds and loads, and the same ones with a small fault."""
    found = []
    for name, known in _learnt(bench):
        found.append((name, regime_values(known)))
        bench.advance(f"speed, {name}")
    yield from _figures(bench, "speed", found)


def regime_values(known: "Known") -> Values:
    """What is said of one machine at speeds and loads that were not learnt."""
    speeds = [known.after(speed=share) for share in SPEEDS]
    faulty = [known.after(speed=share, level_db=SMALL_DB) for share in SPEEDS]
    small = f"fault {SMALL_DB:g} dB"
    values: Values = {}
    for case, runs in (
        ("healthy, as learnt", [known.after()]),
        ("healthy, other speed", speeds),
        ("healthy, other load", [known.after(load=load) for load in LOADS]),
        (f"{small}, as learnt", [known.after(level_db=SMALL_DB)]),
        (f"{small}, other speed", faulty),
    ):
        better = ", lower" if case.startswith("healthy") else ""
        values |= {(case, name + better): value for name, value in _shares(runs).items()}
    areas = [area(_scores(a), _scores(b)) for a, b in zip(speeds, faulty, strict=True)]
    values[f"{small}, other speed", "AUROC, healthy at that speed"] = float(np.mean(areas))
    return values


def naming(bench: Bench) -> Iterator[Figure]:
    """Impacts at a resonance: does the band with most of the drift lie where they ring?

    Right is a band that overlaps the one with 80 % of the fault's energy.
    """
    found = []
    for name, known in _learnt(bench, simple=False):
        values: Values = {}
        for level_db in LEVELS_DB:
            right = [named(known, fault, level_db) for fault in range(2)]
            values[f"fault {level_db:g} dB", "right band"] = float(np.mean(right))
        found.append((name, values))
        bench.advance(f"naming, {name}")
    yield from _figures(bench, "naming", found)


def named(known: "Known", fault: int, level_db: float) -> float:
    """Share of windows with a fault whose top band overlaps the fault's."""
    low, high = known.rig.impacts(fault, level_db).band_hz
    right = []
    for result in known.after(NAMED, fault=fault, level_db=level_db):
        assert result.drift is not None  # noqa: S101  (what is learnt is scored)
        bottom, top = result.drift.band_edges_hz[int(np.argmax(result.drift.band_shares))]
        right.append(bottom < high and low < top)
    return float(np.mean(right))


@dataclass(frozen=True, slots=True)
class Known:
    """A machine that a representation has learnt."""

    rig: Rig
    watch: Watch

    def after(
        self,
        count: int = STEP,
        *,
        speed: float = 1.0,
        load: float = 0.75,
        level_db: float | None = None,
        fault: int = 0,
    ) -> list[WindowResult]:
        """What is said of the windows after a change; nothing of it is remembered."""
        chunks = self.rig.captures(
            LEARNING, count, speed=speed, load=load, level_db=level_db, fault=fault
        )
        return [result for result in self.watch.fork().hear(chunks) if result.drift is not None]


def known(one: Representation, rig: Rig) -> Known:
    """A machine after it was learnt.

    Raises:
        RuntimeError: Where that did not end.
    """
    watch = Watch(one)
    if not watch.learn(rig.captures(0, LEARNING)):
        raise RuntimeError(f"{one.name} has learnt nothing of {LEARNING} captures of {rig}")
    return Known(rig, watch)


def _learnt(bench: Bench, *, simple: bool = True) -> Iterator[tuple[str, Known]]:
    """Every machine under every representation."""
    for seed in range(bench.seeds):
        for number in range(_count(bench)):
            rig = rig_of(seed, number)
            for one in _taking_part(bench, simple=simple):
                yield one.name, known(one, rig)


def ahead(moments: Sequence[Moment], rank: int) -> float:
    """Share of life for which this rank, or a higher one, has stood when the life ended."""
    first, last = moments[0][0], moments[-1][0]
    below = [at for at, found in moments if found < rank]
    since = min((at for at, _ in moments if not below or at > below[-1]), default=last)
    return (last - since) / (last - first)


def raised(moments: Sequence[Moment], until: float) -> int:
    """How often something was raised before a share of life."""
    first, last = moments[0][0], moments[-1][0]
    end = first + until * (last - first)
    return sum(a == 0 < b and at < end for (_, a), (at, b) in pairwise(moments))


def _statuses(results: Iterable[WindowResult]) -> list[Moment]:
    """While the sensor is believable; what is learnt counts as good."""
    ranks = {**RANKS, "learning": 0}
    return [(r.window_end_ns, ranks[r.status]) for r in results if r.status in ranks]


def _by_drift(results: Sequence[WindowResult]) -> list[Moment]:
    """The same by the product's rules, had it nothing but the drift."""
    chosen = settings()
    factors = {"advisory": 1.0, "alert": chosen.detection.alert_factor,
               "alarm": chosen.detection.alarm_factor}  # fmt: skip
    logic = AlarmLogic("life", "life", rules=rules(chosen.delays))
    moments = []
    for result in results:
        if result.status not in RANKS and result.status != "learning":
            continue
        drift = result.drift
        if drift is not None and drift.learning_pct == 100.0 and drift.limit > 0:
            ratio = max(0.0, drift.score / drift.limit)
            ratios = {name: ratio / factor for name, factor in factors.items()}
            logic.update(result.window_end_ns, "scored", ratios)
        moments.append((result.window_end_ns, RANKS.get(logic.status, 0)))
    return moments


def _shares(runs: Sequence[Sequence[WindowResult]]) -> dict[str, float]:
    """Shares of windows over a limit, and of changes that raised something."""
    drifts = [r.drift for run in runs for r in run if r.drift is not None]
    return {
        f"windows over the {name} limit": float(np.mean([d.ratios[name] >= 1 for d in drifts]))
        for name in ("advisory", "alarm")
    } | {
        f"{name} raised": float(np.mean([_highest(run) >= rank for run in runs]))
        for name, rank in (("advisory", ADVISORY), ("alarm", ALARM))
    }


def _highest(run: Sequence[WindowResult]) -> int:
    return max((RANKS.get(result.status, 0) for result in run), default=0)


def _scores(run: Sequence[WindowResult]) -> F64:
    return np.array([result.drift.score for result in run if result.drift is not None])


def _figures(bench: Bench, name: str, found: Sequence[tuple[str, Values]]) -> Iterator[Figure]:
    """Figures over machines of what was found for (representation, machine)."""
    names = list(dict.fromkeys(one for one, _ in found))
    for case, measure in found[0][1]:
        scores = {
            one: np.array([[values[case, measure] for other, values in found if other == one]])
            for one in names
        }
        yield from bench.figures(Subject(name, case, measure), scores)


def _taking_part(bench: Bench, *, simple: bool = True) -> list[Representation]:
    found = watchable(bench.representations)
    return [r for r in found if simple or r.name != RMS_KURTOSIS]


def _bearings(bench: Bench) -> dict[Path, float]:
    """Folder -> onset of the bearings that are there; a quick look takes the shorter life."""
    if bench.data is None:
        return {}
    folders = {bench.data / name: onset for name, onset in BEARINGS.items()}
    there = [(folder, onset) for folder, onset in folders.items() if folder.is_dir()]
    return dict(there[:1] if bench.quick else there)


def _count(bench: Bench) -> int:
    return QUICK_RIGS if bench.quick else RIGS
