import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.assembly import build_sensor
from pipeline.fleet import Fleet
from pipeline.messages import NS_PER_S, Flags, SensorChunk
from pipeline.monitor import Monitor
from pipeline.pace import Pace
from pipeline.settings import load
from pipeline.silence import SilenceWatch

# Sensors whose rhythm is known at once, but for the tests of those that are new.
SETTINGS = load(
    {}, profile="accelerated", learning={"min_windows": 16}, windows={"first_silence_s": 0.0}
)
NEW = load({}, profile="accelerated")
WAIT_S = SETTINGS.windows.min_silence_s
FIRST_S = NEW.windows.first_silence_s
T0 = 1_700_000_000 * NS_PER_S
END_NS = T0 + 60_000 * NS_PER_S
SENSORS = ("m/a", "m/b", "n/c")
STEPS = [1.0, 10.0, 10.0, 11.0, 60.0, WAIT_S - 0.5, WAIT_S + 0.5, 1.05 * WAIT_S, 400.0, 2000.0]
NOISE = np.random.default_rng(0).normal(size=(64, 500)).astype(np.float32)


class Levels:
    """A tiny encoder: log energies of four parts."""

    model_id, trained = "levels", True

    def embed(self, samples, sample_rates_hz, gains=None):
        del sample_rates_hz, gains
        parts = [np.array_split(x.astype(np.float32), 4) for x in samples]
        return [np.log([[np.mean(p**2), 1.0] for p in four]).astype(np.float32) for four in parts]

    def band_edges_hz(self, sample_rate_hz):
        edges = np.linspace(0, sample_rate_hz / 2, 5).tolist()
        return tuple(itertools.pairwise(edges))


def new_monitor(group_of=lambda _id: 0, given=SETTINGS):
    encoder = Levels()
    return Monitor(encoder, lambda s: build_sensor(Fleet().sensor(s), given, encoder), group_of)


def capture(sensor, i, at_s):
    return SensorChunk(
        sensor, 2000.0, T0 + round(at_s * NS_PER_S), NOISE[i % 64], seq=i,
        flags=Flags.END_OF_CAPTURE,
    )  # fmt: skip


@st.composite
def plants(draw):
    """Sensor -> (number, time in s) of its bursts, with pauses in between."""
    plant = {}
    for sensor in SENSORS:
        at_s = [draw(st.sampled_from([0.0, 5.0, 1000.0]))]
        runs = st.tuples(st.sampled_from(STEPS), st.integers(2, 6))
        # The first two bursts wait for the third, see `Windower`.
        for step, times in draw(st.lists(runs, min_size=1, max_size=4)):
            at_s += [at_s[-1] + step * (i + 1) for i in range(times)]
        plant[sensor] = list(enumerate(at_s))
    return plant


def merged(plant, rng):
    """The streams of all sensors as one; nobody is overtaken by more than a tenth of the wait."""
    keyed = []
    for sensor, bursts in plant.items():
        newest_s = 0.0
        for i, at_s in bursts:
            newest_s = max(newest_s, at_s + rng.uniform(0, 0.1 * WAIT_S))
            keyed.append((newest_s, sensor, i, at_s))
    return [capture(sensor, i, at_s) for _, sensor, i, at_s in sorted(keyed)]


def told(monitors, chunks, sizes):
    """Sensor -> what was told of it, in order: window ends, faults, transitions."""
    results = []
    for monitor, mine in zip(monitors, chunks, strict=True):
        stream = iter(mine)
        while batch := list(itertools.islice(stream, next(sizes))):
            results += monitor.process(batch).windows
        results += monitor.flush().windows
        for group in ("x", "y", "z", 0):
            results += monitor.tick(group, END_NS).windows
    found = {sensor: [] for sensor in SENSORS}
    for w in results:
        ids = [t.transition_id for t in w.transitions]
        found[w.sensor_id].append((w.window_end_ns, w.health.faults, w.status, ids))
    return found


