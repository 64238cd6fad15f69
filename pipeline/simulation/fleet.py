"""The machines of a story in, the fleet file that its workers need out."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import yaml

from pipeline.simulation.story import MACHINES, PLACES, PLANT, PLANT_NAME, Machine, Spot

Level = dict[str, Any]
ISO: Final = {"standard": "10816-3", "group": 2, "mounting": "rigid"}


def fleet_yaml(machines: Sequence[Machine] = MACHINES) -> str:
    """A fleet file for the machines; areas hold lines, or assets, or both."""
    plant = {"id": PLANT, "name": PLANT_NAME, "iso": ISO, "running": "auto"}
    places: dict[tuple[str, ...], Level] = {(): plant}
    for machine in machines:
        _level(machine.place, places).setdefault("assets", []).append(_asset(machine))
    return yaml.safe_dump({"version": 1, "plants": [plant]}, sort_keys=False, allow_unicode=True)


def _level(place: tuple[str, ...], places: dict[tuple[str, ...], Level]) -> Level:
    """The level of a place, made below the one that holds it."""
    if place not in places:
        above = _level(place[:-1], places)
        places[place] = {"id": place[-1], "name": PLACES[place[-1]]}
        above.setdefault("areas" if len(place) == 1 else "lines", []).append(places[place])
    return places[place]


def _asset(machine: Machine) -> Level:
    points: dict[str, list[Spot]] = {}
    for spot in machine.spots:
        points.setdefault(spot.point, []).append(spot)
    return {
        "id": machine.name,
        "name": machine.title,
        "speed_hz": machine.speed_hz,
        "points": [{"id": point, "sensors": _sensors(spots)} for point, spots in points.items()],
    }


def _sensors(spots: Iterable[Spot]) -> list[Level]:
    found: list[Level] = []
    for spot in spots:
        axis = {"axis": spot.axis} if spot.axis else {}
        top = {} if spot.encoding == "f32" else {"full_scale": spot.full_scale}
        found.append({**axis, "expected_rate_hz": spot.rate_hz, "unit": spot.unit, **top})
    return found
