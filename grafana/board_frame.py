"""Rows of panels in, a whole dashboard out: places, numbers, variables, links, annotations."""
# ruff: noqa: INP001  (scripts beside the JSON that they write, no package)

import itertools
from collections.abc import Sequence
from typing import Final

from board_parts import SOURCE, STATES, Json
from board_queries import IN_RANGE, OF_ASSET, select

COLUMNS: Final = 24
SCHEMA: Final = 38
SNAPSHOTS: Final = "http://127.0.0.1:8630"
"""Where `echowatch serve` listens unless told otherwise; `boards.py write --snapshots` says so."""

UIDS: Final = {
    "fleet": "echowatch-fleet",
    "asset": "echowatch-asset",
    "sensor_health": "echowatch-sensor-health",
    "pipeline": "echowatch-pipeline",
    "alarm_kpi": "echowatch-alarm-kpi",
}
TITLES: Final = {
    "fleet": "Fleet",
    "asset": "Asset",
    "sensor_health": "Sensor health",
    "pipeline": "Pipeline",
    "alarm_kpi": "Alarm KPI",
}

Column = tuple[int, Json | Sequence[tuple[int, Json]]]
"""Width, and a panel; or several with their heights, one below the other."""

Row = tuple[int, Sequence[Column]]
"""Height, and what stands there from left to right."""


def laid_out(rows: Sequence[Row]) -> list[Json]:
    """Panels with their places and numbers.

    Raises:
        ValueError: where a row is wider than the board, or a column higher than its row.
    """
    placed: list[Json] = []
    top = 0
    for height, columns in rows:
        left = 0
        for width, content in columns:
            stack = [(height, content)] if isinstance(content, dict) else content
            if left + width > COLUMNS or sum(part for part, _ in stack) > height:
                raise ValueError(
                    f"row {top}: at most {COLUMNS} wide and {height} high, got "
                    f"{left + width} and {[part for part, _ in stack]}"
                )
            down = top
            for part, panel in stack:
                place = {"x": left, "y": down, "w": width, "h": part}
                placed.append({"gridPos": place, **panel})
                down += part
            left += width
        top += height
    return _numbered(_folded(placed))


def _folded(panels: Sequence[Json]) -> list[Json]:
    """The same, with what is below a collapsed heading inside of it."""
    out: list[Json] = []
    into = out
    for panel in panels:
        if panel["type"] == "row":
            out.append({**panel, "panels": []})
            into = out[-1]["panels"] if panel["collapsed"] else out
        else:
            into.append(panel)
    return out


def _numbered(panels: Sequence[Json]) -> list[Json]:
    """The same, each with a number of its own, also inside of headings."""
    numbers = itertools.count(1)

    def number(panel: Json) -> Json:
        own = {"id": next(numbers), **panel}
        if "panels" in panel:
            own["panels"] = [number(inner) for inner in panel["panels"]]
        return own

    return [number(panel) for panel in panels]


def _tag(name: str, *where: str, source: str = "sensor_health") -> str:
    said = f"SHOW TAG VALUES FROM {source} WITH KEY = {name}"
    return f"{said} WHERE {' AND '.join(where)}" if where else said


def _chosen(*tags: str) -> list[str]:
    return [f"{tag} =~ /^${{{tag}:regex}}$/" for tag in tags]


TAG_VALUES: Final = {
    "plant": _tag("plant", "plant != 'quarantine'"),
    "area": _tag("area", *_chosen("plant")),
    "line": _tag("line", *_chosen("plant", "area")),
    "asset": _tag("asset", *_chosen("plant", "area", "line")),
    "sensor": _tag("sensor", *_chosen("plant", "area", "line", "asset")),
}
"""Variable -> its query: each narrows the next."""


def tag_variable(name: str, *, one: bool = False, within: str = "") -> Json:
    """A variable with the values of a tag.

    Args:
        name: Of the tag.
        one: Just one of them, instead of several or all.
        within: Variable with one value that alone narrows it.
    """
    query = _tag(name, f"{within} = '${{{within}:raw}}'") if within else TAG_VALUES[name]
    every = {"text": "All", "value": "$__all"}
    return {
        "type": "query",
        "name": name,
        "label": name.capitalize(),
        "datasource": SOURCE,
        "query": query,
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": not one,
        "includeAll": not one,
        "allValue": None if one else ".*",
        "current": {} if one else every,
        "hide": 0,
        "regex": "",
        "options": [],
    }


def source_variable(name: str, label: str, uid: str, title: str, regex: str, hide: int) -> Json:
    """A variable with data sources of InfluxDB whose name fits `regex`."""
    return {
        "type": "datasource",
        "name": name,
        "label": label,
        "query": "influxdb",
        "current": {"text": title, "value": uid, "selected": True},
        "regex": regex,
        "refresh": 1,
        "hide": hide,
        "multi": False,
        "includeAll": False,
        "options": [],
    }


