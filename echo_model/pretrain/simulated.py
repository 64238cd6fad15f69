"""A random seed in, a clip of a machine that never existed out.

Widely randomised on purpose: rates of 1-100 kHz, shafts from 2 to 200 Hz, harmonics, gear mesh with
sidebands, blade pass, mains hum, bearing and other impacts that ring in structural resonances,
cavitation-like bursts, coloured noise through random resonances, slow changes of speed and load.
Nothing is labelled and no real machine is copied: the network has to learn what such signals are
made of, not these machines.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import signal

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I16 = NDArray[np.int16]

# Most samples of one clip; at 100 kHz that is 1.3 s.
CLIP_SAMPLES = 1 << 17
CLIP_S = 2.7
RATES_HZ = (
    1000, 2000, 2560, 3200, 4000, 5120, 6400, 8000, 10000, 10240, 12000, 12800, 16000, 20000,
    20480, 25000, 25600, 32000, 40000, 44100, 48000, 50000, 51200, 64000, 65536, 100000,
)  # fmt: skip
FULL_SCALE = 32767


class Clip(NamedTuple):
    """A mono signal as 16-bit samples; full scale is 1."""

    samples: I16
    rate_hz: float


def machine(rng: np.random.Generator) -> Clip:
    """A random machine at a random sensor: at most 2.7 s, peak 0.9 of full scale."""
    rate = float(rng.choice(RATES_HZ))
    if rng.random() < 0.3:
        rate = float(round(np.exp(rng.uniform(np.log(1e3), np.log(1e5)))))
    n = min(int(CLIP_S * rate), CLIP_SAMPLES)
    shaft_hz = float(np.exp(rng.uniform(np.log(2.0), np.log(min(200.0, rate / 12)))))
    turns = _turns(rng, n, rate, shaft_hz)
    out = _noise(rng, n) * np.float32(10 ** rng.uniform(-1.5, 0.3))
    for source, chance in _SOURCES:
        if rng.random() < chance:
            part = source(rng, turns, rate, shaft_hz)
            out += _unit(part) * np.float32(10 ** rng.uniform(-1.6, 0.3))
    if rng.random() < 0.3:
        out = _through_structure(rng, out)
    peak = float(np.abs(out).max()) + 1e-12
    return Clip((out * (0.9 * FULL_SCALE / peak)).astype(np.int16), rate)


def _unit(x: F32) -> F32:
    scaled: F32 = x / (np.sqrt(np.mean(x * x)) + np.float32(1e-12))
    return scaled


def _turns(rng: np.random.Generator, n: int, rate: float, shaft_hz: float) -> F64:
    """Turns of the shaft at each sample, (n,): nearly steady, or a run-up or run-down."""
    time = np.arange(n, dtype=np.float64) / rate
    swing = rng.choice([0.002, 0.01, 0.3], p=[0.6, 0.25, 0.15]) * rng.uniform(-1, 1)
    period = rng.uniform(0.5, 8.0)
    angle = 2 * np.pi / period
    turns: F64 = shaft_hz * (time + swing / angle * np.sin(angle * time)) + rng.random()
    return turns


def _tones(turns: F64, orders: list[float], sizes: F64, phases: F64) -> F32:
    out = np.zeros(len(turns), dtype=np.float32)
    for order, size, phase in zip(orders, sizes, phases, strict=True):
        cycles = turns * order
        cycles -= np.floor(cycles)
        angle = cycles.astype(np.float32) * np.float32(2 * np.pi) + np.float32(phase)
        out += np.sin(angle) * np.float32(size)
    return out


def _harmonics(rng: np.random.Generator, turns: F64, rate: float, shaft_hz: float) -> F32:
    """Shaft orders: unbalance, misalignment, looseness (with halves)."""
    step = 0.5 if rng.random() < 0.15 else 1.0
    count = min(int(rng.integers(1, 13)), max(1, int(0.45 * rate / (shaft_hz * step))))
    orders = [step * (i + 1) for i in range(count)]
    decay = rng.uniform(0.3, 2.0)
    sizes = np.array([o**-decay for o in orders]) * rng.lognormal(0, 0.7, count)
    phases = rng.uniform(0, 2 * np.pi, count)
    return _tones(turns, orders, sizes, phases)


def _mesh(rng: np.random.Generator, turns: F64, rate: float, shaft_hz: float) -> F32:
    """Gear mesh or blade pass: harmonics of a high order, modulated by the shaft."""
    top = 0.45 * rate / shaft_hz
    order = float(rng.integers(3, max(4, int(min(top, 120)))))
    count = max(1, min(int(rng.integers(1, 5)), int(top / order)))
    sizes = rng.uniform(0.2, 1.0, count) * 0.6 ** np.arange(count)
    phases = rng.uniform(0, 2 * np.pi, count)
    out = _tones(turns, [order * (i + 1) for i in range(count)], sizes, phases)
    depth = rng.uniform(0, 0.9) * (rng.random() < 0.7)
    by = float(rng.choice([1.0, 1.0, rng.uniform(0.1, 0.9)]))
    envelope = _tones(turns, [by], np.array([depth]), rng.uniform(0, 6.28, 1))
    modulated: F32 = out * (1 + envelope)
    return modulated


def _impacts(rng: np.random.Generator, turns: F64, _rate: float, _shaft_hz: float) -> F32:
    """Bearing-like impacts: an order per turn, jitter, modulation, one or two resonances."""
    n = len(turns)
    order = float(np.exp(rng.uniform(np.log(0.3), np.log(14.0))))
    phase = turns * order
    first, last = int(phase[0]), int(phase[-1]) + 1
    wanted = np.arange(first, last) + rng.normal(0, rng.choice([0.003, 0.015, 0.15]), last - first)
    place = np.interp(wanted, phase[::8], np.arange(n)[::8]).astype(np.int64)
    strength = rng.lognormal(0, rng.uniform(0.05, 0.6), len(place))
    depth = rng.uniform(0, 0.95) * (rng.random() < 0.6)
    by = rng.choice([1.0, 0.4]) / order
    strength *= 1 + depth * np.cos(2 * np.pi * by * wanted)
    train = np.bincount(place, strength, n + 1)[:n].astype(np.float32)
    return _ring(rng, train)


def _random_hits(rng: np.random.Generator, turns: F64, rate: float, _shaft_hz: float) -> F32:
    """Irregular hits: cavitation, debris, valves, knocking."""
    n = len(turns)
    count = rng.poisson(np.exp(rng.uniform(0, np.log(2000))) * n / rate) + 1
    place = rng.integers(0, n, count)
    train = np.bincount(place, rng.lognormal(0, 1.0, count), n)[:n].astype(np.float32)
    return _ring(rng, train)


def _ring(rng: np.random.Generator, train: F32) -> F32:
    """Excite one or two resonances."""
    out = np.zeros_like(train)
    for _ in range(int(rng.integers(1, 3))):
        w = 2 * np.pi * np.exp(rng.uniform(np.log(0.01), np.log(0.45)))
        r = np.exp(-w * np.exp(rng.uniform(np.log(0.005), np.log(0.2))))
        a = np.array([1, -2 * r * np.cos(w), r * r], dtype=np.float32)
        gain = np.array([np.sin(w) * rng.uniform(0.3, 1.0)], dtype=np.float32)
        out += signal.lfilter(gain, a, train)
    return out


def _hum(rng: np.random.Generator, turns: F64, rate: float, _shaft_hz: float) -> F32:
    """Mains hum, or the whine of an inverter: lines that do not follow the shaft."""
    n = len(turns)
    top = 0.45 * rate
    if rng.random() < 0.6:
        base = float(rng.choice([50.0, 60.0, 100.0, 120.0]))
    else:
        base = float(np.exp(rng.uniform(np.log(50), np.log(top))))
    count = max(1, min(int(rng.integers(1, 9)), int(top / base)))
    cycles = np.arange(n, dtype=np.float64) * (base / rate)
    sizes = rng.uniform(0.1, 1.0, count) / np.arange(1, count + 1)
    phases = rng.uniform(0, 2 * np.pi, count)
    return _tones(cycles, [i + 1.0 for i in range(count)], sizes, phases)


def _modulated(rng: np.random.Generator, turns: F64, _rate: float, _shaft_hz: float) -> F32:
    """Broadband noise that beats with the shaft: rubbing, turbulence past blades."""
    noise = _noise(rng, len(turns))
    order = float(rng.choice([1.0, 2.0, float(rng.integers(3, 12))]))
    depth, phase = rng.uniform(0.3, 1.0, 1), rng.uniform(0, 6.28, 1)
    beating: F32 = noise * (1 + _tones(turns, [order], depth, phase))
    return beating


_SOURCES = (
    (_harmonics, 0.75),
    (_mesh, 0.5),
    (_impacts, 0.5),
    (_random_hits, 0.12),
    (_hum, 0.3),
    (_modulated, 0.3),
)


def _noise(rng: np.random.Generator, n: int) -> F32:
    """Coloured noise of RMS 1 through a few random resonances."""
    out: F32 = rng.standard_normal(n, dtype=np.float32)
    pole = rng.choice([0.0, rng.uniform(-0.6, 0.98)])
    if pole:
        out = signal.lfilter(np.ones(1, np.float32), np.array([1, -pole], np.float32), out)
    return _unit(_through_structure(rng, out))


def _through_structure(rng: np.random.Generator, x: F32) -> F32:
    """Add up to four resonances, each of which lifts its band by 0-25 dB."""
    out = x.copy()
    for _ in range(int(rng.integers(0, 5))):
        w = 2 * np.pi * np.exp(rng.uniform(np.log(0.005), np.log(0.48)))
        width = w * np.exp(rng.uniform(np.log(0.01), np.log(0.5)))
        r = np.exp(-width / 2)
        a = np.array([1, -2 * r * np.cos(w), r * r], dtype=np.float32)
        b = np.array([1 - r, 0, r - 1], dtype=np.float32)
        out += signal.lfilter(b, a, x) * np.float32(10 ** (rng.uniform(0, 25) / 20))
    return out
