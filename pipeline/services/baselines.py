"""What sensors have learnt in, a file out; and back, into any Kafka with any number of partitions.

A file is gzipped JSON lines: a head, then one line per record of the changelog, newest only. What
depends on a Kafka does not travel: offsets, alarms that stand, orders. Who imports begins like a
sensor whose stream is read anew, with its health known.
"""

import gzip
import json
import zlib
from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from connectors.kafka import group, topics
from connectors.kafka_access import Access, KafkaTrouble
from connectors.kafka_records import Record, partition_of, read_topic, send
from pipeline.records import key_of, name_of, read_body, read_header, write_record
from pipeline.sensor import rewound
from pipeline.service_settings import Kafka
from pipeline.services.rewind import newest
from pipeline.services.topics import group_of, state_topic
from pipeline.state import StateError, pack, unpack

FORMAT: Final = "echowatch baselines 1"


class BaselineFileError(OSError):
    """A file that holds no baselines of a known format."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """What one sensor has learnt: its live record and the baseline that it names, if it has one."""

    sensor_id: str
    live: bytes
    base: bytes | None


def export(access: Access, kafka: Kafka, file: Path) -> int:
    """Write what all sensors have learnt; workers may run meanwhile.

    Returns:
        How many sensors there are.

    Raises:
        KafkaTrouble: no state topic, or a record that cannot be read.
    """
    found = _learnt(access, kafka)
    partial = file.with_name(f"{file.name}.part")
    with gzip.open(partial, "wt", encoding="utf-8") as out:
        out.write(json.dumps({"format": FORMAT, "sensors": len(found)}) + "\n")
        for one in found:
            row = {"sensor_id": one.sensor_id, "live": _text(one.live), "base": _text(one.base)}
            out.write(json.dumps(row) + "\n")
    partial.replace(file)
    return len(found)


def read(file: Path) -> list[Learnt]:
    """What a file holds.

    Raises:
        BaselineFileError: for one that is damaged, cut short or none of ours.
    """
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            head = json.loads(next(lines, "null"))
            if not isinstance(head, dict) or head.get("format") != FORMAT:
                raise BaselineFileError(f"{file}: not a file of baselines ({FORMAT!r})")
            found = [_row(json.loads(line)) for line in lines]
    except (EOFError, gzip.BadGzipFile, zlib.error, ValueError, KeyError, TypeError) as error:
        raise BaselineFileError(f"{file}: no baselines can be read: {error}") from error
    if len(found) != (wanted := head.get("sensors")):
        raise BaselineFileError(f"{file}: {len(found)} sensors, should be {wanted}")
    return found


def restore(access: Access, kafka: Kafka, found: list[Learnt]) -> int:
    """Give sensors what they had learnt; their workers must be stopped. Others stay as they are.

    Returns:
        How many records were written.

    Raises:
        KafkaTrouble: the group has members, or its topics are missing.
        BaselineFileError: for a record that this version cannot read.
    """
    name, topic = group_of(kafka, "signals"), state_topic(kafka, "signals")
    held = group(access, name)
    if held.members:
        raise KafkaTrouble(f"group {name} has {held.members} members: stop its workers first")
    if topic not in topics(access):
        raise KafkaTrouble(f"topic {topic} is missing: `echowatch topics create`")
    epochs: dict[str, int] = defaultdict(int)
    keys: dict[str, set[tuple[int, bytes]]] = defaultdict(set)
    with closing(read_topic(access, topic)) as log:
        for record in log:
            kind, sensor, _ = name_of(record.key or b"")
            if kind in ("live", "base"):
                keys[sensor].add((record.partition or 0, record.key or b""))
            if kind == "live" and record.value is not None:
                epochs[sensor] = max(epochs[sensor], read_header(record.value).epoch)
    partitions = topics(access)[topic].partitions
    writes = [
        record
        for one in found
        for record in _writes(one, keys[one.sensor_id], epochs[one.sensor_id], partitions)
    ]
    return send(access, topic, writes)


def _writes(
    one: Learnt, before: set[tuple[int, bytes]], epoch: int, partitions: int
) -> Iterator[Record]:
    """Records that replace all that is known of a sensor."""
    partition = partition_of(one.sensor_id.encode(), partitions)
    # A tombstone gives way to any record, whatever that knows.
    yield from (Record(place, -1, key, None) for place, key in sorted(before))
    try:
        header = read_header(one.live)
        if one.base is not None:
            key = key_of("base", one.sensor_id, header.base)
            yield Record(partition, -1, key, one.base)
        body = pack(rewound(unpack(read_body(one.live))))
    except ValueError as error:
        raise BaselineFileError(f"sensor {one.sensor_id}: {error}") from error
    header = replace(
        header,
        positions={},
        epoch=max(header.epoch, epoch) + 1,
        deadline_ns=0,
        heard_ns=0,
        promised=[],
    )
    yield Record(partition, -1, key_of("live", one.sensor_id), write_record(header, body))


def _learnt(access: Access, kafka: Kafka) -> list[Learnt]:
    topic = state_topic(kafka, "signals")
    if topic not in topics(access):
        raise KafkaTrouble(f"topic {topic} is missing: no worker has run here")
    with closing(read_topic(access, topic)) as log:
        lives = newest(log, "live")
    with closing(read_topic(access, topic)) as log:
        bases = {key: value for (_, key), value in newest(log, "base").items()}
    found = []
    for (_, key), live in sorted(lives.items(), key=lambda item: item[0][1]):
        sensor = name_of(key)[1]
        try:
            number = read_header(live).base
        except StateError as error:
            raise KafkaTrouble(f"state of {sensor}: {error}") from error
        if read_body(live):  # a rewind with --relearn leaves an empty one
            base = bases.get(key_of("base", sensor, number)) if number else None
            found.append(Learnt(sensor, live, base))
    return found


def _text(value: bytes | None) -> str | None:
    return None if value is None else b64encode(value).decode()


def _row(row: dict[str, Any]) -> Learnt:
    base = row["base"]
    return Learnt(
        str(row["sensor_id"]), b64decode(row["live"]), None if base is None else b64decode(base)
    )
