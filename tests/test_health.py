import copy
import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.health import SensorHealthCheck
from pipeline.messages import NS_PER_S, Flags, StreamEvent, Window
from pipeline.sensor_faults import SensorFault, distort
from pipeline.state import pack, unpack

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
RATE = 12_800.0
N = 12_480  # 0.975 s
FULL_SCALE_G = 50.0
STEP_G = FULL_SCALE_G / 32_767
Array = NDArray[Any]
Rng = np.random.Generator


def motor(rng: Rng, level: float = 0.5, speed_hz: float = 24.7, n: int = N) -> Array:
    """A running motor at one sensor, in g: shaft lines and broad-band noise, RMS about `level`."""
    t = np.arange(n) / RATE
    lines = sum(
        a * np.sin(2 * np.pi * k * speed_hz * t + rng.uniform(0, 6.28))
        for k, a in ((1, 0.6), (2, 0.4), (7, 0.5), (49, 0.3))
    )
    return np.asarray(level * (lines / 0.66 * 0.7 + rng.normal(0, 0.7, n)))


def impacts(rng: Rng, peak: float, n: int = N) -> Array:
    """Ringing at 3 kHz after each of some 100 impacts per second, as of a spalled bearing."""
    out = np.zeros(n)
    for start in range(int(rng.integers(1, 120)), n - 200, 123):
        t = np.arange(200) / RATE
        out[start : start + 200] += peak * np.exp(-t * 900) * np.sin(2 * np.pi * 3000 * t)
    return out


def window(index: int, x: Array, encoding: str = "i16", **changes: Any) -> Window:
    """Window number `index` of a contiguous stream, as an ADC of +-50 g delivers it."""
    base = {
        "i16": lambda: np.clip(np.rint(x / STEP_G), -32_767, 32_767).astype(np.int16),
        "i24": lambda: np.clip(np.rint(x / STEP_G * 256), -(2**23) + 1, 2**23 - 1).astype(np.int32),
        "f32": lambda: np.asarray(x, np.float32),
    }[encoding]()
    scale = {"i16": STEP_G, "i24": STEP_G / 256, "f32": 1.0}[encoding]
    start_ns = round(index * N * NS_PER_S / RATE)
    built = Window("s", RATE, start_ns, index * N, base, encoding=encoding, scale=scale, unit="g")  # type: ignore[arg-type]
    return replace(built, **changes)


def checker(encoding: str = "i16", **changes: Any) -> SensorHealthCheck:
    full_scale = FULL_SCALE_G if encoding == "f32" else None
    return SensorHealthCheck(expected_rate_hz=RATE, full_scale=full_scale, **changes)


def resumed(check: SensorHealthCheck, **changes: Any) -> SensorHealthCheck:
    """The same check in another worker: nothing but the state record survives."""
    again = checker(**changes)
    again.import_state(unpack(pack(check.export_state())))
    return again


Given = tuple[Window, list[StreamEvent]]


def event(kind: str, at: Window, amount_s: float) -> StreamEvent:
    return StreamEvent("s", at.start_ns, kind, amount_s)  # type: ignore[arg-type]


def flatline(i: int, _rng: Rng, enc: str) -> Given:
    return window(i, np.full(N, 0.3), enc), []


def two_codes(i: int, rng: Rng, enc: str) -> Given:
    return window(i, STEP_G * rng.integers(5, 7, N), enc), []


def clipping(i: int, rng: Rng, enc: str) -> Given:
    return window(i, np.clip(motor(rng, 35.0), -FULL_SCALE_G, FULL_SCALE_G), enc), []


def saturated_amplifier(i: int, rng: Rng, enc: str) -> Given:
    return window(i, np.clip(motor(rng, 8.0), -14.0, 12.0), enc), []


def overload_flag(i: int, rng: Rng, enc: str) -> Given:
    return window(i, motor(rng), enc, flags=Flags.OVERLOAD), []


def dropout(i: int, rng: Rng, enc: str) -> Given:
    x = motor(rng)
    for start in rng.integers(0, int(0.94 * N), 3):
        x[start : start + int(0.05 * N)] = 0.0
    return window(i, x, enc), []


