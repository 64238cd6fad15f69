"""Sensors, models and bands in; the tags of their points out: few, and the same in every replay."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pipeline.fleet import SensorInfo
from pipeline.messages import BandEdges
from pipeline.point_schema import SCHEMA

Tags = tuple[tuple[str, str], ...]

BAND_HZ: Final = 1280
"""Grid of band names: ECHO's bands of 32 bins of 40 Hz."""
MOST_BANDS: Final = 64
"""Bands with a name of their own per sensor; beyond, neighbours are added up."""
KIND: Final = "drift"
"""Tag `kind` of alarms: those of a departure from the baseline."""

_HASH = re.compile(r"-[0-9a-f]{8,}(?=-|$)|(?<=-untrained)-s\d+")


def model_tag(model_id: str) -> str:
    """Name of a model without the hash of its weights, which is no tag: it may be anything.

    >>> model_tag("echo-nano-1a2b3c4d-bf16"), model_tag("echo-nano-untrained-s0")
    ('echo-nano-bf16', 'echo-nano-untrained')
    """
    return _HASH.sub("", model_id)


@lru_cache(maxsize=256)
def band_names(edges: BandEdges) -> tuple[str, ...]:
    """Name of each band: its low edge in Hz, on a grid, so that few names exist in all.

    The grid is 1280 Hz, doubled until at most `MOST_BANDS` names cover all; bands that share a name
    are added up.

    >>> band_names(((0.0, 1260.0), (1260.0, 2540.0), (2540.0, 3820.0)))
    ('000000', '001280', '002560')
    """
    grid = BAND_HZ
    while edges and edges[-1][0] / grid >= MOST_BANDS - 0.5:
        grid *= 2
    return tuple(f"{round(low / grid) * grid:06d}" for low, _ in edges)


@dataclass(frozen=True, slots=True)
class DriftTags:
    """Tags of what one model says of one sensor.

    Attributes:
        drift: Of the point of the window.
        bands: Of the points of the bands, one per name.
        places: (K,) which of `bands` each of the encoder's bands belongs to.
    """

    drift: Tags
    bands: tuple[Tags, ...]
    places: tuple[int, ...]


class SensorTags:
    """All tags of one sensor, made once.

    Args:
        place: Names and values of those that all its points share.

    Attributes:
        plain: Just these.
        alarm: These and the kind of alarm.
    """

    __slots__ = ("_drift", "_streams", "alarm", "plain")

    def __init__(self, place: Mapping[str, str]) -> None:
        self.plain: Tags = tuple(sorted(place.items()))
        self.alarm = _more(self.plain, "kind", KIND)
        self._streams: dict[str, Tags] = {}
        self._drift: tuple[str, BandEdges, DriftTags] | None = None

    def stream(self, kind: str) -> Tags:
        """Of stream events of one kind."""
        if kind not in self._streams:
            self._streams[kind] = _more(self.plain, "kind", kind)
        return self._streams[kind]

    def drift(self, model_id: str, edges: BandEdges) -> DriftTags:
        """Of what a model says; the newest one is remembered.

        Args:
            model_id: With its hash.
            edges: ((low, high), ...) Hz of the encoder's K bands.
        """
        known = self._drift
        if known is not None and known[0] == model_id and known[1] == edges:
            return known[2]
        model = _more(self.plain, "model", model_tag(model_id))
        names = band_names(edges)
        unique = list(dict.fromkeys(names))
        bands = tuple(_more(model, "band", name) for name in unique)
        made = DriftTags(model, bands, tuple(unique.index(name) for name in names))
        self._drift = (model_id, edges, made)
        return made


def place_of(info: SensorInfo) -> dict[str, str]:
    """Tags that tell where a machine stands."""
    return {"plant": info.plant, "area": info.area, "line": info.line, "asset": info.asset}


def tags_of(measurement: str, values: Mapping[str, str]) -> Tags:
    """All tags that a measurement has, in their order."""
    return tuple((name, values[name]) for name in SCHEMA[measurement].tags)


def _more(tags: Tags, name: str, value: str) -> Tags:
    return tuple(sorted((*tags, (name, value))))


NOWHERE: Final = SensorTags({})
"""Of points whose tags will be dropped."""
STRANGER: Final = SensorInfo("unknown", asset="", plant="quarantine")
"""What may be said of a sensor in quarantine."""
UNKNOWN: Final[Tags] = (("plant", "quarantine"), ("sensor", "unknown"))
"""The one series of all sensors in quarantine."""
