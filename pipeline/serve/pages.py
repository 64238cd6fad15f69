"""Cases and snapshots in; the HTML pages and JSON records of `echowatch serve` out.

A page is one file without scripts and without anything from elsewhere; what comes from messages is
escaped. At most `MAX_SENSORS` sensors are drawn, the others are linked.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlencode

import numpy as np
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from pipeline.report.pictures import utc
from pipeline.serve import pictures
from pipeline.serve.store import Case, Pair
from pipeline.snapshots import Snapshot
from pipeline.wording import band

MAX_SENSORS: Final = 12
MAX_CASES: Final = 100
JSON_VERSION: Final = 1
# What a technician calls a change: a third more, or a third less.
MUCH: Final = 1.33
FIGURES: Final = {
    "rms": "RMS",
    "peak": "peak",
    "crest": "crest factor",
    "kurtosis": "kurtosis",
    "velocity_mm_s": "velocity RMS",
}
UNKNOWN: Final = "\N{EN DASH}"
TIMES: Final = "\N{MULTIPLICATION SIGN}"
REASONS: Final = {"drift": "pattern", "level": "level"}


@dataclass(frozen=True, slots=True)
class Shown:
    """One sensor of a page.

    Attributes:
        evidence: From the case; of a sensor without one its names and status.
        first: Whether it departed first of all.
    """

    evidence: Mapping[str, Any]
    pair: Pair
    first: bool = False


@dataclass(slots=True)
class _Card:
    """What the template draws of one sensor."""

    sensor_id: str
    name: str
    link: str
    tone: str
    first: bool
    facts: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)
    spectrum: Markup = field(default_factory=Markup)
    spectrum_title: str = ""
    whole: list[dict[str, Any]] = field(default_factory=list)
    close: list[dict[str, Any]] = field(default_factory=list)


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_text("serve.html"))


@cache
def _text(name: str) -> str:
    return files("pipeline.serve").joinpath(name).read_text(encoding="utf-8")


@cache
def policy() -> str:
    """Content-Security-Policy of every page: nothing but its own style sheet."""
    digest = base64.b64encode(hashlib.sha256(_text("serve.css").encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )


def _page(kind: str, title: str, **given: Any) -> str:
    style = Markup(_text("serve.css"))  # noqa: S704  (ours)
    return _template().render(kind=kind, title=title, style=style, **given)


def said_page(title: str, words: str, form: str = "") -> str:
    """A page that says one thing.

    Args:
        title: Short.
        words: A sentence.
        form: Where to go on after a login; empty = no login is asked for.
    """
    return _page("said", title, words=words, form=form)


def index_page(cases: Sequence[Case]) -> str:
    """The open cases and the newest closed ones."""
    rows = [
        {
            "name": case["asset_name"],
            "tone": _tone(case),
            "state": case["state"],
            "opened": utc(case["opened_ns"]),
            "sentence": case["sentence"],
            "link": f"/case?{urlencode({'id': case['case_id']})}",
        }
        for case in cases[:MAX_CASES]
    ]
    return _page("index", "Cases", cases=rows, more=max(0, len(cases) - MAX_CASES))


def sensors_of(case: Case) -> list[Mapping[str, Any]]:
    """Sensors to be shown of a case, first out first: those that stand; of a closed one all."""
    standing = [one for one in case["sensors"] if one["current"] != "ok"]
    found: list[Mapping[str, Any]] = standing or case["sensors"]
    return found


def case_page(case: Case, shown: Sequence[Shown], left_out: Sequence[Mapping[str, Any]]) -> str:
    """A case with the pictures of its sensors.

    Args:
        case: As it stands.
        shown: Of `sensors_of`, the first ones.
        left_out: The others.
    """
    where = " / ".join(part for part in (case["plant"], case["area"], case["line"]) if part)
    closed_ns = case["closed_ns"]
    facts = [
        ("since", utc(case["since_ns"])),
        ("opened", utc(case["opened_ns"])),
        ("closed", utc(closed_ns) if closed_ns else ""),
        ("machine", case["asset"]),
        ("at", where),
        ("", "acknowledged" if case.get("acked") is True else "not acknowledged"),
    ]
    return _page(
        "pictures",
        case["asset_name"],
        tone=_tone(case),
        words=case["sentence"],
        facts=[(name, value) for name, value in facts if value],
        sensors=[_card(one, case) for one in shown],
        left_out=[(_link(one["sensor_id"]), one["name"]) for one in left_out],
    )


def sensor_page(shown: Shown, case: Case | None) -> str:
    """The newest pictures of one sensor.

    Args:
        shown: Its pictures.
        case: The newest one that it has a part in.
    """
    card = _card(shown, case)
    facts = [("machine", str((shown.pair.now or shown.pair.healthy or _NOTHING).facts["asset"]))]
    words = "" if case is None else f"Newest case: {case['sentence']}"
    title = card.name
    return _page(
        "pictures", title, tone=card.tone, words=words, facts=facts, sensors=[card], left_out=[]
    )


_NOTHING: Final = Snapshot({"asset": ""}, np.zeros(0, np.int16))


def case_record(
    case: Case, shown: Sequence[Shown], left_out: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What `case_page` shows, as JSON."""
    return {
        "version": JSON_VERSION,
        "case": case,
        "sensors": [_record(one) for one in shown],
        "left_out": [one["sensor_id"] for one in left_out],
    }


