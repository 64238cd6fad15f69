from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from pipeline import state
from pipeline.messages import NS_PER_S, SensorChunk
from pipeline.windows import Output, Windower, window_samples
from window_cases import (
    END,
    LENGTH,
    START_NS,
    content,
    cut,
    events,
    gapless,
    kinds,
    make,
    run,
    windows,
)


def relay(chunks: Iterable[SensorChunk], **options: object) -> Output:
    """`run` with a restart after every chunk."""
    outputs: Output = []
    windower = make(**options)
    for chunk in chunks:
        outputs += windower.push(chunk)
        record = state.pack(windower.export_state())
        windower = make(**options)
        windower.import_state(state.unpack(record))
    return outputs + windower.flush()


@pytest.mark.parametrize("counted", [True, False])
def test_late_chunks_now_and_then_are_no_clock_step(counted: bool) -> None:  # noqa: FBT001
    chunks = cut(20_000, [100])
    if not counted:
        chunks = [replace(chunk, seq=0) for chunk in chunks]
    lost = chunks[5:185:4]
    stream = [chunk for chunk in chunks if not any(chunk is gone for gone in lost)]
    late = [item for pair in zip(stream[100:], lost, strict=False) for item in pair]
    outputs = run(make(), stream[:100] + late)
    assert set(kinds(outputs)) == {"gap", "late"}
    assert kinds(outputs).count("late") == len(lost)


