"""Speed and load over time in, the vibration of a machine at one sensor out.

Levels are g, times are seconds since the start of the simulation. The shaft's angle is a closed
form of time, so that blocks may be cut anywhere and captures may skip time. Lines and resonances
above `NYQUIST_SHARE` of the sample rate are left out, as an anti-alias filter would.

Sources: bearing orders after Randall and Antoni, Rolling element bearing diagnostics - a tutorial,
MSSP 25 (2011); peaking sections after R. Bristow-Johnson's audio EQ cookbook; pink noise by his
three pole approximation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, cos, exp, floor, log, pi, radians, sin, sqrt
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import signal

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

NYQUIST_SHARE = 0.45

# A resonance's ringing has fallen to e^-7 = 0.1 % after this many time constants.
RING_TIMES = 7.0

# Turns are exact at knots this far apart, linear in between: off by < 3e-4 turns at 5 Hz/s.
KNOT_S = 0.02


class Drive:
    """Speed and load of a shaft over time, and its angle in closed form.

    Args:
        nominal_hz: Speed for which levels are stated.
        knots: ((time_s, speed_hz, load), ...) in time order, linear in between; load 0-1.
        wander: Slow relative change of the speed, e.g. the slip of an induction motor.
        wander_s: Longer of the two periods of that change.
        load_wander: Slow relative change of the load.
        shift: Phase of the slow changes, 0-1, so that machines differ.
    """

    def __init__(
        self,
        nominal_hz: float,
        knots: Sequence[tuple[float, float, float]] = (),
        *,
        wander: float = 0.003,
        wander_s: float = 420.0,
        load_wander: float = 0.08,
        shift: float = 0.0,
    ) -> None:
        table = np.array(knots or [(0.0, nominal_hz, 0.75)], dtype=np.float64)
        self.nominal_hz = nominal_hz
        self.wander, self.wander_s = wander, wander_s
        self.load_wander, self.shift = load_wander, 2 * pi * shift
        self._t, self._speed, self._load = table.T
        step = np.diff(self._t)
        self._slope = np.append(np.diff(self._speed) / step, 0.0)
        mean = (self._speed[1:] + self._speed[:-1]) / 2
        self._turns = np.concatenate([[0.0], np.cumsum(mean * step)])

    def turns(self, t: ArrayLike) -> F64:
        """Turns of the shaft since time 0, same shape as `t`."""
        warped = self._warp(np.asarray(t, dtype=np.float64))
        i = np.maximum(np.searchsorted(self._t, warped, side="right") - 1, 0)
        dt = warped - self._t[i]
        return np.asarray(self._turns[i] + dt * (self._speed[i] + 0.5 * dt * self._slope[i]))

    def speed_hz(self, t: ArrayLike) -> F64:
        """Shaft speed, same shape as `t`."""
        time = np.asarray(t, dtype=np.float64)
        base = np.interp(self._warp(time), self._t, self._speed)
        return np.asarray(base * (1 + self._wandering(time)))

    def load(self, t: ArrayLike) -> F64:
        """Load 0-1, same shape as `t`."""
        time = np.asarray(t, dtype=np.float64)
        slow = np.sin(2 * pi * time / (0.61 * self.wander_s) + 2 * self.shift)
        return np.asarray(np.interp(time, self._t, self._load) * (1 + self.load_wander * slow))

    def _wandering(self, t: F64) -> F64:
        w = 2 * pi / self.wander_s
        slow, fast = np.sin(w * t + self.shift), np.sin(2.7 * w * t + 3 * self.shift)
        return np.asarray(self.wander * (0.7 * slow + 0.3 * fast))

    def _warp(self, t: F64) -> F64:
        """Time plus the integral of the wandering: the speed changes, a standstill stays one."""
        w = 2 * pi / self.wander_s
        slow = 0.7 * (np.cos(self.shift) - np.cos(w * t + self.shift))
        fast = 0.3 / 2.7 * (np.cos(3 * self.shift) - np.cos(2.7 * w * t + 3 * self.shift))
        return np.asarray(t + self.wander / w * (slow + fast))


class Block:
    """A stretch of time of one drive at one sample rate.

    Attributes:
        start_s, rate_hz, n: Where it lies; `n` samples.
        angle: (n,) float32 shaft angle in rad, 0 to 2 pi.
        speed, load: (2,) at start and end; speed relative to nominal.
        knots_s, knot_turns: (K,) turns of the shaft, from `lead_s` before the start to the end.
    """

    __slots__ = (
        "angle", "drive", "knot_turns", "knots_s", "load", "n", "rate_hz", "speed", "start_s",
    )  # fmt: skip

    def __init__(
        self, drive: Drive, start_s: float, rate_hz: float, n: int, *, lead_s: float = 0.1
    ) -> None:
        end_s = start_s + n / rate_hz
        self.drive, self.start_s, self.rate_hz, self.n = drive, start_s, rate_hz, n
        first, last = floor((start_s - lead_s) / KNOT_S), ceil(end_s / KNOT_S) + 1
        self.knots_s = np.arange(first, last + 1) * KNOT_S  # one grid, however blocks are cut
        self.knot_turns = drive.turns(self.knots_s)
        time = start_s + np.arange(n) / rate_hz
        turns = np.interp(time, self.knots_s, self.knot_turns)
        turns -= np.floor(turns)
        self.angle: F32 = (turns * (2 * pi)).astype(np.float32)
        ends = np.array([start_s, end_s])
        self.speed = drive.speed_hz(ends) / drive.nominal_hz
        self.load = drive.load(ends)

    def ramp(self, ends: F64) -> F32 | np.float32:
        """A gain that runs from ends[0] to ends[1]; a scalar where both are the same."""
        if ends[0] == ends[1]:
            return np.float32(ends[0])
        return np.linspace(ends[0], ends[1], self.n, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Growth:
    """A level that is 0 before `onset_s`, then grows exponentially from `first` to `last`."""

    onset_s: float
    end_s: float
    first: float
    last: float

    def at(self, t: float) -> float:
        """Level at time `t`; stays at `last` after `end_s`."""
        if t < self.onset_s:
            return 0.0
        share = min(1.0, (t - self.onset_s) / (self.end_s - self.onset_s))
        return float(self.first * exp(share * log(self.last / self.first)))

    def over(self, block: Block) -> F64:
        """(2,) levels at the block's start and end."""
        return np.array([self.at(block.start_s), self.at(block.start_s + block.n / block.rate_hz)])


