import json
import math
import re
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.alarm_messages import (
    ACTIONS,
    CASE_FIELDS,
    EVIDENCE_FIELDS,
    MAX_BYTES,
    TRANSITION_FIELDS,
    BadTransition,
    case_to_json,
    transition_from_json,
    transition_to_json,
)
from pipeline.alarms import AlarmLogic
from pipeline.fleet import Fleet
from pipeline.messages import Transition
from pipeline.report.run import describe_case
from pipeline.service_settings import Kafka
from pipeline.services.topics import specs
from pipeline.streaming.metrics import DEAD_LETTER_REASONS
from point_cases import FLEET, T0, case, change, transitions

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "topics.md").read_text(encoding="utf-8")
GOOD = json.loads(transition_to_json(change()))


def rows_under(heading):
    text = PAGE.split(f"\n{heading}\n")[1].split("\n## ")[0].split("\n### ")[0]
    return re.findall(r"^\| `(\w+)` \| (.*?) \|$", text, re.MULTILINE)


def without_nan(transition):
    return {k: str(v) for k, v in asdict(transition).items()}


@given(transitions())
@settings(max_examples=80, deadline=None)
def test_a_transition_comes_back_as_it_was_but_for_what_is_no_number(made):
    finite = tuple(edge if math.isfinite(edge) else 0.0 for edge in made.band_hz)
    made = replace(made, band_hz=finite)
    data = transition_to_json(made)
    assert not re.search(rb"NaN|Infinity", data)
    lost = {
        name: math.nan
        for name in ("value", "limit", "band_share")
        if not math.isfinite(getattr(made, name))
    }
    assert without_nan(transition_from_json(data)) == without_nan(replace(made, **lost))


def test_every_change_of_the_alarm_logic_can_be_said():
    source = Path(AlarmLogic.update.__code__.co_filename).read_text(encoding="utf-8")
    said = set(re.findall(r'_emit\(\s*"(\w+)"', source)) | set(
        re.findall(r'"(raise|escalate|ease|return|sensor_good|start|learnt|stop|learn)"', source)
    )
    assert said == set(ACTIONS)


def test_what_a_later_version_adds_is_ignored():
    assert transition_from_json(json.dumps({**GOOD, "mood": [1]}).encode()) == change()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("version", 2, "version must be 1, got 2"),
        ("version", True, "version must be 1, got True"),
        ("sensor_id", "", "sensor_id must be text that is not empty"),
        ("asset", 7, "asset must be text that is not empty, got 7"),
        ("asset", "\ud800", "asset must be text of whole characters"),
        ("at_ns", 1.5, "at_ns must be an integer"),
        ("at_ns", 2**63, "at_ns must be an integer"),
        ("at_ns", -1, "at_ns must be an integer"),
        ("at_ns", True, "at_ns must be an integer"),
        ("before", "fine", "before must be one of learning, ok"),
        ("after", None, "after must be text"),
        ("action", "explode", "action must be one of raise"),
        ("acked", 1, "acked must be true or false, got 1"),
        ("value", "9", "value must be a finite number, got '9'"),
        ("value", 10**400, "value must be a finite number"),
        ("value", True, "value must be a finite number"),
        ("band_hz", [1.0], "band_hz must be a list of two numbers"),
        ("band_hz", [1.0, None], "band_hz must be a finite number"),
        ("why", ["x"], "why must be text"),
    ],
)
def test_a_field_that_is_wrong_is_named(field, value, words):
    with pytest.raises(BadTransition, match=re.escape(words)):
        transition_from_json(json.dumps({**GOOD, field: value}).encode())


