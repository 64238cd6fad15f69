import numpy as np
import pytest

from pipeline.messages import FULL_SCALE, NS_PER_S
from pipeline.simulation.sensor_faults import SENSOR_FAULTS, SensorFault, deliver, distort
from pipeline.simulation.simulate import InjectedFault, SimulatedPlant, demo_plant, plant
from simulate_cases import Feeds, fault_named, feeds_of, values


@pytest.fixture(scope="module")
def broken() -> tuple[SimulatedPlant, Feeds]:
    made = plant(every_s=120.0)
    return made, feeds_of(made.chunks())


def faulty(broken: tuple[SimulatedPlant, Feeds], name: str) -> tuple[Feeds, InjectedFault]:
    made, feeds = broken
    fault = fault_named(made, name)
    assert fault.kind == "sensor"
    inside = [
        c for c in feeds[fault.sensor_id] if fault.onset_ns <= c.start_ns + 1 < fault.end_ns
    ]  # fmt: skip
    before = [c for c in feeds[fault.sensor_id] if c.end_ns < fault.onset_ns]
    return {"inside": inside, "before": before, "all": feeds[fault.sensor_id]}, fault


def test_a_flat_line_is_flat(broken: tuple[SimulatedPlant, Feeds]) -> None:
    feeds, _ = faulty(broken, "flatline")
    assert feeds["inside"]
    assert all(np.ptp(c.samples) == 0 for c in feeds["inside"])
    assert all(np.ptp(c.samples) > 0 for c in feeds["before"])


def test_clipping_reaches_the_full_scale(broken: tuple[SimulatedPlant, Feeds]) -> None:
    feeds, _ = faulty(broken, "clipping")
    top = FULL_SCALE["i16"]
    assert feeds["inside"]
    assert all(0.02 < np.mean(np.abs(c.samples) >= top) < 0.2 for c in feeds["inside"])
    assert all(np.abs(c.samples).max() < 0.2 * top for c in feeds["before"])


def test_a_dropout_reads_zero(broken: tuple[SimulatedPlant, Feeds]) -> None:
    feeds, _ = faulty(broken, "dropout")
    assert feeds["inside"]
    assert all(0.05 < np.mean(c.samples == 0) < 0.3 for c in feeds["inside"])
    assert all(np.mean(c.samples == 0) < 0.01 for c in feeds["before"])


def test_a_bias_shift_moves_the_mean(broken: tuple[SimulatedPlant, Feeds]) -> None:
    feeds, _ = faulty(broken, "bias_shift")
    assert feeds["inside"]
    assert all(values(c).mean() == pytest.approx(15.0, abs=0.5) for c in feeds["inside"])
    assert all(abs(values(c).mean()) < 0.1 for c in feeds["before"])


def test_non_finite_samples_are_there(broken: tuple[SimulatedPlant, Feeds]) -> None:
    feeds, _ = faulty(broken, "non_finite")
    assert feeds["inside"]
    assert all(not np.isfinite(c.samples).all() for c in feeds["inside"])
    assert all(np.isfinite(c.samples).all() for c in feeds["before"])


def test_a_gap_is_silence_and_ends(broken: tuple[SimulatedPlant, Feeds]) -> None:
    feeds, fault = faulty(broken, "gap")
    assert not feeds["inside"]
    missing = set(range(60)) - {c.seq for c in feeds["all"]}
    assert len(missing) == pytest.approx(0.08 * 60, abs=1)
    assert feeds["all"][-1].start_ns > fault.end_ns


def test_a_changed_rate_is_declared(broken: tuple[SimulatedPlant, Feeds]) -> None:
    feeds, _ = faulty(broken, "rate_mismatch")
    assert feeds["inside"]
    assert {(c.sample_rate_hz, c.samples.size) for c in feeds["inside"]} == {(8000.0, 8000)}
    assert {c.sample_rate_hz for c in feeds["before"]} == {16000.0}


def test_a_clock_steps_back_and_forth(broken: tuple[SimulatedPlant, Feeds]) -> None:
    made, feeds = broken
    steps = np.diff([c.start_ns for c in feeds[fault_named(made, "clock_step").sensor_id]])
    minutes = np.unique(steps / NS_PER_S / 60)
    assert minutes == pytest.approx([-28.0, 2.0, 32.0])
    assert np.argmin(steps) < np.argmax(steps)


def test_lost_samples_leave_a_shorter_chunk() -> None:
    chunk = next(demo_plant().chunks())
    short = deliver(chunk, SensorFault("sample_loss", 0.0, 1.0))
    assert short is not None
    assert short.samples.size == 0.8 * chunk.samples.size
    assert short.sample_rate_hz == chunk.sample_rate_hz


def test_a_ski_slope_hides_the_low_frequencies() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(25600, dtype=np.float32)
    y = distort(x, SensorFault("ski_slope", 0.0, 1.0), 50.0, 25600.0, rng)
    power = np.abs(np.fft.rfft(y)) ** 2 / np.abs(np.fft.rfft(x)) ** 2
    assert np.median(power[1:20]) > 1000
    assert np.median(power[5000:]) < 2


@pytest.mark.parametrize("name", SENSOR_FAULTS)
def test_no_fault_changes_what_it_was_given(name: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(4000, dtype=np.float32)
    kept = x.copy()
    distort(x, SensorFault(name, 0.0, 1.0), 50.0, 4000.0, rng)
    assert np.array_equal(x, kept)
