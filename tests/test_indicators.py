import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import signal

from pipeline.indicators import (
    MIN_VELOCITY_S,
    UNIT_TO_M_S2,
    features,
    features_of,
    spectrum,
)
from pipeline.messages import Features, Window

RATES = st.sampled_from([4000.0, 12_000.0, 16_000.0, 25_600.0, 44_100.0])


def window(values: NDArray[Any], rate: float = 25_600.0, unit: str = "g") -> Window:
    return Window("s", rate, 0, 0, np.asarray(values, np.float32), unit=unit)


def tone(
    frequency_hz: float,
    amplitude: float = 1.0,
    rate: float = 25_600.0,
    seconds: float = 1.0,
    phase: float = 0.0,
) -> NDArray[np.float32]:
    t = np.arange(round(rate * seconds)) / rate
    return (amplitude * np.sin(2 * np.pi * frequency_hz * t + phase)).astype(np.float32)


def total_db(result: Features) -> float:
    return 10 * math.log10(sum(10 ** (level / 10) for _, level in result.octaves_db))


def test_statistics_are_those_of_the_mean_free_signal() -> None:
    values = np.random.default_rng(1).laplace(5.0, 0.3, 20_000).astype(np.float32)
    got = features(window(values))
    free = values.astype(np.float64) - values.mean(dtype=np.float64)
    rms = math.sqrt(np.mean(free**2))
    assert got.rms == pytest.approx(rms, rel=1e-4)
    assert got.peak == pytest.approx(np.abs(free).max(), rel=1e-4)
    assert got.crest == pytest.approx(np.abs(free).max() / rms, rel=1e-4)
    assert got.kurtosis == pytest.approx(np.mean(free**4) / rms**4, rel=1e-3)


