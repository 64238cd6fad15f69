"""Embeddings of two sides in, a score per recording out: kNN votes and anomaly areas.

Windows of one recording are never on both sides; a split that would allow it is refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.bench.neighbours import DISTANCES, MOST_FALSE, TASK, area, cosine, euclid, vote
from pipeline.bench.representations import Representation

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Words = NDArray[np.str_]
Mask = NDArray[np.bool_]
Distance = Callable[[F32, F32], F64]


@dataclass(frozen=True, slots=True)
class Split:
    """One bank and its queries, as masks over windows.

    Attributes:
        bank: (B,) windows that are known.
        queries: (B,) windows to judge.
    """

    bank: Mask
    queries: Mask


def distance_for(name: str, representation: Representation, *, anomaly: bool) -> Distance:
    """The distance called `name`; `task` depends on what is measured and between what."""
    if name != TASK:
        return DISTANCES[name]
    return cosine if anomaly and representation.engine is not None else euclid


def votes_right(
    embedded: F32, label: Words, recording: Words, splits: Sequence[Split], distance: Distance
) -> F64:
    """(U,) share of windows that their neighbours name rightly, per recording that was queried.

    Recordings come in the order of `queried`; one that is queried by several banks counts with
    the mean over them.
    """
    right, count = np.zeros(len(label)), np.zeros(len(label))
    for split in splits:
        check_apart(split, recording)
        found = vote(distance(embedded[split.bank], embedded[split.queries]), label[split.bank])
        right[split.queries] += found == label[split.queries]
        count[split.queries] += 1
    return _by_recording(right, count, recording)


def areas(
    embedded: F32,
    normal: Mask,
    recording: Words,
    splits: Sequence[Split],
    distance: Distance,
    most_false: float = MOST_FALSE,
) -> tuple[F64, F64]:
    """(U,) AUROC and (U,) partial AUROC of each anomalous recording against the normal queries.

    The score is the distance to the nearest of the bank, which holds normal windows only.
    """
    whole, part, count = (np.zeros(len(recording)) for _ in range(3))
    for split in splits:
        check_apart(split, recording)
        scores = np.full(len(recording), np.nan)
        bank = split.bank & normal
        scores[split.queries] = distance(embedded[bank], embedded[split.queries]).min(1)
        healthy = scores[split.queries & normal]
        for name in np.unique(recording[split.queries & ~normal]):
            mine = split.queries & (recording == name)
            whole[mine] += area(healthy, scores[mine])
            part[mine] += area(healthy, scores[mine], most_false)
            count[mine] += 1
    return _by_recording(whole, count, recording), _by_recording(part, count, recording)


def queried(recording: Words, asked: Mask) -> Words:
    """(U,) names of recordings with windows that are asked for, sorted."""
    return np.unique(recording[asked])


def check_apart(split: Split, recording: Words) -> None:
    """Refuse a split with one recording on both sides."""
    both = set(recording[split.bank]) & set(recording[split.queries])
    if both:
        raise ValueError(f"recordings must be on one side only, got {sorted(both)[:3]} on both")


def _by_recording(total: F64, count: F64, recording: Words) -> F64:
    """Mean over banks and windows of each recording that was asked, in sorted order."""
    asked = count > 0
    _, index = np.unique(recording[asked], return_inverse=True)
    return np.bincount(index, total[asked] / count[asked]) / np.bincount(index)
