import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plotly.offline import get_plotlyjs

from pipeline.messages import SpectrumKind, Transition, Trend
from pipeline.report.data import RANKS, safe_json
from pipeline.report.page import CaseReport, RunReport, SensorReport, render
from report_cases import EDGES, HOUR, SPAN, T0, spectrum_of, trend_of

EVIL = '</script><script>alert("x")</script><img src=x onerror=alert(1)> & "Pump" \'7\''


def transitions_of(trend: Trend, asset: str) -> tuple[Transition, ...]:
    found = []
    for i in np.flatnonzero(trend.status[1:] != trend.status[:-1]) + 1:
        before, after = str(trend.status[i - 1]), str(trend.status[i])
        severe = after in {"advisory", "alert", "alarm"}
        action = "escalate" if severe and before != "ok" else "raise" if severe else "start"
        at_ns = int(trend.end_ns[i])
        found.append(
            Transition(
                transition_id=f"{trend.sensor_id}|{at_ns}|{after}|{action}",
                sensor_id=trend.sensor_id,
                asset=asset,
                at_ns=at_ns,
                since_ns=int(trend.end_ns[max(0, i - 5)]),
                before=before,
                after=after,
                action="sensor_bad" if after == "unknown" else action,
                reason=str(trend.faults[i]) or "drift",
                value=float(np.nan_to_num(trend.score[i])),
                limit=6.4 if severe else 0.0,
                band_hz=EDGES[2] if severe else (0.0, 0.0),
                band_share=0.62 if severe else 0.0,
                why="signal has been constant for 0.98 s: check cable and supply"
                if after == "unknown"
                else "",
            )
        )
    severe = [t for t in found if t.after == "alarm"]
    if severe:
        at_ns = severe[-1].at_ns + 2 * HOUR
        found.append(replace(severe[-1], at_ns=at_ns, before="alarm", action="ack", by="m. rossi"))
    return tuple(found)


def sensor_of(asset: str, point: str, kind: str, seed: int = 0, **more: Any) -> SensorReport:
    sensor_id = f"{asset}/{point}"
    trend = trend_of(kind, seed, more.pop("n", 864), sensor_id)
    kinds: tuple[SpectrumKind, ...] = ("healthy", "latest")
    if kind == "bearing":
        kinds += ("alarm",)
    facts: dict[str, Any] = {
        "sensor_id": sensor_id,
        "asset": asset,
        "name": point.replace("_", " "),
        "unit": "g",
        "sample_rate_hz": 25_600.0,
        "status": str(trend.status[-1]),
        "running_share": float(np.mean(trend.status != "stopped")),
        "trend": trend,
        "spectra": {k: spectrum_of(k, worn=kind == "bearing" and k != "healthy") for k in kinds},
        "transitions": transitions_of(trend, asset),
        "event_counts": {"gap": 3, "clock_step": 1} if kind == "broken" else {},
        "notes": ("level grew 1.7 x during learning: the baseline may be worn",)
        * (kind == "level"),
        "iso_zone": "C (10816-3 group 2, rigid)" if kind == "bearing" else "",
        "iso_limits": (1.4, 2.8, 4.5) if kind == "bearing" else (),
    }
    return SensorReport(**{**facts, **more})


def small_plant() -> tuple[SensorReport, ...]:
    return (
        sensor_of("north/water/pump-12", "drive_end", "bearing", 1),
        sensor_of("north/water/pump-12", "free_end", "level", 2),
        sensor_of("north/water/pump-13", "drive_end", "ok", 3),
        sensor_of("north/air/fan-3", "bearing_1", "broken", 4),
        sensor_of("north/air/fan-3", "bearing_2", "ok", 5),
        sensor_of("north/air/compressor-1", "gearbox", "learning", 6),
        sensor_of("north/press/press-9", "ram", "stopped", 7),
        sensor_of("north/press/press-10", "ram", "ok", 8),
    )


def case_of(sensors: tuple[str, ...], **more: Any) -> CaseReport:
    facts: dict[str, Any] = {
        "case_id": "north-water-pump-12-1",
        "asset": "north/water/pump-12",
        "severity": "alarm",
        "current": "alarm",
        "opened_ns": T0 + 46 * HOUR,
        "closed_ns": None,
        "acked": False,
        "sentence": "The signal of drive end changed slowly since 5 Jan 06:10, mostly at "
        "3.2-4.8 kHz, and its level is 2.9 times the healthy one: check the bearing.",
        "sensors": sensors,
    }
    return CaseReport(**{**facts, **more})


