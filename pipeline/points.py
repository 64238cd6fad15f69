"""Results in, points of a time series store out; the schema is `pipeline.point_schema`.

Points are named by tags and event time only, so that writing a result again replaces it. What is
not a number (nan while learning) is left out. An alarm needs no tag for its action: transitions of
a sensor strictly increase in time. Stream events are points of their own and not counts per window,
for what a count holds depends on where a batch ends; a chunk gives about three of them at most.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite, log10
from typing import Final, Literal
from zlib import crc32

from pipeline.alarm_messages import case_names
from pipeline.case_fold import Case
from pipeline.fleet import Fleet
from pipeline.iso import iso_zone
from pipeline.messages import (
    NS_PER_S,
    DriftScore,
    Features,
    Point,
    Processed,
    SensorHealth,
    StreamEvent,
    Transition,
    WindowResult,
)
from pipeline.orders import Order
from pipeline.point_schema import OCTAVES, QUARANTINE, SCHEMA, STATUS_CODES
from pipeline.point_tags import NOWHERE, STRANGER, UNKNOWN, SensorTags, place_of, tags_of
from pipeline.wording import band, sentence

Fields = dict[str, float | int | str | bool]
Guard = Callable[[str], bool]
EventType = Literal["ack", "shelve", "unshelve", "rebaseline", "maintenance", "model"]

ZONES: Final = "ABCD"
"""ISO zones; their places here are the numbers in the field `iso_zone`."""
SENSORS_NAMED: Final = 8
SENSORS_CACHED: Final = 50_000
# Sensors that share one series must not overwrite each other: each has its own delay below 1 ms.
QUARANTINE_SPREAD_NS: Final = 1_000_000


_NO_LAGS: Final[Mapping[tuple[str, int], float]] = {}


def _named(_: str) -> bool:
    """No sensor is in quarantine."""
    return False


class PointMaker:
    """Makes points of what the sensors of a fleet gave.

    Args:
        fleet: Where they sit.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._known: dict[str, SensorTags] = {}

    def points(self, done: Processed, *, quarantined: Guard = _named) -> list[Point]:
        """All points of a micro-batch.

        Args:
            done: What it gave.
            quarantined: Sensor id -> whether it belongs to the measurements of quarantine, where
                no tag tells sensors apart.
        """
        out: list[Point] = []
        for result in done.windows:
            if quarantined(result.sensor_id):
                out += _in_quarantine(result.sensor_id, self._of_window(result, NOWHERE))
            else:
                out += self._of_window(result, self._tags(result.sensor_id))
        for event in done.events:
            if quarantined(event.sensor_id):
                out += _in_quarantine(event.sensor_id, [_stream_point(event, NOWHERE)])
            else:
                out.append(_stream_point(event, self._tags(event.sensor_id)))
        return out

    def transition_points(
        self, transitions: Iterable[Transition], *, quarantined: Guard = _named
    ) -> list[Point]:
        """Points of transitions that no window made: those of orders."""
        out: list[Point] = []
        for change in transitions:
            if quarantined(change.sensor_id):
                out += _in_quarantine(change.sensor_id, [_alarm_point(change, NOWHERE)])
            else:
                out.append(_alarm_point(change, self._tags(change.sensor_id)))
        return out

    def case_points(self, case: Case, *, quarantined: Guard = _named) -> list[Point]:
        """The point of a case as it stands, at the event time of its newest change.

        One that a late transition withdrew has none: the case that holds its evidence goes on in
        the same series, and the topic of cases tells what became of it. Nor has one of a sensor in
        quarantine: its machine would be a tag that nobody named.
        """
        if case.superseded_by or quarantined(case.first_out):
            return []
        info = self._fleet.sensor(case.first_out or case.asset)
        tags = tags_of("cases", {**place_of(info), "asset": case.asset})
        at_ns = case.events[-1].at_ns if case.events else case.closed_ns or case.opened_ns
        return [Point("cases", tags, _case_fields(case, self._fleet), at_ns)]

    def event_point(
        self,
        target: str,
        kind: EventType,
        text: str,
        *,
        author: str,
        at_ns: int,
        order_id: str = "",
        refused: str = "",
        quarantined: Guard = _named,
    ) -> Point:
        """Something that people should see beside the signals.

        Args:
            target: Sensor id.
            kind: Becomes the tag `type`.
            text: What was said or done.
            author: Who said it.
            at_ns: When.
            order_id: Of the order, if it was one.
            refused: Why it was not obeyed.
            quarantined: Sensor id -> whether it is unknown, and its machine no tag.
        """
        fields: Fields = {"text": text, "author": author, "target": target, "order_id": order_id}
        if refused:
            fields["refused"] = refused
        info = STRANGER if quarantined(target) else self._fleet.sensor(target)
        tags = tags_of("event", {**place_of(info), "type": kind})
        return Point("event", tags, fields, at_ns)

    def order_point(self, order: Order, *, refused: str = "", quarantined: Guard = _named) -> Point:
        """What a person ordered, at the time that they said it."""
        return self.event_point(
            order.sensor_id,
            order.action,
            order.why,
            author=order.by,
            at_ns=order.at_ns,
            order_id=order.order_id,
            refused=refused,
            quarantined=quarantined,
        )

    def pipeline_points(
        self,
        host: str,
        role: str,
        values: Mapping[str, float],
        *,
        at_ns: int,
        lags: Mapping[tuple[str, int], float] = _NO_LAGS,
        version: str = "",
        model_id: str = "",
    ) -> list[Point]:
        """How a worker fares.

        Args:
            host: Name of the machine.
            role: Of the worker.
            values: From `Metrics.snapshot`; names that the schema does not have are left out.
            at_ns: Present time.
            lags: (topic, partition) -> messages not yet acknowledged.
            version: Of the program; left out where empty, as is `model_id`.
            model_id: Of the model that scores, with its hash.
        """
        known = SCHEMA["pipeline"].fields
        tags = {"host": host, "role": role, "topic": "", "partition": ""}
        fields = _finite({name: value for name, value in values.items() if name in known})
        said = {"version": version, "model_id": model_id}
        fields |= {name: text for name, text in said.items() if text}
        out = [Point("pipeline", tags_of("pipeline", tags), fields, at_ns)] if fields else []
        for (topic, number), lag in lags.items():
            placed = tags_of("pipeline", {**tags, "topic": topic, "partition": str(number)})
            out.append(Point("pipeline", placed, {"lag": float(lag)}, at_ns))
        return out

    def _zone(self, result: WindowResult) -> Fields:
        """ISO zone of a window: a machine that stands still has none."""
        velocity = result.features.velocity_mm_s if result.features is not None else None
        if velocity is None or not (result.running and isfinite(velocity) and velocity >= 0.0):
            return {}
        iso = self._fleet.sensor(result.sensor_id).iso
        return {} if iso is None else {"iso_zone": ZONES.index(iso_zone(velocity, iso))}

    def _tags(self, sensor_id: str) -> SensorTags:
        known = self._known.get(sensor_id)
        if known is None:
            if len(self._known) >= SENSORS_CACHED:
                self._known.clear()
            info = self._fleet.sensor(sensor_id)
            place = {**place_of(info), "point": info.point, "axis": info.axis, "sensor": sensor_id}
            known = SensorTags(place)
            self._known[sensor_id] = known
        return known

    def _of_window(self, result: WindowResult, tags: SensorTags) -> list[Point]:
        at_ns = result.window_end_ns
        out = [Point("sensor_health", tags.plain, _health_fields(result, result.health), at_ns)]
        if result.features is not None:
            fields = _feature_fields(result.features) | self._zone(result)
            if fields:
                out.append(Point("vib_features", tags.plain, fields, at_ns))
        if result.drift is not None:
            out += _drift_points(result.drift, tags, at_ns)
        for change in result.transitions:
            out.append(_alarm_point(change, tags))
        return out


