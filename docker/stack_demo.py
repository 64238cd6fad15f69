"""Hours in, a simulated plant with so much past out, and what workers must know to watch it."""
# ruff: noqa: INP001  (part of a script)

from collections.abc import Mapping
from typing import Final

from stack_compose import Place, environment
from stack_services import ECHOWATCH, Service

from pipeline.simulation.fleet import fleet_yaml
from pipeline.simulation.story import QUIET

EVERY_S: Final = 60.0
# Windows that are left of the quiet part when the baseline is complete.
SPARE: Final = 6


def settings(place: Place, hours: float) -> dict[str, str]:
    """Settings of the workers: they know the machines, and learn while all of them are healthy.

    Args:
        place: Where the fleet file goes.
        hours: Of the past.

    Raises:
        ValueError: where the past is too short to learn from.
    """
    windows = int(QUIET * hours * 3600.0 / EVERY_S) - SPARE
    if windows < 20:
        raise ValueError(f"--demo must be at least 1.3 hours to learn from, got {hours:g}")
    file = place.data / "fleet.yaml"
    file.write_text(fleet_yaml(), encoding="utf-8")
    return {
        "ECHOWATCH_PROFILE": "accelerated",
        "ECHOWATCH_LEARNING__MIN_WINDOWS": str(windows),
        "ECHOWATCH_WORKER__FLEET": str(file),
    }


def plant(place: Place, hours: float, known: Mapping[str, str]) -> Service:
    """The plant: its past as fast as the workers follow, then its present.

    Args:
        place: Where things are.
        hours: Of the past.
        known: Settings of the workers, by which it judges whether they can learn in time.
    """
    record = place.data / "plant.json"
    command = [str(ECHOWATCH), "simulate", "--to", "kafka", "--live", "--resume", str(record)]
    command += ["--history", f"{hours:g}h", "--every", f"{EVERY_S:g}"]
    # It plays gateways and people at once, which only the administrator may.
    variables = environment("bootstrap", place) | dict(known)
    # It serves nothing: it is up once it runs.
    return Service("plant", place, 0, command, variables, lambda _: True)
