"""What a worker takes over from the changelog, and how what it writes next ranks."""

import pytest

from pipeline.encoders import load_engine
from pipeline.fleet import Fleet
from pipeline.records import key_of, read_header
from pipeline.streaming.metrics import Metrics
from pipeline.streaming.signal_stage import SignalStage
from test_fleet import documented
from test_promises import CAPTURES, HEARD, PUMP, SETTINGS, Changelog

LIVE = key_of("live", PUMP)


@pytest.fixture(scope="module")
def engine():
    return load_engine(SETTINGS)


def taken(engine, states, ends, batch, fleet=None):
    """What a worker that takes over tells of a batch; its state is kept."""
    stage = SignalStage(SETTINGS, fleet or Fleet(), engine, metrics=Metrics("signals"))
    stage.assign(states, ends)
    outcome = stage.begin(batch).finish()
    states.store(stage.snapshot())
    return outcome


def test_of_a_topic_made_anew_the_new_record_wins(engine):
    states = Changelog()
    taken(engine, states, {}, CAPTURES)
    old = read_header(states[LIVE])
    taken(engine, states, {HEARD: 1}, CAPTURES[:1])
    new = read_header(states[LIVE])
    assert new.positions == {HEARD.topic: 0}
    assert new.rank > old.rank


def test_a_sensor_that_the_fleet_file_has_lost_is_refused(engine):
    states = Changelog()
    taken(engine, states, {}, CAPTURES[:2])
    outcome = taken(engine, states, {}, CAPTURES[2:], documented())
    assert [m.headers["reason"] for m in outcome.messages] == [b"unknown_sensor"] * 3
    assert not outcome.windows
