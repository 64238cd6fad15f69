"""Scores of recordings in, figures with confidence intervals and paired differences out.

What is resampled are units (recordings), never windows: windows of one recording are not
independent. Every representation is scored on the same units and seeds, so a difference is paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]

# Of the percentile bootstrap: two-sided, and draws that hold the limits to about 0.003.
CONFIDENCE: Final = 0.95
DRAWS: Final = 2000


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of one representation on one set, or a paired difference of two.

    Attributes:
        set: Name in `pipeline.bench.catalogue.SETS`.
        case: What was done to the windows, e.g. `1 s, white -6 dB`.
        measure: What the value is, e.g. `balanced accuracy`; higher is better unless `lower` is
            in its last word (`false alarms, lower`).
        representation: Whose it is.
        value: The figure; for a difference this representation's minus the other's.
        low, high: 95 % interval; nan where there is only one unit.
        against: The other representation of a difference, empty for a plain figure.
        distance: Between embeddings, empty where it does not matter.
        units: Recordings (machines, clips) that were scored.
        summary: Whether it stands for its set where sets are compared.
    """

    set: str
    case: str
    measure: str
    representation: str
    value: float
    low: float
    high: float
    against: str = ""
    distance: str = ""
    units: int = 0
    summary: bool = False


@dataclass(frozen=True, slots=True)
class Subject:
    """What scores are of: everything of a `Figure` but whose and how much."""

    set: str
    case: str
    measure: str
    distance: str = ""
    summary: bool = False


def figures_of(
    subject: Subject,
    scores: Mapping[str, ArrayLike],
    pairs: Sequence[tuple[str, str]] = (),
    *,
    weights: ArrayLike | None = None,
) -> list[Figure]:
    """Mean over seeds and units of each representation, and differences of pairs of them.

    Args:
        subject: What was scored.
        scores: (S, U) per representation: S seeds, U units; all of one shape.
        pairs: (representation, other) whose difference is wanted; pairs with a representation
            that has no scores are left out.
        weights: (U,) share of each unit, e.g. 1 / recordings of its class; None: equal.
    """
    table = {name: np.asarray(values, np.float64) for name, values in scores.items()}
    shape = next(iter(table.values())).shape
    if len(shape) != 2 or any(values.shape != shape for values in table.values()):
        shapes = {name: values.shape for name, values in table.items()}
        raise ValueError(f"scores must be (seeds, units) of one shape, got {shapes}")
    share = np.ones(shape[1]) if weights is None else np.asarray(weights, np.float64)
    draws = _draws(shape)
    drawn = {name: _means(values, share, draws) for name, values in table.items()}
    whole = {name: float(np.average(v.mean(0), weights=share)) for name, v in table.items()}
    found = [_figure(subject, name, whole[name], drawn[name], shape[1]) for name in table]
    found += [
        _figure(subject, one, whole[one] - whole[two], drawn[one] - drawn[two], shape[1], two)
        for one, two in pairs
        if one in table and two in table
    ]
    return found


def _draws(shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Seeds (DRAWS, S) and units (DRAWS, U) of each resample; the same for one shape."""
    rng = np.random.default_rng((7, *shape))
    return tuple(rng.integers(0, n, (DRAWS, n)) for n in shape)  # type: ignore[return-value]


def _means(values: F64, share: F64, draws: tuple[NDArray[np.int64], NDArray[np.int64]]) -> F64:
    """(DRAWS,) weighted means of resampled units, averaged over resampled seeds."""
    seeds, units = draws
    picked = np.stack([(seeds == s).mean(1) for s in range(values.shape[0])], axis=1)
    counts = np.stack([np.bincount(row, minlength=values.shape[1]) for row in units])
    weight = counts * share
    means: F64 = ((picked @ values) * weight).sum(1) / weight.sum(1)
    return means


def _figure(
    subject: Subject, name: str, value: float, drawn: F64, units: int, against: str = ""
) -> Figure:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = (float(x) for x in np.percentile(drawn, [tail, 100 - tail]))
    if units < 2:
        low = high = float("nan")
    return Figure(
        subject.set, subject.case, subject.measure, name, value, low, high, against,
        subject.distance, units, subject.summary,
    )  # fmt: skip
