"""What of a sensor's signal is kept for people, and the messages that carry it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.fleet import Fleet
from pipeline.messages import (
    NS_PER_S,
    DriftScore,
    Flags,
    SensorChunk,
    SensorHealth,
    Transition,
    Window,
    WindowResult,
)
from pipeline.pins import AGAIN_NS, CANDIDATES, PLACES, STANDING_NS, Pins
from pipeline.settings import load
from pipeline.snapshots import (
    MAX_SAMPLES,
    SNAPSHOT_FIELDS,
    BadSnapshot,
    key_of,
    keys_of,
    snapshot_from_bytes,
    snapshot_to_bytes,
)
from pipeline.streaming.metrics import Metrics
from pipeline.streaming.signal_stage import SignalStage
from pipeline.streaming.stage import Partition, Received
from pipeline.wire import encode
from point_cases import FLEET
from test_alarm_messages import rows_under
from test_promises import Changelog
from test_sensor_state import Levels, capture, new_monitor, new_sensor

SETTINGS = load({"ECHOWATCH_PROFILE": "accelerated"}, learning={"min_windows": 32})
T0 = 1_700_000_000 * NS_PER_S
PUMP = "mill/pump/de"
NOISE = np.random.default_rng(0).normal(size=(64, 4000)).astype(np.float32)
HEARD = Partition(SETTINGS.kafka.signals[0], 0)


def scored(score=0.5, ratio=0.2, level=1.0):
    return DriftScore(PUMP, T0, "m", 0.1, score, 3.0, level, {"advisory": ratio}, "drift")


def change(action):
    return Transition(f"{PUMP}|1|alarm|{action}", PUMP, "pump", T0, T0, "ok", "alarm", action)


def pinned(samples, **given):
    window = Window(PUMP, 8000.0, T0, 0, samples, **given)
    return WindowResult(
        PUMP, "pump", T0, window.end_ns, "alarm", running=True, drift=scored(),
        health=SensorHealth(PUMP, window.end_ns), pin="now|3", window=window,
    )  # fmt: skip


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ok", "alarm", "learning", "unknown"]),
        st.floats(-3, 9),
        st.floats(0, 3),
        st.sampled_from([(), ("raise",), ("escalate",), ("return",)]),
        st.sampled_from([10 * NS_PER_S, STANDING_NS, AGAIN_NS]),
    ),
    max_size=80,
)


def taken(pins, steps, at_ns=T0):
    for status, score, ratio, actions, step_ns in steps:
        at_ns += step_ns
        drift = scored(score, ratio) if status in ("ok", "alarm") else None
        yield pins.take(at_ns, status, drift, map(change, actions))


@given(STEPS, st.integers(0, 80))
@settings(max_examples=80, deadline=None)
def test_a_restored_sensor_pins_the_same_windows_at_the_same_places(steps, cut):
    whole = list(taken(Pins(), steps))
    before, after = Pins(), Pins()
    first = list(taken(before, steps[:cut]))
    after.import_state(json.loads(json.dumps(before.export_state())))
    at_ns = T0 + sum(step[-1] for step in steps[:cut])
    assert first + list(taken(after, steps[cut:], at_ns)) == whole


@given(STEPS)
@settings(max_examples=80, deadline=None)
def test_only_known_places_are_named_and_only_of_windows_that_were_scored(steps):
    allowed = {f"{kind}|{n}" for kind, count in PLACES.items() for n in range(count)}
    for (status, *_), place in zip(steps, taken(Pins(), steps), strict=True):
        assert place in allowed | {""}
        assert not (place and status in ("learning", "unknown"))
        assert not (place.startswith("healthy") and status != "ok")


def test_health_is_the_window_nearest_to_its_baseline_among_the_first_ones():
    far = [2.0, -1.0, 1.5, 0.25, 0.5] + [3.0] * CANDIDATES + [0.0]
    pins = Pins()
    places = [pins.take(T0 + i, "ok", scored(score), ()) for i, score in enumerate(far)]
    assert [i for i, place in enumerate(places) if place] == [0, 1, 3]
    assert set(places) == {"healthy|0", ""}


def test_a_level_that_differs_is_as_far_from_health_as_a_score():
    pins = Pins()
    assert pins.take(T0, "ok", scored(0.5), ())
    assert not pins.take(T0 + 1, "ok", scored(0.0, level=1.2), ())
    assert pins.take(T0 + 2, "ok", scored(0.0, level=1.02), ())


def test_a_window_over_its_limit_is_never_called_healthy():
    assert not Pins().take(T0, "ok", scored(ratio=1.0), ())


def test_health_is_taken_again_before_it_is_forgotten_and_after_another_baseline():
    pins = Pins()
    for i in range(CANDIDATES):
        pins.take(T0 + i, "ok", scored(), ())
    last_ns = T0 + CANDIDATES - 1
    assert not pins.take(last_ns + AGAIN_NS - 1, "ok", scored(0.0), ())
    assert pins.take(last_ns + AGAIN_NS, "ok", scored(), ()) == "healthy|1"
    pins.forget()
    assert pins.take(last_ns + AGAIN_NS + 1, "ok", scored(), ()) == "healthy|0"


def test_an_episode_has_one_place_and_the_next_one_another():
    pins = Pins()
    raised = pins.take(T0, "advisory", scored(ratio=2), [change("raise")])
    assert pins.take(T0 + 1, "alarm", scored(ratio=4), [change("escalate")]) == raised
    assert not pins.take(T0 + 2, "alarm", scored(ratio=4), ())
    assert pins.take(T0 + 1 + STANDING_NS, "alarm", scored(ratio=4), ()) == raised
    later_ns = T0 + 3 * STANDING_NS
    assert not pins.take(later_ns, "alarm", scored(ratio=0.5), ())  # latched, the machine is well
    assert pins.take(later_ns, "alarm", scored(ratio=2), [change("raise")]) not in ("", raised)


@given(
    st.sampled_from([np.int16, np.int32, np.float32]),
    st.integers(2, 300),
    st.floats(1e-6, 1e3),
    st.floats(-50, 50),
)
@settings(max_examples=60, deadline=None)
def test_a_message_holds_the_signal_to_a_step_of_its_range(kind, size, scale, offset):
    rng = np.random.default_rng(size)
    samples = (1000 * rng.normal(size=size)).astype(kind)
    result = pinned(samples, scale=scale, offset=offset, unit="g")
    found = snapshot_from_bytes(snapshot_to_bytes(result))
    true = samples.astype(np.float64) * scale + offset
    step = 0.0 if kind == np.int16 else np.ptp(true) / 65_534
    rounding = 1e-6 * np.abs(true).max()
    assert np.max(np.abs(found.values() - true)) <= 0.51 * step + rounding
    if kind == np.int16:
        assert found.samples.tolist() == samples.tolist()
    assert found.facts["unit"] == "g"
    assert found.facts["end_ns"] == result.window_end_ns


def test_of_a_long_window_the_last_samples_are_kept_and_it_says_so():
    samples = np.arange(MAX_SAMPLES + 800, dtype=np.float32)
    data = snapshot_to_bytes(pinned(samples))
    found = snapshot_from_bytes(data)
    assert found.facts["of_samples"] == samples.size
    assert found.samples.size == MAX_SAMPLES
    assert found.values()[-1] == pytest.approx(samples[-1])
    assert found.facts["start_ns"] == T0 + 800 * NS_PER_S // 8000
    assert len(data) < 150_000


@pytest.mark.parametrize("samples", [np.zeros(9, np.float32), np.full(9, 3.4e38, np.float32)])
def test_a_signal_without_range_can_be_kept(samples):
    found = snapshot_from_bytes(snapshot_to_bytes(pinned(samples)))
    assert found.values().tolist() == pytest.approx(samples.tolist())


def test_the_fields_of_a_snapshot_are_those_of_the_page():
    facts = snapshot_from_bytes(snapshot_to_bytes(pinned(NOISE[0]))).facts
    assert list(facts) == list(SNAPSHOT_FIELDS)
    words = [(name, text.replace("|", "\\|")) for name, text in SNAPSHOT_FIELDS.items()]
    assert rows_under("### Fields of a snapshot") == words


GOOD = snapshot_to_bytes(pinned(NOISE[0][:4]))


def with_fact(**facts):
    line, _, body = GOOD.partition(b"\n")
    return json.dumps({**json.loads(line), **facts}).encode() + b"\n" + body


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no JSON"),
        (b"[]\n", "version 1"),
        (GOOD[:-1], "4 samples need 8 bytes, got 7"),
        (GOOD + bytes(200_000), "at most"),
        (with_fact(version=2), "version 1"),
        (100_000 * b"[" + b"\n", "no JSON"),
        (with_fact(sensor_id=7), "sensor_id must be text"),
        (with_fact(sensor_id="\ud800"), "sensor_id must be text"),
        (with_fact(place="now|8"), "place must be"),
        (with_fact(place="healthy|0"), "place must be"),
        (with_fact(kind="old", place="old|0"), "place must be"),
        (with_fact(sample_rate_hz=0), "sample_rate_hz must be"),
        (with_fact(scale=float("nan")), "scale must be"),
        (with_fact(scale=10**400), "scale must be"),
        (with_fact(end_ns=1.5), "end_ns must be an integer"),
        (with_fact(end_ns=2**63), "end_ns must be an integer"),
        (with_fact(rms="loud"), "rms must be"),
        (with_fact(samples=1), "counts from 2"),
        (with_fact(of_samples=3), "counts from 2"),
    ],
)
def test_what_is_no_snapshot_is_refused_in_words(data, words):
    with pytest.raises(BadSnapshot, match=words):
        snapshot_from_bytes(data)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_no_bytes_break_the_reader(data):
    for damaged in (data, GOOD[: len(data)] + data):
        try:
            snapshot_from_bytes(damaged)
        except BadSnapshot:
            continue


def test_every_key_is_among_those_that_readers_ask_for():
    for kind, count in PLACES.items():
        for n in range(count):
            result = replace(pinned(NOISE[0]), pin=f"{kind}|{n}")
            assert key_of(result) in keys_of(PUMP, kind)


def heard(k):
    level = 6.0 if k >= 60 else 1.0
    samples = np.float32(level) * NOISE[k % 64]
    chunk = SensorChunk(
        PUMP, 4000.0, T0 + k * 10 * NS_PER_S, samples, seq=k, flags=Flags.END_OF_CAPTURE
    )
    return Received(HEARD, k, PUMP.encode(), encode(chunk), {})


STREAM = [heard(k) for k in range(90)]


def new_stage(states, fleet=Fleet(), **given):  # noqa: B008  (frozen)
    made = SignalStage(
        load({}, profile="accelerated", learning={"min_windows": 32}, **given),
        fleet, Levels(), metrics=Metrics("signals"), wall_ns=lambda: T0,
    )  # fmt: skip
    made.assign(states, {})
    return made


def snapshots(outcome):
    topic = SETTINGS.kafka.snapshots
    return [(m.key, m.value) for m in outcome.messages if m.topic == topic]


def lived(stage, messages, size=7):
    return [
        one
        for i in range(0, len(messages), size)
        for one in snapshots(stage.begin(messages[i : i + size]).finish())
    ]


def test_a_life_sends_its_health_and_its_alarm_and_little_else():
    sent = lived(new_stage(Changelog()), STREAM)
    kinds = [snapshot_from_bytes(value).facts["kind"] for _, value in sent]
    assert set(kinds) == {"healthy", "now"}
    assert kinds.count("now") <= 3  # one per severity
    assert len(sent) <= 12
    loud, quiet = (snapshot_from_bytes(dict(sent)[key]) for key in (sent[-1][0], sent[0][0]))
    assert np.std(loud.values()) > 4 * np.std(quiet.values())
    assert loud.facts["status"] == "alarm"


@pytest.mark.parametrize("cut", [5, 40, 47, 62, 66])
def test_what_is_sent_again_after_a_crash_is_the_same(cut):
    whole = lived(new_stage(Changelog()), STREAM)
    first, states = new_stage(Changelog()), Changelog()
    before = lived(first, STREAM[:cut], size=1)
    states.store(first.snapshot())
    lost = lived(first, STREAM[cut : cut + 8], size=8)  # sent, but in no checkpoint
    again = lived(new_stage(states), STREAM[cut:], size=3)
    assert before + again == whole
    assert lost == again[: len(lost)]


def test_the_signal_of_a_sensor_in_quarantine_is_not_kept():
    stage = new_stage(Changelog(), FLEET, worker={"unknown_sensors": "quarantine"})
    assert lived(stage, STREAM) == []


def test_a_state_of_before_pictures_were_kept_is_read():
    monitor = new_monitor()
    for k in range(3):
        monitor.process([capture(k)])
    live = monitor.sensors["m/a"].export_live()
    del live["pins"]
    sensor = new_sensor()
    sensor.import_state(live, None)
    assert sensor.export_live()["pins"] == Pins().export_state()
