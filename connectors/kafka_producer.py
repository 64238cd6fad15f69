"""Numbered chunks in, acknowledged messages of one topic out, each in its sensor's partition.

Order per sensor is that of sending, whatever the broker suffers meanwhile: the producer is
idempotent and its patience has no end. What is under way is bounded here, as the client library
bounds nothing.
"""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

from kafka import KafkaProducer
from kafka.errors import KafkaError

from connectors.kafka_access import Access
from connectors.kafka_client import opened, words
from connectors.kafka_records import partition_of
from pipeline.messages import SensorChunk
from pipeline.wire import PROTOBUF, encode

MAX_INFLIGHT_BYTES: Final = 32_000_000
MAX_INFLIGHT: Final = 2000
HEADERS: Final = [("content-type", PROTOBUF.encode())]
OPTIONS: Final[dict[str, Any]] = {
    "acks": "all",
    "enable_idempotence": True,
    "linger_ms": 5,
    # Below the 1 MiB that brokers take as one batch, above the largest message.
    "batch_size": 1_000_000,
    # An outage may last: who waits for it decides when to give up, not the client.
    "delivery_timeout_ms": 10 * 365 * 86_400_000,
    "max_block_ms": 15_000,
    "allow_auto_create_topics": False,
}
# Longest wait between two looks at whether the client has failed.
LOOK_S: Final = 0.5


class DeliveryError(RuntimeError):
    """Kafka refuses messages for good, in words."""


class ChunkProducer:
    """Sends chunks, and says which of them are stored.

    Args:
        access: Brokers and identity.
        topic: Must exist.
        acked: Called from another thread with (number, partition, offset) of each stored chunk,
            in order within a partition; offset -1 where the broker only says that it has it.
        max_inflight_bytes: Payload that may be unacknowledged, and
        max_inflight: messages likewise.

    Raises:
        DeliveryError: there is no such topic, or it cannot be written.
        KafkaTrouble: no broker answers, or we are refused.
    """

    def __init__(
        self,
        access: Access,
        topic: str,
        *,
        acked: Callable[[int, int, int], None],
        max_inflight_bytes: int = MAX_INFLIGHT_BYTES,
        max_inflight: int = MAX_INFLIGHT,
    ) -> None:
        self._topic, self._acked = topic, acked
        self._max_bytes, self._max_count = max_inflight_bytes, max_inflight
        self._bytes = self._count = 0
        self._failure: Exception | None = None
        self._changed = threading.Condition()
        self._homes: dict[str, int] = {}
        self._last_ack = time.monotonic()
        self._open = ExitStack()
        self._client = self._open.enter_context(opened(KafkaProducer, access, **OPTIONS))
        try:
            self.partitions = len(self._client.partitions_for(topic))
        except KafkaError as error:
            self.close()
            raise DeliveryError(f"topic {topic}: {words(error, access)}") from error

    @property
    def inflight(self) -> int:
        """Messages that are not acknowledged yet."""
        return self._count

    def silence_s(self) -> float:
        """Time since the broker last acknowledged anything, 0 where nothing is under way."""
        return time.monotonic() - self._last_ack if self._count else 0.0

    def has_room(self, timeout_s: float = 0.0) -> bool:
        """Whether the next chunk may be sent, waiting up to `timeout_s` for that.

        Raises:
            DeliveryError: a message was refused for good.
        """
        return self._wait(self._room, timeout_s)

    def send(self, number: int, chunk: SensorChunk, payload: bytes | None = None) -> None:
        """Hand one chunk over; waits while too much is under way.

        Args:
            number: Comes back in its receipt.
            chunk: Its sensor decides the partition.
            payload: `pipeline.wire.encode(chunk)` where it has been made already.

        Raises:
            BadChunk: the chunk breaks the message contract.
            DeliveryError: a message was refused for good.
        """
        value = encode(chunk) if payload is None else payload
        key = chunk.sensor_id
        if key not in self._homes:
            self._homes[key] = partition_of(key.encode(), self.partitions)
        while not self.has_room(LOOK_S):
            pass
        with self._changed:
            if not self._count:
                self._last_ack = time.monotonic()
            self._bytes += len(value)
            self._count += 1
        try:
            future = self._client.send(
                self._topic,
                value=value,
                key=key.encode(),
                headers=HEADERS,
                partition=self._homes[key],
            )
        except (KafkaError, ValueError) as error:
            raise DeliveryError(f"chunk {number} of {key} cannot be sent: {error}") from error
        future.add_callback(self._stored, number, len(value))
        future.add_errback(self._refused, number, key)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was sent is stored; whether it is.

        Raises:
            DeliveryError: a message was refused for good.
        """
        return self._wait(lambda: self._count == 0, timeout_s)

    def close(self) -> None:
        """Let go of the broker; what is still under way may or may not get there."""
        self._open.close()

    def _room(self) -> bool:
        return self._count < self._max_count and self._bytes < self._max_bytes

    def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        with self._changed:
            met = self._changed.wait_for(lambda: self._failure or condition(), timeout_s)
            if self._failure is not None:
                raise DeliveryError(str(self._failure)) from self._failure
            return bool(met)

    def _stored(self, number: int, size: int, where: Any) -> None:
        self._acked(number, where.partition, where.offset)
        with self._changed:
            self._bytes -= size
            self._count -= 1
            self._last_ack = time.monotonic()
            self._changed.notify_all()

    def _refused(self, number: int, sensor_id: str, error: Exception) -> None:
        with self._changed:
            self._failure = self._failure or RuntimeError(
                f"Kafka refuses chunk {number} of {sensor_id}: {error}"
            )
            self._changed.notify_all()
