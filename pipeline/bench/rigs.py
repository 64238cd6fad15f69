"""A seed in, captures of a simulated machine at any speed, load and level of a fault out.

The simulator is that of `echowatch simulate`, not the one whose machines are in the pre-training.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from echo_model.features import window_length
from pipeline.messages import NS_PER_S, Flags, SensorChunk
from pipeline.simulation.assets import BEARING, MACHINES, SLIP, sources
from pipeline.simulation.machines import Component, Drive, Growth, Impacts, Noise, Signal

RATES_HZ: Final = (12800.0, 16000.0, 25600.0)
SPEEDS_HZ: Final = (16.0, 35.0)
LEARNT_LOAD: Final = 0.75
EVERY_S: Final = 20.0
# Captures that are there to learn from: the most that the `accelerated` profile asks for.
LEARNING: Final = 300
START_NS: Final = 1_767_592_800 * NS_PER_S
# Orders of the impacts of a machine's two faults, outer and inner race.
ORDERS: Final = ((1 - SLIP) * BEARING.bpfo, (1 - SLIP) * BEARING.bpfi)
DAMPING: Final = 0.05
# Where resonances lie, as shares of the sample rate.
RESONANCES: Final = (0.1, 0.42)


@dataclass(frozen=True)
class Rig:
    """One machine with one sensor.

    Attributes:
        number: With the seed, its name.
        parts: What it sends while healthy.
        resonances_hz: Where each of its faults rings.
        shift: Phase of its slow changes of speed and load.
    """

    seed: int
    number: int
    rate_hz: float
    speed_hz: float
    parts: tuple[Component, ...]
    noise: Noise
    resonances_hz: tuple[float, ...]
    shift: float

    def captures(
        self,
        first: int,
        count: int,
        *,
        speed: float = 1.0,
        load: float = LEARNT_LOAD,
        level_db: float | None = None,
        fault: int = 0,
    ) -> Iterator[SensorChunk]:
        """Captures of 0.975 s.

        Args:
            first: Number of the first one, which is its place in time.
            count: How many.
            speed: Relative to the nominal one.
            load: 0-1.
            level_db: RMS of the fault over that of the healthy machine; None: no fault.
            fault: Number of the fault.
        """
        parts = self.parts if level_db is None else (*self.parts, self.impacts(fault, level_db))
        drive = Drive(self.speed_hz, [(0.0, speed * self.speed_hz, load)], shift=self.shift)
        seed = (self.seed, self.number, round(1000 * speed), round(1000 * load))
        signal = Signal(drive, parts, self.noise, self.rate_hz, seed)
        n = window_length(6, self.rate_hz)
        for i in range(first, first + count):
            yield SensorChunk(
                sensor_id=f"rig{self.seed}/{self.number}",
                sample_rate_hz=self.rate_hz,
                start_ns=START_NS + round(i * EVERY_S * NS_PER_S),
                samples=signal.block(i, i * EVERY_S, n),
                seq=i,
                unit="g",
                flags=Flags.END_OF_CAPTURE,
            )

    def impacts(self, fault: int, level_db: float) -> Impacts:
        """A fault that no longer grows."""
        rms = self.rms * 10 ** (level_db / 20)
        return Impacts(
            ORDERS[fault],
            self.resonances_hz[fault],
            DAMPING,
            Growth(-2.0, -1.0, rms, rms),
            modulation=float(fault),
            depth=0.7 * fault,
            seed=self.seed,
        )

    @cached_property
    def rms(self) -> float:
        """Of the healthy machine as it is learnt, in g."""
        return float(np.std([chunk.samples for chunk in self.captures(0, 4)]))


def rig_of(seed: int, number: int) -> Rig:
    """The machine of a seed with a number; its kind, rate and all else follow from them."""
    rng = np.random.default_rng((seed, number, 31))
    kinds = sorted(MACHINES)
    parts, noise = sources(kinds[number % len(kinds)], rng)
    rate_hz = RATES_HZ[number % len(RATES_HZ)]
    resonances = tuple(float(share * rate_hz) for share in rng.uniform(*RESONANCES, len(ORDERS)))
    speed_hz = float(rng.uniform(*SPEEDS_HZ))
    return Rig(seed, number, rate_hz, speed_hz, parts, noise, resonances, float(rng.random()))
