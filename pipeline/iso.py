"""A velocity level in, its ISO evaluation zone out.

The limits come from `iso_zones.yaml`, which is versioned, names the edition of the standard and
says which rows have not been checked against a licensed copy.
"""

import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

import yaml

Zone = Literal["A", "B", "C", "D"]


@dataclass(frozen=True, slots=True)
class Iso:
    """The row of `iso_zones.yaml` that holds for a machine."""

    standard: str
    group: int
    mounting: str


@cache
def iso_rows() -> dict[Iso, tuple[float, float, float]]:
    """Every row of the table: limits A/B, B/C and C/D in mm/s RMS."""
    text = files("pipeline").joinpath("iso_zones.yaml").read_text(encoding="utf-8")
    return {
        Iso(edition["standard"], row["group"], row["mounting"]): tuple(row["limits"])
        for edition in yaml.safe_load(text)["editions"]
        for row in edition["rows"]
    }


def iso_limits(iso: Iso) -> tuple[float, float, float]:
    """Limits A/B, B/C and C/D, velocity RMS in mm/s.

    Raises:
        ValueError: no such row.
    """
    try:
        return iso_rows()[iso]
    except KeyError:
        known = "; ".join(f"{i.standard} group {i.group} {i.mounting}" for i in iso_rows())
        raise ValueError(f"iso must be one of {known}; got {iso}") from None


def iso_zone(velocity_mm_s: float, iso: Iso) -> Zone:
    """Zone of a velocity RMS 10-1000 Hz; a value on a limit belongs to the better zone.

    Raises:
        ValueError: the velocity is negative or not finite, or no such row.

    >>> iso_zone(2.0, Iso("10816-3", 2, "rigid"))
    'B'
    """
    if not math.isfinite(velocity_mm_s) or velocity_mm_s < 0:
        raise ValueError(f"velocity must be finite and >= 0 mm/s, got {velocity_mm_s}")
    a_b, b_c, c_d = iso_limits(iso)
    if velocity_mm_s <= b_c:
        return "A" if velocity_mm_s <= a_b else "B"
    return "C" if velocity_mm_s <= c_d else "D"
