"""What torch has no fast kernel for: attention inside short bands, a sum and its norm, logarithms.

A band, and a row, is computed by itself in one order, so that company in the batch changes no bit.
Matrices are contiguous, float32 or bfloat16; arithmetic is float32.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echo_model.lanes import LANES, Array, Kernel, Value, Variable, constant, loop, totals


def fits(columns: int) -> bool:
    """Whether heads or rows of so many columns fill lanes."""
    return columns % LANES == 0


def prepare(width: int, eps: float, dtype: torch.dtype) -> None:
    """Compile now, not in the middle of a batch: 0.1 s, once per process."""
    half = dtype == torch.bfloat16
    if fits(width):
        _attention(width, half=half)
    _add_norm(eps, half=half)


def attention(queries: Tensor, keyed: Tensor, out: Tensor, bands: int, heads: int) -> None:
    """Softmax attention inside bands.

    Args:
        queries: (bands * Q, H * d or more), scaled queries in the first columns.
        keyed: (bands * L, 2 H * d or more), keys and values in the last columns.
        out: (bands * Q, H * d), written to.
        bands: Bands, at least one.
        heads: Heads H; their columns d must fit.
    """
    asked, length = out.shape[0] // bands, keyed.shape[0] // bands
    scores = torch.empty((length + 1) * LANES, dtype=torch.float32)
    kernel = _attention(out.shape[1] // heads, half=out.dtype == torch.bfloat16)
    addresses = [part.data_ptr() for part in (queries, keyed, out, scores)]
    kernel(*addresses, bands, heads, asked, length, queries.shape[1], keyed.shape[1])


def add_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer norm of x + residual, (M, D) both, written into x; D must fit."""
    kernel, row = _add_norm(eps, half=x.dtype == torch.bfloat16), torch.empty(x.shape[1])
    kernel(*(part.data_ptr() for part in (x, residual, weight, bias, row)), *x.shape)
    return x


def log_magnitude(
    parts: NDArray[np.float32], floor: float, mean: float, spread: float
) -> NDArray[np.float32]:
    """(ln(|X| + floor) - mean) / spread of pairs (..., 2); NaN where X is not finite."""
    flat = np.ascontiguousarray(parts).reshape(-1, 2)
    count = len(flat)
    if count < LANES:  # other code would round differently
        flat = np.concatenate([flat, np.zeros((LANES - count, 2), np.float32)])
    out = np.empty(len(flat), np.float32)
    _log_magnitude(floor, mean, spread)(flat.ctypes.data, out.ctypes.data, len(flat))
    return out[:count].reshape(parts.shape[:-1])


@lru_cache(maxsize=16)
def _attention(width: int, *, half: bool) -> Kernel:
    """The kernel for heads of so many columns; `scores` holds (L + 1) * 16 float32."""

    def build(
        q: Array,
        kv: Array,
        out: Array,
        scores: Array,
        bands: Value,
        heads: Value,
        asked: Value,
        length: Value,
        query_row: Value,
        keyed_row: Value,
    ) -> None:
        dim = heads * width
        with loop(bands) as band, loop(heads) as head, loop(asked, LANES) as first:
            count, row = (asked - first).smaller(LANES), band * asked + first
            key = band * length * keyed_row + keyed_row - dim * 2 + head * width
            start = row * query_row + head * width
            _score(
                _Side(q, start, query_row, count), _Side(kv, key, keyed_row, length), width, scores
            )
            _weigh(scores, length)
            values = _Side(kv, key + dim, keyed_row, length)
            _mix(scores, values, width, _Side(out, row * dim + head * width, dim, count))

    return Kernel(build, [half, half, half, False], 6)


@dataclass(frozen=True, slots=True)
class _Side:
    """One head's columns of a few rows: where they start, how far apart, how many rows."""

    array: Array
    start: Value
    row: Value
    count: Value


def _score(queries: _Side, keys: _Side, width: int, scores: Array) -> None:
    """Products of up to 16 queries, side by side, with each key; four queries at a time."""
    with loop(queries.count, 4) as i:
        places = [queries.start + one * queries.row for one in _four(i, queries.count)]
        with loop(keys.count) as j:
            found = [constant(scores.builder, 0.0)] * 4
            for c in range(0, width, LANES):
                k = keys.array.load(keys.start + j * keys.row + c)
                found = [
                    queries.array.load(place + c).times_plus(k, score)
                    for place, score in zip(places, found, strict=True)
                ]
            scores.store(j * LANES + i, totals(*found))


