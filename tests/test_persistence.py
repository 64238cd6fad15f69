import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from alarm_cases import S, changes, feed, one, quick
from pipeline.alarms import AlarmLogic, Condition, SeverityRule
from pipeline.messages import Severity, Transition

PAUSES = ("learning", "stopped", "unknown")
RATIO = st.sampled_from([0.2, 0.85, 0.92, 0.99, 1.0, 1.3, 2.0])


NESTED = {
    Severity.ADVISORY: SeverityRule(1, 2, on_delay_s=2, off_windows=2, off_delay_s=4),
    Severity.ALERT: quick(2, 3, 3),
    Severity.ALARM: quick(2, 2, 1, latch=True),
}


def oracle(ratios: list[float], rule: SeverityRule) -> list[int]:
    """Window numbers of raises (+) and returns (-), by definition, delays in windows of 1 s."""
    m, n, low = rule.on_windows, rule.of_windows, 1 - rule.deadband
    out, active, stands, on, off = [], False, False, 0, 0
    for i, ratio in enumerate(ratios):
        recent = range(max(0, i - n + 1), i + 1)
        over = [j for j in recent if ratios[j] >= 1]
        lows = [j for j in recent if ratios[j] < low]
        if not stands and len(over) >= m:
            stands, on = True, over[0]
        elif stands and len(lows) >= m and len(lows) > n - m:
            stands, off = False, min(j for j in lows if all(k < j for k in over))
        if not active and stands and ratio >= 1 and i - on >= rule.on_delay_s:
            active = True
            out.append(i)
        gone = i - off + 1 >= rule.off_windows and i - off >= rule.off_delay_s
        if active and not stands and ratio < low and gone:
            active = False
            out.append(-i)
    return out


@settings(max_examples=400, deadline=None)
@given(
    st.lists(RATIO, max_size=60),
    st.integers(1, 6).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))),
    st.integers(0, 6),
    st.integers(1, 5),
    st.integers(0, 8),
)
@example([1.5, 0.1, 1.5, *[0.1] * 9], (2, 4), 0, 4, 4)
def test_m_of_n_and_delays_are_exact_against_brute_force(
    ratios: list[float], m_of_n: tuple[int, int], on_s: int, off: int, off_s: int
) -> None:
    rule = SeverityRule(*m_of_n, on_delay_s=on_s, off_windows=off, off_delay_s=off_s)
    got = [
        i if action == "raise" else -i
        for i, action in changes(feed(one(rule), ratios, start_s=0))
        if action in {"raise", "return"}
    ]
    assert got == oracle(ratios, rule)


def test_a_window_count_alone_raises_exactly_where_m_of_the_last_n_are_over() -> None:
    ratios = [1.5, 0.1, 1.5, 0.1, 0.1, 1.5, 0.1, 1.5]
    for m, n, first in [(1, 1, 0), (2, 3, 2), (2, 2, None), (3, 6, 5), (3, 4, None), (4, 8, 7)]:
        found = [t for t in feed(one(quick(m, n, 99)), ratios, 0) if t.action == "raise"]
        assert [t.at_ns // S for t in found] == ([] if first is None else [first])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.sampled_from(["scored", *PAUSES])), max_size=60))
def test_on_delay_counts_running_time_only(steps: list[tuple[int, Condition]]) -> None:
    logic = one(SeverityRule(2, 2, on_delay_s=600))
    at_s, ran_s, first = 0, 0, True
    for gap_s, condition in steps:
        at_s += gap_s
        if condition == "scored":
            ran_s += 0 if first else min(gap_s, 300)
            first = False
        out = logic.update(at_s * S, condition, {"alarm": 1.5})
        if any(t.action == "raise" for t in out):
            assert ran_s >= 600
            return
    assert ran_s < 600 or logic.status in PAUSES


def test_stopped_and_unknown_windows_neither_advance_nor_reset_a_counter() -> None:
    for pause in ("stopped", "unknown", "learning"):
        logic = one(quick(3, 3, 3))
        conditions: list[Condition] = ["scored", "scored", pause, pause, "scored"]
        actions = [
            t.action
            for i, condition in enumerate(conditions)
            for t in logic.update(i * S, condition, {"alarm": 2.0})
        ]
        assert actions[-1] == "raise"
        assert actions.count("raise") == 1


def test_noise_within_the_deadband_raises_at_most_once() -> None:
    rng = np.random.default_rng(1)
    ratios = rng.uniform(0.9, 1.1, 20_000)
    out = feed(one(SeverityRule()), ratios.tolist())
    assert [t.action for t in out] == ["learnt", "raise"]


def test_noise_wider_than_the_deadband_does_not_chatter() -> None:
    rng = np.random.default_rng(2)
    for mean in (0.8, 0.9, 1.0, 1.1, 1.2):
        ratios = rng.normal(mean, 0.2, 86_400 // 10)
        logic = one(SeverityRule())
        out: list[Transition] = []
        for i, ratio in enumerate(ratios.tolist()):
            out += logic.update(i * 10 * S, "scored", {"alarm": ratio})
        crossings = int(np.count_nonzero(np.diff(ratios >= 1)))
        moves = [t for t in out if t.action in {"raise", "return"}]
        assert crossings > 1000
        # ISA: three or more annunciations are chatter; for slow data in 24 h.
        assert len(moves) <= 2, (mean, len(moves))


def test_one_outlier_neither_raises_nor_holds_an_alarm() -> None:
    rule = SeverityRule(3, 3, on_delay_s=0, off_windows=6, off_delay_s=0)
    assert changes(feed(one(rule), [0.1, 9.0, 0.1, 0.1, 9.0, 9.0, 0.1])) == [(1, "learnt")]
    steps = [2.0] * 3 + [0.1, 0.1, 0.1, 9.0, 0.1, 0.1]
    assert changes(feed(one(rule), steps))[1:] == [(3, "raise"), (9, "return")]


def test_since_is_the_first_window_of_the_deciding_run() -> None:
    rule = SeverityRule(3, 3, on_delay_s=5, off_windows=2, off_delay_s=4)
    out = feed(one(rule), [0.1, 0.1, *[1.5] * 8, *[0.1] * 8], start_s=1)
    assert [(t.action, t.since_ns // S, t.at_ns // S) for t in out[1:]] == [
        ("raise", 3, 8),
        ("return", 11, 15),
    ]


def test_rules_refuse_what_cannot_work() -> None:
    with pytest.raises(ValueError, match="got 4 of 3"):
        SeverityRule(on_windows=4)
    with pytest.raises(ValueError, match=r"on_delay_s .* got -1 s"):
        SeverityRule(on_delay_s=-1)
    with pytest.raises(ValueError, match=r"deadband .* got 1"):
        SeverityRule(deadband=1)
    with pytest.raises(ValueError, match=r"off_windows .* got 0"):
        SeverityRule(off_windows=0)
    with pytest.raises(ValueError, match="advisory, alert or alarm"):
        AlarmLogic("s", "a", rules={Severity.OK: SeverityRule()})
    with pytest.raises(ValueError, match="version must be 1, got 2"):
        one(quick()).import_state({"version": 2})


def test_a_sparse_duty_cycle_raises_with_the_third_window() -> None:
    logic = one(SeverityRule())
    out = [t for i in range(5) for t in logic.update(i * 3600 * S, "scored", {"alarm": 2.0})]
    assert changes(out, at=3600 * S) == [(0, "learnt"), (2, "raise")]