def test_a_restart_with_a_clock_in_the_past_is_an_epoch_of_its_own() -> None:
    before = cut(1000, [100])
    after = cut(1000, [100], start_ns=START_NS - 10**15, epoch=7)
    outputs = run(make(), before + after)
    assert kinds(outputs) == ["epoch_change"]
    assert len(windows(outputs)) >= 2 * (1000 // LENGTH - 1)


def test_what_is_held_of_an_epoch_comes_before_the_next_epoch() -> None:
    before = cut(1000, [100])
    after = cut(1000, [100], start_ns=START_NS - 10**15, epoch=7)
    outputs = run(make(), before[:8] + before[9:] + after)
    assert kinds(outputs) == ["gap", "epoch_change"]


def test_a_straggler_of_the_last_epoch_is_late() -> None:
    before = cut(1000, [100])
    after = cut(1000, [100], start_ns=START_NS + NS_PER_S, epoch=7)
    outputs = run(make(), before[:9] + after[:6] + before[9:] + after[6:])
    assert kinds(outputs) == ["epoch_change", "late"]
    assert {w.epoch for w in windows(outputs)} == {0, 7}
    assert events(relay(before[:9] + after[:6] + before[9:] + after[6:])) == events(outputs)


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("back_s", [5, 10**6])
def test_a_clock_that_steps_back_does_not_silence_the_sensor(counted: bool, back_s: int) -> None:  # noqa: FBT001
    before = cut(10_000, [100])
    after = cut(10_000, [100], start_ns=START_NS + (10 - back_s) * NS_PER_S, first_seq=100)
    if not counted:
        before, after = ([replace(c, seq=0) for c in part] for part in (before, after))
    outputs = run(make(), before + after)
    lost = 0 if counted else 3
    assert kinds(outputs) == ["late"] * lost + ["clock_step"]
    assert all(gapless(window) for window in windows(outputs))
    assert len(windows(outputs)) >= 2 * 10_000 // LENGTH - 4
    if counted:
        assert events(outputs)[0].amount_s == pytest.approx(-back_s)
    assert content(relay(before + after)) == content(outputs)


def test_one_stamp_in_the_future_costs_one_gap_and_one_step_back() -> None:
    chunks = cut(3000, [100])
    chunks[10] = replace(chunks[10], start_ns=chunks[10].start_ns + 3600 * NS_PER_S)
    outputs = run(make(), chunks)
    assert kinds(outputs) == ["gap", "clock_step"]
    assert len(windows(outputs)) >= 3000 // LENGTH - 3


@pytest.mark.parametrize("ppm", [-50, 50])
@pytest.mark.parametrize("chunk_s", [0.25, 2.0])
def test_an_hour_of_drift_makes_no_gap_and_windows_keep_to_the_stamps(
    ppm: int, chunk_s: float
) -> None:
    rate_hz = 25_600.0
    n = round(chunk_s * rate_hz)
    samples = np.zeros(n, dtype=np.int16)
    period_ns = NS_PER_S / rate_hz * (1 + ppm * 1e-6)
    windower = Windower("s")
    outputs: Output = []
    for turn in range(round(3600 / chunk_s)):
        chunk = SensorChunk("s", rate_hz, START_NS + round(turn * n * period_ns), samples, turn)
        outputs += windower.push(chunk)
        expected_ns = chunk.start_ns + round(n * period_ns)
    assert kinds(outputs) == []
    starts = [w.start_index for w in windows(outputs)]
    assert set(np.diff(starts)) == {window_samples(rate_hz)}
    length_ns = window_samples(rate_hz) * period_ns
    assert 0 <= expected_ns - windows(outputs)[-1].end_ns < length_ns + 8 * period_ns


def test_drift_moves_a_window_by_whole_samples_and_never_splits_it() -> None:
    chunks = [
        replace(chunk, start_ns=START_NS + round(chunk.samples[0] * 1e6 * (1 + 80e-6)))
        for chunk in cut(200_000, [500])
    ]
    outputs = run(make(), chunks)
    assert kinds(outputs) == []
    assert all(gapless(window) for window in windows(outputs))
    for window in windows(outputs)[10:]:
        due_ns = START_NS + window.samples[0] * 1e6 * (1 + 80e-6)
        assert abs(window.start_ns - due_ns) < 2.5e6


def test_jitter_within_the_tolerance_changes_no_window() -> None:
    chunks = cut(20_000, [100])
    jitter = np.random.default_rng(3).integers(-400_000, 400_000, len(chunks))
    jitter[:3] = 0
    shaken = [replace(c, start_ns=c.start_ns + int(j)) for c, j in zip(chunks, jitter, strict=True)]
    assert content(run(make(gap_tolerance_samples=1.0), shaken)) == content(run(make(), chunks))


def test_jitter_that_stays_on_one_side_for_a_while_is_no_drift() -> None:
    chunks = cut(200_000, [2500])
    shift_ns = [0, 450_000, -450_000, 450_000]
    shaken = [replace(c, start_ns=c.start_ns + shift_ns[c.seq // 6 % 4]) for c in chunks]
    assert kinds(run(make(), shaken)) == []


def test_captures_without_pauses_follow_the_stamps_of_a_drifting_clock() -> None:
    chunks = [
        replace(chunk, start_ns=START_NS + round(chunk.samples[0] * 1e6 * (1 + 80e-6)), flags=END)
        for chunk in cut(200_000, [500])
    ]
    outputs = run(make(captures=True), chunks)
    assert [w.samples.size for w in windows(outputs)] == [500] * 400
    assert kinds(outputs) == []
    for window in windows(outputs):
        assert abs(window.start_index - window.start_ns / 1e6) < 1.5


def test_stamps_in_whole_milliseconds_are_jitter_where_it_is_said():
    rate_hz, size = 25_600.0, 7_680
    chunks = [
        SensorChunk(
            "s", rate_hz, START_NS + round(i * size / rate_hz * 1000) * 1_000_000,
            np.zeros(size, np.int16), seq=i, encoding="i16",
        )
        for i in range(60)
    ]  # fmt: skip
    moved = [replace(c, start_ns=c.start_ns + (i % 3 - 1) * 400_000) for i, c in enumerate(chunks)]
    rounded = [replace(c, start_ns=c.start_ns // 1_000_000 * 1_000_000) for c in moved]
    assert "gap" in kinds(run(Windower("s"), rounded))
    outputs = run(Windower("s", jitter_s=0.001), rounded)
    assert kinds(outputs) == []
    assert len(windows(outputs)) == 18
