"""A machine's, a sensor's and a cable's habits -> windows, for the sensor check's tests."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.health import SensorHealthCheck
from pipeline.messages import NS_PER_S, Flags, StreamEvent, Window

RATE = 12_800.0
N = 12_480  # 0.975 s
FULL_SCALE_G = 50.0
STEP_G = FULL_SCALE_G / 32_767
Array = NDArray[Any]
Rng = np.random.Generator


def motor(rng: Rng, level: float = 0.5, speed_hz: float = 24.7, n: int = N) -> Array:
    """A running motor at one sensor, in g: shaft lines and broad-band noise, RMS about `level`."""
    t = np.arange(n) / RATE
    lines = sum(
        a * np.sin(2 * np.pi * k * speed_hz * t + rng.uniform(0, 6.28))
        for k, a in ((1, 0.6), (2, 0.4), (7, 0.5), (49, 0.3))
    )
    return np.asarray(level * (lines / 0.66 * 0.7 + rng.normal(0, 0.7, n)))


def impacts(rng: Rng, peak: float, n: int = N) -> Array:
    """Ringing at 3 kHz after each of some 100 impacts per second, as of a spalled bearing."""
    out = np.zeros(n)
    for start in range(int(rng.integers(1, 120)), n - 200, 123):
        t = np.arange(200) / RATE
        out[start : start + 200] += peak * np.exp(-t * 900) * np.sin(2 * np.pi * 3000 * t)
    return out


def window(index: int, x: Array, encoding: str = "i16", **changes: Any) -> Window:
    """Window number `index` of a contiguous stream, as an ADC of +-50 g delivers it."""
    base = {
        "i16": lambda: np.clip(np.rint(x / STEP_G), -32_767, 32_767).astype(np.int16),
        "i24": lambda: np.clip(np.rint(x / STEP_G * 256), -(2**23) + 1, 2**23 - 1).astype(np.int32),
        "f32": lambda: np.asarray(x, np.float32),
    }[encoding]()
    scale = {"i16": STEP_G, "i24": STEP_G / 256, "f32": 1.0}[encoding]
    start_ns = round(index * N * NS_PER_S / RATE)
    built = Window("s", RATE, start_ns, index * N, base, encoding=encoding, scale=scale, unit="g")  # type: ignore[arg-type]
    return replace(built, **changes)


def checker(encoding: str = "i16", **changes: Any) -> SensorHealthCheck:
    full_scale = FULL_SCALE_G if encoding == "f32" else None
    return SensorHealthCheck(expected_rate_hz=RATE, full_scale=full_scale, **changes)


Given = tuple[Window, list[StreamEvent]]


def event(kind: str, at: Window, amount_s: float) -> StreamEvent:
    return StreamEvent("s", at.start_ns, kind, amount_s)  # type: ignore[arg-type]


def flatline(i: int, _rng: Rng, enc: str) -> Given:
    return window(i, np.full(N, 0.3), enc), []


def two_codes(i: int, rng: Rng, enc: str) -> Given:
    return window(i, STEP_G * rng.integers(5, 7, N), enc), []


def clipping(i: int, rng: Rng, enc: str) -> Given:
    return window(i, np.clip(motor(rng, 35.0), -FULL_SCALE_G, FULL_SCALE_G), enc), []


def saturated_amplifier(i: int, rng: Rng, enc: str) -> Given:
    return window(i, np.clip(motor(rng, 8.0), -14.0, 12.0), enc), []


def overload_flag(i: int, rng: Rng, enc: str) -> Given:
    return window(i, motor(rng), enc, flags=Flags.OVERLOAD), []


def dropout(i: int, rng: Rng, enc: str) -> Given:
    x = motor(rng)
    for start in rng.integers(0, int(0.94 * N), 3):
        x[start : start + int(0.05 * N)] = 0.0
    return window(i, x, enc), []


def held_value(i: int, rng: Rng, enc: str) -> Given:
    x = motor(rng)
    start = int(rng.integers(100, N // 2))
    x[start : start + N // 5] = x[start]
    return window(i, x, enc), []


def gap(i: int, rng: Rng, enc: str) -> Given:
    made = window(i, motor(rng), enc, gap_s=1.0)
    return made, [event("gap", made, 1.0)]


def bias_shift(i: int, rng: Rng, enc: str) -> Given:
    return window(i, motor(rng) + 4.0, enc), []


def ski_slope(i: int, rng: Rng, enc: str) -> Given:
    t = np.arange(N) / RATE
    sign = rng.choice([-1.0, 1.0])
    return window(i, motor(rng) + sign * 12.0 * (np.exp(-t / 0.2) - 0.2), enc), []


def wandering(i: int, rng: Rng, enc: str) -> Given:
    walk = np.cumsum(rng.normal(0, 1, N))
    walk -= walk.mean()
    return window(i, motor(rng) + 4.0 * walk / walk.std(), enc), []


def non_finite(i: int, rng: Rng, _enc: str) -> Given:
    x = motor(rng)
    x[rng.integers(0, N, 3)] = rng.choice([np.nan, np.inf, -np.inf])
    return window(i, x, "f32"), []


def wrong_rate(i: int, rng: Rng, enc: str) -> Given:
    return window(i, motor(rng), enc, sample_rate_hz=RATE / 2), []


def slow_clock(i: int, rng: Rng, enc: str) -> Given:
    made = window(i, motor(rng), enc, gap_s=0.02)
    return made, [event("gap", made, 0.02)]


def clock_step(i: int, rng: Rng, enc: str) -> Given:
    made = window(i, motor(rng), enc)
    return made, [event("clock_step", made, float(rng.choice([-1800.0, 0.5])))]


FAULTS: dict[str, list[Callable[[int, Rng, str], Given]]] = {
    "flatline": [flatline, two_codes],
    "clipping": [clipping, saturated_amplifier, overload_flag],
    "dropout": [dropout, held_value],
    "gap": [gap],
    "bias_shift": [bias_shift],
    "ski_slope": [ski_slope, wandering],
    "non_finite": [non_finite],
    "rate_mismatch": [wrong_rate, slow_clock],
    "clock_step": [clock_step],
}