@given(plants(), st.integers(0, 1 << 30), st.tuples(*[st.sampled_from("xyz")] * 3))
@settings(max_examples=60, deadline=None)
def test_what_is_told_of_a_sensor_depends_on_its_own_stream_only(plant, seed, groups):
    rng = np.random.default_rng(seed)
    alone = [{sensor: chunks} for sensor, chunks in plant.items()]
    expected = told([new_monitor() for _ in alone], [merged(p, rng) for p in alone],
                    itertools.repeat(1))  # fmt: skip
    sizes = iter(lambda: int(rng.integers(1, 20)), 0)
    assert told([new_monitor()], [merged(plant, rng)], sizes) == expected
    group_of = dict(zip(SENSORS, groups, strict=True)).__getitem__
    assert told([new_monitor(group_of)], [merged(plant, rng)], sizes) == expected
    split = [{s: plant[s] for s in SENSORS if (group_of(s) == "x") == one} for one in (True, False)]
    found = told([new_monitor(group_of) for _ in split], [merged(p, rng) for p in split], sizes)
    assert found == expected


def test_a_partition_that_is_caught_up_makes_nobody_of_another_silent():
    monitor = new_monitor(group_of=lambda sensor: sensor[0])
    for i in range(5):
        monitor.process([capture("m/a", i, 10.0 * i)])
    done = monitor.process([capture("n/c", i, 86_400.0 * 3 + 10.0 * i) for i in range(50)])
    assert {w.sensor_id for w in done.windows} == {"n/c"}
    assert not any("silent" in w.health.faults for w in done.windows)


def silences(every_s, until_s, bursts):
    """Times, s, at which a new sensor counts as silent while others of its partition go on."""
    monitor = new_monitor(given=NEW)
    heard = [("m/a", i, every_s * i) for i in range(bursts)]
    heard += [("n/c", i, 10.0 * i) for i in range(round(until_s / 10.0))]
    stream = [capture(*one) for one in sorted(heard, key=lambda one: one[2])]
    done = monitor.process(stream)
    assert not any("silent" in w.health.faults for w in done.windows if w.sensor_id == "n/c")
    return [
        (w.window_end_ns - T0) / NS_PER_S
        for w in done.windows
        if w.sensor_id == "m/a" and "silent" in w.health.faults
    ]


@pytest.mark.parametrize("every_s", [WAIT_S * 1.5, WAIT_S * 4, FIRST_S * 0.9])
def test_nobody_is_silent_before_its_rhythm_is_known(every_s):
    assert silences(every_s, 5 * every_s, bursts=5) == []
    (told,) = silences(every_s, 9 * every_s, bursts=5)
    assert told == pytest.approx((4 + 3) * every_s, abs=1.0)


def test_a_new_sensor_that_never_speaks_again_is_told_in_the_end():
    (told,) = silences(10.0, 2 * FIRST_S, bursts=3)
    assert told == pytest.approx(20.0 + FIRST_S, abs=1.0)


def test_one_that_sent_for_long_is_silent_after_the_usual_wait():
    (told,) = silences(10.0, 4 * WAIT_S, bursts=1 + round(WAIT_S / 10.0))
    assert told == pytest.approx(2 * WAIT_S, abs=1.0)


def test_bursts_of_a_new_sensor_are_waited_for_until_their_pauses_are_a_habit():
    pace, told = Pace(120.0, 1800.0), []
    for burst in range(6):
        for i in range(8):
            end_ns = T0 + round((1000.0 * burst + i) * NS_PER_S)
            pace.arrive(end_ns, end_ns)
            pace.step(end_ns)
            pace.hear(end_ns)
        told.append(pace.wait_s)
    assert told[:3] == [1800.0] * 3
    assert all(wait_s == pytest.approx(3 * 993.0) for wait_s in told[3:])


def test_a_state_that_knows_no_rhythm_flag_is_of_a_known_sensor():
    pace = Pace(120.0, 1800.0)
    state = pace.export_state()
    assert state.pop("known") is False
    pace.import_state(state)
    assert pace.wait_s == 120.0


