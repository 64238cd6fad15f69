from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import state
from pipeline.messages import NS_PER_S, Flags, SensorChunk
from pipeline.timeline import Grid, Timebase
from pipeline.windows import Windower, min_samples, window_samples
from window_cases import LENGTH, RATE_HZ, RATES, START_NS, content, cut, kinds, make, run, windows


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


def test_a_sparse_grid_holds_no_more_than_two_windows():
    windower = Windower("s", stride_s=600.0)
    size = 25_600
    for i in range(120):
        windower.push(
            SensorChunk("s", 25_600.0, START_NS + i * NS_PER_S, np.zeros(size, np.int16), seq=i,
                        encoding="i16")
        )  # fmt: skip
    assert windower.buffered_bytes <= 4 * 2 * size
