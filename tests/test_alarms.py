import json
import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alarm_cases import S, changes, feed, one, quick
from pipeline.alarms import NAMES, AlarmLogic, Condition, SeverityRule
from pipeline.messages import Severity, Transition

DAY = 86_400 * S
PAUSES = {"learning", "stopped", "unknown"}
RAISED = {"advisory", "alert", "alarm"}
ORDER = {"ok": 0, "advisory": 1, "alert": 2, "alarm": 3}


NESTED = {
    Severity.ADVISORY: SeverityRule(1, 2, on_delay_s=2, off_windows=1, off_delay_s=1),
    Severity.ALERT: quick(2, 3, 3),
    Severity.ALARM: quick(2, 2, 3, latch=True),
}


def raised(rule: SeverityRule) -> AlarmLogic:
    logic = one(rule)
    feed(logic, [1.5] * rule.of_windows)
    assert logic.status == "alarm"
    return logic


# A step of a random life: seconds since the one before, what happens, the lowest limit's ratio.
RATIO = st.sampled_from([0.2, 0.85, 0.92, 1.0, 1.3, 2.0, 2.0])
STEP = st.tuples(
    st.integers(0, 5),
    st.sampled_from(
        ["scored"] * 12
        + ["stopped", "unknown", "learning", "ack", "ack", "shelve", "unshelve", "reset", "nan"]
    ),
    RATIO,
)
LIFE = st.lists(STEP, max_size=60)


def play(logic: AlarmLogic, at_s: int, what: str, ratio: float) -> tuple[Transition, ...]:
    at_ns = at_s * S
    if what == "ack":
        return logic.acknowledge(at_ns, "ann")
    if what == "shelve":
        return logic.shelve(at_ns, at_ns + 7 * S, "ann", "known")
    if what == "unshelve":
        return logic.unshelve(at_ns, "ann") if logic.shelved_until_ns else ()
    if what == "reset":
        return logic.reset(at_ns, "ann", "new bearing")
    # Evidence / limit falls with severity, as limits rise.
    found = {"advisory": ratio, "alert": 0.8 * ratio, "alarm": 0.6 * ratio}
    if what == "nan":
        return logic.update(at_ns, "scored", {"alarm": math.nan})
    condition: Condition = what  # type: ignore[assignment]
    return logic.update(at_ns, condition, found, reason="drift", value=ratio, limit=1.0)


def live(
    logic: AlarmLogic, steps: list[tuple[int, str, float]], at_s: int = 100
) -> list[Transition]:
    out: list[Transition] = []
    for gap_s, what, ratio in steps:
        at_s += gap_s
        out += play(logic, at_s, what, ratio)
    return out


def fresh() -> AlarmLogic:
    return AlarmLogic("p/a/s1", "pump", rules=NESTED, realarm_s=20, max_pause_s=3)


def legal(t: Transition) -> bool:
    """The table of legal transitions."""
    before, after = t.before, t.after
    table = {
        "raise": after in RAISED and before in ("ok", after),
        "escalate": before in RAISED and after in RAISED and ORDER[after] > ORDER[before],
        "ease": before in RAISED and after in RAISED and ORDER[after] < ORDER[before],
        "return": before in RAISED and (after == before if t.latched else after == "ok"),
        "ack": before == after or (before in RAISED and ORDER.get(after, 9) < ORDER[before]),
        "shelve": before == after and t.shelved_until_ns > t.at_ns,
        "unshelve": before == after and t.shelved_until_ns == 0,
        "learn": after == "learning" and (t.by != "" or before not in PAUSES),
        "learnt": before == "learning" and after not in PAUSES,
        "stop": after == "stopped" and before not in {"stopped", "unknown"},
        "start": before == "stopped" and after not in {"stopped", "unknown"},
        "sensor_bad": before != "unknown" and after == "unknown",
        "sensor_good": before == "unknown" and after != "unknown",
    }
    return table[t.action]


@settings(max_examples=300, deadline=None)
@given(LIFE)
def test_every_transition_is_legal_chained_and_visible(
    steps: list[tuple[int, str, float]],
) -> None:
    out = live(fresh(), steps)
    assert [t for t in out if not legal(t)] == []
    assert all(a.after == b.before for a, b in pairwise(out))
    assert all(a.at_ns < b.at_ns for a, b in pairwise(out))
    assert len({t.transition_id for t in out}) == len(out)
    for t in out:
        assert t.transition_id == f"p/a/s1|{t.at_ns}|{t.after}|{t.action}"
        assert t.since_ns <= t.at_ns
        assert not (t.latched and t.acked)


