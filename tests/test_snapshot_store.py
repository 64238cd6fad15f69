"""What `echowatch serve` remembers: bounded, the newest of a key, the right pictures of a case."""

import json
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.serve.store import OVERHEAD_BYTES, SHARES, Shelf, SnapshotStore, read_case
from serve_cases import DE, NDE, PUMP, T0, case_messages, change, message, sick_pump

PUTS = st.lists(
    st.tuples(st.sampled_from([b"a", b"b", b"c", b"d"]), st.none() | st.binary(max_size=400)),
    max_size=60,
)


@given(PUTS, st.integers(0, 3000))
@example([(b"a", b"1"), (b"b", b"1"), (b"c", b"1")], 1100)
@settings(max_examples=100, deadline=None)
def test_a_shelf_holds_no_more_than_its_bytes_and_the_newest_of_each_key(puts, most):
    shelf, newest, order = Shelf(most), {}, []
    for key, value in puts:
        shelf.put(key, value)
        newest[key] = value
        order = [other for other in order if other != key] + [key]
        assert shelf.size <= most
        assert shelf.get(key) in (value, None)
    kept = [key for key in order if shelf.get(key) is not None]
    assert shelf.values() == [newest[key] for key in kept]
    assert shelf.size == sum(len(k) + len(newest[k]) + OVERHEAD_BYTES for k in kept)
    written = [key for key in order if newest[key] is not None]
    assert kept == written[len(written) - len(kept) :]  # the oldest went first


def test_a_plant_full_of_alarms_does_not_push_health_out():
    store = SnapshotStore(1e6)
    store.put_snapshot(*message(pin="healthy|0", at_s=0.0))
    for number in range(60):
        store.put_snapshot(*message(sensor_id=f"mill/fan/{number}", at_s=100.0))
    assert store.pair(DE).healthy is not None
    facts = store.facts()
    assert facts["now_dropped"] > 0
    assert facts["bytes"] <= 1e6 * sum(SHARES.values())


def test_a_case_shows_its_own_departure_and_the_health_of_then():
    store = SnapshotStore(10e6)
    for pin, at_s in [("healthy|0", 0), ("now|1", 100), ("healthy|1", 500), ("now|2", 900)]:
        store.put_snapshot(*message(pin=pin, at_s=at_s))

    def shown(since_s, until_s):
        until = None if until_s is None else T0 + until_s * 10**9
        pair = store.pair(DE, T0 + since_s * 10**9, until)
        return [one and one.facts["place"] for one in (pair.now, pair.healthy)]

    assert shown(101, 400) == ["now|1", "healthy|0"]
    assert shown(901, None) == ["now|2", "healthy|1"]
    assert shown(0, None) == ["now|2", "healthy|1"]
    assert shown(200, 400) == [None, "healthy|1"]


def test_a_departure_that_a_later_one_replaced_is_gone_and_a_deleted_one_too():
    store = SnapshotStore(10e6)
    key, value = message(at_s=100)
    store.put_snapshot(key, value)
    store.put_snapshot(*message(at_s=200))
    assert store.pair(DE).now.facts["start_ns"] == T0 + 200 * 10**9
    store.put_snapshot(key, None)
    assert store.pair(DE).now is None


def test_the_newest_case_of_a_machine_is_the_open_one():
    store = SnapshotStore(10e6)
    changes = [
        change(DE, "raise", 100, "alarm"),
        change(DE, "return", 200, "ok", before="alarm"),
        change(DE, "raise", 200_000, "alert"),
    ]
    for key, value in case_messages(changes):
        store.put_case(key, value)
    first, second = store.cases(PUMP)
    assert (first["state"], second["state"]) == ("open", "closed")
    assert store.case(second["case_id"]) == second
    assert store.cases("mill/wet_end/pump") == []
    assert len(store.cases()) == 2


def test_who_asks_for_a_withdrawn_case_gets_the_one_that_has_its_evidence():
    store = sick_pump()
    (case,) = store.cases()
    gone = case | {"case_id": "old", "state": "superseded", "superseded_by": case["case_id"]}
    store.put_case(b"old", json.dumps(gone).encode())
    assert store.case("old") == case
    assert store.cases() == [case]
    circle = gone | {"case_id": "x", "superseded_by": "x"}
    store.put_case(b"x", json.dumps(circle).encode())
    assert store.case("x") is None


@given(st.one_of(st.none(), st.binary(max_size=60)), st.one_of(st.none(), st.binary(max_size=60)))
@settings(max_examples=60, deadline=None)
def test_messages_of_others_are_refused_and_change_nothing(key, value):
    store = SnapshotStore(1e6)
    store.put_snapshot(key, value)
    store.put_case(key, value)
    assert store.cases() == []
    assert store.facts()["bytes"] == 0


def test_a_message_under_another_key_than_its_own_is_refused():
    store = SnapshotStore(1e6)
    _, value = message()
    store.put_snapshot(f"{NDE}|now|1".encode(), value)
    ((_, case),) = case_messages([change(DE, "raise", 100, "alarm")])
    store.put_case(b"other", case)
    assert store.facts()["refused"] == 2
    assert store.pair(NDE).now is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 2),
        ("case_id", 7),
        ("state", "odd"),
        ("current", "loud"),
        ("case_id", "\ud800"),
        ("asset_name", "\ud800"),
        ("current", ["alarm"]),
        ("opened_ns", 1.5),
        ("opened_ns", 10**400),
        ("closed_ns", "no"),
        ("sensors", "all"),
        ("sensors", [7]),
        ("sensors", [{"sensor_id": DE}]),
    ],
)
def test_a_case_with_a_field_of_another_kind_is_none(field, value):
    ((_, good),) = case_messages([change(DE, "raise", 100, "alarm")])
    assert read_case(good) is not None
    odd = json.dumps({**json.loads(good), field: value}).encode()
    assert read_case(odd) is None
    assert _taken(SnapshotStore.put_case, b"key", odd) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("current", ["alarm"]),
        ("name", "\ud800"),
        ("band_hz", [0.0, math.nan]),
        ("band_share", math.inf),
    ],
)
def test_a_case_with_odd_evidence_is_none(field, value):
    ((_, good),) = case_messages([change(DE, "raise", 100, "alarm")])
    case = json.loads(good)
    case["sensors"][0][field] = value
    assert read_case(json.dumps(case).encode()) is None


@pytest.mark.parametrize("put", [SnapshotStore.put_case, SnapshotStore.put_snapshot])
def test_brackets_without_end_are_refused_like_any_other_bytes(put):
    assert _taken(put, b"mill|now|1", 100_000 * b"[") == 1


def _taken(put, key, value):
    """How many of one message are refused; who reads the topic goes on."""
    store = SnapshotStore(1e6)
    put(store, key, value)
    return store.facts()["refused"]
