import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.baseline import Departure
from pipeline.drift import DETECTORS, Evidence, OnlineDetector, _decorrelation
from pipeline.state import pack, unpack


def departure(score, level=1.0):
    return Departure(0.1, score, level, (1.0,), 0)


def test_ratios_follow_the_stated_factors():
    verdict = Evidence(detectors=()).judge(departure(12.0), limit=6.0)
    assert verdict.ratios == {
        "advisory": pytest.approx(2.0),
        "alert": pytest.approx(2.0 / 1.5),
        "alarm": pytest.approx(1.0),
    }
    assert (verdict.reason, verdict.value, verdict.limit) == ("drift", 12.0, 6.0)


def test_level_alone_raises_an_alarm_and_says_so():
    verdict = Evidence(detectors=()).judge(departure(1.0, level=2.4), limit=6.0)
    assert verdict.ratios["alarm"] == pytest.approx(1.2)
    assert verdict.ratios["advisory"] >= 1.0
    assert (verdict.reason, verdict.value, verdict.limit) == ("level", 2.4, 2.0)


def test_a_level_below_its_limit_is_no_advisory():
    verdict = Evidence(detectors=()).judge(departure(1.0, level=1.9), limit=6.0)
    assert verdict.ratios["advisory"] < 0.2
    assert verdict.ratios["alarm"] == pytest.approx(0.95)


@given(
    score=st.floats(-10, 60), level=st.floats(0.01, 20), limit=st.floats(2, 20),
    louder=st.floats(1, 3),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_more_departure_never_lowers_a_ratio(score, level, limit, louder):
    a = Evidence(detectors=()).judge(departure(score, level), limit).ratios
    b = Evidence(detectors=()).judge(departure(score + 1, level * louder), limit).ratios
    assert all(b[name] >= a[name] - 1e-12 for name in a)
    assert all(math.isfinite(ratio) and ratio >= 0 for ratio in a.values())


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_finds_a_step_and_is_quiet_on_health(name):
    rng = np.random.default_rng(0)
    detector = OnlineDetector(name)
    quiet = [detector.update(departure(s)) for s in rng.normal(size=3000)]
    assert not any(quiet)
    stepped = [detector.update(departure(s)) for s in rng.normal(size=400) + 6.0]
    assert any(stepped)


def test_a_step_far_within_the_limit_of_a_heavy_tail_is_no_change():
    # A step to 4 spreads: news where health stays within 6, none where single windows reach 20.
    rng = np.random.default_rng(6)
    scores = np.concatenate([rng.normal(size=400), 4.0 + rng.normal(size=200)])
    fired = {}
    for limit in (6.0, 20.0):
        detector = OnlineDetector("adwin")
        fired[limit] = max(detector.update(departure(s), limit) for s in scores)
    assert fired == {6.0: 1.0, 20.0: 0.0}


@pytest.mark.parametrize("name", ["adwin", "page_hinkley"])
def test_correlated_scores_give_no_false_alarm(name):
    # The plain detectors give about 125 false alarms in 20 k samples of this noise.
    rng = np.random.default_rng(1)
    detector = OnlineDetector(name)
    score, fired = 0.0, 0
    for noise in rng.normal(size=10_000):
        score = 0.9 * score + math.sqrt(1 - 0.81) * noise
        fired += detector.update(departure(score)) > 0
    assert fired == 0


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8, 0.9])
def test_scores_are_averaged_until_their_means_hardly_correlate(rho):
    rng = np.random.default_rng(5)
    score, scores = 0.0, []
    for noise in rng.normal(size=20_000):
        score = rho * score + math.sqrt(1 - rho**2) * noise
        scores.append(score)
    n = int(np.median([_decorrelation(scores[i : i + 128]) for i in range(0, 20_000 - 128, 128)]))
    means = np.mean(np.reshape(scores[: 20_000 // n * n], (-1, n)), axis=1)
    assert np.corrcoef(means[1:], means[:-1])[0, 1] < 0.27


def test_a_change_for_the_better_is_no_alarm():
    rng = np.random.default_rng(2)
    detector = OnlineDetector("adwin")
    scores = np.concatenate([rng.normal(size=500), rng.normal(size=500) - 6.0])
    assert not any(detector.update(departure(s)) for s in scores)


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("cut", [10, 128, 500, 700])
def test_a_restored_detector_goes_on_as_if_nothing_had_happened(name, cut):
    rng = np.random.default_rng(3)
    scores = np.concatenate([rng.normal(size=650), rng.normal(size=150) + 5.0])
    straight, first, second = (OnlineDetector(name, memory=300) for _ in range(3))
    expected = [straight.update(departure(s)) for s in scores]
    got = [first.update(departure(s)) for s in scores[:cut]]
    second.import_state(unpack(pack(first.export_state())))
    got += [second.update(departure(s)) for s in scores[cut:]]
    assert got == expected
    assert any(expected)


def test_state_stays_small_however_long_the_stream():
    detector = OnlineDetector("page_hinkley")
    for s in np.random.default_rng(4).normal(size=5000):
        detector.update(departure(s))
    assert len(pack(detector.export_state())) < 20_000


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="adwin, page_hinkley"):
        OnlineDetector("nope")
    with pytest.raises(ValueError, match="factors must rise"):
        Evidence(alert_factor=3.0, alarm_factor=2.0)