@settings(max_examples=150, deadline=None)
@given(LIFE)
def test_replay_gives_identical_transitions(steps: list[tuple[int, str, float]]) -> None:
    assert live(fresh(), steps) == live(fresh(), steps)


@settings(max_examples=150, deadline=None)
@given(LIFE, st.integers(0, 60))
def test_state_round_trip_mid_stream_changes_nothing(
    steps: list[tuple[int, str, float]], cut: int
) -> None:
    whole = live(fresh(), steps)
    first, second = fresh(), fresh()
    head = live(first, steps[:cut])
    second.import_state(json.loads(json.dumps(first.export_state())))
    resumed_s = 100 + sum(step[0] for step in steps[:cut])
    assert head + live(second, steps[cut:], resumed_s) == whole
    assert len(json.dumps(second.export_state())) < 2000


@settings(max_examples=200, deadline=None)
@given(LIFE)
def test_pauses_show_as_themselves_and_keep_the_episode(
    steps: list[tuple[int, str, float]],
) -> None:
    logic, at_s = fresh(), 100
    for gap_s, what, ratio in steps:
        at_s += gap_s
        kept = (logic.severity, logic.active, logic.acked)
        play(logic, at_s, what, ratio)
        if what in PAUSES | {"nan"}:
            assert logic.status == ("unknown" if what == "nan" else what)
            assert (logic.severity, logic.active, logic.acked) == kept
        if what == "scored":
            assert logic.status not in PAUSES
            assert logic.status == NAMES[logic.severity]


@settings(max_examples=200, deadline=None)
@given(LIFE)
def test_an_active_severity_keeps_the_lower_ones_active(
    steps: list[tuple[int, str, float]],
) -> None:
    logic, at_s = fresh(), 100
    for gap_s, what, ratio in steps:
        at_s += gap_s
        play(logic, at_s, what, ratio)
        shown = [
            logic.phase(s) in {"active_unack", "active_ack", "returning"} for s in sorted(NESTED)
        ]
        assert shown == sorted(shown, reverse=True)


@settings(max_examples=200, deadline=None)
@given(LIFE)
def test_time_in_alarm_can_be_told_from_the_transitions_alone(
    steps: list[tuple[int, str, float]],
) -> None:
    logic, at_s, standing = fresh(), 100, False
    for gap_s, what, ratio in steps:
        at_s += gap_s
        for t in play(logic, at_s, what, ratio):
            if t.after == "alarm":
                standing = not t.latched
            elif t.after not in PAUSES or (t.action == "learn" and t.by):
                standing = False
        if logic.status not in PAUSES:
            assert standing == (logic.active == Severity.ALARM)


def test_rising_evidence_escalates_through_every_severity_once() -> None:
    rules = dict.fromkeys(NESTED, quick(2, 2, 2))
    logic = AlarmLogic("s", "a", rules=rules)
    out: list[Transition] = []
    for i in range(60):
        level = 3 * math.sin(math.pi * i / 59)
        ratios = {"advisory": level, "alert": level / 1.5, "alarm": level / 2.5}
        out += logic.update(i * S, "scored", ratios)
    assert [(t.action, t.after) for t in out[1:]] == [
        ("raise", "advisory"),
        ("escalate", "alert"),
        ("escalate", "alarm"),
        ("ease", "alert"),
        ("ease", "advisory"),
        ("return", "ok"),
    ]


def test_evidence_for_a_severity_counts_for_the_lower_ones() -> None:
    logic = AlarmLogic("s", "a", rules=dict.fromkeys(NESTED, quick(1, 1, 1)))
    assert [t.after for t in logic.update(S, "scored", {"alarm": 2.0})] == ["ok", "alarm"]
    (eased,) = logic.update(2 * S, "scored", {"advisory": 2.0})
    assert (eased.action, eased.after) == ("ease", "advisory")


