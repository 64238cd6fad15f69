import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.baseline import Baseline
from pipeline.state import pack, unpack

K, D = 5, 16


def healthy(rng, n, spread=0.2, centre_seed=7):
    centre = np.random.default_rng(centre_seed).normal(size=(K, D))
    return (centre + spread * rng.normal(size=(n, K, D))).astype(np.float32)


def learn(baseline, embeddings, levels=None):
    levels = np.ones(len(embeddings)) if levels is None else levels
    for i, (embedding, level) in enumerate(zip(embeddings, levels, strict=True)):
        if not baseline.frozen:
            baseline.learn(embedding, float(level), i * 10**9, 1.0)
            if baseline.due:
                baseline.freeze_if_settled()
    return baseline


def test_a_healthy_window_scores_within_the_limit_and_a_changed_band_beyond_it():
    rng = np.random.default_rng(0)
    baseline = learn(Baseline(min_windows=100), healthy(rng, 300))
    fresh = healthy(rng, 200)
    scores = [baseline.score(e, 1.0).score for e in fresh]
    assert max(scores) < baseline.calibration.limit
    changed = fresh[0].copy()
    changed[3] = -changed[3]
    departure = baseline.score(changed, 3.0)
    assert departure.score > 2 * baseline.calibration.limit
    assert int(np.argmax(departure.band_shares)) == 3
    assert sum(departure.band_shares) == pytest.approx(1.0)
    assert departure.level_ratio == pytest.approx(3.0)


@pytest.mark.parametrize("spread", [0.2, 0.02])
def test_a_steady_machine_is_judged_as_finely_as_a_lively_one(spread):
    # The whole spread of a steady machine is a few hundred times the rounding of a bank in half.
    rng = np.random.default_rng(3)
    baseline = learn(Baseline(min_windows=150), healthy(rng, 300, spread))
    scores = [baseline.score(e, 1.0).score for e in healthy(rng, 200, spread)]
    assert -1.0 < np.median(scores) < 0.5
    assert baseline.calibration.limit < 10.0


def test_the_budget_holds_on_independent_windows():
    # One crossing in 100 windows is allowed: 3000 fresh windows may give about 30.
    rng = np.random.default_rng(1)
    baseline = learn(Baseline(min_windows=200, budget_windows=100), healthy(rng, 400))
    limit = baseline.calibration.limit
    crossings = sum(baseline.score(e, 1.0).score > limit for e in healthy(rng, 3000))
    assert 1 <= crossings <= 90


def test_neighbours_in_time_do_not_hide_how_far_tomorrow_lies():
    # Embeddings that wander slowly: leaving out one window alone finds its neighbour, always near.
    rng = np.random.default_rng(8)
    steps = rng.normal(size=(700, K, D)) * 0.03
    wander = np.zeros((700, K, D))
    for i in range(1, 700):
        wander[i] = 0.98 * wander[i - 1] + steps[i]
    windows = (healthy(rng, 700, spread=0.01) + wander).astype(np.float32)
    baseline = learn(Baseline(min_windows=200, patience=1.0), windows[:200])
    scores = [baseline.score(e, 1.0).score for e in windows[200:]]
    assert abs(np.median(scores)) < 0.6 * baseline.calibration.limit
    assert np.mean(np.array(scores) > baseline.calibration.limit) < 0.02


def test_a_few_calibration_windows_never_promise_a_lighter_tail_than_a_gaussian():
    for seed in range(20):
        baseline = learn(Baseline(min_windows=16), healthy(np.random.default_rng(seed), 60))
        assert baseline.calibration.limit > 0.56 * np.log(0.2 * 1e4)


def test_health_has_no_share_in_the_change():
    # Band 0 is noisy in health; the change is in band 4 alone and must get nearly all of it.
    rng = np.random.default_rng(10)
    windows = healthy(rng, 300, spread=0.05)
    windows[:, 0] = healthy(rng, 300, spread=0.6)[:, 0]
    baseline = learn(Baseline(min_windows=200), windows[:250])
    changed = windows[260].copy()
    changed[4] += rng.normal(size=D).astype(np.float32) * 0.5
    shares = baseline.score(changed, 1.0).band_shares
    assert shares[4] > 0.5


