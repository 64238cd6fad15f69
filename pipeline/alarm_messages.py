"""Changes of alarm state and cases in, the JSON messages of their topics out, and back.

The messages are a public contract, described field by field in docs/topics.md: a reader ignores
fields that it does not know, and refuses another `version`, which changes only with the meaning of
a field. A number that is not finite is written as null and read as nan.
"""

import json
from dataclasses import asdict
from math import isfinite, nan
from typing import Any, Final, cast, get_args

import numpy as np

from pipeline.case_fold import Case, SensorEvidence
from pipeline.fleet import Fleet
from pipeline.json_fields import Record
from pipeline.messages import NS_PER_S, SensorStatus, Transition
from pipeline.wording import sentence

VERSION: Final = 1
MAX_BYTES: Final = 65_536
"""Longest transition that is read."""
ACTIONS: Final = (
    "raise", "escalate", "ease", "return", "ack", "shelve", "unshelve", "learn", "learnt", "stop",
    "start", "sensor_bad", "sensor_good",
)  # fmt: skip

TRANSITION_FIELDS: Final = {
    "version": "1",
    "transition_id": "`sensor|time|status|action`, the same in every replay",
    "sensor_id": "sensor that changed",
    "asset": "its machine; key of the message",
    "at_ns": "event time, ns since 1970 UTC",
    "since_ns": "start of the condition",
    "before": "status before: learning, ok, stopped, unknown, advisory, alert or alarm",
    "after": "status after",
    "action": "what changed: raise, escalate, ease, return, ack, shelve, unshelve, learn, learnt, "
    "stop, start, sensor_bad or sensor_good",
    "acked": "a person has acknowledged the highest severity of this episode",
    "latched": "the condition has gone, the alarm waits for acknowledgement",
    "shelved_until_ns": "0 = not shelved",
    "reason": "detector that decided, or the sensor's faults",
    "value": "evidence of that detector; null = none",
    "limit": "its limit; null = none",
    "band_hz": "[low, high] of the band with the largest share of the drift, [0, 0] if none",
    "band_share": "its share, 0-1",
    "by": "person, empty where the machine did it",
    "why": "their words, or what the detector has to add",
}
"""Fields of a message of the topic of transitions."""

CASE_FIELDS: Final = {
    "version": "1",
    "case_id": "machine and opening time; key of the message",
    "asset": "id of the machine",
    "asset_name": "its name for people",
    "plant": "where it stands; empty where no fleet file says",
    "area": "likewise",
    "line": "likewise",
    "state": "open, closed or superseded",
    "severity": "highest reached: ok, advisory, alert or alarm",
    "current": "highest in force now",
    "opened_ns": "time of the first raise, ns since 1970 UTC",
    "opened": "the same as ISO 8601",
    "changed_ns": "time of the newest change",
    "changed": "the same as ISO 8601",
    "closed_ns": "null while open",
    "closed": "the same as ISO 8601, null while open",
    "since_ns": "start of the earliest condition",
    "since": "the same as ISO 8601",
    "acked": "every standing sensor (once closed: every sensor) is acknowledged",
    "shelved": "every standing sensor is shelved: notify nobody",
    "reopened": "times that it was reopened",
    "superseded_by": "id of the case that holds its evidence now, empty unless superseded",
    "first_out": "sensor that departed first",
    "suspect": "sensors of the machine that are not believable now",
    "sentence": "what a technician reads",
    "sensors": "evidence per sensor, first out first; see below",
}
"""Fields of a message of the topic of cases."""

EVIDENCE_FIELDS: Final = {
    "sensor_id": "sensor",
    "name": "its name for people",
    "status": "now; `stopped`, `unknown` and `learning` pause its evidence",
    "severity": "highest in this case",
    "current": "in force now",
    "first_ns": "start of the condition that brought it into the case",
    "first": "the same as ISO 8601",
    "last_ns": "its latest change while it had a severity",
    "last": "the same as ISO 8601",
    "acked": "a person has acknowledged its latest episode",
    "latched": "the condition has gone, acknowledgement is missing",
    "shelved_until_ns": "0 = not shelved",
    "reason": "detector that decided its latest raise",
    "value": "evidence of that detector; null = none",
    "limit": "its limit; null = none",
    "band_hz": "[low, high] of the band with the largest share of the drift",
    "band_share": "its share, 0-1",
    "detail": "what the detector has to add",
}
"""Fields of each of a case's `sensors`."""


