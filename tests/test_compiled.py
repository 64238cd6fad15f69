"""Compiled attention and norms give exact arithmetic's result, the same bits in any company."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echo_model import compiled
from echo_model.lanes import LANES, Kernel, loop

torch.set_num_threads(1)


def exact(queries, keyed, bands, heads, width):
    """Softmax attention in float64: (bands * Q, H * d)."""
    dim = heads * width
    q = queries[:, :dim].double().view(bands, -1, heads, width)
    k, v = keyed[:, -2 * dim :].double().view(bands, -1, 2, heads, width).unbind(2)
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2).flatten(0, 1)


def attended(queries, keyed, bands, heads, width):
    out = torch.full((queries.shape[0], heads * width), torch.nan, dtype=keyed.dtype)
    compiled.attention(queries, keyed, out, bands, heads)
    return out


def tokens(rows, columns, seed=0, dtype=torch.float32):
    made = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=made).to(dtype)


def test_exponentials_are_within_two_roundings():
    x = torch.cat([torch.linspace(-87, 0, 16 * 4000), torch.tensor([-88.0, -1e30] * 8)])
    found = torch.zeros_like(x)

    def build(a, out, count):
        with loop(count, LANES) as i:
            out.store(i, compiled._exp(a.load(i)))

    Kernel(build, [False, False], 1)(x.data_ptr(), found.data_ptr(), len(x))
    want = x.clamp(min=-87.0).double().exp()
    assert ((found - want) / want).abs().max() < 1.3e-7


@pytest.mark.parametrize("count", [2, 15, 16, 17, 31, 32, 784 * 201])
def test_log_magnitudes_are_exact_in_any_number(count):
    rng = np.random.default_rng(count)
    parts = rng.standard_normal((count, 2)) * 10.0 ** rng.uniform(-20, 18, (count, 1))
    parts = parts.astype(np.float32)
    parts[0], parts[-1] = 0.0, (1.0, 0.0)
    got = compiled.log_magnitude(parts, 1e-9, -5.0, 10.0)
    wide = parts.astype(np.float64)
    want = (np.log(np.hypot(wide[:, 0], wide[:, 1]) + np.float32(1e-9)) + 5.0) / 10.0
    assert np.abs(got - want).max() < 6e-7
    assert np.array_equal(compiled.log_magnitude(parts[:1], 1e-9, -5.0, 10.0), got[:1])


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, 1e30])
def test_only_the_magnitude_that_is_not_finite_becomes_nan(bad):
    parts = np.ones((40, 2), np.float32)
    parts[17, 1] = bad
    got = compiled.log_magnitude(parts, 1e-9, -5.0, 10.0)
    assert np.flatnonzero(~np.isfinite(got)).tolist() == [17]


@pytest.mark.parametrize(
    ("heads", "width", "dtype", "near"),
    [
        (3, 32, torch.float32, 1e-5),
        (6, 64, torch.float32, 1e-5),
        (1, 16, torch.float32, 1e-5),
        (3, 32, torch.bfloat16, 0.02),
        (3, 64, torch.bfloat16, 0.02),
    ],
)
def test_attention_is_exact_for_every_length(heads, width, dtype, near):
    for length in range(1, 127):
        qkv = tokens(3 * length, 3 * heads * width, length)
        qkv[:, : heads * width] *= width**-0.5
        qkv = qkv.to(dtype)
        got = attended(qkv, qkv, 3, heads, width)
        want = exact(qkv, qkv, 3, heads, width)
        assert (got - want).abs().max() < near, length


@pytest.mark.parametrize("length", [1, 2, 8, 126])
def test_one_query_per_band_is_that_row_of_all(length):
    qkv, dim = tokens(5 * length, 3 * 96), 96
    whole = attended(qkv, qkv, 5, 3, 32)
    cls, keyed = qkv[::length, :dim].contiguous(), qkv[:, dim:].contiguous()
    assert torch.equal(attended(cls, keyed, 5, 3, 32), whole[::length])


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 126), st.integers(1, 9), st.integers(0, 8), st.sampled_from([32, 64]))
def test_a_band_is_the_same_bits_in_any_company(length, bands, place, width):
    place = min(place, bands - 1)
    qkv = tokens(bands * length, 9 * width)
    own = slice(place * length, (place + 1) * length)
    alone = attended(qkv[own], qkv[own], 1, 3, width)
    others = 1e4 * tokens(bands * length, 9 * width, 1)
    others[own] = qkv[own]
    assert torch.equal(attended(others, others, bands, 3, width)[own], alone)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e3, 1e12, 1e18])
def test_large_scores_neither_overflow_nor_vanish(scale):
    qkv = tokens(4 * 17, 3 * 96)
    qkv[:, :192] *= scale
    got, want = attended(qkv, qkv, 4, 3, 32), exact(qkv, qkv, 4, 3, 32)
    assert torch.isfinite(got).all()
    # Scores of 1e3 are rounded by 1e-4 before their exponential is taken.
    assert (got - want).abs().max() < (1e-5 if scale <= 1.0 else 1e-2)


def test_equal_scores_weigh_equally_and_opposite_ones_do_not_count():
    qkv = torch.zeros(2, 48)
    qkv[:, 32:] = torch.tensor([[1.0], [3.0]])
    assert attended(qkv, qkv, 1, 1, 16).flatten().tolist() == [2.0] * 32
    qkv[:, 0], qkv[0, 16], qkv[1, 16] = 1.0, 500.0, -500.0
    assert attended(qkv, qkv, 1, 1, 16).flatten().tolist() == [1.0] * 32


def test_what_is_not_a_number_stays_in_its_band():
    qkv = tokens(6, 48)
    clean = attended(qkv, qkv, 3, 1, 16)
    qkv[2] = torch.nan
    got = attended(qkv, qkv, 3, 1, 16)
    assert torch.isnan(got[2:4]).any()
    assert torch.equal(got[[0, 1, 4, 5]], clean[[0, 1, 4, 5]])


@pytest.mark.parametrize("dim", [16, 48, 96, 192, 384])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 2e-6), (torch.bfloat16, 0.04)])
def test_sum_and_norm_are_those_of_torch(dim, dtype, near):
    x, residual = (tokens(37, dim, seed, dtype) + 3 for seed in (0, 1))
    weight, bias = (tokens(1, dim, seed, dtype)[0] for seed in (2, 3))
    want = torch.nn.functional.layer_norm(
        x.double() + residual.double(), (dim,), weight.double(), bias.double(), 1e-6
    )
    kept = residual.clone()
    got = compiled.add_norm(x, residual, weight, bias, 1e-6)
    assert got is x
    assert torch.equal(residual, kept)
    assert (got - want).abs().max() < near * want.abs().max()


def test_epsilon_reaches_the_norm_and_constant_rows_give_the_bias():
    x, zero, one = torch.full((2, 48), 5.0), torch.zeros(2, 48), torch.ones(48)
    assert torch.equal(compiled.add_norm(x.clone(), zero, one, one, 1e-6), torch.ones(2, 48))
    x[:, ::2] = 7.0  # variance 1
    for eps in (0.0, 3.0):
        got = compiled.add_norm(x.clone(), zero, one, torch.zeros(48), eps)
        assert got[0, 0] == pytest.approx((1 + eps) ** -0.5)


def test_a_row_is_the_same_bits_in_any_company():
    x, residual = tokens(64, 192), tokens(64, 192, 1)
    weight, bias = tokens(1, 192, 2)[0], tokens(1, 192, 3)[0]
    whole = compiled.add_norm(x.clone(), residual, weight, bias, 1e-6)
    for row in (0, 1, 31, 63):
        one = slice(row, row + 1)
        alone = compiled.add_norm(x[one].clone(), residual[one], weight, bias, 1e-6)
        assert torch.equal(alone, whole[one])


def test_heads_of_whole_lanes_fit():
    assert [width for width in range(1, 65) if compiled.fits(width)] == [16, 32, 48, 64]
