import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.alarms import AlarmLogic, Condition, SeverityRule
from pipeline.cases import Case, CaseBook
from pipeline.messages import NS_PER_S, Severity, Transition
from pipeline.state import pack, unpack
from pipeline.wording import band, sentence

S = NS_PER_S
SENSORS = (("a/pump/de", "pump"), ("a/pump/nde", "pump"), ("a/fan/de", "fan"))
RULES = {
    Severity.ADVISORY: SeverityRule(1, 1, on_delay_s=0, off_windows=1, off_delay_s=0),
    Severity.ALARM: SeverityRule(1, 1, on_delay_s=0, off_windows=1, off_delay_s=0, latch=True),
}
WHAT = ["healthy"] * 6 + ["advisory"] * 4 + ["alarm"] * 3
WHAT += ["unknown", "stopped", "learning", "ack", "ack", "reset", "shelve"]

STEP = st.tuples(st.integers(0, 2), st.integers(1, 9), st.sampled_from(WHAT))


def plant() -> dict[str, AlarmLogic]:
    return {name: AlarmLogic(name, asset, rules=RULES) for name, asset in SENSORS}


def play(logic: AlarmLogic, at_ns: int, what: str) -> tuple[Transition, ...]:
    if what == "ack":
        return logic.acknowledge(at_ns, "ann")
    if what == "reset":
        return logic.reset(at_ns, "ann", "new bearing")
    if what == "shelve":
        return logic.shelve(at_ns, at_ns + 9 * S, "ann", "known")
    if what in {"unknown", "stopped", "learning"}:
        condition: Condition = what  # type: ignore[assignment]
        return logic.update(at_ns, condition, reason="flatline")
    ratios = {"healthy": {}, "advisory": {"advisory": 2.0}, "alarm": {"alarm": 2.0}}[what]
    return logic.update(at_ns, "scored", ratios, reason="drift", band_hz=(640, 1280))


def history(steps: list[tuple[int, int, str]]) -> tuple[list[Transition], dict[str, AlarmLogic]]:
    """Transitions of a small plant in order of event time, and its sensors at the end."""
    sensors, at_ns, out = plant(), 0, []
    for which, gap_s, what in steps:
        at_ns += gap_s * S
        out += play(sensors[SENSORS[which][0]], at_ns, what)
    return sorted(out, key=lambda t: t.at_ns), sensors


def filled(transitions: list[Transition], **settings_: float) -> CaseBook:
    book = CaseBook(**{"reopen_s": 5, "horizon_s": 1e6, **settings_})  # type: ignore[arg-type]
    for transition in transitions:
        book.add(transition)
    return book


def raised(
    sensor_id: str = "a/pump/de", at_s: int = 100, after: str = "alarm", **more: object
) -> Transition:
    made = Transition(
        f"{sensor_id}|{at_s * S}|{after}|raise",
        sensor_id,
        "pump",
        at_s * S,
        (at_s - 10) * S,
        "ok",
        after,  # type: ignore[arg-type]
        "raise",
    )
    return replace(made, **more)


def back(t: Transition, at_s: int, **more: object) -> Transition:
    made = Transition(
        f"{t.sensor_id}|{at_s * S}|ok|return",
        t.sensor_id,
        t.asset,
        at_s * S,
        at_s * S,
        t.after,
        "ok",
        "return",
    )
    return replace(made, **more)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, max_size=50), st.randoms(use_true_random=False))
def test_any_order_of_arrival_and_any_duplicates_give_identical_cases(
    steps: list[tuple[int, int, str]], rng: random.Random
) -> None:
    ordered, _ = history(steps)
    twice = ordered + rng.sample(ordered, len(ordered) // 2)
    rng.shuffle(twice)
    assert filled(twice).cases() == filled(ordered).cases()
    assert filled(twice).duplicates == len(twice) - len(ordered)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, max_size=60), st.integers(1, 60), st.randoms(use_true_random=False))
def test_order_within_the_horizon_does_not_matter_while_the_book_forgets(
    steps: list[tuple[int, int, str]], horizon_s: int, rng: random.Random
) -> None:
    ordered, _ = history(steps)
    delays = {t.transition_id: rng.randrange(horizon_s * S + 1) for t in ordered}
    arrived = sorted(ordered, key=lambda t: t.at_ns + delays[t.transition_id])
    book = filled(arrived, horizon_s=horizon_s)
    assert book.late == 0
    assert book.cases() == filled(ordered).cases()


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, max_size=60))
def test_an_asset_has_one_open_case_exactly_while_a_sensor_holds_a_severity(
    steps: list[tuple[int, int, str]],
) -> None:
    sensors, at_ns, book = plant(), 0, CaseBook(reopen_s=5)
    for which, gap_s, what in steps:
        at_ns += gap_s * S
        logic = sensors[SENSORS[which][0]]
        if what == "ack" and logic.status in {"unknown", "stopped", "learning"}:
            continue  # the case waits for the sensor to be seen again: a law of its own
        for transition in play(logic, at_ns, what):
            book.add(transition)
        held = {s.asset for s in sensors.values() if s.severity > Severity.OK}
        assert sorted(case.asset for case in book.open_cases) == sorted(held)
        for case in book.open_cases:
            worst = max(s.severity for s in sensors.values() if s.asset == case.asset)
            assert case.current == worst


