"""The story of a plant in; the capture of any sensor at any time out, the same one every time.

A capture is a function of (seed, sensor, time since the history began): nothing is carried from
one to the next, so that captures may be left out, made again or made by another process.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from scipy import fft, signal

from pipeline.messages import NS_PER_S, Flags, SensorChunk
from pipeline.simulation.assets import machine_fault, sources
from pipeline.simulation.machines import F32, Block, Component, Drive
from pipeline.simulation.plant import SimulatedSensor
from pipeline.simulation.sensor_faults import SensorFault, distort
from pipeline.simulation.story import (
    GAP,
    LOSSY,
    MACHINES,
    PLANT,
    Machine,
    Spot,
    Trouble,
)

CAPTURE_S: Final = 1.0
# A machine in a cycle goes on with it for so long after its history.
CYCLES_S: Final = 60 * 86_400.0
RAMP_S: Final = 6.0
# Behind a bad radio link a sensor is not heard for half of each such share of the history.
LOSSY_CYCLE: Final = 0.10


@dataclass(frozen=True, slots=True)
class Until:
    """A source of vibration that is gone from some time on."""

    source: Component
    gone_s: float

    def add_to(self, out: F32, block: Block) -> None:
        """See `pipeline.simulation.machines.Component`."""
        if block.start_s < self.gone_s:
            self.source.add_to(out, block)


@dataclass(frozen=True)
class Life:
    """A plant with a story.

    Attributes:
        seed: Same seed, same machines.
        start_ns: Where the history begins, before the captures of slot 0.
        history_s: Its length.
        every_s: Time from one capture of a sensor to the next.
        machines: Of the plant.

    Raises:
        ValueError: a number is out of range.
    """

    seed: int
    start_ns: int
    history_s: float
    every_s: float
    machines: tuple[Machine, ...] = MACHINES

    def __post_init__(self) -> None:
        if not self.history_s > 0:
            raise ValueError(f"the history must last more than 0 s, got {self.history_s:g} s")
        if not self.every_s > CAPTURE_S:
            raise ValueError(
                f"captures last {CAPTURE_S:g} s and must begin further apart, got every "
                f"{self.every_s:g} s"
            )

    @cached_property
    def channels(self) -> tuple["Channel", ...]:
        """All sensors, in the order of the fleet file."""
        made = [
            channel
            for number, machine in enumerate(self.machines)
            for channel in _channels(self, machine, number)
        ]
        pause_s = self.every_s - CAPTURE_S
        return tuple(
            replace(channel, delay_ns=round(number / len(made) * pause_s * 1000) * 1_000_000)
            for number, channel in enumerate(made)
        )

    @property
    def every_ns(self) -> int:
        """Distance of captures."""
        return round(self.every_s * NS_PER_S)

    def at_ns(self, share: float) -> int:
        """Time of a share of the history."""
        return self.start_ns + round(share * self.history_s * NS_PER_S)

    def chunks(self, since_ns: int, until_ns: int | None = None) -> Iterator[SensorChunk]:
        """What the sensors deliver, in order of time.

        Args:
            since_ns: First start.
            until_ns: First start that is too late; None = without end.
        """
        slot = max(0, (since_ns - self.start_ns) // self.every_ns)
        while until_ns is None or self.start_ns + slot * self.every_ns < until_ns:
            for channel in self.channels:
                start_ns = self.start_ns + slot * self.every_ns + channel.delay_ns
                if since_ns <= start_ns and (until_ns is None or start_ns < until_ns):
                    chunk = channel.capture(slot, start_ns)
                    if chunk is not None:
                        yield chunk
            slot += 1


@dataclass(frozen=True)
class Channel:
    """One sensor of a life.

    Attributes:
        sensor: Machine below it, way to it, ADC behind it.
        spot: Its line of the story.
        delay_ns: Its captures begin so much after the grid; sensors take turns.
    """

    life: Life
    sensor: SimulatedSensor
    spot: Spot
    delay_ns: int = 0

    def capture(self, slot: int, start_ns: int) -> SensorChunk | None:
        """What it sends in a slot, None where it does not speak."""
        sensor, life = self.sensor, self.life
        start_s = (start_ns - life.start_ns) / NS_PER_S
        mishap = self._mishap(start_s / life.history_s)
        if mishap == GAP or start_s < self.spot.installed * life.history_s:
            return None
        rng = np.random.Generator(np.random.SFC64((self._number, slot)))
        x = self._signal(start_s, rng)
        if mishap:
            fault = SensorFault(mishap, 0.0, np.inf)
            x = distort(x, fault, sensor.full_scale, sensor.rate_hz, rng)
        return SensorChunk(
            sensor_id=sensor.sensor_id,
            sample_rate_hz=sensor.rate_hz,
            start_ns=start_ns,
            samples=sensor.digitise(x),
            seq=slot,
            epoch=life.start_ns // NS_PER_S,
            encoding=sensor.encoding,
            scale=sensor.scale,
            unit=sensor.unit,
            flags=Flags.END_OF_CAPTURE,
        )

    def _mishap(self, share: float) -> str:
        """Name of the sensor's fault now, or empty."""
        mishap = self.spot.mishap
        if mishap is None or share < mishap.onset:
            return ""
        if mishap.name != LOSSY:
            return mishap.name
        return GAP if (share - mishap.onset) % LOSSY_CYCLE < LOSSY_CYCLE / 2 else ""

    @cached_property
    def _number(self) -> int:
        """Of its random numbers; a short one is quick to seed with."""
        name = f"{self.life.seed}/{self.sensor.sensor_id}"
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")

    @cached_property
    def _power(self) -> F32:
        """(n / 2 + 1,) power spectrum of the machine's noise, 1 in the mean."""
        n = round(CAPTURE_S * self.sensor.rate_hz)
        hz = fft.rfftfreq(n, 1 / self.sensor.rate_hz)
        sos = self.sensor.noise.sections(self.sensor.rate_hz)
        _, response = signal.sosfreqz(sos, hz, fs=self.sensor.rate_hz)
        return np.asarray(np.abs(response) ** 2, dtype=np.float32)

    def _signal(self, start_s: float, rng: np.random.Generator) -> F32:
        """(n,) in the unit, as the sensor feels it."""
        sensor, noise = self.sensor, self.sensor.noise
        n = round(CAPTURE_S * sensor.rate_hz)
        block = Block(sensor.drive, start_s, sensor.rate_hz, n)
        # Machine and sensor are independent: their powers add, so one draw does for both.
        level, floor = np.float32(noise.level(block).mean()), np.float32(noise.floor)
        shape = np.sqrt((level**2 * self._power + floor**2) * np.float32(n / 2))
        white = rng.standard_normal((n // 2 + 1, 2), dtype=np.float32).view(np.complex64)[:, 0]
        out: F32 = fft.irfft(white * shape, n)
        for component in sensor.components:
            component.add_to(out, block)
        return out * np.float32(sensor.gain)


def _channels(life: Life, machine: Machine, number: int) -> Iterator[Channel]:
    rng = np.random.default_rng((life.seed, number))
    drive = _drive(life, machine, rng)
    asset = f"{PLANT}/{machine.path}"
    for spot in machine.spots:
        components, noise = sources(machine.kind, rng)
        faults = [
            _fault(life, machine, trouble, spot.near, number)
            for trouble in machine.troubles
            if spot.near > 0
        ]
        sensor = SimulatedSensor(
            sensor_id="/".join(filter(None, (asset, spot.point, spot.axis))),
            asset=asset,
            rate_hz=spot.rate_hz,
            drive=drive,
            components=(*components, *faults),
            noise=noise,
            unit=spot.unit,
            full_scale=spot.full_scale,
            gain=spot.gain,
            encoding=spot.encoding,
        )
        yield Channel(life, sensor, spot)


def _fault(life: Life, machine: Machine, trouble: Trouble, near: float, number: int) -> Component:
    onset_s, full_s, gone_s = (
        share * life.history_s for share in (trouble.onset, trouble.full, trouble.gone)
    )
    source, _ = machine_fault(
        trouble.name,
        onset_s,
        full_s,
        machine.speed_hz,
        near * trouble.level,
        life.seed * 1009 + number,
    )
    return Until(source, gone_s)


def _drive(life: Life, machine: Machine, rng: np.random.Generator) -> Drive:
    """Speed over the history and far beyond it."""
    stops = [(a * life.history_s, b * life.history_s) for a, b in machine.stands]
    runs, stays = (share * life.history_s for share in machine.cycle)
    if runs:
        times = np.arange(runs, life.history_s + CYCLES_S, runs + stays)
        stops += [(float(t), float(t) + stays) for t in times]
    knots = [(0.0, machine.speed_hz, 0.75)]
    for begin, end in stops:
        knots += [(begin, machine.speed_hz, 0.75), (begin + RAMP_S, 0.0, 0.1)]
        if end < np.inf:
            knots += [(end - RAMP_S, 0.0, 0.1), (end, machine.speed_hz, 0.75)]
    return Drive(machine.speed_hz, knots, wander_s=rng.uniform(300, 500), shift=rng.uniform())
