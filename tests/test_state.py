import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.state import StateError, pack, unpack

ARRAYS = hnp.arrays(
    dtype=st.sampled_from([np.float16, np.float32, np.float64, np.int16, np.int64]),
    shape=hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4),
    elements={"allow_nan": False},
)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
)
VALUES = st.recursive(
    SCALARS | ARRAYS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a, b):
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@given(st.dictionaries(st.text(max_size=6), VALUES, max_size=4))
@settings(max_examples=150, deadline=None)
def test_a_state_comes_back_as_it_was(state):
    assert same(state, unpack(pack(state)))


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_foreign_bytes_are_refused_by_name(data):
    with pytest.raises(StateError):
        unpack(data)


def test_every_truncation_is_refused_by_name():
    data = pack({"bank": np.arange(5.0), "n": 3})
    for size in range(len(data)):
        with pytest.raises(StateError):
            unpack(data[:size])


def test_a_value_that_could_execute_is_not_packed():
    with pytest.raises(StateError, match="JSON values and arrays only"):
        pack({"call": print})
