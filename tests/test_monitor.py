import dataclasses
import itertools

import numpy as np
import pytest
import torch

from echo_model.echo import Echo
from echo_model.engine import EchoEngine
from pipeline import simulate
from pipeline.assembly import build_monitor
from pipeline.fleet import Fleet, parse_fleet
from pipeline.messages import NS_PER_S, Flags, SensorChunk
from pipeline.settings import load
from pipeline.state import pack, unpack

SETTINGS = load({}, profile="accelerated", learning={"min_windows": 32})
RATE = 8000.0


@pytest.fixture(scope="module")
def engine():
    torch.set_num_threads(1)
    return EchoEngine(Echo.from_pretrained("nano"))


@pytest.fixture(scope="module")
def plant():
    return simulate.demo_plant(3, hours=0.75, every_s=30.0)


def capture(sensor, i, samples, *, every_s=10.0, unit="g", rate=RATE, at_s=None):
    start = 1_700_000_000 * NS_PER_S + round((i * every_s if at_s is None else at_s) * NS_PER_S)
    return SensorChunk(
        sensor, rate, start, samples.astype(np.float32), seq=i, unit=unit,
        flags=Flags.END_OF_CAPTURE,
    )  # fmt: skip


def noise(rng, level=1.0, n=8000):
    return level * rng.normal(size=n)


def drive(monitor, chunks, size=16):
    stream, windows, events = iter(chunks), [], []
    while batch := list(itertools.islice(stream, size)):
        done = monitor.process(batch)
        windows += done.windows
        events += done.events
    done = monitor.flush()
    return windows + list(done.windows), events + list(done.events)


def close(a, b, tolerance=1e-4):
    """Equal records, floats within a tolerance."""
    if dataclasses.is_dataclass(a):
        fields = dataclasses.fields(a)
        return all(close(getattr(a, f.name), getattr(b, f.name), tolerance) for f in fields)
    if isinstance(a, float):
        return a == pytest.approx(b, rel=tolerance, abs=tolerance, nan_ok=True)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(close(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key], tolerance) for key in a)
    return a == b


@pytest.mark.parametrize("size", [1, 7, 500])
def test_batch_size_changes_nothing(engine, plant, size):
    fleet = parse_fleet(plant.fleet_yaml, "fleet.yaml")
    expected, _ = drive(build_monitor(SETTINGS, fleet, engine), plant.chunks(), 64)
    found, _ = drive(build_monitor(SETTINGS, fleet, engine), plant.chunks(), size)
    assert len(found) == len(expected) > 400
    assert all(close(a, b) for a, b in zip(found, expected, strict=True))
    assert any(window.transitions for window in found)


def test_a_restored_monitor_goes_on_as_if_nothing_had_happened(engine, plant):
    fleet = parse_fleet(plant.fleet_yaml, "fleet.yaml")
    chunks = list(plant.chunks())
    expected, _ = drive(build_monitor(SETTINGS, fleet, engine), chunks)
    for cut in (5, 150, 301):
        first, second = (build_monitor(SETTINGS, fleet, engine) for _ in range(2))
        found = list(first.process(chunks[:cut]).windows)
        states = {
            name: (unpack(pack(s.export_live())), unpack(pack(s.export_baseline())))
            for name, s in first.sensors.items()
        }
        second.import_state(unpack(pack(first.export_state())), states)
        rest, _ = drive(second, chunks[cut:])
        assert all(close(a, b) for a, b in zip(found + rest, expected, strict=True))


