"""Titles, words and queries in, Grafana's JSON of panels and variables out.

Classic dashboards of schema version 38, which Grafana 10 to 13 read, with core panels only. What a
colour means is said once, here: the states of docs/influx.md look the same on every board.
"""  # noqa: INP001  (scripts beside the JSON that they write, no package)

from collections.abc import Mapping, Sequence
from typing import Any, Final

Json = dict[str, Any]

SOURCE: Final[Json] = {"type": "influxdb", "uid": "${datasource}"}
LONG_TERM: Final[Json] = {"type": "influxdb", "uid": "${longterm}"}

GREEN, YELLOW, ORANGE, RED = "#3F833D", "#F2CC0C", "#FF780A", "#E02F44"
BLUE, GREY, PURPLE, QUIET = "#3274D9", "#6E7683", "#8F3BB8", "#8e9299"

STATES: Final = (
    (3, "alarm", RED),
    (2, "alert", ORANGE),
    (1, "advisory", YELLOW),
    (0, "ok", GREEN),
    (-1, "learning", BLUE),
    (-2, "stopped", GREY),
    (-3, "unknown", PURPLE),
)
"""Status code, word, colour: of docs/influx.md. What says nothing is never green or red."""

Mappings = list[Json]


def words(pairs: Sequence[tuple[int | str, str, str]]) -> Mappings:
    """Value mappings: value -> text and colour; without colour where that is empty."""
    options = {
        str(value): {"text": text, "index": index} | ({"color": colour} if colour else {})
        for index, (value, text, colour) in enumerate(pairs)
    }
    return [{"type": "value", "options": options}]


STATE_WORDS: Final = words(STATES)
ZONE_WORDS: Final = words(((0, "A", GREEN), (1, "B", "#7E9C3A"), (2, "C", ORANGE), (3, "D", RED)))


def _shortened(pattern: str) -> Mappings:
    return [
        {"type": "regex", "options": {"pattern": pattern, "result": {"text": "$1", "index": 0}}}
    ]


# Ids are shown by what a person says of them, links get them whole.
LAST: Final = "^(?:.*/)?([^/]+)$"
LAST_TWO: Final = "^(?:.*/)?([^/]+/[^/]+)$"
LAST_THREE: Final = "^(?:.*/)?([^/]+/[^/]+/[^/]+)$"
SHORTEST_ASSET: Final = _shortened(LAST)
SHORT_ASSET: Final = _shortened(LAST_TWO)
SHORT_SENSOR: Final = _shortened(LAST_THREE)
YES_NO: Final = words((("true", "yes", ""), ("false", "no", "")))


UNSCORED: Final = "No score here: what runs is being learnt, the rest stands still"
"""What an empty panel of scores means."""


def steps(*pairs: tuple[float | None, str]) -> Json:
    """Thresholds: each colour from its value on; the first has None."""
    return {
        "mode": "absolute",
        "steps": [{"value": value, "color": colour} for value, colour in pairs],
    }


PLAIN: Final = steps((None, "text"))


def ask(
    query: str, alias: str = "", *, ref: str = "A", table: bool = False, of: Json = SOURCE
) -> Json:
    """One query of a panel.

    Args:
        query: InfluxQL.
        alias: Name of each series, of its tags.
        ref: Letter within the panel.
        table: Rows instead of series over time.
        of: Data source.
    """
    return {
        "refId": ref,
        "datasource": of,
        "rawQuery": True,
        "query": query,
        "resultFormat": "table" if table else "time_series",
        "alias": alias,
    }


def panel(
    kind: str,
    title: str,
    about: str,
    targets: Sequence[Json],
    *,
    options: Mapping[str, Any] | None = None,
    field: Mapping[str, Any] | None = None,
    overrides: Sequence[Json] = (),
    transform: Sequence[Json] = (),
    empty: str = "",
    **more: Any,
) -> Json:
    """A panel, without place and number.

    Args:
        kind: Core panel type.
        title: Names what is shown.
        about: Explains it to its reader.
        targets: From `ask`.
        options: Of the panel type.
        field: Defaults of all fields (unit, mappings, thresholds ...).
        overrides: From `override`.
        transform: Transformations, in order.
        empty: What an empty result means, where that is good news.
        more: Further keys of the panel.
    """
    said = {"noValue": empty} if empty else {}
    field = {"thresholds": PLAIN, **(field or {}), **said}
    return {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": targets[0]["datasource"] if targets else SOURCE,
        "targets": list(targets),
        "options": dict(options or {}),
        "fieldConfig": {"defaults": field, "overrides": list(overrides)},
        "transformations": list(transform),
        **more,
    }