@settings(max_examples=100, deadline=None)
@given(st.lists(STEP, max_size=50), st.integers(0, 60), st.randoms(use_true_random=False))
def test_state_round_trip_mid_stream_changes_nothing(
    steps: list[tuple[int, int, str]], cut: int, rng: random.Random
) -> None:
    arrived, _ = history(steps)
    rng.shuffle(arrived)
    first = filled(arrived[:cut], horizon_s=50)
    second = CaseBook(reopen_s=5, horizon_s=50)
    second.import_state(unpack(pack(first.export_state())))
    assert json.loads(json.dumps(first.export_state())) == unpack(pack(first.export_state()))
    for transition in arrived[cut:]:
        assert second.add(transition) == first.add(transition)
    assert (second.cases(), second.late) == (first.cases(), first.late)


@settings(max_examples=100, deadline=None)
@given(st.lists(STEP, max_size=50), st.randoms(use_true_random=False))
def test_what_was_told_adds_up_to_the_cases(
    steps: list[tuple[int, int, str]], rng: random.Random
) -> None:
    arrived, _ = history(steps)
    rng.shuffle(arrived)
    book, told = CaseBook(reopen_s=5, keep_closed=99), {}
    for transition in arrived:
        told.update({case.case_id: case for case in book.add(transition)})
    valid = [case for case in told.values() if not case.superseded_by]
    assert sorted(valid, key=lambda c: (c.opened_ns, c.asset)) == book.cases()
    withdrawn = [case for case in told.values() if case.superseded_by]
    assert all(case.closed_ns is not None for case in withdrawn)


def test_memory_stays_bounded_over_a_long_and_noisy_life() -> None:
    book = CaseBook(reopen_s=0, horizon_s=500, max_events=16, keep_closed=3, max_recent=9999)
    sizes = []
    for i in range(1, 4001):
        alarm = raised(at_s=i * 10)
        book.add(alarm)
        if i % 50:
            book.add(back(alarm, i * 10 + 5))
        if i % 10 == 0:
            sizes.append(len(json.dumps(book.export_state())))
    assert max(sizes[200:]) <= max(sizes[:200]) * 1.05
    assert len(book.cases()) <= 4
    assert max(len(case.events) for case in book.cases()) <= 16


def test_a_long_case_keeps_its_first_and_its_newest_events() -> None:
    alarm = raised()
    acks = [
        replace(alarm, transition_id=str(i), action="ack", at_ns=(200 + i) * S) for i in range(30)
    ]
    (case,) = filled([alarm, *acks], max_events=8).cases()
    assert (len(case.events), case.omitted) == (8, 23)
    assert [t.transition_id for t in case.events[:3]] == [alarm.transition_id, "0", "24"]
    assert case.events[-1].transition_id == "29"


def test_arrivals_behind_the_horizon_are_counted_and_set_aside() -> None:
    book = filled([raised(at_s=900), raised(at_s=1000), raised(at_s=950)], horizon_s=100)
    assert book.add(raised("a/pump/nde", 899)) == ()
    assert (book.late, [len(c.sensors) for c in book.cases()]) == (1, [1])
    assert len(book.add(raised("a/pump/nde", 900))) == 1
    assert (book.late, [len(c.sensors) for c in book.cases()]) == (1, [2])


def test_in_a_storm_the_horizon_shrinks_to_what_is_kept() -> None:
    book = filled([raised(at_s=100 + i) for i in range(6)], max_recent=4)
    assert book.add(raised("a/pump/nde", 101)) == ()
    assert len(book.add(raised("a/pump/nde", 102))) == 1
    assert book.late == 1


def test_what_follows_an_episode_does_not_take_its_acknowledgement_back() -> None:
    de, nde = raised(at_s=100), raised("a/pump/nde", 101)
    gone = back(de, 110, acked=True)
    stop = replace(gone, transition_id="p", at_ns=120 * S, after="stopped", action="stop")
    stop = replace(stop, acked=False)
    (case,) = filled([de, nde, gone, stop, back(nde, 130, acked=True)]).cases()
    assert (case.closed_ns, case.acked) == (130 * S, True)
    assert [sensor.status for sensor in case.sensors] == ["stopped", "ok"]


