from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline import state
from pipeline.messages import NS_PER_S, Flags, SensorChunk
from pipeline.timeline import Timebase
from pipeline.windows import min_samples, window_samples
from window_cases import (
    END,
    LENGTH,
    LENGTHS,
    RATE_HZ,
    RATES,
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
