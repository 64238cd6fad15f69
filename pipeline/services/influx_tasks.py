"""Settings and schema in, the tasks that InfluxDB runs by itself out, as Flux.

Two roll-ups, of minutes and of hours, and the removal of what is bulky and old. A roll-up has of
every number its mean, maximum, last and (of floats) 95th percentile, linear between neighbours as
NumPy's; hours are made of windows, not of minutes. `n` counts the windows that a value stands for,
and by it a task knows where it is behind: it compares with the raw bucket how many windows there
are and does again what lacks some. A late window, a missed run and an outage thus heal by the next
run, and running twice changes nothing. Ranges begin and end with whole units, since a part of one
would replace the whole.

All is done sensor by sensor, of minutes an hour and of hours a day at a time: a percentile takes
InfluxDB 13 kB for each unit of each field, and at once that was 4 GB for a day of five sensors.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.point_schema import SCHEMA
from pipeline.service_settings import Influx

DAY_S: Final = 86_400

KEPT: Final = ("alarm", "cases", "event")
"""Measurements of the raw bucket that are never deleted and never averaged."""

REFERENCE: Final[Mapping[str, str]] = {
    "drift": "baseline_n", "drift_band": "share", "sensor_health": "ok", "vib_features": "rms"
}  # fmt: skip
"""Measurement that is rolled up -> field that each of its points has."""

_OF: Final = "(start: start, stop: stop, name: name)"
# The mean of a time says nothing, and as a float it would be off by a quarter of a microsecond.
LEFT_OUT: Final = ("nearest_ns",)
STATISTICS: Final = ("mean", "max", "last", "p95")

# Flux that needs nothing from here.
_LACKING: Final = """lacking = (there, here, columns) => union(tables: [
    there |> toFloat() |> group(columns: columns) |> sum(),
    here |> group(columns: columns) |> sum() |> map(fn: (r) => ({r with _value: -r._value})),
  ])
  |> group(columns: columns) |> sum() |> filter(fn: (r) => r._value > 0.5) |> group()
hourly = (tables=<-, fn, name) => tables
  |> filter(fn: (r) => r.sensor == name)
  |> aggregateWindow(every: 1h, fn: fn, createEmpty: false, timeSrc: "_start")"""
_AGAIN: Final = """hours = (name) => lacking(
    there: windows(start: oldest, stop: stop) |> hourly(fn: count, name: name),
    here: known(start: oldest, stop: stop) |> hourly(fn: sum, name: name),
    columns: ["_measurement", "_time"],
  )
  |> distinct(column: "_time")
end = (start) => {
  whole = date.add(d: 1h, to: start)
  return if whole < stop then whole else stop
}
again = (name) => {
  done = hours(name: name)
    |> map(fn: (r) => ({_value: piece(name: name, start: r._value, stop: end(start: r._value))}))
    |> findColumn(fn: (key) => true, column: "_value")
  return length(arr: done)
}"""
_EACH: Final = """each = (tables=<-, fn, name) => tables
  |> aggregateWindow(every: unit, fn: fn, createEmpty: false, timeSrc: "_start")
  |> toFloat()
  |> map(fn: (r) => ({r with _field: r._field + "_" + name}))
  |> to(bucket: rolled)
  |> limit(n: 1)
