"""A seed in, a simulated plant out: its chunks in time order, its fleet file and what is wrong in it.

Everything is a function of the seed and the arguments: the same seed gives the same bytes. Chunks are
made one at a time, so a run of any length takes the memory of one chunk per sensor.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.machines import Component, Drive, Noise, Signal
from pipeline.messages import FULL_SCALE, NS_PER_S, Encoding, Flags, SensorChunk
from pipeline.sensor_faults import SensorFault, deliver, distort
from pipeline.simulated_assets import DRIVES, machine_fault, sources


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
        return np.clip(np.rint(x * np.float32(1 / self.scale)), -top, top).astype(np.int16)


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


@dataclass(frozen=True, slots=True)
class _Place:
    """A sensor of a plan: how it measures, how strongly it sees its asset's fault, what breaks."""

    point: str
    rate_hz: float = 25600.0
    near: float = 1.0
    fault: str = ""
    unit: str = "g"
    full_scale: float = 50.0
    gain: float = 1.0
    encoding: Encoding = "i16"


@dataclass(frozen=True, slots=True)
class _Asset:
    """An asset of a plan."""

    area: str
    name: str
    kind: str
    speed_hz: float
    places: tuple[_Place, ...]
    drive: str = "steady"
    fault: str = ""


def _assemble(
    name: str,
    assets: Sequence[_Asset],
    *,
    seed: int,
    hours: float,
    capture_s: float,
    every_s: float,
    start: str,
    continuous: bool,
    faults: bool,
) -> SimulatedPlant:
    """Build the sensors and the truth of a plan."""
    start_ns = round(datetime.fromisoformat(start).timestamp()) * NS_PER_S
    run_s = hours * 3600
    sensors: list[SimulatedSensor] = []
    truth: list[InjectedFault] = []
    for number, asset in enumerate(assets):
        built, wrong = _build(name, asset, (seed, number), run_s, start_ns, faults=faults)
        sensors += built
        truth += wrong
    return SimulatedPlant(
        seed=seed,
        start_ns=start_ns,
        hours=hours,
        capture_s=capture_s,
        every_s=every_s,
        continuous=continuous,
        sensors=tuple(sensors),
        truth=tuple(sorted(truth, key=lambda fault: (fault.onset_ns, fault.sensor_id))),
        fleet_yaml=_fleet_yaml(name, assets),
    )


def _build(
    plant: str, asset: _Asset, seed: tuple[int, int], run_s: float, start_ns: int, *, faults: bool
) -> tuple[list[SimulatedSensor], list[InjectedFault]]:
    """One asset's sensors and what is wrong with it."""
    rng = np.random.default_rng(seed)
    path = f"{plant}/{asset.area}/{asset.name}"
    drive = DRIVES[asset.drive](asset.speed_hz, run_s, rng)
    onset_s = run_s * rng.uniform(0.42, 0.50)
    sensors: list[SimulatedSensor] = []
    truth: list[InjectedFault] = []

    def note(kind: Literal["machine", "sensor"], name: str, begin_s: float, end_s: float,
             sensor_id: str, band_hz: tuple[float, float] = (0.0, 0.0)) -> None:  # fmt: skip
        times = (start_ns + round(s * 1000) * 1_000_000 for s in (begin_s, end_s))
        truth.append(InjectedFault(sensor_id, path, kind, name, *times, band_hz))

    for place in asset.places:
        components, noise = sources(asset.kind, rng)
        sensor_id = f"{path}/{place.point}"
        if asset.fault and faults:
            component, band_hz = machine_fault(
                asset.fault, onset_s, run_s, asset.speed_hz, place.near, seed[0] * 1000 + seed[1]
            )
            components = (*components, component)
            if place.near == max(other.near for other in asset.places):
                note("machine", asset.fault, onset_s, run_s, sensor_id, band_hz)
        broken: tuple[SensorFault, ...] = ()
        if place.fault and faults:
            begin_s = run_s * rng.uniform(0.45, 0.75)
            end_s = begin_s + run_s * FAULT_SHARE.get(place.fault, 1.0)
            broken = (SensorFault(place.fault, begin_s, min(run_s, end_s)),)
            note("sensor", place.fault, begin_s, min(run_s, end_s), sensor_id)
        sensors.append(
            SimulatedSensor(
                sensor_id,
                path,
                place.rate_hz,
                drive,
                components,
                noise,
                broken,
                place.unit,
                place.full_scale,
                place.gain,
                place.encoding,
            )  # fmt: skip
        )
    return sensors, truth


