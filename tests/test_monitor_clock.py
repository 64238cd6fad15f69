import dataclasses
import itertools

import numpy as np
import pytest
import torch

from echo_model.echo import Echo
from echo_model.engine import EchoEngine
from monitor_cases import RATE, SETTINGS, capture, drive, noise, stream
from pipeline.assembly import build_monitor
from pipeline.fleet import Fleet
from pipeline.messages import NS_PER_S
from pipeline.settings import load


@pytest.fixture(scope="module")
def engine():
    torch.set_num_threads(1)
    return EchoEngine(Echo.from_pretrained("nano"))


def together(*streams):
    return sorted(itertools.chain(*streams), key=lambda chunk: (chunk.start_ns, chunk.sensor_id))


def test_velocity_is_known_with_the_default_windows(engine):
    def tone(t):
        return 2.0 * np.sin(2 * np.pi * 100.0 * t / RATE) + 0.01 * noise(rng, n=t.size)

    rng = np.random.default_rng(7)
    expected = 1000 * 9.80665 * 2.0 / np.sqrt(2) / (2 * np.pi * 100.0)
    settings = load({}, profile="plant")
    for unit, known in (("g", True), ("unknown", False)):
        first = stream("m/a", 20, signal=tone, unit=unit)
        after_a_gap = stream("m/a", 20, start_s=25.5, signal=tone, unit=unit, first=25)
        windows, _ = drive(build_monitor(settings, Fleet(), engine), [*first, *after_a_gap], size=7)
        found = [w.features.velocity_mm_s for w in windows if w.health.ok]
        starts = {w.window_start_ns for w in windows if w.health.ok}
        unmeasured = [
            w.window_start_ns for w in windows if w.health.ok and w.features.velocity_mm_s is None
        ]
        if not known:
            assert set(found) == {None}
            continue
        assert unmeasured == [s for s in sorted(starts) if s - 975_000_000 not in starts]
        assert len(unmeasured) == 2
        assert all(v == pytest.approx(expected, rel=0.01) for v in found if v is not None)


def test_a_sensor_that_never_gave_a_window_is_not_silent_while_it_sends(engine):
    halves = [
        dataclasses.replace(chunk, samples=chunk.samples[:4000])
        for chunk in stream("m/a", 300, slower=0.01)
    ]
    chunks = together(halves, stream("m/b", 303))
    windows, _ = drive(build_monitor(SETTINGS, Fleet(), engine), chunks)
    mine = [w for w in windows if w.sensor_id == "m/a"]
    assert {w.health.faults for w in mine} == {("gap",)}
    assert len(mine) == 299 // 8


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_a_sensor_that_never_fills_a_window_reads_unknown_and_not_silent(engine, size):
    chunks = together(stream("m/a", 400, slower=0.03), stream("m/b", 412))
    windows, events = drive(build_monitor(SETTINGS, Fleet(), engine), chunks, size)
    broken = [w for w in windows if w.sensor_id == "m/a" and not w.health.ok]
    assert {w.status for w in broken} == {"unknown"}
    told = [w.health for w in broken if w.window_start_ns == w.window_end_ns]
    assert {health.faults for health in told} == {("rate_mismatch",)}
    assert len(told) > 30
    times = [w.window_end_ns for w in broken]
    assert max(np.diff(times)) <= 9 * 1.03 * NS_PER_S
    assert [t.action for w in broken for t in w.transitions] == ["sensor_bad"]
    assert sum(e.kind == "gap" for e in events) > 380
    other = [w for w in windows if w.sensor_id == "m/b"]
    assert len(other) > 400
    assert all(w.health.ok for w in other)
    reference, _ = drive(build_monitor(SETTINGS, Fleet(), engine), chunks, 64)
    assert [(w.sensor_id, w.window_end_ns, w.status, w.health) for w in windows] == [
        (w.sensor_id, w.window_end_ns, w.status, w.health) for w in reference
    ]


def test_a_clock_that_steps_back_is_named_and_never_silent(engine):
    back = stream("m/a", 300, start_s=-1800 + 200, first=200)
    chunks = [
        chunk
        for pair in itertools.zip_longest([*stream("m/a", 200), *back], stream("m/b", 500))
        for chunk in pair
        if chunk is not None
    ]
    monitor = build_monitor(SETTINGS, Fleet(), engine)
    windows, events = drive(monitor, chunks)
    mine = [w for w in windows if w.sensor_id == "m/a"]
    assert [e.kind for e in events] == ["clock_step"]
    faulty = [w for w in mine if not w.health.ok]
    assert [w.health.faults for w in faulty] == [("clock_step",)]
    assert "jumped by -1800.000 s" in faulty[0].health.detail
    assert faulty[0] is min(mine, key=lambda w: w.window_end_ns)
    assert mine[-1].status == "ok"
    assert len(mine) > 450


