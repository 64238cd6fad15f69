import math
import re
from enum import IntEnum, StrEnum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from influxdb_client import Point as TheirPoint

from connectors import line_protocol
from connectors.line_protocol import line
from pipeline.messages import Point

ODD = st.text(alphabet="ab1,= \"\\\n\t\r#'é機😀/", max_size=8)
NAMES = st.text(alphabet="ab1,= \n\té機😀/#.", min_size=1, max_size=6).filter(
    lambda text: not text.startswith("#")
)
VALUES = st.one_of(st.floats(), st.integers(-(2**63), 2**63 - 1), st.booleans(), ODD)
POINTS = st.builds(
    lambda measurement, tags, fields, at_ns: Point(
        measurement, tuple(sorted(tags.items())), fields, at_ns
    ),
    NAMES,
    st.dictionaries(NAMES, ODD, max_size=4),
    st.dictionaries(NAMES, VALUES, min_size=1, max_size=5),
    st.integers(-(2**63) + 2, 2**63 - 2),
)


def until(text, at, signs):
    """Where the first of these signs stands that has no backslash before it."""
    while text[at] not in signs or text[at - 1] == "\\":
        at += 1
    return at


def parsed(text):
    """Measurement, tags, fields and time as a server reads them."""
    at = until(text, 1, ", ")
    measurement, tags, fields = bare(text[:at]), {}, {}
    while text[at] == ",":
        equals = until(text, at + 1, "=")
        end = until(text, equals + 1, ", ")
        tags[bare(text[at + 1 : equals])] = bare(text[equals + 1 : end])
        at = end
    while text[at] == "," or not fields:
        equals = until(text, at + 1, "=")
        if text[equals + 1] == '"':
            end = equals + 1 + re.match(r'"(?:[^"\\]|\\.)*"', text[equals + 1 :], re.DOTALL).end()
        else:
            end = until(text, equals + 1, ", ")
        fields[bare(text[at + 1 : equals])] = meant(text[equals + 1 : end])
        at = end
    return measurement, tags, fields, int(text[at + 1 :])


def bare(text):
    return re.sub(r"\\([,= ])", r"\1", text)


def meant(text):
    if text.startswith('"'):
        return re.sub(r'\\(["\\])', r"\1", text[1:-1])
    if text.endswith("i"):
        return int(text[:-1])
    return text == "true" if text in ("true", "false") else float(text)


def without_ends(text):
    """A name or tag as far as the protocol can say it."""
    for sign, said in (("\n", r"\n"), ("\t", r"\t"), ("\r", r"\r")):
        text = text.replace(sign, said)
    return f"{text[:-1]} " if text.endswith("\\") else text


@settings(max_examples=400)
@given(POINTS)
def test_a_line_says_what_the_point_says(point):
    text = line(point)
    fields = {
        without_ends(name): value
        for name, value in point.fields.items()
        if not isinstance(value, float) or math.isfinite(value)
    }
    if not fields:
        assert text is None
        return
    tags = {without_ends(name): without_ends(value) for name, value in point.tags if value}
    found = parsed(text)
    assert found == (without_ends(point.measurement), tags, fields, point.at_ns)
    assert [type(value) for value in found[2].values()] == [type(v) for v in fields.values()]


@settings(max_examples=200)
@given(POINTS)
def test_a_line_means_the_same_as_that_of_the_client_library(point):
    theirs = TheirPoint(point.measurement).time(point.at_ns)
    for name, value in point.tags:
        theirs.tag(name, value)
    for name, value in point.fields.items():
        theirs.field(name, value)
    expected = theirs.to_line_protocol()
    ours = line(point)
    assert (ours is None) == (not expected)
    if ours is not None:
        assert parsed(ours) == parsed(expected)


def test_a_line_is_one_line_but_for_breaks_in_text():
    point = Point("a\nb", (("c\nd", "e\r\nf"),), {"g\nh": 1.0}, 5)
    assert line(point) == r"a\nb,c\nd=e\r\nf g\nh=1.0 5"
    assert line(Point("m", (), {"text": 'two\nlines "said"'}, 5)) == (
        'm text="two\nlines \\"said\\"" 5'
    )


def test_numbers_of_numpy_and_enumerations_are_written_as_their_values():
    class Level(IntEnum):
        ALARM = 3

    class State(StrEnum):
        OK = "ok"

    fields = {
        "a": np.float64(0.1), "b": np.float32(0.5), "c": np.int16(-7), "d": Level.ALARM,
        "e": State.OK, "f": np.float32("nan"),
    }  # fmt: skip
    assert line(Point("m", (), fields, 1)) == 'm a=0.1,b=0.5,c=-7i,d=3i,e="ok" 1'


def test_what_cannot_be_written_is_refused_in_words():
    with pytest.raises(TypeError, match="field v must be a number, text or bool, got list"):
        line(Point("m", (), {"v": [1]}, 1))
    for name in ("", "#m"):
        with pytest.raises(ValueError, match="measurement"):
            line(Point(name, (), {"v": 1}, 1))


def test_the_kept_texts_are_bounded():
    assert line_protocol._series.cache_info().maxsize is not None
    assert line_protocol._keys.cache_info().maxsize is not None
