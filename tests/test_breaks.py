import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.breaks import RUN, Breaks
from pipeline.messages import NS_PER_S, SensorChunk, SensorHealth, StreamEvent, Window
from pipeline.state import pack, unpack
from pipeline.windows import Windower

RATE = 8000.0
START = 1_700_000_000 * NS_PER_S


def chunks(seconds, *, slower=0.0, chunk_s=1.0, jitter_s=0.0, lost_s=0.0, every=1, first=0):
    """A sensor whose stamps pass faster than its samples, jitter, or leave something out."""
    rng = np.random.default_rng(0)
    n = round(chunk_s * RATE)
    for i in range(first, first + round(seconds / chunk_s)):
        at_s = i * chunk_s * (1 + slower) + lost_s * (i // every) + jitter_s * rng.uniform(-1, 1)
        start_ns = START + round(at_s * NS_PER_S)
        samples = rng.normal(0, 500, n).astype(np.int16)
        yield SensorChunk("s", RATE, start_ns, samples, seq=i, encoding="i16")


def watch(stream, breaks=None, windower=None):
    """(reports, windows' health) of a stream; healthy but for its breaks."""
    breaks = breaks or Breaks("s")
    windower = windower or Windower("s", reorder_chunks=0)
    reports, windows = [], []
    for chunk in stream:
        for item in windower.push(chunk):
            if isinstance(item, StreamEvent):
                health = breaks.event(item)
                reports += [] if health is None else [health]
            else:
                windows.append(breaks.window(item, SensorHealth("s", item.end_ns)))
    return reports, windows


def test_a_sensor_that_is_slower_than_it_says_is_told_though_no_window_comes():
    reports, windows = watch(chunks(200, slower=0.02))
    assert len(reports) >= 150 // RUN
    assert {health.faults for health in reports} == {("rate_mismatch",)}
    assert reports[0].detail.startswith("samples come 2 % slower than their declared rate")
    assert (reports[0].window_end_ns - START) / NS_PER_S < 2 + RUN * 1.02
    times = [health.window_end_ns for health in reports]
    assert times == sorted(set(times))
    assert {health.faults for health in windows[1:]} <= {("rate_mismatch",)}


@given(slower=st.floats(0.0005, 0.2))
@settings(max_examples=15, deadline=None)
def test_no_rate_beyond_the_drift_tolerance_makes_a_sensor_fall_silent(slower):
    reports, windows = watch(chunks(100, slower=slower))
    times = [health.window_end_ns for health in reports + windows]
    until = max(START, *times)
    assert START + 100 * (1 + slower) * NS_PER_S - until < 2 * (RUN + 1) * NS_PER_S
    assert all(not health.ok for health in windows if health.window_end_ns > min(times) + 30e9)


def test_jittering_stamps_are_told_apart_from_a_wrong_rate():
    reports, _ = watch(chunks(60, chunk_s=0.25, jitter_s=0.01))
    assert {health.faults for health in reports} == {("gap",)}
    assert reports[-1].detail.startswith("time stamps jump to and fro")


def test_lost_messages_are_no_wrong_rate():
    reports, _ = watch(chunks(60, lost_s=0.4))
    assert {health.faults for health in reports} == {("gap",)}
    assert reports[0].detail == "signal has broken 8 times within 9.8 s: check network and gateway"


def test_a_lossy_sensor_that_still_gives_windows_is_left_alone():
    reports, windows = watch(chunks(300, lost_s=0.05, every=2))
    assert reports == []
    assert len(windows) > 120
    assert all(health.ok for health in windows)


def test_a_window_now_and_then_in_a_broken_signal_is_not_believed():
    reports, windows = watch(chunks(120, chunk_s=1.2, lost_s=0.6))
    assert reports == []
    assert len(windows) > 20
    assert {health.faults for health in windows[10:]} == {("gap",)}


def test_few_breaks_are_no_fault():
    for n in range(1, RUN):
        reports, windows = watch([*chunks(n, slower=0.05), *chunks(10, first=1000)])
        assert reports == []
        assert windows[-1].ok


def test_a_mended_sensor_is_believed_after_a_whole_stretch():
    breaks, windower = Breaks("s"), Windower("s", reorder_chunks=0)
    reports, _ = watch(chunks(20, slower=0.02), breaks, windower)
    assert reports
    reports, windows = watch(chunks(10, first=30), breaks, windower)
    assert reports == []
    assert [health.ok for health in windows[2:]] == [True] * (len(windows) - 2)


def test_a_run_that_has_ended_says_nothing_about_the_next():
    breaks, windower = Breaks("s"), Windower("s", reorder_chunks=0)
    reports, _ = watch(chunks(20, chunk_s=0.25, jitter_s=0.01), breaks, windower)
    assert {health.faults for health in reports} == {("gap",)}
    reports, _ = watch(chunks(10, first=30), breaks, windower)
    reports, _ = watch(chunks(40, slower=0.02, first=50), breaks, windower)
    assert {health.faults for health in reports} == {("rate_mismatch",)}


def test_reports_come_after_as_many_breaks_without_a_window():
    breaks = Breaks("s")
    reports = []
    for i in range(40):
        reports.append(breaks.event(event("gap", i)) is not None)
        if i == RUN + 3:
            start_ns = START + round((i - 0.5) * NS_PER_S)
            made = Window("s", RATE, start_ns, 0, np.zeros(7800, np.int16))
            assert not breaks.window(made, SensorHealth("s", made.end_ns)).ok
    assert np.flatnonzero(reports).tolist() == [7, 19, 27, 35]


def event(kind, i, amount_s=0.0, detail=""):
    return StreamEvent("s", START + i * NS_PER_S, kind, amount_s, detail)


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("clock_step", "clock_step"),
        ("rate_change", "rate_mismatch"),
        ("format_change", "format_change"),
        ("epoch_change", "epoch_change"),
    ],
)
def test_every_kind_of_break_has_its_fault(kind, fault):
    breaks = Breaks("s")
    found = [breaks.event(event(kind, i)) for i in range(2 * RUN)]
    assert [health is not None for health in found] == ([False] * (RUN - 1) + [True]) * 2
    assert found[-1].faults == (fault,)
    assert "8 times within 7.0 s: check " in found[-1].detail


