import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.bench.degrade import CASES, Case, degraded
from pipeline.bench.figures import Subject, figures_of
from pipeline.bench.neighbours import DISTANCES, area, band_z, cosine, euclid, vote, whitened
from pipeline.bench.scoring import Split, areas, votes_right

RNG = np.random.default_rng(3)
SUBJECT = Subject("s", "c", "balanced accuracy", "task")
SMALL = st.floats(-3, 3, width=32)


def waves(count=4, n=4000, seed=0):
    return np.random.default_rng(seed).standard_normal((count, n)).astype(np.float32)


def points(rows, bands=3, size=4, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, bands, size)).astype(np.float32)


@given(arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 9)), elements=SMALL))
@settings(max_examples=25, deadline=None)
def test_a_figure_lies_in_its_interval_and_between_the_scores(scores):
    figure = figures_of(SUBJECT, {"a": scores})[0]
    assert scores.min() - 1e-9 <= figure.low <= figure.high <= scores.max() + 1e-9
    assert figure.value == pytest.approx(scores.mean())


def test_differences_are_paired():
    noisy = RNG.standard_normal((3, 12))
    plain, shifted, difference = figures_of(
        SUBJECT, {"a": noisy + 0.1, "b": noisy}, [("a", "b"), ("a", "not there")]
    )
    assert plain.high - plain.low > 0.5
    assert (difference.representation, difference.against) == ("a", "b")
    for value in (difference.value, difference.low, difference.high):
        assert value == pytest.approx(0.1)
    assert shifted.against == ""


def test_intervals_shrink_with_recordings_not_with_seeds_that_agree():
    units = RNG.standard_normal(200)
    wide, narrow = (figures_of(SUBJECT, {"a": units[None, :n]})[0] for n in (20, 200))
    assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)
    again = figures_of(SUBJECT, {"a": np.repeat(units[None, :20], 8, axis=0)})[0]
    assert again.high - again.low == pytest.approx(wide.high - wide.low, rel=0.25)


def test_intervals_hold_the_truth_as_often_as_they_say():
    hits, widths = 0, []
    for seed in range(60):
        figure = figures_of(SUBJECT, {"a": np.random.default_rng(seed).random((1, 40))})[0]
        hits += figure.low <= 0.5 <= figure.high
        widths.append(figure.high - figure.low)
    assert 50 <= hits <= 60
    # The normal law: 2 x 1.96 standard deviations of a mean of 40 uniform numbers.
    assert np.mean(widths) == pytest.approx(2 * 1.96 / np.sqrt(12 * 40), rel=0.08)


def test_one_recording_has_no_interval():
    figure = figures_of(SUBJECT, {"a": [[0.5], [0.7]]})[0]
    assert np.isnan(figure.low)
    assert np.isnan(figure.high)


def test_weights_make_classes_equal():
    figure = figures_of(SUBJECT, {"a": [[1.0, 0.0, 0.0]]}, weights=[0.5, 0.25, 0.25])[0]
    assert figure.value == pytest.approx(0.5)


def test_scores_of_other_recordings_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        figures_of(SUBJECT, {"a": [[1.0, 2.0]], "b": [[1.0]]})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_noise_has_the_level_that_its_case_names(case):
    clean = waves()
    case = Case(case.name, case.snr_db, case.colour)
    noise = degraded(clean, case, 1) - clean
    if case.snr_db is None:
        assert not noise.any()
        return
    snr_db = 20 * np.log10(clean.std(1) / noise.std(1))
    assert snr_db == pytest.approx(case.snr_db, abs=1e-3)
    power = np.abs(np.fft.rfft(noise)) ** 2
    low, high = power[:, 20:200].mean(), power[:, 1000:1900].mean()
    assert (low / high > 5) == (case.colour == "pink")


def test_gains_stay_within_their_range_and_differ():
    clean = waves(64)
    gain_db = 20 * np.log10(degraded(clean, Case("gain", gain_db=10.0), 0).std(1) / clean.std(1))
    assert -10.001 <= gain_db.min() < -5 < 5 < gain_db.max() <= 10.001


def test_noise_depends_on_the_seed_and_the_place_alone():
    clean, case = waves(6), CASES[1]
    assert np.array_equal(degraded(clean, case, 1), degraded(clean, case, 1))
    assert np.array_equal(degraded(clean, case, 1)[:3], degraded(clean[:3], case, 1))
    assert not np.array_equal(degraded(clean, case, 1), degraded(clean, case, 2))


@given(st.integers(0, 99), st.sampled_from(sorted(DISTANCES)))
@settings(max_examples=40, deadline=None)
def test_what_is_in_the_bank_is_its_own_nearest(seed, name):
    bank = points(9, seed=seed)
    found = DISTANCES[name](bank, bank[::-1])
    assert found.shape == (9, 9)
    assert found.argmin(1).tolist() == list(range(9))[::-1]
    assert (found >= -1e-9).all()


