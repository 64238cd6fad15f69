from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.streaming.stage import Partition
from pipeline.streaming.turns import AGAIN_S, STUCK_S, TRIES, Turns

P = Partition("signals", 0)


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def read(turns, clock, log, position, lost, step_s):
    """Read a log to its end as Faust would, which loses the deliveries of these numbers."""
    taken, number = [], 0
    while position < len(log) or (turns.next.get(P, 0) <= log[-1] and number < 1000):
        clock.now_s += step_s
        number += 1
        if position >= len(log):
            clock.now_s += STUCK_S
            for offset in turns.stuck({P: log[-1] + 1}).values():
                position = next(i for i, o in enumerate(log) if o >= offset)
            continue
        offset = log[position]
        position += 1
        if number in lost:
            continue
        verdict = turns.offer(P, offset)
        if verdict == "take":
            taken.append(offset)
        elif verdict == "again":
            position = next(i for i, o in enumerate(log) if o >= turns.next[P])
    return taken


@settings(max_examples=200)
@given(
    st.integers(2, 30),
    st.integers(0, 10),
    st.sets(st.integers(1, 40), max_size=12),
    st.sampled_from([0.0, 0.1, 1.0]),
)
def test_whatever_is_lost_on_the_way_every_offset_is_taken_once_and_in_order(
    number, start, lost, step_s
):
    clock = Clock()
    turns = Turns(clock)
    turns.begin({P: start})
    log = list(range(start, start + number))
    assert read(turns, clock, log, 0, lost, step_s) == log


def test_a_hole_in_the_log_itself_is_passed_after_a_few_tries():
    clock = Clock()
    turns = Turns(clock)
    turns.begin({P: 0})
    assert read(turns, clock, [0, 1, 5, 6, 9], 0, set(), 0.1) == [0, 1, 5, 6, 9]


def test_what_comes_first_after_each_reading_again_decides_that_a_hole_is_real():
    clock = Clock()
    turns = Turns(clock)
    turns.begin({P: 3})
    for _ in range(TRIES):
        assert turns.offer(P, 5) == "again"
        assert turns.offer(P, 6) == "drop"
        clock.now_s += 2 * AGAIN_S
    assert turns.offer(P, 6) == "again"
    assert turns.offer(P, 5) == "take"


def test_nothing_is_taken_before_the_beginning_nor_after_the_end():
    turns = Turns(Clock())
    assert turns.offer(P, 0) == "drop"
    turns.begin({P: 0})
    turns.close()
    assert turns.offer(P, 0) == "drop"


def test_a_partition_of_unknown_begin_begins_with_what_comes_first():
    turns = Turns(Clock())
    turns.begin({})
    assert [turns.offer(P, offset) for offset in (7, 9, 8)] == ["take", "again", "take"]


def test_a_partition_that_has_given_all_is_not_stuck():
    clock = Clock()
    turns = Turns(clock)
    turns.begin({P: 4})
    clock.now_s += 2 * STUCK_S
    assert turns.stuck({P: 4}) == {}
    assert turns.stuck({P: 5}) == {P: 4}
    assert turns.stuck({P: 5}) == {}