def _mix(weights: Array, values: _Side, width: int, out: _Side) -> None:
    """Weighted sums of the values, four queries at a time."""
    with loop(out.count, 4) as i:
        four = _four(i, out.count)
        for c in range(0, width, LANES):
            sums = [Variable(constant(weights.builder, 0.0)) for _ in four]
            with loop(values.count) as j:
                v = values.array.load(values.start + j * values.row + c)
                for one, part in zip(four, sums, strict=True):
                    part.set(weights.spread(j * LANES + one).times_plus(v, part.get()))
            for one, part in zip(four, sums, strict=True):
                mixed = part.get() * weights.spread(values.count * LANES + one)
                out.array.store(out.start + one * out.row + c, mixed)


def _four(first: Value, count: Value) -> list[Value]:
    """Four rows from one on; for those that are not there the last one again."""
    return [(first + n).smaller(count - 1) for n in range(4)]


def _weigh(scores: Array, length: Value) -> None:
    """Scores, queries in the lanes, to exponentials; behind them one over their sum."""
    most = Variable(scores.load(length.like(0)))
    with loop(length) as j:
        most.set(most.get().larger(scores.load(j * LANES)))
    total = Variable(constant(scores.builder, 0.0))
    with loop(length) as j:
        weight = _exp(scores.load(j * LANES) - most.get())
        total.set(total.get() + weight)
        scores.store(j * LANES, weight)
    scores.store(length * LANES, total.get().inverse())


def _exp(x: Value) -> Value:
    """Exponential of lanes <= 0, within 1.2e-7 of itself (Cephes `expf`); below -87 that of -87."""
    x = x.larger(-87.0)
    power = x.times_plus(1.44269504, 0.5).floor()
    rest = power.times_plus(-0.693359375, x)  # ln 2 in two parts
    rest = power.times_plus(2.12194440e-4, rest)
    found = x.like(1.9875691500e-4)
    for coefficient in (
        1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1
    ):  # fmt: skip
        found = found.times_plus(rest, coefficient)
    return (found.times_plus(rest * rest, rest) + 1.0) * power.power_of_two()


@lru_cache(maxsize=16)
def _add_norm(eps: float, *, half: bool) -> Kernel:
    """The kernel; `row` holds D float32."""

    def build(
        x: Array, residual: Array, weight: Array, bias: Array, row: Array, rows: Value, dim: Value
    ) -> None:
        zero, share = constant(x.builder, 0.0), dim.lanes().inverse()
        with loop(rows) as number:
            start, sum_, squares = number * dim, Variable(zero), Variable(zero)
            with loop(dim, LANES) as c:
                v = x.load(start + c) + residual.load(start + c)
                row.store(c, v)
                sum_.set(sum_.get() + v)
            mean = sum_.get().total() * share
            with loop(dim, LANES) as c:
                v = row.load(c) - mean
                squares.set(v.times_plus(v, squares.get()))
            factor = squares.get().total().times_plus(share, eps).root().inverse()
            with loop(dim, LANES) as c:
                v = (row.load(c) - mean) * factor
                x.store(start + c, v.times_plus(weight.load(c), bias.load(c)))

    return Kernel(build, [half, half, half, half, False], 2)


@lru_cache(maxsize=2)
def _log_magnitude(floor: float, mean: float, spread: float) -> Kernel:
    def build(parts: Array, out: Array, count: Value) -> None:
        with loop(count, LANES) as i:
            start = i.smaller(count - LANES)  # the last ones may be done twice
            real, imaginary = parts.pairs(start * 2)
            x = real.times_plus(real, imaginary * imaginary).root() + floor
            out.store(start, (_log(x) - mean) * (1.0 / spread))

    return Kernel(build, [False, False], 1)


def _log(x: Value) -> Value:
    """Natural logarithm of lanes > 0 (Cephes `logf`), within 1.2e-7 of itself or of 1."""
    power, rest = x.power_and_rest()
    rest = rest - 1.0
    found = x.like(7.0376836292e-2)
    for coefficient in (
        -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
        2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
    ):  # fmt: skip
        found = found.times_plus(rest, coefficient)
    square = rest * rest
    found = power.times_plus(-2.12194440e-4, found * rest * square)  # ln 2 in two parts
    found = power.times_plus(0.693359375, square.times_plus(-0.5, found) + rest)
    return found + (x - x)  # infinity and NaN end as NaN
