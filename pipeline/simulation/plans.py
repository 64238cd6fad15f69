"""Which machines and sensors a simulated plant has, what goes wrong there; and its fleet file.

A plan is a table of assets; `pipeline.simulation.simulate` turns it into signals.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.messages import Encoding


@dataclass(frozen=True, slots=True)
class Place:
    """A sensor: how it measures, how strongly it sees its asset's fault, what breaks in it.

    Attributes:
        near: 1 next to the asset's fault, less further away.
        fault: One of `pipeline.simulation.sensor_faults.SENSOR_FAULTS`, or empty.
        full_scale: Largest value that the ADC can express, in `unit`.
        gain: Unit per g of the machine's vibration.
    """

    point: str
    rate_hz: float = 25600.0
    near: float = 1.0
    fault: str = ""
    unit: str = "g"
    full_scale: float = 50.0
    gain: float = 1.0
    encoding: Encoding = "i16"


@dataclass(frozen=True, slots=True)
class Asset:
    """A machine.

    Attributes:
        kind: One of `pipeline.simulation.assets.MACHINES`.
        drive: One of `pipeline.simulation.assets.DRIVES`.
        fault: One of `pipeline.simulation.assets.MACHINE_FAULTS`, or empty.
    """

    area: str
    name: str
    kind: str
    speed_hz: float
    places: tuple[Place, ...]
    drive: str = "steady"
    fault: str = ""


def _metric(point: str, rate_hz: float, fault: str = "") -> Place:
    """An accelerometer that is declared in m/s2."""
    return Place(point, rate_hz, fault=fault, unit="m/s2", full_scale=500.0, gain=9.80665)


def _microphone(point: str, fault: str = "") -> Place:
    """A microphone near the machine, float samples."""
    return Place(point, 51200.0, fault=fault, unit="Pa", gain=8.0, encoding="f32")


DEMO = (
    Asset("water", "motor1", "motor", 24.7,
          (Place("de", 16000.0), Place("nde", 16000.0, near=0.3)), fault="bearing_outer"),
    Asset("water", "pump1", "pump", 24.4,
          (Place("de", 16000.0), Place("nde", 12800.0, fault="bias_shift"))),
    Asset("air", "fan1", "fan", 16.2, (Place("de", 12800.0),)),
    Asset("air", "compressor1", "compressor", 12.3, (Place("de", 12800.0),), "start_stop"),
)  # fmt: skip
"""One bearing wears out, one sensor breaks, one machine starts and stops."""

PLANT = (
    Asset("drives", "motor1", "motor", 24.8,
          (Place("de"), Place("nde", 51200.0, near=0.4)), fault="bearing_outer"),
    Asset("drives", "gearbox1", "gearbox", 29.7,
          (Place("in"), Place("out", near=0.5)), fault="broken_tooth"),
    Asset("air", "fan1", "fan", 16.4,
          (Place("de", 12800.0), Place("nde", 12800.0, near=0.6)), fault="unbalance"),
    Asset("water", "pump1", "pump", 24.6,
          (Place("casing"), Place("de", near=0.4)), fault="cavitation"),
    Asset("water", "pump2", "pump", 29.4,
          (Place("de", 16000.0), Place("nde", 16000.0, fault="clock_step")), "regimes"),
    Asset("air", "fan2", "fan", 19.7,
          (Place("de"), Place("nde", fault="bias_shift")), "two_regimes"),
    Asset("air", "compressor1", "compressor", 12.3, (Place("de"), Place("nde")), "start_stop"),
    Asset("water", "pump3", "pump", 24.5,
          (Place("de", fault="flatline"), Place("nde", fault="gap"))),
    Asset("drives", "motor2", "motor", 24.9,
          (Place("de", 12800.0, fault="clipping"), _metric("nde", 4000.0, "dropout"))),
    Asset("air", "blower1", "fan", 48.9,
          (_microphone("mic", "non_finite"), _metric("de", 16000.0, "rate_mismatch"))),
)  # fmt: skip
"""20 sensors: four machine faults, eight sensor faults, changing and standing machines."""


def plant_plan(sensors: int) -> tuple[Asset, ...]:
    """The first so many sensors of `PLANT`, then healthy machines of the same kinds."""
    if sensors < 1:
        raise ValueError(f"sensors must be at least 1, got {sensors}")
    plan: list[Asset] = []
    for asset in _endless():
        missing = sensors - sum(len(other.places) for other in plan)
        if missing <= 0:
            return tuple(plan)
        plan.append(replace(asset, places=asset.places[:missing]))
    raise AssertionError("unreachable: the plan is endless")


def motors_plan(sensors: int, rate_hz: float) -> tuple[Asset, ...]:
    """So many healthy motors with one sensor each."""
    place = (Place("de", rate_hz),)
    return tuple(
        Asset("drives", f"motor{number + 1}", "motor", 24.8, place) for number in range(sensors)
    )


def _endless() -> Iterator[Asset]:
    yield from PLANT
    number = 0
    while True:
        asset = PLANT[number % len(PLANT)]
        healthy = tuple(replace(place, fault="") for place in asset.places)
        name = f"{asset.kind}{11 + number}"
        yield replace(asset, name=name, places=healthy, fault="")
        number += 1


def fleet_yaml(plant: str, assets: Sequence[Asset]) -> str:
    """A fleet file for a plan."""
    lines = ["version: 1", "plants:", f"  - id: {plant}", "    name: Simulated plant", "    areas:"]
    for area in dict.fromkeys(asset.area for asset in assets):
        lines += [f"      - id: {area}", "        assets:"]
        for asset in (asset for asset in assets if asset.area == area):
            lines += _asset_lines(asset)
    return "\n".join(lines) + "\n"


def _asset_lines(asset: Asset) -> list[str]:
    number = asset.name.removeprefix(asset.kind)
    title = f"{asset.kind.capitalize()} {number}" if number.isdigit() else asset.name.capitalize()
    return [
        f"          - id: {asset.name}",
        f"            name: {title}",
        f"            speed_hz: {asset.speed_hz:g}",
        "            iso: {standard: 10816-3, group: 2, mounting: rigid}",
        "            running: auto",
        "            points:",
        *(line for place in asset.places for line in _place_lines(place)),
    ]


def _place_lines(place: Place) -> list[str]:
    facts = f"expected_rate_hz: {place.rate_hz:g}, unit: {place.unit}"
    if place.encoding != "f32":
        facts += f", full_scale: {place.full_scale:g}"
    return [f"              - id: {place.point}", f"                sensors: [{{{facts}}}]"]
