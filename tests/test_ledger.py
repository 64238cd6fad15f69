import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.streaming.ledger import Ledger
from pipeline.streaming.stage import Partition

PARTITIONS = [Partition("signals", n) for n in range(3)]


def ledger(generation=1):
    made = Ledger(max_bytes=1e9, max_messages=10_000)
    made.begin(generation)
    return made


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3)), max_size=60),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 80)), max_size=20),
)
def test_what_is_released_is_a_gapless_prefix_of_what_was_read(steps, releases):
    held, read, nexts = ledger(), {p: [] for p in PARTITIONS}, dict.fromkeys(PARTITIONS, 0)
    for number, step in steps:
        partition = PARTITIONS[number]
        nexts[partition] += step
        held.admit(partition, nexts[partition], 10)
        read[partition].append(nexts[partition])
    done = {p: [] for p in PARTITIONS}
    for number, upto in releases:
        partition = PARTITIONS[number]
        found = held.release(1, {partition: upto})
        if found:
            done[partition] = [o for o in read[partition] if o < found[partition]]
    for partition in PARTITIONS:
        assert done[partition] == read[partition][: len(done[partition])]
        rest = read[partition][len(done[partition]) :]
        assert held.first().get(partition) == (rest[0] if rest else None)
    assert held.messages == sum(len(read[p]) - len(done[p]) for p in PARTITIONS)
    assert held.bytes == 10 * held.messages


def test_an_old_generation_releases_nothing():
    held = ledger(generation=4)
    held.admit(PARTITIONS[0], 5, 1)
    held.begin(5)
    held.admit(PARTITIONS[0], 3, 1)
    assert held.release(4, {PARTITIONS[0]: 9}) == {}
    assert held.release(5, {PARTITIONS[0]: 9}) == {PARTITIONS[0]: 4}


def test_a_full_ledger_has_room_again_once_something_is_released():
    held = Ledger(max_bytes=100, max_messages=100)
    held.begin(1)
    held.admit(PARTITIONS[0], 0, 60)
    assert not held.full
    held.admit(PARTITIONS[0], 1, 60)
    assert held.full
    held.release(1, {PARTITIONS[0]: 0})
    assert not held.full


def test_a_message_that_is_read_twice_in_one_generation_is_an_error():
    held = ledger()
    held.admit(PARTITIONS[0], 7, 1)
    with pytest.raises(ValueError, match="holds offset 7, got 7"):
        held.admit(PARTITIONS[0], 7, 1)