def run_of(sensors: tuple[SensorReport, ...], **more: Any) -> RunReport:
    cases = (
        case_of(tuple(s.sensor_id for s in sensors if s.status in {"alarm", "advisory"})[:2]),
        case_of(
            (sensors[-1].sensor_id,),
            case_id="north-press-press-10-1",
            asset="north/press/press-10",
            severity="advisory",
            current="ok",
            opened_ns=T0 + 20 * HOUR,
            closed_ns=T0 + 26 * HOUR,
            acked=True,
            sentence="The level of ram rose for 6 h and came back by itself.",
        ),
    )
    facts: dict[str, Any] = {
        "title": "Plant north",
        "created": "2026-01-08 08:00 UTC",
        "first_ns": T0,
        "last_ns": T0 + SPAN,
        "model_id": "echo-small-sim-1",
        "trained": True,
        "profile": "balanced",
        "thresholds": (
            "advisory: 3 of 3 windows over the limit for 10 min",
            "alert: 1.5 x the limit",
            "alarm: 2 x the limit, or level 2 x healthy; stays until acknowledged",
        ),
        "sensors": sensors,
        "cases": cases,
    }
    return RunReport(**{**facts, **more})


def big_plant() -> tuple[SensorReport, ...]:
    special = {17: "bearing", 60: "level", 91: "broken", 92: "broken", 140: "learning"}
    return tuple(
        sensor_of(
            f"north/hall-{i // 40 + 1}/machine-{i // 3 + 1:02d}",
            f"point_{i % 3 + 1}_{i:03d}",
            special.get(i, "ok"),
            i,
            n=1800,
        )
        for i in range(200)
    )


