import itertools
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.alarms import AlarmLogic
from pipeline.baseline import Baseline
from pipeline.drift import Evidence
from pipeline.health import SensorHealthCheck
from pipeline.messages import NS_PER_S, Flags, SensorChunk, Severity
from pipeline.monitor import Monitor
from pipeline.persistence import SeverityRule
from pipeline.reference import TAIL_ROWS
from pipeline.running import RunningGate
from pipeline.sensor import SensorMonitor, rewound
from pipeline.state import pack, unpack
from pipeline.windows import Windower

T0 = 1_700_000_000 * NS_PER_S
QUICK = SeverityRule(on_windows=3, of_windows=4, on_delay_s=0.0, latch=True)
NOISE = np.random.default_rng(0).normal(size=(256, 400)).astype(np.float32)


class Levels:
    """A tiny encoder: log energies of four parts."""

    model_id, trained = "levels", True

    def embed(self, samples, sample_rates_hz, gains=None):
        del sample_rates_hz
        found = []
        for x, gain in zip(samples, gains, strict=True):
            parts = np.array_split(gain * x.astype(np.float32), 4)
            found.append(np.log([[np.mean(p**2), 1.0] for p in parts]).astype(np.float32))
        return found

    def band_edges_hz(self, sample_rate_hz):
        return tuple(itertools.pairwise(np.linspace(0, sample_rate_hz / 2, 5).tolist()))


def new_sensor(sensor_id="m/a", model_id="levels"):
    """A sensor whose bank of 48 is thinned before its 160 windows are learnt."""
    return SensorMonitor(
        sensor_id,
        "m",
        windower=Windower(sensor_id),
        health=SensorHealthCheck(),
        alarms=AlarmLogic(sensor_id, "m", rules={Severity.ALARM: QUICK}),
        gate=RunningGate,
        baseline=partial(Baseline, min_windows=160, bank_size=48),
        evidence=Evidence,
        model_id=model_id,
        trained=True,
    )


def new_monitor(sensors=None):
    sensors = sensors or {}
    return Monitor(Levels(), lambda name: sensors.get(name) or new_sensor(name))


def capture(i, level=1.0, *, rate=2000.0, at_s=None):
    start_ns = T0 + round((10.0 * i if at_s is None else at_s) * NS_PER_S)
    return SensorChunk(
        "m/a", rate, start_ns, np.float32(level) * NOISE[i % 256], seq=i, flags=Flags.END_OF_CAPTURE
    )


def life():
    """Learning with stops that are forgotten, thinning, freezing, an alarm, another rate."""
    for i in range(260):
        yield capture(i, 0.001 if 20 <= i < 60 or 250 <= i < 255 else 1.0)
    for i in range(260, 280):
        yield capture(i, 4.0)
    for i in range(280, 330):
        yield capture(i, rate=4000.0)


class Folder:
    """What is stored of a sensor: the baseline only when it is due."""

    def __init__(self):
        self.baseline, self.full = None, 0

    def save(self, sensor):
        if sensor.baseline_changed:
            self.baseline, self.full = pack(sensor.export_baseline()), self.full + 1
        self.live = pack(sensor.export_live())

    def load(self):
        sensor = new_sensor()
        sensor.import_state(unpack(self.live), self.baseline and unpack(self.baseline))
        return sensor


def seen(done):
    """Everything of a result that a difference would show in; nan is equal to nan."""
    return repr(done.windows), done.events, [(s.kind, s.amplitude.tolist()) for s in done.spectra]


EXPECTED = []


def expected():
    if not EXPECTED:
        monitor = new_monitor()
        EXPECTED.extend(seen(monitor.process([chunk])) for chunk in life())
    return EXPECTED


def test_the_life_has_what_a_state_must_survive():
    words = "".join(windows for windows, *_ in expected())
    for action in ("learnt", "raise", "stop"):
        assert f"action='{action}'" in words
    kinds = {kind for *_, spectra in expected() for kind, _ in spectra}
    assert kinds == {"healthy", "alarm"}


