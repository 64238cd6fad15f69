"""Boards in, what is wrong with them out: in words, nothing where all is well.

What Grafana would only show at a panel, or never: a name that the writer does not write, a data
source of one machine, a variable that is not there, a panel without words.
"""  # noqa: INP001  (scripts beside the JSON that they write, no package)

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Final

from board_frame import COLUMNS, UIDS
from board_parts import Json

from pipeline.point_schema import SCHEMA
from pipeline.services.influx_tasks import rolled_fields

CORE: Final = frozenset({
    "bargauge", "heatmap", "row", "stat", "state-timeline", "status-history", "table", "text",
    "timeseries",
})  # fmt: skip
"""Panel types that every Grafana from 10 to 13 has."""

_WORDS: Final = frozenset({
    "select", "from", "where", "group", "by", "fill", "and", "or", "as", "order", "desc", "limit",
    "time", "none", "null", "previous", "show", "tag", "values", "with", "key", "true", "false",
})  # fmt: skip
_FUNCTIONS: Final = frozenset({
    "abs", "ceil", "count", "distinct", "last", "max", "mean", "min", "non_negative_difference",
    "spread", "sum",
})  # fmt: skip
_OWN: Final = re.compile(r"\$\{(\w+)(?::\w+)?\}|\$(\w+)")
_GIVEN: Final = frozenset({"__from", "__to", "__interval", "__interval_ms", "timeFilter"})


def panels_of(board: Json) -> Iterator[Json]:
    """Every panel, also those inside of headings; headings, too."""
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels", ())


def targets_of(board: Json) -> Iterator[tuple[Json, Json]]:
    """Each panel with each of its queries."""
    for panel in panels_of(board):
        for target in panel.get("targets", ()):
            yield panel, target


def queries_of(board: Json) -> Iterator[tuple[str, str, bool]]:
    """Where a query stands, its text, and whether it asks a rollup."""
    for panel, target in targets_of(board):
        uid = target["datasource"]["uid"]
        yield f"panel {panel['title']}", target["query"], uid == "${longterm}"
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield f"variable {variable['name']}", variable["query"], False
    for mark in board["annotations"]["list"]:
        yield f"annotation {mark['name']}", mark["target"]["query"], False


def unknown_names(query: str, *, rolled: bool = False) -> list[str]:
    """Names in a query that the measurement does not have, in words.

    Args:
        query: InfluxQL with variables.
        rolled: Whether it asks a rollup, whose fields have endings.

    >>> unknown_names("SELECT last(okay) AS ok FROM sensor_health WHERE sensor = 'x'")
    ['sensor_health has no okay']
    >>> unknown_names("SELECT ok FROM sensors")
    ['there is no measurement sensors']
    """
    plain = re.sub(r"'[^']*'|~ /[^/]*/|\$\{[^}]*\}(ms\b)?|\$\w+|\b\d+[a-z]*\b", " ", query)
    measurements = set(re.findall(r"\bFROM (\w+)", plain, re.IGNORECASE))
    made = set(re.findall(r"\bAS (\w+)", plain, re.IGNORECASE))
    called = set(re.findall(r"\b(\w+)\(", plain))
    found = [f"there is no measurement {name}" for name in sorted(measurements - set(SCHEMA))]
    known: set[str] = set()
    for name in measurements & set(SCHEMA):
        known |= {*SCHEMA[name].tags}
        known |= {*(rolled_fields(name) if rolled else SCHEMA[name].fields)}
    left = {
        name
        for name in re.findall(r"[A-Za-z_]\w*", plain)
        if name.lower() not in _WORDS and not (name in called and name in _FUNCTIONS)
    } - {"time"}
    where = ", ".join(sorted(measurements))
    unknown = sorted(left - measurements - known - made)
    return found + [f"{where} has no {name}" for name in unknown if not found]


def _names(board: Json) -> Iterator[str]:
    for where, query, rolled in queries_of(board):
        yield from (f"{where}: {found}" for found in unknown_names(query, rolled=rolled))


def _variables(board: Json) -> Iterator[str]:
    defined = {variable["name"] for variable in board["templating"]["list"]}
    for where, query, _ in queries_of(board):
        for match in _OWN.finditer(query):
            name = match[1] or match[2]
            if name not in defined | _GIVEN:
                yield f"{where}: there is no variable {name}"
    asking = [*panels_of(board), *(target for _, target in targets_of(board))]
    asking += board["annotations"]["list"]
    sources = {part["datasource"]["uid"] for part in asking if "datasource" in part}
    for uid in sorted(sources - {f"${{{name}}}" for name in defined}):
        yield f"data source {uid} is none of the variables"


def _panels(board: Json) -> Iterator[str]:
    panels = list(panels_of(board))
    numbers = [panel["id"] for panel in panels]
    if len(set(numbers)) < len(numbers):
        yield "two panels have the same number"
    for panel in panels:
        if panel["type"] not in CORE:
            yield f"panel {panel['title']}: {panel['type']} is no core panel type"
        if panel["type"] != "row" and not panel.get("description", "").strip().endswith("."):
            yield f"panel {panel['title']}: has no description in whole sentences"
        if panel["type"] != "row" and not panel.get("targets"):
            yield f"panel {panel['title']}: asks nothing"
    yield from _overlaps(board["panels"])


def _overlaps(panels: Sequence[Json]) -> Iterator[str]:
    for panel in panels:
        place = panel["gridPos"]
        if place["x"] + place["w"] > COLUMNS:
            yield f"panel {panel['title']}: is wider than the board"
    for one, other in itertools.combinations(panels, 2):
        a, b = one["gridPos"], other["gridPos"]
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        if not apart:
            yield f"panels {one['title']} and {other['title']} overlap"


def _links(text: str) -> Iterator[str]:
    for uid in sorted(set(re.findall(r"/d/([\w-]+)", text)) - set(UIDS.values())):
        yield f"a link leads to {uid}, which is no board"


def problems(name: str, board: Json, text: str) -> list[str]:
    """What is wrong with a board.

    Args:
        name: Of its file.
        board: It.
        text: Its JSON.
    """
    found = [*_names(board), *_variables(board), *_panels(board), *_links(text)]
    if board["uid"] != UIDS.get(name):
        found.append(f"its uid must be {UIDS.get(name)}, got {board['uid']}")
    return found
