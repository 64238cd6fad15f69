"""A bank and queries in, distances, votes of neighbours and areas under the ROC curve out.

Shapes: Q queries, B of the bank, K bands, D numbers per band. kNN and the anomaly score follow
SIREN's protocol: k = 5, plain vote, ties to the nearest; 1 - largest cosine similarity.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Words = NDArray[np.str_]

NEIGHBOURS: Final = 5
# Of the partial area: false alarms beyond 10 % are of no use to anyone.
MOST_FALSE: Final = 0.1
# Share of the whitening that ignores directions, as a small bank knows few of them.
SHRINKAGE: Final = 0.1
# Least spread of a band, relative to the mean over bands: a band that stands still counts for
# much, but not for everything.
LEAST_SPREAD: Final = 1e-3


def euclid(bank: F32, queries: F32) -> F64:
    """(Q, B) Euclidean distances of whole embeddings."""
    found: F64 = np.sqrt(_squares(_flat(bank), _flat(queries)))
    return found


def cosine(bank: F32, queries: F32) -> F64:
    """(Q, B): 1 - cosine similarity of whole embeddings."""
    return 1.0 - _units(_flat(queries)) @ _units(_flat(bank)).T


def whitened(bank: F32, queries: F32) -> F64:
    """(Q, B) Mahalanobis distances by the bank's covariance, shrunk towards a multiple of one."""
    flat = _flat(bank)
    centre = flat.mean(0)
    _, singular, axes = np.linalg.svd(flat - centre, full_matrices=False)
    variance = singular**2 / max(1, len(flat) - 1)
    rest = SHRINKAGE * max(float(variance.sum()) / flat.shape[1], np.finfo(float).tiny)
    # Along the bank's axes by their own spread, across them by what shrinkage leaves.
    gain = 1 / np.sqrt((1 - SHRINKAGE) * variance + rest) - 1 / np.sqrt(rest)

    def turned(x: F64) -> F64:
        moved = x - centre
        out: F64 = moved / np.sqrt(rest) + ((moved @ axes.T) * gain) @ axes
        return out

    found: F64 = np.sqrt(_squares(turned(flat), turned(_flat(queries))))
    return found


def band_z(bank: F32, queries: F32) -> F64:
    """(Q, B): root mean square over bands of distances in units of the bank's own neighbours.

    The unit of a band is the root mean square distance of the bank's members to their nearest
    neighbour in the bank.
    """
    units = np.array([_own_square(bank[:, k]) for k in range(bank.shape[1])])
    units = np.maximum(units, LEAST_SPREAD * max(units.mean(), np.finfo(float).tiny))
    total = np.zeros((len(queries), len(bank)))
    for k, unit in enumerate(units):
        total += _squares(bank[:, k], queries[:, k]) / unit
    return np.sqrt(total / len(units))


DISTANCES: Final[dict[str, Callable[[F32, F32], F64]]] = {
    "euclid": euclid,
    "cosine": cosine,
    "whitened": whitened,
    "band-z": band_z,
}
TASK: Final = "task"
"""Euclid for kNN; for anomalies cosine between embeddings, Euclid between other numbers."""


def vote(distances: F64, labels: Words, k: int = NEIGHBOURS) -> Words:
    """(Q,) majority among the `k` nearest of the bank; of equal votes the nearest one's.

    Args:
        distances: (Q, B).
        labels: (B,) of the bank.
        k: Voters; all of a smaller bank.
    """
    nearest = labels[np.argsort(distances, axis=1, kind="stable")[:, :k]]  # (Q, k)
    votes = (nearest[:, :, None] == nearest[:, None, :]).sum(2)
    winners: Words = nearest[np.arange(len(nearest)), votes.argmax(1)]
    return winners


def area(normal: F64, anomalous: F64, most_false: float = 1.0) -> float:
    """Area under the ROC curve up to a false alarm rate, scaled so that chance is 0.5.

    A mean over the anomalous scores, so the areas of single recordings average to that of all.

    Args:
        normal: (N,) scores of normal windows, high = suspicious.
        anomalous: (M,) scores of anomalous ones.
        most_false: Largest false alarm rate; below 1 the partial area, standardised after
            McClish (1989).
    """
    highest = np.sort(normal)[::-1]
    count = most_false * highest.size
    weight = np.clip(count - np.arange(highest.size), 0, 1)
    ranked = np.sort(anomalous)
    above = anomalous.size - np.searchsorted(ranked, highest, side="right")
    level = anomalous.size - np.searchsorted(ranked, highest, side="left") - above
    found = float((weight * (above + 0.5 * level)).sum() / (highest.size * anomalous.size))
    chance = 0.5 * most_false**2
    return 0.5 * (1 + (found - chance) / (most_false - chance))


def _flat(x: F32) -> F64:
    flat: F64 = x.reshape(len(x), -1).astype(np.float64)
    return flat


def _units(x: F64) -> F64:
    units: F64 = x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-10)
    return units


def _squares(bank: NDArray[np.floating], queries: NDArray[np.floating]) -> F64:
    """(Q, B) squared distances; about the bank's mean, so that little cancels."""
    centre = bank.mean(0, dtype=np.float64)
    b, q = bank - centre, queries - centre
    found: F64 = (q * q).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * q @ b.T
    return np.maximum(found, 0.0)


def _own_square(band: F32) -> float:
    """Mean squared distance of members of a bank to their nearest neighbour in it."""
    if len(band) < 2:
        return 1.0
    squares = _squares(band, band)
    np.fill_diagonal(squares, np.inf)
    return float(squares.min(1).mean())