def _drift_points(drift: DriftScore, tags: SensorTags, at_ns: int) -> list[Point]:
    of = tags.drift(drift.model_id, drift.band_edges_hz)
    shares = drift.band_shares
    fields = _finite(
        {
            "score": drift.score,
            "threshold": drift.limit,
            "distance": drift.distance,
            "level_ratio": drift.level_ratio,
            "learning_pct": drift.learning_pct,
            **_ratios(drift),
        }
    )
    fields |= {
        "baseline_n": int(drift.baseline_n),
        "nearest_ns": int(drift.nearest_ns),
        "trained": int(drift.trained),
        "model_id": drift.model_id,
    }
    if not shares:
        return [Point("drift", of.drift, fields, at_ns)]
    fields["reason"] = drift.reason
    top = max(range(len(shares)), key=shares.__getitem__)
    fields |= _finite({"top_band_hz": drift.band_edges_hz[top][0], "top_share": shares[top]})
    sums = [0.0] * len(of.bands)
    for place, share in zip(of.places, shares, strict=True):
        sums[place] += float(share)
    return [
        Point("drift", of.drift, fields, at_ns),
        *(
            Point("drift_band", of_band, {"share": share}, at_ns)
            for of_band, share in zip(of.bands, sums, strict=True)
            if isfinite(share)
        ),
    ]


