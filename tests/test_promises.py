"""Orders to a stage in; what survives the death of its worker, and is told in the same words."""

import asyncio

import numpy as np
import pytest

from pipeline.alarm_messages import transition_from_json
from pipeline.encoders import load_engine
from pipeline.fleet import Fleet
from pipeline.messages import Flags, SensorChunk
from pipeline.orders import ORDER_ID, new_order, order_to_json
from pipeline.records import read_header
from pipeline.settings import load
from pipeline.streaming.metrics import Metrics
from pipeline.streaming.promises import from_record, to_record
from pipeline.streaming.signal_stage import SignalStage
from pipeline.streaming.stage import Outcome, Outgoing, Partition, Received, StateWrite
from pipeline.wire import encode
from test_delivery import GENERATION, SIGNALS, Hearing, Log, begun, settled

SETTINGS = load({"ECHOWATCH_PROFILE": "accelerated"})
COMMANDS = Partition(SETTINGS.kafka.commands, 0)
HEARD = Partition(SETTINGS.kafka.signals[0], 0)
PUMP = "mill/pump/de"
NOW_NS = 1_700_000_000_000_000_000


class Changelog(dict):
    """Newest record by key, as a worker would recover it."""

    def store(self, writes):
        self.update({write.key: write.value for write in writes})

    def keys(self):
        return [(0, key) for key in self]


@pytest.fixture(scope="module")
def engine():
    return load_engine(SETTINGS)


@pytest.fixture
def stage(engine):
    def make(states):
        made = SignalStage(SETTINGS, Fleet(), engine, metrics=Metrics("signals"))
        made.assign(states, {})
        return made

    return make


def capture(k, sensor_id=PUMP):
    samples = np.random.default_rng(k).normal(0.0, 0.1, 8000).astype(np.float32)
    at_ns = NOW_NS + k * 10**10
    chunk = SensorChunk(sensor_id, 8000.0, at_ns, samples, seq=k, flags=Flags.END_OF_CAPTURE)
    return Received(HEARD, k, sensor_id.encode(), encode(chunk), {})


CAPTURES = [capture(k) for k in range(5)]  # the first ones wait for those that may overtake them


def shelving(offset, action="shelve", sensor_id=PUMP):
    length_s = 3600.0 if action == "shelve" else 0.0
    order = new_order(sensor_id, action, by="eva", why="w", at_ns=NOW_NS, shelve_s=length_s)
    return Received(COMMANDS, offset, order.key, order_to_json(order), {})


def transitions(outcome):
    topic = SETTINGS.kafka.transitions
    return [transition_from_json(m.value) for m in outcome.messages if m.topic == topic]


def promised(write):
    return read_header(write.value).promised


def test_an_order_is_told_only_with_the_record_that_includes_it(stage):
    first = stage(Changelog())
    first.begin(CAPTURES).finish()
    outcome = first.begin([shelving(0)]).finish()
    assert outcome.barrier
    assert not transitions(outcome)
    assert not outcome.points
    (*_, write) = first.snapshot()
    assert [t.action for t in transitions(write.told)] == ["shelve"]
    assert write.told.messages[0].headers[ORDER_ID] == promised(write)[0]["order"][28:44].encode()
    assert {point.measurement for point in write.told.points} == {"event", "alarm"}
    (*_, later) = first.snapshot()
    assert later.told is None
    assert not promised(later)
    assert first.snapshot() == []


def test_who_restores_a_record_tells_what_it_promised_in_the_same_words(stage):
    first, states = stage(Changelog()), Changelog()
    first.begin(CAPTURES).finish()
    first.begin([shelving(0)]).finish()
    writes = first.snapshot()
    states.store(writes)
    second = stage(states)
    # Signals come before the order this time: obeyed again it would act at another time.
    again = second.begin([capture(len(CAPTURES)), shelving(0)]).finish()
    assert not again.barrier
    assert [t for t in transitions(again) if t.by] == transitions(writes[-1].told)
    assert transitions(writes[-1].told)
    assert [p for p in again.points if p.measurement == "event"] == [
        p for p in writes[-1].told.points if p.measurement == "event"
    ]
    (*_, write) = second.snapshot()
    assert not promised(write)
    states.store([write])
    assert not transitions(stage(states).begin([shelving(0)]).finish())


