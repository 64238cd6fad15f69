from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.arrival import CONFIRM, FormatGuard, LeapGuard, PlantClock
from pipeline.messages import NS_PER_S, Flags, SensorChunk, StreamEvent, Window
from pipeline.state import pack, unpack

DAY_NS = 86_400 * NS_PER_S
T0 = 20_000 * DAY_NS


def chunk(at_ns):
    return SensorChunk(
        "s", 1000.0, at_ns, np.arange(5, dtype=np.int16), encoding="i16", flags=Flags.OVERLOAD
    )


def window(rate_hz=1000.0, unit="g"):
    return Window("s", rate_hz, T0, 0, np.zeros(5, np.float32), unit=unit)


def given_back(guard, times):
    items = [item for at_ns in times for item in guard.push(chunk(at_ns))]
    return items + guard.flush()


def test_one_leap_ahead_is_set_aside_and_told():
    items = given_back(LeapGuard("s"), [T0, T0 + 400 * DAY_NS, T0 + 10, T0 + 20])
    chunks = [item for item in items if isinstance(item, SensorChunk)]
    assert [c.start_ns for c in chunks] == [T0, T0 + 10, T0 + 20]
    (event,) = [item for item in items if isinstance(item, StreamEvent)]
    assert event.kind == "clock_step"
    assert event.amount_s == pytest.approx(400 * 86_400, rel=1e-3)


def test_a_long_pause_of_a_log_loses_nothing():
    times = [T0, T0 + 1, T0 + 400 * DAY_NS, T0 + 400 * DAY_NS + 1, T0 + 900 * DAY_NS]
    items = given_back(LeapGuard("s"), times)
    assert [item.start_ns for item in items] == times


@given(cut=st.integers(0, 4))
@settings(max_examples=5, deadline=None)
def test_a_guard_restored_anywhere_goes_on_as_if_nothing_had_happened(cut):
    times = [T0, T0 + 400 * DAY_NS, T0 + 10, T0 + 800 * DAY_NS, T0 + 20]
    expected = given_back(LeapGuard("s"), times)
    first, second = LeapGuard("s"), LeapGuard("s")
    items = [item for at_ns in times[:cut] for item in first.push(chunk(at_ns))]
    second.import_state(unpack(pack(first.export_state())))
    items += given_back(second, times[cut:])
    told = [
        replace(item, samples=None) if isinstance(item, SensorChunk) else item for item in items
    ]
    wanted = [replace(i, samples=None) if isinstance(i, SensorChunk) else i for i in expected]
    assert told == wanted


def test_another_format_counts_only_after_several_windows_in_a_row():
    guard = FormatGuard()
    assert guard.take(window()) == (True, False)
    assert guard.take(window(500.0)) == (False, False)
    assert guard.take(window()) == (True, False)
    others = [guard.take(window(unit="m/s2")) for _ in range(CONFIRM)]
    assert others == [(False, False)] * (CONFIRM - 1) + [(True, True)]
    assert guard.take(window(unit="m/s2")) == (True, False)
    assert guard.key == (1000.0, "m/s2")


def test_one_clock_far_ahead_does_not_move_the_plant():
    clock = PlantClock()
    assert clock.take("a", T0) == T0
    assert clock.take("b", T0 + 5) == T0 + 5
    assert clock.take("a", T0 + 300 * DAY_NS) == T0 + 5
    assert clock.take("b", T0 + 9) == T0 + 9
    assert clock.take("b", T0 + 300 * DAY_NS) == T0 + 300 * DAY_NS


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5000)), max_size=30))
@settings(max_examples=100, deadline=None)
def test_without_leaps_the_plant_stands_at_the_latest_time_heard(heard):
    clock, latest = PlantClock(), 0
    for sensor, seconds in heard:
        latest = max(latest, T0 + seconds * NS_PER_S)
        assert clock.take(sensor, T0 + seconds * NS_PER_S) == latest


@pytest.mark.parametrize("stage", [LeapGuard("s"), FormatGuard(), PlantClock()])
def test_a_state_of_another_version_is_refused(stage):
    with pytest.raises(ValueError, match="state version must be"):
        stage.import_state({**stage.export_state(), "version": 99})
