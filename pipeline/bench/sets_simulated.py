"""Simulated machines in, figures for faults of known level out.

Each machine runs at two loads. Its faults are added at a level relative to the healthy vibration
(RMS over the whole stretch), which recordings of real faults cannot offer. The simulator is that of
`echowatch simulate`, not the one whose machines are part of the pre-training.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.bench.figures import F64, Figure, Subject
from pipeline.bench.recordings import Corpus
from pipeline.bench.representations import Representation
from pipeline.bench.scoring import Split, areas, distance_for, votes_right
from pipeline.bench.sets import Bench, Embedded
from pipeline.gain import gain_of
from pipeline.simulation.assets import MACHINE_FAULTS, MACHINES, machine_fault, sources
from pipeline.simulation.machines import Block, Component, Drive, Signal

F32 = NDArray[np.float32]

LEVELS_DB: Final = (0.0, -6.0, -12.0)
RATES_HZ: Final = (12800.0, 16000.0, 25600.0)
SPEEDS_HZ: Final = (16.0, 50.0)
# (speed relative to nominal, load): a change of load as in CWRU, 2.6 % of slip.
LOADS: Final = {"high": (1.0, 0.9), "low": (1.02, 0.4)}
WINDOWS: Final = 6
QUICK_WINDOWS: Final = 3
HEALTHY: Final = "healthy"
BANK: Final = "healthy, learnt"
# Stretches lie so far apart that speed and load have wandered on in between.
APART_S: Final = 61.0


@dataclass(frozen=True, slots=True)
class Machine:
    """One simulated machine: its windows, and at which level each fault was added."""

    corpus: Corpus
    level: NDArray[np.str_]  # (B,) "" for healthy windows


def simulated(bench: Bench) -> Iterator[Figure]:
    """Anomaly scores and names of eight faults at three levels, on five kinds of machines."""
    found = [
        _embedded(bench, kind, seed) for seed in range(bench.seeds) for kind in sorted(MACHINES)
    ]
    for distance in bench.distances:
        yield from _figures(bench, found, distance)


def steps(bench: Bench) -> int:
    """One per machine."""
    return bench.seeds * len(MACHINES)


def _embedded(bench: Bench, kind: str, seed: int) -> tuple[Machine, Embedded]:
    machine = machine_of(kind, seed, QUICK_WINDOWS if bench.quick else WINDOWS)
    corpus = machine.corpus
    found = bench.embedded(("simulated", kind, seed), lambda: corpus.windows, corpus.rate_hz)
    bench.advance(f"simulated {kind}")
    return machine, found


def machine_of(kind: str, seed: int, windows: int = WINDOWS) -> Machine:
    """A machine of this kind, healthy and with each fault, at both loads, as 1 s windows."""
    number = sorted(MACHINES).index(kind)
    rng = np.random.default_rng((seed, number))
    rate_hz = float(rng.choice(RATES_HZ))
    nominal_hz = float(rng.uniform(*SPEEDS_HZ))
    parts, noise = sources(kind, rng)
    n = round(rate_hz)
    rows: list[tuple[str, str, str, str]] = []  # recording, label, load, level
    waves: list[F32] = []
    for load, (speed, share) in LOADS.items():
        drive = Drive(nominal_hz, [(0.0, speed * nominal_hz, share)], shift=float(rng.random()))
        healthy = Signal(drive, parts, noise, rate_hz, (seed, number, int(share * 10)))
        for i, name in enumerate((BANK, HEALTHY, *MACHINE_FAULTS)):
            start_s = i * APART_S
            base = healthy.block(i, start_s, windows * n)
            fault = np.zeros_like(base)
            if name in MACHINE_FAULTS:
                source = _steady_fault(name, nominal_hz, seed)
                source.add_to(fault, Block(drive, start_s, rate_hz, base.size))
            for level in LEVELS_DB if name in MACHINE_FAULTS else (None,):
                label = f"{level:g} dB" if level is not None else ""
                rows.append((f"{name} {load} {label}", name, load, label))
                waves.append(base if level is None else base + _at_level(fault, base, level))
    gain = np.float32(gain_of(float(waves[0].std())))
    columns = (np.repeat(column, windows) for column in zip(*rows, strict=True))
    recording, label_of, load_of, level_of = columns
    corpus = Corpus(
        rate_hz, np.concatenate(waves).reshape(-1, n) * gain, recording, label_of, load_of,
        np.full(len(recording), kind),
    )  # fmt: skip
    return Machine(corpus, level_of)


def _steady_fault(name: str, nominal_hz: float, seed: int) -> Component:
    """A fault that no longer grows."""
    return machine_fault(name, -2.0, -1.0, nominal_hz, 1.0, seed)[0]


def _at_level(fault: F32, healthy: F32, level_db: float) -> F32:
    ratio = float(healthy.std()) / max(float(fault.std()), 1e-12)
    scaled: F32 = fault * np.float32(ratio * 10 ** (level_db / 20))
    return scaled


def _figures(
    bench: Bench, machines: list[tuple[Machine, Embedded]], distance: str
) -> Iterator[Figure]:
    """Units are machines: what one machine's faults score is not independent."""
    kept: dict[str, list[dict[str, F64]]] = {}
    for level_db in LEVELS_DB:
        level = f"{level_db:g} dB"
        rows = {
            r.name: np.array([_scores(m, e[r.name], level, r, distance) for m, e in machines])
            for r in bench.representations
        }  # (U, 3)
        for i, measure in enumerate(("AUROC", "pAUC", "balanced accuracy")):
            scores = {name: values[None, :, i] for name, values in rows.items()}
            kept.setdefault(measure, []).append(scores)
            subject = Subject("simulated", f"fault at {level}", measure, distance)
            yield from bench.figures(subject, scores)
    for measure, cases in kept.items():
        yield from bench.mean(Subject("simulated", "mean", measure, distance), cases)


def _scores(
    machine: Machine, embedded: F32, level: str, whose: Representation, distance: str
) -> tuple[float, float, float]:
    """AUROC, pAUC and share of rightly named windows of one machine at one level."""
    corpus = machine.corpus
    asked = (machine.level == level) | (corpus.label == HEALTHY)
    bank = corpus.label == BANK
    normal = bank | (corpus.label == HEALTHY)
    whole, part = areas(
        embedded, normal, corpus.recording, [Split(bank, asked)],
        distance_for(distance, whose, anomaly=True),
    )  # fmt: skip
    splits = [
        Split(asked & (corpus.group == load), asked & (corpus.group != load)) for load in LOADS
    ]
    named = votes_right(
        embedded, corpus.label, corpus.recording, splits,
        distance_for(distance, whose, anomaly=False),
    )  # fmt: skip
    return float(whole.mean()), float(part.mean()), float(named.mean())
