"""A fleet file (YAML) in, what is known about every sensor and its machine out.

The hierarchy follows ISA-95: plant, area, line (optional), asset, point, sensor. `docs/fleet.md`
has the format with a full example. Facts about the signal may stand at any level; the innermost
counts.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.iso import Iso, iso_limits, iso_rows, iso_zone
from pipeline.marked_yaml import Problems, Table, read_table

__all__ = [
    "Fleet", "FleetError", "Iso", "Running", "SensorInfo", "iso_limits", "iso_zone", "load_fleet",
    "parse_fleet",
]  # fmt: skip

VERSION = "1"

Running = Literal["auto", "always"] | float
"""When a machine counts as running: learnt from its levels, always, or above an RMS in the unit."""

_RUNNING: tuple[Literal["auto"], Literal["always"]] = ("auto", "always")

_ID = re.compile(r"[A-Za-z0-9._:-]+")
_SENSOR_ID = re.compile(r"[A-Za-z0-9._:-]+(/[A-Za-z0-9._:-]+)*")
MAX_ID = 200

# Facts that may stand at any level.
_FACTS = (
    "expected_rate_hz", "unit", "scale", "sensitivity", "adc", "full_scale", "speed_hz",
    "running", "iso",
)  # fmt: skip
_LEVELS = {
    "plant": ("areas",),
    "area": ("lines", "assets"),
    "line": ("assets",),
    "asset": ("points",),
    "point": ("sensors",),
    "sensor": ("axis",),
}


class FleetError(ValueError):
    """A fleet file that cannot be used.

    Attributes:
        problems: Everything that is wrong, each as `file:line: what, allowed, got`.
    """

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class SensorInfo:
    """What is known about a sensor before its first sample.

    Attributes:
        asset: Id of its machine, unique in the fleet: `plant/area/line/asset`.
        plant, area, line, point, axis: Its place, for display and grouping; may be empty.
        name, asset_name: For people; the ids where nothing better is known.
        unit: None = take it from the chunks.
        expected_rate_hz: None = any.
        scale: Unit per ADC step; None = take it from the chunks.
        full_scale: Largest value in `unit` that the sensor can express; None = unknown.
        speed_hz: Nominal shaft speed; None = unknown.
        iso: None = no ISO verdict.
    """

    sensor_id: str
    asset: str
    plant: str = ""
    area: str = ""
    line: str = ""
    point: str = ""
    axis: str = ""
    name: str = ""
    asset_name: str = ""
    unit: str | None = None
    expected_rate_hz: float | None = None
    scale: float | None = None
    full_scale: float | None = None
    speed_hz: float | None = None
    running: Running = "auto"
    iso: Iso | None = None

    @classmethod
    def default(cls, sensor_id: str) -> "SensorInfo":
        """What can be said about a sensor that is in no fleet file: its id names its place.

        >>> SensorInfo.default("femto/bearing1_1/horizontal_acc").asset
        'femto/bearing1_1'
        """
        *place, point = sensor_id.split("/")
        asset = "/".join(place) or sensor_id
        outer = place[:-1] + [""] * 3
        return cls(
            sensor_id=sensor_id,
            asset=asset,
            plant=outer[0],
            area=outer[1],
            line=outer[2],
            point=point,
            name=sensor_id,
            asset_name=asset,
        )


@dataclass(frozen=True)
class Fleet:
    """All sensors of a fleet file; empty where there is none.

    Attributes:
        sensors: In the order of the file.
        name: Of the file.
    """

    sensors: tuple[SensorInfo, ...] = ()
    name: str = ""
    _by_id: dict[str, SensorInfo] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_id", {info.sensor_id: info for info in self.sensors})

    def __contains__(self, sensor_id: object) -> bool:
        return sensor_id in self._by_id

    def lacks(self, sensor_id: str) -> bool:
        """Whether there is a fleet file, and it does not name this sensor."""
        return bool(self.sensors) and sensor_id not in self

    def sensor(self, sensor_id: str) -> SensorInfo:
        """What is known about a sensor; `SensorInfo.default` where the file does not name it."""
        return self._by_id.get(sensor_id) or SensorInfo.default(sensor_id)

    def asset_of(self, sensor_id: str) -> str:
        """Id of the sensor's machine."""
        return self.sensor(sensor_id).asset

    def sensors_of(self, asset: str) -> tuple[SensorInfo, ...]:
        """The sensors of a machine, in the order of the file."""
        return tuple(info for info in self.sensors if info.asset == asset)

    @property
    def assets(self) -> tuple[str, ...]:
        """All machines, in the order of the file."""
        return tuple(dict.fromkeys(info.asset for info in self.sensors))


