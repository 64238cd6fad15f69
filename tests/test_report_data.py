import base64
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.messages import Trend
from pipeline.report.data import (
    COLUMNS,
    MAX_SPANS,
    SEVERE,
    Budget,
    fault_spans,
    keep_rows,
    packed,
    status_spans,
)
from report_cases import EDGES, T0, spectrum_of, trend_of


def numbers(text: str, dtype: str) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text), dtype)


def values(quantised: dict[str, Any], dtype: str) -> NDArray[np.float64]:
    steps = numbers(quantised["q"], dtype)
    known = quantised["low"] + quantised["step"] * steps.astype(np.float64)
    return np.where(steps == np.iinfo(steps.dtype).max, np.nan, known)


@st.composite
def trends(draw: st.DrawFn) -> Trend:
    n = draw(st.integers(2, 600))
    trend = trend_of(draw(st.sampled_from(["ok", "bearing", "broken"])), draw(st.integers(0, 9)), n)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    status = trend.status.copy()
    for _ in range(draw(st.integers(0, 4))):
        start = int(rng.integers(0, n))
        status[start : start + int(rng.integers(1, 20))] = rng.choice(SEVERE)
    rms, score = trend.rms.copy(), trend.score.copy()
    rms[rng.integers(0, n)] = 40.0
    score[rng.integers(0, n)] = -30.0
    return replace(trend, status=status, rms=rms, score=score)


@settings(max_examples=60, deadline=None)
@given(trends(), st.integers(80, 300))
def test_picked_rows_keep_extremes_and_every_alarm_edge(trend: Trend, points: int) -> None:
    rows = keep_rows(trend, points)
    assert rows.size <= points
    assert (np.diff(rows) > 0).all()
    assert {rows[0], rows[-1]} == {0, trend.end_ns.size - 1}
    for name in COLUMNS:
        whole = getattr(trend, name)
        if np.isfinite(whole).any():
            assert np.nanmin(whole[rows]) == np.nanmin(whole)
            assert np.nanmax(whole[rows]) == np.nanmax(whole)
    severe = np.isin(trend.status, SEVERE)
    changed = (trend.status[1:] != trend.status[:-1]) & (severe[1:] | severe[:-1])
    edges = np.flatnonzero(changed)
    assert set(edges) | set(edges + 1) <= set(rows)


@settings(max_examples=40, deadline=None)
@given(trends())
def test_status_spans_tile_the_time_as_the_windows_say(trend: Trend) -> None:
    spans = status_spans(trend)
    assert (spans[0].start_ns, spans[-1].end_ns) == (trend.end_ns[0], trend.end_ns[-1])
    for span, following in pairwise(spans):
        assert span.end_ns == following.start_ns
        assert span.name != following.name
    starts = np.array([span.start_ns for span in spans])
    shown = [spans[i].name for i in np.searchsorted(starts, trend.end_ns, "right") - 1]
    assert shown == trend.status.tolist()


def test_chatter_is_thinned_but_no_alarm_is_lost() -> None:
    trend = trend_of("ok", n=5000)
    status = np.where(np.arange(5000) % 2, "ok", "stopped").astype("<U8")
    status[[700, 3001]] = "alarm"
    spans = status_spans(replace(trend, status=status))
    assert len(spans) <= MAX_SPANS
    alarms = [span for span in spans if span.name == "alarm"]
    assert len(alarms) == 2
    assert all(any(a.start_ns <= trend.end_ns[i] <= a.end_ns for a in alarms) for i in (700, 3001))


def test_faults_are_listed_one_by_one() -> None:
    trend = trend_of("broken", n=1000)
    spans = fault_spans(trend)
    assert set(spans) == {"gap", "flatline", "bias_shift"}
    assert spans["flatline"][-1].end_ns == trend.end_ns[-1]
    assert len(spans["flatline"]) == len(spans["bias_shift"]) == 1


def test_packed_columns_are_the_picked_windows() -> None:
    trend = trend_of("bearing", n=4000)
    data = packed(trend, {}, Budget(points=500, lines=100))
    rows = keep_rows(trend, 500)
    ms = data["t0"] + numbers(data["t"], "<u4").astype(np.int64) * data["tick_ms"]
    np.testing.assert_array_equal(ms, trend.end_ns[rows] // 1_000_000)
    score = numbers(data["columns"]["score"], "<f4")
    np.testing.assert_array_equal(score, trend.score[rows].astype(np.float32))


def test_a_run_of_a_year_keeps_its_times() -> None:
    trend = trend_of("ok", n=300)
    year = replace(trend, end_ns=T0 + (trend.end_ns - T0) * 122)
    data = packed(year, {}, Budget.share(1))
    last = data["t0"] + int(numbers(data["t"], "<u4")[-1]) * data["tick_ms"]
    assert abs(last - int(year.end_ns[-1]) // 1_000_000) <= data["tick_ms"] < 20


def test_a_spectrum_keeps_its_peaks_at_their_frequency() -> None:
    picture = spectrum_of("alarm", worn=True)
    data = packed(trend_of("ok", n=50), {"alarm": picture}, Budget(100, 400))["spectra"]["alarm"]
    hz, amplitude = numbers(data["hz"], "<f4"), 10 ** values(data["log10"], "<u2")
    assert hz.size <= 400
    top = int(picture.amplitude.argmax())
    for line in (top, round(107.3 * 33)):
        kept = np.flatnonzero(hz == picture.freq_hz[line])
        assert kept.size == 1
        assert math.isclose(amplitude[kept[0]], picture.amplitude[line], rel_tol=1e-3)


def test_a_heat_map_holds_the_mean_of_its_windows_and_says_what_is_unknown() -> None:
    trend = trend_of("bearing", n=4000)
    bands = packed(trend, {}, Budget.share(1))["bands"]
    shares = values(bands, "u1").reshape(bands["cells"], len(EDGES))
    assert np.isnan(shares[0]).all()
    cell = 4000 // bands["cells"]
    expected = trend.band_shares[-cell + 1 :].mean(axis=0)
    np.testing.assert_allclose(shares[-1], expected, atol=0.02)


def test_octaves_know_what_they_were_while_learning() -> None:
    octaves = packed(trend_of("bearing"), {}, Budget.share(1))["octaves"]
    grown = values(octaves, "u1").reshape(octaves["cells"], -1)[-1] - octaves["healthy_db"]
    assert (grown[18:22] > 12).all()
    assert (np.abs(grown[:18]) < 4).all()