@pytest.mark.parametrize("field", [f.name for f in fields(Transition)])
def test_a_field_that_is_missing_is_named(field):
    left = {name: value for name, value in GOOD.items() if name != field}
    with pytest.raises(BadTransition, match=f"{field} is missing"):
        transition_from_json(json.dumps(left).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x00", b"\xff\xfe", b"[]", b"null", b"{", b'"text"', b"[" * 50_000,
        b'{"version": 1' + b" " * MAX_BYTES + b"}", b"9" * 5000,
        json.dumps({**GOOD, "value": 1.0}).replace("1.0", "NaN").encode(),
        json.dumps({**GOOD, "value": 1.0}).replace("1.0", "1e999").encode(),
    ],
)  # fmt: skip
def test_what_is_no_transition_is_refused_in_words(data):
    with pytest.raises(BadTransition) as refused:
        transition_from_json(data)
    assert refused.value.reason in ("not_json", "bad_version", "bad_field")
    assert len(str(refused.value)) < 300


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(max_examples=200, deadline=None)
def test_nothing_but_a_bad_transition_is_raised(data):
    with pytest.raises(BadTransition):
        transition_from_json(data)


@given(st.sampled_from(sorted(GOOD)), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3), max_leaves=4,
))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_any_value_in_any_field_is_read_or_refused(field, value):
    try:
        found = transition_from_json(json.dumps({**GOOD, field: value}).encode())
    except BadTransition:
        return
    assert without_nan(transition_from_json(transition_to_json(found))) == without_nan(found)


def told(made, fleet=FLEET):
    return json.loads(case_to_json(made, fleet))


def test_a_case_says_what_the_report_says():
    made = case()
    report, message = describe_case(made, FLEET), told(made)
    same = ("case_id", "asset", "asset_name", "opened_ns", "closed_ns", "acked", "sentence")
    assert {name: message[name] for name in same} == {name: report[name] for name in same}
    assert message["severity"] == message["current"] == "alarm"
    for mine, theirs in zip(message["sensors"], report["sensors"], strict=True):
        assert {n: v for n, v in mine.items() if n in theirs and "rity" not in n} == {
            n: list(v) if isinstance(v, tuple) else v
            for n, v in theirs.items() if n not in ("severity", "current")
        } | {"current": mine["current"]}  # fmt: skip


def test_a_case_gives_every_time_as_number_and_as_text():
    message = told(case(closed_ns=T0 + 2_000_000))
    assert (message["opened_ns"], message["opened"]) == (T0, "2023-11-14T22:13:20.000Z")
    assert (message["closed"], message["changed"]) == ("2023-11-14T22:13:20.002Z",) * 2
    assert told(case())["closed"] is None


@pytest.mark.parametrize(
    ("made", "state"),
    [
        (case(), "open"),
        (case(closed_ns=T0 + 9), "closed"),
        (case(closed_ns=T0 + 9, superseded_by="mill/wet/pump3|1"), "superseded"),
    ],
)
def test_a_case_has_one_state(made, state):
    assert told(made)["state"] == state


def test_a_case_tells_where_its_machine_stands():
    message = told(case())
    assert [message[name] for name in ("plant", "area", "line", "asset_name")] == [
        "mill", "wet", "", "Fan pump"
    ]  # fmt: skip
    assert [sensor["name"] for sensor in message["sensors"]] == ["Drive end", "mill/wet/pump3/nde"]
    assert told(case(), Fleet())["asset_name"] == "mill/wet/pump3"


def test_evidence_that_is_no_number_is_null():
    made = case()
    odd = replace(made.sensors[0], value=math.inf, limit=math.nan)
    sensor = told(replace(made, sensors=(odd, *made.sensors[1:])))["sensors"][0]
    assert (sensor["value"], sensor["limit"]) == (None, None)


def test_the_page_lists_every_field_of_every_message():
    assert list(GOOD) != []
    assert set(GOOD) == set(TRANSITION_FIELDS)
    assert rows_under("### Fields of a transition") == list(TRANSITION_FIELDS.items())
    message = told(case())
    assert set(message) == set(CASE_FIELDS)
    assert rows_under("### Fields of a case") == list(CASE_FIELDS.items())
    assert set(message["sensors"][0]) == set(EVIDENCE_FIELDS)
    assert rows_under("### Fields of each of a case's `sensors`") == list(EVIDENCE_FIELDS.items())


def test_the_page_names_every_topic_and_every_reason_of_a_dead_letter():
    assert all(f"| `{spec.name}` |" in PAGE for spec in specs(Kafka()))
    text = PAGE.split("\n## `sensors.dead-letters`\n")[1]
    assert all(f"`{reason}`" in text for reason in DEAD_LETTER_REASONS)
