"""A topic in; its offsets, what its end holds, and how much of it a group has not read out."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Final

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import CoordinatorNotAvailableError, KafkaError, KafkaTimeoutError

from connectors.kafka import Span
from connectors.kafka_access import Access
from connectors.kafka_client import opened, words
from pipeline.messages import SensorChunk
from pipeline.wire import PROTOBUF, BadChunk, decode

# What a process that was killed had already handed to the broker is stored within this time.
SETTLE_S: Final = 1.0
# Nothing read for so long: the broker has gone.
STALL_S: Final = 30.0


class TopicError(RuntimeError):
    """A topic cannot be asked, in words.

    Attributes:
        passing: Whether asking again later may help.
    """

    def __init__(self, text: str, cause: Exception | None = None) -> None:
        super().__init__(text)
        # A broker that starts, stops or elects says so by errors of these two kinds.
        self.passing = isinstance(cause, KafkaTimeoutError) or getattr(cause, "retriable", False)


class TopicView:
    """Looks at one topic, writes nothing.

    Args:
        access: Brokers and identity.
        topic: Its name.
        patience_s: With brokers that do not answer.

    Raises:
        TopicError: there is no such topic.
        KafkaTrouble: no broker answers, or we are refused.
    """

    def __init__(self, access: Access, topic: str, *, patience_s: float = 10.0) -> None:
        self._access, self.topic = access, topic
        self._open = ExitStack()
        client = opened(KafkaAdminClient, access, timeout_s=patience_s)
        self._admin = self._open.enter_context(client)
        try:
            self.cluster_id, self.partitions = self._describe()
        except KafkaError as error:
            self.close()
            raise self._trouble(error) from error
        if not self.partitions:
            self.close()
            where = ", ".join(access.bootstrap)
            raise TopicError(
                f"there is no topic {topic} on {where}: create it with `echowatch topics create`"
            )

    def close(self) -> None:
        """Let go of the broker."""
        self._open.close()

    def spans(self) -> dict[int, Span]:
        """Offsets of each partition now.

        Raises:
            TopicError: the broker does not say.
        """
        try:
            begin = self._offsets(OffsetSpec.EARLIEST)
            end = self._offsets(OffsetSpec.LATEST)
        except KafkaError as error:
            raise self._trouble(error) from error
        return {p: Span(begin[p], end[p]) for p in sorted(end)}

    def settled(self) -> dict[int, Span]:
        """The same, once nobody is adding to the topic any more or for a few seconds at most."""
        before = self.spans()
        for _ in range(5):
            time.sleep(SETTLE_S)
            now = self.spans()
            if now == before:
                break
            before = now
        return before

    def lag(self, group: str) -> int:
        """Messages that a group has still to read; all that are kept where it has read none.

        Raises:
            TopicError: the broker does not say.
        """
        wanted = [TopicPartition(self.topic, p) for p in range(self.partitions)]
        try:
            committed = self._admin.list_group_offsets({group: wanted})[group]
        except CoordinatorNotAvailableError:
            committed = {}  # so says a broker that never had any group
        except KafkaError as error:
            raise self._trouble(error) from error
        total = 0
        for partition, span in self.spans().items():
            known = committed.get(TopicPartition(self.topic, partition))
            at = -1 if known is None else known.offset
            total += span.end - min(max(at, span.begin), span.end)
        return total

    def chunks(
        self, begin: Mapping[int, int], end: Mapping[int, int]
    ) -> Iterator[tuple[int, int, SensorChunk]]:
        """(partition, offset, chunk) of a part of the topic; what is no chunk is passed over.

        Args:
            begin: First offset per partition.
            end: One past the last offset per partition.

        Raises:
            TopicError: the broker stops answering.
            KafkaTrouble: it cannot be reached.
        """
        left = {p for p in begin if begin[p] < end[p]}
        if not left:
            return
        with opened(KafkaConsumer, self._access, enable_auto_commit=False) as consumer:
            consumer.assign([TopicPartition(self.topic, p) for p in left])
            for p in left:
                consumer.seek(TopicPartition(self.topic, p), begin[p])
            yield from self._read(consumer, left, end)

    def _read(
        self, consumer: Any, left: set[int], end: Mapping[int, int]
    ) -> Iterator[tuple[int, int, SensorChunk]]:
        heard = time.monotonic()
        while left:
            found = consumer.poll(timeout_ms=500)
            if found:
                heard = time.monotonic()
            elif time.monotonic() - heard > STALL_S:
                raise TopicError(f"the end of {self.topic} cannot be read: the broker is silent")
            for records in found.values():
                for record in records:
                    chunk = _chunk(record)
                    if chunk is not None and record.offset < end[record.partition]:
                        yield record.partition, record.offset, chunk
            left -= {p for p in left if consumer.position(TopicPartition(self.topic, p)) >= end[p]}

    def _trouble(self, error: KafkaError) -> TopicError:
        return TopicError(words(error, self._access), error)

    def _describe(self) -> tuple[str, int]:
        cluster = self._admin.describe_cluster()
        topics = self._admin.describe_topics([self.topic])
        partitions = sum(len(t["partitions"]) for t in topics if t["name"] == self.topic)
        return str(cluster["cluster_id"]), partitions

    def _offsets(self, spec: OffsetSpec) -> dict[int, int]:
        wanted = {TopicPartition(self.topic, p): spec for p in range(self.partitions)}
        found = self._admin.list_partition_offsets(wanted)
        return {tp.partition: int(at.offset) for tp, at in found.items()}


def _chunk(record: Any) -> SensorChunk | None:
    kinds = [value for name, value in record.headers if name == "content-type"]
    kind = kinds[0].decode(errors="replace") if kinds else PROTOBUF
    try:
        return decode(record.value or b"", content_type=kind)
    except BadChunk:
        return None
