"""The story of a paper mill in one table: its machines and sensors, what befalls them, who says so.

Times are shares of the history: 0 where it begins, 1 where it ends and the live part begins. All
machines are healthy until `QUIET`, so that their baselines can be learnt. What goes on beyond 1
(a worn bearing, a silent sensor) goes on in the live part.
"""

from dataclasses import dataclass
from math import inf
from typing import Final

from pipeline.messages import Encoding
from pipeline.orders import Action

QUIET: Final = 0.36
"""Nothing happens before: 150 windows are learnt in 31 % of 480."""
GAP: Final = "gap"
LOSSY: Final = "lossy"
"""What keeps a sensor from being heard: for good, and from time to time."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A machine fault that grows.

    Attributes:
        name: One of `pipeline.simulation.assets.MACHINE_FAULTS`.
        onset, full: It begins, and it is as strong as it gets.
        level: Of that strength, 1 = as `pipeline.simulation.assets` has it.
        gone: It is repaired.
    """

    name: str
    onset: float
    full: float
    level: float = 1.0
    gone: float = inf


@dataclass(frozen=True, slots=True)
class Mishap:
    """A sensor fault: `GAP`, `LOSSY` or one of `pipeline.simulation.sensor_faults`; its begin."""

    name: str
    onset: float


@dataclass(frozen=True, slots=True)
class Spot:
    """A sensor.

    Attributes:
        near: 1 next to the machine's faults, less further away, 0 where they are not felt.
        full_scale: Largest value that the ADC can express, in `unit`.
        gain: Unit per g of the machine's vibration.
        installed: Share of the history at which it is put into service.
    """

    point: str
    rate_hz: float
    near: float = 1.0
    axis: str = ""
    mishap: Mishap | None = None
    installed: float = 0.0
    unit: str = "g"
    full_scale: float = 50.0
    gain: float = 1.0
    encoding: Encoding = "i16"


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine.

    Attributes:
        place: Area, or area and line.
        kind: One of `pipeline.simulation.assets.MACHINES`.
        stands: (from, until) when it stands.
        cycle: (running, standing), shares of the history, again and again; (0, 0) = no cycle.
    """

    place: tuple[str, ...]
    name: str
    title: str
    kind: str
    speed_hz: float
    spots: tuple[Spot, ...]
    troubles: tuple[Trouble, ...] = ()
    stands: tuple[tuple[float, float], ...] = ()
    cycle: tuple[float, float] = (0.0, 0.0)

    @property
    def path(self) -> str:
        """Its place and name below the plant."""
        return "/".join((*self.place, self.name))


@dataclass(frozen=True, slots=True)
class Saying:
    """What a person says about all sensors of a machine, through the topic of commands."""

    at: float
    machine: str
    action: Action
    by: str
    why: str
    shelve_h: float = 0.0


def _pair(rate_hz: float, near: float = 0.5) -> tuple[Spot, ...]:
    return (Spot("de", rate_hz), Spot("nde", rate_hz, near))


def _metric(point: str, rate_hz: float, near: float = 1.0, axis: str = "") -> Spot:
    """An accelerometer that is declared in m/s2."""
    return Spot(point, rate_hz, near, axis, unit="m/s2", full_scale=500.0, gain=9.80665)


def _microphone(point: str, near: float = 0.3) -> Spot:
    """A microphone near the machine, float samples."""
    return Spot(point, 51200.0, near, unit="Pa", gain=8.0, encoding="f32")


def _triaxial(point: str, rate_hz: float, near: float = 1.0) -> tuple[Spot, ...]:
    return tuple(_metric(point, rate_hz, near * share, axis) for axis, share in _AXES)


_AXES = (("x", 0.7), ("y", 1.0), ("z", 0.4))
_WET_END, _UTILITIES = ("wet_end",), ("utilities",)
_PRESS, _DRYER = ("machine_hall", "press"), ("machine_hall", "dryer")

PLANT: Final = "mill"
PLANT_NAME: Final = "Board mill 2 (simulated)"
PLACES: Final = {
    "wet_end": "Wet end", "machine_hall": "Machine hall", "utilities": "Utilities",
    "press": "Press section", "dryer": "Dryer section",
}  # fmt: skip

MACHINES: Final = (
    Machine(_WET_END, "pump1", "Fan pump 1", "pump", 24.6,
            (*_pair(25600.0), Spot("casing", 12800.0))),
    Machine(_WET_END, "pump2", "White water pump 2", "pump", 24.4,
            (Spot("de", 16000.0, mishap=Mishap("flatline", 0.62)), Spot("nde", 16000.0),
             Spot("casing", 12800.0))),
    Machine(_WET_END, "pump3", "Stock pump 3", "pump", 24.8,
            (Spot("de", 25600.0), Spot("nde", 25600.0, 0.12), Spot("casing", 12800.0, 0.0)),
            troubles=(Trouble("bearing_outer", 0.45, 0.98),)),
    Machine(_WET_END, "pump4", "Stock pump 4", "pump", 24.7, _pair(12800.0),
            troubles=(Trouble("cavitation", 0.42, 0.45, 0.06, gone=0.52),)),
    Machine(_WET_END, "refiner1", "Refiner 1", "gearbox", 16.6,
            (Spot("in", 51200.0), Spot("out", 25600.0), Spot("motor", 12800.0),
             Spot("thrust", 25600.0))),
    Machine(_WET_END, "agitator1", "Chest agitator 1", "motor", 12.4,
            (Spot("de", 6400.0), Spot("nde", 6400.0))),
    Machine(_WET_END, "screen1", "Pressure screen 1", "motor", 29.3,
            (*_triaxial("top", 12800.0), Spot("motor", 12800.0))),
    Machine(_PRESS, "drive1", "Press drive 1", "gearbox", 19.8,
            (Spot("in", 25600.0), Spot("out", 25600.0, 0.5), Spot("motor_de", 25600.0, 0.2)),
            troubles=(Trouble("broken_tooth", 0.50, 0.66, 0.5),)),
    Machine(_PRESS, "pump5", "Hydraulic pump 5", "pump", 24.9,
            (Spot("de", 25600.0, mishap=Mishap("clipping", 0.75)), Spot("nde", 25600.0))),
    Machine(_PRESS, "roll1", "Suction press roll 1", "motor", 8.3,
            (Spot("drive_side", 6400.0), Spot("tender_side", 6400.0))),
    Machine(_DRYER, "fan1", "Hood exhaust fan 1", "fan", 16.3,
            (Spot("de", 25600.0), Spot("nde", 25600.0, 0.0), Spot("motor", 12800.0, 0.0)),
            troubles=(Trouble("looseness", 0.48, 0.75, 0.024),)),
    Machine(_DRYER, "fan2", "Supply air fan 2", "fan", 19.6,
            (Spot("de", 25600.0), Spot("nde", 12800.0, 0.0)),
            troubles=(Trouble("bearing_ball", 0.55, 0.75, 0.032),)),
    Machine(_DRYER, "gearbox1", "Dryer gearbox 1", "gearbox", 24.2,
            (Spot("in", 25600.0), Spot("out", 25600.0, 0.5), _metric("motor", 12800.0, 0.0)),
            troubles=(Trouble("bearing_inner", 0.37, 0.43, 0.8, gone=0.49),),
            stands=((0.48, 0.50),)),
    Machine(_DRYER, "cylinder1", "Dryer cylinder 1", "motor", 6.1,
            (Spot("drive_side", 6400.0),
             Spot("tender_side", 6400.0, mishap=Mishap(LOSSY, 0.53)))),
    Machine(_DRYER, "cylinder2", "Dryer cylinder 2", "motor", 6.1,
            (Spot("drive_side", 6400.0, installed=0.86),
             Spot("tender_side", 6400.0, installed=0.86))),
    Machine(_UTILITIES, "compressor1", "Air compressor 1", "compressor", 12.3,
            (*_pair(12800.0), Spot("motor", 12800.0), _microphone("mic")), cycle=(0.10, 0.05)),
    Machine(_UTILITIES, "compressor2", "Air compressor 2", "compressor", 12.2,
            (*_pair(12800.0), Spot("motor", 12800.0)), stands=((0.70, inf),)),
    Machine(_UTILITIES, "blower1", "Roots blower 1", "fan", 48.7,
            (*_pair(25600.0), _microphone("mic"), _metric("motor", 16000.0))),
    Machine(_UTILITIES, "pump6", "Boiler feed pump 6", "pump", 49.4,
            (*_triaxial("de", 25600.0), *_triaxial("nde", 25600.0))),
    Machine(_UTILITIES, "pump7", "Cooling water pump 7", "pump", 24.5,
            (Spot("de", 16000.0), Spot("nde", 16000.0, mishap=Mishap(GAP, 0.80)),
             Spot("motor", 12800.0))),
)  # fmt: skip
"""20 machines with 60 sensors; what is not told of one of them is healthy."""

_GEARBOX1, _DRIVE1 = "machine_hall/dryer/gearbox1", "machine_hall/press/drive1"
SAYINGS: Final = (
    Saying(0.47, _GEARBOX1, "ack", "eva", "inner race, stop ordered"),
    Saying(0.505, _GEARBOX1, "maintenance", "jonas", "input bearing 6312 changed"),
    Saying(0.505, _GEARBOX1, "rebaseline", "jonas", "new input bearing"),
    Saying(0.72, _DRIVE1, "ack", "eva", "tooth seen by endoscope, part ordered"),
    Saying(0.72, "utilities/compressor2", "maintenance", "omar", "stopped, spare until Monday"),
)  # fmt: skip
"""What people say meanwhile; those of one time are sent together."""
