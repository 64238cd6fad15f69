"""A bank of healthy embeddings in; how far new ones lie from it, by what varies there, out.

Embeddings are scaled to unit length; differences of them are measured in the spread that the bank
has along its own principal axes (Mahalanobis): a direction in which healthy windows differ counts
little, one in which they never do counts much. A bank is smaller than an embedding is long, so the
covariance is shrunk: every axis gets `SHRINKAGE` of the mean variance on top, and axes that the
bank does not have get that alone (after Ledoit and Wolf 2004, with a fixed share).

All of it follows from the scalar products with the bank (n members): n^2 numbers are kept, no
matrix of the embedding's length. Shapes: n of the bank, q queries, K bands, D numbers per band,
r axes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F16 = NDArray[np.float16]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

# 0.03 to 1 give AUROC within 0.008 of each other on simulated faults (docs/distance.md).
SHRINKAGE = 0.1
# Squared length: the bank is kept in half precision, and a variance below its rounding is none.
MIN_VARIANCE = 1e-7
# Share of the largest variance below which an axis is rounding.
MIN_SHARE = 1e-6
# Of a half, widened by its sign and shifted: bit 31 and bits 13 to 27.
SIGN_AND_VALUE = np.int32(-(1 << 31) | 0x0FFFE000)
TO_BIAS = np.float32(2.0**112)
# Length of what has none, so that nothing is divided by zero.
TINY = np.float32(1e-12)


@dataclass(frozen=True, slots=True)
class Near:
    """The nearest members of a bank.

    Attributes:
        index: (q,) which member.
        distance: (q,) whitened distance to it, at least that of the bank's rounding.
        cosine: (q,) cosine distance to it, 0-2.
        bands: (q, K) parts of the squared whitened distance; they sum to it, but for that least.
    """

    index: NDArray[np.intp]
    distance: F64
    cosine: F64
    bands: F64


class Whitening:
    """Distances to the members of one bank.

    Args:
        bank: (n, K, D) finite, in half precision; kept, neither copied nor widened for long.
    """

    def __init__(self, bank: F16) -> None:
        n = len(bank)
        self._bank = bank.reshape(n, -1)
        wide = widened(self._bank)
        self._norms = _lengths(wide)
        gram = (wide @ wide.T).astype(np.float64)
        gram /= np.outer(self._norms, self._norms)
        self._rows = gram.mean(1)
        self._mean = float(self._rows.mean())
        centred = gram - self._rows[:, None] - self._rows + self._mean
        power, axes = np.linalg.eigh(centred)  # n x variance
        kept = power > max(MIN_SHARE * power[-1], n * MIN_VARIANCE * MIN_SHARE)
        power, axes = power[kept], axes[:, kept]
        variance = power / n
        most_axes = max(1, min(n - 1, self._bank.shape[1]))
        self._spare = max(SHRINKAGE * float(variance.sum()) / most_axes, MIN_VARIANCE)
        self._root = np.sqrt(power)  # coordinates of the bank: axes * root
        self._weight = 1.0 / (variance + self._spare)
        self._squares = (axes**2) @ (power * self._weight)
        # Products with it are most of the work: in single precision, of numbers already centred.
        self._axes = axes.astype(np.float32)

    def nearest(self, queries: F32) -> Near:
        """The nearest member for each of (q, K, D) queries."""
        q, bands = queries.shape[:2]
        flat, bank = queries.reshape(q, -1), widened(self._bank)
        norms = _lengths(flat)
        cosine = (flat @ bank.T).astype(np.float64) / np.outer(norms, self._norms)
        place, beyond = self._placed(cosine)
        weighted = place * self._weight
        inside = self._squares + (place * weighted).sum(1, keepdims=True)
        inside = inside - 2.0 * ((weighted * self._root).astype(np.float32) @ self._axes.T)
        index = np.argmin(inside, axis=1)
        rows = np.arange(q)
        parts = self._parts(flat / norms[:, None], bank, index, place)
        squared = inside[rows, index] + beyond / self._spare
        return Near(
            index=index,
            # Closer than the bank's rounding nothing can be told apart.
            distance=np.sqrt(np.maximum(squared, MIN_VARIANCE / self._spare)),
            cosine=1.0 - cosine[rows, index],
            bands=np.square(parts.reshape(q, bands, -1)).sum(2, dtype=np.float64),
        )

    def _placed(self, cosine: F64) -> tuple[F64, F64]:
        """(q, r) coordinates along the bank's axes and (q,) squared length beyond them."""
        means = cosine.mean(1)
        product = cosine - means[:, None] - self._rows + self._mean
        place = (product.astype(np.float32) @ self._axes) / self._root
        length = 1.0 - 2.0 * means + self._mean
        return place, np.maximum(length - (place * place).sum(1), 0.0)

    def _parts(self, unit: F32, bank: F32, index: NDArray[np.intp], place: F64) -> F32:
        """(q, K * D) whitened differences to the nearest members."""
        moved = place - self._axes[index] * self._root
        gain = np.sqrt(self._weight) - 1.0 / np.sqrt(self._spare)
        # The axes of a centred bank have no mean, so the mix needs no centring.
        mix = (moved * gain / self._root).astype(np.float32) @ self._axes.T / self._norms
        member = bank[index] / self._norms[index, None]
        found: F32 = (unit - member) / np.float32(np.sqrt(self._spare)) + mix @ bank
        return found


def cosine_distances(bank: F16) -> F32:
    """(n, n) cosine distances of a bank's windows, 0-2."""
    wide = widened(bank.reshape(len(bank), -1))
    unit = wide / _lengths(wide)[:, None]
    found: F32 = unit @ unit.T
    return np.subtract(1.0, found, out=found)


def widened(half: F16) -> F32:
    """The same finite numbers in single precision, ten times as fast as `astype`.

    A half has 5 bits of exponent and 10 of fraction: shifted to where single precision has its own,
    it is 2^112 too small, for the two biases are 15 and 127. Exact for subnormals as well.
    """
    bits = half.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= SIGN_AND_VALUE
    single: F32 = bits.view(np.float32)
    single *= TO_BIAS
    return single


def _lengths(rows: F32) -> F32:
    """(n,) lengths of rows; at least `TINY`, so that a zero stays one."""
    found: F32 = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    return np.maximum(found, TINY)
