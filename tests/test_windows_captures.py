from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.messages import NS_PER_S, SensorChunk
from pipeline.services.topics import MIB, STATE_BYTES
from pipeline.windows import Output, min_samples
from window_cases import (
    END,
    LENGTH,
    LENGTHS,
    RATE_HZ,
    START_NS,
    cut,
    events,
    gapless,
    kinds,
    make,
    run,
    windows,
)

BURST_NS = START_NS + 30 * 10**6  # off the grid


def ids(outputs: Output) -> list[tuple[int, int, int]]:
    return [(w.start_ns, w.start_index, w.samples.size) for w in windows(outputs)]


def bursts(n: int, parts: Sequence[int], count: int, every_s: float = 10.0) -> list[SensorChunk]:
    """Captures of n samples, each in chunks of the given lengths, the last one flagged."""
    chunks: list[SensorChunk] = []
    for turn in range(count):
        start_ns = BURST_NS + round(turn * every_s * NS_PER_S)
        capture = cut(n, parts, start_ns=start_ns, first_seq=len(chunks))
        chunks += [*capture[:-1], replace(capture[-1], flags=END)]
    return chunks


@settings(max_examples=50, deadline=None)
@given(st.integers(25, 3000), LENGTHS, st.sampled_from([1, 2, 7]), st.booleans())
def test_each_capture_is_one_window_of_its_own_length(
    n: int,
    parts: list[int],
    count: int,
    duty: bool,  # noqa: FBT001  (drawn)
) -> None:
    options = {"captures": True, "duty_cycle_s": 1000.0 if duty else None}
    outputs = run(make(**options), bursts(n, parts, count))
    assert [w.samples.tolist() for w in windows(outputs)] == [list(range(n))] * count
    assert [w.start_ns for w in windows(outputs)] == [
        BURST_NS + turn * 10 * NS_PER_S for turn in range(count)
    ]
    assert kinds(outputs) == []
    assert not any(w.gap_s for w in windows(outputs))


def test_the_first_flag_tells_that_a_sensor_sends_captures() -> None:
    short = bursts(100, [40], 5)
    assert [w.samples.size for w in windows(run(make(), short))] == [100] * 5
    long = run(make(), bursts(1000, [100], 5))
    assert [w.samples.size for w in windows(long) if w.samples.size != LENGTH] == [1000] * 4
    assert kinds(long) == []


def test_no_capture_is_a_window_without_its_beginning() -> None:
    outputs = run(make(duty_cycle_s=1000.0), bursts(1000, [100], 3))
    assert [w.samples.size for w in windows(outputs)] == [1000, 1000]
    assert all(w.samples[0] == 0 for w in windows(outputs))


def test_a_sensor_that_is_said_to_be_continuous_has_gaps_between_bursts() -> None:
    outputs = run(make(captures=False), bursts(1000, [100], 3))
    assert {w.samples.size for w in windows(outputs)} == {LENGTH}
    assert kinds(outputs) == ["gap", "gap"]


def test_captures_back_to_back_stay_apart() -> None:
    outputs = run(make(captures=True), bursts(200, [100], 4, every_s=0.2))
    assert [w.samples.size for w in windows(outputs)] == [200] * 4
    assert kinds(outputs) == []


def test_a_capture_shorter_than_a_frame_is_an_event_and_no_window() -> None:
    n = min_samples(RATE_HZ) - 1
    outputs = run(make(captures=True), bursts(n, [n], 2))
    assert windows(outputs) == []
    assert kinds(outputs) == ["gap", "gap"]
    assert "shorter than one STFT frame" in events(outputs)[0].detail


def test_a_capture_beyond_the_limit_is_cut_on_the_grid() -> None:
    outputs = run(make(captures=True, max_capture_s=1.0), bursts(1500, [100], 2))
    assert {w.samples.size for w in windows(outputs)} == {LENGTH}
    assert all(w.start_index % LENGTH == 0 for w in windows(outputs))
    assert len(windows(outputs)) >= 2 * (1500 // LENGTH - 1)


def test_a_capture_that_never_ends_leaves_a_state_that_can_be_stored() -> None:
    windower, n = make(captures=True, max_capture_s=60.0), 96_000
    samples, largest = np.zeros(n, np.float32), 0
    for k in range(40):
        at_ns = START_NS + k * NS_PER_S
        windower.push(SensorChunk("s", float(n), at_ns, samples, seq=k))
        largest = max(largest, windower.buffered_bytes)
    assert 0 < largest < STATE_BYTES - 4 * MIB


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(20, 400), min_size=1, max_size=12))
def test_chunking_does_not_change_a_capture_at_the_limit(parts: list[int]) -> None:
    for n in (999, 1000, 1001):
        options = {"captures": True, "max_capture_s": 1.0}
        expected = run(make(**options), bursts(n, [n], 2))
        assert ids(run(make(**options), bursts(n, parts, 2))) == ids(expected)


def test_a_chunk_lost_inside_a_capture_splits_it_and_is_a_gap() -> None:
    chunks = bursts(500, [100], 2)
    del chunks[7]
    outputs = run(make(captures=True), chunks)
    assert [w.samples.size for w in windows(outputs)] == [500, 200, 200]
    assert kinds(outputs) == ["gap"]
    assert not any(w.gap_s for w in windows(outputs))
    assert all(gapless(window) for window in windows(outputs))


def test_a_capture_in_progress_is_kept_at_the_end_and_a_partial_window_is_not() -> None:
    chunks = bursts(500, [100], 1)[:-1]
    assert [w.samples.size for w in windows(run(make(captures=True), chunks))] == [400]
    assert all(w.samples.size == LENGTH for w in windows(run(make(), chunks)))


def test_a_sensor_that_turns_to_continuous_sending_gets_grid_windows_again() -> None:
    burst = bursts(100, [100], 3)
    on = cut(10_000, [100], start_ns=START_NS + 60 * NS_PER_S, first_seq=3)
    late = cut(1000, [100], start_ns=START_NS + 80 * NS_PER_S, first_seq=103)
    windower = make(max_capture_s=2.0)
    outputs = run(windower, burst + on, flush=False)
    assert [w.samples.size for w in windows(outputs)[:3]] == [100] * 3
    assert {w.samples.size for w in windows(outputs)[3:]} == {LENGTH}
    assert len(windows(outputs)) >= 3 + 10_000 // LENGTH - 1
    again = run(windower, late, flush=False)
    assert kinds(again) == ["gap"]
    assert len(windows(again)) >= 1000 // LENGTH - 1
