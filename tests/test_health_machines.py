import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from health_cases import RATE, STEP_G, Array, N, Rng, checker, impacts, motor, window
from pipeline.health import SensorHealthCheck
from pipeline.messages import NS_PER_S, Window

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def healthy_steady(rng: Rng) -> Iterator[Array]:
    for _ in range(60):
        yield motor(rng)


def healthy_speed_changes(rng: Rng) -> Iterator[Array]:
    for speed_hz in np.concatenate([np.linspace(5, 60, 40), np.linspace(60, 12, 20)]):
        yield motor(rng, 0.01 * speed_hz, speed_hz)


def healthy_run_up(rng: Rng) -> Iterator[Array]:
    for i in range(20):
        t = (i + np.arange(N) / N) / 20
        phase = 2 * np.pi * np.cumsum(0.5 + 49.5 * t) / RATE
        yield t**2 * (np.sin(phase) + 0.5 * rng.normal(size=N))


def healthy_start_stop(rng: Rng) -> Iterator[Array]:
    for i in range(90):
        x = motor(rng) if (i // 15) % 2 else np.zeros(N)
        if i % 15 == 0 and i:  # the machine starts or runs out within this window
            ramp = np.linspace(1, 0, N) ** 2
            x = motor(rng) * (ramp if (i // 15) % 2 == 0 else ramp[::-1])
        yield x + rng.normal(0, 0.4 * STEP_G, N)


def healthy_bearing_fault(rng: Rng) -> Iterator[Array]:
    for i in range(60):
        yield motor(rng) + impacts(rng, 0.2 * 1.09**i)


def healthy_level_jumps(rng: Rng) -> Iterator[Array]:
    for i in range(60):
        yield motor(rng, 0.1 * 10 ** (0.5 * ((i // 6) % 4)))


def healthy_shocks(rng: Rng) -> Iterator[Array]:
    for i in range(60):
        x = motor(rng)
        if i % 3 == 0:
            at = int(rng.integers(0, N - 400))
            t = np.arange(400) / RATE
            x[at : at + 400] += 40 * np.exp(-t * 400) * np.cos(2 * np.pi * 900 * t)
        yield x


def healthy_few_steps(rng: Rng) -> Iterator[Array]:
    for i in range(60):
        yield rng.normal(0, (0.3 + 0.05 * (i % 30)) * STEP_G, N)


def healthy_press(rng: Rng) -> Iterator[Array]:
    t = np.arange(N) / RATE
    for _ in range(40):  # one strike a window, next to nothing around it
        after = np.maximum(t - rng.uniform(0.1, 0.9), 0.0)
        strike = 20.0 * np.exp(-after * 60) * np.sin(2 * np.pi * 300 * after)
        yield strike + rng.normal(0, rng.choice([0.18, 0.2, 0.3]) * STEP_G, N)


def healthy_wander_of_a_quiet_sensor(rng: Rng) -> Iterator[Array]:
    t = np.arange(N) / RATE
    for _ in range(40):
        slow = 20 * np.sin(2 * np.pi * 0.4 * t + rng.uniform(0, 6.28))
        yield STEP_G * (slow + rng.normal(0, 1.0, N))


def healthy_sway_while_it_stands(rng: Rng) -> Iterator[Array]:
    t = np.arange(N) / RATE
    for i in range(40):
        sway = np.sin(2 * np.pi * 0.8 * t + rng.uniform(0, 6.28))
        yield motor(rng, 2.0) if i < 20 else sway + rng.normal(0, 0.05, N)


def healthy_start_on_a_swaying_frame(rng: Rng) -> Iterator[Array]:
    t = np.arange(N) / RATE
    for i in range(40):
        sway = np.sin(2 * np.pi * 0.9 * t + rng.uniform(0, 6.28))
        yield motor(rng, 3.0) + 2.5 * sway if i > 10 else rng.normal(0, 0.02, N)


def healthy_warming(rng: Rng) -> Iterator[Array]:
    for i in range(300):  # a DC-coupled sensor: gravity, and 0.5 mg per window
        yield 1.0 + 0.0005 * i + rng.normal(0, 0.02, N)


def healthy_pure_tone(rng: Rng) -> Iterator[Array]:
    t = np.arange(N) / RATE
    for i in range(40):
        level = STEP_G * 2.0 ** rng.uniform(0, 14)
        yield level * np.sin(2 * np.pi * (10 + 50 * i) * t + rng.uniform(0, 6.28))


HEALTHY = [
    healthy_steady,
    healthy_speed_changes,
    healthy_run_up,
    healthy_start_stop,
    healthy_bearing_fault,
    healthy_level_jumps,
    healthy_shocks,
    healthy_few_steps,
    healthy_warming,
    healthy_pure_tone,
    healthy_press,
    healthy_wander_of_a_quiet_sensor,
    healthy_sway_while_it_stands,
    healthy_start_on_a_swaying_frame,
]


@pytest.mark.parametrize("encoding", ["i16", "i24", "f32"])
@pytest.mark.parametrize("make", HEALTHY)
def test_what_a_machine_does_is_never_the_sensors_fault(
    make: Callable[[Rng], Iterator[Array]], encoding: str
) -> None:
    for seed in range(2):
        check = checker(encoding)
        for i, x in enumerate(make(np.random.default_rng(seed))):
            result = check.check(window(i, x, encoding))
            assert result.ok, (seed, i, result)


def test_a_mean_that_moves_less_than_the_vibration_is_no_fault() -> None:
    rng = np.random.default_rng(16)
    check = checker()
    for i in range(40):
        assert check.check(window(i, motor(rng, 2.0) + rng.uniform(-1.0, 1.0))).ok


def test_a_long_stop_does_not_make_the_check_touchy() -> None:
    rng = np.random.default_rng(17)
    check = checker()
    for i in range(20):
        check.check(window(i, motor(rng, 2.0)))
    for i in range(20, 320):
        assert check.check(window(i, rng.normal(0, 5 * STEP_G, N))).ok
    assert check.check(window(320, 0.5 + rng.normal(0, 5 * STEP_G, N))).ok


def test_few_steps_at_a_low_rate_are_no_dropout() -> None:
    rng = np.random.default_rng(21)
    check = SensorHealthCheck()
    for i in range(20):
        samples = np.rint(rng.normal(0, 4.0, 400)).astype(np.int16)
        assert check.check(Window("s", 400.0, i * NS_PER_S, 0, samples, encoding="i16")).ok


def test_a_mean_that_moves_by_little_of_the_full_scale_is_no_fault() -> None:
    rng = np.random.default_rng(22)
    check = checker()
    for i in range(40):
        x = STEP_G * (rng.normal(0, 1.0, N) + (20 if i % 2 else 0))
        assert check.check(window(i, x)).ok


def recorded(name: str) -> Iterator[Window]:
    """The windows of a data set by sensor: snapshots whole, longer recordings cut to 0.975 s."""
    index = DATA / name / "index.csv"
    if not index.is_file():
        pytest.skip(f"shared/data/{name} is not beside the project")
    clocks: dict[str, int] = {}
    file, samples, rate = "", np.zeros((0, 1), np.float32), 1
    with index.open(encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            if row["file"] != file:
                file = row["file"]
                samples, rate = sf.read(DATA / name / file, dtype="float32", always_2d=True)
            first, n = int(row["offset_frames"]), int(row["n_frames"])
            signal = samples[first : first + n, int(row["channel"])] * np.float32(row["scale"])
            length = min(n, int(0.975 * rate))
            for start in range(0, n - length + 1, length):
                now = clocks.get(row["sensor"], 0)
                clocks[row["sensor"]] = now + round(length * NS_PER_S / rate)
                piece = np.ascontiguousarray(signal[start : start + length])
                yield Window(row["sensor"], float(rate), now, 0, piece, unit=row["unit"])


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["femto_bearing1_1", "femto_bearing1_2", "cwru_12k", "gearbox_gfd"]
)
def test_recorded_machines_are_believed_until_they_fail(name: str) -> None:
    checks: dict[str, SensorHealthCheck] = {}
    flagged = total = 0
    for made in recorded(name):
        check = checks.setdefault(made.sensor_id, SensorHealthCheck())
        flagged += not check.check(made).ok
        total += 1
    assert total > 200
    assert flagged < 0.005 * total  # 0 measured in each set


@pytest.mark.shared
def test_digital_silence_at_the_end_of_a_clip_is_a_flat_line() -> None:
    checks: dict[str, SensorHealthCheck] = {}
    flat = silent = 0
    for made in recorded("esc10"):
        result = checks.setdefault(made.sensor_id, SensorHealthCheck()).check(made)
        if not made.samples.any():
            silent += 1
            flat += "flatline" in result.faults
    assert flat == silent > 20