def load_fleet(path: Path) -> Fleet:
    """Read a fleet file.

    Raises:
        FleetError: it cannot be used; names every problem with its line.
        OSError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FleetError((f"{path}:1: must be UTF-8 text, {error.reason}",)) from error
    return parse_fleet(text, str(path))


def parse_fleet(text: str, name: str = "fleet") -> Fleet:
    """Read the text of a fleet file.

    Args:
        text: YAML.
        name: Of the file, for the error texts.

    Raises:
        FleetError: names every problem with its line.
    """
    problems = Problems(name)
    top = read_table(text, problems, "fleet", ("version", "plants"))
    sensors: tuple[SensorInfo, ...] = ()
    if top is not None:
        if top.text("version") != VERSION:
            got = top.text("version") or "none"
            top.problem(f"version must be {VERSION}, got {got}", top.at("version"))
        sensors = _Walk(problems).fleet(top)
    if problems.found:
        raise FleetError(problems.texts())
    return Fleet(sensors, name)


class _Walk:
    """Goes down the hierarchy, carries the facts along, collects sensors and problems."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._sensors: list[SensorInfo] = []
        self._lines: dict[tuple[str, str], int] = {}

    def fleet(self, top: Table) -> tuple[SensorInfo, ...]:
        plants = self._below(top, "plants", "plant")
        if not plants:
            top.problem("plants must list at least one plant")
        for plant in plants:
            self._level(plant, "plant", {}, {})
        return tuple(self._sensors)

    def _below(self, table: Table, key: str, level: str) -> list[Table]:
        known = ("id", "name", *_LEVELS[level], *_FACTS)
        return table.tables(key, level, known)

    def _level(
        self, table: Table, level: str, place: dict[str, str], facts: dict[str, Any]
    ) -> None:
        """One plant, area, line, asset or point and all below it."""
        ident = self._id(table, level, place)
        place = {**place, level: ident}
        if level == "asset":
            place["asset_name"] = table.text("name") or ident
        facts = {**facts, **_facts(table)}
        children = [
            (child, key[:-1])
            for key in _LEVELS[level]
            for child in self._below(table, key, key[:-1])
        ]
        if not children:
            table.problem(f"must list {' or '.join(_LEVELS[level])}")
        for child, below in children:
            if below == "sensor":
                self._sensor(child, place, facts)
            else:
                self._level(child, below, place, facts)

    def _id(self, table: Table, level: str, place: dict[str, str]) -> str:
        ident = table.text("id")
        if not _ID.fullmatch(ident):
            table.problem(
                f"id must be letters, digits or . _ : -, got {ident!r}; put words into name",
                table.at("id"),
            )
            return ident or "?"
        self._once(table, level, "/".join([*_path(place), ident]))
        return ident

    def _once(self, table: Table, level: str, path: str) -> None:
        before = self._lines.get((level, path))
        if before is not None:
            table.problem(
                f"{level} id {path!r} is given twice, first on line {before}", table.at("id")
            )
        self._lines.setdefault((level, path), table.at("id").start_mark.line + 1)

    def _sensor(self, table: Table, place: dict[str, str], facts: dict[str, Any]) -> None:
        facts = {**facts, **_facts(table)}
        axis, path = table.text("axis"), _path(place)
        ident = table.text("id") or "/".join([*path, *([axis] if axis else [])])
        if not _SENSOR_ID.fullmatch(ident) or len(ident) > MAX_ID:
            table.problem(
                f"id must be parts of letters, digits or . _ : - joined by /, at most {MAX_ID} "
                f"characters, got {ident!r}",
                table.at("id"),
            )
        self._once(table, "sensor", ident)
        self._sensors.append(
            SensorInfo(
                sensor_id=ident,
                asset="/".join(path[:-1]),
                plant=place["plant"],
                area=place["area"],
                line=place.get("line", ""),
                point=place["point"],
                axis=axis,
                name=table.text("name") or ident,
                asset_name=place["asset_name"],
                **_signal_facts(table, facts),
            )
        )