def with_hole(chunk, seq):
    """A capture without its middle, as two chunks."""
    third = chunk.samples.size // 3
    late_ns = round(2 * third / chunk.sample_rate_hz * NS_PER_S)
    start_ns = chunk.start_ns + late_ns
    first = replace(chunk, seq=seq, samples=chunk.samples[:third], flags=Flags(0))
    return [first, replace(chunk, seq=seq + 1, samples=chunk.samples[-third:], start_ns=start_ns)]


def test_captures_that_lose_their_middle_stay_unknown_until_one_is_whole():
    monitor, seq, said = new_monitor(), 0, []
    for i in range(60):
        whole = replace(capture("m/a", 0, 10.0 * i), seq=seq, samples=np.tile(NOISE[i], 5))
        parts = [whole] if i < 30 or i == 50 else with_hole(whole, seq)
        seq += len(parts)
        said += [(i, w.status, w.health.faults) for w in monitor.process(parts).windows]
    said += [(60, w.status, w.health.faults) for w in monitor.flush().windows]
    told = [status for _, status, _ in said]
    assert told[told.index("ok") :].count("learning") == 0
    broken = {(status, faults) for i, status, faults in said if 32 < i < 50}
    assert broken == {("unknown", ("gap",))}
    assert ("ok", ()) in {(status, faults) for i, status, faults in said if i >= 50}


def test_a_clock_outside_tells_a_silence_as_another_sensor_would():
    found = []
    for other in (False, True):
        monitor = new_monitor()
        monitor.process([capture("m/a", i, 10.0 * i) for i in range(5)])
        assert not monitor.tick(0, T0 + round((40 + WAIT_S) * NS_PER_S)).windows
        late_s = 41 + 1.11 * WAIT_S
        if other:
            done = monitor.process([capture("m/b", i, late_s + i) for i in range(3)])
        else:
            done = monitor.tick(0, T0 + round(late_s * NS_PER_S))
        found.append([w for w in done.windows if w.sensor_id == "m/a"])
    assert found[0] == found[1]
    assert [w.health.faults for w in found[0]] == [("silent",)]
    assert found[0][0].window_end_ns == T0 + round((40.25 + WAIT_S) * NS_PER_S)


def test_a_silence_is_told_once():
    monitor = new_monitor()
    monitor.process([capture("m/a", i, 10.0 * i) for i in range(5)])
    far_ns = T0 + 9000 * NS_PER_S
    assert len(monitor.tick(0, far_ns).windows) == 1
    assert not monitor.tick(0, 2 * far_ns).windows
    done = monitor.process([capture("m/a", 5, 9000.0)])
    assert [w.health.faults for w in done.windows] == [()]


def test_ticks_of_a_group_without_sensors_do_nothing():
    monitor = new_monitor()
    assert not monitor.tick("nowhere", T0).windows
    monitor.process([capture("m/a", i, 10.0 * i) for i in range(3)])
    monitor.drop(["m/a"])
    assert not monitor.sensors
    assert not monitor.tick(0, T0 + 10**4 * NS_PER_S).windows


def test_a_sensor_whose_clock_is_late_is_not_silent_while_it_sends():
    monitor = new_monitor()
    windows = []
    for i in range(100):
        done = monitor.process([capture("m/a", i, 10.0 * i - 3600.0)])
        windows += done.windows
        windows += monitor.tick(0, T0 + 10 * i * NS_PER_S).windows
    assert not any("silent" in w.health.faults for w in windows[3:])
    assert [w.health.faults for w in monitor.tick(0, T0 + 2000 * NS_PER_S).windows] == [("silent",)]


def test_a_sensor_that_is_merged_a_little_late_is_not_silent():
    early = [capture("m/b", i, float(i)) for i in range(round(1.08 * WAIT_S))]
    late = capture("m/a", 3, 2.0 + 0.99 * WAIT_S)
    chunks = [*(capture("m/a", i, float(i)) for i in range(3)), *early, late]
    monitor = new_monitor()
    done = [w for chunk in chunks for w in monitor.process([chunk]).windows]
    assert all(w.health.ok for w in done)
    assert done[-1].sensor_id == "m/a"


