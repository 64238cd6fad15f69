"""A store's content in, the records of the report out; and a case as a JSON record."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np

from pipeline.case_fold import Case
from pipeline.fleet import Fleet, Iso, SensorInfo, iso_limits, iso_zone
from pipeline.messages import NS_PER_S, Severity, Spectrum, SpectrumKind, Transition, Trend
from pipeline.report.page import CaseReport, RunReport, SensorReport
from pipeline.wording import baseline_words, sentence

# Windows over which the ISO verdict is taken, so that one window decides nothing.
ISO_WINDOWS = 10


class Findings(Protocol):
    """What the report reads from a store."""

    def facts(self) -> dict[str, Any]:
        """Named JSON values."""

    def sensor_ids(self) -> list[str]:
        """All sensors with windows."""

    def trend(self, sensor_id: str) -> Trend:
        """All windows of one sensor."""

    def transitions(self) -> list[Transition]:
        """All transitions."""

    def cases(self) -> list[dict[str, Any]]:
        """Case records as `describe_case` makes them."""

    def event_counts(self) -> dict[str, dict[str, int]]:
        """Sensor id -> kind -> count."""

    def spectra(self, sensor_id: str) -> dict[SpectrumKind, Spectrum]:
        """Newest spectrum of each kind."""


def describe_case(case: Case, fleet: Fleet) -> dict[str, Any]:
    """A case as a JSON-able record: its facts, and the sentence a technician reads."""
    names = {info.asset: info.asset_name for info in fleet.sensors if info.asset_name}
    names |= {i.sensor_id: i.name for i in fleet.sensors if i.name not in ("", i.sensor_id)}
    return {
        "case_id": case.case_id,
        "asset": case.asset,
        "asset_name": names.get(case.asset, case.asset),
        "severity": int(case.severity),
        "current": int(case.current),
        "opened_ns": case.opened_ns,
        "closed_ns": case.closed_ns,
        "acked": case.acked,
        "superseded_by": case.superseded_by,
        "sentence": sentence(case, names=names, when=_utc),
        "sensors": [asdict(sensor) for sensor in case.sensors],
    }


def collect(store: Findings, *, created: str) -> RunReport:
    """Gather everything that the report shows.

    Args:
        store: Of a finished or interrupted run.
        created: When the report is made, as text.
    """
    facts = store.facts()
    fleet = stored_fleet(facts)
    transitions = store.transitions()
    counts = store.event_counts()
    known = facts.get("sensors", {})
    sensors = tuple(
        _sensor(
            fleet.sensor(sensor_id),
            known.get(sensor_id, {}),
            store.trend(sensor_id),
            store.spectra(sensor_id),
            tuple(t for t in transitions if t.sensor_id == sensor_id),
            counts.get(sensor_id, {}),
        )
        for sensor_id in store.sensor_ids()
    )
    times = [(int(s.trend.end_ns.min()), int(s.trend.end_ns.max())) for s in sensors]
    detection = facts["settings"]["detection"]
    return RunReport(
        title=facts.get("title", ""),
        created=created,
        first_ns=min((first for first, _ in times), default=0),
        last_ns=max((last for _, last in times), default=0),
        model_id=facts["model_id"],
        trained=facts["trained"],
        profile=facts["profile"],
        thresholds=_thresholds(facts["settings"]),
        sensors=sensors,
        cases=tuple(_case(record) for record in store.cases()),
        alert_factor=detection["alert_factor"],
        alarm_factor=detection["alarm_factor"],
        level_alarm=detection["level_alarm"],
    )


def stored_fleet(facts: Mapping[str, Any]) -> Fleet:
    """The fleet that a run was made with."""
    return Fleet(tuple(_info(record) for record in facts.get("fleet", ())))


def _sensor(
    info: SensorInfo,
    known: Mapping[str, Any],
    trend: Trend,
    spectra: Mapping[SpectrumKind, Spectrum],
    transitions: tuple[Transition, ...],
    counts: Mapping[str, int],
) -> SensorReport:
    status: Any = str(trend.status[-1]) if trend.status.size else "learning"
    zone, limits = _iso(info, trend)
    told = trend.status[trend.status != "unknown"]
    return SensorReport(
        sensor_id=info.sensor_id,
        asset=info.asset,
        asset_name=info.asset_name or info.asset,
        name=info.name or info.sensor_id,
        unit=info.unit or known.get("unit", "unknown"),
        sample_rate_hz=known.get("sample_rate_hz", 0.0),
        status=status,
        running_share=float(np.mean(told != "stopped")) if told.size else 0.0,
        trend=trend,
        spectra=spectra,
        transitions=transitions,
        event_counts=counts,
        notes=tuple(filter(None, (baseline_words(known, _utc), *known.get("notes", ())))),
        iso_zone=zone,
        iso_limits=limits,
    )


def _iso(info: SensorInfo, trend: Trend) -> tuple[str, tuple[float, ...]]:
    """Zone of the newest velocities with its edition, and its limits; empty without a verdict."""
    velocity = trend.velocity_mm_s[np.isfinite(trend.velocity_mm_s)]
    if info.iso is None or velocity.size == 0:
        return "", ()
    zone = iso_zone(float(np.median(velocity[-ISO_WINDOWS:])), info.iso)
    where = f"{info.iso.standard} group {info.iso.group}, {info.iso.mounting}"
    return f"{zone} (ISO {where})", iso_limits(info.iso)


def _case(record: Mapping[str, Any]) -> CaseReport:
    return CaseReport(
        case_id=record["case_id"],
        asset=record["asset"],
        asset_name=record["asset_name"],
        severity=Severity(record["severity"]).name.lower(),
        current=Severity(record["current"]).name.lower(),
        opened_ns=record["opened_ns"],
        closed_ns=record["closed_ns"],
        acked=record["acked"],
        sentence=record["sentence"],
        sensors=tuple(sensor["sensor_id"] for sensor in record["sensors"]),
    )


def _thresholds(settings: Mapping[str, Any]) -> tuple[str, ...]:
    learning, detection, delays = settings["learning"], settings["detection"], settings["delays"]
    drift = (
        f"Drift limit: one healthy window in {learning['budget_windows']:,.0f} crosses it by "
        "chance, by the tail of the sensor's own baseline."
    )
    severities = (
        f"Advisory at that limit, alert at {detection['alert_factor']:g} x, alarm at "
        f"{detection['alarm_factor']:g} x, or at {detection['level_alarm']:g} x the baseline RMS."
    )
    lasting = (
        f"Raised when {delays['on_windows']} of {delays['of_windows']} windows are over, for "
        f"{delays['on_delay_s']:g} s; returns after {delays['off_windows']} windows and "
        f"{delays['off_delay_s']:g} s below. Online detectors (advisory only): "
        f"{', '.join(detection['detectors']) or 'none'}."
    )
    return drift, severities, lasting


def _info(record: Mapping[str, Any]) -> SensorInfo:
    iso = record.get("iso")
    return SensorInfo(**{**record, "iso": Iso(**iso) if iso else None})


def _utc(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns / NS_PER_S, UTC).strftime("%Y-%m-%d %H:%M UTC")