def sensor_record(shown: Shown) -> dict[str, Any]:
    """What `sensor_page` shows, as JSON."""
    return {"version": JSON_VERSION, **_record(shown)}


def _record(one: Shown) -> dict[str, Any]:
    return {
        "sensor_id": one.evidence["sensor_id"],
        "name": one.evidence["name"],
        "current": one.evidence["current"],
        "band_hz": one.evidence["band_hz"],
        "now": None if one.pair.now is None else pictures.numbers(one.pair.now),
        "healthy": None if one.pair.healthy is None else pictures.numbers(one.pair.healthy),
    }


def _tone(case: Case) -> str:
    return str(case["current"] if case["state"] == "open" else "closed")


def _link(sensor_id: str) -> str:
    return f"/sensor?{urlencode({'id': sensor_id})}"


def _card(shown: Shown, case: Case | None) -> _Card:
    evidence, pair = shown.evidence, shown.pair
    sensor_id = evidence["sensor_id"]
    card = _Card(
        sensor_id, evidence["name"], _link(sensor_id), evidence["current"], first=shown.first
    )
    share, reason = evidence["band_share"], evidence["reason"]
    if share and evidence["band_hz"][1] > 0.0:
        card.facts.append((band(*evidence["band_hz"]), f"{100 * share:.0f} % of the change"))
    if reason:
        card.facts.append(("judged by", REASONS.get(reason, reason)))
    one = pair.now or pair.healthy
    if one is None:
        card.notes.append("No picture of this sensor is kept.")
        return card
    card.facts.append(("model", one.facts["model_id"]))
    card.facts.append(("rate", f"{one.facts['sample_rate_hz'] / 1000:.4g} kHz"))
    card.notes += _notes(pair, case)
    card.figures = _figures(pair)
    _draw(card, pair, evidence["band_hz"])
    return card


def _notes(pair: Pair, case: Case | None) -> list[str]:
    """What must be known to read the pictures rightly."""
    now, healthy, found = pair.now, pair.healthy, []
    if now is None:
        of = "of the time of this case" if case else "of a departure"
        found.append(f"No picture {of} is kept for this sensor: only its health is shown.")
    if healthy is None:
        found.append("No picture of health is kept for this sensor.")
    both = [one for one in (now, healthy) if one is not None]
    cut = [one for one in both if one.facts["of_samples"] > one.samples.size]
    if cut:
        kept_s = cut[0].samples.size / cut[0].facts["sample_rate_hz"]
        found.append(f"The whole window was longer: its last {kept_s:.3g} s are shown.")
    if now is None or healthy is None:
        return found
    if now.facts["model_id"] != healthy.facts["model_id"]:
        found.append("Health was learnt with another model than the one that judged.")
    if now.facts["unit"] != healthy.facts["unit"]:
        found.append("The unit of the signal has changed since: levels cannot be compared.")
    if healthy.facts["end_ns"] > now.facts["end_ns"]:
        found.append("Health was learnt anew after this departure: it may be another machine now.")
    return found


