"""A simulated plant -> its sensors' chunks and their levels, for the simulation's tests."""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pipeline.messages import SensorChunk
from pipeline.simulation.simulate import InjectedFault, SimulatedPlant

Array = NDArray[np.float64]
Feeds = dict[str, list[SensorChunk]]


def feeds_of(chunks: Iterable[SensorChunk]) -> Feeds:
    feeds: Feeds = defaultdict(list)
    for chunk in chunks:
        feeds[chunk.sensor_id].append(chunk)
    return feeds


def values(chunk: SensorChunk) -> Array:
    return chunk.samples.astype(np.float64) * chunk.scale


def fault_named(made: SimulatedPlant, name: str) -> InjectedFault:
    return next(fault for fault in made.truth if fault.name == name)