class Component(Protocol):
    """A source of vibration."""

    def add_to(self, out: F32, block: Block) -> None:
        """Add this source's signal over `block` to `out`, (n,) float32."""


@dataclass(frozen=True, slots=True)
class Tones:
    """Lines at multiples of the shaft speed: unbalance, misalignment, blade pass, gear mesh.

    Attributes:
        lines: ((order, amplitude, phase_rad), ...); integer orders.
        speed_power: Levels follow (speed / nominal) ** this; 2 for rotating masses.
        load_share: 0 = level independent of load, 1 = proportional to it.
        sideband: Depth of the amplitude modulation by the shaft turn, 0-1.
        growth: Where given, multiplies the levels.
    """

    lines: tuple[tuple[int, float, float], ...]
    speed_power: float = 2.0
    load_share: float = 0.0
    sideband: float = 0.0
    growth: Growth | None = None

    def add_to(self, out: F32, block: Block) -> None:
        """See `Component`."""
        gain = np.maximum(block.speed, 0.0) ** self.speed_power
        gain = gain * (1 - self.load_share + self.load_share * block.load)
        if self.growth is not None:
            gain = gain * self.growth.over(block)
        top = NYQUIST_SHARE * block.rate_hz / (block.drive.nominal_hz * max(block.speed.max(), 0.1))
        lines = [line for line in self.lines if line[0] < top]
        if not lines or not gain.any():
            return
        total = np.zeros(block.n, dtype=np.float32)
        for order, amplitude, phase in lines:
            wave = np.sin(block.angle * np.float32(order) + np.float32(phase))
            total += wave * np.float32(amplitude)
        if self.sideband:
            total *= 1 + np.float32(self.sideband) * np.cos(block.angle)
        out += total * block.ramp(gain)


