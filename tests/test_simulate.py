import csv
import tracemalloc
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import signal

from pipeline.fleet import parse_fleet
from pipeline.machines import Bearing, Component, Drive, Growth, Impacts, Noise, Signal, Tones
from pipeline.messages import FULL_SCALE, NS_PER_S, Flags, SensorChunk
from pipeline.sensor_faults import SENSOR_FAULTS, SensorFault, deliver, distort
from pipeline.simulate import (
    InjectedFault,
    SimulatedPlant,
    demo_plant,
    long_signal,
    plant,
    truth_csv,
    write,
)
from pipeline.simulated_assets import BEARING, MACHINE_FAULTS, SLIP, machine_fault

Array = NDArray[np.float64]
Feeds = dict[str, list[SensorChunk]]

STEADY = ("motor", "gearbox", "pump1", "pump3", "fan1", "blower")


def feeds_of(chunks: Iterable[SensorChunk]) -> Feeds:
    feeds: Feeds = defaultdict(list)
    for chunk in chunks:
        feeds[chunk.sensor_id].append(chunk)
    return feeds


def values(chunk: SensorChunk) -> Array:
    return chunk.samples.astype(np.float64) * chunk.scale


def rms(chunks: Iterable[SensorChunk]) -> Array:
    return np.array([values(chunk).std() for chunk in chunks])


def spectrum(chunks: Iterable[SensorChunk], rate_hz: float) -> tuple[Array, Array]:
    powers = [signal.welch(values(c), rate_hz, nperseg=int(rate_hz))[1] for c in chunks]
    return np.fft.rfftfreq(int(rate_hz), 1 / rate_hz), np.mean(powers, axis=0)


def velocity_mm_s(chunk: SensorChunk) -> float:
    x = values(chunk) * (9.80665 if chunk.unit == "g" else 1.0)
    hz = np.fft.rfftfreq(x.size, 1 / chunk.sample_rate_hz)
    inside = (hz >= 10) & (hz <= 1000)
    power = 2 * np.abs(np.fft.rfft(x)[inside]) ** 2 / x.size**2
    return float(1000 * np.sqrt(np.sum(power / (2 * np.pi * hz[inside]) ** 2)))


def digest(chunks: Iterable[SensorChunk]) -> str:
    hashed = sha256()
    for chunk in chunks:
        hashed.update(repr(replace(chunk, samples=np.zeros(0, np.int16))).encode())
        hashed.update(chunk.samples.tobytes())
    return hashed.hexdigest()


@pytest.fixture(scope="module")
def broken() -> tuple[SimulatedPlant, Feeds]:
    made = plant(every_s=120.0)
    return made, feeds_of(made.chunks())


@pytest.fixture(scope="module")
def healthy() -> tuple[SimulatedPlant, Feeds]:
    made = plant(every_s=120.0, faults=False)
    return made, feeds_of(made.chunks())


def fault_named(made: SimulatedPlant, name: str) -> InjectedFault:
    return next(fault for fault in made.truth if fault.name == name)


def test_the_same_seed_gives_the_same_bytes() -> None:
    def first(seed: int) -> str:
        return digest(islice(demo_plant(seed).chunks(), 18))

    assert first(3) == first(3)
    assert first(3) != first(4)


def test_a_plant_can_be_played_twice() -> None:
    made = demo_plant(hours=0.1)
    assert digest(made.chunks()) == digest(made.chunks())


def test_every_sensor_has_its_own_noise() -> None:
    feeds = feeds_of(islice(demo_plant().chunks(), 6))
    a, b = (values(feeds[f"demo/water/motor1/{point}"][0]) for point in ("de", "nde"))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.5


@pytest.mark.parametrize("name", ["bearing_outer", "broken_tooth", "unbalance", "cavitation"])
def test_a_machine_fault_puts_its_energy_into_its_band(
    name: str, broken: tuple[SimulatedPlant, Feeds]
) -> None:
    made, feeds = broken
    fault = fault_named(made, name)
    chunks = feeds[fault.sensor_id]
    before = [c for c in chunks if c.start_ns < fault.onset_ns]
    hz, late = spectrum(chunks[-6:], chunks[0].sample_rate_hz)
    _, early = spectrum(before, chunks[0].sample_rate_hz)
    excess = np.maximum(late - early, 0.0)
    inside = (hz >= fault.band_hz[0]) & (hz <= fault.band_hz[1])
    assert excess[inside].sum() > 0.7 * excess.sum()
    assert late[inside].sum() > 3 * early[inside].sum()