def test_captures_that_are_too_short_are_no_wrong_rate():
    breaks = Breaks("s")
    found = [breaks.event(event("gap", 600 * i, 0.01, "a capture of 9 samples")) for i in range(8)]
    assert found[-1].faults == ("gap",)


def test_what_breaks_no_signal_is_no_break():
    breaks = Breaks("s")
    for kind in ("overlap", "late", "duplicate"):
        assert all(breaks.event(event(kind, i)) is None for i in range(3 * RUN))


def test_a_window_keeps_its_own_faults_and_words():
    breaks = Breaks("s")
    for i in range(RUN):
        breaks.event(event("gap", i, 0.5))
    start_ns = START + round((RUN - 0.4) * NS_PER_S)
    made = Window("s", RATE, start_ns, 0, np.zeros(7800, np.int16))
    bad = SensorHealth("s", made.end_ns, ("flatline",), detail="flat")
    found = breaks.window(made, bad)
    assert found.faults == ("flatline", "gap")
    assert found.detail.startswith("flat; signal has broken 8 times")
    known = dataclasses.replace(bad, faults=("gap",))
    assert breaks.window(made, known) == known


def test_breaks_go_on_after_a_restart_and_stay_small():
    stream = [
        *chunks(40, slower=0.02),
        *chunks(10, first=50),
        *chunks(30, chunk_s=0.25, jitter_s=0.01, first=280),
    ]
    expected = watch(stream)
    reports, windows = [], []
    breaks, windower = Breaks("s"), Windower("s", reorder_chunks=0)
    for chunk in stream:
        found = watch([chunk], breaks, windower)
        reports += found[0]
        windows += found[1]
        state = unpack(pack(breaks.export_state()))
        assert len(state["breaks"]) <= RUN
        breaks = Breaks("s")
        breaks.import_state(state)
    assert (reports, windows) == expected
    with pytest.raises(ValueError, match="version must be 1, got 9"):
        breaks.import_state({**state, "version": 9})