p95 = (tables=<-, column) => tables
  |> quantile(q: 0.95, method: "exact_mean", column: column)"""

_PARTS: Final = "".join(
    f"    {part},\n"
    for part in (
        *(f'numbers{_OF} |> each(fn: {name}, name: "{name}")' for name in STATISTICS[:3]),
        f'floats{_OF} |> each(fn: p95, name: "p95")',
        f"counted{_OF}",
    )
)


@dataclass(frozen=True, slots=True)
class Rollup:
    """A bucket of rolled-up values.

    Attributes:
        unit: Length of what becomes one value, as Flux writes it.
        unit_s: The same in seconds.
        measurements: That are rolled up.
        shard_s: Length of a file group: ten years in files of a week would be hundreds.
        piece_s: Longest stretch of a sensor that is rolled up at once.
    """

    unit: str
    unit_s: int
    measurements: tuple[str, ...]
    shard_s: int
    piece_s: int

    def bucket(self, raw: str) -> str:
        """Its name.

        >>> ROLLUPS[0].bucket("echowatch")
        'echowatch_1m'
        """
        return f"{raw}_{self.unit}"


# Bands by the minute would be a fifth of all that is stored, and nobody looks so close at last May.
ROLLUPS: Final = (
    Rollup("1m", 60, ("drift", "sensor_health", "vib_features"), 7 * DAY_S, 3600),
    Rollup("1h", 3600, ("drift", "drift_band", "sensor_health", "vib_features"), 91 * DAY_S, DAY_S),
)


@dataclass(frozen=True, slots=True)
class Task:
    """What InfluxDB runs by itself.

    Attributes:
        name: By which it is found again.
        flux: What it does, its name and times included.
    """

    name: str
    flux: str


def fields_of(measurement: str) -> dict[str, tuple[str, ...]]:
    """Field -> statistics that are kept of it.

    >>> fields_of("drift_band")
    {'share': ('mean', 'max', 'last', 'p95')}
    >>> fields_of("sensor_health")["state"]
    ('mean', 'max', 'last')
    """
    return {
        name: STATISTICS if field.kind == "float" else STATISTICS[:3]
        for name, field in SCHEMA[measurement].fields.items()
        if field.kind in ("float", "int") and name not in LEFT_OUT
    }


def rolled_fields(measurement: str) -> tuple[str, ...]:
    """Fields of a measurement in the buckets of minutes and hours.

    >>> rolled_fields("drift_band")
    ('n', 'share_mean', 'share_max', 'share_last', 'share_p95')
    """
    named = [f"{name}_{what}" for name, whats in fields_of(measurement).items() for what in whats]
    return ("n", *named)


def rollup_series(*, bands: int = 8, models: int = 1) -> int:
    """Series that one sensor has in the buckets of minutes and hours together.

    Args:
        bands: Of the encoder at the sensor's rate.
        models: Models that have ever scored it.

    >>> rollup_series()
    14
    """
    return sum(
        (models if "model" in SCHEMA[name].tags else 1)
        * (bands if "band" in SCHEMA[name].tags else 1)
        for rollup in ROLLUPS
        for name in rollup.measurements
    )


def tasks(influx: Influx) -> tuple[Task, ...]:
    """All that InfluxDB is to run by itself, the removal last."""
    return (*(rollup_task(influx, rollup) for rollup in ROLLUPS), prune_task(influx))


def rollup_task(influx: Influx, rollup: Rollup) -> Task:
    """The task that keeps a roll-up up to date."""
    name = f"{rollup.bucket(influx.bucket)} roll-up"
    # Not all tasks at the same moment; what was measured just now is on its way.
    offset = "2m" if rollup.unit_s < 3600 else "4m"
    return Task(
        name,
        f"""import "date"

option task = {{name: {_text(name)}, every: 1h, offset: {offset}}}

{_definitions(influx, rollup)}
known = (start, stop) => from(bucket: rolled)
  |> range(start: start, stop: stop)
  |> filter(fn: (r) => {_measurements(rollup)})
  |> filter(fn: (r) => r._field == "n")
{_LACKING}

stop = date.truncate(t: now(), unit: unit)
oldest = date.truncate(t: date.sub(d: {influx.late_h}h, from: stop), unit: 1h)
sensors = lacking(
    there: windows(start: oldest, stop: stop) |> count(),
    here: known(start: oldest, stop: stop) |> sum(),
    columns: ["sensor"],
  )
{_AGAIN}
sensors |> map(fn: (r) => ({{sensor: r.sensor, hours: again(name: r.sensor)}}))
""",
    )


def rollup_script(influx: Influx, rollup: Rollup, start: str, stop: str) -> str:
    """Flux that rolls a stretch of all sensors up once.

    Args:
        influx: Names of buckets.
        rollup: Which one.
        start: Whole unit, as RFC 3339.
        stop: Whole unit, excluded; not more than `piece_s` later.
    """
    return f"""{_definitions(influx, rollup)}
windows(start: {start}, stop: {stop})
  |> first() |> keep(columns: ["sensor"]) |> group() |> distinct(column: "sensor")
  |> map(fn: (r) => ({{done: piece(name: r._value, start: {start}, stop: {stop})}}))
"""


def prune_task(influx: Influx) -> Task:
    """The task that deletes old points of all measurements but those that are kept.

    Flux cannot delete, but it can ask the server that runs it to. Whole weeks only, as the files
    are of weeks (from Monday, UTC): a file is rewritten once, not once a day.
    """
    name = f"{influx.bucket} removal"
    old = [measurement for measurement in SCHEMA if measurement not in KEPT]
    rows = ",\n  ".join(f"{{measurement: {_text(m)}, status: remove(m: {_text(m)})}}" for m in old)
    return Task(
        name,
        f"""import "array"