class BadTransition(ValueError):  # noqa: N818  (the name is what dead letters hold)
    """A message that is no transition.

    Attributes:
        reason: `not_json`, `bad_version` or `bad_field`.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def transition_to_json(transition: Transition) -> bytes:
    """A change of a sensor's alarm state as a message."""
    return _message({"version": VERSION, **asdict(transition)})


def transition_from_json(data: bytes) -> Transition:
    """Read back what `transition_to_json` wrote.

    Raises:
        BadTransition: for anything else, in words.
    """
    record = Record(data, version=VERSION, max_bytes=MAX_BYTES, refuse=BadTransition)
    statuses = get_args(SensorStatus)
    return Transition(
        transition_id=record.text("transition_id", empty=False),
        sensor_id=record.text("sensor_id", empty=False),
        asset=record.text("asset", empty=False),
        at_ns=record.integer("at_ns"),
        since_ns=record.integer("since_ns"),
        before=cast("SensorStatus", record.choice("before", statuses)),
        after=cast("SensorStatus", record.choice("after", statuses)),
        action=record.choice("action", ACTIONS),
        acked=record.flag("acked"),
        latched=record.flag("latched"),
        shelved_until_ns=record.integer("shelved_until_ns"),
        reason=record.text("reason"),
        value=record.number("value", missing=nan),
        limit=record.number("limit", missing=nan),
        band_hz=record.pair("band_hz"),
        band_share=record.number("band_share", missing=nan),
        by=record.text("by"),
        why=record.text("why"),
    )


def case_to_json(case: Case, fleet: Fleet) -> bytes:
    """A case as a message: its facts, and the sentence a technician reads."""
    return _message(describe(case, fleet))


def describe(case: Case, fleet: Fleet) -> dict[str, Any]:
    """A case as a JSON-able record of `CASE_FIELDS`."""
    info = fleet.sensor(case.first_out or case.asset)
    names = case_names(case, fleet)
    changed_ns = max([case.opened_ns, case.closed_ns or 0, *(e.at_ns for e in case.events[-1:])])
    state = "open" if case.closed_ns is None else "closed"
    return {
        "version": VERSION,
        "case_id": case.case_id,
        "asset": case.asset,
        "asset_name": names.get(case.asset, case.asset),
        "plant": info.plant,
        "area": info.area,
        "line": info.line,
        "state": "superseded" if case.superseded_by else state,
        "severity": case.severity.name.lower(),
        "current": case.current.name.lower(),
        **_times(opened=case.opened_ns, changed=changed_ns, closed=case.closed_ns),
        **_times(since=case.since_ns),
        "acked": case.acked,
        "shelved": case.shelved,
        "reopened": case.reopened,
        "superseded_by": case.superseded_by,
        "first_out": case.first_out,
        "suspect": list(case.suspect),
        "sentence": sentence(case, names=names),
        "sensors": [_evidence(sensor, names) for sensor in case.sensors],
    }


def case_names(case: Case, fleet: Fleet) -> dict[str, str]:
    """Names that people know, of the case's machine and sensors."""
    ids = [*(sensor.sensor_id for sensor in case.sensors), *case.suspect]
    infos = [fleet.sensor(sensor_id) for sensor_id in ids if sensor_id in fleet]
    names = {info.asset: info.asset_name for info in infos if info.asset_name}
    return names | {i.sensor_id: i.name for i in infos if i.name not in ("", i.sensor_id)}


def iso_time(at_ns: int) -> str:
    """UTC time to the millisecond.

    >>> iso_time(1_700_000_000_123_456_789)
    '2023-11-14T22:13:20.123Z'
    """
    return f"{np.datetime64(at_ns // (NS_PER_S // 1000), 'ms')}Z"


def _evidence(sensor: SensorEvidence, names: dict[str, str]) -> dict[str, Any]:
    return {
        **asdict(sensor),
        "name": names.get(sensor.sensor_id, sensor.sensor_id),
        "severity": sensor.severity.name.lower(),
        "current": sensor.current.name.lower(),
        **_times(first=sensor.first_ns, last=sensor.last_ns),
    }


def _times(**times: int | None) -> dict[str, Any]:
    """Each time as ns and as text."""
    found: dict[str, Any] = {}
    for name, at_ns in times.items():
        found[f"{name}_ns"] = at_ns
        found[name] = None if at_ns is None else iso_time(at_ns)
    return found


def _message(record: dict[str, Any]) -> bytes:
    try:
        return json.dumps(record, allow_nan=False).encode()
    except ValueError:
        return json.dumps(_without_nan(record), allow_nan=False).encode()


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
