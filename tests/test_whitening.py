import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.whitening import SHRINKAGE, Whitening, widened

K, D = 3, 8


def bank_of(seed, n, spread=0.2):
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(K, D))
    scale = spread * rng.uniform(0.1, 2.0, size=(K, D))
    return (centre + scale * rng.normal(size=(n, K, D))).astype(np.float16)


def alike(bank):
    """The same as queries."""
    return bank.astype(np.float32)


def mahalanobis(bank, queries):
    """(q, n) by the textbook: inverse of the shrunk covariance of unit vectors, in float64."""

    def unit(x):
        flat = x.reshape(len(x), -1).astype(np.float64)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    members = unit(bank)
    centred = members - members.mean(0)
    covariance = centred.T @ centred / len(bank)
    spare = SHRINKAGE * np.trace(covariance) / min(len(bank) - 1, K * D)
    inverse = np.linalg.inv(covariance + spare * np.eye(K * D))
    step = unit(queries)[:, None] - members
    return np.sqrt(np.einsum("qnd,de,qne->qn", step, inverse, step))


@given(seed=st.integers(0, 99), n=st.integers(4, 60))
@settings(max_examples=30, deadline=None)
def test_distances_are_those_of_the_textbook_for_small_and_large_banks(seed, n):
    bank = bank_of(seed, n)
    queries = alike(np.concatenate([bank_of(seed, n + 4)[n:], bank_of(seed + 1, 3)]))
    near = Whitening(bank).nearest(queries)
    wanted = mahalanobis(bank, queries)
    assert near.distance == pytest.approx(wanted.min(1), rel=1e-2)
    assert wanted[np.arange(len(queries)), near.index] == pytest.approx(wanted.min(1), rel=1e-2)


@given(seed=st.integers(0, 99), n=st.integers(4, 60))
@settings(max_examples=20, deadline=None)
def test_parts_of_bands_sum_to_the_squared_distance(seed, n):
    queries = alike(bank_of(seed + 1, 4))
    near = Whitening(bank_of(seed, n)).nearest(queries)
    assert near.bands.shape == (4, K)
    assert near.bands.sum(1) == pytest.approx(near.distance**2, rel=1e-2)


def test_a_query_does_not_depend_on_its_neighbours_in_the_call():
    whitening, queries = Whitening(bank_of(1, 40)), alike(bank_of(2, 5))
    together = whitening.nearest(queries)
    for i, query in enumerate(queries):
        alone = whitening.nearest(query[None])
        assert alone.distance[0] == pytest.approx(together.distance[i], rel=1e-4)
        assert alone.index[0] == together.index[i]


def test_the_level_of_an_embedding_is_no_distance():
    bank = bank_of(3, 40)
    near = Whitening(bank).nearest(3.0 * alike(bank[7:8]))
    assert near.index[0] == 7
    assert near.cosine[0] == pytest.approx(0.0, abs=1e-6)
    assert near.distance[0] < 0.05 * Whitening(bank).nearest(alike(bank_of(4, 1))).distance[0]


def test_a_bank_that_never_varies_still_tells_distances():
    bank = np.repeat(bank_of(5, 1), 20, axis=0)
    near = Whitening(bank).nearest(alike(np.concatenate([bank[:1], bank_of(6, 1)])))
    assert np.isfinite(near.distance).all()
    assert near.distance[0] < 2.0
    assert near.distance[1] > 100.0


def test_cosine_is_that_to_the_member_that_is_named():
    bank, queries = bank_of(7, 30), alike(bank_of(8, 3))
    near = Whitening(bank).nearest(queries)
    for query, index, cosine in zip(queries, near.index, near.cosine, strict=True):
        a, b = query.ravel(), alike(bank[index]).ravel()
        wanted = 1.0 - float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        assert cosine == pytest.approx(wanted, abs=1e-5)


def test_nothing_is_nearer_than_the_rounding_of_the_bank():
    # Windows that are exactly alike: rounding alone must not look like a departure from them.
    exact = alike(bank_of(9, 1)) * np.float32(1.0003)
    bank = np.tile(exact.astype(np.float16), (40, 1, 1))
    of_itself, of_exact = Whitening(bank).nearest(alike(bank[:1])), Whitening(bank).nearest(exact)
    assert of_itself.distance == pytest.approx(1.0, rel=0.01)
    assert of_exact.distance == pytest.approx(1.0, rel=0.01)


def test_one_member_and_a_zero_are_measured_like_others():
    one = np.ones((1, K, D), np.float16)
    near = Whitening(one).nearest(np.stack([alike(one[0]), -alike(one[0]), alike(0 * one[0])]))
    assert near.cosine == pytest.approx([0, 2, 1], abs=1e-6)
    assert np.isfinite(near.distance).all()
    assert near.distance[1] > near.distance[2] > near.distance[0]
    assert np.isfinite(Whitening(np.zeros((20, K, D), np.float16)).nearest(alike(one)).distance)


def test_every_finite_half_is_widened_exactly():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    wide = widened(halves)
    assert np.array_equal(wide, halves.astype(np.float32))
    assert np.array_equal(np.signbit(wide), np.signbit(halves))