import "date"
import "http/requests"
import "influxdata/influxdb/secrets"
import "json"

option task = {{name: {_text(name)}, every: 1d, offset: 3h}}

token = secrets.get(key: {_text(prune_secret(influx))})
old = date.sub(d: {influx.keep_raw_d}d, from: now())
stop = date.add(d: 4d, to: date.truncate(t: date.sub(d: 4d, from: old), unit: 1w))
remove = (m) => {{
  answer = requests.post(
    url: {_text((influx.own_url or influx.url).rstrip("/") + "/api/v2/delete")},
    params: ["org": [{_text(influx.org)}], "bucket": [{_text(influx.bucket)}]],
    headers: ["Authorization": "Token ${{token}}", "Content-Type": "application/json"],
    body: json.encode(v: {{
      start: "1970-01-01T00:00:00Z", stop: string(v: stop), predicate: "_measurement=\\"${{m}}\\"",
    }}),
  )
  return if answer.statusCode == 204 then answer.statusCode
    else die(msg: "delete ${{m}}: ${{answer.statusCode}} ${{string(v: answer.body)}}")
}}
array.from(rows: [
  {rows},
])
""",
    )


def prune_secret(influx: Influx) -> str:
    """Name under which InfluxDB keeps the token that may write the raw bucket."""
    return f"{influx.bucket}_removal_token"


def _definitions(influx: Influx, rollup: Rollup) -> str:
    """What task and back-fill share: which numbers there are, and how they are stored.

    The counts wait (in `group`, which needs all of its tables) until every value that they vouch
    for is stored: a piece that is cut off leaves no count behind and is done again. `findColumn`
    runs a piece at once and lets its memory go before the next begins. Pieces are called by `map`:
    a `to` that `array.map` calls would be done all over again with all others at the end.
    """
    return f"""raw = {_text(influx.bucket)}
rolled = {_text(rollup.bucket(influx.bucket))}
unit = {rollup.unit}
windows = (start, stop) => from(bucket: raw)
  |> range(start: start, stop: stop)
  |> filter(fn: (r) => {_references(rollup)})
numbers = (start, stop, name) => from(bucket: raw)
  |> range(start: start, stop: stop)
  |> filter(fn: (r) => {_selection(rollup, ("float", "int"))})
  |> filter(fn: (r) => r.sensor == name)
floats = (start, stop, name) => from(bucket: raw)
  |> range(start: start, stop: stop)
  |> filter(fn: (r) => {_selection(rollup, ("float",))})
  |> filter(fn: (r) => r.sensor == name)
counted = (start, stop, name) => windows(start: start, stop: stop)
  |> filter(fn: (r) => r.sensor == name)
  |> aggregateWindow(every: unit, fn: count, createEmpty: false, timeSrc: "_start")
  |> set(key: "_field", value: "n")
  |> toFloat()
{_EACH}
piece = (name, start, stop) => {{
  stored = union(tables: [
{_PARTS}  ])
  |> drop(columns: ["_start", "_stop"])
  |> group(columns: ["_time", "_value"], mode: "except")
  |> to(bucket: rolled)
  |> group()
  |> count()
  |> findColumn(fn: (key) => true, column: "_value")
  return length(arr: stored)
}}
"""


def _selection(rollup: Rollup, kinds: tuple[str, ...]) -> str:
    """Measurements and fields of these kinds, as a condition."""
    parts = []
    for measurement in rollup.measurements:
        names = [n for n in fields_of(measurement) if SCHEMA[measurement].fields[n].kind in kinds]
        fields = " or ".join(f"r._field == {_text(name)}" for name in names)
        parts.append(f"r._measurement == {_text(measurement)} and ({fields})")
    return " or ".join(f"({part})" for part in parts)


def _references(rollup: Rollup) -> str:
    return " or ".join(
        f"(r._measurement == {_text(m)} and r._field == {_text(REFERENCE[m])})"
        for m in rollup.measurements
    )


def _measurements(rollup: Rollup) -> str:
    return " or ".join(f"r._measurement == {_text(m)}" for m in rollup.measurements)


def _text(value: str) -> str:
    """A string of Flux."""
    return json.dumps(value).replace("${", "\\${")
