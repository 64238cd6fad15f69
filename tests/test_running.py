import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.running import RunningGate


@given(
    stopped=st.integers(10, 60),
    running=st.integers(10, 60),
    apart=st.floats(8.0, 1000.0),
    seed=st.integers(0, 99),
)
@settings(max_examples=100, deadline=None)
def test_two_levels_far_apart_are_standing_and_running(stopped, running, apart, seed):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0.95, 1.05, stopped)
    high = rng.uniform(0.95, 1.05, running) * apart
    gate = RunningGate()
    runs = gate.fit(rng.permutation(np.concatenate([low, high])).astype(np.float32))
    assert runs.sum() == running
    assert gate.running(apart)
    assert not gate.running(1.0)


def test_speeds_of_one_machine_are_not_taken_for_a_stop():
    levels = np.concatenate([np.full(50, 1.0), np.full(50, 4.0)]).astype(np.float32)
    assert RunningGate().fit(levels).all()


def test_a_few_odd_windows_make_no_stop():
    levels = np.concatenate([np.full(100, 1.0), np.full(3, 0.001)]).astype(np.float32)
    assert RunningGate().fit(levels).all()


def test_a_machine_never_seen_standing_stands_well_below_all_that_was_learnt():
    gate = RunningGate()
    assert gate.fit(np.linspace(1.0, 2.0, 100, dtype=np.float32)).all()
    assert gate.running(0.25)
    assert not gate.running(0.15)


def test_a_stop_seen_late_while_learning_is_still_found():
    gate = RunningGate()
    gate.fit(np.full(40, 1.0, np.float32))
    levels = np.concatenate([np.full(60, 1.0), np.full(30, 0.01)]).astype(np.float32)
    assert gate.fit(levels).sum() == 60


def test_a_stop_level_once_found_outlives_the_standing_windows():
    gate = RunningGate()
    levels = np.concatenate([np.full(60, 1.0), np.full(30, 0.01)]).astype(np.float32)
    runs = gate.fit(levels)
    found = gate.above
    assert gate.fit(levels[runs]).all()
    assert gate.above == found == pytest.approx(0.1)


def test_a_declared_level_is_never_moved():
    gate = RunningGate(0.5)
    gate.fit(np.concatenate([np.full(50, 1.0), np.full(50, 50.0)]).astype(np.float32))
    assert gate.above == 0.5
    assert gate.running(0.5)
    assert not gate.running(0.49)


def test_a_negative_level_is_refused():
    with pytest.raises(ValueError, match="above must be an RMS >= 0"):
        RunningGate(-1.0)