def test_a_third_of_odd_windows_is_no_oddity():
    rng = np.random.default_rng(11)
    windows = healthy(rng, 120)
    windows[::3] = rng.normal(size=(40, K, D))
    baseline = learn(Baseline(min_windows=120, patience=1.0), windows)
    assert baseline.size == 120


def test_a_larger_budget_never_lowers_the_limit():
    limits = []
    for budget in (1e2, 1e4, 1e6):
        rng = np.random.default_rng(2)
        baseline = learn(Baseline(min_windows=100, budget_windows=budget), healthy(rng, 200))
        limits.append(baseline.calibration.limit)
    assert limits == sorted(limits)
    assert limits[0] < limits[-1]


def test_learning_waits_while_the_machine_moves_and_ends_when_patience_does():
    rng = np.random.default_rng(3)
    angle = np.linspace(0, np.pi, 400, dtype=np.float32)[:, None, None]
    ends = [healthy(rng, 400, spread=0.05, centre_seed=seed) for seed in (7, 8)]
    ramp = np.cos(angle) * ends[0] + np.sin(angle) * ends[1]
    baseline = Baseline(min_windows=100, patience=2.0)
    learn(baseline, ramp[:150])
    assert not baseline.frozen
    assert baseline.learning_pct == 99.0
    baseline = learn(Baseline(min_windows=100, patience=2.0), ramp)
    assert baseline.frozen
    assert any("still changing" in note for note in baseline.calibration.notes)


def test_learning_asks_for_running_time_as_well_as_windows():
    rng = np.random.default_rng(4)
    baseline = learn(Baseline(min_windows=50, min_span_s=120.0), healthy(rng, 100))
    assert not baseline.frozen
    assert baseline.learning_pct == pytest.approx(100 * 100 / 120, abs=1.0)


def test_odd_windows_are_left_out_of_the_baseline_and_counted():
    rng = np.random.default_rng(5)
    windows = healthy(rng, 100)
    windows[[20, 60]] = rng.normal(size=(2, K, D))
    baseline = learn(Baseline(min_windows=100), windows)
    assert baseline.size == 98
    assert any("2 odd windows" in note for note in baseline.calibration.notes)


def test_a_level_that_grows_while_learning_is_told():
    rng = np.random.default_rng(6)
    baseline = learn(Baseline(min_windows=100), healthy(rng, 100), np.linspace(1, 3, 100))
    assert any("level grew" in note for note in baseline.calibration.notes)


@given(n=st.integers(60, 1500), bank=st.sampled_from([32, 64, 128]))
@settings(max_examples=15, deadline=None)
def test_the_bank_is_bounded_and_spans_all_learning(n, bank):
    rng = np.random.default_rng(n)
    baseline = Baseline(min_windows=n, bank_size=bank)
    for i, embedding in enumerate(healthy(rng, n)):
        baseline.learn(embedding, float(i), i, 1.0)
    assert baseline.size <= bank
    assert baseline.rms[0] == 0.0
    assert baseline.rms[-1] >= n - 1 - 2 * n / bank - 1
    assert len(set(np.diff(baseline.rms).tolist())) == 1


