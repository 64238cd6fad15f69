"""Messages in; points, messages and state records out: what a stage of the worker is asked for.

A stage holds all state of the partitions that a worker owns. It does no I/O and runs in one thread;
`pipeline.streaming.delivery` brings the messages, carries the results away and acknowledges.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from pipeline.messages import Point

DEAD_LETTER_BYTES: Final = 1024
MAX_DETAIL: Final = 200
CONTENT_TYPE: Final = "content-type"


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    number: int


@dataclass(frozen=True, slots=True)
class Received:
    """One message as it came from Kafka.

    Attributes:
        received_s: Monotonic time of its arrival.
    """

    partition: Partition
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]
    received_s: float = 0.0

    @property
    def size(self) -> int:
        """Bytes of the value."""
        return len(self.value or b"")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message for Kafka.

    Attributes:
        partition: None = by the key, as every producer does.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes] = field(default_factory=dict)
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a micro-batch gave.

    Attributes:
        windows: Judged.
        newest_ns: End of the newest window, 0 for none.
        barrier: Nothing more may be processed before this is checkpointed.
    """

    points: Sequence[Point] = ()
    messages: Sequence[Outgoing] = ()
    windows: int = 0
    newest_ns: int = 0
    barrier: bool = False


@dataclass(frozen=True, slots=True)
class Begun:
    """A micro-batch between its beginning and its end.

    Attributes:
        finish: Gives its outcome; to be called once, batches in the order of their beginning.
        alone: Nothing more may begin before this is finished.
    """

    finish: Callable[[], Outcome]
    alone: bool = False


@dataclass(frozen=True, slots=True)
class StateWrite:
    """One record for the changelog.

    Attributes:
        partition: Number of the partition that the sensor's messages lie in.
        value: None deletes the record.
        first: Whether it must be there before the others: a baseline, before what names it.
        told: What may go out only once the record is stored; the record says it, too.
    """

    partition: int
    key: bytes
    value: bytes | None
    first: bool = False
    told: Outcome | None = None


class States(Protocol):
    """The newest record of every key of the partitions that are ours."""

    def get(self, key: bytes) -> bytes | None:
        """Value of a record, None where there is none."""

    def keys(self) -> Iterator[tuple[int, bytes]]:
        """(partition, key) of every record."""


class Stage(Protocol):
    """One step of the way from signal to alarm."""

    def assign(self, states: States, ends: Mapping[Partition, int]) -> None:
        """Begin anew with the partitions that are ours now.

        Args:
            states: Their records; read when a sensor or asset is first heard.
            ends: Partition -> offset of the next message that will be written to it.
        """

    def begin(self, batch: Sequence[Received]) -> Begun:
        """Begin with messages, each partition's in its order.

        The next batch may begin before this one is finished; all else finds none begun.
        """

    def tick(self, elapsed_ns: int) -> Outcome:
        """Notice what it tells that time passed and nothing came.

        Args:
            elapsed_ns: Since the last call; only time in which everything sent had been read.
        """

    def snapshot(self) -> list[StateWrite]:
        """State of all that has changed since the last snapshot."""


class Refused(Exception):  # noqa: N818  (no error of ours: a message that cannot be used)
    """A message for the dead letters.

    Attributes:
        reason: One word, a label of metrics.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def dead_letter(topic: str, message: Received, reason: str, detail: str) -> Outgoing:
    """What is kept of a message that cannot be used."""
    value = message.value or b""
    headers = {
        "reason": reason,
        "detail": detail[:MAX_DETAIL],
        "source_topic": message.partition.topic,
        "source_partition": str(message.partition.number),
        "source_offset": str(message.offset),
        "source_bytes": str(len(value)),
        "sha256": hashlib.sha256(value).hexdigest(),
    }
    coded = {name: text.encode() for name, text in headers.items()}
    return Outgoing(topic, message.key, value[:DEAD_LETTER_BYTES], coded)
