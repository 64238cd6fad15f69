import dataclasses

import numpy as np
import pytest
import torch

from echo_model.echo import Echo
from echo_model.engine import EchoEngine
from monitor_cases import SETTINGS, capture, drive, noise
from pipeline.assembly import build_monitor
from pipeline.fleet import Fleet, parse_fleet
from pipeline.messages import NS_PER_S, Processed, SensorChunk
from pipeline.monitor import RATES_CACHED
from pipeline.settings import load
from pipeline.simulation import simulate
from pipeline.state import pack, unpack


@pytest.fixture(scope="module")
def engine():
    torch.set_num_threads(1)
    return EchoEngine(Echo.from_pretrained("nano"))


@pytest.fixture(scope="module")
def plant():
    return simulate.demo_plant(3, hours=0.75, every_s=30.0)


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
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return a == b


@pytest.mark.parametrize("size", [1, 7, 500])
def test_batch_size_changes_nothing(engine, plant, size):
    fleet = parse_fleet(plant.fleet_yaml, "fleet.yaml")
    expected, _ = drive(build_monitor(SETTINGS, fleet, engine), plant.chunks(), 64)
    found, _ = drive(build_monitor(SETTINGS, fleet, engine), plant.chunks(), size)
    assert len(found) == len(expected) > 400
    assert all(close(a, b) for a, b in zip(found, expected, strict=True))
    assert any(window.transitions for window in found)


class MeasuringAhead:
    """A monitor that judges each batch only after the next one is measured."""

    def __init__(self, monitor):
        self._monitor = monitor
        self._waiting = None

    def process(self, chunks):
        before, self._waiting = self._waiting, self._monitor.measure(chunks)
        return self._finish(before)

    def flush(self):
        last = self._finish(self._waiting)
        rest = self._monitor.flush()
        return Processed(
            last.windows + rest.windows, last.events + rest.events, last.spectra + rest.spectra
        )

    def _finish(self, batch):
        if batch is None:
            return Processed((), (), ())
        return self._monitor.judge(batch, self._monitor.embed(batch))


@pytest.mark.parametrize("size", [1, 7, 500])
def test_a_batch_may_be_measured_before_the_one_before_is_judged(engine, plant, size):
    fleet = parse_fleet(plant.fleet_yaml, "fleet.yaml")
    expected, _ = drive(build_monitor(SETTINGS, fleet, engine), plant.chunks(), 64)
    ahead = MeasuringAhead(build_monitor(SETTINGS, fleet, engine))
    found, _ = drive(ahead, plant.chunks(), size)
    assert len(found) == len(expected) > 400
    assert all(close(a, b) for a, b in zip(found, expected, strict=True))


def test_a_new_rate_that_waits_for_its_judgement_counts_though_another_was_judged(engine):
    """Rates change twice and learning ends in between: the second change is not judged yet."""
    rng = np.random.default_rng(0)
    parts = [
        (16_000, 6, 1.0),
        (12_800, 6, 1.0),
        (16_000, 1, 1.0),
        (16_000, 4, 0.05),
        (16_000, 4, 1),
    ]
    at_ns, batches = 1_700_000_000 * NS_PER_S, []
    for rate, seconds, level in parts:
        signals = level * rng.standard_normal((10 * seconds, rate // 10)).astype(np.float32)
        steps = (at_ns + i * NS_PER_S // 10 for i in range(len(signals)))
        batches.append([
            SensorChunk("a/b", float(rate), start, signal)
            for start, signal in zip(steps, signals, strict=True)
        ])  # fmt: skip
        at_ns += seconds * NS_PER_S
    settings = load({}, profile="short")
    whole = build_monitor(settings, Fleet(), engine)
    expected = whole.process([chunk for batch in batches for chunk in batch]).windows
    ahead = MeasuringAhead(build_monitor(settings, Fleet(), engine))
    found = [window for batch in batches for window in ahead.process(batch).windows]
    found += ahead.flush().windows
    assert all(close(a, b) for a, b in zip(found, expected, strict=False))
    assert len(found) >= len(expected) > 300


def test_a_restored_monitor_goes_on_as_if_nothing_had_happened(engine, plant):
    fleet = parse_fleet(plant.fleet_yaml, "fleet.yaml")
    chunks = list(plant.chunks())
    expected, _ = drive(build_monitor(SETTINGS, fleet, engine), chunks)
    for cut in (5, 150, 301):
        first, second = (build_monitor(SETTINGS, fleet, engine) for _ in range(2))
        found = list(first.process(chunks[:cut]).windows)
        states = {
            name: (baseline, unpack(pack(s.export_live())))[::-1]
            for name, s in first.sensors.items()
            for baseline in [unpack(pack(s.export_baseline()))]
        }
        second.import_state(unpack(pack(first.export_state())), states)
        rest, _ = drive(second, chunks[cut:])
        assert all(close(a, b) for a, b in zip(found + rest, expected, strict=True))


def test_a_gateway_that_sends_the_rates_it_measures_fills_no_memory(engine):
    monitor = build_monitor(SETTINGS, Fleet(), engine)
    for step in range(2 * RATES_CACHED):
        assert monitor._band_edges(8000.0 + step / 100)
    assert len(monitor._edges) <= RATES_CACHED


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


def test_a_level_that_jumps_says_that_a_standing_machine_may_have_been_learnt(engine):
    rng = np.random.default_rng(26)
    chunks = [capture("m/a", i, noise(rng, 0.01 if i < 60 else 2.0)) for i in range(80)]
    windows, _ = drive(build_monitor(SETTINGS, Fleet(), engine), chunks)
    (raised,) = [t for w in windows for t in w.transitions if t.after == "alarm"]
    assert "declare its running level" in raised.why
