"""Laws of windows: the same signal gives the same windows, and none hides a fault of the stream."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline import state
from pipeline.messages import NS_PER_S, Flags, SensorChunk, StreamEvent, Window
from pipeline.timeline import Grid, Timebase
from pipeline.windows import Output, Windower, min_samples, window_samples

SHARED = Path(__file__).resolve().parents[2] / "shared"
START_NS = 1_750_000_000 * NS_PER_S
RATE_HZ = 1000.0
LENGTH = window_samples(RATE_HZ, 1)  # 175 samples
RATES = st.sampled_from([1000.0, 997.3, 1024.0, 97656.25 / 64, 44100 / 32])
END = Flags.END_OF_CAPTURE
BURST_NS = START_NS + 30 * 10**6  # off the grid


def cut(
    n: int,
    lengths: Sequence[int],
    rate_hz: float = RATE_HZ,
    start_ns: int = START_NS,
    first_seq: int = 0,
    **fields: object,
) -> list[SensorChunk]:
    """The ramp 0..n-1 as chunks of the given lengths, the last one repeated."""
    chunks: list[SensorChunk] = []
    at = 0
    while at < n:
        length = min(lengths[min(len(chunks), len(lengths) - 1)], n - at)
        chunks.append(
            replace(
                SensorChunk(
                    sensor_id="s",
                    sample_rate_hz=rate_hz,
                    start_ns=start_ns + round(at * NS_PER_S / Fraction(rate_hz)),
                    samples=np.arange(at, at + length, dtype=np.int32),
                    seq=first_seq + len(chunks),
                    encoding="i32",
                ),
                **fields,
            )
        )
        at += length
    return chunks


def make(**options: object) -> Windower:
    return Windower("s", **{"k": 1, **options})  # type: ignore[arg-type]


def run(windower: Windower, chunks: Iterable[SensorChunk], *, flush: bool = True) -> Output:
    outputs = [output for chunk in chunks for output in windower.push(chunk)]
    return outputs + windower.flush() if flush else outputs


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


def windows(outputs: Output) -> list[Window]:
    return [output for output in outputs if isinstance(output, Window)]


def events(outputs: Output) -> list[StreamEvent]:
    return [output for output in outputs if isinstance(output, StreamEvent)]


def kinds(outputs: Output) -> list[str]:
    return [event.kind for event in events(outputs)]


def ids(outputs: Output) -> list[tuple[int, int, int]]:
    return [(w.start_ns, w.start_index, w.samples.size) for w in windows(outputs)]


def content(outputs: Output) -> list[tuple[object, ...]]:
    """All that a window is, bit by bit."""
    return [
        (
            w.start_ns,
            w.start_index,
            w.epoch,
            w.flags,
            w.gap_s,
            w.sample_rate_hz,
            w.samples.tobytes(),
        )
        for w in windows(outputs)
    ]


def gapless(window: Window) -> bool:
    return bool((np.diff(window.samples) == 1).all())


LENGTHS = st.lists(st.integers(1, 400), min_size=1, max_size=12)
STARTS = st.integers(START_NS, START_NS + 10 * NS_PER_S)


@settings(max_examples=80, deadline=None)
@given(
    LENGTHS,
    RATES,
    STARTS,
    st.sampled_from(
        [{}, {"stride_s": 0.05}, {"stride_s": 0.4}, {"duty_cycle_s": 0.7}, {"captures": False}]
    ),
)
def test_any_chunking_gives_bit_equal_windows(
    lengths: list[int], rate_hz: float, start_ns: int, options: dict[str, object]
) -> None:
    whole = run(make(**options), cut(3000, [3000], rate_hz, start_ns))
    pieces = run(make(**options), cut(3000, lengths, rate_hz, start_ns))
    assert windows(whole)
    assert content(pieces) == content(whole)
    assert not events(pieces)


@st.composite
def shuffles(draw: st.DrawFn, n: int, bound: int) -> list[int]:
    """An order in which nothing is more than `bound` places from where it belongs."""
    keys = [place + draw(st.integers(0, bound)) + 0.5 * draw(st.booleans()) for place in range(n)]
    return sorted(range(n), key=lambda place: (keys[place], place))


@settings(max_examples=120, deadline=None)
@given(st.data(), st.integers(1, 4), st.booleans(), st.booleans())
def test_any_order_within_the_bound_gives_bit_equal_windows(
    data: st.DataObject,
    bound: int,
    counted: bool,  # noqa: FBT001  (drawn)
    captures: bool,  # noqa: FBT001  (drawn)
) -> None:
    chunks = cut(3000, [130])
    del chunks[7], chunks[12]
    if captures:
        chunks = [replace(c, flags=END) if place % 4 == 3 else c for place, c in enumerate(chunks)]
    if not counted:
        chunks = [replace(chunk, seq=0) for chunk in chunks]
    order = data.draw(shuffles(len(chunks), bound))
    assume(max(abs(place - at) for at, place in enumerate(order)) <= bound)
    expected = run(make(reorder_chunks=bound), chunks)
    assert windows(expected)
    shuffled = run(make(reorder_chunks=bound), [chunks[place] for place in order])
    assert content(shuffled) == content(expected)
    assert kinds(shuffled) == kinds(expected)


@settings(max_examples=80, deadline=None)
@given(
    st.sets(st.integers(0, 29), max_size=12),
    st.sampled_from([0, 1, 3]),
    st.sampled_from([True, False, None]),
)
def test_no_window_spans_a_gap(lost: set[int], bound: int, captures: bool | None) -> None:  # noqa: FBT001
    chunks = [c for place, c in enumerate(cut(3000, [100])) if place not in lost]
    if captures is not False:
        chunks = [replace(c, flags=END) if c.seq % 5 == 4 else c for c in chunks]
    outputs = run(make(reorder_chunks=bound, captures=captures, stride_s=0.09), chunks)
    assert all(gapless(window) for window in windows(outputs))


@pytest.mark.parametrize("missing", [1, 2, 60, 1000])
def test_a_gap_is_reported_and_the_next_window_starts_on_the_grid_behind_it(missing: int) -> None:
    chunks = cut(1000, [100])
    late = cut(1000, [100], start_ns=START_NS + NS_PER_S + missing * 10**6, first_seq=10)
    outputs = run(make(), chunks + late)
    assert [(e.kind, e.at_ns, e.amount_s) for e in events(outputs)] == [
        ("gap", START_NS + NS_PER_S, pytest.approx(missing / RATE_HZ))
    ]
    begin = Timebase(RATE_HZ).index_at(late[0].start_ns)
    after = [w for w in windows(outputs) if w.start_index >= begin]
    assert after[0].start_index == -(-begin // LENGTH) * LENGTH
    assert [w.gap_s > 0 for w in after] == [True] + [False] * (len(after) - 1)
    assert not any(w.gap_s for w in windows(outputs) if w.start_index < begin)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 25),
    RATES,
    STARTS,
    st.sampled_from([{}, {"duty_cycle_s": 0.5}, {"stride_s": 0.3}, {"stride_s": 0.04}]),
)
def test_joining_later_gives_the_same_windows_from_then_on(
    joined: int, rate_hz: float, start_ns: int, options: dict[str, object]
) -> None:
    # Stamps are whole nanoseconds: a phase of half a sample may be read as either neighbour.
    phase = Fraction(start_ns) * Fraction(rate_hz) / NS_PER_S % 1
    assume(abs(phase - Fraction(1, 2)) > Fraction(1, 1000))
    chunks = cut(4000, [130], rate_hz, start_ns)
    whole = run(make(**options), chunks)
    part = run(make(**options), chunks[joined:])
    begin = Timebase(rate_hz).index_at(chunks[joined].start_ns)
    assert content(part) == [w for w in content(whole) if w[1] >= begin]  # type: ignore[operator]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 24), st.sampled_from([True, False, None]), st.booleans())
def test_state_survives_a_restart_at_any_chunk(
    at: int,
    captures: bool | None,  # noqa: FBT001  (drawn)
    shuffled: bool,  # noqa: FBT001  (drawn)
) -> None:
    chunks = cut(3000, [130])
    del chunks[15]
    if captures is not False:
        chunks[9:] = [replace(c, flags=END) if c.seq % 3 == 2 else c for c in chunks[9:]]
    if shuffled:
        chunks = [chunks[place ^ 1] for place in range(22)]
    options = {"captures": captures, "stride_s": 0.14}
    whole = make(**options)
    expected = run(whole, chunks)
    before, after = make(**options), make(**options)
    outputs = run(before, chunks[:at], flush=False)
    record = state.pack(before.export_state())
    after.import_state(state.unpack(record))
    assert after.buffered_bytes == before.buffered_bytes
    assert after.buffered_since_ns == before.buffered_since_ns
    outputs += run(after, chunks[at:])
    assert content(outputs) == content(expected)
    assert events(outputs) == events(expected)
    assert after.counts == whole.counts


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 22), st.integers(0, 25)), max_size=10), st.booleans())
def test_duplicates_change_nothing_but_their_count(
    doubles: list[tuple[int, int]],
    counted: bool,  # noqa: FBT001  (drawn)
) -> None:
    chunks = cut(3000, [130])
    if not counted:
        chunks = [replace(chunk, seq=0) for chunk in chunks]
    stream = [(float(place), chunk) for place, chunk in enumerate(chunks)]
    stream += [(place + delay + 0.5, chunks[place]) for place, delay in doubles]
    stream.sort(key=lambda item: item[0])
    windower = make()
    outputs = run(windower, [chunk for _, chunk in stream])
    assert content(outputs) == content(run(make(), chunks))
    assert not events(outputs)
    assert windower.duplicates == len(doubles)
    assert windower.late == 0


def test_a_replay_of_all_that_was_used_is_recognised_as_duplicates() -> None:
    chunks = cut(20_000, [100])
    windower = make()
    run(windower, chunks, flush=False)
    assert run(windower, chunks, flush=False) == []
    assert windower.duplicates == len(chunks)


def test_a_replay_after_a_clock_step_is_recognised_as_duplicates() -> None:
    before = cut(1000, [100])
    after = cut(10_000, [100], start_ns=START_NS - 10**15, first_seq=10)
    windower = make()
    run(windower, before + after, flush=False)
    assert run(windower, after, flush=False) == []
    assert windower.duplicates == len(after)


def test_a_chunk_after_its_gap_was_given_up_is_late() -> None:
    chunks = cut(1000, [100])
    windower = make()
    outputs = run(windower, [*chunks[:3], *chunks[4:8], chunks[3], *chunks[8:]])
    assert kinds(outputs) == ["gap", "late"]
    assert events(outputs)[1].at_ns == chunks[3].start_ns
    assert events(outputs)[1].amount_s == pytest.approx(0.1)
    assert windower.late == 1
    assert content(outputs) == content(run(make(), chunks[:3] + chunks[4:]))


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


def test_an_overlap_is_reported_and_the_samples_that_came_first_stay() -> None:
    chunks = cut(1000, [100])
    again = cut(1000, [100], start_ns=START_NS + 960 * 10**6, first_seq=10)
    outputs = run(make(), chunks + again)
    assert [(e.kind, e.amount_s) for e in events(outputs)] == [("overlap", pytest.approx(0.04))]
    seam = [w for w in windows(outputs) if w.start_ns < START_NS + NS_PER_S < w.end_ns]
    assert 39 not in seam[0].samples  # 0..39 of the second part are the overlap
    assert {999, 40} <= set(seam[0].samples.tolist())


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"sample_rate_hz": 2000.0}, "rate_change"),
        ({"scale": 2.0}, "format_change"),
        ({"offset": 2.0}, "format_change"),
        ({"unit": "g"}, "format_change"),
        ({"encoding": "i24"}, "format_change"),
        ({"epoch": 1}, "epoch_change"),
    ],
)
def test_no_window_spans_a_change(change: dict[str, object], kind: str) -> None:
    before = cut(1000, [100])
    after = cut(
        2000,
        [100],
        float(change.get("sample_rate_hz", RATE_HZ)),  # type: ignore[arg-type]
        START_NS + NS_PER_S,
        10,
        **change,
    )
    outputs = run(make(), before + after)
    assert kinds(outputs) == [kind]
    assert events(outputs)[0].at_ns == after[0].start_ns
    assert all(gapless(window) for window in windows(outputs))
    sides = {w.start_ns >= after[0].start_ns for w in windows(outputs)}
    assert sides == {False, True}
    for window in windows(outputs):
        assert window.end_ns <= after[0].start_ns or window.start_ns >= after[0].start_ns


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


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([0.5, 0.7, 3.0, 10.0]), RATES, st.sampled_from([0.17, 0.05, 0.4]))
def test_duty_cycle_keeps_the_first_grid_start_at_or_after_each_multiple(
    cycle_s: float, rate_hz: float, stride_s: float
) -> None:
    n = round(25 * rate_hz)
    step = round(stride_s * rate_hz)
    first = Timebase(rate_hz).index_at(START_NS)
    expected = set()
    for turn in range(
        int(START_NS / NS_PER_S / cycle_s) - 2, int(START_NS / NS_PER_S / cycle_s) + 60
    ):
        due = Fraction(turn) * Fraction(cycle_s) * Fraction(rate_hz)
        start = -(-due // step) * step
        if first <= start <= first + n - window_samples(rate_hz, 1):
            expected.add(start)
    outputs = run(make(duty_cycle_s=cycle_s, stride_s=stride_s), cut(n, [n // 7], rate_hz))
    assert {w.start_index for w in windows(outputs)} == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.floats(0.01, 1e3), st.integers(-(10**6), 10**15))
def test_next_start_is_the_first_start_at_or_after_an_index(
    stride: int, cycle_s: float, index: int
) -> None:
    grid = Grid(1000.0, stride, duty_cycle_s=cycle_s)
    start = grid.next_start(index)
    assert start >= index
    assert start % stride == 0
    assert grid.next_start(start) == start
    assert grid.next_start((index + start) // 2) == start


@given(st.floats(100, 1e6), st.integers(0, 4 * 10**18))
def test_index_and_time_are_each_others_nearest(rate_hz: float, ns: int) -> None:
    base = Timebase(rate_hz)
    index = base.index_at(ns)
    assert abs(base.samples_between(index, ns)) <= 0.5
    assert base.index_at(base.ns_at(index)) == index
    exact = Fraction(index) * NS_PER_S / Fraction(rate_hz)
    assert abs(base.ns_at(index) - exact) <= Fraction(1, 2)


@pytest.mark.parametrize("options", [{}, {"captures": False}, {"duty_cycle_s": 60.0}])
def test_memory_stays_bounded(options: dict[str, object]) -> None:
    windower = make(**options)
    most = 0
    for chunk in cut(200_000, [100]):
        if chunk.seq % 7:
            windower.push(chunk)
            most = max(most, windower.buffered_bytes)
    assert most <= (2 * LENGTH + 4 * 100 + 8) * 4
    windower.flush()
    assert windower.buffered_bytes == 0
    assert windower.buffered_since_ns is None


def test_memory_of_an_endless_capture_stays_bounded() -> None:
    windower = make(captures=True, max_capture_s=2.0)
    most = 0
    for chunk in cut(100_000, [100]):
        windower.push(chunk)
        most = max(most, windower.buffered_bytes)
    assert most <= (2000 + 100 + LENGTH) * 4


def test_state_stays_small_however_long_the_stream() -> None:
    windower = make()
    run(windower, cut(200_000, [50]), flush=False)
    assert len(state.pack(windower.export_state())) < 8000


@st.composite
def wild(draw: st.DrawFn) -> SensorChunk:
    """A valid chunk that need not make sense beside any other."""
    rate_hz = draw(st.sampled_from([1000.0, 1000.0, 1000.0, 512.5]))
    return SensorChunk(
        sensor_id="s",
        sample_rate_hz=rate_hz,
        start_ns=START_NS + draw(st.integers(-2, 20)) * 100 * 10**6 + draw(st.integers(0, 10**6)),
        samples=np.arange(draw(st.sampled_from([1, 50, 100, 100, 100, 700])), dtype=np.int16),
        seq=draw(st.integers(0, 25)),
        epoch=draw(st.sampled_from([0, 0, 0, 1])),
        encoding="i16",
        flags=draw(st.sampled_from([Flags.NONE, Flags.NONE, END])),
    )


@settings(max_examples=150, deadline=None)
@given(
    st.lists(wild(), max_size=30),
    st.sampled_from([True, False, None]),
    st.integers(0, 30),
    st.integers(0, 3),
)
def test_whatever_comes_gives_sound_windows_and_survives_a_restart(
    chunks: list[SensorChunk],
    captures: bool | None,  # noqa: FBT001  (drawn)
    at: int,
    bound: int,
) -> None:
    options = {"captures": captures, "reorder_chunks": bound, "max_capture_s": 0.6}
    outputs = run(make(**options), chunks)
    for window in windows(outputs):
        on_grid = window.start_index % window_samples(window.sample_rate_hz, 1) == 0
        grid_cut = on_grid and window.samples.size == window_samples(window.sample_rate_hz, 1)
        assert grid_cut or (captures is not False and window.samples.size <= 600)
        assert window.samples.size >= min_samples(window.sample_rate_hz)
    before, after = make(**options), make(**options)
    parts = run(before, chunks[:at], flush=False)
    after.import_state(state.unpack(state.pack(before.export_state())))
    parts += run(after, chunks[at:])
    assert content(parts) == content(outputs)
    assert events(parts) == events(outputs)


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


def test_a_stream_goes_on_after_a_flush_without_an_event() -> None:
    chunks = cut(3000, [100])
    windower = make()
    outputs = run(windower, chunks[:13]) + run(windower, chunks[13:])
    assert kinds(outputs) == []
    everything = content(run(make(), chunks))
    assert set(content(outputs)) < set(everything)
    assert len(content(outputs)) == len(everything) - 1


def test_flags_of_all_chunks_of_a_window_are_joined() -> None:
    chunks = cut(2000, [50])
    chunks[9] = replace(chunks[9], flags=Flags.OVERLOAD)
    for window in windows(run(make(), chunks)):
        inside = set(window.samples.tolist()) & set(range(450, 500))
        assert (window.flags == Flags.OVERLOAD) == bool(inside)


def test_windows_are_contiguous_and_keep_their_dtype() -> None:
    for window in windows(run(make(), cut(2000, [70]))) + windows(run(make(), cut(2000, [900]))):
        assert window.samples.flags.c_contiguous
        assert window.samples.dtype == np.int32
        assert window.start_ns == Timebase(RATE_HZ).ns_at(window.start_index)


def test_length_fills_whole_patches() -> None:
    for rate_hz in (100.0, 16_000.0, 25_600.0, 44_100.0, 97_656.25):
        n_fft, hop = int(0.025 * rate_hz), int(0.01 * rate_hz)
        frames = (window_samples(rate_hz, 6) - n_fft) / hop + 1
        assert frames == 96
        assert min_samples(rate_hz) == n_fft


@pytest.mark.parametrize(
    "options",
    [
        {"k": 0},
        {"stride_s": 0.0},
        {"stride_s": -1.0},
        {"duty_cycle_s": 0.0},
        {"reorder_chunks": -1},
        {"drift_ppm": -1.0},
        {"gap_tolerance_samples": float("nan")},
        {"max_capture_s": float("inf")},
    ],
)
def test_numbers_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        make(**options)


def test_another_sensors_chunk_or_state_is_refused() -> None:
    with pytest.raises(ValueError, match="'other'"):
        make().push(replace(cut(100, [100])[0], sensor_id="other"))
    with pytest.raises(ValueError, match="sensor_id"):
        make().import_state(Windower("other").export_state())
    with pytest.raises(ValueError, match="version"):
        make().import_state(make().export_state() | {"version": 99})
    with pytest.raises(ValueError, match="100 Hz"):
        window_samples(99.0)


def recording(folder: str, sensor: str) -> list[dict[str, str]]:
    path = SHARED / "data" / folder / "index.csv"
    if not path.exists():
        pytest.skip(f"recordings are not here: shared/data/{folder}")
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["sensor"] == sensor]


@pytest.mark.shared
def test_each_snapshot_of_a_run_to_failure_is_one_window() -> None:
    rows = recording("femto_bearing1_1", "femto/bearing1_1/horizontal_acc")
    signal, rate_hz = soundfile.read(
        SHARED / "data" / "femto_bearing1_1" / rows[0]["file"], dtype="int32", always_2d=True
    )
    windower = Windower("s")
    outputs: Output = []
    for seq, row in enumerate(rows):
        begin, n = int(row["offset_frames"]), int(row["n_frames"])
        begun = datetime.fromisoformat(row["start_time"]).replace(tzinfo=UTC)
        start_ns = round(begun.timestamp() * 1e6) * 1000
        samples = np.ascontiguousarray(signal[begin : begin + n, int(row["channel"])])
        outputs += windower.push(
            SensorChunk("s", float(rate_hz), start_ns, samples, seq, 0, "i32", flags=END)
        )
    outputs += windower.flush()
    assert kinds(outputs) == []
    assert len(windows(outputs)) == len(rows) == 1402
    assert {w.samples.size for w in windows(outputs)} == {2560}


@pytest.mark.shared
def test_a_continuous_recording_gives_all_windows_of_its_grid() -> None:
    row = recording("cwru_12k", "cwru/drive_end_acc")[0]
    path = SHARED / "data" / "cwru_12k" / row["file"]
    signal, rate_hz = soundfile.read(path, dtype="int32", always_2d=True)
    mono = np.ascontiguousarray(signal[:, 0])
    chunks = [
        SensorChunk(
            "s",
            float(rate_hz),
            START_NS + round(at * NS_PER_S / rate_hz),
            mono[at : at + 3000],
            turn,
            0,
            "i32",
        )
        for turn, at in enumerate(range(0, mono.size, 3000))
    ]
    outputs = run(Windower("s"), chunks)
    length = window_samples(float(rate_hz))
    first = -(START_NS * rate_hz // NS_PER_S) % length
    assert kinds(outputs) == []
    assert len(windows(outputs)) == (mono.size - first) // length
    joined = np.concatenate([w.samples for w in windows(outputs)])
    assert np.array_equal(joined, mono[first : first + joined.size])


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


def test_a_sparse_grid_holds_no_more_than_two_windows():
    windower = Windower("s", stride_s=600.0)
    size = 25_600
    for i in range(120):
        windower.push(
            SensorChunk("s", 25_600.0, START_NS + i * NS_PER_S, np.zeros(size, np.int16), seq=i,
                        encoding="i16")
        )  # fmt: skip
    assert windower.buffered_bytes <= 4 * 2 * size