@given(exponent=st.integers(-12, 12), offset=st.floats(-3.0, 3.0), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_gain_moves_levels_and_nothing_else(exponent: int, offset: float, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=8192).astype(np.float32)
    one, other = features(window(values)), features(window((values + offset) * 10.0**exponent))
    assert other.rms == pytest.approx(one.rms * 10.0**exponent, rel=1e-4)
    assert other.kurtosis == pytest.approx(one.kurtosis, rel=1e-3)
    assert other.crest == pytest.approx(one.crest, rel=1e-3)
    shift = np.subtract(other.octaves_db, one.octaves_db)[:, 1]
    assert np.allclose(shift[5:], 20 * exponent, atol=0.05) or exponent < -8


@given(
    rate=RATES,
    position=st.floats(0.02, 0.6),
    phase=st.floats(0.0, 6.28),
    seconds=st.sampled_from([0.975, 1.0, 1.37, 3.001]),
)
@settings(max_examples=60, deadline=None)
def test_a_tone_keeps_its_level_in_the_sum_of_the_bands(
    rate: float, position: float, phase: float, seconds: float
) -> None:
    values = tone(max(position * rate / 2, 40.0), 3.0, rate, seconds, phase)
    got = features(window(values, rate))
    assert total_db(got) == pytest.approx(20 * math.log10(3.0 / math.sqrt(2)), abs=0.2)


def test_a_tone_at_a_band_centre_stands_in_that_band() -> None:
    for seconds in (0.1, 0.975):
        rows = features(window(tone(1000.0, seconds=seconds))).octaves_db
        levels = dict(rows)
        assert levels[1000.0] == pytest.approx(-3.01, abs=0.1)
        assert max(level for centre, level in rows if centre != 1000.0) < -25.0


@pytest.mark.parametrize("seconds", [0.975, 1.0, 1.37, 2.0])
def test_a_tone_on_a_band_edge_is_shared_by_both_bands(seconds: float) -> None:
    for band in range(-6, 6):
        edge_hz = 1000.0 * 10 ** ((band + 0.5) / 10)
        values = tone(edge_hz, seconds=seconds)
        lower, upper = sorted(
            sorted(level for _, level in features(window(values)).octaves_db)[-2:]
        )
        assert upper - lower < 0.6


def test_white_noise_rises_one_db_per_band() -> None:
    values = np.random.default_rng(2).normal(size=10 * 25_600)
    rows = np.array(features(window(values)).octaves_db)
    slope = np.polyfit(np.arange(len(rows)), rows[:, 1], 1)[0]
    assert slope == pytest.approx(1.0, abs=0.03)
    # Power of unit white noise in the 10 kHz band (8913-11220 Hz) is its share of Nyquist.
    assert rows[-1, 1] == pytest.approx(10 * math.log10((11220 - 8913) / 12_800), abs=0.2)


def test_bands_are_nominal_resolved_and_below_nyquist() -> None:
    noise = np.random.default_rng(3).normal(size=50_000).astype(np.float32)
    full = [c for c, _ in features(window(noise[:25_600])).octaves_db]
    assert full[:6] == [31.5, 40.0, 50.0, 63.0, 80.0, 100.0]
    assert full[-2:] == [8000.0, 10_000.0]
    short = [c for c, _ in features(window(noise[:2560])).octaves_db]
    assert short[0] == 200.0  # 46 Hz wide; lines of 0.1 s are 10 Hz apart
    assert features(window(noise[:12])).octaves_db == ()
    assert features(window(noise[:100], 50.0)).octaves_db == ()


@given(n=st.integers(1, 3000), rate=st.floats(0.5, 1e6))
@settings(max_examples=80, deadline=None)
def test_every_length_and_rate_gives_an_answer(n: int, rate: float) -> None:
    values = np.random.default_rng(n).normal(size=n).astype(np.float32)
    got = features(window(values, rate))
    assert all(math.isfinite(level) for _, level in got.octaves_db)
    assert math.isfinite(got.kurtosis)


@given(
    frequency_hz=st.floats(12.0, 990.0),
    rate=RATES,
    unit=st.sampled_from(sorted(UNIT_TO_M_S2)),
)
@settings(max_examples=40, deadline=None)
def test_velocity_of_a_tone_is_its_integral(frequency_hz: float, rate: float, unit: str) -> None:
    got = features(window(tone(frequency_hz, 2.0, rate, seconds=2.0), rate, unit))
    want = 1000 * UNIT_TO_M_S2[unit] * 2.0 / math.sqrt(2) / (2 * np.pi * frequency_hz)
    assert got.velocity_mm_s == pytest.approx(want, rel=0.03)


def test_velocity_leaves_out_what_lies_beyond_10_to_1000_hz() -> None:
    inside = features(window(tone(100.0, seconds=4.0))).velocity_mm_s
    mixed = tone(100.0, seconds=4.0) + tone(5.0, 0.5, seconds=4.0) + tone(1500.0, 20, seconds=4.0)
    assert features(window(mixed)).velocity_mm_s == pytest.approx(inside, rel=0.01)


def test_velocity_counts_half_of_a_tone_on_the_edge_of_its_band() -> None:
    for frequency_hz in (10.0, 1000.0):
        got = features(window(tone(frequency_hz, seconds=10.0))).velocity_mm_s
        whole = 1000 * UNIT_TO_M_S2["g"] / math.sqrt(2) / (2 * np.pi * frequency_hz)
        assert got == pytest.approx(whole * math.sqrt(0.5), rel=0.03)


@pytest.mark.parametrize(
    ("unit", "rate", "seconds"),
    [
        ("unknown", 25_600.0, 1.0),
        ("mm/s", 25_600.0, 1.0),
        ("FS", 25_600.0, 1.0),
        ("g", 1_990.0, 2.0),
        ("g", 25_600.0, MIN_VELOCITY_S - 0.025),
    ],
)
def test_velocity_is_refused_and_never_guessed(unit: str, rate: float, seconds: float) -> None:
    assert (
        features(window(tone(50.0, rate=rate, seconds=seconds), rate, unit)).velocity_mm_s is None
    )


def test_velocity_is_given_from_nyquist_1000_hz_and_one_second_on() -> None:
    assert features(window(tone(50.0, rate=2000.0), 2000.0)).velocity_mm_s is not None


def test_constant_and_broken_signals_give_records_without_warnings() -> None:
    flat = features(window(np.full(25_600, 7.0)))
    assert (flat.rms, flat.peak, flat.crest, flat.kurtosis, flat.velocity_mm_s) == (0, 0, 0, 0, 0)
    assert all(level == -200.0 for _, level in flat.octaves_db)
    for bad in (np.nan, np.inf, 3e38):
        values = tone(50.0)
        values[::2] = bad
        broken = features(window(values))
        assert math.isnan(broken.rms)
        assert broken.octaves_db == ()
        assert broken.velocity_mm_s is None


def test_the_samples_are_left_alone() -> None:
    values = tone(100.0) + 1
    before = values.copy()
    features(window(values))
    assert np.array_equal(values, before)


@given(
    members=st.lists(
        st.tuples(
            st.sampled_from(
                [(16_000.0, 15_600), (8_000.0, 15_600), (25_600.0, 24_960), (400.0, 390), (1e5, 7)]
            ),
            st.sampled_from(["noise", "loud", "flat", "broken", "counts"]),
        ),
        max_size=20,
    ),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_what_a_window_gives_does_not_depend_on_the_others(
    members: list[tuple[tuple[float, int], str]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    windows = [member(kind, rate, n, rng) for (rate, n), kind in members]
    together = features_of(windows)
    for one, got in zip(windows, together, strict=True):
        assert equal(got, features_of([one])[0])
        alone = features(one)
        assert got.velocity_mm_s is None or one.samples.size >= 0.5 * one.sample_rate_hz
        assert equal(replace(got, velocity_mm_s=alone.velocity_mm_s), alone)


def member(kind: str, rate: float, n: int, rng: np.random.Generator) -> Window:
    values = rng.normal(3.0, 1.0, n)
    if kind == "counts":
        counts = np.rint(1000 * values).astype(np.int16)
        return Window("s", rate, 5, 0, counts, encoding="i16", scale=-1e-3, offset=2.0, unit="g")
    factor = {"noise": 1.0, "loud": 1e20, "flat": 0.0, "broken": np.nan}[kind]
    return window(values * factor, rate)


def equal(a: Features, b: Features) -> bool:
    """Equal records up to rounding."""
    (words, numbers), (other_words, other_numbers) = split(a), split(b)
    return words == other_words and np.allclose(
        numbers, other_numbers, rtol=1e-5, atol=1e-5, equal_nan=True
    )


def split(found: Features) -> tuple[tuple[object, ...], list[float]]:
    velocity = -1.0 if found.velocity_mm_s is None else found.velocity_mm_s
    centres, levels = zip(*found.octaves_db, strict=True) if found.octaves_db else ((), ())
    words = (found.sensor_id, found.window_start_ns, found.window_end_ns, found.sample_rate_hz)
    logs = [math.log(x) if x > 0 else x for x in (found.rms, found.peak, velocity)]
    return (*words, centres), [*logs, found.crest, found.kurtosis, *levels]


def test_scale_and_offset_turn_adc_numbers_into_the_unit() -> None:
    counts = np.rint(1000 * tone(100.0, 8.0)).astype(np.int16)
    got = features(Window("s", 25_600.0, 0, 0, counts, encoding="i16", scale=-2e-3, offset=7.0))
    assert got.rms == pytest.approx(16.0 / math.sqrt(2), rel=1e-3)
    assert got.peak == pytest.approx(16.0, rel=1e-3)
    assert total_db(got) == pytest.approx(20 * math.log10(16.0 / math.sqrt(2)), abs=0.1)
    silent = features(Window("s", 25_600.0, 0, 0, counts, encoding="i16", scale=0.0, offset=7.0))
    assert (silent.rms, silent.peak, silent.crest, silent.kurtosis) == (0, 0, 0, 0)


@given(
    amplitude=st.floats(1e-4, 1e4),
    line=st.integers(20, 3000),
    seconds=st.sampled_from([0.1, 0.975, 1.0, 5.0]),
    bins=st.sampled_from([64, 400, 5000]),
)
@settings(max_examples=60, deadline=None)
def test_spectrum_reads_the_amplitude_of_a_tone(
    amplitude: float, line: int, seconds: float, bins: int
) -> None:
    n = round(25_600 * seconds)
    length = min(n, max(n // 4, 2 * (bins - 1)))
    frequency_hz = 25_600 / length * max(4, line % (length // 2 - 4))
    freq_hz, amplitudes = spectrum(
        tone(frequency_hz, amplitude, seconds=seconds), 25_600.0, bins=bins
    )
    assert amplitudes.max() == pytest.approx(amplitude, rel=0.05)
    spacing = freq_hz[1] - freq_hz[0]
    assert abs(freq_hz[amplitudes.argmax()] - frequency_hz) <= spacing
    assert len(freq_hz) == len(amplitudes) <= bins
    assert np.all(np.diff(freq_hz) > 0)


def test_spectrum_never_loses_a_tone_between_two_lines() -> None:
    for frequency_hz in np.linspace(1000.0, 1010.0, 21):
        _, amplitude = spectrum(tone(frequency_hz), 25_600.0)
        assert 0.84 < amplitude.max() < 1.02


def test_spectrum_agrees_with_welch() -> None:
    values = np.random.default_rng(4).normal(size=25_600).astype(np.float32)
    freq_hz, amplitude = spectrum(values, 25_600.0, bins=5001)
    want_hz, power = signal.welch(
        values, 25_600.0, nperseg=10_000, detrend=False, scaling="spectrum", window="hann"
    )
    assert np.allclose(freq_hz, want_hz)
    inner = slice(5, -5)  # welch halves DC and Nyquist in power
    assert np.allclose(amplitude[inner], np.sqrt(2 * power[inner]), rtol=1e-3)


def test_spectrum_counts_dc_and_nyquist_once() -> None:
    values = np.where(np.arange(25_600) < 12_800, -1.0, 1.0).astype(np.float32)
    assert 0.85 < spectrum(values, 25_600.0, bins=3201)[1][0] <= 1.0
    values[::2], values[1::2] = -1.0, 1.0
    assert spectrum(values, 25_600.0)[1][-1] == pytest.approx(1.0, rel=1e-3)


def test_spectrum_refuses_what_it_cannot_draw() -> None:
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        spectrum(tone(50.0), 25_600.0, bins=0)
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        spectrum(np.zeros(1, np.float32), 25_600.0)
    assert spectrum(tone(50.0), 25_600.0, bins=1)[1].shape == (1,)


def test_one_second_takes_well_under_a_few_milliseconds() -> None:
    one = window(np.random.default_rng(5).normal(size=25_600))
    features(one)
    times = []
    for _ in range(50):
        start = time.perf_counter()
        features(one)
        times.append(time.perf_counter() - start)
    assert min(times) < 2e-3  # 0.25 ms measured; the slack is for shared machines
