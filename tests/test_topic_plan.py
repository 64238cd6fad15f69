from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.service_settings import Kafka
from pipeline.services.topic_plan import matching, plan, read_by
from pipeline.services.topics import group_of, specs, state_topic

KAFKA = Kafka(partitions=4, signals=("a", "b"))


def as_it_should_be(kafka=KAFKA):
    return {spec.name: spec for spec in specs(kafka)}


def changed(name, **changes):
    """Topics as they should be, but for one."""
    found = as_it_should_be()
    config = {**found[name].config, **changes.pop("config", {})}
    found[name] = replace(found[name], config=config, **changes)
    return found


def only(found, kafka=KAFKA):
    (difference,) = plan(specs(kafka), found, None).differences
    return difference


def test_every_topic_of_the_settings_is_named_once():
    kafka = Kafka(signals="plant.one, plant.two", group="g", replication=3)
    every = specs(kafka)
    names = [spec.name for spec in every]
    assert names[:2] == ["plant.one", "plant.two"]
    assert set(names[2:]) == {
        kafka.transitions, kafka.alarms, kafka.commands, kafka.snapshots, kafka.dead_letters,
        "g-signals-state-changelog", "g-cases-state-changelog",
    }  # fmt: skip
    assert {spec.partitions for spec in every} == {kafka.partitions}
    assert {spec.config["min.insync.replicas"] for spec in every} == {"2"}
    assert group_of(kafka, "cases") == "g-cases"


def test_states_are_compacted_but_not_before_a_frozen_worker_has_woken():
    spec = as_it_should_be()[state_topic(KAFKA, "signals")]
    assert spec.config["cleanup.policy"] == "compact"
    assert spec.config["min.compaction.lag.ms"] == "600000"
    assert int(spec.config["max.message.bytes"]) == 16 << 20


def test_retention_follows_the_settings():
    config = specs(Kafka(retention_h=0.5, retention_gb=2.5))[0].config
    assert (config["retention.ms"], config["retention.bytes"]) == ("1800000", "2500000000")
    assert specs(Kafka())[0].config["retention.bytes"] == "-1"


def test_nothing_is_to_be_done_where_all_is_well():
    assert plan(specs(KAFKA), as_it_should_be(), None).fits


def test_what_is_missing_is_made():
    found = as_it_should_be()
    del found["b"]
    wanted = plan(specs(KAFKA), found, None)
    assert [spec.name for spec in wanted.missing] == ["b"]
    assert not wanted.fits
    assert not wanted.refusals


@given(st.sampled_from(["retention.ms", "retention.bytes", "max.message.bytes"]), st.data())
def test_what_is_kept_is_never_made_less(key, data):
    wanted = data.draw(st.integers(-1, 10**12).filter(bool))
    found = data.draw(st.integers(-1, 10**12).filter(bool))
    spec = replace(specs(KAFKA)[0], config={"cleanup.policy": "delete", key: str(wanted)})
    is_now = replace(spec, config={"cleanup.policy": "delete", key: str(found)})
    differences = plan([spec], {spec.name: is_now}, None).differences
    assert bool(differences) == (wanted != found)
    less = wanted >= 0 and (found < 0 or wanted < found)
    assert [bool(one.refusal) for one in differences] == ([less] if differences else [])


@pytest.mark.parametrize("found", ["delete", "compact,delete", "delete,compact"])
def test_what_was_deleted_in_time_may_be_kept_for_ever(found):
    assert not only(changed(KAFKA.alarms, config={"cleanup.policy": found})).refusal


def test_what_was_kept_for_ever_does_not_begin_to_be_deleted():
    difference = only(changed("a", config={"cleanup.policy": "compact"}))
    assert "begin to delete" in difference.refusal


def test_the_order_of_policies_does_not_matter():
    found = changed(KAFKA.commands, config={"cleanup.policy": "delete,compact"})
    assert plan(specs(KAFKA), found, None).fits


def test_more_safety_than_asked_for_is_left_alone():
    name = state_topic(KAFKA, "signals")
    more = {"min.insync.replicas": "2", "min.compaction.lag.ms": "7200000"}
    assert plan(specs(KAFKA), changed(name, config=more), None).fits
    less = only(changed(name, config={"min.compaction.lag.ms": "0"}))
    assert not less.refusal


def test_partitions_are_not_taken_away():
    assert "cannot be taken away" in only(changed("a", partitions=5)).refusal


def test_sensors_do_not_move_away_from_their_state():
    difference = only(changed("a", partitions=3))
    assert "echowatch-signals-state-changelog exists" in difference.refusal
    assert "state" in difference.refusal


def test_topics_grow_as_long_as_there_is_no_state():
    found = changed("a", partitions=3)
    for role in ("signals", "cases"):
        del found[state_topic(KAFKA, role)]
    wanted = plan(specs(KAFKA), found, None)
    assert not wanted.refusals
    assert wanted.growth() == {"a": 4}


def test_dead_letters_may_always_grow():
    assert not only(changed(KAFKA.dead_letters, partitions=1)).refusal


def test_copies_are_left_to_kafkas_own_tool():
    assert "reassign" in only(changed("a", replication=2)).refusal


@pytest.mark.parametrize("name", ["a", KAFKA.commands, KAFKA.transitions])
def test_partition_counts_that_differ_are_said_so(name):
    uneven = plan(specs(KAFKA), changed(name, partitions=3), None).uneven
    assert f"{name} 3" in uneven
    assert "echowatch-signals-state-changelog 4" in uneven


def test_alarms_and_dead_letters_may_have_other_counts():
    assert not plan(specs(KAFKA), changed(KAFKA.dead_letters, partitions=1), None).uneven


def test_topics_of_a_pattern_must_have_as_many_partitions():
    found = as_it_should_be()
    found["plant-7"] = replace(found["a"], name="plant-7", partitions=9)
    assert plan(specs(KAFKA), found, None).fits
    wanted = plan(specs(KAFKA), found, "plant-[0-9]+")
    assert "plant-7 9" in wanted.uneven
    assert not wanted.fits


def test_a_pattern_means_signals_and_nothing_else():
    kafka = Kafka(signals="s.one", signals_pattern=r"(s\.|machine\.).*")
    existing = ["s.one", "s.two", "machine.alarms", "machine.commands", "other.s.x"]
    assert read_by(kafka, "signals", existing) == ["s.one", "s.two"]
    assert read_by(kafka, "cases", existing) == [kafka.transitions]
    assert matching(None, existing) == []