def test_a_stopped_machine_neither_learns_nor_alarms(engine):
    rng = np.random.default_rng(0)
    runs = [bool((i // 20) % 2) for i in range(240)]
    chunks = [capture("m/a", i, noise(rng, 1.0 if run else 0.001)) for i, run in enumerate(runs)]
    windows, _ = drive(build_monitor(SETTINGS, Fleet(), engine), chunks)
    late = windows[100:]
    assert [w.running for w in late] == runs[100:]
    assert {w.status for w in late if not w.running} == {"stopped"}
    assert {w.status for w in late if w.running} == {"ok"}
    assert not any(w.drift for w in late if not w.running)


def test_an_unbelievable_window_is_neither_scored_nor_learnt_and_reads_unknown(engine):
    rng = np.random.default_rng(1)
    chunks = [capture("m/a", i, noise(rng)) for i in range(60)]
    for i in (10, 50):
        chunks[i] = capture("m/a", i, np.full(8000, 0.25))
    windows, _ = drive(build_monitor(SETTINGS, Fleet(), engine), chunks)
    for i in (10, 50):
        assert windows[i].status == "unknown"
        assert windows[i].drift is None
        assert "flatline" in windows[i].health.faults
    assert windows[11].drift.baseline_n == 11


def test_a_louder_machine_alarms_and_the_level_is_named(engine):
    rng = np.random.default_rng(2)
    chunks = [capture("m/a", i, noise(rng, 1.0 if i < 60 else 3.0)) for i in range(80)]
    windows, _ = drive(build_monitor(SETTINGS, Fleet(), engine), chunks)
    raised = [t for w in windows for t in w.transitions if t.after == "alarm"]
    assert len(raised) == 1
    assert raised[0].at_ns == windows[64].window_end_ns
    assert windows[-1].drift.level_ratio == pytest.approx(3.0, rel=0.1)


def test_a_silent_sensor_becomes_unknown_when_the_others_move_on(engine):
    rng = np.random.default_rng(3)
    chunks = sorted(
        [capture("m/a", i, noise(rng)) for i in range(100) if i < 40 or i >= 80]
        + [capture("m/b", i, noise(rng)) for i in range(100)],
        key=lambda chunk: (chunk.start_ns, chunk.sensor_id),
    )
    windows, _ = drive(build_monitor(SETTINGS, Fleet(), engine), chunks)
    silent = [w for w in windows if w.health.faults == ("silent",)]
    assert [(w.sensor_id, w.status) for w in silent] == [("m/a", "unknown")]
    assert silent[0].window_end_ns == (1_700_000_000 + 391 + 120) * NS_PER_S
    assert {w.status for w in windows if w.sensor_id == "m/b" and w.drift} <= {"learning", "ok"}
    assert windows[-2].status == windows[-1].status == "ok"


def test_a_new_sample_rate_starts_a_new_baseline(engine):
    rng = np.random.default_rng(4)
    chunks = [capture("m/a", i, noise(rng)) for i in range(50)]
    chunks += [capture("m/a", i, noise(rng, n=16_000), rate=16_000.0) for i in range(50, 100)]
    windows, events = drive(build_monitor(SETTINGS, Fleet(), engine), chunks)
    assert [e.kind for e in events] == ["rate_change"]
    scored = [w for w in windows if w.drift]
    first = next(i for i, w in enumerate(scored) if len(w.drift.band_edges_hz) == 7)
    assert scored[first].drift.baseline_n == 1
    assert scored[-1].drift.learning_pct == 100.0
    assert not any(t.after == "alarm" for w in windows for t in w.transitions)


def test_a_baseline_of_another_model_is_refused(engine):
    rng = np.random.default_rng(5)
    first = build_monitor(SETTINGS, Fleet(), engine)
    drive(first, [capture("m/a", 0, noise(rng))])
    sensor = first.sensors["m/a"]
    baseline = {**sensor.export_baseline(), "model_id": "another"}
    with pytest.raises(ValueError, match="belongs to model another"):
        build_monitor(SETTINGS, Fleet(), engine).import_state(
            first.export_state(), {"m/a": (sensor.export_live(), baseline)}
        )


def test_scale_and_unit_of_the_numbers_do_not_matter_for_the_score(engine):
    rng = np.random.default_rng(6)
    signals = [noise(rng) for _ in range(60)]
    found = []
    for factor in (1.0, 1000.0):
        chunks = [capture("m/a", i, factor * x) for i, x in enumerate(signals)]
        windows, _ = drive(build_monitor(SETTINGS, Fleet(), engine), chunks)
        found.append([w.drift.score for w in windows if w.status == "ok" and w.drift.ratios])
    assert len(found[0]) > 20
    # A gain is a power of two: levels differ by at most 3 dB inside the encoder.
    assert np.median(np.abs(np.subtract(*found))) < 1.0


def stream(sensor, seconds, *, start_s=0.0, slower=0.0, unit="g", signal=None, first=0):
    """Continuous chunks of 1 s; their stamps may pass faster than their samples."""
    rng = np.random.default_rng(first)
    for i in range(seconds):
        samples = noise(rng) if signal is None else signal(np.arange(8000 * i, 8000 * (i + 1)))
        at_ns = 1_700_000_000 * NS_PER_S + round((start_s + i * (1 + slower)) * NS_PER_S)
        yield SensorChunk(
            sensor, RATE, at_ns, samples.astype(np.float32), seq=first + i, unit=unit
        )  # fmt: skip


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
    assert silent[0].health.detail == "no data for 120 s: check sensor, cable and gateway"


def test_late_chunks_are_events_and_leave_the_sensor_as_it_is(engine):
    chunks = list(stream("m/a", 40))
    late = [dataclasses.replace(chunk, seq=chunk.seq - 40) for chunk in chunks[3:6]]
    windows, events = drive(
        build_monitor(SETTINGS, Fleet(), engine), [*chunks[:30], *late, *chunks[30:]]
    )
    assert [e.kind for e in events] == ["late"] * 3
    assert all(w.health.ok for w in windows)


def test_a_machine_that_first_stops_after_learning_is_stopped_not_ill(engine):
    rng = np.random.default_rng(20)
    levels = [1.0] * 60 + [0.002] * 30 + [1.0] * 20
    chunks = [capture("m/a", i, noise(rng, level)) for i, level in enumerate(levels)]
    windows, _ = drive(build_monitor(SETTINGS, Fleet(), engine), chunks)
    assert {w.status for w in windows[60:90]} == {"stopped"}
    assert windows[-1].status == "ok"
    assert not any(
        t.after in ("advisory", "alert", "alarm") for w in windows for t in w.transitions
    )


def test_one_window_at_another_rate_or_unit_costs_no_baseline(engine):
    rng = np.random.default_rng(21)
    chunks = [capture("m/a", i, noise(rng)) for i in range(80)]
    chunks[50] = capture("m/a", 50, noise(rng, n=16_000), rate=16_000.0)
    chunks[60] = capture("m/a", 60, noise(rng), unit="m/s2")
    windows, _ = drive(build_monitor(SETTINGS, Fleet(), engine), chunks)
    assert [w.drift is None for w in windows[50:53]] == [True, True, False]
    assert windows[60].drift is None
    assert windows[-1].status == "ok"
    assert windows[-1].drift.baseline_n == windows[45].drift.baseline_n


def test_another_unit_for_good_is_learnt_anew_and_no_alarm(engine):
    rng = np.random.default_rng(22)
    chunks = [capture("m/a", i, noise(rng)) for i in range(50)]
    chunks += [capture("m/a", i, 9.81 * noise(rng), unit="m/s2") for i in range(50, 100)]
    windows, _ = drive(build_monitor(SETTINGS, Fleet(), engine), chunks)
    assert not any(
        t.after in ("advisory", "alert", "alarm") for w in windows for t in w.transitions
    )
    assert windows[-1].drift.learning_pct == 100.0
    assert windows[-1].drift.level_ratio == pytest.approx(1.0, abs=0.1)


def test_windows_of_another_length_are_not_compared(engine):
    rng = np.random.default_rng(23)
    chunks = [capture("m/a", i, noise(rng)) for i in range(50)]
    chunks += [capture("m/a", i, noise(rng, n=2000)) for i in range(50, 70)]
    windows, _ = drive(build_monitor(SETTINGS, Fleet(), engine), chunks)
    assert all(w.drift is None for w in windows[50:])
    assert not any(
        t.after in ("advisory", "alert", "alarm") for w in windows for t in w.transitions
    )


@pytest.mark.parametrize("factor", [1e20, 1e-40])
def test_numbers_no_machine_makes_stop_nothing(engine, factor):
    rng = np.random.default_rng(24)
    chunks = []
    for i in range(60):
        bad = factor if 45 <= i < 48 else 1.0
        chunks += [capture("m/a", i, bad * noise(rng)), capture("m/b", i, noise(rng))]
    windows, _ = drive(build_monitor(SETTINGS, Fleet(), engine), chunks)
    assert sum(w.sensor_id == "m/b" and w.health.ok for w in windows) == 60
    of_a = [w for w in windows if w.sensor_id == "m/a"]
    assert all(w.drift is None for w in of_a[45:48])
    assert of_a[-1].status == "ok"


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


def test_a_level_that_jumps_says_that_a_standing_machine_may_have_been_learnt(engine):
    rng = np.random.default_rng(26)
    chunks = [capture("m/a", i, noise(rng, 0.01 if i < 60 else 2.0)) for i in range(80)]
    windows, _ = drive(build_monitor(SETTINGS, Fleet(), engine), chunks)
    (raised,) = [t for w in windows for t in w.transitions if t.after == "alarm"]
    assert "declare its running level" in raised.why