def test_a_fault_grows_from_nothing(broken: tuple[SimulatedPlant, Feeds]) -> None:
    made, feeds = broken
    fault = fault_named(made, "bearing_outer")
    chunks = feeds[fault.sensor_id]
    level = rms(chunks)
    onset = next(i for i, c in enumerate(chunks) if c.start_ns >= fault.onset_ns)
    assert level[onset + 1] == pytest.approx(level[:onset].mean(), rel=0.1)
    assert level[-1] > 5 * level[:onset].mean()


def envelope(chunk: SensorChunk, band_hz: tuple[float, float]) -> tuple[Array, Array]:
    rate = chunk.sample_rate_hz
    sos = signal.butter(4, band_hz, "bandpass", fs=rate, output="sos")
    power = np.abs(signal.hilbert(signal.sosfiltfilt(sos, values(chunk)))) ** 2
    power -= power.mean()
    return np.fft.rfftfreq(power.size, 1 / rate), np.abs(np.fft.rfft(power))


def test_the_envelope_of_a_worn_bearing_shows_its_outer_race(
    broken: tuple[SimulatedPlant, Feeds],
) -> None:
    made, feeds = broken
    fault = fault_named(made, "bearing_outer")
    chunks = feeds[fault.sensor_id]

    def line(chunk: SensorChunk) -> float:
        hz, level = envelope(chunk, fault.band_hz)
        bpfo = 24.8 * BEARING.bpfo * (1 - SLIP)
        near = (hz > 0.98 * bpfo) & (hz < 1.02 * bpfo)
        around = (hz > 20) & (hz < 3 * bpfo)
        return float(level[near].max() / np.median(level[around]))

    assert np.median([line(c) for c in chunks[-6:]]) > 12
    assert np.median([line(c) for c in chunks[:20]]) < 6


def test_healthy_machines_at_constant_speed_are_stationary(
    healthy: tuple[SimulatedPlant, Feeds],
) -> None:
    made, feeds = healthy
    assert made.truth == ()
    steady = [s for s in made.sensor_ids if s.split("/")[2].startswith(STEADY)]
    assert len(steady) == 14
    for sensor_id in steady:
        level = rms(feeds[sensor_id])
        third = level.size // 3
        assert level[-third:].mean() == pytest.approx(level[:third].mean(), rel=0.03), sensor_id
        assert level.std() < 0.05 * level.mean(), sensor_id


def test_levels_of_changing_machines_are_all_seen_early(
    healthy: tuple[SimulatedPlant, Feeds],
) -> None:
    made, feeds = healthy
    changing = [s for s in made.sensor_ids if not s.split("/")[2].startswith(STEADY)]
    assert len(changing) == 6
    for sensor_id in changing:
        level = rms(feeds[sensor_id])
        early, late = level[: int(0.2 * level.size)], level[int(0.2 * level.size) :]
        steps = np.abs(late[:, None] / early - 1).min(axis=1)
        assert np.mean(steps < 0.08) > 0.9, sensor_id


