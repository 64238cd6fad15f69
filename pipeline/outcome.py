"""A store's content in, what a person wants to know at the end of a run out, JSON-able."""

from typing import Any, Protocol

import numpy as np

from pipeline.embedded import Progress
from pipeline.messages import NS_PER_S, Trend


class Results(Protocol):
    """What is asked of a store."""

    def facts(self) -> dict[str, Any]:
        """Named JSON values."""

    def summary(self) -> dict[str, int]:
        """Counts of windows, sensors, transitions and events."""

    def sensor_ids(self) -> list[str]:
        """All sensors with windows."""

    def trend(self, sensor_id: str) -> Trend:
        """All windows of one sensor."""

    def cases(self) -> list[dict[str, Any]]:
        """Case records."""


def outcome(store: Results, progress: Progress, *, timed: bool) -> dict[str, Any]:
    """Cases worst first, sensor faults, what still learns, and how much was judged.

    Args:
        store: After the last commit.
        progress: Of the run that ended.
        timed: Whether the times of the recordings mean something.
    """
    facts = store.facts()
    cases = sorted(store.cases(), key=lambda case: (-case["severity"], case["opened_ns"]))
    trends = [store.trend(sensor_id) for sensor_id in store.sensor_ids()]
    return {
        **store.summary(),
        "finished": progress.finished,
        "processed_windows": progress.windows,
        "first_ns": min((int(trend.end_ns[0]) for trend in trends), default=0),
        "last_ns": max((int(trend.end_ns[-1]) for trend in trends), default=0),
        "timed": timed,
        "open_cases": sum(case["closed_ns"] is None for case in cases),
        "cases": cases,
        "baselines": _baselines(facts.get("sensors", {}), cases),
        "sensor_faults": [fault for trend in trends for fault in _faults(trend)],
        "still_learning": [row for trend in trends for row in _learning(trend)],
        **{name: facts[name] for name in ("profile", "model_id", "trained")},
    }


def _baselines(
    sensors: dict[str, dict[str, Any]], cases: list[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """What the sensors of the cases are compared with."""
    named = [sensor["sensor_id"] for case in cases for sensor in case["sensors"]]
    return {sensor_id: sensors[sensor_id] for sensor_id in named if sensor_id in sensors}


def _faults(trend: Trend) -> list[dict[str, Any]]:
    """One record per kind of fault: how many windows it spoilt, and the first of them."""
    at: dict[str, list[int]] = {}
    for index in np.flatnonzero(trend.faults != ""):
        for name in str(trend.faults[index]).split(","):
            at.setdefault(name, []).append(int(index))
    return [
        {
            "sensor_id": trend.sensor_id,
            "fault": name,
            "windows": len(found),
            "of_windows": int(trend.end_ns.size),
            "first_ns": int(trend.end_ns[found[0]]),
            "until_the_end": bool(found[-1] == trend.end_ns.size - 1),
        }
        for name, found in at.items()
    ]


def _learning(trend: Trend) -> list[dict[str, Any]]:
    """A sensor whose last known state is learning, and how far it came."""
    known = trend.status[trend.status != "unknown"]
    if known.size and known[-1] != "learning":
        return []
    percent = trend.learning_pct[np.isfinite(trend.learning_pct)]
    return [
        {
            "sensor_id": trend.sensor_id,
            "learning_pct": round(float(percent[-1]), 1) if percent.size else 0.0,
            "span_s": round(float(trend.end_ns[-1] - trend.end_ns[0]) / NS_PER_S, 3),
        }
    ]