class Page(HTMLParser):
    """A report without plotly's own text: its elements, texts and scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(html.replace(get_plotlyjs(), "/*plotly*/"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002  (HTMLParser's)
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def sections(self) -> dict[str, str]:
        found = [a for tag, a in self.tags if tag == "details" and "data-sensor" in a]
        return {a["data-sensor"]: a["data-status"] for a in found}

    def ids(self) -> set[str]:
        return {attrs["id"] for _, attrs in self.tags if "id" in attrs}


@pytest.fixture(scope="module")
def small() -> str:
    return render(run_of(small_plant()))


@pytest.fixture(scope="module")
def big() -> str:
    return render(run_of(big_plant()))


def test_every_sensor_is_shown_with_its_status(small: str) -> None:
    page = Page(small)
    assert page.sections == {s.sensor_id: s.status for s in small_plant()}
    assert all(s.name in page.text for s in small_plant())


def test_a_plant_of_200_sensors_stays_below_25_megabytes(big: str) -> None:
    assert len(big.encode()) < 25e6
    page = Page(big)
    statuses = list(page.sections.values())
    assert len(statuses) == 200
    assert statuses[:3] == ["alarm", "unknown", "unknown"]
    assert len([a for tag, a in page.tags if a.get("type") == "application/json"]) == 201
    assert sum(tag == "rect" for tag, _ in page.tags) < 200 * 30


def test_nothing_is_fetched_from_anywhere(small: str) -> None:
    own = small.replace(get_plotlyjs(), "")
    assert not re.search(r"<script[^>]*\ssrc|<link|@import|url\(\s*[\"']?(?!#)|https?://", own)
    fetching = {"src", "srcset", "action", "formaction", "poster", "data", "background"}
    for tag, attrs in Page(small).tags:
        assert not fetching & set(attrs), tag
        assert attrs.get("href", "#").startswith("#")


def test_only_our_two_scripts_may_run(small: str) -> None:
    page = Page(small)
    policy = next(
        a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    texts = (get_plotlyjs(), page.scripts[-1])
    sums = (base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in texts)
    assert allowed == set(sums)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy.split("script-src")[1].split(";")[0]


def test_hostile_names_stay_text() -> None:
    clean, evil = sensor_of("a/b", "p", "bearing", n=200), sensor_of("a/b", "q", "broken", n=200)
    evil = replace(
        evil,
        sensor_id=EVIL,
        asset=EVIL,
        asset_name=EVIL,
        name=EVIL,
        unit=EVIL,
        notes=(EVIL,),
        iso_zone=EVIL,
        event_counts={EVIL: 2},
        transitions=tuple(replace(t, why=EVIL, by=EVIL, reason=EVIL) for t in evil.transitions),
        trend=replace(evil.trend, faults=np.where(evil.trend.faults == "", "", EVIL)),
    )
    case = case_of((EVIL,), case_id=EVIL, asset=EVIL, sentence=EVIL)
    facts = {"title": EVIL, "model_id": EVIL, "profile": EVIL, "created": EVIL}
    hurt = render(run_of((clean, evil), cases=(case,), thresholds=(EVIL,), **facts))
    page = Page(hurt)
    kinds = [attrs.get("type", "") for tag, attrs in page.tags if tag == "script"]
    assert kinds == ["application/json"] * 3 + ["text/plain", ""]
    assert not any(tag == "img" or "onerror" in attrs for tag, attrs in page.tags)
    assert page.sections[EVIL] == "unknown"
    assert page.text.count("<img src=x") > 10
    assert all("<" not in script for script in page.scripts[:3])
    assert json.loads(page.scripts[1])["unit"] == EVIL


def test_every_link_leads_to_a_place_in_the_page(small: str) -> None:
    page = Page(small)
    targets = {attrs["href"][1:] for _, attrs in page.tags if attrs.get("href", "#") != "#"}
    assert targets <= page.ids()
    assert {unquote(t.removeprefix("sensor=")) for t in targets if "=" in t} == set(page.sections)


def test_an_untrained_encoder_is_said_aloud(small: str) -> None:
    warning = "scores come from an untrained fixed-seed encoder"
    assert warning not in Page(small).text
    assert warning in Page(render(run_of(small_plant()[:1], trained=False))).text


def test_the_page_says_that_it_protects_nothing(small: str) -> None:
    assert "Not a protection system" in Page(small).text


def test_machines_are_sorted_worst_first(small: str) -> None:
    rows = [a["class"] for tag, a in Page(small).tags if tag == "tr" and "data-row" in a]
    statuses = [name.removeprefix("s-") for name in rows]
    assert statuses == sorted(statuses, key=RANKS.index, reverse=True)
    assert statuses[0] == "alarm"


def test_the_headline_names_the_machine_that_needs_attention(small: str) -> None:
    assert "1 machine needs attention: north/water/pump-12" in Page(small).text
    calm = render(run_of(small_plant()[2:]))
    assert "No machine in alarm" in Page(calm).text


def test_machines_of_one_name_are_not_merged() -> None:
    plant = small_plant()[:3]
    run = run_of(tuple(replace(s, asset_name="Pump") for s in plant))
    assert "<b>2</b> machines" in render(run)


def test_an_unbelievable_sensor_shows_no_present_score_and_its_reason(small: str) -> None:
    section = small.split('data-sensor="north/air/fan-3/bearing_1"')[1].split(
        "<script", maxsplit=1
    )[0]
    summary = section.split("</summary>")[0]
    assert "unknown" in summary
    assert "%" not in summary
    assert "check cable and supply" in section
    assert "Sensors to check" in small


def test_colour_never_stands_alone(small: str) -> None:
    badges = re.findall(r'<span class="badge s-(\w+)"><svg.*?#i-(\w+)".*?</svg>(\w+)</span>', small)
    assert len(badges) == small.count('class="badge ')
    assert all(colour == shape == word for colour, shape, word in badges)


def test_open_cases_come_first_and_tell_their_age(small: str) -> None:
    text = Page(small).text
    listed = text.split("Open cases")[1]
    assert listed.index("pump-12") < listed.index("1 closed case") < listed.index("press-10")
    assert "open for 1 d 2 h" in text
    assert "now alarm, not acknowledged" in text


def test_a_run_without_sensors_or_windows_still_renders() -> None:
    empty = replace(run_of(small_plant()[:1]), sensors=(), cases=())
    assert "No machine in alarm" in render(empty)
    trend = trend_of("ok", n=10)
    none = {
        name: getattr(trend, name)[:0]
        for name in Trend.__slots__
        if isinstance(getattr(trend, name), np.ndarray)
    }
    sensor = replace(small_plant()[0], trend=replace(trend, **none), spectra={}, transitions=())
    one = replace(sensor, sensor_id="one", trend=trend_of("ok", n=1))
    assert set(Page(render(run_of((sensor, one), cases=()))).sections) == {sensor.sensor_id, "one"}


def test_sensor_ids_must_be_unique() -> None:
    with pytest.raises(ValueError, match="unique, got twice: north/water/pump-12/drive_end"):
        render(run_of((small_plant()[0],) * 2))


@given(st.text())
def test_embedded_json_says_the_same_and_closes_no_element(text: str) -> None:
    written = safe_json({"x": text})
    assert json.loads(written) == {"x": text}
    assert not set("<>&") & set(written)
