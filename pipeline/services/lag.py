"""A consumer group in, how far it is behind out, per partition."""

import time
from dataclasses import dataclass

from connectors.kafka import group, spans, topics
from connectors.kafka_access import Access
from connectors.kafka_records import first_times
from pipeline.service_settings import Kafka
from pipeline.services.topic_plan import read_by
from pipeline.services.topics import Role, group_of


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """How far a group is behind in a partition.

    Attributes:
        topic, partition: Which.
        committed: Offset of the next message to be read; None = never committed.
        end: Offset of the next message to be written.
        lag: Messages between them that are kept still.
        waiting_s: Age of the first of them by Kafka's stamp, s; None = not known, 0.0 = none.
    """

    topic: str
    partition: int
    committed: int | None
    end: int
    lag: int
    waiting_s: float | None


@dataclass(frozen=True, slots=True)
class GroupLag:
    """How far a group is behind.

    Attributes:
        group: Its name.
        exists: Whether Kafka knows it.
        state: Stable, Empty, Dead, PreparingRebalance or CompletingRebalance.
        members: Workers in it.
        partitions: Sorted by topic and number.
    """

    group: str
    exists: bool
    state: str
    members: int
    partitions: tuple[PartitionLag, ...]

    @property
    def total(self) -> int:
        """Messages not yet read."""
        return sum(one.lag for one in self.partitions)


def measure(access: Access, kafka: Kafka, role: Role, *, seconds: bool = True) -> GroupLag:
    """Look once.

    Args:
        access: Address and identity.
        kafka: Names of groups and topics.
        role: Whose group.
        seconds: Fetch the first message of each lagging partition to see how old it is.

    Raises:
        KafkaTrouble: Kafka does not answer or refuses.
    """
    found = group(access, group_of(kafka, role))
    existing = topics(access)
    names = {*read_by(kafka, role, existing), *(topic for topic, _ in found.committed)}
    held = spans(access, names & existing.keys())
    starts = {at: max(found.committed.get(at, 0), span.begin) for at, span in held.items()}
    behind = {at: start for at, start in starts.items() if start < held[at].end}
    stamps = first_times(access, behind) if seconds else {}
    now_ms = time.time() * 1000

    def waiting_s(at: tuple[str, int]) -> float | None:
        if at not in behind:
            return 0.0
        return None if at not in stamps else max(0.0, (now_ms - stamps[at]) / 1000)

    partitions = tuple(
        PartitionLag(
            *at, found.committed.get(at), span.end, max(0, span.end - starts[at]), waiting_s(at)
        )
        for at, span in held.items()
    )
    return GroupLag(found.name, found.exists, found.state, found.members, partitions)