def _fleet_yaml(plant: str, assets: Sequence[_Asset]) -> str:
    """A fleet file for a plan."""
    lines = ["version: 1", "plants:", f"  - id: {plant}", "    name: Simulated plant", "    areas:"]
    for area in dict.fromkeys(asset.area for asset in assets):
        lines += [f"      - id: {area}", "        assets:"]
        for asset in (asset for asset in assets if asset.area == area):
            lines += [
                f"          - id: {asset.name}",
                f"            name: {asset.kind.capitalize()} {asset.name}",
                f"            speed_hz: {asset.speed_hz}",
                "            iso: {standard: 10816-3, group: 2, mounting: rigid}",
                "            running: auto",
                "            points:",
            ]
            for place in asset.places:
                facts = f"expected_rate_hz: {place.rate_hz:g}, unit: {place.unit}"
                if place.encoding != "f32":
                    facts += f", full_scale: {place.full_scale:g}"
                lines.append(
                    f"              - {{id: {place.point}, sensors: "
                    f"[{{id: {plant}/{asset.area}/{asset.name}/{place.point}, {facts}}}]}}"
                )
    return "\n".join(lines) + "\n"


# Sensor faults that pass: share of the run that they last. The others stay until the end.
FAULT_SHARE = {
    "gap": 0.08, "clipping": 0.15, "dropout": 0.15, "non_finite": 0.15, "clock_step": 0.05,
    "rate_mismatch": 0.15,
}  # fmt: skip

DEMO = (
    _Asset(
        "water", "motor1", "motor", 24.7,
        (_Place("de", 16000.0), _Place("nde", 16000.0, near=0.3)), fault="bearing_outer",
    ),
    _Asset(
        "water", "pump1", "pump", 24.4, (_Place("de", 16000.0), _Place("nde", 12800.0, fault="bias_shift")),
    ),
    _Asset("air", "fan1", "fan", 16.2, (_Place("de", 12800.0),)),
    _Asset("air", "compressor1", "compressor", 12.3, (_Place("de", 12800.0),), "start_stop"),
)  # fmt: skip


def demo_plant(
    seed: int = 0,
    *,
    hours: float = 3.0,
    capture_s: float = 1.0,
    every_s: float = 30.0,
    start: str = "2026-01-05T06:00:00+00:00",
    faults: bool = True,
) -> SimulatedPlant:
    """A small plant: one bearing wears out, one sensor breaks, one machine starts and stops.

    Args:
        seed: Same seed, same bytes.
        hours: Length of the run in event time.
        capture_s, every_s: Length of a capture and time from one to the next.
        start: ISO time of the first capture.
        faults: False leaves everything healthy.
    """
    return _assemble(
        "demo", DEMO, seed=seed, hours=hours, capture_s=capture_s, every_s=every_s, start=start,
        continuous=False, faults=faults,
    )  # fmt: skip


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


def write(
    plant: SimulatedPlant, folder: Path, recorder: Callable[[Iterable[SensorChunk], Path], object]
) -> None:
    """Write recordings, `fleet.yaml` and `truth.csv` into `folder`.

    Args:
        plant: What to write.
        folder: Made if absent.
        recorder: Writes the chunks, e.g. `connectors.files.write.write_recordings`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fleet.yaml").write_text(plant.fleet_yaml, encoding="utf-8")
    (folder / "truth.csv").write_text(truth_csv(plant), encoding="utf-8")
    recorder(plant.chunks(), folder)
