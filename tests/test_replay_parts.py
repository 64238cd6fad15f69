"""The parts of a replay: pace, stream of chunks, names and record."""

import math
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.messages import NS_PER_S
from pipeline.replay.pace import LagGate, Pacer, Rate
from pipeline.replay.record import Record, ReplayError, Sent, Tally, load, save
from pipeline.replay.replay import check_names, names_in
from pipeline.replay.stream import ChunkStream, Selection
from pipeline.wire import encode
from replay_cases import (
    NOON_NS,
    chunk,
    key,
)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


# Pace


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 5_000), min_size=2, max_size=60),
    st.sampled_from([0.5, 1.0, 50.0]),
)
def test_chunks_leave_when_their_event_time_says_so(steps_ms, speed):
    clock, event_ns = Clock(), NOON_NS
    pacer = Pacer(speed, clock=clock)
    assert pacer.wait_s(event_ns) == 0.0
    began = clock.now
    for step_ms in steps_ms:
        event_ns += step_ms * 1_000_000
        clock.now += max(pacer.wait_s(event_ns), 0.0)
        due = began + (event_ns - NOON_NS) / NS_PER_S / speed
        assert clock.now == pytest.approx(due, abs=1e-6)
        assert pacer.wait_s(event_ns) == pytest.approx(0.0, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9000), st.sampled_from([0.0, 0.1, 5.0])), max_size=40))
def test_a_delay_never_ends_in_a_burst(steps):
    clock, event_ns = Clock(), NOON_NS
    pacer = Pacer(10.0, clock=clock)
    pacer.wait_s(event_ns)
    left = [(clock.now, event_ns)]
    for step_ms, stall_s in steps:
        clock.now += stall_s
        event_ns += step_ms * 1_000_000
        clock.now += max(pacer.wait_s(event_ns), 0.0)
        left.append((clock.now, event_ns))
    for (at, event), (later, event_later) in combinations(left, 2):
        assert (event_later - event) / NS_PER_S <= 10.0 * (later - at + 1.0) + 1e-6


def test_a_long_pause_is_shortened_and_a_step_back_waits_for_nothing():
    clock = Clock()
    pacer = Pacer(2.0, clock=clock, max_gap_s=10.0)
    pacer.wait_s(NOON_NS)
    assert pacer.wait_s(NOON_NS + 3600 * NS_PER_S) == pytest.approx(5.0)
    clock.now += 5.0
    assert pacer.wait_s(NOON_NS) <= 0.0
    assert pacer.wait_s(NOON_NS + 3602 * NS_PER_S) == pytest.approx(1.0)


def test_at_max_speed_nothing_waits():
    pacer = Pacer(math.inf, clock=Clock())
    assert [pacer.wait_s(NOON_NS + n * 10**12) for n in range(5)] == [0.0] * 5


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300),
    st.lists(st.tuples(st.integers(0, 200), st.floats(0, 3)), min_size=1, max_size=40),
)
def test_a_group_never_has_more_than_the_limit_before_it(limit, steps):
    clock, waiting = Clock(), 0
    gate = LagGate(limit, lambda: waiting, clock=clock)
    for wanted, pause_s in steps:
        for _ in range(wanted):
            if gate.admits(0):
                gate.sent()
                waiting += 1
        assert waiting <= limit
        waiting = max(0, waiting - 50)
        clock.now += pause_s


def test_readers_that_are_behind_or_unknown_are_waited_for_and_asked_again():
    clock, answers = Clock(), [None, 500, 100, 20]
    gate = LagGate(100, lambda: answers.pop(0), clock=clock)
    assert not gate.admits(0)
    assert (gate.closed, gate.lag) == (True, None)
    assert not gate.admits(0)
    assert len(answers) == 3  # not asked again at once
    clock.now += 0.5
    assert not gate.admits(0)
    assert gate.lag == 500
    clock.now += 0.5
    assert not gate.admits(0)
    clock.now += 0.5
    assert not gate.admits(unacknowledged=80)  # what is under way counts as well
    assert LagGate(0, lambda: pytest.fail("asked"), clock=clock).admits(10**6)


def test_the_rate_is_that_of_the_last_seconds():
    clock = Clock()
    rate = Rate(clock=clock, over_s=5.0)
    for second in range(20):
        clock.now = 100.0 + second
        found = rate.now(second * (10 if second < 10 else 100), second * 1000)
    assert found == (pytest.approx(100.0), pytest.approx(1000.0))


# Which chunks, and as what


def source(numbers, **more):
    return lambda: iter([chunk(number, **more) for number in numbers])


