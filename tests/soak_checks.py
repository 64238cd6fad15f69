"""What Kafka and InfluxDB hold in the end in; how it differs from the undisturbed run, in words."""

import re
from contextlib import closing

import numpy as np
from kafka import KafkaConsumer, TopicPartition

from pipeline.records import key_of, name_of, read_body, read_header
from pipeline.services.topics import state_topic
from pipeline.state import pack, unpack

TOLERANCE = 1e-4
SHOWN = 4
# What no log may show: errors that nobody caught, in the words of Python and asyncio.
UNHANDLED = re.compile(
    r"Traceback|Task exception was never retrieved|never awaited|Unclosed|"
    r"Task was destroyed|exception was never"
)


def differences(plant, truth):
    """Everything in which the end differs; each in one line."""
    found = []
    for measurement, expected in truth.points.items():
        found += _points(plant, measurement, expected)
    found += _sets("transitions", set(plant.transitions()), set(truth.transitions))
    found += _sets(
        "cases",
        {(c["case_id"], c["severity"], c["closed_ns"]) for c in plant.cases()},
        {(c.case_id, c.severity.name.lower(), c.closed_ns) for c in truth.cases},
    )
    for role, topic in (
        ("signals", plant.conf.kafka.signals[0]),
        ("cases", plant.conf.kafka.transitions),
    ):
        committed, ends = plant.committed(role, topic), plant.ends(topic)
        if committed != ends:
            found.append(f"{topic}: committed {committed}, ends {ends}")
    found += _states(plant, truth)
    found += [f"dead letter: {letter}" for letter in plant.letters()[:SHOWN]]
    return found


def unhandled(workers):
    """Lines of the logs that tell of errors nobody caught."""
    return [
        f"{worker.log.name}: {line}"
        for worker in workers
        for line in worker.text.splitlines()
        if UNHANDLED.search(line)
    ]


def _sets(what, found, expected):
    lines = []
    if lost := expected - found:
        lines.append(f"{what}: {len(lost)} lost, such as {sorted(lost, key=str)[:SHOWN]}")
    if more := found - expected:
        lines.append(f"{what}: {len(more)} too many, such as {sorted(more, key=str)[:SHOWN]}")
    return lines


def _points(plant, measurement, expected):
    """Points and their fields; a window learnt twice shows in every later count and score."""
    stored = {}
    twice = 0
    for row in plant.points(measurement):
        key = (row["sensor"], row["time"])
        twice += key in stored
        stored[key] = row
    lines = [f"{measurement}: {twice} points of one sensor and time twice"] if twice else []
    lines += _sets(measurement, set(stored), set(expected))
    wrong = [
        f"{key}: {name} {stored[key].get(name)} instead of {value}"
        for key, fields in expected.items()
        if key in stored
        for name, value in fields.items()
        if not _alike(stored[key].get(name), value)
    ]
    if wrong:
        lines.append(f"{measurement}: {len(wrong)} fields differ, such as {wrong[:SHOWN]}")
    return lines


def _alike(found, expected):
    if isinstance(expected, str | bool) or not isinstance(found, int | float):
        return found == expected
    return abs(found - expected) <= TOLERANCE * max(1.0, abs(expected))


def _states(plant, truth):
    """The records that know most: all their positions, and all that they have learnt."""
    records, last = _newest(plant), _last_offsets(plant)
    topic, lines = plant.conf.kafka.signals[0], []
    for sensor_id, sensor in truth.monitor.sensors.items():
        live = records.get(key_of("live", sensor_id))
        if live is None:
            lines.append(f"{sensor_id}: no state")
            continue
        header = read_header(live)
        if header.positions != {topic: last[sensor_id]}:
            lines.append(f"{sensor_id}: state at {header.positions}, last is {last[sensor_id]}")
        base = records.get(key_of("base", sensor_id, header.base))
        if header.base and base is None:
            lines.append(f"{sensor_id}: names baseline {header.base}, which is not there")
            continue
        restored = truth.fresh(sensor_id)
        restored.import_state(_body(live), None if base is None else _body(base))
        differs = list(_differing(_known(restored), _known(sensor), ""))
        if differs:
            lines.append(f"{sensor_id}: {len(differs)} of its state, such as {differs[:SHOWN]}")
    return lines[: 4 * SHOWN]


def _body(record):
    return unpack(read_body(record))


def _known(sensor):
    """All that a sensor has learnt, as it would travel."""
    baseline = sensor.export_baseline()
    return unpack(pack({"baseline": baseline, "live": sensor.export_live()}))


def _differing(found, expected, path):
    if isinstance(expected, dict) and isinstance(found, dict):
        # How often a baseline was written says nothing about what is in it.
        for name in (expected.keys() | found.keys()) - {"baseline_no"}:
            yield from _differing(found.get(name), expected.get(name), f"{path}.{name}")
    elif isinstance(expected, np.ndarray) and isinstance(found, np.ndarray):
        if found.shape != expected.shape or not np.allclose(
            found, expected, TOLERANCE, TOLERANCE, equal_nan=True
        ):
            yield f"{path} {found.shape} {expected.shape}"
    elif isinstance(expected, list) and isinstance(found, list):
        if len(found) != len(expected):
            yield f"{path}: {len(found)} entries instead of {len(expected)}"
        for number, (one, other) in enumerate(zip(found, expected, strict=False)):
            yield from _differing(one, other, f"{path}.{number}")
    elif not _alike(found, expected) and not (found != found and expected != expected):  # noqa: PLR0124  (NaN)
        yield f"{path}: {found} instead of {expected}"


def _newest(plant):
    """Key -> the record of the changelog that knows most."""
    newest = {}
    for record in plant.records(state_topic(plant.conf.kafka, "signals")):
        if record.value is None:
            newest.pop(record.key, None)
            continue
        old = newest.get(record.key)
        if old is None or read_header(record.value).rank >= read_header(old).rank:
            newest[record.key] = record.value
    assert all(name_of(key) for key in newest)
    return newest


def _last_offsets(plant):
    """Sensor -> offset of its last message."""
    last = {}
    topic = plant.conf.kafka.signals[0]
    with closing(KafkaConsumer(bootstrap_servers=plant.kafka.bootstrap)) as consumer:
        for number, end in plant.ends(topic).items():
            partition = TopicPartition(topic, number)
            consumer.assign([partition])
            consumer.seek_to_beginning(partition)
            while consumer.position(partition) < end:
                for records in consumer.poll(1000).values():
                    last |= {record.key.decode(): record.offset for record in records}
    return last