def override(name: str, **properties: Any) -> Json:
    """Properties of the field of this name; `__` in a key stands for a dot."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [
            {"id": key.replace("__", "."), "value": value} for key, value in properties.items()
        ],
    }


def link(title: str, url: str, *, new_tab: bool = False) -> Json:
    """A data link."""
    return {"title": title, "url": url, "targetBlank": new_tab}


# Grafana before 10.2 puts the measurement before the name of a table's column.
BARE: Final[Json] = {
    "id": "renameByRegex",
    "options": {"regex": "^[a-z_]+\\.(.+)$", "renamePattern": "$1"},
}


def short_names(pattern: str) -> Json:
    """Names of series, shortened likewise."""
    return {"id": "renameByRegex", "options": {"regex": pattern, "renamePattern": "$1"}}


def columns(names: Mapping[str, str], *, keep_time: bool = False, drop: Sequence[str] = ()) -> Json:
    """Order and names of a table's columns.

    Args:
        names: Column -> heading, in their order.
        keep_time: Whether the time of a row is shown; a subquery has none worth it.
        drop: Columns that are not shown.
    """
    times = [f"{word}{number}" for word in ("Time", "time") for number in ("", " 1", " 2")]
    hidden = drop if keep_time else (*times, *drop)
    return {
        "id": "organize",
        "options": {
            "excludeByName": dict.fromkeys(hidden, True),
            "indexByName": {name: index for index, name in enumerate(names)},
            "renameByName": {name: title for name, title in names.items() if name != title},
        },
    }


def by_worst(field: str, *, down: bool = True) -> Json:
    """Rows sorted by a column; stable, so that the last of several sorts leads."""
    return {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": field, "desc": down}]}}


def count_stat(title: str, about: str, query: str, colour: str, **more: Any) -> Json:
    """A number that is quiet at none and coloured from one on."""
    return panel(
        "stat",
        title,
        about,
        [ask(query)],
        options=stat_options(graph=False, colour="background"),
        field={"thresholds": steps((None, "transparent"), (1, colour)), "decimals": 0},
        empty="0",
        **more,
    )


def stat_options(*, graph: bool = False, colour: str = "value", every: bool = False) -> Json:
    """Options of a stat panel.

    Args:
        graph: Whether a small curve lies behind the number.
        colour: What is coloured: value, background or none.
        every: A number for each row instead of the last one.
    """
    return {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": every, "limit": 60},
        "orientation": "auto",
        "textMode": "auto",
        "colorMode": colour,
        "graphMode": "area" if graph else "none",
        "justifyMode": "center",
    }


def states_over_time(
    title: str,
    about: str,
    targets: Sequence[Json],
    mappings: Mappings = STATE_WORDS,
    **more: Any,
) -> Json:
    """A row per series, coloured by its state."""
    return panel(
        "state-timeline",
        title,
        about,
        targets,
        options={
            "mergeValues": True,
            "showValue": "never",
            "alignValue": "left",
            "rowHeight": 0.86,
            "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "single", "sort": "none"},
        },
        field={"mappings": mappings, "custom": {"lineWidth": 0, "fillOpacity": 90}},
        **more,
    )


def heat(  # noqa: D417  (the others are those of panel)
    title: str,
    about: str,
    targets: Sequence[Json],
    *,
    unit: str = "",
    scale: Mapping[str, Any] | None = None,
    names_px: int = 150,
    legend: bool = True,
    downwards: bool = False,
    **more: Any,
) -> Json:
    """Series as rows, their values as colours over time.

    Args:
        title, about, targets, more: As for `panel`.
        unit: Of the names of the series, where these are numbers.
        scale: Colours, where not from nothing to orange.
        names_px: Room for the names.
        legend: Whether the scale is shown.
        downwards: Whether the first series is on top.
    """
    colour = {"mode": "opacity", "fill": ORANGE, "scale": "exponential", "exponent": 2}
    axis = {"axisPlacement": "left", "axisWidth": names_px, "unit": unit, "reverse": downwards}
    options = {
        "calculate": False,
        "cellGap": 0,
        "cellValues": {"decimals": 2},
        "color": colour | dict(scale or {}),
        # Levels in dB may be negative; what is at most this is not drawn.
        "filterValues": {"le": -1e9},
        "legend": {"show": legend},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"show": True, "yHistogram": False},
        "yAxis": axis,
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
    }
    return panel("heatmap", title, about, targets, options=options, **more)


def lines(  # noqa: D417  (the others are those of panel)
    title: str,
    about: str,
    targets: Sequence[Json],
    *,
    unit: str = "none",
    legend: str = "list",
    custom: Mapping[str, Any] | None = None,
    field: Mapping[str, Any] | None = None,
    **more: Any,
) -> Json:
    """Curves over time.

    Args:
        title, about, targets, more: As for `panel`.
        unit: Of the values.
        legend: `list`, `table` (with the last and the largest value), or `hidden`.
        custom: How they are drawn.
        field: Further defaults of the fields.
    """
    drawn = {
        "drawStyle": "line", "lineWidth": 1, "fillOpacity": 0, "showPoints": "never",
        "spanNulls": False, **(custom or {}),
    }  # fmt: skip
    # Ticks that need more decimals than there are would read as the words for nothing.
    if more.get("empty"):
        field = {key: value for key, value in (field or {}).items() if key != "decimals"}
    return panel(
        "timeseries",
        title,
        about,
        targets,
        options={"legend": _legend(legend), "tooltip": {"mode": "multi", "sort": "desc"}},
        field={"unit": unit, "custom": drawn, **(field or {})},
        **more,
    )


def _legend(kind: str) -> Json:
    shown, table = kind != "hidden", kind == "table"
    return {
        "showLegend": shown,
        "displayMode": kind if shown else "list",
        "placement": "right" if table else "bottom",
        "calcs": ["lastNotNull", "max"] if table else [],
    }


def rows(
    title: str, about: str, targets: Sequence[Json], transform: Sequence[Json], **more: Any
) -> Json:
    """A table."""
    # What an empty table says would also stand in each cell without words.
    blank = {
        "matcher": {"id": "byType", "options": "string"},
        "properties": [{"id": "noValue", "value": " "}],
    }
    overrides = [blank, *more.pop("overrides", ())]
    return panel(
        "table",
        title,
        about,
        targets,
        options={"showHeader": True, "cellHeight": "sm", "footer": {"show": False}},
        overrides=overrides,
        transform=[BARE, *transform],
        **more,
    )


def heading(title: str, *, collapsed: bool = False, **more: Any) -> Json:
    """A row that names what is below it; collapsed, it hides it until it is asked for."""
    return {"type": "row", "title": title, "collapsed": collapsed, "panels": [], **more}
