import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.orders import (
    ACTIONS,
    MAX_BYTES,
    NEED_WHY,
    ORDER_FIELDS,
    REASONS,
    BadOrder,
    new_order,
    order_from_json,
    order_to_json,
)

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "topics.md").read_text(encoding="utf-8")
T0 = 1_700_000_000_000_000_000
SHELVE = {"why": "noisy neighbour", "shelve_s": 3600.0}
GOOD = {"sensor_id": "mill/p3/de", "by": "eva", "at_ns": T0}


def made(action="ack", **more):
    given_ = {**GOOD, **(SHELVE if action == "shelve" else {"why": "as agreed"}), **more}
    return new_order(given_.pop("sensor_id"), action, **given_)


def message(**changed):
    record = json.loads(order_to_json(made()))
    del record["order_id"]
    return json.dumps({**record, **changed}).encode()


def reason_of(data):
    with pytest.raises(BadOrder) as refused:
        order_from_json(data)
    assert refused.value.reason in REASONS
    assert str(refused.value).startswith(f"{refused.value.reason}: ")
    return refused.value.reason


@pytest.mark.parametrize("action", ACTIONS)
def test_an_order_comes_back_as_it_was(action):
    order = made(action)
    assert order_from_json(order_to_json(order)) == order


def test_an_order_sent_twice_is_one_order_and_another_time_is_another():
    assert made().order_id == made().order_id
    others = [
        made(at_ns=T0 + 1), made(by="ben"), made(why="x"), made("unshelve"), made("shelve"),
        made(sensor_id="mill/p3/nde"), made("shelve", shelve_s=60.0),
    ]  # fmt: skip
    assert len({made().order_id, *(order.order_id for order in others)}) == 1 + len(others)


def test_of_a_sensor_and_action_the_newest_order_replaces_the_others():
    assert made().key == made(at_ns=T0 + 5, by="ben").key == b"mill/p3/de|ack"
    assert made("shelve").key != made("unshelve").key


def test_an_order_written_by_hand_needs_no_id_and_no_length():
    data = json.dumps({"version": 1, "action": "ack", **GOOD}).encode()
    order = order_from_json(data)
    assert order == made("ack", why="")


def test_an_id_of_another_content_is_refused():
    assert reason_of(order_to_json(replace(made(), by="mallory"))) == "bad_id"


def test_what_a_later_version_adds_is_ignored():
    assert order_from_json(message(colour="red")) == made()


@pytest.mark.parametrize("action", sorted(NEED_WHY))
def test_what_changes_the_watch_needs_its_reason_in_words(action):
    more = {"shelve_s": 60.0} if action == "shelve" else {}
    with pytest.raises(BadOrder, match="bad_why"):
        new_order("s", action, by="eva", why="  ", at_ns=T0, **more)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"version": 2}, "bad_version"),
        ({"version": None}, "bad_version"),
        ({"action": "delete"}, "bad_action"),
        ({"action": 1}, "bad_field"),
        ({"sensor_id": ""}, "bad_sensor"),
        ({"sensor_id": "a//b"}, "bad_sensor"),
        ({"sensor_id": "a|ack"}, "bad_sensor"),
        ({"sensor_id": "a" * 201}, "bad_sensor"),
        ({"sensor_id": None}, "bad_field"),
        ({"by": ""}, "bad_by"),
        ({"by": "   "}, "bad_by"),
        ({"by": "e" * 81}, "bad_by"),
        ({"by": "eva\n"}, "bad_by"),
        ({"by": "\u202eeva"}, "bad_by"),
        ({"by": "\ud800"}, "bad_field"),
        ({"why": "w" * 501}, "bad_why"),
        ({"why": "a\x1b[2J"}, "bad_why"),
        ({"at_ns": 1_700_000_000}, "bad_time"),
        ({"at_ns": 2**63 - 1}, "bad_time"),
        ({"at_ns": str(T0)}, "bad_field"),
        ({"at_ns": float(T0)}, "bad_field"),
        ({"shelve_s": 60.0}, "bad_shelve"),
        ({"action": "shelve", "shelve_s": 0}, "bad_shelve"),
        ({"action": "shelve", "shelve_s": -1}, "bad_shelve"),
        ({"action": "shelve", "shelve_s": 604_801}, "bad_shelve"),
        ({"action": "shelve", "shelve_s": None}, "bad_field"),
        ({"order_id": 3}, "bad_field"),
    ],
)
def test_an_order_that_is_wrong_is_refused_with_its_reason(changed, reason):
    assert reason_of(message(**changed)) == reason


@pytest.mark.parametrize(
    "data",
    [b"", b"ack", b"[]", b"\xff", b"{" * 9000, b'{"version": 1' + b" " * MAX_BYTES + b"}"],
)
def test_what_is_no_order_is_refused(data):
    assert reason_of(data) == "not_json"


def test_the_longest_shelving_is_a_week():
    assert made("shelve", shelve_s=168 * 3600).shelve_s == 604_800.0
    with pytest.raises(BadOrder, match="bad_shelve"):
        made("shelve", shelve_s=float("nan"))


def test_the_longest_order_fits():
    order = made(sensor_id="s" * 200, by="\U0001f600" * 80, why="\U0001f600" * 500)
    assert order_from_json(order_to_json(order)) == order


@given(st.sampled_from([*json.loads(message()), "order_id"]), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3), max_leaves=4,
))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_any_value_in_any_field_is_read_or_refused(field, value):
    try:
        found = order_from_json(message(**{field: value}))
    except BadOrder as refused:
        assert refused.reason in REASONS  # noqa: PT017  (either outcome is right)
    else:
        assert order_from_json(order_to_json(found)) == found


def test_the_page_lists_every_field_of_an_order_and_every_reason():
    text = PAGE.split("\n### Fields of an order\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|$", text, re.MULTILINE)
    assert rows == list(ORDER_FIELDS.items())
    assert set(ORDER_FIELDS) == set(json.loads(order_to_json(made())))
    assert all(f"`{reason}`" in text for reason in REASONS)
