"""The results of a run in, one self-contained HTML page out.

The page opens by double click, without a network: plotly.js, style and data lie inside it, and its
content security policy lets no other script run and nothing be fetched. The overview is plain HTML
and SVG; the plots of a sensor are drawn when its section is opened. All times are UTC event times.
"""

import base64
import hashlib
from functools import cache
from importlib.resources import files

import numpy as np
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from pipeline.report.data import RANKS, Budget, safe_json
from pipeline.report.pictures import duration, frequency, ticks, utc
from pipeline.report.records import CaseReport, RunReport, SensorReport
from pipeline.report.views import (
    TRANSITIONS_SHOWN,
    anchor,
    counters,
    machines,
    sensor_view,
    words,
    worst_first,
)

__all__ = ["CaseReport", "RunReport", "SensorReport", "render"]

# Rows of a list that are shown without being asked for when they report nothing.
QUIET_SHOWN = 12


def render(run: RunReport) -> str:
    """The whole page.

    Args:
        run: What to show; all texts are escaped.

    Raises:
        ValueError: where two sensors have the same id.
    """
    ids = [sensor.sensor_id for sensor in run.sensors]
    if len(set(ids)) != len(ids):
        twice = sorted({one for one in ids if ids.count(one) > 1})
        raise ValueError(f"sensor ids must be unique, got twice: {', '.join(twice)}")
    budget = Budget.share(len(ids))
    sensors = sorted((sensor_view(s, run, budget) for s in run.sensors), key=worst_first)
    assets = machines(sensors)
    scripts = {"plotly": _plotly(), "app": _text("report.js")}
    limits = {
        "alert": run.alert_factor,
        "alarm": run.alarm_factor,
        "level": run.level_alarm if np.isfinite(run.level_alarm) else None,
    }
    return _template().render(
        run=run,
        sensors=sensors,
        assets=assets,
        loud=[a for a in assets if not all(s.quiet for s in a.sensors)],
        counters=counters(assets),
        cases=sorted(run.cases, key=_case_order),
        windows=sum(s.trend.end_ns.size for s in run.sensors),
        ticks=ticks(run.first_ns, run.last_ns),
        limits=Markup(safe_json(limits)),  # noqa: S704  (escaped by safe_json)
        style=Markup(_text("report.css")),  # noqa: S704  (our own file)
        scripts={name: Markup(text) for name, text in scripts.items()},  # noqa: S704  (ours, plotly's)
        policy=_policy(tuple(scripts.values())),
        quiet_shown=QUIET_SHOWN,
        transitions_shown=TRANSITIONS_SHOWN,
        ranks=RANKS[::-1],
    )


def _text(name: str) -> str:
    return files("pipeline.report").joinpath(name).read_text(encoding="utf-8").replace("\r\n", "\n")


@cache
def _plotly() -> str:
    return str(get_plotlyjs()).replace("\r\n", "\n")


def _template() -> Template:
    page = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page.filters.update(utc=utc, duration=duration, anchor=anchor, words=words)
    page.globals.update(frequency=frequency, utc=utc)
    return page.from_string(_text("report.html"))


def _policy(scripts: tuple[str, ...]) -> str:
    """Content security policy: our two scripts by their hash, nothing from anywhere else."""
    hashes = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _case_order(case: CaseReport) -> tuple[bool, int, int]:
    """Open before closed, worse before better, newer before older."""
    rank = RANKS.index(case.severity) if case.severity in RANKS else 0
    return (case.closed_ns is not None, -rank, -case.opened_ns)
