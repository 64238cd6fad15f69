"""Simulated sensors in, their chunks in time order out.

A sensor is a machine's sources of vibration, the way to the sensor, its ADC and what is wrong with
it. One chunk per sensor is in memory at a time.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.messages import FULL_SCALE, NS_PER_S, Encoding, Flags, SensorChunk
from pipeline.simulation.machines import Component, Drive, Noise, Signal
from pipeline.simulation.sensor_faults import SensorFault, deliver, distort


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """Something that is wrong in a simulated plant.

    Attributes:
        sensor_id: The sensor concerned; for a machine fault the one that sees it best.
        asset: The asset concerned, as in the fleet file.
        kind: `machine` or `sensor`.
        name: E.g. `bearing_outer`, `flatline`.
        onset_ns, end_ns: When it begins and when it ends (the end of the run for most).
        band_hz: (low, high) where a machine fault's energy lies; (0, 0) for a sensor fault.
    """

    sensor_id: str
    asset: str
    kind: Literal["machine", "sensor"]
    name: str
    onset_ns: int
    end_ns: int
    band_hz: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class SimulatedSensor:
    """One channel: the machine under it, the way to it, the ADC behind it.

    Attributes:
        asset: Path of the asset, `plant/area/asset`; `sensor_id` = asset / point.
        full_scale: Largest value in `unit` that the ADC can express.
        gain: Unit per g of the machine's vibration.
        components: What the machine sends this way.
    """

    sensor_id: str
    asset: str
    rate_hz: float
    drive: Drive
    components: tuple[Component, ...]
    noise: Noise
    faults: tuple[SensorFault, ...] = ()
    unit: str = "g"
    full_scale: float = 50.0
    gain: float = 1.0
    encoding: Encoding = "i16"

    @property
    def scale(self) -> float:
        """Unit per ADC step."""
        return 1.0 if self.encoding == "f32" else self.full_scale / FULL_SCALE[self.encoding]

    def digitise(self, x: NDArray[np.float32]) -> NDArray[np.int16] | NDArray[np.float32]:
        """(n,) in the unit -> ADC numbers, clipped at the full scale."""
        if self.encoding == "f32":
            return x
        top = FULL_SCALE[self.encoding]
        counts = np.clip(np.rint(x * np.float32(1 / self.scale)), -top, top)
        return np.asarray(counts, dtype=np.int16)


@dataclass(frozen=True, slots=True)
class SimulatedPlant:
    """A plant whose sensors deliver a capture every `every_s`, or without pause.

    Attributes:
        hours: Length of the run in event time.
        capture_s: Length of a capture, or of a chunk where `continuous`.
        truth: All that is wrong in it, by onset.
        fleet_yaml: A fleet file for its sensors.
    """

    seed: int
    start_ns: int
    hours: float
    capture_s: float
    every_s: float
    continuous: bool
    sensors: tuple[SimulatedSensor, ...]
    truth: tuple[InjectedFault, ...]
    fleet_yaml: str

    @property
    def sensor_ids(self) -> tuple[str, ...]:
        """All sensors, in the order of the fleet file."""
        return tuple(sensor.sensor_id for sensor in self.sensors)

    @property
    def captures(self) -> int:
        """Captures or chunks per sensor, faults aside."""
        period = self.capture_s if self.continuous else self.every_s
        return int(self.hours * 3600 / period)

    def chunks(self) -> Iterator[SensorChunk]:
        """All sensors' chunks in time order."""
        feeds = [
            _Feed(self, sensor, number / len(self.sensors))
            for number, sensor in enumerate(self.sensors)
        ]
        for index in range(self.captures):
            for feed in feeds:
                chunk = feed.chunk(index)
                if chunk is not None:
                    yield chunk


class _Feed:
    """One sensor's chunks; the sensors of a plant capture one after the other (`stagger`, 0-1)."""

    def __init__(self, plant: SimulatedPlant, sensor: SimulatedSensor, stagger: float) -> None:
        seed = (plant.seed, *sensor.sensor_id.encode())
        self.plant, self.sensor, self.seed = plant, sensor, seed
        self.n = round(plant.capture_s * sensor.rate_hz)
        pause = 0.0 if plant.continuous else plant.every_s - plant.capture_s
        self.delay_ns = round(stagger * pause * 1000) * 1_000_000  # whole ms, as gateways do
        self.signal = Signal(
            sensor.drive, sensor.components, sensor.noise, sensor.rate_hz, (*seed, 0)
        )

    def chunk(self, index: int) -> SensorChunk | None:
        plant, sensor = self.plant, self.sensor
        if plant.continuous:
            after_ns = round(index * self.n * NS_PER_S / sensor.rate_hz)
        else:
            after_ns = round(index * plant.every_s * NS_PER_S) + self.delay_ns
        start_s = after_ns / NS_PER_S
        faults = [fault for fault in sensor.faults if fault.active(start_s)]
        x = self.signal.block(index, start_s, self.n) * np.float32(sensor.gain)
        for fault in faults:
            rng = np.random.Generator(np.random.SFC64((*self.seed, 1, index)))
            x = distort(x, fault, sensor.full_scale, sensor.rate_hz, rng)
        chunk: SensorChunk | None = SensorChunk(
            sensor_id=sensor.sensor_id,
            sample_rate_hz=sensor.rate_hz,
            start_ns=plant.start_ns + after_ns,
            samples=sensor.digitise(x),
            seq=index,
            encoding=sensor.encoding,
            scale=sensor.scale,
            unit=sensor.unit,
            flags=Flags.NONE if plant.continuous else Flags.END_OF_CAPTURE,
        )
        for fault in faults:
            chunk = chunk and deliver(chunk, fault)
        return chunk


def truth_csv(plant: SimulatedPlant) -> str:
    """The plant's truth as CSV text, one row per fault."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(
        [
            "sensor",
            "asset",
            "kind",
            "name",
            "onset",
            "end",
            "onset_ns",
            "end_ns",
            "low_hz",
            "high_hz",
        ]
    )
    for fault in plant.truth:
        times = [fault.onset_ns, fault.end_ns]
        words = [
            datetime.fromtimestamp(ns / NS_PER_S, UTC).isoformat(timespec="milliseconds")
            for ns in times
        ]
        table.writerow(
            [fault.sensor_id, fault.asset, fault.kind, fault.name, *words, *times, *fault.band_hz]
        )
    return out.getvalue()
