"""Plots of signals of any kind: drawn within their frame, over one axis, with no peak lost."""

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.serve import pictures
from pipeline.snapshots import snapshot_from_bytes
from serve_cases import message

SIGNALS = st.builds(
    lambda size, level, bias, seed: (
        level * np.random.default_rng(seed).normal(size=size) + bias
    ).astype(np.float32),
    st.integers(2, 6000),
    st.sampled_from([0.0, 1e-30, 1e-6, 1.0, 1e4, 1e30]),
    st.sampled_from([0.0, -3.0, 1e5]),
    st.integers(0, 3),
)
RATES = st.sampled_from([0.5, 100.0, 12_800.0, 1e6])


def drawn(picture):
    """The tree of a plot; its numbers are numbers and lie within the frame."""
    tree = ET.fromstring(str(picture))  # noqa: S314  (ours)
    for path in tree.iter("path"):
        numbers = [float(n) for n in re.findall(r"-?[\d.]+", path.get("d"))]
        assert numbers
        assert min(numbers) >= 0.0
        assert max(numbers) <= 1000.0
    return tree


@given(SIGNALS, SIGNALS, RATES)
@settings(max_examples=80, deadline=None)
def test_any_two_signals_are_drawn_within_their_frame(now, healthy, rate):
    x = pictures.time_axis(max(now.size, healthy.size) / rate)
    y = pictures.level_axis([now, healthy], "g")
    assert y.low <= min(now.min(), healthy.min()) <= max(now.max(), healthy.max()) <= y.high
    for kind, signal in (("now", now), ("healthy", healthy)):
        drawn(pictures.signal_plot(pictures.waveform(signal, rate, kind), x, y, "t"))
    for axis in (x, y):
        assert 2 <= len(axis.marks) <= 13
        assert all(0.0 <= axis.percent(value) <= 100.0 for value, _ in axis.marks)


@given(SIGNALS, RATES, st.tuples(st.floats(0, 2e6), st.floats(0, 2e6)))
@settings(max_examples=80, deadline=None)
def test_any_spectrum_is_drawn_within_its_frame_with_its_band(signal, rate, band):
    freq, amplitude = pictures.amplitudes(signal, rate)
    band = sorted(band)
    tree = drawn(pictures.spectrum_plot([("now", freq, amplitude)], "g", band, "t"))
    shades = [one for one in tree.iter("rect") if one.get("class") == "band"]
    for shade in shades:
        x, width = (float(shade.get(name).rstrip("%")) for name in ("x", "width"))
        assert 0.0 <= x <= x + width <= 100.01
    assert bool(shades) == (freq[-1] > band[0] < band[1])


@given(SIGNALS)
@settings(max_examples=60, deadline=None)
def test_no_peak_is_lost_by_drawing(signal):
    low, high, length = pictures.columns(signal, 100)
    assert low.size <= 200
    assert low.min() == signal.min()
    assert high.max() == signal.max()
    assert low.size * length == pytest.approx(signal.size)


def test_a_closer_look_holds_the_largest_peak():
    signal = np.zeros(12_800, np.float32)
    signal[5000] = -0.45
    close = pictures.closer(signal, 12_800.0)
    assert close.size == 640
    assert close.min() == signal[5000]
    assert pictures.closer(signal[4900:5100], 12_800.0).size == 0


def test_words_of_a_unit_cannot_break_out_of_a_plot():
    signal = np.float32([1, 2, 3])
    y = pictures.level_axis([signal], '"><script>')
    page = str(pictures.signal_plot(
        pictures.waveform(signal, 1.0, "now"), pictures.time_axis(3.0), y, "<b>"
    ))  # fmt: skip
    assert "<script>" not in page
    assert "<b>" not in page


def test_the_numbers_of_a_snapshot_are_json_and_bounded():
    found = pictures.numbers(snapshot_from_bytes(message()[1]))
    assert len(found["waveform"]["low"]) == pictures.COLUMNS
    assert len(found["spectrum"]["amplitude"]) <= pictures.LINES
    assert found["sample_rate_hz"] == 12_800.0
