"""A kind of machine and a random generator in, its drive and sources of vibration out.

Levels are g at the bearing housing and typical of machines of 15-300 kW in good condition: velocity
around 1 mm/s RMS, broadband acceleration of 0.05-0.2 g.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from pipeline.simulation.machines import Bearing, Component, Drive, Growth, Impacts, Noise, Tones

Rng = np.random.Generator

# Deep groove bearing 6312: 8 balls of 22.2 mm on a pitch circle of 96 mm.
BEARING = Bearing(balls=8, ball_mm=22.2, pitch_mm=96.0)
SLIP = 0.012

TEETH = 31
BLADES = {"pump": 7, "fan": 9}

# ((speed relative to nominal, load), ...)
REGIMES = ((1.0, 0.8), (0.78, 0.55), (0.9, 0.65))


def _lines(rng: Rng, *lines: tuple[int, float]) -> tuple[tuple[int, float, float], ...]:
    """Orders and levels, each level varied by 20 %, with random phases."""
    return tuple(
        (order, level * rng.uniform(0.8, 1.2), rng.uniform(0, 2 * np.pi)) for order, level in lines
    )


def _rotor(rng: Rng, level: float = 1.0) -> Tones:
    return Tones(_lines(rng, (1, 0.020 * level), (2, 0.012 * level), (3, 0.006 * level)))


def _noise(rng: Rng, rms: float) -> Noise:
    bands = [(320, 700), (1100, 1900), (2600, 4200), (5200, 8500)]
    resonances = tuple(
        (rng.uniform(low, high), rng.uniform(2, 5), rng.uniform(5, 11)) for low, high in bands
    )
    return Noise(rms * rng.uniform(0.85, 1.15), resonances, pink=0.05, speed_power=1.5)


def _motor(rng: Rng) -> tuple[tuple[Component, ...], Noise]:
    slots = Tones(_lines(rng, (36, 0.03), (40, 0.02)), load_share=0.5)
    return (_rotor(rng), slots), _noise(rng, 0.09)


def _pump(rng: Rng) -> tuple[tuple[Component, ...], Noise]:
    z = BLADES["pump"]
    vanes = Tones(_lines(rng, (z, 0.05), (2 * z, 0.02), (3 * z, 0.01)), load_share=0.4)
    return (_rotor(rng), vanes), _noise(rng, 0.14)


def _fan(rng: Rng) -> tuple[tuple[Component, ...], Noise]:
    z = BLADES["fan"]
    blades = Tones(_lines(rng, (z, 0.03), (2 * z, 0.012)), load_share=0.3)
    return (_rotor(rng, 1.3), blades), _noise(rng, 0.07)


def _gearbox(rng: Rng) -> tuple[tuple[Component, ...], Noise]:
    mesh = Tones(
        _lines(rng, (TEETH, 0.16), (2 * TEETH, 0.08), (3 * TEETH, 0.03)),
        load_share=0.6,
        sideband=0.12,
    )
    return (_rotor(rng), mesh), _noise(rng, 0.12)


def _compressor(rng: Rng) -> tuple[tuple[Component, ...], Noise]:
    strokes = Tones(_lines(rng, (2, 0.02), (4, 0.04), (6, 0.03), (8, 0.02)), load_share=0.5)
    return (_rotor(rng), strokes), _noise(rng, 0.16)


MACHINES: dict[str, Callable[[Rng], tuple[tuple[Component, ...], Noise]]] = {
    "motor": _motor,
    "pump": _pump,
    "fan": _fan,
    "gearbox": _gearbox,
    "compressor": _compressor,
}


def sources(kind: str, rng: Rng) -> tuple[tuple[Component, ...], Noise]:
    """What a healthy machine of this kind sends to one sensor."""
    return MACHINES[kind](rng)


def machine_fault(
    name: str, onset_s: float, end_s: float, speed_hz: float, near: float, seed: int
) -> tuple[Component, tuple[float, float]]:
    """A growing fault as one sensor sees it, and the band that holds its energy.

    Args:
        name: One of `MACHINE_FAULTS`.
        onset_s: It is not there before.
        end_s: It grows exponentially from `onset_s` to here.
        speed_hz: Nominal shaft speed.
        near: 1 at the sensor next to it, less further away.
        seed: Of the times and strengths of its impacts; the same for all sensors of the asset.
    """
    if name in LINE_FAULTS:
        line, first, last = LINE_FAULTS[name]
        growth = Growth(onset_s, end_s, first * near, last * near)
        hz = line * speed_hz
        return Tones(((line, 1.0, 0.7),), growth=growth), (0.85 * hz, 1.15 * hz)
    order, resonance_hz, damping, last, jitter, spread, modulation, depth = IMPACT_FAULTS[name]
    growth = Growth(onset_s, end_s, 0.02 * last * near, last * near)
    fault = Impacts(
        order, resonance_hz, damping, growth, jitter, spread, modulation, depth, seed
    )  # fmt: skip
    return fault, fault.band_hz


# name -> order, amplitude at the onset and at the end (g)
LINE_FAULTS = {"unbalance": (1, 0.004, 0.4), "misalignment": (2, 0.004, 0.4)}

# name -> order, resonance_hz, damping, last RMS (g), jitter, spread, modulation order, depth
IMPACT_FAULTS = {
    "bearing_outer": ((1 - SLIP) * BEARING.bpfo, 4300.0, 0.05, 1.2, 0.015, 0.2, 0.0, 0.0),
    "bearing_inner": ((1 - SLIP) * BEARING.bpfi, 3900.0, 0.05, 1.2, 0.015, 0.2, 1.0, 0.7),
    "bearing_ball": (2 * (1 - SLIP) * BEARING.bsf, 4800.0, 0.05, 1.0, 0.02, 0.3, BEARING.ftf, 0.7),
    "broken_tooth": (1.0, 3100.0, 0.04, 0.9, 0.002, 0.1, 0.0, 0.0),
    "looseness": (8.0, 1900.0, 0.15, 0.8, 0.5, 0.8, 1.0, 0.6),
    "cavitation": (30.0, 5000.0, 0.15, 1.0, 0.8, 1.0, 7.0, 0.4),
}

MACHINE_FAULTS = (*LINE_FAULTS, *IMPACT_FAULTS)


def steady(speed_hz: float, _run_s: float, rng: Rng) -> Drive:
    """A machine that runs all the time at one nominal speed."""
    return Drive(speed_hz, wander_s=rng.uniform(300, 500), shift=rng.uniform())


def regimes(speed_hz: float, run_s: float, rng: Rng, count: int = 3) -> Drive:
    """A machine that changes among `count` speeds; all are seen in the first 15 % of the run."""
    knots: list[tuple[float, float, float]] = []
    time, number = 0.0, 0
    while time < run_s:
        share, load = REGIMES[number % count]
        stay = 0.15 / count * run_s * rng.uniform(0.7, 1.0)
        knots += [(time, share * speed_hz, load), (time + stay - 4.0, share * speed_hz, load)]
        time, number = time + stay, number + 1
    return Drive(speed_hz, knots, wander_s=rng.uniform(300, 500), shift=rng.uniform())


def start_stop(speed_hz: float, run_s: float, rng: Rng) -> Drive:
    """A machine that runs for about 6 % of the run, stands for 2 %, and so on."""
    knots: list[tuple[float, float, float]] = []
    time = 0.0
    while time < run_s:
        on = 0.06 * run_s * rng.uniform(0.8, 1.1)
        off = 0.02 * run_s * rng.uniform(0.8, 1.2)
        up, down = (time, speed_hz, 0.75), (time + on, speed_hz, 0.75)
        knots += [up, down, (time + on + 6.0, 0.0, 0.1), (time + on + off - 6.0, 0.0, 0.1)]
        time += on + off
    return Drive(speed_hz, knots, wander_s=rng.uniform(300, 500), shift=rng.uniform())


DRIVES: dict[str, Callable[[float, float, Rng], Drive]] = {
    "steady": steady,
    "regimes": regimes,
    "two_regimes": partial(regimes, count=2),
    "start_stop": start_stop,
}