def test_a_severity_raised_by_a_higher_one_returns_by_its_own_rule() -> None:
    rules = {Severity.ADVISORY: quick(3, 3, 5), Severity.ALARM: quick(1, 1, 1)}
    logic = AlarmLogic("s", "a", rules=rules)
    out = feed(logic, [2.0, 2.0] + [0.1] * 8)
    assert changes(out)[1:] == [(1, "raise"), (3, "ease"), (7, "return")]


def test_an_unacknowledged_alarm_latches_until_acknowledged() -> None:
    logic = raised(quick(latch=True))
    (gone,) = feed(logic, [0.1] * 500, start_s=10)
    assert (gone.action, gone.before, gone.after, gone.latched) == (
        "return",
        "alarm",
        "alarm",
        True,
    )
    assert (logic.status, logic.active, logic.latched) == ("alarm", Severity.OK, True)
    assert logic.phase(Severity.ALARM) == "rtn_unack"
    (ack,) = logic.acknowledge(600 * S, "ann", "looked at it")
    assert (ack.action, ack.after, ack.acked, ack.latched) == ("ack", "ok", True, False)
    assert (ack.by, ack.why) == ("ann", "looked at it")
    assert logic.phase(Severity.ALARM) == "ok"


def test_an_acknowledged_alarm_returns_without_a_latch() -> None:
    logic = raised(quick(latch=True))
    logic.acknowledge(9 * S, "ann")
    assert logic.phase(Severity.ALARM) == "active_ack"
    (gone,) = feed(logic, [0.1] * 5, start_s=10)
    assert (gone.action, gone.after, gone.acked, gone.latched) == ("return", "ok", True, False)
    assert not logic.acked


def test_a_latched_alarm_whose_condition_comes_back_is_raised_anew() -> None:
    logic = raised(quick(latch=True))
    feed(logic, [0.1] * 5, start_s=10)
    (again,) = feed(logic, [1.5] * 3, start_s=20)
    assert (again.action, again.before, again.after, again.latched) == (
        "raise",
        "alarm",
        "alarm",
        False,
    )


def test_acknowledging_a_latched_alarm_shows_the_severity_that_still_stands() -> None:
    rules = {Severity.ADVISORY: quick(1, 1, 1), Severity.ALARM: quick(1, 1, 1, latch=True)}
    logic = AlarmLogic("s", "a", rules=rules)
    logic.update(S, "scored", {"alarm": 2.0})
    (gone,) = logic.update(2 * S, "scored", {"advisory": 1.2, "alarm": 0.5})
    assert (gone.action, gone.after, gone.latched) == ("return", "alarm", True)
    (ack,) = logic.acknowledge(3 * S, "ann")
    assert (ack.before, ack.after, ack.acked) == ("alarm", "advisory", True)


def test_acknowledging_is_idempotent_and_harmless_where_nothing_is_raised() -> None:
    logic = raised(quick())
    assert len(logic.acknowledge(5 * S, "ann")) == 1
    state = logic.export_state()
    assert logic.acknowledge(6 * S, "bob") == ()
    assert logic.export_state() == state
    assert one(quick()).acknowledge(S, "ann") == ()


def test_escalation_takes_the_acknowledgement_back() -> None:
    logic = AlarmLogic("s", "a", rules=dict.fromkeys(NESTED, quick(1, 1, 1)))
    logic.update(S, "scored", {"advisory": 2.0})
    logic.acknowledge(2 * S, "ann")
    out = logic.update(3 * S, "scored", {"alarm": 2.0})
    assert [(t.action, t.acked) for t in out] == [("escalate", False)]


