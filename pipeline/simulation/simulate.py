"""A seed in, a simulated plant out: chunks in time order, fleet file and what is wrong in it.

Everything is a function of the seed and the arguments: the same seed gives the same bytes. Chunks
are made one at a time, so a run of any length takes the memory of one chunk per sensor.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.messages import SensorChunk
from pipeline.simulation.assets import DRIVES, machine_fault, sources
from pipeline.simulation.machines import Component
from pipeline.simulation.plans import DEMO, Asset, Place, fleet_yaml, motors_plan, plant_plan
from pipeline.simulation.plant import InjectedFault, SimulatedPlant, SimulatedSensor, truth_csv
from pipeline.simulation.sensor_faults import SensorFault

__all__ = [
    "InjectedFault", "SimulatedPlant", "SimulatedSensor", "demo_plant", "long_signal", "plant",
    "truth_csv", "write",
]  # fmt: skip

START = "2026-01-05T06:00:00Z"

# Sensor faults that pass: share of the run that they last. The others stay until the end.
FAULT_SHARE = {
    "gap": 0.08, "clipping": 0.15, "dropout": 0.15, "non_finite": 0.15, "clock_step": 0.05,
    "rate_mismatch": 0.15,
}  # fmt: skip


def _at_ns(start_ns: int, t: float) -> int:
    """Time `t` s after the start, to the millisecond."""
    return start_ns + round(t * 1000) * 1_000_000


def _parse_start(start: str) -> int:
    moment = datetime.fromisoformat(start)
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


def _assemble(
    name: str,
    plan: Sequence[Asset],
    *,
    seed: int,
    hours: float,
    capture_s: float,
    every_s: float,
    start: str,
    continuous: bool = False,
    faults: bool = True,
) -> SimulatedPlant:
    """Turn a plan into sensors and their truth."""
    if hours <= 0 or capture_s <= 0 or (capture_s > every_s and not continuous):
        raise ValueError(
            "hours and capture_s must be positive and capture_s at most every_s, got "
            f"hours={hours}, capture_s={capture_s}, every_s={every_s}"
        )
    start_ns, run_s = _parse_start(start), hours * 3600
    sensors: list[SimulatedSensor] = []
    truth: list[InjectedFault] = []
    for number, asset in enumerate(plan):
        path = f"{name}/{asset.area}/{asset.name}"
        build = _Building(path, asset, (seed, number), run_s, start_ns, faults=faults)
        sensors.extend(build.sensor(place) for place in asset.places)
        truth += build.truth
    return SimulatedPlant(
        seed=seed,
        start_ns=start_ns,
        hours=hours,
        capture_s=capture_s,
        every_s=every_s,
        continuous=continuous,
        sensors=tuple(sensors),
        truth=tuple(sorted(truth, key=lambda fault: (fault.onset_ns, fault.sensor_id))),
        fleet_yaml=fleet_yaml(name, plan),
    )


class _Building:
    """Builds one asset's sensors; notes in `truth` what is wrong with them."""

    def __init__(
        self, path: str, asset: Asset, seed: tuple[int, int], run_s: float, start_ns: int, *,
        faults: bool,
    ) -> None:  # fmt: skip
        self.path, self.asset, self.seed, self.faults = path, asset, seed, faults
        self.run_s, self.start_ns = run_s, start_ns
        self.truth: list[InjectedFault] = []
        self._rng = np.random.default_rng(seed)
        self._drive = DRIVES[asset.drive](asset.speed_hz, run_s, self._rng)
        self._onset_s = run_s * self._rng.uniform(0.42, 0.50)

    def sensor(self, place: Place) -> SimulatedSensor:
        """The sensor at one place."""
        components, noise = sources(self.asset.kind, self._rng)
        begin_s = self.run_s * self._rng.uniform(0.45, 0.70)
        sensor_id = f"{self.path}/{place.point}"
        if self.faults and self.asset.fault:
            components = (*components, self._machine_fault(place, sensor_id))
        broken: tuple[SensorFault, ...] = ()
        if self.faults and place.fault:
            broken = (self._sensor_fault(place, sensor_id, begin_s),)
        return SimulatedSensor(
            sensor_id=sensor_id,
            asset=self.path,
            rate_hz=place.rate_hz,
            drive=self._drive,
            components=components,
            noise=noise,
            faults=broken,
            unit=place.unit,
            full_scale=place.full_scale,
            gain=place.gain,
            encoding=place.encoding,
        )

    def _machine_fault(self, place: Place, sensor_id: str) -> Component:
        name, run_s = self.asset.fault, self.run_s
        impacts_seed = self.seed[0] * 1009 + self.seed[1]
        component, band_hz = machine_fault(
            name, self._onset_s, run_s, self.asset.speed_hz, place.near, impacts_seed
        )
        if place.near == max(other.near for other in self.asset.places):
            self._note(sensor_id, "machine", name, (self._onset_s, run_s), band_hz)
        return component

    def _sensor_fault(self, place: Place, sensor_id: str, begin_s: float) -> SensorFault:
        end_s = min(self.run_s, begin_s + self.run_s * FAULT_SHARE.get(place.fault, 1.0))
        self._note(sensor_id, "sensor", place.fault, (begin_s, end_s))
        return SensorFault(place.fault, begin_s, end_s)

    def _note(
        self,
        sensor_id: str,
        kind: Literal["machine", "sensor"],
        name: str,
        times: tuple[float, float],
        band_hz: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        onset_ns, end_ns = (_at_ns(self.start_ns, t) for t in times)
        self.truth.append(
            InjectedFault(sensor_id, self.path, kind, name, onset_ns, end_ns, band_hz)
        )


def plant(
    seed: int = 0,
    *,
    sensors: int = 20,
    hours: float = 2.0,
    capture_s: float = 1.0,
    every_s: float = 10.0,
    start: str = START,
    continuous: bool = False,
    chunk_s: float = 1.0,
    faults: bool = True,
) -> SimulatedPlant:
    """A plant as in `simulated_plans.PLANT`; all is healthy for the first 42 % of the run.

    Args:
        seed: Same seed, same bytes.
        sensors: How many; those beyond 20 are healthy.
        hours: Length of the run in event time.
        capture_s: Length of a capture.
        every_s: Time from one capture to the next.
        start: ISO time of the first capture; UTC where it names no zone.
        continuous: Contiguous chunks of `chunk_s` instead of captures.
        chunk_s: Length of a chunk where `continuous`.
        faults: False leaves everything healthy, for counting false alarms.

    Raises:
        ValueError: a number is out of range.
    """
    return _assemble(
        "plant",
        plant_plan(sensors),
        seed=seed,
        hours=hours,
        capture_s=chunk_s if continuous else capture_s,
        every_s=every_s,
        start=start,
        continuous=continuous,
        faults=faults,
    )


def demo_plant(
    seed: int = 0,
    *,
    hours: float = 3.0,
    capture_s: float = 1.0,
    every_s: float = 30.0,
    start: str = START,
    faults: bool = True,
) -> SimulatedPlant:
    """Six sensors: one bearing wears out, one sensor breaks, one machine starts and stops.

    Args: as for `plant`.
    """
    return _assemble(
        "demo",
        DEMO,
        seed=seed,
        hours=hours,
        capture_s=capture_s,
        every_s=every_s,
        start=start,
        faults=faults,
    )


def long_signal(
    hours: float,
    seed: int = 0,
    *,
    sensors: int = 1,
    rate_hz: float = 25600.0,
    chunk_s: float = 1.0,
    start: str = START,
) -> Iterator[SensorChunk]:
    """Healthy motors without pause, in the memory of one chunk per sensor.

    Args:
        hours: Length in event time.
        seed: Same seed, same bytes.
        sensors: How many, one per motor.
        rate_hz: Of all sensors.
        chunk_s: Length of a chunk.
        start: ISO time of the first sample.
    """
    motors = _assemble(
        "soak",
        motors_plan(sensors, rate_hz),
        seed=seed,
        hours=hours,
        capture_s=chunk_s,
        every_s=chunk_s,
        start=start,
        continuous=True,
    )
    return motors.chunks()


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
