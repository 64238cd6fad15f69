import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.indicators import UNIT_TO_M_S2, features, features_of
from pipeline.messages import NS_PER_S, Window
from pipeline.state import pack, unpack
from pipeline.velocity import VelocityAverage

RATE = 16_000.0
N = 15_600  # the default window, 0.975 s


def window(i, *, n=N, unit="g", frequency_hz=100.0, amplitude=1.0, **changes):
    """The i-th of contiguous windows over one tone."""
    t = np.arange(i * n, (i + 1) * n) / RATE
    made = Window(
        "s", RATE, round(i * n / RATE * NS_PER_S), i * n,
        (amplitude * np.sin(2 * np.pi * frequency_hz * t)).astype(np.float32), unit=unit,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def velocities(average, windows, *, running=True):
    found = features_of(windows)
    return [
        average.averaged(window, one, running=running).velocity_mm_s
        for window, one in zip(windows, found, strict=True)
    ]


def of_tone(amplitude=1.0, frequency_hz=100.0, unit="g"):
    return 1000 * UNIT_TO_M_S2[unit] * amplitude / math.sqrt(2) / (2 * np.pi * frequency_hz)


@given(where=st.floats(0.0, 1.0), n=st.sampled_from([8_000, 9_001, N, 15_999]))
@settings(max_examples=30, deadline=None)
def test_velocity_of_a_tone_through_short_windows_is_its_integral(where, n):
    # Nearer to the edges of the band than two lines of the FFT a tone leaks over them.
    lowest, highest = 10.0 + 2 * RATE / n, 1000.0 - 2 * RATE / n
    frequency_hz = lowest * (highest / lowest) ** where
    windows = [window(i, n=n, frequency_hz=frequency_hz) for i in range(6)]
    found = velocities(VelocityAverage(), windows)
    for i, velocity in enumerate(found):
        covered = (i + 1) * n >= RATE
        assert (velocity is not None) == covered
        assert not covered or velocity == pytest.approx(of_tone(1.0, frequency_hz), rel=0.03)


def test_the_average_is_one_of_power_over_no_more_than_a_second_needs():
    windows = [window(i, amplitude=a) for i, a in enumerate([1.0, 1.0, 3.0, 5.0])]
    found = velocities(VelocityAverage(), windows)
    assert found[1] == pytest.approx(of_tone(1.0), rel=0.01)
    assert found[2] == pytest.approx(of_tone(math.sqrt((1 + 9) / 2)), rel=0.01)
    assert found[3] == pytest.approx(of_tone(math.sqrt((9 + 25) / 2)), rel=0.01)


def test_overlapping_windows_are_averaged_over_the_time_they_cover():
    whole = window(0, n=160_000)
    windows = [
        dataclasses.replace(whole, start_index=s, samples=whole.samples[s : s + 10_000])
        for s in range(0, 60_000, 4_000)
    ]
    found = velocities(VelocityAverage(), windows)
    assert found[:2] == [None, None]  # 0.625 s and 0.875 s
    assert np.allclose(np.array(found[2:], float), of_tone(), rtol=0.02)


@pytest.mark.parametrize(
    "change",
    [
        {"gap_s": 0.01},
        {"start_index": 2 * N + 1},
        {"start_index": 0},
        {"epoch": 1},
        {"sample_rate_hz": 16_001.0},
        {"unit": "m/s2"},
    ],
)
def test_whatever_parts_two_windows_restarts_the_average(change):
    average = VelocityAverage()
    windows = [window(0), window(1), window(2, **change)]
    found = velocities(average, windows)
    assert found[1] is not None
    assert found[2] is None
    following = window(3, **{k: v for k, v in change.items() if k not in ("gap_s", "start_index")})
    start = change.get("start_index", 2 * N) + N
    assert velocities(average, [dataclasses.replace(following, start_index=start)]) != [None]


def test_a_stop_or_an_unbelievable_window_restarts_the_average():
    average = VelocityAverage()
    assert velocities(average, [window(0), window(1)])[1] is not None
    assert velocities(average, [window(2)], running=False) == [None]
    assert velocities(average, [window(3)]) == [None]
    assert velocities(average, [window(4)]) != [None]
    assert average.averaged(window(5), None, running=False) is None
    assert velocities(average, [window(6)]) == [None]


def test_a_window_of_a_second_stands_alone():
    average = VelocityAverage()
    velocities(average, [window(0, n=15_000)])
    long = window(0, n=16_000, start_index=15_000, amplitude=2.0)
    assert velocities(average, [long], running=False) == [features(long).velocity_mm_s]
    assert velocities(average, [window(0, n=15_000, start_index=31_000)]) == [None]


@pytest.mark.parametrize("change", [{"unit": "unknown"}, {"unit": "mm/s"}, {"n": 7_999}])
def test_what_has_no_velocity_never_contributes(change):
    assert velocities(VelocityAverage(), [window(i, **change) for i in range(9)]) == [None] * 9


def test_the_average_goes_on_after_a_restart():
    windows = [window(i, amplitude=1.0 + i) for i in range(6)]
    expected = velocities(VelocityAverage(), windows)
    average, found = VelocityAverage(), []
    for one in windows:
        found += velocities(average, [one])
        state = unpack(pack(average.export_state()))
        average = VelocityAverage()
        average.import_state(state)
    assert found == expected
    with pytest.raises(ValueError, match="version must be 1, got 9"):
        average.import_state({**state, "version": 9})
