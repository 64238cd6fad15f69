import json
import os
import time
import uuid
from datetime import UTC, datetime

import pytest

from connectors import kafka as admin
from connectors.kafka_access import Access
from connectors.kafka_records import Record, read_topic, send
from pipeline.cli import main
from pipeline.records import Header, key_of, read_body, read_header, write_record
from pipeline.sensor import rewound
from pipeline.service_settings import Kafka
from pipeline.services.rewind import newest
from pipeline.services.topics import group_of, specs, state_topic
from pipeline.state import pack, unpack
from test_kafka_admin import Member
from test_sensor_state import capture, new_monitor, new_sensor

BASE_S = 1_790_000_000


class Plant:
    """Topics and groups of one test on the shared broker."""

    def __init__(self, kafka, monkeypatch, **given):
        mine = uuid.uuid4().hex[:10]
        names = ("transitions", "alarms", "commands", "snapshots", "dead_letters")
        self.settings = {name: f"{mine}.{name}" for name in names}
        self.settings |= {"signals": f"{mine}.signals", "group": mine, "partitions": 2}
        self.settings |= {"bootstrap": kafka.bootstrap}
        self._monkeypatch = monkeypatch
        self.set(**given)
        self.access = Access((kafka.bootstrap,))

    def set(self, **given):
        self.settings |= given
        for name, value in self.settings.items():
            self._monkeypatch.setenv(f"ECHOWATCH_KAFKA__{name.upper()}", str(value))
        self.kafka = Kafka(**self.settings)

    def make(self):
        """All topics, without the command line."""
        wanted = [admin.Topic(t.name, t.partitions, 1, t.config) for t in specs(self.kafka)]
        admin.create(self.access, wanted)

    @property
    def signals(self):
        return self.kafka.signals[0]

    @property
    def state(self):
        return state_topic(self.kafka, "signals")

    def group(self, role="signals"):
        return admin.group(self.access, group_of(self.kafka, role))

    def commit(self, offsets, role="signals"):
        admin.commit(self.access, group_of(self.kafka, role), offsets)

    def put(self, topic, *records):
        """Records of (partition, key, value[, seconds after the base time])."""
        sent = [
            Record(p, -1, k, v, (BASE_S + at[0]) * 1000 if at else None) for p, k, v, *at in records
        ]
        send(self.access, topic, sent)

    def kept(self, topic):
        """(partition, key) -> last value written."""
        return {(r.partition, r.key): r.value for r in read_topic(self.access, topic)}