def test_only_what_starts_within_the_bounds_is_sent():
    selection = Selection(from_ns=NOON_NS + NS_PER_S, until_ns=NOON_NS + 3 * NS_PER_S)
    sent = list(ChunkStream(source(range(20)), selection))
    assert [number for number, _ in sent] == [0, 1, 2, 3]
    assert [c.start_ns for _, c in sent] == [NOON_NS + n * NS_PER_S // 2 for n in (2, 3, 4, 5)]


def test_every_lap_goes_on_in_time_epoch_and_counter():
    stream = ChunkStream(source(range(3, 9)), Selection(laps=3))
    sent = [c for _, c in stream]
    assert [c.epoch for c in sent] == [0] * 6 + [1] * 6 + [2] * 6
    assert [c.seq for c in sent] == list(range(3, 21))
    assert all(before.end_ns == after.start_ns for before, after in pairwise(sent))
    assert [c.samples[0] for c in sent] == list(range(3, 9)) * 3


def test_the_first_chunk_can_be_moved_to_any_time():
    stream = ChunkStream(source(range(4)), Selection(), shift_ns=lambda first: 5 - first)
    assert [c.start_ns for _, c in stream] == [5 + n * NS_PER_S // 2 for n in range(4)]
    assert stream.shift_ns == 5 - NOON_NS


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(1, 4), st.data())
def test_a_stream_that_goes_on_is_the_rest_of_the_whole(chunks, laps, data):
    selection = Selection(laps=laps, prefix="line2")
    whole = ChunkStream(source(range(chunks)), selection, shift_ns=7)
    everything = [(number, key(c)) for number, c in whole]
    assert [number for number, _ in everything] == list(range(chunks * laps))
    done = data.draw(st.integers(0, chunks * laps))
    known = whole.lap if done >= chunks or data.draw(st.booleans()) else None
    rest = ChunkStream(source(range(chunks)), selection, shift_ns=7, done=done, lap=known)
    assert [(number, key(c)) for number, c in rest] == everything[done:]


def test_nothing_selected_ends_even_without_end():
    assert list(ChunkStream(source([]), Selection(laps=None))) == []


def test_sensors_are_renamed_and_names_that_would_collide_are_refused(tmp_path):
    (tmp_path / "map.yaml").write_text("pump: plant/pump1/de\n")
    names = names_in(tmp_path / "map.yaml")
    selection = Selection(names=names, prefix="site")
    check_names(selection, ["pump", "fan"])
    assert selection.name_of("pump") == "site/plant/pump1/de"
    assert selection.name_of("fan") == "site/fan"
    with pytest.raises(ReplayError, match="names pump, which the recordings do not hold"):
        check_names(selection, ["fan"])
    with pytest.raises(ReplayError, match="fan and pump would both be sent as fan"):
        check_names(Selection(names={"pump": "fan"}), ["fan", "pump"])
    with pytest.raises(ReplayError, match="cannot be sent as a b: bad_sensor_id"):
        check_names(Selection(names={"pump": "a b"}), ["pump"])


@pytest.mark.parametrize(
    ("text", "said"),
    [("- pump\n", "lines of"), ("pump: 3\n", "lines of"), ("a: [", "no YAML"), (None, "No such")],
)
def test_a_sensor_map_that_is_none_is_told(tmp_path, text, said):
    path = tmp_path / "map.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ReplayError, match=said):
        names_in(path)


# The record


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(12)), st.sets(st.integers(0, 11), max_size=4))
def test_what_is_stored_counts_without_a_gap_whatever_the_order(order, refused):
    sent, chunks = Sent({0: 10, 1: 20}), [chunk(n, sensor=f"s{n % 3}") for n in range(12)]
    offsets = {0: 10, 1: 20}
    where = {}
    for number, one in enumerate(chunks):
        if number not in refused:
            sent.add(number, one, encode(one))
            partition = number % 3 % 2
            where[number] = (partition, offsets[partition])
            offsets[partition] += 1
    come = set()
    for number in order:
        if number in refused:
            sent.leave_out(number, "bad_rate")
        else:
            sent.stored(number, *where[number])
        come.add(number)
        gapless = next(n for n in range(13) if n not in come)
        assert sent.count == gapless
        assert sent.messages == len([n for n in range(gapless) if n not in refused])
        for partition, first in ((0, 10), (1, 20)):
            ends = [o + 1 for n, (p, o) in where.items() if n < gapless and p == partition]
            assert sent.offsets[partition] == max(ends, default=first)
    assert sent.ahead == 0
    assert sent.refused == ({"bad_rate": len(refused)} if refused else {})
    for name, tally in sent.tallies.items():
        mine = [c for n, c in enumerate(chunks) if n not in refused and c.sensor_id == name]
        assert tally.chunks == len(mine)
        assert tally.bytes == sum(len(encode(c)) for c in mine)
        assert (tally.first_ns, tally.last_ns) == (mine[0].start_ns, mine[-1].end_ns)
    assert sent.size == sum(t.bytes for t in sent.tallies.values())


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    sent = Sent({0: 3, 2: 9}, count=5, refused={"bad_rate": 1}, tallies={"s": Tally(1, 100.0, 4)})
    record = Record({"topic": "t"}, {"count": 1, "bytes": 2, "sha256": "x"}, 3, sent, shift_ns=-5)
    save(tmp_path / "r.json", record)
    found = load(tmp_path / "r.json")
    assert found is not None
    assert found.to_json() == record.to_json()
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]
    assert load(tmp_path / "none.json") is None
    (tmp_path / "r.json").write_text("[1, 2")
    with pytest.raises(ReplayError, match="no record of a replay"):
        load(tmp_path / "r.json")