@dataclass(frozen=True, slots=True)
class Impacts:
    """Impacts that make the structure ring: spalls, broken teeth, collapsing bubbles.

    Attributes:
        order: Impacts per turn of the shaft.
        resonance_hz, damping: Of the structure; damping ratio.
        growth: RMS of the ringing over time, at nominal speed.
        jitter: Standard deviation of the time between impacts, as a share of it.
        spread: Standard deviation of their strength relative to its mean, 0-1.
        modulation: Order of the amplitude modulation (1 = shaft, FTF = cage), 0 for none.
        depth: Of that modulation, 0-1.
        seed: Of the jitter and the strengths.
    """

    order: float
    resonance_hz: float
    damping: float
    growth: Growth
    jitter: float = 0.015
    spread: float = 0.2
    modulation: float = 0.0
    depth: float = 0.0
    seed: int = 0

    @property
    def band_hz(self) -> tuple[float, float]:
        """Band with 80 % of the energy: 3 half-power half-widths to each side."""
        half = 3 * self.damping * self.resonance_hz
        return (self.resonance_hz - half, self.resonance_hz + half)

    def add_to(self, out: F32, block: Block) -> None:
        """See `Component`."""
        gain = self.growth.over(block) * np.maximum(block.speed, 0.0)
        if not gain.any() or self.resonance_hz > NYQUIST_SHARE * block.rate_hz:
            return
        decay_s = 1 / (2 * pi * self.resonance_hz * self.damping)
        lead = min(ceil(RING_TIMES * decay_s * block.rate_hz), int(0.09 * block.rate_hz))
        at_s, strength = self._events(block)
        place = (at_s - block.start_s) * block.rate_hz + lead
        inside = (place >= 0) & (place < block.n + lead)
        place, strength = place[inside], strength[inside]
        index = place.astype(np.int64)
        later = place - index
        size = block.n + lead + 1
        train = np.bincount(index, strength * (1 - later), size)
        train += np.bincount(index + 1, strength * later, size)
        ringing = self._ring(train.astype(np.float32), block.rate_hz)[lead:-1]
        power = (1 + self.spread**2) * (1 + self.depth**2 / 2)
        rate = self.order * block.drive.nominal_hz
        peak = sqrt(4 / (rate * decay_s * power))  # a ringing of peak A and decay T has A^2 T / 4
        out += ringing * block.ramp(gain * peak)

    def _events(self, block: Block) -> tuple[F64, F64]:
        """Times and strengths of the impacts around the block; a function of their number only."""
        phase = self.order * block.knot_turns
        if phase[-1] - phase[0] < 1e-9:
            return np.empty(0), np.empty(0)
        number = np.arange(int(phase[0]) - 3, int(phase[-1]) + 4)
        uniform = hashed(number, self.seed)
        jitter = self.jitter * sqrt(3) * (2 * uniform - 1)
        wanted = number + jitter
        at_s = np.interp(wanted, phase, block.knots_s, left=-np.inf, right=np.inf)
        strength = 1 - self.spread - self.spread * np.log(hashed(number, self.seed + 1) + 1e-12)
        if self.modulation:
            strength *= 1 + self.depth * np.cos(2 * pi * self.modulation * wanted / self.order)
        return at_s, strength

    def _ring(self, train: F32, rate_hz: float) -> F32:
        w = 2 * pi * self.resonance_hz / rate_hz
        r = exp(-self.damping * w)
        a = np.array([1, -2 * r * cos(w), r * r], dtype=np.float32)
        out: F32 = signal.lfilter(np.array([sin(w)], dtype=np.float32), a, train)
        return out


def hashed(number: NDArray[np.int64], seed: int) -> F64:
    """Uniform numbers in [0, 1) that depend on (number, seed) only; splitmix64 of the pair."""
    z = number.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x2545F491) % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).astype(np.float64) / 2.0**64


