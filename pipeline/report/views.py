"""Records of a report in, the words and pictures that its page shows out."""

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pipeline.report.data import (
    RANKS,
    SEVERE,
    Budget,
    Span,
    fault_spans,
    packed,
    safe_json,
    status_spans,
)
from pipeline.report.pictures import duration, frequency, sparkline, status_bar, utc
from pipeline.report.records import RunReport, SensorReport

# Changes of one sensor that a page lists and marks.
TRANSITIONS_SHOWN = 200
# Statuses in which the newest score tells how things are now.
SCORED = ("ok", *SEVERE)
# Windows over which "now" is taken, so that one window does not make a number.
NOW_WINDOWS = 5


class SensorView(NamedTuple):
    """A sensor with its numbers as words and pictures."""

    sensor: SensorReport
    point: str
    label: str
    link: str
    since: str
    lasts: str
    drift: str
    progress: str
    level: str
    band: str
    trouble: str
    faults: Mapping[str, str]
    quiet: bool
    spark: Markup
    bar: Markup
    history: str
    data: Markup
    rank: tuple[int, float]


class AssetView(NamedTuple):
    """A machine: its sensors, the worst first."""

    asset: str
    name: str
    status: str
    sensors: list[SensorView]

    @property
    def worst(self) -> SensorView:
        """Its sensor that needs attention first."""
        return self.sensors[0]


class Counter(NamedTuple):
    """How many sensors, on how many machines, have a status."""

    status: str
    sensors: int
    machines: int


def anchor(sensor_id: str) -> str:
    """Where in the page a sensor's section lies."""
    return "sensor=" + quote(sensor_id, safe="")


def words(name: str) -> str:
    """Names of faults or reasons as words."""
    return name.replace("_", " ").replace(",", ", ")


def worst_first(view: SensorView) -> tuple[float, float, str]:
    """Sort key: by status, then by how far over the limit, then by id."""
    return (-view.rank[0], -view.rank[1], view.sensor.sensor_id)


def machines(sensors: list[SensorView]) -> list[AssetView]:
    """Groups sensors, the worst first, into machines in the order of their worst sensor."""
    groups: dict[str, list[SensorView]] = {}
    for view in sensors:
        groups.setdefault(view.sensor.asset, []).append(view)
    return [
        AssetView(asset, views[0].sensor.machine, views[0].sensor.status, views)
        for asset, views in groups.items()
    ]


def counters(assets: list[AssetView]) -> list[Counter]:
    """One counter per status, the worst first."""
    return [
        Counter(
            status,
            sum(view.sensor.status == status for asset in assets for view in asset.sensors),
            sum(any(v.sensor.status == status for v in asset.sensors) for asset in assets),
        )
        for status in RANKS[::-1]
    ]


def sensor_view(sensor: SensorReport, run: RunReport, budget: Budget) -> SensorView:
    """One sensor as the page shows it."""
    trend = sensor.trend
    spans = status_spans(trend)
    faults = fault_spans(trend)
    seen = {span.name for span in spans} | {sensor.status}
    since_ns = _since(sensor, spans)
    # What a sensor said before it broke, or its machine stopped, is not how things are now.
    ratio = _now(trend.ratio) if sensor.status in SCORED else float("nan")
    point = sensor.name.removeprefix(sensor.asset + "/")
    return SensorView(
        sensor=sensor,
        point=point,
        label=f"{sensor.machine.rsplit('/', 1)[-1]}: {point}",
        link="#" + anchor(sensor.sensor_id),
        since="" if since_ns is None else utc(since_ns),
        lasts="" if since_ns is None else duration(run.last_ns - since_ns),
        drift="" if np.isnan(ratio) else f"{100 * max(ratio, 0.0):.0f} %",
        progress=_progress(sensor),
        level=_level(sensor),
        band=_band(sensor),
        trouble=_trouble(sensor),
        faults={name: _total(found) for name, found in faults.items()},
        quiet=not seen & {*SEVERE, "unknown"},
        spark=sparkline(trend, run.first_ns, run.last_ns, sensor.status),
        bar=status_bar(spans, run.first_ns, run.last_ns),
        history=_history(spans),
        data=Markup(safe_json(_data(sensor, budget))),  # noqa: S704  (escaped by safe_json)
        rank=(RANKS.index(sensor.status), 0.0 if np.isnan(ratio) else ratio),
    )


def _data(sensor: SensorReport, budget: Budget) -> dict[str, object]:
    marks = [
        [t.at_ns // 1_000_000, t.action] for t in sensor.transitions[-TRANSITIONS_SHOWN:] if t.by
    ]
    return {
        **packed(sensor.trend, sensor.spectra, budget),
        "unit": sensor.unit,
        "iso": sensor.iso_limits,
        "marks": marks,
    }


def _now(values: NDArray[np.float64]) -> float:
    """Median of the newest known values; nan where nothing is known."""
    known = values[np.isfinite(values)][-NOW_WINDOWS:]
    return float(np.median(known)) if known.size else float("nan")


def _since(sensor: SensorReport, spans: list[Span]) -> int | None:
    """When the present status began: where its condition began, if a transition tells."""
    for transition in reversed(sensor.transitions):
        if transition.after == sensor.status and transition.before != sensor.status:
            return transition.since_ns or transition.at_ns
    return spans[-1].start_ns if spans else None


def _level(sensor: SensorReport) -> str:
    rms, times = _now(sensor.trend.rms), _now(sensor.trend.level_ratio)
    if np.isnan(rms) or sensor.status == "unknown":
        return ""
    unit = "" if sensor.unit == "unknown" else f" {sensor.unit}"
    known = sensor.status in SCORED and not np.isnan(times)
    return f"{rms:.3g}{unit}" + (f", {times:.1f} x healthy" if known else "")


def _progress(sensor: SensorReport) -> str:
    """How far a learning sensor has come."""
    done = _now(sensor.trend.learning_pct)
    return f"{done:.0f} % learnt" if sensor.status == "learning" and not np.isnan(done) else ""


def _band(sensor: SensorReport) -> str:
    """Band with most of the drift, for a sensor that drifts."""
    if sensor.status not in SEVERE:
        return ""
    shares = sensor.trend.band_shares
    scored = shares[np.isfinite(shares).all(axis=1)][-NOW_WINDOWS:] if shares.size else shares
    if scored.size and sensor.trend.band_edges_hz:
        mean = scored.mean(axis=0)
        top = int(mean.argmax())
        return f"{frequency(*sensor.trend.band_edges_hz[top])}: {100 * mean[top]:.0f} %"
    return ""


def _trouble(sensor: SensorReport) -> str:
    """What is wrong with a sensor that is not believable."""
    if sensor.status != "unknown":
        return ""
    for transition in reversed(sensor.transitions):
        if transition.after == "unknown" and (transition.why or transition.reason):
            return transition.why or words(transition.reason)
    faults = [text for text in sensor.trend.faults.tolist() if text]
    return words(faults[-1]) if faults else "no reason is on record"


def _total(spans: list[Span]) -> str:
    return duration(sum(span.end_ns - span.start_ns for span in spans))


def _history(spans: list[Span]) -> str:
    """The status bar in words, for those who cannot see it: time spent in each status."""
    length: dict[str, int] = {}
    for span in spans:
        length[span.name] = length.get(span.name, 0) + span.end_ns - span.start_ns
    worst_first = sorted(length, key=RANKS.index, reverse=True)
    return ", ".join(f"{name} {duration(length[name])}" for name in worst_first)
