"""A case in, one plain sentence for a technician out.

Which machine, what changed, since when, who confirms, whether somebody has seen it. No detector
names where words will do; times are UTC unless the caller formats them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pipeline.case_fold import Case, SensorEvidence
from pipeline.messages import Severity

NAMED_SENSORS = 3
_NO_NAMES: Mapping[str, str] = {}


def iso_minute(at_ns: int) -> str:
    """UTC time to the minute.

    >>> iso_minute(1_700_000_000_000_000_000)
    '2023-11-14 22:13 UTC'
    """
    return str(np.datetime64(at_ns // 10**9, "s"))[:16].replace("T", " ") + " UTC"


def band(low_hz: float, high_hz: float) -> str:
    """A frequency band, in Hz below 1 kHz, else in kHz.

    >>> band(6400, 7680), band(0, 640), band(640, 1280)
    ('6.4-7.7 kHz', '0-640 Hz', '0.64-1.3 kHz')
    """
    if high_hz < 1000:
        return f"{low_hz:.0f}-{high_hz:.0f} Hz"
    return f"{_kilo(low_hz)}-{_kilo(high_hz)} kHz"


def sentence(
    case: Case,
    *,
    names: Mapping[str, str] = _NO_NAMES,
    when: Callable[[int], str] = iso_minute,
) -> str:
    """Say a case in plain words.

    Args:
        case: Open or closed.
        names: Asset and sensor id -> name for people; without one, an asset keeps its id and a
            sensor the last part of its id.
        when: Event time (ns) -> text.

    Returns:
        For example `pump-3 / drive end: since 14:20 the 6.4-7.7 kHz band departs from its baseline
        (38 % of the change); fan end confirms since 14:31. Alarm, not acknowledged.`
    """
    asset = names.get(case.asset, case.asset)
    if not case.sensors:
        return f"{asset}: no sensor departs from its baseline."
    shown = case.standing or case.sensors
    first = shown[0]
    parts = [f"{asset} / {_sensor(first.sensor_id, names)}: since {when(first.first_ns)} "]
    parts.append("; ".join(filter(None, [_cause(first), first.detail])))
    others = [f"{_sensor(s.sensor_id, names)} since {when(s.first_ns)}" for s in shown[1:]]
    if others:
        parts.append(f"; confirmed by {_listed(others)}")
    parts.append(f". {_state(case, when)}.")
    suspects = [_sensor(sensor_id, names) for sensor_id in case.suspect]
    if suspects:
        parts.append(f" Not believable now: {_listed(suspects)}.")
    return "".join(parts)


def baseline_words(about: Mapping[str, Any], when: Callable[[int], str] = iso_minute) -> str:
    """What a sensor is compared with, in plain words; empty while it is learnt.

    Args:
        about: From `SensorMonitor.about`.
        when: Event time (ns) -> text.
    """
    learnt = about.get("baseline")
    if not learnt:
        return ""
    unit = "" if about["unit"] == "unknown" else f" {about['unit']}"
    return (
        f"baseline: {learnt['windows']} windows, {when(learnt['first_ns'])} to "
        f"{when(learnt['last_ns'])}, RMS {learnt['rms']:.3g}{unit}, "
        f"drift limit {learnt['limit']:.1f}"
    )


def _cause(evidence: SensorEvidence) -> str:
    """What departed, as the detector that decided saw it."""
    low_hz, high_hz = evidence.band_hz
    where = f"the {band(low_hz, high_hz)} band" if high_hz > 0 else "the signal"
    share = f" ({100 * evidence.band_share:.0f} % of the change)" if evidence.band_share else ""
    if evidence.reason == "level":
        part = "most" if evidence.band_share > 0.5 else "the largest share"
        most = f"; {part} of the change is in {where}{share}" if high_hz > 0 else ""
        limit = f" (limit {evidence.limit:.2g})" if evidence.limit else ""
        return f"the level is {evidence.value:.2g} x its baseline{limit}{most}"
    if evidence.reason in ("", "drift"):
        return f"{where} departs from its baseline{share}"
    return f"{where} behaves otherwise than before{share}, found by {evidence.reason}"


def _state(case: Case, when: Callable[[int], str]) -> str:
    """Severity, and what people have done about it."""
    seen = "acknowledged" if case.acked else "not acknowledged"
    worst = case.severity.name.lower()
    if case.superseded_by:
        return f"Part of case {case.superseded_by}"
    if case.closed_ns is not None:
        return f"Closed {when(case.closed_ns)}, {worst} at worst, {seen}"
    words = [case.current.name.capitalize()]
    if case.current < case.severity:
        words.append(f"{worst} at worst")
    if all(sensor.latched for sensor in case.standing):
        words.append("condition gone")
    words.append(seen)
    if case.shelved:
        words.append(f"shelved until {when(min(s.shelved_until_ns for s in case.standing))}")
    pauses = {s.status for s in case.standing if s.current > Severity.OK}
    if pauses == {"stopped"}:
        words.append("machine stopped")
    return ", ".join(words)


def _sensor(sensor_id: str, names: Mapping[str, str]) -> str:
    return names.get(sensor_id, sensor_id.rsplit("/", 1)[-1])


def _listed(words: list[str]) -> str:
    """Up to three by name, the rest by number."""
    if len(words) > NAMED_SENSORS:
        words = [*words[:NAMED_SENSORS], f"{len(words) - NAMED_SENSORS} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _kilo(hertz: float) -> str:
    return f"{hertz / 1000:.2g}" if hertz < 10_000 else f"{hertz / 1000:.1f}"