@dataclass(frozen=True, slots=True)
class Bearing:
    """Geometry of a rolling bearing; orders are events per turn of the shaft.

    >>> b = Bearing(balls=9, ball_mm=7.94, pitch_mm=39.04)   # SKF 6205
    >>> round(b.bpfo, 3), round(b.bpfi, 3), round(b.ftf, 4), round(b.bsf, 3)
    (3.585, 5.415, 0.3983, 2.357)
    """

    balls: int
    ball_mm: float
    pitch_mm: float
    contact_deg: float = 0.0

    @property
    def _ratio(self) -> float:
        return self.ball_mm / self.pitch_mm * cos(radians(self.contact_deg))

    @property
    def ftf(self) -> float:
        """Cage turns."""
        return (1 - self._ratio) / 2

    @property
    def bpfo(self) -> float:
        """Balls passing a point of the outer ring."""
        return self.balls * self.ftf

    @property
    def bpfi(self) -> float:
        """Balls passing a point of the inner ring."""
        return self.balls * (1 + self._ratio) / 2

    @property
    def bsf(self) -> float:
        """Ball turns."""
        return self.pitch_mm / (2 * self.ball_mm) * (1 - self._ratio**2)


@dataclass(frozen=True, slots=True)
class Noise:
    """Broadband noise of a running machine, shaped by the structure, over a small constant floor.

    Attributes:
        rms: Of the running machine at nominal speed and load 0.75.
        resonances: ((hz, q, gain_db), ...) mild resonances of the structure.
        pink: Weight of 1/f noise beside the white one.
        floor: RMS of the sensor's own white noise.
        idle: Share of `rms` that neighbours cause while this machine stands.
        speed_power: Level follows (speed / nominal) ** this.
    """

    rms: float
    resonances: tuple[tuple[float, float, float], ...] = ()
    pink: float = 0.1
    floor: float = 0.002
    idle: float = 0.06
    speed_power: float = 1.5

    def sections(self, rate_hz: float) -> F32:
        """(S, 6) second order sections that give unit white noise an RMS of 1."""
        zeros = [0.98443604, 0.83392334, 0.07568359]
        poles = [0.99572754, 0.94790649, 0.53567505]
        white = np.poly(poles) + self.pink * np.poly(zeros)
        parts = [signal.zpk2sos(np.roots(white), poles, white[0])]
        parts += [
            peak[None]
            for hz, q, gain_db in self.resonances
            if hz < NYQUIST_SHARE * rate_hz
            for peak in [_peaking(hz / rate_hz, q, gain_db)]
        ]
        sos = np.concatenate(parts)
        _, response = signal.sosfreqz(sos, 8192)
        sos[0, :3] /= sqrt(float(np.mean(np.abs(response) ** 2)))
        return np.asarray(sos, dtype=np.float32)

    def level(self, block: Block) -> F64:
        """(2,) RMS at the block's start and end."""
        speed = np.maximum(block.speed, 0.0) ** self.speed_power
        return self.rms * (self.idle + (1 - self.idle) * speed * np.sqrt(block.load / 0.75))


def _peaking(frequency: float, q: float, gain_db: float) -> F64:
    """One peaking section; frequency as a share of the sample rate."""
    amplitude, w = 10 ** (gain_db / 40), 2 * pi * frequency
    alpha = sin(w) / (2 * q)
    b = [1 + alpha * amplitude, -2 * cos(w), 1 - alpha * amplitude]
    a = [1 + alpha / amplitude, -2 * cos(w), 1 - alpha / amplitude]
    return np.array(b + a) / a[0]


class Signal:
    """The analogue signal at one sensor, block after block; the noise runs on across blocks."""

    def __init__(
        self,
        drive: Drive,
        components: Sequence[Component],
        noise: Noise,
        rate_hz: float,
        seed: Sequence[int],
    ) -> None:
        self.drive, self.components, self.noise = drive, tuple(components), noise
        self.rate_hz, self.seed = rate_hz, tuple(seed)
        self._sos = noise.sections(rate_hz)
        self._memory = np.zeros((len(self._sos), 2), dtype=np.float32)

    def block(self, index: int, start_s: float, n: int) -> F32:
        """(n,) float32 from `start_s` on; `index` numbers the blocks and seeds their noise."""
        rng = np.random.Generator(np.random.SFC64((*self.seed, index)))
        block = Block(self.drive, start_s, self.rate_hz, n)
        white = rng.standard_normal(n, dtype=np.float32)
        shaped, self._memory = signal.sosfilt(self._sos, white, zi=self._memory)
        out: F32 = shaped * block.ramp(self.noise.level(block))
        out += white * np.float32(self.noise.floor)
        for component in self.components:
            component.add_to(out, block)
        return out
