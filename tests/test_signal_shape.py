from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.messages import Window
from pipeline.signal_shape import shapes_of

RATE = 16_000.0
N = 15_600


@given(
    kinds=st.lists(
        st.sampled_from(
            ["i16", "i32", "f32", "huge", "tiny", "flat", "two", "odd", "broken", "short", "slow"]
        ),
        max_size=20,
    ),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_the_shape_of_a_window_does_not_depend_on_the_others(kinds: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    windows = [shaped(kind, rng) for kind in kinds]
    for one, got in zip(windows, shapes_of(windows), strict=True):
        (alone,) = shapes_of([one])
        if alone is None or got is None:
            assert alone is got
            assert not np.isfinite(one.samples).all()
            continue
        assert astuple(got) == pytest.approx(astuple(alone), rel=1e-5)
        values = one.samples.astype(np.float64)
        assert (got.low, got.high) == (values.min(), values.max())
        assert got.codes == min(3, np.unique(one.samples).size)
        assert got.at_low == np.count_nonzero(values == values.min())
        assert got.mean == pytest.approx(values.mean(), rel=1e-4, abs=1e-3 * values.std())
        assert got.ac_rms == pytest.approx(values.std(), rel=1e-3, abs=1e-6 * abs(values.mean()))


def shaped(kind: str, rng: np.random.Generator) -> Window:
    noise = rng.normal(5.0, 300.0, 1000 if kind == "short" else N)
    values = noise.astype(np.float32)
    if kind in ("i16", "i32", "short"):
        values = np.rint(noise).astype(np.int32 if kind == "i32" else np.int16)
    elif kind in ("huge", "tiny"):
        values = (noise * (1e30 if kind == "huge" else 1e-30)).astype(np.float32)
    elif kind in ("flat", "two", "odd"):
        values = np.full(N, 7, np.int16)
        values[: N // 3] -= 2 * (kind != "flat")
        values[-1] -= kind == "odd"
    elif kind == "broken":
        values[::7] = np.nan
    return Window("s", RATE / 4 if kind == "slow" else RATE, 0, 0, values)
