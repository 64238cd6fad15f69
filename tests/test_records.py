import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import Header, key_of, name_of, read_body, read_header, write_record
from pipeline.state import StateError

HEADERS = st.builds(
    Header,
    positions=st.dictionaries(st.sampled_from(["signals", "commands"]), st.integers(0, 2**40)),
    epoch=st.integers(0, 9),
    base=st.sampled_from(["", "ab12-3"]),
    deadline_ns=st.integers(0, 2**62),
    heard_ns=st.integers(0, 2**62),
)


@given(HEADERS, st.binary())
def test_a_record_comes_back_as_it_was_written(header, body):
    value = write_record(header, body)
    assert read_header(value) == header
    assert read_body(value) == body


@given(HEADERS, st.integers(1, 1000))
def test_who_has_heard_more_ranks_higher(header, more):
    further = {**header.positions, "signals": header.positions.get("signals", -1) + more}
    later = Header(positions=further, epoch=header.epoch)
    assert later.rank > header.rank
    assert Header(epoch=header.epoch + 1).rank > later.rank


@pytest.mark.parametrize(
    "value",
    [b"", b"{}", b"{}\n", b"[]\nx", b'{"version": 9}\n', b"\xff\n", b'{"version":1,"a":1}\n'],
)
def test_what_is_no_record_is_refused(value):
    with pytest.raises(StateError, match="record"):
        read_header(value)


@pytest.mark.parametrize("number", ["", "ab12-3"])
def test_keys_name_their_sensor(number):
    kind = "base" if number else "live"
    assert name_of(key_of(kind, "plant/pump:1/de", number)) == (kind, "plant/pump:1/de", number)
