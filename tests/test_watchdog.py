import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.streaming.watchdog import STEP_S, Standing, Watchdog, awake_and_asleep_s

# Exact in binary, so that sums are exact.
STEPS = st.integers(1, 400).map(lambda n: n / 8)


class Clock:
    def __init__(self):
        self.now = 50.0

    def __call__(self):
        return self.now


def test_the_clock_goes_on_while_the_process_is_stopped():
    script = (
        "import sys; from pipeline.streaming.watchdog import awake_and_asleep_s as clock\n"
        "began = clock(); print('up', flush=True)\n"
        "sys.stdin.readline(); print(clock() - began)"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        begin = awake_and_asleep_s()
        while awake_and_asleep_s() < begin + 0.3:
            pass
        process.send_signal(signal.SIGCONT)
        stood_s = float(process.communicate("\n")[0])
    assert stood_s > 0.25


# One call of the watchdog: seconds since the last, messages done meanwhile, waiting, excused.
CALLS = st.lists(
    st.tuples(STEPS, st.sampled_from([0, 0, 0, 0, 3]), st.integers(0, 2), st.booleans()),
    max_size=60,
)


@settings(max_examples=300)
@given(STEPS, CALLS)
def test_it_barks_when_the_calls_since_the_last_good_one_reach_the_limit(limit_s, calls):
    clock = Clock()
    dog = Watchdog(limit_s, clock)
    done, stood = 0, []
    dog.progress(done, 0)
    for passed_s, more, waiting, excused in calls:
        clock.now += passed_s
        done += more
        dog.progress(done, waiting, excused=excused)
        if more or not waiting or excused:
            stood = []
        else:
            stood.append(min(passed_s, STEP_S, limit_s / 4))
        assert dog.stalled == (sum(stood) if sum(stood) >= limit_s else None)


def watched(limit_s, seconds, each):
    """The watchdog after so many calls, a second apart."""
    clock = Clock()
    dog = Watchdog(limit_s, clock)
    for second in range(seconds + 1):
        each(dog, second)
        clock.now += 1.0
    return dog


def test_work_that_stands_beside_waiting_messages_is_found_after_the_limit():
    def stand(dog, _):
        dog.progress(7, 1)

    assert watched(120.0, 119, stand).stalled is None
    assert watched(120.0, 120, stand).stalled == 120.0


@pytest.mark.parametrize(
    "each",
    [
        lambda dog, second: dog.progress(second // 100, 1),
        lambda dog, _: dog.progress(7, 0),
        lambda dog, _: dog.progress(7, 1, excused=True),
        lambda dog, second: dog.progress(7, 1, excused=second % 100 == 0),
        lambda dog, second: dog.progress(-(second // 100), 1),
    ],
    ids=["slow", "nothing waits", "outage", "outages", "counts anew"],
)
def test_it_never_barks_at(each):
    assert watched(120.0, 1000, each).stalled is None


def test_a_process_that_stood_still_for_hours_gets_a_chance_to_go_on():
    clock = Clock()
    dog = Watchdog(120.0, clock)
    dog.progress(7, 1)
    clock.now += 7200.0
    dog.progress(7, 1)
    assert dog.stalled is None


def test_progress_after_a_stall_takes_it_back():
    dog = watched(10.0, 30, lambda dog, _: dog.progress(7, 1))
    assert dog.stalled == 30.0
    dog.progress(8, 1)
    assert dog.stalled is None


@settings(max_examples=100)
@given(st.lists(STEPS, min_size=1, max_size=20))
def test_who_stood_still_too_long_is_in_doubt_until_it_has_asked(steps):
    clock = Clock()
    standing = Standing(5.0, clock)
    doubted = False
    for step_s in steps:
        clock.now += step_s
        doubted = doubted or step_s > 5.0
        assert standing.doubtful == doubted  # before the next beat already
        standing.beat()
        assert standing.doubtful == doubted
    standing.doubt()
    assert standing.doubtful
    standing.trust()
    assert not standing.doubtful


@pytest.mark.parametrize("number", [0.0, -1.0, float("nan")])
def test_times_must_be_positive(number):
    with pytest.raises(ValueError, match="trust must be positive"):
        Standing(number, Clock())
    with pytest.raises(ValueError, match="limit must be positive"):
        Watchdog(number, Clock())
