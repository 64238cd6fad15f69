"""Names of measurements, fields and tags in, InfluxQL texts out.

Only what InfluxQL of InfluxDB 2 and 3 both know: no Flux, no function of one version. A query for a
table selects the tags that it shows from a subquery instead of grouping by them, so that Grafana
gets one frame with one row per machine, whatever its version; each column has a name (`AS`).

Two kinds of time: `$timeFilter` is the range of the board; `RECENT` is what led up to its end, for
questions about "now", so that a sensor that fell silent last week does not vanish from the list.
"""  # noqa: INP001  (scripts beside the JSON that they write, no package)

from typing import Final

IN_RANGE: Final = "$timeFilter"
# Raw data live for 30 days: what is older is known to nobody.
RECENT: Final = "time <= ${__to}ms AND time > ${__to}ms - 30d"
# Cases and alarms are kept, and written only where they change: one may stand for months.
STANDING: Final = "time <= ${__to}ms AND time > ${__to}ms - 365d"
# What is known where the range begins.
BEFORE: Final = "time < ${__from}ms AND time > ${__from}ms - 30d"
LAST_DAY: Final = "time <= ${__to}ms AND time > ${__to}ms - 1d"

LEARNING: Final = "learning_pct < 100"

# "All" is the regular expression .*, which matches sensors without this tag, too.
CHAIN: Final = ("plant", "area", "line", "asset")
SCOPE: Final = " AND ".join(f"{tag} =~ /^${{{tag}:regex}}$/" for tag in CHAIN)
OF_SENSORS: Final = f"{SCOPE} AND sensor =~ /^${{sensor:regex}}$/"
OF_ASSET: Final = "asset = '${asset:raw}'"
OF_ASSET_SENSORS: Final = f"{OF_ASSET} AND sensor =~ /^${{sensor:regex}}$/"

EVERY: Final = "time($__interval)"


def select(
    what: str, source: str | tuple[str, ...], *where: str, by: str = "", fill: str = "none"
) -> str:
    """One InfluxQL query.

    Args:
        what: Columns, each with its name.
        source: Measurement, or a query to select from, or several of these, whose rows add up.
        where: Conditions, all of which must hold.
        by: What to group by; with an interval of time, empty ones are filled as `fill` says.
        fill: `none` leaves them out.

    >>> select("max(ratio) AS ratio", "drift", "$timeFilter", by="time(1m), sensor")
    'SELECT max(ratio) AS ratio FROM drift WHERE $timeFilter GROUP BY time(1m), sensor fill(none)'
    >>> select("ok", "SELECT ok FROM sensor_health", "ok = 0")
    'SELECT ok FROM (SELECT ok FROM sensor_health) WHERE ok = 0'
    """
    sources = (source,) if isinstance(source, str) else source
    words = ["SELECT", what, "FROM"]
    words.append(", ".join(f"({one})" if " " in one else one for one in sources))
    if where:
        words += ["WHERE", " AND ".join(where)]
    if by:
        words += ["GROUP BY", by]
    if "time(" in by or fill != "none":
        words.append(f"fill({fill})")
    return " ".join(words)


def last(field: str, *others: str) -> str:
    """Columns with the newest value of a field, and what the same point has in others.

    One selector only: of several, InfluxDB gives one row for each.

    >>> last("ok", "faults")
    'last(ok) AS ok, faults'
    """
    return ", ".join([f"last({field}) AS {field}", *others])


SENSOR_NOW: Final = select(
    last("state"), "sensor_health", RECENT, SCOPE, by="plant, area, asset, sensor"
)
"""Newest status of each sensor."""

ASSET_NOW: Final = select("max(state) AS worst", SENSOR_NOW, by="plant, area, asset")
"""Worst status of each machine: above 0 by severity, below 0 only where no sensor can tell."""

OPEN_CASES: Final = select(
    last(
        "open", "severity", "current", "acked", "shelved", "sensors", "opened_s", "top_band",
        "sentence", "case_id", "first_out",
    ),
    "cases",
    STANDING,
    SCOPE,
    by="area, asset",
)  # fmt: skip
"""Newest case of each machine; its reader keeps those that are open."""