def _ratios(drift: DriftScore) -> dict[str, float]:
    wanted = (("ratio", "alarm"), ("ratio_advisory", "advisory"))
    return {name: drift.ratios[key] for name, key in wanted if key in drift.ratios}


def _feature_fields(found: Features) -> Fields:
    values = {
        "rms": found.rms,
        "peak": found.peak,
        "crest": found.crest,
        "kurtosis": found.kurtosis,
        **octave_levels(found.octaves_db),
    }
    if found.velocity_mm_s is not None:
        values["velocity_mm_s"] = found.velocity_mm_s
    return _finite(values)


def octave_levels(thirds_db: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Octave levels by name, as sums of power; only octaves whose parts are all there.

    >>> octave_levels([(50.0, 0.0), (63.0, 0.0), (80.0, 0.0), (100.0, 0.0)])
    {'oct_63': 4.771212547196624}
    """
    power = {centre: 10.0 ** (0.1 * level) for centre, level in thirds_db}
    found = {}
    for name, parts in OCTAVES.items():
        try:
            total = sum([power[part] for part in parts])
        except KeyError:
            continue
        if total > 0.0:
            found[name] = 10.0 * log10(total)
    return found


def _health_fields(result: WindowResult, health: SensorHealth) -> Fields:
    fields = _finite(
        {
            "clip": health.clip_fraction,
            "flat": health.flat_fraction,
            "bias": health.bias,
            "gap_s": health.gap_s,
        }
    )
    fields |= {
        "state": STATUS_CODES[result.status],
        "ok": int(health.ok),
        "running": int(result.running),
        "faults": ",".join(health.faults),
    }
    if health.detail:
        fields["detail"] = health.detail
    return fields


def _alarm_point(change: Transition, tags: SensorTags) -> Point:
    low_hz, high_hz = change.band_hz
    fields = _finite(
        {
            "evidence": change.value,
            "threshold": change.limit,
            "band_low_hz": low_hz,
            "band_high_hz": high_hz,
            "band_share": change.band_share,
        }
    )
    fields |= {
        "state": STATUS_CODES[change.after],
        "previous": STATUS_CODES[change.before],
        "action": change.action,
        "reason": change.reason,
        "acked": bool(change.acked),
        "latched": bool(change.latched),
        "shelved_until_ns": int(change.shelved_until_ns),
        "since_ns": int(change.since_ns),
        "author": change.by,
        "why": change.why,
        "transition_id": change.transition_id,
    }
    return Point("alarm", tags.alarm, fields, change.at_ns)


def _stream_point(event: StreamEvent, tags: SensorTags) -> Point:
    fields = _finite({"amount_s": event.amount_s})
    fields["detail"] = event.detail
    return Point("stream_event", tags.stream(event.kind), fields, event.at_ns)


def _case_fields(case: Case, fleet: Fleet) -> Fields:
    standing = case.standing or case.sensors
    low_hz, high_hz = standing[0].band_hz if standing else (0.0, 0.0)
    ids = [sensor.sensor_id for sensor in case.sensors[:SENSORS_NAMED]]
    return {
        "case_id": case.case_id,
        "open": case.closed_ns is None,
        "severity": int(case.severity),
        "current": int(case.current),
        "acked": case.acked,
        "shelved": case.shelved,
        "sensors": len(case.sensors),
        "sensor_ids": ",".join(ids),
        "first_out": case.first_out,
        "opened_ns": case.opened_ns,
        "opened_s": case.opened_ns / NS_PER_S,
        "closed_ns": case.closed_ns or 0,
        "since_ns": case.since_ns,
        "reopened": case.reopened,
        "top_band_low_hz": float(low_hz),
        "top_band_high_hz": float(high_hz),
        "top_band": band(low_hz, high_hz) if high_hz > 0 else "",
        "sentence": sentence(case, names=case_names(case, fleet)),
    }


def _in_quarantine(sensor_id: str, points: Iterable[Point]) -> list[Point]:
    """The same points in the one series of all sensors that nobody named."""
    spread_ns = crc32(sensor_id.encode()) % QUARANTINE_SPREAD_NS
    out = []
    for point in points:
        if point.measurement == "drift_band":
            continue
        fields: Fields = {**point.fields, "sensor_id": sensor_id}
        fields |= {name: value for name, value in point.tags if name == "kind"}
        name = QUARANTINE + point.measurement
        out.append(Point(name, UNKNOWN, fields, point.at_ns + spread_ns))
    return out


def _finite(values: Mapping[str, float]) -> Fields:
    """Plain floats of what is a number."""
    return {name: float(value) for name, value in values.items() if isfinite(value)}