def held_value(i: int, rng: Rng, enc: str) -> Given:
    x = motor(rng)
    start = int(rng.integers(100, N // 2))
    x[start : start + N // 5] = x[start]
    return window(i, x, enc), []


def gap(i: int, rng: Rng, enc: str) -> Given:
    made = window(i, motor(rng), enc, gap_s=1.0)
    return made, [event("gap", made, 1.0)]


def bias_shift(i: int, rng: Rng, enc: str) -> Given:
    return window(i, motor(rng) + 4.0, enc), []


def ski_slope(i: int, rng: Rng, enc: str) -> Given:
    t = np.arange(N) / RATE
    sign = rng.choice([-1.0, 1.0])
    return window(i, motor(rng) + sign * 12.0 * (np.exp(-t / 0.2) - 0.2), enc), []


def wandering(i: int, rng: Rng, enc: str) -> Given:
    walk = np.cumsum(rng.normal(0, 1, N))
    walk -= walk.mean()
    return window(i, motor(rng) + 4.0 * walk / walk.std(), enc), []


def non_finite(i: int, rng: Rng, _enc: str) -> Given:
    x = motor(rng)
    x[rng.integers(0, N, 3)] = rng.choice([np.nan, np.inf, -np.inf])
    return window(i, x, "f32"), []


def wrong_rate(i: int, rng: Rng, enc: str) -> Given:
    return window(i, motor(rng), enc, sample_rate_hz=RATE / 2), []


def slow_clock(i: int, rng: Rng, enc: str) -> Given:
    made = window(i, motor(rng), enc, gap_s=0.02)
    return made, [event("gap", made, 0.02)]


def clock_step(i: int, rng: Rng, enc: str) -> Given:
    made = window(i, motor(rng), enc)
    return made, [event("clock_step", made, float(rng.choice([-1800.0, 0.5])))]


FAULTS: dict[str, list[Callable[[int, Rng, str], Given]]] = {
    "flatline": [flatline, two_codes],
    "clipping": [clipping, saturated_amplifier, overload_flag],
    "dropout": [dropout, held_value],
    "gap": [gap],
    "bias_shift": [bias_shift],
    "ski_slope": [ski_slope, wandering],
    "non_finite": [non_finite],
    "rate_mismatch": [wrong_rate, slow_clock],
    "clock_step": [clock_step],
}
CASES = [
    pytest.param(name, make, encoding, id=f"{make.__name__}-{encoding}")
    for name, makes in FAULTS.items()
    for make in makes
    for encoding in ("i16", "i24", "f32")
    if not (name == "non_finite" and encoding != "f32")
]


@pytest.mark.parametrize(("name", "make", "encoding"), CASES)
def test_each_fault_is_found_within_three_windows_and_over_after_it(
    name: str, make: Callable[[int, Rng, str], Given], encoding: str
) -> None:
    found = 0
    seeds = 20
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        check = checker(encoding)
        for i in range(8):
            assert check.check(window(i, motor(rng), encoding)).ok
        results = [check.check(*make(i, rng, encoding)) for i in range(8, 11)]
        found += any(name in result.faults for result in results)
        assert all(result.ok == (result.detail == "") for result in results)
        after = [check.check(window(i, motor(rng), encoding)) for i in range(11, 14)]
        assert after[0].ok, after[0]
        assert after[-1].ok
    assert found >= 0.95 * seeds


def healthy_steady(rng: Rng) -> Iterator[Array]:
    for _ in range(60):
        yield motor(rng)


def healthy_speed_changes(rng: Rng) -> Iterator[Array]:
    for speed_hz in np.concatenate([np.linspace(5, 60, 40), np.linspace(60, 12, 20)]):
        yield motor(rng, 0.01 * speed_hz, speed_hz)


def healthy_run_up(rng: Rng) -> Iterator[Array]:
    for i in range(20):
        t = (i + np.arange(N) / N) / 20
        phase = 2 * np.pi * np.cumsum(0.5 + 49.5 * t) / RATE
        yield t**2 * (np.sin(phase) + 0.5 * rng.normal(size=N))


def healthy_start_stop(rng: Rng) -> Iterator[Array]:
    for i in range(90):
        x = motor(rng) if (i // 15) % 2 else np.zeros(N)
        if i % 15 == 0 and i:  # the machine starts or runs out within this window
            ramp = np.linspace(1, 0, N) ** 2
            x = motor(rng) * (ramp if (i // 15) % 2 == 0 else ramp[::-1])
        yield x + rng.normal(0, 0.4 * STEP_G, N)


def healthy_bearing_fault(rng: Rng) -> Iterator[Array]:
    for i in range(60):
        yield motor(rng) + impacts(rng, 0.2 * 1.09**i)


def healthy_level_jumps(rng: Rng) -> Iterator[Array]:
    for i in range(60):
        yield motor(rng, 0.1 * 10 ** (0.5 * ((i // 6) % 4)))


def healthy_shocks(rng: Rng) -> Iterator[Array]:
    for i in range(60):
        x = motor(rng)
        if i % 3 == 0:
            at = int(rng.integers(0, N - 400))
            t = np.arange(400) / RATE
            x[at : at + 400] += 40 * np.exp(-t * 400) * np.cos(2 * np.pi * 900 * t)
        yield x


def healthy_few_steps(rng: Rng) -> Iterator[Array]:
    for i in range(60):
        yield rng.normal(0, (0.3 + 0.05 * (i % 30)) * STEP_G, N)


def healthy_press(rng: Rng) -> Iterator[Array]:
    t = np.arange(N) / RATE
    for _ in range(40):  # one strike a window, next to nothing around it
        after = np.maximum(t - rng.uniform(0.1, 0.9), 0.0)
        strike = 20.0 * np.exp(-after * 60) * np.sin(2 * np.pi * 300 * after)
        yield strike + rng.normal(0, rng.choice([0.18, 0.2, 0.3]) * STEP_G, N)


def healthy_wander_of_a_quiet_sensor(rng: Rng) -> Iterator[Array]:
    t = np.arange(N) / RATE
    for _ in range(40):
        slow = 20 * np.sin(2 * np.pi * 0.4 * t + rng.uniform(0, 6.28))
        yield STEP_G * (slow + rng.normal(0, 1.0, N))


def healthy_sway_while_it_stands(rng: Rng) -> Iterator[Array]:
    t = np.arange(N) / RATE
    for i in range(40):
        sway = np.sin(2 * np.pi * 0.8 * t + rng.uniform(0, 6.28))
        yield motor(rng, 2.0) if i < 20 else sway + rng.normal(0, 0.05, N)


def healthy_start_on_a_swaying_frame(rng: Rng) -> Iterator[Array]:
    t = np.arange(N) / RATE
    for i in range(40):
        sway = np.sin(2 * np.pi * 0.9 * t + rng.uniform(0, 6.28))
        yield motor(rng, 3.0) + 2.5 * sway if i > 10 else rng.normal(0, 0.02, N)


def healthy_warming(rng: Rng) -> Iterator[Array]:
    for i in range(300):  # a DC-coupled sensor: gravity, and 0.5 mg per window
        yield 1.0 + 0.0005 * i + rng.normal(0, 0.02, N)


def healthy_pure_tone(rng: Rng) -> Iterator[Array]:
    t = np.arange(N) / RATE
    for i in range(40):
        level = STEP_G * 2.0 ** rng.uniform(0, 14)
        yield level * np.sin(2 * np.pi * (10 + 50 * i) * t + rng.uniform(0, 6.28))


HEALTHY = [
    healthy_steady,
    healthy_speed_changes,
    healthy_run_up,
    healthy_start_stop,
    healthy_bearing_fault,
    healthy_level_jumps,
    healthy_shocks,
    healthy_few_steps,
    healthy_warming,
    healthy_pure_tone,
    healthy_press,
    healthy_wander_of_a_quiet_sensor,
    healthy_sway_while_it_stands,
    healthy_start_on_a_swaying_frame,
]


@pytest.mark.parametrize("encoding", ["i16", "i24", "f32"])
@pytest.mark.parametrize("make", HEALTHY)
def test_what_a_machine_does_is_never_the_sensors_fault(
    make: Callable[[Rng], Iterator[Array]], encoding: str
) -> None:
    for seed in range(2):
        check = checker(encoding)
        for i, x in enumerate(make(np.random.default_rng(seed))):
            result = check.check(window(i, x, encoding))
            assert result.ok, (seed, i, result)


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


@pytest.mark.parametrize(("name", "make", "encoding"), CASES)
def test_references_are_never_learnt_from_faulty_windows(
    name: str, make: Callable[[int, Rng, str], Given], encoding: str
) -> None:
    rng = np.random.default_rng(7)
    check = checker(encoding)
    for i in range(8):
        check.check(window(i, motor(rng), encoding))
    for i in range(8, 14):
        before = copy.deepcopy(check.export_state())
        result = check.check(*make(i, rng, encoding))
        after = check.export_state()
        moved = any(before[key] != after[key] for key in ("bias", "ac", "learnt"))
        assert moved == result.ok
    assert name in result.faults


def test_a_shifted_bias_stays_a_fault_until_it_returns_or_is_relearnt() -> None:
    rng = np.random.default_rng(3)
    check = checker(bias_relearn_windows=20)
    for i in range(8):
        assert check.check(window(i, motor(rng))).ok
    shifted = []
    for i in range(8, 38):
        check = resumed(check, bias_relearn_windows=20)
        shifted.append(check.check(window(i, motor(rng) + 5.0)).ok)
    assert shifted == [False] * 20 + [True] * 10
    back = check.check(window(40, motor(rng)))
    assert back.faults == ("bias_shift",)


def test_a_bias_that_keeps_walking_is_never_relearnt() -> None:
    rng = np.random.default_rng(4)
    check = checker(bias_relearn_windows=5)
    for i in range(8):
        check.check(window(i, motor(rng)))
    for i in range(8, 28):
        assert not check.check(window(i, motor(rng) + 3.0 * (i - 6) ** 0.9 * (-1) ** i)).ok


def test_a_mean_that_moves_less_than_the_vibration_is_no_fault() -> None:
    rng = np.random.default_rng(16)
    check = checker()
    for i in range(40):
        assert check.check(window(i, motor(rng, 2.0) + rng.uniform(-1.0, 1.0))).ok


def test_a_long_stop_does_not_make_the_check_touchy() -> None:
    rng = np.random.default_rng(17)
    check = checker()
    for i in range(20):
        check.check(window(i, motor(rng, 2.0)))
    for i in range(20, 320):
        assert check.check(window(i, rng.normal(0, 5 * STEP_G, N))).ok
    assert check.check(window(320, 0.5 + rng.normal(0, 5 * STEP_G, N))).ok


def test_a_dropout_counts_in_both_windows_that_it_touches() -> None:
    rng = np.random.default_rng(18)
    check = checker()
    for i in range(8):
        check.check(window(i, motor(rng)))
    first, second = motor(rng), motor(rng)
    first[-N // 5 :] = second[: N // 5] = 0.0
    for i, x in ((8, first), (9, second)):
        check = resumed(check)
        result = check.check(window(i, x))
        assert result.faults == ("dropout",)
        assert result.flat_fraction == pytest.approx(0.2, abs=0.01)
        assert result.detail.startswith("signal stood still for 195 ms")


def test_a_dropout_is_found_wherever_it_starts_and_however_short() -> None:
    rng = np.random.default_rng(20)
    least = int(0.01 * RATE) + 2
    for start in range(100, 500, 7):
        x = motor(rng)
        x[start : start + least] = 0.0
        x[start + least] = 0.5
        assert checker().check(window(0, x)).faults == ("dropout",)


def test_nine_in_ten_windows_of_a_bad_cables_slow_noise_are_disbelieved() -> None:
    rng = np.random.default_rng(24)
    check = checker()
    for i in range(10):
        check.check(window(i, motor(rng, 0.3)))
    fault = SensorFault("ski_slope", 0.0, 1e9)
    found = 0
    for i in range(10, 210):
        noise = distort(motor(rng, 0.3).astype(np.float32), fault, FULL_SCALE_G, RATE, rng)
        check = resumed(check)
        found += not check.check(window(i, noise)).ok
    assert found >= 180  # 195 measured, 173 without memory of the window before


def test_flat_tops_are_clipping_however_long() -> None:
    t = np.arange(N) / RATE
    overdriven = np.clip(400 * np.sin(2 * np.pi * 20 * t + 0.1), -FULL_SCALE_G, FULL_SCALE_G)
    overdriven[::400] *= 0.9
    assert checker().check(window(0, overdriven)).faults == ("clipping",)


def test_few_steps_at_a_low_rate_are_no_dropout() -> None:
    rng = np.random.default_rng(21)
    check = SensorHealthCheck()
    for i in range(20):
        samples = np.rint(rng.normal(0, 4.0, 400)).astype(np.int16)
        assert check.check(Window("s", 400.0, i * NS_PER_S, 0, samples, encoding="i16")).ok


def test_a_mean_that_moves_by_little_of_the_full_scale_is_no_fault() -> None:
    rng = np.random.default_rng(22)
    check = checker()
    for i in range(40):
        x = STEP_G * (rng.normal(0, 1.0, N) + (20 if i % 2 else 0))
        assert check.check(window(i, x)).ok


def test_a_large_offset_does_not_blur_a_wide_adc() -> None:
    rng = np.random.default_rng(23)
    samples = (2**30 + rng.normal(0, 20.0, N)).astype(np.int32)
    check = SensorHealthCheck()
    result = check.check(Window("s", RATE, 0, 0, samples, encoding="i32"))
    assert result.bias == pytest.approx(float(np.mean(samples, dtype=np.float64)), abs=0.1)
    assert check.export_state()["ac"] == pytest.approx(20.0, rel=0.05)


def test_the_declared_full_scale_counts_where_the_adc_could_hold_more() -> None:
    rng = np.random.default_rng(19)
    for encoding in ("i16", "i24", "f32"):
        loud = window(0, motor(rng, 6.0), encoding)
        assert SensorHealthCheck().check(loud).ok
        assert SensorHealthCheck(full_scale=10.0).check(loud).faults == ("clipping",)


def test_a_growing_machine_fault_does_not_hide_a_sensor_fault() -> None:
    rng = np.random.default_rng(5)
    check = checker()
    for i in range(60):
        assert check.check(window(i, motor(rng) + impacts(rng, 0.2 * 1.09**i))).ok
    assert check.check(*flatline(60, rng, "i16")).faults == ("flatline",)
    assert check.check(*clipping(61, rng, "i16")).faults == ("clipping",)


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


def recorded(name: str) -> Iterator[Window]:
    """The windows of a data set by sensor: snapshots whole, longer recordings cut to 0.975 s."""
    index = DATA / name / "index.csv"
    if not index.is_file():
        pytest.skip(f"shared/data/{name} is not beside the project")
    clocks: dict[str, int] = {}
    file, samples, rate = "", np.zeros((0, 1), np.float32), 1
    with index.open(encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            if row["file"] != file:
                file = row["file"]
                samples, rate = sf.read(DATA / name / file, dtype="float32", always_2d=True)
            first, n = int(row["offset_frames"]), int(row["n_frames"])
            signal = samples[first : first + n, int(row["channel"])] * np.float32(row["scale"])
            length = min(n, int(0.975 * rate))
            for start in range(0, n - length + 1, length):
                now = clocks.get(row["sensor"], 0)
                clocks[row["sensor"]] = now + round(length * NS_PER_S / rate)
                piece = np.ascontiguousarray(signal[start : start + length])
                yield Window(row["sensor"], float(rate), now, 0, piece, unit=row["unit"])


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["femto_bearing1_1", "femto_bearing1_2", "cwru_12k", "gearbox_gfd"]
)
def test_recorded_machines_are_believed_until_they_fail(name: str) -> None:
    checks: dict[str, SensorHealthCheck] = {}
    flagged = total = 0
    for made in recorded(name):
        check = checks.setdefault(made.sensor_id, SensorHealthCheck())
        flagged += not check.check(made).ok
        total += 1
    assert total > 200
    assert flagged < 0.005 * total  # 0 measured in each set


@pytest.mark.shared
def test_digital_silence_at_the_end_of_a_clip_is_a_flat_line() -> None:
    checks: dict[str, SensorHealthCheck] = {}
    flat = silent = 0
    for made in recorded("esc10"):
        result = checks.setdefault(made.sensor_id, SensorHealthCheck()).check(made)
        if not made.samples.any():
            silent += 1
            flat += "flatline" in result.faults
    assert flat == silent > 20