def test_distances_are_what_their_formulas_say():
    bank, queries = points(30, seed=1), points(5, seed=2)
    a, b = queries.reshape(5, -1).astype(float), bank.reshape(30, -1).astype(float)
    gap = a[:, None] - b[None]
    assert euclid(bank, queries) == pytest.approx(np.sqrt((gap**2).sum(2)))
    norms = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    assert cosine(bank, queries) == pytest.approx(1 - a @ b.T / norms)
    covariance = np.cov(b.T)
    shrunk = 0.9 * covariance + 0.1 * np.trace(covariance) / 12 * np.eye(12)
    inverse = np.linalg.inv(shrunk)
    expected = np.sqrt(np.einsum("qbi,ij,qbj->qb", gap, inverse, gap))
    assert whitened(bank, queries) == pytest.approx(expected)


def test_whitening_works_with_fewer_windows_than_numbers():
    bank, queries = points(5, seed=1), points(4, seed=2)
    b = bank.reshape(5, -1).astype(float)
    shrunk = 0.9 * np.cov(b.T) + 0.1 * np.trace(np.cov(b.T)) / 12 * np.eye(12)
    gap = queries.reshape(4, 1, -1) - b[None]
    expected = np.sqrt(np.einsum("qbi,ij,qbj->qb", gap, np.linalg.inv(shrunk), gap))
    assert whitened(bank, queries) == pytest.approx(expected)


def test_band_z_does_not_care_how_loud_a_band_is():
    bank, queries = points(30, seed=1), points(5, seed=2)
    scale = np.array([1.0, 5.0, 0.2], np.float32)[:, None]
    louder = band_z(bank * scale, queries * scale)
    assert louder == pytest.approx(band_z(bank, queries), rel=1e-4)
    assert not np.allclose(euclid(bank * scale, queries * scale), euclid(bank, queries))


def test_the_majority_wins_and_the_nearest_breaks_ties():
    labels = np.array(["a", "b", "b", "c", "c", "a"])
    distances = np.array([[0, 1, 2, 3, 4, 9], [5, 3, 4, 1, 2, 9]], float)
    assert vote(distances, labels).tolist() == ["b", "c"]
    assert vote(distances[:, :3], labels[:3]).tolist() == ["b", "b"]


@given(st.integers(0, 99), st.integers(1, 30), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_the_area_is_the_share_of_pairs_in_the_right_order(seed, normals, others):
    rng = np.random.default_rng(seed)
    normal, anomalous = rng.integers(0, 9, normals).astype(float), rng.integers(2, 12, others)
    gap = anomalous[:, None] - normal[None]
    pairs_right = ((gap > 0) + 0.5 * (gap == 0)).mean()
    assert area(normal, anomalous.astype(float)) == pytest.approx(pairs_right)
    assert area(normal, normal) == pytest.approx(0.5)


def test_the_partial_area_looks_at_the_highest_normals_only():
    normal = np.arange(20.0)
    assert area(normal, np.array([25.0]), 0.1) == pytest.approx(1.0)
    assert area(normal, np.array([17.5]), 0.1) == pytest.approx(area(normal, normal[:1], 0.1))
    # Above one of the two normals that count: 1 / 20 found, 0.005 by chance, 0.1 at best.
    expected = 0.5 * (1 + (0.05 - 0.005) / (0.1 - 0.005))
    assert area(normal, np.array([18.5]), 0.1) == pytest.approx(expected)


def test_areas_of_recordings_average_to_the_area_of_all():
    rng = np.random.default_rng(0)
    normal, anomalous = rng.normal(0, 1, 30), rng.normal(1, 1, 40)
    parts = [area(normal, part, 0.1) for part in anomalous.reshape(4, 10)]
    assert np.mean(parts) == pytest.approx(area(normal, anomalous, 0.1))


def test_a_recording_on_both_sides_is_refused():
    recording = np.array(["r1", "r1", "r2", "r3"])
    leak = Split(np.array([True, False, True, False]), np.array([False, True, False, True]))
    label = np.array(["a", "a", "b", "b"])
    with pytest.raises(ValueError, match="r1"):
        votes_right(points(4), label, recording, [leak], euclid)
    with pytest.raises(ValueError, match="r1"):
        areas(points(4), label == "a", recording, [leak], euclid)


def test_votes_count_per_recording_over_all_banks():
    recording = np.array(["x", "y", "z", "z"])
    label = np.array(["a", "b", "a", "b"])
    embedded = np.array([0.0, 1.0, 0.1, 0.2], np.float32)[:, None, None]
    known = np.array([True, True, False, False])
    right = votes_right(embedded, label, recording, [Split(known, ~known)] * 2, euclid)
    assert right.tolist() == [0.5]
