import csv
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import signal

from pipeline.fleet import parse_fleet
from pipeline.messages import NS_PER_S, Flags, SensorChunk
from pipeline.simulation.assets import BEARING, SLIP
from pipeline.simulation.machines import Bearing
from pipeline.simulation.sensor_faults import SensorFault
from pipeline.simulation.simulate import (
    SimulatedPlant,
    demo_plant,
    long_signal,
    plant,
    truth_csv,
    write,
)
from simulate_cases import Array, Feeds, fault_named, feeds_of, values

STEADY = ("motor", "gearbox", "pump1", "pump3", "fan1", "blower")


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
