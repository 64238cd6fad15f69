from hypothesis import given
from hypothesis import strategies as st

from pipeline.messages import NS_PER_S
from pipeline.pace import Pace

BEGIN = 1_700_000_000


def hear(pace, seconds):
    """Windows that end at these seconds; how many came after silence had been told."""
    late = 0
    for at_s in seconds:
        end_ns = round((BEGIN + at_s) * NS_PER_S)
        if pace.deadline_ns and end_ns > pace.deadline_ns:
            late += 1
            pace.give_up()
        pace.arrive(end_ns, end_ns)
        pace.step(end_ns)
        pace.hear(end_ns)
    return late


def bursts(n, every_s=1800.0, windows=3):
    return [i * every_s + k for i in range(n) for k in range(windows)]


@given(st.floats(400, 90_000), st.integers(2, 100))
def test_a_sensor_that_sends_bursts_is_not_silent_between_them_for_ever(every_s, windows):
    pace = Pace(300.0)
    assert hear(pace, bursts(12, every_s + windows, windows)) <= 3


def test_a_burst_that_stays_out_is_silence():
    pace = Pace(300.0)
    hear(pace, bursts(12))
    after = [11 * 1800 + 4 * 1800 + k for k in range(3)]
    assert hear(pace, after) == 1


def test_outages_of_all_lengths_are_no_habit():
    pace, at_s, told = Pace(300.0), 0.0, 0
    for outage_s in (900, 4000, 700, 2500, 1200, 5000, 800):
        told += hear(pace, [at_s + k for k in range(600)])
        at_s += 600 + outage_s
    assert told == 6
    assert pace.pause_s == 0.0


def test_one_that_sends_without_pause_again_is_soon_missed_again():
    pace = Pace(300.0)
    hear(pace, bursts(12))
    assert pace.wait_s > 5000
    begin = 12 * 1800
    hear(pace, [begin + k for k in range(6000)])
    assert pace.wait_s == 300.0


@given(st.lists(st.floats(0.5, 5000), max_size=40), st.integers(0, 40))
def test_a_pace_goes_on_from_its_state(steps, at):
    times = [sum(steps[: i + 1]) for i in range(len(steps))]
    whole, first, second = Pace(60.0), Pace(60.0), Pace(60.0)
    hear(whole, times)
    hear(first, times[:at])
    second.import_state(first.export_state())
    hear(second, times[at:])
    assert second.export_state() == whole.export_state()