def test_first_out_is_the_sensor_whose_condition_began_first() -> None:
    first, second = raised(at_s=100), raised("a/pump/nde", 105, since_ns=50 * S)
    (case,) = filled([first, second]).cases()
    assert (case.case_id, case.first_out, case.since_ns) == (
        f"pump|{100 * S}",
        "a/pump/nde",
        50 * S,
    )


def test_a_raise_soon_after_the_close_reopens_the_case() -> None:
    first = raised(at_s=100)
    closed = back(first, 200)
    (case,) = filled([first, closed, raised(at_s=205)]).cases()
    assert (case.opened_ns, case.closed_ns, case.reopened) == (100 * S, None, 1)
    old, new = filled([first, closed, raised(at_s=206)]).cases()
    assert (old.closed_ns, new.opened_ns, new.closed_ns) == (200 * S, 206 * S, None)


def test_a_case_closes_with_its_last_sensor_and_not_while_one_is_latched() -> None:
    de, nde = raised(at_s=100), raised("a/pump/nde", 110)
    latched = back(nde, 130, after="alarm", latched=True)
    book = filled([de, nde, back(de, 120), latched])
    (case,) = book.open_cases
    assert [s.sensor_id for s in case.standing] == ["a/pump/nde"]
    (done,) = book.add(back(nde, 140, action="ack", acked=True, before="alarm"))
    assert (done.closed_ns, done.severity, done.current) == (140 * S, Severity.ALARM, Severity.OK)


def test_a_sensor_that_is_not_believable_opens_no_case_but_is_named_in_one() -> None:
    bad = raised("a/pump/nde", 90, "unknown", action="sensor_bad", reason="flatline")
    book = filled([bad])
    assert book.cases() == []
    (case,) = book.add(raised())
    assert case.suspect == ("a/pump/nde",)
    good = replace(bad, transition_id="g", at_ns=110 * S, after="ok", action="sensor_good")
    (case,) = book.add(good)
    assert (case.suspect, len(case.sensors), case.events[-1]) == ((), 1, good)


def test_a_pause_keeps_the_case_open_and_a_reset_by_a_person_closes_it() -> None:
    alarm = raised()
    for after, action in (("unknown", "sensor_bad"), ("stopped", "stop"), ("learning", "learn")):
        book = filled([alarm, raised(at_s=110, after=after, action=action)])
        assert [case.current for case in book.open_cases] == [Severity.ALARM]
    reset = raised(at_s=120, after="learning", action="learn", by="ann", why="new bearing")
    assert filled([alarm, reset]).open_cases == []


def test_who_resets_an_alarm_has_seen_it() -> None:
    alarm = raised()
    reset = raised(at_s=120, after="learning", action="learn", by="ann", why="new bearing")
    for before in ([alarm], [alarm, raised(at_s=110, action="ack", acked=True)]):
        (case,) = filled([*before, reset]).cases()
        assert (case.closed_ns, case.acked) == (120 * S, True)
    (case,) = filled([alarm, back(alarm, 120)]).cases()
    assert (case.closed_ns, case.acked) == (120 * S, False)


def test_an_alarm_acknowledged_while_stopped_closes_when_the_machine_runs_well() -> None:
    logic, out = AlarmLogic("s", "pump", rules=RULES), []
    for at_s, what in enumerate(["healthy", "alarm", "healthy", "stopped", "ack"], 1):
        out += play(logic, at_s * S, what)
    book = filled(out)
    assert [case.acked for case in book.open_cases] == [True]
    for transition in play(logic, 9 * S, "healthy"):
        book.add(transition)
    assert book.open_cases == []