def test_regimes_differ_and_come_back() -> None:
    made = plant(every_s=60.0)
    drive = next(s.drive for s in made.sensors if "pump2" in s.sensor_id)
    t = np.arange(0.0, 7200.0, 10.0)
    speeds = drive.speed_hz(t) / drive.nominal_hz
    for part in (speeds[: int(0.2 * t.size)], speeds[t.size // 2 :]):
        for wanted in (1.0, 0.78, 0.9):
            assert np.mean(np.abs(part - wanted) < 0.01) > 0.1


def test_a_standing_machine_is_quiet_but_not_silent(healthy: tuple[SimulatedPlant, Feeds]) -> None:
    _, feeds = healthy
    level = rms(feeds["plant/air/compressor1/de"])
    standing = level < 0.2 * np.median(level)
    assert 0.1 < standing.mean() < 0.4
    assert standing[: int(0.2 * level.size)].any()
    assert level.min() > 0.002


def test_healthy_machines_shake_as_machines_in_service_do(
    healthy: tuple[SimulatedPlant, Feeds],
) -> None:
    _, feeds = healthy
    for sensor_id, chunks in feeds.items():
        if chunks[0].unit in ("g", "m/s2"):
            assert np.median([velocity_mm_s(c) for c in chunks[::10]]) < 2.8, sensor_id


def test_unbalance_ends_in_a_bad_zone(broken: tuple[SimulatedPlant, Feeds]) -> None:
    _, feeds = broken
    assert velocity_mm_s(feeds["plant/air/fan1/de"][-1]) > 7.1


def test_captures_are_flagged_and_times_rise(healthy: tuple[SimulatedPlant, Feeds]) -> None:
    made, feeds = healthy
    for chunks in feeds.values():
        assert len(chunks) == made.captures == 60
        assert all(c.flags == Flags.END_OF_CAPTURE for c in chunks)
        assert all(b.start_ns - a.start_ns == 120 * NS_PER_S for a, b in pairwise(chunks))
        assert [c.seq for c in chunks] == list(range(60))


def test_chunks_come_in_time_order_over_all_sensors() -> None:
    starts = [c.start_ns for c in demo_plant(hours=0.2).chunks()]
    assert len(starts) == 24 * 6
    assert starts == sorted(starts)


def test_continuous_chunks_touch() -> None:
    made = plant(sensors=5, hours=0.01, continuous=True, chunk_s=0.4375)
    for chunks in feeds_of(made.chunks()).values():
        assert len(chunks) == made.captures
        assert all(abs(a.end_ns - b.start_ns) <= 1 for a, b in pairwise(chunks))
        assert all(c.flags == Flags.NONE for c in chunks)


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


def test_every_truth_lies_after_the_learning_time(broken: tuple[SimulatedPlant, Feeds]) -> None:
    made, _ = broken
    for fault in made.truth:
        share = (fault.onset_ns - made.start_ns) / NS_PER_S / 7200
        assert 0.4 < share < 0.75
        assert fault.onset_ns < fault.end_ns <= made.start_ns + 7200 * NS_PER_S
        assert fault.sensor_id in made.sensor_ids
    kinds = [fault.kind for fault in made.truth]
    assert (kinds.count("machine"), kinds.count("sensor")) == (4, 8)
    machines = {f.asset for f in made.truth if f.kind == "machine"}
    assert machines.isdisjoint(f.asset for f in made.truth if f.kind == "sensor")


@pytest.mark.parametrize("sensors", [1, 3, 20, 47])
def test_a_plant_has_the_sensors_asked_for_and_a_fleet_file(sensors: int) -> None:
    made = plant(sensors=sensors)
    fleet = parse_fleet(made.fleet_yaml)
    assert len(set(made.sensor_ids)) == sensors
    assert {info.sensor_id for info in fleet.sensors} == set(made.sensor_ids)
    for sensor in made.sensors:
        info = fleet.sensor(sensor.sensor_id)
        assert (info.asset, info.unit, info.expected_rate_hz) == (
            sensor.asset, sensor.unit, sensor.rate_hz,
        )  # fmt: skip
    assert {f.asset for f in made.truth} <= set(fleet.assets)


def test_the_demo_has_one_of_each() -> None:
    truth = demo_plant().truth
    assert [(f.kind, f.name) for f in truth] == [
        ("machine", "bearing_outer"), ("sensor", "bias_shift"),
    ]  # fmt: skip


def test_a_long_signal_needs_the_memory_of_one_chunk() -> None:
    def peak(seconds: int) -> int:
        tracemalloc.start()
        try:
            for _ in long_signal(seconds / 3600, rate_hz=8000.0):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2)
    assert peak(40) < 1.2 * peak(5)


def test_truth_is_written_beside_the_fleet_file(tmp_path: Path) -> None:
    made = demo_plant(hours=0.02)
    taken: list[SensorChunk] = []
    write(made, tmp_path / "new", lambda chunks, _folder: taken.extend(chunks))
    assert len(taken) == 2 * 6
    assert (tmp_path / "new" / "fleet.yaml").read_text(encoding="utf-8") == made.fleet_yaml
    with (tmp_path / "new" / "truth.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], int(row["onset_ns"])) for row in rows] == [
        (fault.name, fault.onset_ns) for fault in made.truth
    ]
    assert truth_csv(demo_plant(faults=False)).count("\n") == 1


@pytest.mark.parametrize(
    "bad",
    [{"hours": 0.0}, {"capture_s": 0.0}, {"capture_s": 11.0}, {"sensors": 0}],
)  # fmt: skip
def test_impossible_plants_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="got"):
        plant(**bad)  # type: ignore[arg-type]


def test_a_start_without_a_zone_is_utc() -> None:
    assert demo_plant(start="2026-01-05T06:00:00").start_ns == demo_plant().start_ns
    assert demo_plant(start="2026-01-05T07:00:00+01:00").start_ns == demo_plant().start_ns


def test_unknown_faults_are_refused() -> None:
    with pytest.raises(ValueError, match="sensor fault must be one of flatline"):
        SensorFault("flat", 0.0, 1.0)


def test_bearing_orders_agree_with_published_ones() -> None:
    skf_6205 = Bearing(balls=9, ball_mm=7.94, pitch_mm=39.04)
    assert (skf_6205.bpfo, skf_6205.bpfi) == pytest.approx((3.585, 5.415), abs=1e-3)
    assert (skf_6205.ftf, skf_6205.bsf) == pytest.approx((0.3983, 2.357), abs=1e-3)


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
