from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.simulation.assets import MACHINE_FAULTS, machine_fault
from pipeline.simulation.machines import Component, Drive, Growth, Impacts, Noise, Signal, Tones
from simulate_cases import Array

KNOTS = ((0.0, 20.0, 0.7), (50.0, 20.0, 0.7), (60.0, 25.0, 0.9), (80.0, 0.0, 0.1), (99.0, 0.0, 0.1))


@settings(max_examples=40, deadline=None)
@given(t=st.floats(0.0, 120.0), shift=st.floats(0.0, 1.0))
def test_turns_are_the_integral_of_the_speed(t: float, shift: float) -> None:
    drive = Drive(25.0, KNOTS, shift=shift)
    step = 0.01
    turned = drive.turns(t + step) - drive.turns(t)
    assert turned / step == pytest.approx(drive.speed_hz(t + step / 2), abs=0.02)


SOURCES: dict[str, Component] = {
    "tones": Tones(((1, 0.1, 0.3), (31, 0.05, 1.0)), load_share=0.5, sideband=0.3),
    **{
        name: machine_fault(name, -1.0, 100.0, 25.0, 1.0, 7)[0]
        for name in MACHINE_FAULTS
    },
}  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(list(SOURCES)), cut=st.integers(100, 7900), start=st.integers(0, 90))
def test_a_source_does_not_depend_on_how_time_is_cut(name: str, cut: int, start: int) -> None:
    rate, n = 16000.0, 8000

    def made(*cuts: int) -> Array:
        made_of = Signal(Drive(25.0, KNOTS), [SOURCES[name]], Noise(0.0, floor=0.0), rate, (0,))
        edges = [0, *cuts, n]
        parts = [made_of.block(0, start + a / rate, b - a) for a, b in pairwise(edges)]
        return np.concatenate(parts).astype(np.float64)

    whole = made()
    assert np.abs(made(cut) - whole).max() < 0.02 * max(np.abs(whole).max(), 0.01)


def test_noise_runs_on_across_blocks() -> None:
    rumble = Noise(1.0, ((40.0, 0.7, 40.0),), floor=0.0)
    made = Signal(Drive(25.0), (), rumble, 8000.0, (0,))
    whole = np.concatenate([made.block(i, i / 10, 800) for i in range(20)])
    steps = np.abs(np.diff(whole))
    assert steps[799::800].max() < 2 * steps.max(
        where=np.arange(steps.size) % 800 != 799, initial=0
    )


def test_no_line_and_no_resonance_above_the_anti_alias_filter() -> None:
    high = [Tones(((500, 1.0, 0.0),)), Impacts(3.0, 9000.0, 0.05, Growth(-1.0, 1.0, 1.0, 1.0))]
    quiet = Signal(Drive(25.0), high, Noise(0.0, floor=0.0), 16000.0, (0,))
    assert not quiet.block(0, 0.0, 1000).any()


@settings(max_examples=20, deadline=None)
@given(rms_g=st.floats(0.05, 2.0), order=st.floats(1.0, 9.0))
def test_impacts_have_the_rms_they_state(rms_g: float, order: float) -> None:
    growth = Growth(-1.0, 1.0, rms_g, rms_g)
    impacts = Impacts(order, 4000.0, 0.05, growth, modulation=0.37, depth=0.5)
    drive = Drive(25.0, wander=0.0)
    made = Signal(drive, [impacts], Noise(0.0, floor=0.0), 25600.0, (0,)).block(0, 0.0, 51200)
    assert made.std() == pytest.approx(rms_g, rel=0.25)


@pytest.mark.parametrize("rate_hz", [4000.0, 12800.0, 51200.0])
def test_noise_has_the_rms_it_states_at_any_rate(rate_hz: float) -> None:
    noise = Noise(0.2, ((900.0, 2.0, 9.0), (6000.0, 3.0, 10.0)), floor=0.0)
    drive = Drive(25.0, wander=0.0, load_wander=0.0)
    made = Signal(drive, (), noise, rate_hz, (0,)).block(0, 0.0, 2 * int(rate_hz))
    assert made.std() == pytest.approx(0.2, rel=0.05)