def test_what_was_not_kept_is_obeyed_by_the_next_worker(stage):
    first, states = stage(Changelog()), Changelog()
    first.begin(CAPTURES).finish()
    states.store(first.snapshot())
    first.begin([shelving(0)]).finish()  # dies before its snapshot is stored
    second = stage(states)
    assert second.begin([shelving(0)]).finish().barrier
    assert [t.action for t in transitions(second.snapshot()[-1].told)] == ["shelve"]


def test_a_note_for_a_sensor_that_is_not_in_memory_keeps_its_state(stage):
    first, states = stage(Changelog()), Changelog()
    first.begin(CAPTURES).finish()
    states.store(first.snapshot())
    second = stage(states)
    second.begin([shelving(0, "maintenance")]).finish()
    (*_, write) = second.snapshot()
    assert not transitions(write.told)
    assert write.value.partition(b"\n")[2] == states[write.key].partition(b"\n")[2]


@pytest.mark.parametrize(
    ("order", "reason", "said"),
    [
        (shelving(0, "unshelve"), "order_refused", "is not shelved"),
        (shelving(0, "ack", "mill/fan/de"), "bad_order", "has not been heard"),
    ],
)
def test_a_refused_order_is_a_dead_letter_with_its_place(stage, order, reason, said):
    first = stage(Changelog())
    first.begin(CAPTURES).finish()
    (letter,) = first.begin([order]).finish().messages
    assert letter.headers["reason"] == reason.encode()
    assert said in letter.headers["detail"].decode()
    place = (letter.headers["source_topic"], letter.headers["source_offset"])
    assert place == (COMMANDS.topic.encode(), b"0")


def test_a_sensor_without_a_result_takes_no_order_but_notes(stage):
    first = stage(Changelog())
    part = np.zeros(100, np.float32)
    chunk = SensorChunk(PUMP, 8000.0, NOW_NS, part)
    first.begin([Received(HEARD, 0, b"", encode(chunk), {})]).finish()
    (letter,) = first.begin([shelving(0)]).finish().messages
    assert letter.headers["reason"] == b"order_refused"
    assert not first.begin([shelving(1, "maintenance")]).finish().messages


def test_a_promise_comes_back_as_it_was_made(stage):
    first = stage(Changelog())
    first.begin(CAPTURES).finish()
    first.begin([shelving(0)]).finish()
    record = promised(first.snapshot()[-1])[0]
    assert to_record(from_record(record)) == record


class Promising(Hearing):
    """Every message is a barrier, told of only once its state is stored."""

    alone = True

    def tell(self, batch):
        return Outcome(super().tell(batch).points, barrier=True)

    def snapshot(self):
        told = Outcome(messages=[Outgoing("told", b"", repr(self._heard).encode())])
        return [StateWrite(0, b"live|s", repr(self._heard).encode(), told=told)]


def test_at_a_barrier_state_word_and_acknowledgement_come_in_this_order():
    async def story():
        log = Log()
        delivery, running = await begun(Promising(), log)
        for offset in (1, 2):
            await delivery.admit(Received(SIGNALS, offset, b"", b"x", {}), GENERATION)
        await settled(lambda: len(log.commits) == 2)
        await delivery.close(5.0)
        await running
        return log

    log = asyncio.run(story())
    assert log.sent[:2] == [("state", b"[1]"), ("told", b"[1]")]
    assert log.sent[2:] == [("state", b"[1, 2]"), ("told", b"[1, 2]")]
    assert log.commits == [{SIGNALS: 2}, {SIGNALS: 3}]