def test_a_late_earlier_raise_withdraws_the_case_it_replaces() -> None:
    book = filled([raised(at_s=100)])
    told = book.add(raised("a/pump/nde", 90))
    assert [(c.opened_ns // S, c.superseded_by) for c in told] == [
        (90, ""),
        (100, f"pump|{90 * S}"),
    ]
    assert [case.opened_ns for case in book.cases()] == [90 * S]


def test_a_case_is_acknowledged_and_shelved_only_as_a_whole() -> None:
    de, nde = raised(), raised("a/pump/nde", 101)
    ack = replace(de, transition_id="k", at_ns=110 * S, action="ack", acked=True)
    shelved = replace(ack, transition_id="h", at_ns=111 * S, action="shelve", shelved_until_ns=9)
    (case,) = filled([de, ack, shelved]).cases()
    assert (case.acked, case.shelved) == (True, True)
    (case,) = filled([de, ack, shelved, nde]).cases()
    assert (case.acked, case.shelved) == (False, False)


def test_a_case_speaks_of_the_sensors_that_stand_now() -> None:
    de, nde = raised(after="advisory"), raised("a/pump/nde", 101, acked=True)
    case = only(de, nde, back(de, 120))
    assert (case.first_out, case.acked) == ("a/pump/de", True)
    assert sentence(case).startswith("pump / nde: since 1970-01-01 00:01 UTC ")


def test_evidence_is_that_of_the_latest_raise_or_escalation() -> None:
    eased = raised(at_s=120, after="advisory", action="ease", reason="level", band_hz=(1.0, 2.0))
    (sensor,) = only(drifted(why="loud"), eased).sensors
    assert (sensor.reason, sensor.band_hz, sensor.detail) == ("drift", (6400.0, 7680.0), "loud")
    (sensor,) = only(drifted(), replace(eased, action="escalate")).sensors
    assert (sensor.reason, sensor.band_hz) == ("level", (1.0, 2.0))


def test_a_healthy_sensor_that_starts_and_stops_is_no_event_of_the_case() -> None:
    alarm, stop = raised(), raised("a/pump/nde", 110, "stopped", action="stop", before="ok")
    assert only(alarm, stop).events == (alarm,)


def test_a_book_refuses_what_cannot_work() -> None:
    with pytest.raises(ValueError, match="reopen_s -1 s"):
        CaseBook(reopen_s=-1)
    with pytest.raises(ValueError, match="keep_closed 0"):
        CaseBook(keep_closed=0)
    with pytest.raises(ValueError, match="version must be 1, got 7"):
        CaseBook().import_state({"version": 7})


def clock(at_ns: int) -> str:
    return f"14:{at_ns // S - 80:02d}"


def drifted(at_s: int = 110, sensor_id: str = "a/pump/de", **more: object) -> Transition:
    seen = {"reason": "drift", "band_hz": (6400.0, 7680.0), "band_share": 0.38, **more}
    return raised(sensor_id, at_s, **seen)


def only(*transitions: Transition) -> Case:
    (case,) = filled(list(transitions)).cases()
    return case


def test_a_sentence_says_machine_band_time_witness_and_acknowledgement() -> None:
    case = only(drifted(why="level is 1.1 x baseline"), drifted(121, "a/pump/nde"))
    names = {"pump": "pump-3", "a/pump/de": "drive end", "a/pump/nde": "fan end"}
    assert sentence(case, names=names, when=clock) == (
        "pump-3 / drive end: since 14:20 the 6.4-7.7 kHz band departs from its baseline "
        "(38 % of the change); level is 1.1 x baseline; confirmed by fan end since 14:31. "
        "Alarm, not acknowledged."
    )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"reason": "level", "value": 2.31, "limit": 2.0}, "the level is 2.3 x its baseline (lim"),
        ({"reason": "adwin"}, "behaves otherwise than before (38 % of the change), found by adwin"),
        ({"band_hz": (0.0, 0.0), "band_share": 0.0}, "the signal departs from its baseline. Alarm"),
        ({"band_hz": (0.0, 640.0)}, "the 0-640 Hz band departs"),
        ({"acked": True}, "Alarm, acknowledged."),
        ({"latched": True}, "Alarm, condition gone, not acknowledged."),
        ({"shelved_until_ns": 140 * S}, "shelved until 14:60."),
        ({"after": "advisory"}, "Advisory, not acknowledged."),
    ],
)
def test_a_sentence_names_the_cause_and_the_state(more: dict[str, object], words: str) -> None:
    assert words in sentence(only(drifted(**more)), when=clock)


def test_a_sentence_says_what_has_become_of_the_case() -> None:
    alarm = drifted()
    stopped = raised(at_s=112, after="stopped", action="stop")
    eased = raised(at_s=113, after="advisory", action="ease")
    bad = raised("a/pump/nde", 114, "unknown", action="sensor_bad")
    assert sentence(only(alarm, stopped), when=clock).endswith("not acknowledged, machine stopped.")
    assert "Advisory, alarm at worst, not" in sentence(only(alarm, eased), when=clock)
    assert sentence(only(alarm, bad), when=clock).endswith(" Not believable now: nde.")
    closed = sentence(only(alarm, back(alarm, 120, acked=True)), when=clock)
    assert closed.endswith("Closed 14:40, alarm at worst, acknowledged.")
    many = [drifted(111 + i, f"a/pump/{i}") for i in range(6)]
    assert "2 since 14:23 and 3 more. Alarm" in sentence(only(alarm, *many), when=clock)


def test_bands_are_in_hertz_below_one_kilohertz_else_in_kilohertz() -> None:
    assert [band(0, 999), band(640, 1280), band(10_240, 11_520)] == [
        "0-999 Hz",
        "0.64-1.3 kHz",
        "10.2-11.5 kHz",
    ]