@given(st.sets(st.integers(0, 329), min_size=1, max_size=30), st.sets(st.integers(0, 329)))
@settings(max_examples=40, deadline=None)
def test_a_restored_sensor_goes_on_as_if_nothing_had_happened(restores, saves):
    monitor, folder = new_monitor(), Folder()
    for i, chunk in enumerate(life()):
        assert seen(monitor.process([chunk])) == expected()[i]
        if i in saves or i in restores:
            folder.save(monitor.sensors["m/a"])
        if i in restores:
            before, state = monitor.sensors["m/a"], monitor.export_state()
            sensor = folder.load()
            assert sensor.baseline_changed == before.baseline_changed
            assert pack(sensor.export_live()) == folder.live
            monitor = new_monitor({"m/a": sensor})
            monitor.import_state(state, {})


def test_the_baseline_is_written_rarely():
    monitor, folder = new_monitor(), Folder()
    for i, chunk in enumerate(life()):
        monitor.process([chunk])
        folder.save(monitor.sensors["m/a"])
        if i in (TAIL_ROWS - 1, TAIL_ROWS):
            assert folder.full == i - TAIL_ROWS + 1
    assert folder.full < 12


def test_a_baseline_of_cosine_distances_is_read_and_due_to_be_written_anew():
    sensor = until_alarm().sensors["m/a"]
    baseline = unpack(pack(sensor.export_baseline()))
    live = sensor.export_live()
    baseline["bank"]["version"] = 2
    restored = new_sensor()
    restored.import_state(live, baseline)
    assert restored.baseline_changed
    with pytest.raises(RuntimeError, match="call export_baseline before"):
        restored.export_live()
    assert restored.export_baseline()["bank"]["version"] == 3
    assert not restored.baseline_changed
    restored.export_live()


def test_a_live_state_on_a_void_baseline_is_not_given():
    monitor = new_monitor()
    sensor = None
    for chunk in life():
        monitor.process([chunk])
        sensor = monitor.sensors["m/a"]
        if sensor.about()["baseline"]:
            break
    with pytest.raises(RuntimeError, match="call export_baseline before"):
        sensor.export_live()


def test_states_that_were_not_written_together_are_refused():
    monitor = new_monitor()
    monitor.process([capture(i) for i in range(20)])
    sensor = monitor.sensors["m/a"]
    alone = sensor.export_live()
    first = sensor.export_baseline()
    pair = sensor.export_live(), first
    sensor.export_baseline()
    for live, baseline in [(alone, first), (sensor.export_live(), first), (pair[0], None)]:
        with pytest.raises(ValueError, match="keep what was written together"):
            new_sensor().import_state(live, baseline)
    with pytest.raises(ValueError, match="belongs to model levels"):
        new_sensor(model_id="other").import_state(alone, None)
    with pytest.raises(ValueError, match="version must be"):
        new_sensor().import_state({**alone, "version": 1}, None)
    new_sensor().import_state(*pair)


def test_a_rewound_sensor_keeps_what_was_learnt_and_tells_the_same_again():
    monitor, folder = new_monitor(), Folder()
    chunks = list(life())[:280]
    first = [w for chunk in chunks for w in monitor.process([chunk]).windows]
    folder.save(monitor.sensors["m/a"])
    folder.live = pack(rewound(unpack(folder.live)))
    again = new_monitor({"m/a": folder.load()})
    results = [w for chunk in chunks for w in again.process([chunk]).windows]
    assert len(results) == 280
    assert all(w.drift.learning_pct == 100.0 for w in results if w.drift)
    assert [w.status for w in results[:3]] == ["ok"] * 3
    assert results[30].status == "stopped"
    raised = [t.transition_id for w in results for t in w.transitions if t.action == "raise"]
    assert raised == [t.transition_id for w in first for t in w.transitions if t.action == "raise"]
    assert raised
    with pytest.raises(ValueError, match="version must be"):
        rewound({**unpack(folder.live), "version": 1})