RAW: Final = source_variable(
    "datasource", "Data", "echowatch-influx", "echowatch", "/^(?!.*, per ).*$/", 0
)
PER_HOUR: Final = source_variable(
    "longterm", "Long term", "echowatch-influx-1h", "echowatch, per hour", "/, per hour$/", 2
)


def constant(name: str, value: str) -> Json:
    """A variable that nobody sees or changes."""
    return {
        "type": "constant", "name": name, "query": value, "hide": 2, "skipUrlSync": True,
        "current": {"text": value, "value": value, "selected": True}, "options": [],
    }  # fmt: skip


def choice(name: str, label: str, about: str, values: Sequence[str], chosen: str) -> Json:
    """A variable with a few values."""
    options = [{"text": one, "value": one, "selected": one == chosen} for one in values]
    return {
        "type": "custom", "name": name, "label": label, "description": about, "hide": 0,
        "query": ",".join(values), "options": options, "multi": False, "includeAll": False,
        "current": {"text": chosen, "value": chosen, "selected": True},
    }  # fmt: skip


def of_plant(snapshots: str, *own: Json, sensors: bool = False) -> list[Json]:
    """The variables of a board of the whole plant.

    Args:
        snapshots: Address of `echowatch serve`, as the browser sees it.
        own: Further ones of the board.
        sensors: Whether sensors can be chosen, too.
    """
    chain = ("plant", "area", "line", "asset") + (("sensor",) if sensors else ())
    return [RAW, *(tag_variable(name) for name in chain), *own, constant("snapshots", snapshots)]


def board_links(own: str) -> list[Json]:
    """Links to the other boards, which keep the time and what was chosen."""
    return [
        {
            "type": "link", "title": TITLES[name], "url": f"/d/{uid}", "icon": "dashboard",
            "asDropdown": False, "includeVars": True, "keepTime": True, "targetBlank": False,
            "tags": [], "tooltip": "",
        }
        for name, uid in UIDS.items()
        if name != own
    ]  # fmt: skip


def annotation(name: str, query: str, colour: str, text: str, *, on: bool = True) -> Json:
    """Marks from a query; `text` is its one column of words.

    Grafana 10 reads the query beside the name, later ones inside of `target`.
    """
    return {
        "name": name,
        "datasource": SOURCE,
        "enable": on,
        "hide": False,
        "iconColor": colour,
        "query": query,
        "textColumn": text,
        "target": {
            "refId": "Anno",
            "fromAnnotations": True,
            "rawQuery": True,
            "textEditor": True,
            "resultFormat": "time_series",
            "query": query,
            "textColumn": text,
        },
    }


def machine_annotations() -> list[Json]:
    """What happened to a machine, and what people did: from InfluxDB, so that replays have it."""
    raised = "(action = 'raise' OR action = 'escalate')"
    said = {
        "Acknowledged": ("ack", "#5794F2"),
        "Shelved": ("shelve", "#CA95E5"),
        "Maintenance": ("maintenance", "#56A64B"),
        "Learnt anew": ("rebaseline", "#73BFB8"),
        "Model changed": ("model", "#FFFFFF"),
    }
    marks = [
        annotation(
            f"{word.capitalize()} raised",
            select("reason", "alarm", IN_RANGE, OF_ASSET, raised, f"state = {code}"),
            colour,
            "reason",
        )
        for code, word, colour in STATES
        if code > 0
    ]
    for name, (kind, colour) in said.items():
        query = select("text", "event", IN_RANGE, OF_ASSET, f"type = '{kind}'")
        marks.append(annotation(name, query, colour, "text"))
    return marks


_FIXED: Final[Json] = {
    "tags": ["echowatch"],
    "schemaVersion": SCHEMA,
    "version": 1,
    "editable": True,
    "graphTooltip": 1,
    "liveNow": False,
    "style": "dark",
    "timezone": "browser",
    "weekStart": "",
    "fiscalYearStartMonth": 0,
}
"""What all boards have in common."""


def board(
    name: str,
    about: str,
    rows: Sequence[Row],
    variables: Sequence[Json],
    *,
    since: str = "now-24h",
    refresh: str = "30s",
    annotations: Sequence[Json] = (),
    links: Sequence[Json] = (),
) -> Json:
    """A dashboard in Grafana's classic JSON.

    Args:
        name: One of `UIDS`.
        about: What it answers, for whom.
        rows: Of panels, from the top.
        variables: In their order.
        since: Begin of its range of time, which ends now.
        refresh: How often it asks again.
        annotations: Marks on its curves.
        links: Beside those to the other boards.
    """
    return {
        "uid": UIDS[name],
        "title": TITLES[name],
        "description": about,
        **_FIXED,
        "time": {"from": since, "to": "now"},
        "timepicker": {"refresh_intervals": ["10s", "30s", "1m", "5m", "15m", "1h"]},
        "refresh": refresh,
        "links": [*board_links(name), *links],
        "annotations": {"list": list(annotations)},
        "templating": {"list": list(variables)},
        "panels": laid_out(rows),
    }
