"""Labelled recordings in, figures of kNN and of anomaly scores out: CWRU, gearbox, ESC-10.

CWRU and gearbox hold one recording per class and load, so a test within a load would compare
windows of one recording. The bank is always of other loads than the queries.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.bench.degrade import CASES, Case, degraded
from pipeline.bench.figures import F64, Figure, Subject
from pipeline.bench.recordings import F32, Corpus, Reading, Row, read_corpus
from pipeline.bench.scoring import Split, areas, distance_for, queried, votes_right
from pipeline.bench.sets import Bench, Embedded

ACCURACY: Final = "balanced accuracy"
AUROC: Final = "AUROC"
PAUC: Final = "pAUC"
# Seconds of each recording that are used, so that none weighs more than another.
USED_S: Final = {"cwru": 10, "gearbox": 7}
QUICK_WINDOWS: Final = 4


@dataclass(frozen=True, slots=True)
class Rig:
    """A set of machine recordings under several loads.

    Attributes:
        folder: In the data folder.
        normal: Label of the healthy state.
        seconds: Window lengths.
        channels: That are used, as written in the index.
    """

    name: str
    folder: str
    normal: str
    seconds: tuple[float, ...]
    channels: tuple[str, ...]


CWRU: Final = Rig("cwru", "cwru_12k", "normal", (1.0, 0.25), ("0", "1"))
GEARBOX: Final = Rig("gearbox", "gearbox_gfd", "healthy", (1.0,), ("0", "1", "2", "3"))


def cwru(bench: Bench) -> Iterator[Figure]:
    """Ten states of a bearing, one load known and the other asked."""
    return _transfer(bench, CWRU)


def gearbox(bench: Bench) -> Iterator[Figure]:
    """Healthy or broken tooth, one load known and the other four asked."""
    return _transfer(bench, GEARBOX)


def anomaly(bench: Bench) -> Iterator[Figure]:
    """Anomaly scores on both: the bank knows the healthy machine at all loads but the asked one."""
    for rig in (CWRU, GEARBOX):
        yield from _anomalies(bench, rig)


def esc10(bench: Bench) -> Iterator[Figure]:
    """Everyday sounds, four official folds known and the fifth asked.

    Clips are embedded as the monitor embeds a signal, in windows of 1 s (mean and standard
    deviation over them stand for the clip), and whole, which asks an encoder about lengths that its
    training may never have shown.
    """
    corpus = _clips(bench.folder("esc10"))
    n = int(corpus.rate_hz)
    count = corpus.windows.shape[1] // n
    pieces = bench.embedded(
        "esc10 pieces", lambda: corpus.windows[:, : count * n].reshape(-1, n), corpus.rate_hz
    )
    bench.advance("esc10, 1 s windows")
    joined = {name: _moments(e.reshape(-1, count, *e.shape[1:])) for name, e in pieces.items()}
    whole = bench.embedded("esc10", lambda: corpus.windows, corpus.rate_hz)
    bench.advance("esc10, whole clips")
    for distance in bench.distances:
        for case, embedded in (("1 s windows", joined), ("whole clips", whole)):
            subject = Subject("esc10", case, ACCURACY, distance, summary=embedded is joined)
            scores = _fold_scores(bench, corpus, embedded, distance)
            yield from bench.figures(subject, scores, _equal_classes(corpus))


def _moments(windows: F32) -> F32:
    """Mean and standard deviation over the windows of clips: (C, W, K, D) -> (C, K, 2 D)."""
    return np.concatenate([windows.mean(1), windows.std(1)], axis=2)


def _fold_scores(bench: Bench, corpus: Corpus, embedded: Embedded, distance: str) -> dict[str, F64]:
    splits = [Split(corpus.group != fold, corpus.group == fold) for fold in np.unique(corpus.group)]
    return {
        r.name: votes_right(
            embedded[r.name],
            corpus.label,
            corpus.recording,
            splits,
            distance_for(distance, r, anomaly=False),
        )[None]
        for r in bench.representations
    }


@dataclass(frozen=True, slots=True)
class Steps:
    """Counts the pieces of work of some rigs."""

    rigs: tuple[Rig, ...]

    def __call__(self, bench: Bench) -> int:
        """One per window length, case and seed."""
        seeded = sum(len(_seeds(case, bench)) for case in CASES)
        return sum(seeded * len(_lengths(rig, bench)) for rig in self.rigs) or 2


def _transfer(bench: Bench, rig: Rig) -> Iterator[Figure]:
    kept: dict[str, list[dict[str, F64]]] = {distance: [] for distance in bench.distances}
    for seconds in _lengths(rig, bench):
        corpus = _corpus(bench, rig, seconds)
        splits = _splits(corpus, one_known=True)
        for case in CASES:
            found = [_embedded(bench, rig, seconds, corpus, case, s) for s in _seeds(case, bench)]
            for distance in bench.distances:
                scores = {
                    r.name: np.stack([
                        votes_right(e[r.name], corpus.label, corpus.recording, splits,
                                    distance_for(distance, r, anomaly=False))
                        for e in found
                    ])
                    for r in bench.representations
                }  # fmt: skip
                kept[distance].append(scores)
                subject = Subject(rig.name, f"{seconds:g} s, {case.name}", ACCURACY, distance)
                yield from bench.figures(subject, scores)
    for distance, cases in kept.items():
        yield from bench.mean(Subject(rig.name, "mean", ACCURACY, distance), cases)


def _anomalies(bench: Bench, rig: Rig) -> Iterator[Figure]:
    kept: dict[tuple[str, str], list[dict[str, F64]]] = {}
    for seconds in _lengths(rig, bench):
        corpus = _corpus(bench, rig, seconds)
        normal = corpus.label == rig.normal
        splits = _splits(corpus, one_known=False)
        for case in CASES:
            found = [_embedded(bench, rig, seconds, corpus, case, s) for s in _seeds(case, bench)]
            for distance in bench.distances:
                both = {
                    r.name: np.array([
                        areas(e[r.name], normal, corpus.recording, splits,
                              distance_for(distance, r, anomaly=True))
                        for e in found
                    ])
                    for r in bench.representations
                }  # (S, 2, U)  # fmt: skip
                for i, measure in enumerate((AUROC, PAUC)):
                    scores = {name: values[:, i] for name, values in both.items()}
                    kept.setdefault((measure, distance), []).append(scores)
                    name = f"{rig.name} {seconds:g} s, {case.name}"
                    yield from bench.figures(Subject("anomaly", name, measure, distance), scores)
    for (measure, distance), cases in kept.items():
        yield from bench.mean(Subject("anomaly", f"{rig.name} mean", measure, distance), cases)


def _splits(corpus: Corpus, *, one_known: bool) -> list[Split]:
    """Per sensor and load: that load known and the others asked, or the other way round."""
    found = []
    for sensor in np.unique(corpus.sensor):
        for load in np.unique(corpus.group):
            here, mine = corpus.sensor == sensor, corpus.group == load
            one, rest = here & mine, here & ~mine
            found.append(Split(one, rest) if one_known else Split(rest, one))
    return found


def _lengths(rig: Rig, bench: Bench) -> tuple[float, ...]:
    return rig.seconds[:1] if bench.quick else rig.seconds


def _seeds(case: Case, bench: Bench) -> range:
    return range(bench.seeds if case.seeded else 1)


def _embedded(
    bench: Bench, rig: Rig, seconds: float, corpus: Corpus, case: Case, seed: int
) -> Embedded:
    key = (rig.name, seconds, case.name, seed)
    found = bench.embedded(key, lambda: degraded(corpus.windows, case, seed), corpus.rate_hz)
    bench.advance(f"{rig.name}, {seconds:g} s, {case.name}")
    return found


def _corpus(bench: Bench, rig: Rig, seconds: float) -> Corpus:
    most = QUICK_WINDOWS if bench.quick else round(USED_S[rig.name] / seconds)
    return _rig_corpus(bench.folder(rig.folder), rig, seconds, most)


@cache
def _rig_corpus(folder: Path, rig: Rig, seconds: float, most: int) -> Corpus:
    reading = Reading(
        seconds,
        most,
        label=_state,
        group=lambda row: row.get("load_hp") or row["load_percent"],
        recording=lambda row: row["file"],
        keep=lambda row: row["channel"] in rig.channels,
    )
    return read_corpus(folder, reading)


def _state(row: Row) -> str:
    """CWRU's classes are fault and size."""
    return f"{row['label']} {row.get('fault_size_in', '')}".strip()


@cache
def _clips(folder: Path) -> Corpus:
    """Whole clips; takes of one Freesound source are one recording."""
    reading = Reading(
        0.0,
        1,
        label=lambda row: row["label"],
        group=lambda row: row["fold"],
        recording=lambda row: row["freesound_id"],
        fixed_gain=False,
    )
    return read_corpus(folder, reading)


def _equal_classes(corpus: Corpus) -> F64:
    """(U,) weights of recordings such that classes weigh the same however many clips they have."""
    names = queried(corpus.recording, np.ones(len(corpus.label), bool))
    _, index, counts = np.unique(corpus.label, return_inverse=True, return_counts=True)
    clip = 1 / counts[index]
    return np.array([clip[corpus.recording == name].sum() for name in names])