def test_an_acknowledged_alarm_that_nobody_works_on_is_raised_anew() -> None:
    logic = one(quick(1, 1, 1), realarm_s=100)
    feed(logic, [2.0])
    logic.acknowledge(10 * S, "ann")
    out = feed(logic, [2.0] * 200, start_s=20)
    assert [(t.action, t.at_ns // S, t.acked) for t in out] == [("raise", 110, False)]


def test_a_returning_alarm_is_not_raised_anew() -> None:
    logic = one(quick(1, 1, 300), realarm_s=100)
    feed(logic, [2.0])
    logic.acknowledge(10 * S, "ann")
    assert feed(logic, [0.1] * 200, start_s=20) == []


def test_unknown_interrupts_an_alarm_and_the_alarm_resumes() -> None:
    logic = raised(quick(latch=True))
    bad = logic.update(10 * S, "unknown", reason="flatline", detail="constant for 1 s")
    assert [(t.action, t.before, t.after, t.reason, t.why) for t in bad] == [
        ("sensor_bad", "alarm", "unknown", "flatline", "constant for 1 s")
    ]
    assert (logic.severity, logic.latched) == (Severity.ALARM, False)
    good = logic.update(11 * S, "scored", {"alarm": 1.5})
    assert [(t.action, t.before, t.after) for t in good] == [("sensor_good", "unknown", "alarm")]


def test_a_stopped_machine_keeps_its_latched_alarm_and_may_be_acknowledged() -> None:
    logic = raised(quick(latch=True))
    feed(logic, [0.1] * 5, start_s=10)
    (stop,) = logic.update(20 * S, "stopped")
    assert (stop.after, stop.latched) == ("stopped", True)
    (ack,) = logic.acknowledge(21 * S, "ann")
    assert (ack.before, ack.after, ack.latched) == ("stopped", "stopped", False)
    (start,) = logic.update(22 * S, "scored", {"alarm": 0.1})
    assert (start.action, start.after) == ("start", "ok")


def test_a_scored_window_without_finite_evidence_is_unknown() -> None:
    logic = raised(quick())
    (bad,) = logic.update(10 * S, "scored", {"advisory": 0.1, "alarm": math.nan})
    assert (bad.action, bad.after, bad.reason) == ("sensor_bad", "unknown", "no_evidence")


def test_reset_drops_the_episode_and_learns_but_keeps_the_shelving() -> None:
    logic = raised(quick(latch=True))
    logic.shelve(5 * S, 500 * S, "ann", "planned work")
    (learn,) = logic.reset(6 * S, "ann", "bearing replaced")
    assert (learn.action, learn.before, learn.after) == ("learn", "alarm", "learning")
    assert (logic.severity, logic.phase(Severity.ALARM)) == (Severity.OK, "learning")
    assert logic.shelved_until_ns == 500 * S
    assert changes(feed(logic, [1.5], start_s=7)) == [(7, "learnt")]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 300))
def test_shelving_ends_with_the_first_window_at_or_after_its_end(gaps: list[int], s: int) -> None:
    logic = one(quick())
    logic.shelve(S, (1 + s) * S, "ann", "known leak")
    at_s, ended = 1, False
    for gap_s in gaps:
        at_s += gap_s
        out = logic.update(at_s * S, "scored", {"alarm": 2.0})
        now = any(t.action == "unshelve" for t in out)
        assert now == (at_s >= 1 + s and not ended)
        ended = ended or now
        assert logic.shelved_until_ns == (0 if ended else (1 + s) * S)
        assert all(t.shelved_until_ns == logic.shelved_until_ns for t in out)


def test_commands_refuse_what_is_not_allowed_and_say_so() -> None:
    logic = one(quick())
    with pytest.raises(ValueError, match=r"<= 604800 s, got 604801 s"):
        logic.shelve(0, 7 * DAY + S, "ann", "holiday")
    with pytest.raises(ValueError, match=r"> 0 .* got 0 s"):
        logic.shelve(S, S, "ann", "holiday")
    with pytest.raises(ValueError, match="shelve needs by and why"):
        logic.shelve(0, S, "", " ")
    with pytest.raises(ValueError, match="s is not shelved"):
        logic.unshelve(0, "ann")
    with pytest.raises(ValueError, match="reset needs why"):
        logic.reset(0, "ann", "")
    with pytest.raises(ValueError, match="acknowledge needs by"):
        logic.acknowledge(0, "")
    with pytest.raises(ValueError, match=r"condition must be one of .*scored.* got 'on'"):
        logic.update(0, "on")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs its ratios"):
        logic.update(0, "scored")


def test_a_clock_that_steps_back_keeps_order_and_loses_no_running_time() -> None:
    logic = one(SeverityRule(3, 3, on_delay_s=30))
    out = feed(logic, [2.0] * 20, start_s=100_000)
    out += feed(logic, [2.0] * 20, start_s=1000)
    assert [(t.action, t.since_ns // S) for t in out] == [("learnt", 100_000), ("raise", 100_000)]
    assert logic.update(1020 * S, "stopped")[0].at_ns == out[-1].at_ns + 1