def _path(place: dict[str, str]) -> list[str]:
    levels = ("plant", "area", "line", "asset", "point")
    return [place[level] for level in levels if level in place]


def _facts(table: Table) -> dict[str, Any]:
    """The facts that stand at this level, checked one by one."""
    facts: dict[str, Any] = {
        "expected_rate_hz": table.number("expected_rate_hz", "Hz"),
        "unit": table.text("unit") or None,
        "scale": table.number("scale", "unit per ADC step"),
        "sensitivity": table.number("sensitivity", "mV per unit"),
        "full_scale": table.number("full_scale", "in the sensor's unit"),
        "speed_hz": table.number("speed_hz", "Hz"),
        "running": _running(table),
        "iso": _iso(table),
        "adc": _adc(table),
    }
    facts = {key: value for key, value in facts.items() if value is not None}
    if "scale" in facts and "sensitivity" in facts:
        table.problem("give scale or sensitivity, not both", table.at("scale"))
    # A scale below replaces a sensitivity above, and the other way round.
    if "scale" in facts:
        facts["sensitivity"] = None
    elif "sensitivity" in facts:
        facts["scale"] = None
    return facts


def _signal_facts(table: Table, facts: dict[str, Any]) -> dict[str, Any]:
    """All facts of one sensor; a sensitivity becomes a scale and a full scale."""
    sensitivity, adc = facts.pop("sensitivity", None), facts.pop("adc", None)
    if sensitivity is not None and adc is None:
        table.problem("sensitivity needs adc: {range_mv: ..., bits: ...}", table.at("sensitivity"))
    elif sensitivity is not None:
        range_mv, bits = adc
        facts["scale"] = range_mv / 2 ** (bits - 1) / sensitivity
        facts.setdefault("full_scale", range_mv / sensitivity)
    return facts


def _running(table: Table) -> Running | None:
    if "running" not in table:
        return None
    if table.is_table("running"):
        return table.table("running", ("above",)).number("above", "RMS in the sensor's unit")
    word = table.text("running")
    for known in _RUNNING:
        if word == known:
            return known
    table.problem(
        f"running must be auto, always or {{above: RMS}}, got {word!r}", table.at("running")
    )
    return None


def _iso(table: Table) -> Iso | None:
    if "iso" not in table:
        return None
    row = table.table("iso", ("standard", "group", "mounting"))
    standard, group, mounting = (row.text(key) for key in ("standard", "group", "mounting"))
    for iso in iso_rows():
        if (iso.standard, str(iso.group), iso.mounting) == (standard, group, mounting):
            return iso
    known = "; ".join(f"{i.standard} group {i.group} {i.mounting}" for i in iso_rows())
    row.problem(
        f"must be one of {known}; got {standard or 'no standard'} group {group or '?'} "
        f"{mounting or 'no mounting'}"
    )
    return None


def _adc(table: Table) -> tuple[float, int] | None:
    if "adc" not in table:
        return None
    adc = table.table("adc", ("range_mv", "bits"))
    range_mv = adc.number("range_mv", "mV")
    bits = int(adc.choice("bits", ("12", "14", "16", "18", "20", "24", "32"), "16"))
    if range_mv is None and "range_mv" not in adc:
        adc.problem("range_mv must be given: the largest input voltage, in mV")
    return None if range_mv is None else (range_mv, bits)
