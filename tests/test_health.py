import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from health_cases import (
    FAULTS,
    RATE,
    STEP_G,
    Array,
    Given,
    N,
    checker,
    clipping,
    event,
    flatline,
    gap,
    motor,
    window,
)
from pipeline.health import SensorHealthCheck
from pipeline.messages import NS_PER_S, Flags, Window
from pipeline.state import pack, unpack


@given(at=st.integers(0, 30), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_state_travels_mid_stream_without_a_trace(at: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    faults = [make for makes in FAULTS.values() for make in makes]
    episodes = [None] * 4 + [faults[int(k)] for k in rng.integers(len(faults), size=27)]
    stream: list[Given] = []
    while len(stream) < 31:
        make = episodes[len(stream)]
        stream += [
            make(i, rng, "i16") if make else (window(i, motor(rng)), [])
            for i in range(len(stream), len(stream) + int(rng.integers(1, 8)))
        ]
    whole, first, second = (checker(bias_relearn_windows=3) for _ in range(3))
    expected = [whole.check(*item) for item in stream]
    got = [first.check(*item) for item in stream[:at]]
    second.import_state(unpack(pack(first.export_state())))
    got += [second.check(*item) for item in stream[at:]]
    assert any(not result.ok for result in expected)
    assert got == expected
    assert second.export_state() == whole.export_state()


def test_state_of_another_version_is_refused() -> None:
    state = checker().export_state() | {"version": 99}
    with pytest.raises(ValueError, match="must have version 1, got 99"):
        checker().import_state(state)


def test_pauses_between_captures_are_no_gaps_and_their_lengths_may_differ() -> None:
    rng = np.random.default_rng(6)
    check = SensorHealthCheck()
    for i in range(12):
        x = motor(rng, n=int(rng.integers(800, 4 * N)))
        made = window(60 * i, x, flags=Flags.END_OF_CAPTURE, gap_s=30.0 if i else 0.0)
        result = check.check(made, [event("gap", made, 30.0)] if i else [])
        assert result.ok, result


def test_an_unsynced_clock_and_small_slips_are_no_faults() -> None:
    rng = np.random.default_rng(8)
    check = checker()
    for i in range(12):
        made = window(i, motor(rng), flags=Flags.CLOCK_UNSYNCED, gap_s=0.05 if i == 5 else 0.0)
        events = [event("clock_step", made, 0.002), event("duplicate", made, 1.0)]
        assert check.check(made, events).ok


def test_lost_messages_are_gaps_and_no_wrong_rate() -> None:
    rng = np.random.default_rng(9)
    check = checker()
    for i in range(10):
        assert "rate_mismatch" not in check.check(*gap(2 * i, rng, "i16")).faults


def test_without_a_declared_rate_its_change_is_one_faulty_window() -> None:
    rng = np.random.default_rng(10)
    check = SensorHealthCheck()
    check.check(window(0, motor(rng)))
    slower = [window(i, motor(rng), sample_rate_hz=RATE / 2) for i in (2, 4)]
    assert check.check(slower[0], [event("rate_change", slower[0], 0.0)]).faults == (
        "rate_mismatch",
    )
    assert check.check(slower[1]).ok


def test_another_unit_starts_the_references_anew() -> None:
    rng = np.random.default_rng(11)
    check = SensorHealthCheck()
    for i in range(8):
        check.check(window(i, motor(rng)))
    assert check.check(window(8, motor(rng) + 9.0, unit="m/s2")).ok


def test_scale_and_polarity_do_not_matter() -> None:
    rng = np.random.default_rng(12)
    check = checker()
    for i in range(8):
        assert check.check(window(i, motor(rng))).ok
    finer = replace(window(8, motor(rng) * 4), scale=STEP_G / 4)
    assert check.check(finer).ok
    assert check.check(replace(window(9, motor(rng)), scale=-STEP_G)).ok


def test_a_settling_sensor_is_not_believed_from_the_first_window_on() -> None:
    t = np.arange(N) / RATE
    rng = np.random.default_rng(13)
    result = SensorHealthCheck().check(window(0, motor(rng) + 20 * np.exp(-t / 0.3)))
    assert result.faults == ("ski_slope",)


def test_details_tell_a_technician_what_to_check() -> None:
    rng = np.random.default_rng(14)
    constant = checker().check(*flatline(0, rng, "i16"))
    assert constant.detail == "signal has been constant for 0.97 s: check cable and supply"
    assert constant.flat_fraction == 1.0
    assert constant.bias == pytest.approx(0.3, abs=STEP_G)
    clipped = checker().check(*clipping(0, rng, "i16"))
    assert clipped.detail.endswith("lower the gain or check the bias voltage")
    assert 0.01 < clipped.clip_fraction < 0.5
    both = checker().check(*(flatline(0, rng, "i16")[0], gap(0, rng, "i16")[1]))
    assert both.faults == ("flatline", "gap")
    assert "; 1.00 s of signal are missing" in both.detail


@given(
    n=st.integers(1, 400),
    rate=st.sampled_from([10.0, 1000.0, 1e6]),
    kind=st.sampled_from(["i16", "i32", "f32"]),
    exponent=st.integers(-30, 38),
    seed=st.integers(0, 999),
)
@settings(max_examples=80, deadline=None)
def test_any_samples_get_an_answer(
    n: int, rate: float, kind: str, exponent: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    if kind == "f32":
        samples: Array = (rng.normal(size=n) * 10.0**exponent).clip(-3e38, 3e38).astype(np.float32)
    else:
        top = np.iinfo(np.int16 if kind == "i16" else np.int32)
        samples = rng.integers(top.min, top.max, n, endpoint=True).astype(top.dtype)
    check = SensorHealthCheck()
    for i in range(6):
        made = Window("s", rate, i * NS_PER_S, 0, samples, encoding=kind)  # type: ignore[arg-type]
        result = check.check(made)
        assert np.isfinite([result.bias, result.clip_fraction, result.flat_fraction]).all()


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"clip_share must be positive, got 0\.0"):
        SensorHealthCheck(clip_share=0.0)
    with pytest.raises(ValueError, match="expected_rate_hz must be positive, got nan"):
        SensorHealthCheck(expected_rate_hz=float("nan"))


def test_a_window_takes_well_under_two_milliseconds() -> None:
    rng = np.random.default_rng(15)
    samples = rng.normal(0, 300, 25_600).astype(np.int16)
    made = Window("s", 25_600.0, 0, 0, samples, encoding="i16")
    check = SensorHealthCheck()
    times = []
    for _ in range(50):
        start = time.perf_counter()
        check.check(made)
        times.append(time.perf_counter() - start)
    assert min(times) < 2e-3  # 0.08-0.10 ms measured; the slack is for shared machines