def test_alarm_delays_count_on_after_a_clock_has_stepped_back(engine):
    rng = np.random.default_rng(8)
    level = [1.0 if i < 70 else 3.0 for i in range(110)]
    at_s = [10.0 * i - (1800.0 if i >= 60 else 0.0) for i in range(110)]
    chunks = [capture("m/a", i, noise(rng, level[i]), at_s=at_s[i]) for i in range(110)]
    windows, _ = drive(build_monitor(SETTINGS, Fleet(), engine), chunks)
    transitions = [t for w in windows for t in w.transitions]
    assert [t.action for t in transitions] == [
        "learnt", "sensor_bad", "sensor_good", "raise",
    ]  # fmt: skip
    assert [t.at_ns for t in transitions] == sorted({t.at_ns for t in transitions})
    raised = next(i for i, w in enumerate(windows) if w.status == "alarm")
    assert raised == 74  # as soon as without the step


def test_a_device_that_restarts_with_an_older_clock_unlearns_nothing(engine):
    rng = np.random.default_rng(9)
    at_s = [10.0 * i - (1800.0 if i >= 20 else 0.0) for i in range(60)]
    chunks = [
        dataclasses.replace(capture("m/a", i, noise(rng), at_s=at_s[i]), epoch=i // 20)
        for i in range(60)
    ]
    settings = load(
        {}, profile="accelerated", learning={"min_windows": 32, "min_span_s": 320.0, "patience": 1}
    )
    windows, _ = drive(build_monitor(settings, Fleet(), engine), chunks)
    scored = [i for i, w in enumerate(windows) if w.drift and w.drift.learning_pct == 100.0]
    assert scored[0] in range(33, 38)


def test_a_silence_after_a_clock_step_counts_from_the_last_chunk(engine):
    back = list(stream("m/a", 60, start_s=-1800 + 60, first=60))
    others = list(stream("m/b", 600))
    chunks = [
        chunk
        for pair in itertools.zip_longest([*stream("m/a", 60), *back], others)
        for chunk in pair
        if chunk is not None
    ]
    windows, _ = drive(build_monitor(SETTINGS, Fleet(), engine), chunks)
    silent = [w for w in windows if w.health.faults == ("silent",)]
    assert [w.sensor_id for w in silent] == ["m/a"]
    assert silent[0].window_end_ns / NS_PER_S - 1_700_000_000 == pytest.approx(240, abs=3)
    assert silent[0].health.detail == "no data for more than 120 s: check sensor, cable and gateway"


def test_late_chunks_are_events_and_leave_the_sensor_as_it_is(engine):
    chunks = list(stream("m/a", 40))
    late = [dataclasses.replace(chunk, seq=chunk.seq - 40) for chunk in chunks[3:6]]
    windows, events = drive(
        build_monitor(SETTINGS, Fleet(), engine), [*chunks[:30], *late, *chunks[30:]]
    )
    assert [e.kind for e in events] == ["late"] * 3
    assert all(w.health.ok for w in windows)


def test_one_bad_stamp_neither_blinds_the_plant_nor_dates_its_alarms(engine):
    rng = np.random.default_rng(25)
    year_s = 365 * 86_400
    chunks = []
    for i in range(100):
        at_s = 10.0 * i + (year_s if i == 45 else 0)
        chunks.append(capture("m/a", i, noise(rng, 3.0 if i >= 60 else 1.0), at_s=at_s))
        if i < 70:
            chunks.append(capture("m/b", i, noise(rng)))
    windows, events = drive(build_monitor(SETTINGS, Fleet(), engine), chunks)
    assert [e.kind for e in events] == ["clock_step"]
    assert max(w.window_end_ns for w in windows) < (1_700_000_000 + 2000) * NS_PER_S
    assert any(t.after == "alarm" for w in windows if w.sensor_id == "m/a" for t in w.transitions)
    assert [w for w in windows if w.sensor_id == "m/b"][-1].health.faults == ("silent",)


def test_no_sensor_is_silent_before_its_first_sample(engine):
    rng = np.random.default_rng(30)
    day_s = 86_400.0
    chunks = [capture("m/a", i, noise(rng), at_s=10.0 * i) for i in range(5)]
    for i in range(5):
        chunks += [capture(f"m/{s}", i, noise(rng), at_s=3 * day_s + 10.0 * i) for s in "bc"]
    windows, _ = drive(build_monitor(SETTINGS, Fleet(), engine), chunks)
    assert {w.sensor_id for w in windows if "silent" in w.health.faults} <= {"m/a"}
