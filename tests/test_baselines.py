"""What sensors have learnt, through a file, into another Kafka group with other partitions."""

import gzip

import pytest

from connectors.kafka_records import partition_of, read_topic
from pipeline.records import Header, key_of, name_of, read_body, read_header, write_record
from pipeline.sensor import rewound
from pipeline.services.rewind import newest
from pipeline.services.topics import group_of
from pipeline.state import pack, unpack
from test_cli_kafka import Plant, call
from test_kafka_admin import Member
from test_sensor_state import capture, new_monitor, new_sensor

pytestmark = pytest.mark.long
SENSORS = ("m/a", "m/b", "m/c", "m/d")


@pytest.fixture(scope="module")
def learnt():
    """(live, baseline) of a sensor that has learnt its health, alarm and all."""
    sensor = new_sensor()
    monitor = new_monitor({"m/a": sensor})
    for i in range(220):
        monitor.process([capture(i, 4.0 if i > 200 else 1.0)])
    baseline = sensor.export_baseline()
    return sensor.export_live(), baseline


@pytest.fixture
def plant(kafka, monkeypatch, tmp_path, learnt):
    """Three sensors that have learnt, one of which was rewound with --relearn; one that learns."""
    monkeypatch.chdir(tmp_path)
    made = Plant(kafka, monkeypatch)
    made.make()
    live, baseline = learnt
    for sensor in SENSORS[:3]:
        head = Header(positions={made.signals: 90}, epoch=2, base="7", heard_ns=4, deadline_ns=5)
        place = partition_of(sensor.encode(), 2)
        old = write_record(Header(base="6"), pack(live))
        base = write_record(Header(positions={made.signals: 80}), pack(baseline))
        records = [
            (place, key_of("base", sensor, "6"), base),
            (place, key_of("live", sensor), old),
            (place, key_of("base", sensor, "7"), base),
            (place, key_of("live", sensor), write_record(head, pack(live))),
            (place, key_of("base", sensor, "6"), None),
        ]
        made.put(made.state, *records)
    forgotten = (partition_of(b"m/c", 2), key_of("live", "m/c"))
    made.put(made.state, (*forgotten, None), (*forgotten, write_record(Header(epoch=3), b"")))
    young = write_record(Header(positions={made.signals: 3}), pack(new_sensor("m/d").export_live()))
    made.put(made.state, (partition_of(b"m/d", 2), key_of("live", "m/d"), young))
    return made


def records(plant):
    """Kind, sensor, number -> (partition, value) of what the state topic holds."""
    found = {}
    for kind in ("live", "base"):
        for (partition, key), value in newest(read_topic(plant.access, plant.state), kind).items():
            found[name_of(key)] = (partition, value)
    return found


def elsewhere(plant):
    """Another group with other topics and three partitions."""
    plant.set(group=f"{plant.kafka.group}-new", partitions=3, signals=f"{plant.signals}.new")
    for name in ("transitions", "alarms", "commands", "snapshots", "dead_letters"):
        plant.set(**{name: f"{plant.settings[name]}.new"})
    plant.make()


def test_what_was_learnt_arrives_in_another_kafka(plant, learnt, capsys):
    live, baseline = learnt
    assert call("baselines", "export", "b.gz") == 0
    assert "3 sensors" in capsys.readouterr().err
    elsewhere(plant)
    assert call("baselines", "import", "b.gz") == 0
    found = records(plant)
    assert set(found) == {
        ("live", "m/a", ""), ("base", "m/a", "7"), ("live", "m/b", ""), ("base", "m/b", "7"),
        ("live", "m/d", ""),
    }  # fmt: skip
    for (kind, sensor, _), (partition, value) in found.items():
        assert partition == partition_of(sensor.encode(), 3)
        if sensor == "m/d":
            continue
        if kind == "base":
            assert unpack(read_body(value)).keys() == baseline.keys()
            continue
        assert read_header(value) == Header(epoch=3, base="7")
        assert read_body(value) == pack(rewound(live))
        again = new_sensor()
        again.import_state(unpack(read_body(value)), baseline)
        done = new_monitor({"m/a": again}).process([capture(i) for i in range(400, 410)])
        assert {window.status for window in done.windows} == {"ok"}  # it does not learn anew


def test_what_is_imported_wins_over_what_is_there(plant):
    assert call("baselines", "export", "b.gz") == 0
    for epoch in (3, 4):
        assert call("baselines", "import", "b.gz", "--sensor", "m/a") == 0
        found = records(plant)
        assert read_header(found["live", "m/a", ""][1]) == Header(epoch=epoch, base="7")
        assert read_header(found["live", "m/b", ""][1]).epoch == 2  # nobody asked for it
        assert ("base", "m/a", "7") in found


def test_workers_that_run_are_not_disturbed(plant, kafka, capsys):
    assert call("baselines", "export", "b.gz") == 0
    before = records(plant)
    with Member(kafka, group_of(plant.kafka, "signals"), plant.signals):
        assert call("baselines", "export", "b.gz") == 0
        assert call("baselines", "import", "b.gz") == 1
    assert "stop its workers first" in capsys.readouterr().err
    assert records(plant) == before


def test_a_file_that_is_not_whole_is_refused_before_anything_is_written(plant, capsys, tmp_path):
    assert call("baselines", "export", "b.gz") == 0
    before, whole = records(plant), (tmp_path / "b.gz").read_bytes()
    lines = gzip.decompress(whole).splitlines(keepends=True)
    damaged = (
        whole[: len(whole) // 2], b"not gzip", gzip.compress(b"{}\n"),
        gzip.compress(b"".join(lines[:-1])), gzip.compress(lines[0] + b"{}\n" * 3), b"",
        whole[:40] + bytes(64) + whole[104:],
        gzip.compress(b'{"format": "echowatch baselines 1"}\n'),
    )  # fmt: skip
    for number, data in enumerate(damaged):
        (tmp_path / "bad.gz").write_bytes(data)
        assert call("baselines", "import", "bad.gz") == 1, number
        assert "bad.gz" in capsys.readouterr().err
    assert call("baselines", "import", "b.gz", "--sensor", "m/x") == 2
    assert call("baselines", "import", "none.gz") == 1
    assert records(plant) == before