def test_windows_that_come_with_the_end_of_the_stream_have_no_silence_between_them():
    monitor = new_monitor()
    monitor.process([capture("m/a", i, float(i)) for i in range(2)])
    monitor.process([capture("m/b", i, 60.0 * i) for i in range(6)])
    windows = [w for w in monitor.flush().windows if w.sensor_id == "m/a"]
    assert [w.health.faults for w in windows] == [(), ()]


def test_a_partition_that_comes_back_is_waited_for_anew():
    monitor = new_monitor()
    for i in range(5):
        monitor.process([capture("m/a", i, 10.0 * i), capture("m/b", i, 10.0 * i)])
    deadline_ns = monitor.sensors["m/a"].deadline_ns
    monitor.drop(["m/a"])
    monitor.expect("m/a", deadline_ns, deadline_ns)
    monitor.process([capture("m/a", i, 10.0 * i) for i in range(5, 10)])
    done = monitor.tick(0, T0 + 10**4 * NS_PER_S)
    assert {w.sensor_id for w in done.windows} == {"m/a", "m/b"}


def test_the_time_of_a_group_that_was_dropped_is_forgotten():
    monitor = new_monitor()
    monitor.process([capture("m/a", i, 10_000.0 + i) for i in range(5)])
    monitor.drop(["m/a"])
    monitor.process([capture("m/b", i, float(i)) for i in range(5)])
    own_end_ns = T0 + round(4.25 * NS_PER_S)
    assert monitor.sensors["m/b"].deadline_ns == own_end_ns + round(WAIT_S * NS_PER_S)


def test_a_lost_burst_of_a_rare_sender_is_no_silence():
    chunks = [capture("m/a", i, 600.0 * i) for i in range(12)]
    others = [capture("m/b", i, 30.0 * i) for i in range(12 * 20)]
    del chunks[6]
    both = sorted([*chunks, *others], key=lambda chunk: chunk.start_ns)
    monitor, windows = new_monitor(), []
    for chunk in both:
        windows += monitor.process([chunk]).windows
    told = [(w.window_end_ns - T0) // (600 * NS_PER_S) for w in windows if w.sensor_id == "m/a"]
    assert told[-8:] == [3, 4, 5, 7, 8, 9, 10, 11]
    silent = [w for w in windows if w.sensor_id == "m/a" and w.health.faults == ("silent",)]
    assert all(w.window_end_ns < T0 + 1200 * NS_PER_S for w in silent)


def test_sensors_in_a_store_are_restored_when_they_are_due():
    first = new_monitor()
    first.process([capture("m/a", i, 10.0 * i) for i in range(20)])
    known = first.sensors["m/a"]
    baseline = known.export_baseline()
    made = []

    def restored(sensor_id):
        made.append(sensor_id)
        sensor = build_sensor(Fleet().sensor(sensor_id), SETTINGS, Levels())
        sensor.import_state(known.export_live(), baseline)
        return sensor

    second = Monitor(Levels(), restored)
    second.expect("m/a", known.deadline_ns, known.deadline_ns - round(WAIT_S * NS_PER_S))
    assert not second.tick(0, known.deadline_ns - 1).windows
    assert not made
    done = second.tick(0, known.overdue_ns + 1)
    assert done == first.tick(0, known.overdue_ns + 1)
    assert made == ["m/a"]
    assert known.deadline_ns == 0


def test_dropped_sensors_leave_those_of_the_group_that_stay():
    monitor = new_monitor()
    for i in range(5):
        monitor.process([capture("m/a", i, 10.0 * i), capture("m/b", i, 10.0 * i)])
    monitor.drop(["m/a"])
    assert set(monitor.sensors) == {"m/b"}
    done = monitor.tick(0, T0 + 10**4 * NS_PER_S)
    assert [w.sensor_id for w in done.windows] == ["m/b"]


@pytest.mark.parametrize("stage", [SilenceWatch(), Pace(10.0)])
def test_a_state_of_another_version_is_refused(stage):
    with pytest.raises(ValueError, match="state version must be"):
        stage.import_state({**stage.export_state(), "version": 99})
