"""Topics in, what is written to them, from now on or all of it, out."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition

from connectors.kafka import PartitionId, spans
from connectors.kafka_access import Access
from connectors.kafka_client import TIMEOUT_S, opened

POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Heard:
    """One message.

    Attributes:
        headers: Name -> bytes; of several of one name the last.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]


class Follower:
    """Hears some topics; see `following`."""

    def __init__(self, consumer: Any, ends: Mapping[PartitionId, int]) -> None:
        self._consumer = consumer
        self._left = {TopicPartition(*at): end for at, end in ends.items()}

    def caught_up(self) -> bool:
        """Whether all has been given that was there at the beginning."""
        behind = [at for at, end in self._left.items() if self._consumer.position(at) < end]
        self._left = {at: self._left[at] for at in behind}
        return not behind

    def poll(self, patience_s: float = POLL_S) -> list[Heard]:
        """What was written since the last call; waits so long where nothing was."""
        found = self._consumer.poll(timeout_ms=round(1000 * patience_s))
        return [
            Heard(r.topic, r.partition, r.offset, r.key, r.value, dict(r.headers))
            for records in found.values()
            for r in records
        ]


@contextmanager
def following(
    access: Access, topics: Iterable[str], *, whole: bool = False, timeout_s: float = TIMEOUT_S
) -> Iterator[Follower]:
    """Hear what is written from now on, without a group.

    Args:
        access: Address and identity.
        topics: They must exist.
        whole: Hear first what they hold already.
        timeout_s: Patience with opening.

    Raises:
        KafkaTrouble: no such topic, or no broker answers.
    """
    deadline = time.monotonic() + timeout_s
    ends = spans(access, topics, timeout_s=timeout_s)
    left_s = max(1.0, deadline - time.monotonic())
    options = {"enable_auto_commit": False, "auto_offset_reset": "earliest" if whole else "latest"}
    with opened(KafkaConsumer, access, timeout_s=left_s, **options) as consumer:
        consumer.assign([TopicPartition(*at) for at in ends])
        for at, span in ends.items():
            # A place, not "the end": what is written before the first poll is heard as well.
            consumer.seek(TopicPartition(*at), span.begin if whole else span.end)
        yield Follower(consumer, {at: span.end for at, span in ends.items()})