@pytest.fixture
def plant(kafka, monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("ECHOWATCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return Plant(kafka, monkeypatch)


def call(*arguments):
    """Exit code of a command line, run in this process."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code or 0


def iso(seconds):
    return datetime.fromtimestamp(BASE_S + seconds, UTC).isoformat()


# Topics


def test_topics_are_made_once_and_then_fit(plant, capsys):
    assert call("lag") == 1
    assert capsys.readouterr().out.count("`echowatch topics create`") == 2
    assert call("topics", "check") == 1
    shown = capsys.readouterr()
    assert "missing" in shown.out
    assert "`echowatch topics create`" in shown.err
    assert call("topics", "create") == 0
    assert capsys.readouterr().err.count("made, 2 partitions") == 8
    before = admin.topics(plant.access)
    assert call("topics", "create") == 0
    assert "all topics are as they should be" in capsys.readouterr().err
    assert admin.topics(plant.access) == before
    assert call("topics", "check") == 0
    assert before[plant.state].config["min.compaction.lag.ms"] == "600000"


def test_settings_are_raised(plant, capsys):
    plant.make()
    plant.set(retention_h=500)
    assert call("topics", "check") == 1
    assert "7 d / 500 h" in capsys.readouterr().out
    assert call("topics", "create") == 0
    config = admin.topics(plant.access, [plant.signals])[plant.signals].config
    assert config["retention.ms"] == str(500 * 3_600_000)


def test_one_refusal_stops_every_change(plant, capsys):
    plant.make()
    plant.set(retention_h=1, dead_letters=f"{plant.signals}.new")
    assert call("topics", "create") == 1
    text = capsys.readouterr().err
    assert "nothing was changed" in text
    assert "retention.ms 604800000 -> 3600000: nothing is shrunk" in text
    assert admin.topics(plant.access, [plant.kafka.dead_letters]) == {}


@pytest.mark.parametrize("partitions", [1, 3])
def test_partitions_of_a_plant_with_state_stay(plant, capsys, partitions):
    plant.make()
    plant.set(partitions=partitions)
    assert call("topics", "create", "--json") == 1
    said = json.loads(capsys.readouterr().out)
    assert said["done"] == []
    assert any(line.startswith(f"{plant.signals}: partitions 2") for line in said["refused"])
    assert admin.topics(plant.access, [plant.signals])[plant.signals].partitions == 2


def test_a_plant_without_state_grows_together(plant):
    admin.create(plant.access, [admin.Topic(plant.signals, 1, 1, {})])
    assert call("topics", "create") == 0
    assert call("topics", "check") == 0


def test_a_topic_of_the_pattern_with_another_count_is_said_so(plant, capsys):
    plant.make()
    admin.create(plant.access, [admin.Topic(f"{plant.signals}.more", 5, 1, {})])
    plant.set(signals_pattern=rf"{plant.signals}\..*")
    capsys.readouterr()
    assert call("topics", "check", "--json") == 1
    said = json.loads(capsys.readouterr().out)
    assert f"{plant.signals}.more 5" in said["uneven"]
    assert all(row["ok"] for row in said["topics"])
    assert call("topics", "create") == 1


def test_more_copies_than_brokers_are_refused_before_anything_is_made(plant, capsys):
    plant.set(replication=3)
    assert call("topics", "create") == 1
    assert "3 copies need as many brokers, there is 1" in capsys.readouterr().err
    assert admin.topics(plant.access, [plant.signals, plant.state]) == {}


def test_check_as_json_holds_both_sides(plant, capsys):
    plant.make()
    plant.set(retention_h=200)
    capsys.readouterr()
    assert call("topics", "check", "--json") == 1
    said = json.loads(capsys.readouterr().out)
    first = said["topics"][0]
    assert (first["topic"], first["ok"], said["ok"]) == (plant.signals, False, False)
    assert first["is"]["config"]["retention.ms"] == "604800000"
    assert first["should"]["config"]["retention.ms"] == "720000000"
    assert [one["what"] for one in first["differences"]] == ["retention.ms"]


# Lag


def groups(capsys):
    return json.loads(capsys.readouterr().out)["groups"]


def test_lag_counts_what_is_kept_and_not_yet_read(plant, capsys):
    plant.make()
    now = time.time() - BASE_S
    plant.put(plant.signals, *[(0, b"k", b"v", round(now) - 100 + i) for i in range(10)])
    plant.put(plant.signals, *[(1, b"k", b"v") for _ in range(4)])
    plant.commit({(plant.signals, 0): 7, (plant.signals, 1): 4})
    capsys.readouterr()
    assert call("lag", "--role", "signals", "--json") == 0
    (found,) = groups(capsys)
    assert (found["state"], found["members"], found["total"]) == ("Empty", 0, 3)
    zero, one = found["partitions"]
    assert (zero["committed"], zero["end"], zero["lag"]) == (7, 10, 3)
    assert 90 < zero["waiting_s"] < 200
    assert (one["committed"], one["end"], one["lag"], one["waiting_s"]) == (4, 4, 0, 0.0)


def test_a_partition_never_read_lags_by_all_it_holds(plant, capsys):
    plant.make()
    plant.put(plant.signals, *[(1, b"k", b"v") for _ in range(4)])
    plant.commit({(plant.signals, 0): 0})
    capsys.readouterr()
    assert call("lag", "--role", "signals", "--json", "--no-seconds") == 0
    one = groups(capsys)[0]["partitions"][1]
    assert (one["committed"], one["lag"], one["waiting_s"]) == (None, 4, None)


def test_the_lag_of_a_group_that_does_not_exist_is_trouble(plant, capsys):
    plant.make()
    plant.put(plant.signals, (0, b"k", b"v"))
    capsys.readouterr()
    assert call("lag") == 1
    assert capsys.readouterr().out.count("does not exist") == 2
    plant.commit({(plant.signals, 0): 1})
    assert call("lag", "--role", "signals") == 0
    assert call("lag") == 1


def test_watching_shows_it_again_until_it_is_stopped(plant, capsys, monkeypatch):
    plant.make()
    plant.commit({(plant.signals, 0): 0})
    naps = []

    def nap(seconds):
        naps.append(seconds)
        if seconds == 7 and naps.count(7) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.cli.kafka.time.sleep", nap)
    assert call("lag", "--role", "signals", "--watch", "7", "--json") == 130
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["groups"][0]["state"] for line in lines] == ["Empty"] * 2


def test_members_are_counted(plant, kafka, capsys):
    plant.make()
    with Member(kafka, group_of(plant.kafka, "signals"), plant.signals):
        capsys.readouterr()
        assert call("lag", "--role", "signals", "--json") == 0
        (found,) = groups(capsys)
    assert (found["state"], found["members"]) == ("Stable", 1)


# Rewind


def filled(plant):
    """Ten messages a second apart in partition 0, five two seconds apart in partition 1."""
    plant.make()
    plant.put(plant.kafka.commands, *[(0, b"k", b"v")] * 5)
    plant.put(plant.signals, *[(0, b"k", b"v", i) for i in range(10)])
    plant.put(plant.signals, *[(1, b"k", b"v", 2 * i) for i in range(5)])
    plant.commit({(plant.signals, 0): 10, (plant.signals, 1): 5, (plant.kafka.commands, 0): 3})


def test_every_partition_goes_to_its_first_message_not_before_the_time(plant, capsys):
    filled(plant)
    expected = {
        iso(100): (10, 5), "earliest": (0, 0), iso(-5): (0, 0), iso(3): (3, 2), iso(4): (4, 2),
        iso(8.0005): (9, 5), iso(9): (9, 5),
    }  # fmt: skip
    for to, offsets in expected.items():
        assert call("rewind", "--to", to, "--yes") == 0
        assert ("after the newest message" in capsys.readouterr().err) == (to == iso(100))
        assert plant.group().committed == {
            (plant.signals, 0): offsets[0],
            (plant.signals, 1): offsets[1],
            (plant.kafka.commands, 0): 3,
        }


def test_a_dry_run_and_a_no_change_nothing(plant, capsys):
    filled(plant)
    before = plant.group().committed
    assert call("rewind", "--to", "earliest", "--dry-run") == 0
    assert "15 messages are read again" in capsys.readouterr().err
    assert call("rewind", "--to", "earliest") == 1  # nobody is there to say yes
    assert plant.group().committed == before


def test_messages_that_would_never_be_read_are_counted(plant, capsys):
    filled(plant)
    plant.commit({(plant.signals, 0): 2})
    assert call("rewind", "--to", iso(5), "--dry-run") == 0
    text = capsys.readouterr().err
    assert f"{plant.signals} 0: offset 2 -> 5, skips 3" in text
    assert "3 messages that nobody has read are skipped" in text


def test_partitions_with_nothing_to_do_are_counted_in_one_line(plant, capsys):
    filled(plant)
    assert call("rewind", "--to", iso(9), "--dry-run") == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "->" in line] == [
        f"  {plant.signals} 0: offset 10 -> 9, 1 messages again"
    ]
    left = plant.kafka.partitions - 1
    assert f"  {left} partition{'' if left == 1 else 's'} with nothing to do" in lines
    assert "  1 messages are read again" in lines


def test_a_group_with_members_is_not_rewound(plant, kafka, capsys):
    filled(plant)
    plant.put(plant.state, (0, b"live|s", write_record(Header(), pack({}))))
    before = plant.kept(plant.state)
    with Member(kafka, group_of(plant.kafka, "signals"), plant.signals):
        assert call("rewind", "--to", "earliest", "--yes", "--relearn") == 1
        assert "has 1 member (Stable): stop its workers" in capsys.readouterr().err
    assert plant.kept(plant.state) == before


@pytest.mark.usefixtures("plant")
@pytest.mark.parametrize("to", ["yesterday", "2026-13-01", ""])
def test_what_is_no_time_is_wrong_usage(capsys, to):
    assert call("rewind", "--to", to) == 2
    assert "ISO-8601" in capsys.readouterr().err


@pytest.fixture(scope="module")
def learnt():
    """(live, baseline) of a sensor that has learnt its health."""
    sensor = new_sensor()
    monitor = new_monitor({"m/a": sensor})
    for i in range(200):
        monitor.process([capture(i)])
    assert sensor.baseline_changed
    baseline = sensor.export_baseline()
    return sensor.export_live(), baseline


def header(plant, at, epoch=0, **given):
    return Header(positions={plant.signals: at, plant.kafka.commands: 3}, epoch=epoch, **given)


def test_sensors_keep_their_baseline_and_have_heard_nothing(plant, learnt):
    filled(plant)
    live, baseline = learnt
    old = header(plant, 9, epoch=4, base="7", deadline_ns=5, heard_ns=4)
    key, base_key = key_of("live", "m/a"), key_of("base", "m/a", "7")
    base = write_record(header(plant, 5), pack(baseline))
    plant.put(plant.state, (1, base_key, base), (1, key, write_record(old, pack(live))))
    assert call("rewind", "--to", "earliest", "--yes") == 0
    kept = plant.kept(plant.state)
    assert kept[1, base_key] == base
    found = read_header(kept[1, key])
    assert found == Header(positions={plant.kafka.commands: 3}, epoch=5, base="7")
    assert found.rank > old.rank
    state = unpack(read_body(kept[1, key]))
    assert pack(state) == pack(rewound(live))
    new_sensor().import_state(state, baseline)
    assert call("rewind", "--to", "earliest", "--yes") == 0
    assert read_header(plant.kept(plant.state)[1, key]).epoch == 6


def test_what_a_frozen_worker_writes_afterwards_loses(plant, learnt):
    filled(plant)
    live, key = pack(learnt[0]), key_of("live", "m/a")
    plant.put(plant.state, (0, key, write_record(header(plant, 9), live)))
    assert call("rewind", "--to", "earliest", "--yes") == 0
    plant.put(plant.state, (0, key, write_record(header(plant, 5000), live)))
    best = newest(read_topic(plant.access, plant.state), "live")
    assert read_header(best[0, key]).epoch == 1


def test_the_record_that_knows_most_is_rewound_not_the_last(plant, learnt):
    filled(plant)
    live, key = pack(learnt[0]), key_of("live", "m/a")
    newer, older = header(plant, 9, base="2"), header(plant, 4, base="1")
    records = [write_record(one, live) for one in (newer, older)]
    plant.put(plant.state, (0, key, records[0]), (0, key, records[1]))
    assert call("rewind", "--to", "earliest", "--yes") == 0
    assert read_header(plant.kept(plant.state)[0, key]).base == "2"


def test_a_tombstone_begins_anew():
    key = key_of("live", "s")
    low = write_record(Header({"t": 1}), b"")
    high = write_record(Header({"t": 9}), b"")
    log = [Record(0, i, key, value) for i, value in enumerate([high, None, low])]
    assert newest(log, "live") == {(0, key): low}
    assert newest(log[:2], "live") == {}
    assert newest([log[0], log[2]], "live") == {(0, key): high}
    assert newest([log[0], Record(1, 0, key, low)], "live") == {(0, key): high, (1, key): low}


def test_relearning_forgets_baselines_where_they_lie(plant):
    filled(plant)
    record = write_record(Header(), pack({}))
    keys = [key_of("live", "a"), key_of("base", "a", "1"), key_of("live", "gone")]
    plant.put(plant.state, *[(1, key, record) for key in keys], (1, keys[2], None))
    assert call("rewind", "--to", "earliest", "--relearn", "--yes") == 0
    records = list(read_topic(plant.access, plant.state))
    forgotten = write_record(Header(epoch=1), b"")
    assert [(r.partition, r.key, r.value) for r in records[4:]] == [
        (1, keys[0], None), (1, keys[0], forgotten), (1, keys[1], None),
    ]  # fmt: skip
    assert Header(epoch=1).rank > Header(positions={"signals": 10**9}).rank


def test_cases_are_made_anew(plant):
    plant.make()
    topic, changelog = plant.kafka.transitions, state_topic(plant.kafka, "cases")
    plant.put(topic, *[(0, b"pump", b"{}", i) for i in range(6)])
    plant.put(changelog, (0, key_of("case", "pump"), write_record(Header(), pack({}))))
    plant.commit({(topic, 0): 6}, "cases")
    assert call("rewind", "--to", iso(2), "--role", "cases", "--yes") == 0
    forgotten = write_record(Header(epoch=1), b"")
    assert plant.kept(changelog) == {(0, key_of("case", "pump")): forgotten}
    assert plant.group("cases").committed == {(topic, 0): 2, (topic, 1): 0}


def test_a_damaged_state_stops_the_rewind_before_anything_moves(plant, capsys):
    filled(plant)
    plant.put(plant.state, (0, key_of("live", "bad"), b"rubbish"))
    before = plant.group().committed
    assert call("rewind", "--to", "earliest", "--yes") == 1
    assert "live|bad" in capsys.readouterr().err
    assert plant.group().committed == before
    assert call("rewind", "--to", "earliest", "--relearn", "--yes") == 0


# Trouble


def test_an_unencrypted_wire_to_elsewhere_is_refused_in_one_line(plant, capsys):
    plant.set(bootstrap="kafka.example:9092")
    assert call("topics", "check") == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "would be readable on the network" in said.err