def test_a_rewound_sensor_that_still_learns_keeps_its_windows():
    monitor, folder = new_monitor(), Folder()
    monitor.process([capture(i) for i in range(20)])
    folder.save(monitor.sensors["m/a"])
    folder.live = pack(rewound(unpack(folder.live)))
    done = new_monitor({"m/a": folder.load()}).process([capture(i) for i in range(3)])
    assert [w.drift.baseline_n for w in done.windows] == [21, 22, 23]


def until_alarm():
    monitor = new_monitor()
    for chunk in itertools.islice(life(), 280):
        monitor.process([chunk])
    return monitor


def test_a_rebaselined_sensor_forgets_its_alarm_and_learns_anew():
    monitor = until_alarm()
    sensor, at_ns = monitor.sensors["m/a"], monitor.sensors["m/a"].event_ns
    assert sensor.alarms.status == "alarm"
    sensor.export_baseline()
    assert not sensor.baseline_changed
    (learn,) = monitor.obey("m/a", "rebaseline", "Kim", "new bearing")
    assert (learn.action, learn.before, learn.after) == ("learn", "alarm", "learning")
    assert (learn.by, learn.why) == ("Kim", "new bearing")
    assert at_ns <= learn.at_ns <= at_ns + 1
    assert sensor.baseline_changed
    done = monitor.process([capture(i, 4.0) for i in range(280, 285)])
    assert [w.drift.baseline_n for w in done.windows] == [1, 2, 3, 4, 5]
    assert {w.status for w in done.windows} == {"learning"}


def test_commands_act_at_the_time_the_sensor_has_reached():
    monitor = until_alarm()
    at_ns = T0 + 2790 * NS_PER_S + NS_PER_S // 5
    assert monitor.sensors["m/a"].event_ns == at_ns
    (shelve,) = monitor.obey("m/a", "shelve", "Kim", "spare is coming", shelve_s=3600.0)
    assert shelve.shelved_until_ns == at_ns + 3600 * NS_PER_S
    assert [t.action for t in monitor.obey("m/a", "unshelve", "Kim", "")] == ["unshelve"]
    assert [t.action for t in monitor.obey("m/a", "ack", "Kim", "")] == ["ack"]
    assert monitor.obey("m/a", "ack", "Kim", "") == ()


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("shelve", "shelving must last"), ("unshelve", "not shelved"),
        ("reboot", "must be one of ack"),
    ],
)  # fmt: skip
def test_a_command_that_cannot_be_obeyed_says_why(action, words):
    with pytest.raises(ValueError, match=words):
        until_alarm().obey("m/a", action, "Kim", "because")


def test_rebaseline_without_words_changes_nothing():
    monitor = until_alarm()
    with pytest.raises(ValueError, match="why"):
        monitor.obey("m/a", "rebaseline", "Kim", "")
    assert monitor.sensors["m/a"].about()["baseline"]


def big(windows):
    """A 16 kHz sensor of an encoder with (7, 96) embeddings after so many windows and a half."""
    rng = np.random.default_rng(1)

    class Nano(Levels):
        def embed(self, samples, sample_rates_hz, gains=None):
            del sample_rates_hz, gains
            return [rng.normal(1.0, 0.1, (7, 96)).astype(np.float32) for _ in samples]

        def band_edges_hz(self, sample_rate_hz):
            return tuple(itertools.pairwise(np.linspace(0, sample_rate_hz / 2, 8).tolist()))

    sensor = new_sensor()
    monitor = Monitor(Nano(), lambda _: sensor)
    size = 15_600
    noise = rng.normal(0, 1000, (16, size)).astype(np.int16)
    for i in range(windows + 1):
        part = noise[i % 16] if i < windows else noise[0][: size // 2]
        start_ns = T0 + i * 975_000_000
        monitor.process([SensorChunk("m/a", 16_000.0, start_ns, part, seq=i, encoding="i16")])
    return sensor


@pytest.mark.parametrize(("windows", "most"), [(TAIL_ROWS, 75_000), (400, 32_000)])
def test_a_live_state_is_small(windows, most):
    sensor, folder = big(windows), Folder()
    folder.save(sensor)
    assert len(folder.live) < most