def _figures(pair: Pair) -> list[dict[str, Any]]:
    rows = []
    for name, words in FIGURES.items():
        now, healthy = _figure(pair.now, name), _figure(pair.healthy, name)
        if now is None and healthy is None:
            continue
        one = pair.now or pair.healthy
        assert one is not None  # noqa: S101  (narrowing: a figure is of a picture)
        unit = pictures.symbol(one.facts["unit"]) if name in ("rms", "peak") else ""
        unit = "mm/s" if name == "velocity_mm_s" else unit
        ratio = now / healthy if now and healthy and now > 0 and healthy > 0 else None
        rows.append(
            {
                "name": words,
                "now": _number(now, unit),
                "healthy": _number(healthy, unit),
                "change": UNKNOWN if ratio is None else f"{TIMES} {_three(ratio)}",
                "much": ratio is not None and not 1 / MUCH < ratio < MUCH,
            }
        )
    return rows


def _figure(one: Snapshot | None, name: str) -> float | None:
    return None if one is None else one.facts[name]


def _number(value: float | None, unit: str) -> str:
    return UNKNOWN if value is None else f"{_three(value)} {unit}".strip()


def _three(value: float) -> str:
    """Three digits, without an exponent where people need none.

    >>> _three(0.04567), _three(12345.6), _three(3.0)
    ('0.0457', '12346', '3')
    """
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def _draw(card: _Card, pair: Pair, band_hz: Sequence[float]) -> None:
    """The plots of a card."""
    both = [(name, one) for name, one in (("now", pair.now), ("healthy", pair.healthy)) if one]
    unit = both[0][1].facts["unit"]
    lines = [(name, *pictures.lines_of(one)) for name, one in reversed(both)]
    card.spectrum = pictures.spectrum_plot(lines, unit, band_hz, f"Spectrum of {card.name}")
    card.spectrum_title = f"Spectrum: {' over '.join(name for name, _ in both)}"
    if band_hz[1] > 0.0:
        card.spectrum_title += "; shaded: band of the change"
    # A bias is the sensor's: it would push the machine to the edge of its plot.
    signals = [(values := one.values()) - values.mean() for _, one in both]
    card.whole = _signals(card, both, signals, "")
    rates = [float(one.facts["sample_rate_hz"]) for _, one in both]
    close = [pictures.closer(s, rate) for s, rate in zip(signals, rates, strict=True)]
    if all(one.size for one in close):
        card.close = _signals(card, both, close, ", closer: around the largest peak")


def _signals(
    card: _Card,
    both: Sequence[tuple[str, Snapshot]],
    signals: Sequence[pictures.Signal],
    words: str,
) -> list[dict[str, Any]]:
    """One plot per signal, all over the same axes."""
    rates = [float(one.facts["sample_rate_hz"]) for _, one in both]
    x = pictures.time_axis(max(s.size / rate for s, rate in zip(signals, rates, strict=True)))
    y = pictures.level_axis(signals, both[0][1].facts["unit"])
    found = []
    for (name, one), signal, rate in zip(both, signals, rates, strict=True):
        curve = pictures.waveform(signal, rate, name)
        title = f"{name.capitalize()}{words}" if words else f"{name.capitalize()}, {_when(one)}"
        picture = pictures.signal_plot(curve, x, y, f"Waveform of {card.name}: {name}")
        found.append({"title": title, "picture": picture})
    return found


def _when(one: Snapshot) -> str:
    status = "" if one.facts["kind"] == "healthy" else f" ({one.facts['status']})"
    return f"{utc(one.facts['end_ns'], seconds=True)}{status}"
