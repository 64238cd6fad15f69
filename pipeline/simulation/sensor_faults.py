"""The signal at a sensor in, what a faulty sensor delivers out: chunk by chunk.

Each fault has a name, which is also the one under which `pipeline.health` reports it where it does:
`flatline`, `clipping`, `dropout`, `bias_shift`, `ski_slope`, `non_finite`, `rate_mismatch`,
`sample_loss`, `gap`, `clock_step`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from pipeline.messages import NS_PER_S, SensorChunk

F32 = NDArray[np.float32]

CLOCK_STEP_S = -1800.0
RATE_RATIO = 2
LOST_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class SensorFault:
    """A fault of the sensor or its wiring from `onset_s` to `end_s` (s since the start)."""

    name: str
    onset_s: float
    end_s: float

    def __post_init__(self) -> None:
        if self.name not in SENSOR_FAULTS:
            allowed = ", ".join(SENSOR_FAULTS)
            raise ValueError(f"sensor fault must be one of {allowed}, got {self.name!r}")

    def active(self, t: float) -> bool:
        """Whether the fault is there at `t`."""
        return self.onset_s <= t < self.end_s


Distort = Callable[[F32, float, float, np.random.Generator], F32]


def _flatline(x: F32, full_scale: float, _rate_hz: float, _rng: np.random.Generator) -> F32:
    return np.full_like(x, 0.01 * full_scale)


def _clipping(x: F32, full_scale: float, _rate_hz: float, _rng: np.random.Generator) -> F32:
    """A gain gone wrong: an RMS of 0.6 of the full scale clips 5-10 % of the samples."""
    return x * np.float32(0.6 * full_scale / max(float(np.std(x)), 1e-9))


def _dropout(x: F32, _full_scale: float, _rate_hz: float, rng: np.random.Generator) -> F32:
    """A loose plug: four stretches of 6 % of the block read zero."""
    out = x.copy()
    for start in rng.integers(0, max(1, int(0.94 * x.size)), 4):
        out[start : start + int(0.06 * x.size)] = 0.0
    return out


def _bias_shift(x: F32, full_scale: float, _rate_hz: float, _rng: np.random.Generator) -> F32:
    return x + np.float32(0.3 * full_scale)


def _ski_slope(x: F32, full_scale: float, rate_hz: float, rng: np.random.Generator) -> F32:
    """A bad cable: 1/f^2 noise below 2 Hz hides the machine's low frequencies."""
    leak = np.float32(np.exp(-2 * np.pi * 2.0 / rate_hz))
    steps = rng.standard_normal(x.size, dtype=np.float32)
    start = np.array([leak * rng.standard_normal() / np.sqrt(1 - leak**2)], dtype=np.float32)
    walk, _ = signal.lfilter(
        np.ones(1, np.float32), np.array([1, -leak], np.float32), steps, zi=start
    )
    return np.asarray(x + walk * np.float32(0.1 * full_scale * np.sqrt(1 - leak**2)), np.float32)


def _non_finite(x: F32, _full_scale: float, _rate_hz: float, rng: np.random.Generator) -> F32:
    out = x.copy()
    out[rng.integers(0, x.size, max(1, x.size // 200))] = np.nan
    out[rng.integers(0, x.size, 2)] = np.inf
    return out


def _as_is(x: F32, _full_scale: float, _rate_hz: float, _rng: np.random.Generator) -> F32:
    return x


SENSOR_FAULTS: dict[str, Distort] = {
    "flatline": _flatline,
    "clipping": _clipping,
    "dropout": _dropout,
    "bias_shift": _bias_shift,
    "ski_slope": _ski_slope,
    "non_finite": _non_finite,
    "rate_mismatch": _as_is,
    "sample_loss": _as_is,
    "gap": _as_is,
    "clock_step": _as_is,
}


def distort(
    x: F32, fault: SensorFault, full_scale: float, rate_hz: float, rng: np.random.Generator
) -> F32:
    """What the ADC sees of `x`, (n,) in the sensor's unit, while `fault` is active."""
    return SENSOR_FAULTS[fault.name](x, full_scale, rate_hz, rng)


def deliver(chunk: SensorChunk, fault: SensorFault) -> SensorChunk | None:
    """What arrives of `chunk` while `fault` is active; None where nothing does."""
    match fault.name:
        case "gap":
            return None
        case "clock_step":
            return replace(chunk, start_ns=chunk.start_ns + round(CLOCK_STEP_S * NS_PER_S))
        case "rate_mismatch":  # someone has changed the sensor's settings, and it says so
            slower = chunk.sample_rate_hz / RATE_RATIO
            return replace(chunk, sample_rate_hz=slower, samples=chunk.samples[::RATE_RATIO])
        case "sample_loss":  # a packet is lost on the way and nobody says so
            cut, lost = chunk.samples.size // 3, int(LOST_SHARE * chunk.samples.size)
            rest = np.concatenate([chunk.samples[:cut], chunk.samples[cut + lost :]])
            return replace(chunk, samples=rest)
    return chunk
