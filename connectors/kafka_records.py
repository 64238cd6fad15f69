"""Topics in, their records to the end out; records in, acknowledged by all copies."""

import time
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.partitioner.default import murmur2

from connectors.kafka import PartitionId, spans
from connectors.kafka_access import Access, KafkaTrouble
from connectors.kafka_client import TIMEOUT_S, opened

# Largest record of a state topic, and the head of its batch.
MAX_REQUEST_BYTES: Final = (16 << 20) + 4096
# kafka-python bounds what is under way no longer.
MAX_UNDER_WAY: Final = 1000
MAX_UNDER_WAY_BYTES: Final = 32 << 20


WHOLE: Final = {
    "enable_auto_commit": False,
    "auto_offset_reset": "earliest",
    "fetch_max_bytes": MAX_REQUEST_BYTES,
}


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it is kept; a value of None is a tombstone.

    Attributes:
        partition: Number of the partition; to be sent, None = by the key.
        offset: Place in the partition; -1 = not yet sent.
        key, value: As bytes.
        timestamp_ms: Milliseconds since the epoch; None = now, when sent.
    """

    partition: int | None
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int | None = None


def partition_of(key: bytes, partitions: int) -> int:
    """Partition of a key among so many: murmur2, as Faust, aiokafka and Java clients do.

    >>> partition_of(b"plant/pump/DE", 4)
    0
    """
    hashed: int = murmur2(key)
    return (hashed & 0x7FFFFFFF) % partitions


def read_topic(
    access: Access, topic: str, *, timeout_s: float = TIMEOUT_S
) -> Generator[Record, None, None]:
    """Every record that a topic holds now, in order within a partition.

    Close it if you stop before its end.

    Args:
        access: Address and identity.
        topic: Must exist.
        timeout_s: Patience with a broker that gives nothing though there is more.

    Raises:
        KafkaTrouble: no such topic, or no progress for so long.
    """
    ends = spans(access, [topic], timeout_s=timeout_s)
    left = {TopicPartition(*at): span.end for at, span in ends.items() if span.begin < span.end}
    if not left:
        return
    with opened(KafkaConsumer, access, timeout_s=timeout_s, **WHOLE) as consumer:
        consumer.assign([TopicPartition(*at) for at in ends])
        progress = time.monotonic()
        while left:
            polled = consumer.poll(timeout_ms=200)
            for found in polled.values():
                yield from (_record(one) for one in found if _before(one, left))
            now = time.monotonic()
            # Not every offset has a record: the position tells, the last record does not.
            done = [at for at, end in left.items() if consumer.position(at, timeout_ms=1000) >= end]
            for at in done:
                del left[at]
                consumer.pause(at)
            if polled or done:
                progress = now
            elif now - progress > timeout_s:
                rest = f"though {len(left)} partitions have more"
                raise KafkaTrouble(f"{topic}: nothing came for {timeout_s:g} s, {rest}")


def _before(record: Any, left: Mapping[TopicPartition, int]) -> bool:
    end = left.get(TopicPartition(record.topic, record.partition), 0)
    return int(record.offset) < end


def _record(one: Any) -> Record:
    return Record(one.partition, one.offset, one.key, one.value, one.timestamp)


def first_times(
    access: Access, places: Mapping[PartitionId, int], *, timeout_s: float = TIMEOUT_S
) -> dict[PartitionId, int]:
    """Kafka's stamp, ms, of the first record from these offsets on, where one comes in time."""
    left = {TopicPartition(*at): offset for at, offset in places.items()}
    found: dict[PartitionId, int] = {}
    # Of each partition one batch is enough.
    small = {"max_partition_fetch_bytes": 1, "enable_auto_commit": False}
    if not left:
        return found
    with opened(KafkaConsumer, access, timeout_s=timeout_s, **small) as consumer:
        consumer.assign(list(left))
        for at, offset in left.items():
            consumer.seek(at, offset)
        deadline = time.monotonic() + timeout_s
        while left and time.monotonic() < deadline:
            for at, records in consumer.poll(timeout_ms=200, max_records=len(left)).items():
                if left.pop(at, None) is not None:
                    found[at.topic, at.partition] = records[0].timestamp
                    consumer.pause(at)
    return found


def send(
    access: Access, topic: str, records: Iterable[Record], *, timeout_s: float = TIMEOUT_S
) -> int:
    """Write records and wait until all copies have them.

    Returns:
        How many were written.

    Raises:
        KafkaTrouble: one could not be written in time; those before it may have been.
    """
    options = {
        "acks": "all",
        "enable_idempotence": True,
        "max_request_size": MAX_REQUEST_BYTES,
        "max_block_ms": round(1000 * timeout_s),
        "delivery_timeout_ms": round(2000 * timeout_s),
    }
    count = under_way_bytes = 0
    under_way: list[Any] = []
    with opened(KafkaProducer, access, timeout_s=timeout_s, **options) as producer:
        partitions: int | None = None
        for record in records:
            partition = record.partition
            if partition is None and record.key is not None:
                partitions = partitions or len(producer.partitions_for(topic))
                partition = partition_of(record.key, partitions)
            stamped = {"partition": partition, "timestamp_ms": record.timestamp_ms}
            under_way.append(producer.send(topic, key=record.key, value=record.value, **stamped))
            under_way_bytes += len(record.value or b"")
            if len(under_way) >= MAX_UNDER_WAY or under_way_bytes >= MAX_UNDER_WAY_BYTES:
                count += _settled(under_way, timeout_s)
                under_way_bytes = 0
        count += _settled(under_way, timeout_s)
    return count


def _settled(under_way: list[Any], timeout_s: float) -> int:
    """How many were written; the list is empty afterwards."""
    count = len(under_way)
    for one in under_way:
        one.get(timeout=2 * timeout_s)
    under_way.clear()
    return count