@given(cut=st.integers(1, 249), seed=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_export_and_import_mid_stream_change_nothing(cut, seed):
    rng = np.random.default_rng(seed)
    windows = healthy(rng, 260)
    numbers = {"min_windows": 100, "bank_size": 64}
    straight = learn(Baseline(**numbers), windows[:250])
    first = learn(Baseline(**numbers), windows[:cut])
    second = Baseline(**numbers)
    second.import_state(unpack(pack(first.export_state())))
    for i, embedding in enumerate(windows[cut:250], start=cut):
        if not second.frozen:
            second.learn(embedding, 1.0, i * 10**9, 1.0)
            if second.due:
                second.freeze_if_settled()
    for embedding in windows[250:]:
        assert second.score(embedding, 2.0) == straight.score(embedding, 2.0)


def cosine_state(baseline):
    """What version 2 would have stored of a baseline: cosine distances, the same bank."""
    state = unpack(pack(baseline.export_state()))
    state["version"] = 2
    return state | {
        "calibration": state["calibration"] | {"median": -7.2, "spread": 0.1, "limit": 6.5}
    }


def test_a_baseline_of_cosine_distances_is_calibrated_anew_and_written_again():
    rng = np.random.default_rng(12)
    old = learn(Baseline(min_windows=100), healthy(rng, 100))
    new = Baseline(min_windows=100)
    new.import_state(cosine_state(old))
    assert new.rewrites == 1
    assert new.calibration.limit == old.calibration.limit
    assert new.calibration.notes == old.calibration.notes
    for embedding in healthy(rng, 5):
        assert new.score(embedding, 1.0) == old.score(embedding, 1.0)


def test_an_unknown_version_is_refused_by_name():
    state = learn(Baseline(min_windows=100), healthy(np.random.default_rng(13), 50)).export_state()
    for version in (1, 4, None):
        with pytest.raises(ValueError, match=f"version must be 3 or 2, got {version}"):
            Baseline().import_state({**state, "version": version})


def test_what_never_varies_in_health_counts_more_than_what_does():
    # One direction of band 1 is noisy in health; the same step there and in a quiet direction.
    rng = np.random.default_rng(14)
    windows = healthy(rng, 300, spread=0.05)
    windows[:, 1, 0] += rng.normal(size=300) * 1.5
    baseline = learn(Baseline(min_windows=250), windows)
    noisy, quiet = windows[299].copy(), windows[299].copy()
    noisy[1, 0] += 1.0
    quiet[1, 1] += 1.0
    assert baseline.score(noisy, 1.0).score < baseline.calibration.limit
    assert baseline.score(quiet, 1.0).score > baseline.calibration.limit


@pytest.mark.parametrize("states", [1, 2])
def test_a_machine_whose_windows_are_all_alike_stays_healthy(states):
    # A test signal in step with the windows: distances of nothing but rounding.
    exact = healthy(np.random.default_rng(15), states)
    baseline = learn(Baseline(min_windows=48), np.tile(exact, (48, 1, 1)))
    limit = baseline.calibration.limit
    for embedding in exact:
        assert baseline.score(embedding, 1.0).score < limit
        assert baseline.score(embedding * np.float32(1.00001), 1.0).score < limit
    assert baseline.score(healthy(np.random.default_rng(16), 1)[0], 1.0).score > 2 * limit


def test_a_bank_of_which_little_is_left_learns_on():
    # Thinned to every 16th window, then the gate finds that the machine stood still nearly always.
    rng = np.random.default_rng(17)
    baseline = Baseline(min_windows=48, bank_size=32, min_span_s=400.0)
    for i, embedding in enumerate(healthy(rng, 400)):
        baseline.learn(embedding, 1.0, i, 1.0)
    baseline.forget(np.arange(baseline.size) < 5)
    assert not baseline.due
    learn(baseline, healthy(rng, 400))
    assert baseline.frozen
    assert baseline.size >= 16


def test_a_frozen_baseline_keeps_nothing_but_its_windows():
    # 40 windows in half precision of a bank for 256, restored or not.
    numbers = {"min_windows": 40, "patience": 1.0}
    baseline = learn(Baseline(**numbers), healthy(np.random.default_rng(18), 40))
    restored = Baseline(**numbers)
    restored.import_state(unpack(pack(baseline.export_state())))
    for one in (baseline, restored):
        assert one.frozen
        assert one._bank.nbytes == 40 * K * D * 2


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="min_windows must be >= 16"):
        Baseline(min_windows=3)
    with pytest.raises(ValueError, match="budget_windows"):
        Baseline(budget_windows=1)
    with pytest.raises(RuntimeError, match="still learning"):
        _ = Baseline().calibration
