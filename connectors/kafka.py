"""Access in, what Kafka knows of topics, groups and offsets out, and changes of them.

Every call opens a client of its own, is bounded in time and fails with `KafkaTrouble` in words.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kafka import TopicPartition, errors
from kafka.admin import ConfigResource, OffsetSpec, OffsetTimestamp

from connectors.kafka_access import Access, KafkaTrouble
from connectors.kafka_client import TIMEOUT_S, ask

PartitionId = tuple[str, int]
"""Topic and number of a partition."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it is.

    Attributes:
        name: Name of the topic.
        partitions: Partitions.
        replication: Copies of the partition that has the fewest.
        config: Kafka's names of settings -> values as Kafka writes them.
    """

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group.

    Attributes:
        name: Name of the group.
        state: Stable, Empty, Dead (no such group), PreparingRebalance or CompletingRebalance.
        members: Consumers in it now.
        committed: Partition -> offset of the next message to be read.
    """

    name: str
    state: str
    members: int
    committed: Mapping[PartitionId, int]

    @property
    def exists(self) -> bool:
        """Whether Kafka knows it."""
        return self.state != "Dead" or bool(self.committed)


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets that a partition holds: `begin` is kept still, `end` is the next to be written."""

    begin: int
    end: int


def brokers(access: Access, *, timeout_s: float = TIMEOUT_S) -> int:
    """How many brokers there are."""
    return ask(access, lambda admin: len(admin.describe_cluster()["brokers"]), timeout_s=timeout_s)


def topics(
    access: Access, names: Iterable[str] | None = None, *, timeout_s: float = TIMEOUT_S
) -> dict[str, Topic]:
    """Topics that exist and that we may see, of these names or all; internal ones left out."""
    wanted = None if names is None else set(names)

    def find(admin: Any) -> dict[str, Topic]:
        found = {
            topic["name"]: topic["partitions"]
            for topic in admin.describe_topics()
            if not topic["is_internal"] and (wanted is None or topic["name"] in wanted)
        }
        if not found:
            return {}
        resources = [ConfigResource("TOPIC", name) for name in found]
        configs = admin.describe_configs(resources, config_filter="ALL")["topic"]
        return {name: _topic(name, parts, configs[name]) for name, parts in found.items()}

    return ask(access, find, timeout_s=timeout_s)


def _topic(name: str, partitions: Sequence[Any], config: Mapping[str, Any]) -> Topic:
    values = {key: entry["value"] for key, entry in config.items() if entry["value"] is not None}
    copies = min(len(partition["replica_nodes"]) for partition in partitions)
    return Topic(name, len(partitions), copies, values)


def create(access: Access, wanted: Sequence[Topic], *, timeout_s: float = TIMEOUT_S) -> None:
    """Make topics; those that exist by now are left as they are.

    Raises:
        KafkaTrouble: Kafka refuses one, for example with fewer brokers than copies.
    """
    asked = {
        topic.name: {
            "num_partitions": topic.partitions,
            "replication_factor": topic.replication,
            "configs": dict(topic.config),
        }
        for topic in wanted
    }

    def make(admin: Any) -> list[str]:
        answers = admin.create_topics(asked, raise_errors=False)["topics"]
        refused = [_refusal(answer) for answer in answers if answer["error_code"]]
        made = [answer["name"] for answer in answers if not answer["error_code"]]
        admin.wait_for_topics(made, timeout_ms=1000 * timeout_s)
        return [text for text in refused if text]

    if asked and (refused := ask(access, make, timeout_s=timeout_s)):
        raise KafkaTrouble("; ".join(refused))


def _refusal(answer: Mapping[str, Any]) -> str:
    kind = errors.for_code(answer["error_code"])
    if kind is errors.TopicAlreadyExistsError:
        return ""
    return f"topic {answer['name']} cannot be made: {answer['error_message'] or kind.__name__}"


def configure(
    access: Access, changes: Mapping[str, Mapping[str, str]], *, timeout_s: float = TIMEOUT_S
) -> None:
    """Change settings of topics: topic -> settings; what is not named stays.

    Raises:
        KafkaTrouble: Kafka refuses one.
    """
    resources = [ConfigResource("TOPIC", name, dict(config)) for name, config in changes.items()]
    if not resources:
        return
    done = ask(access, lambda admin: admin.alter_configs(resources), timeout_s=timeout_s)["topic"]
    refused = [f"topic {name}: {said}" for name, said in done.items() if said != "OK"]
    if refused:
        raise KafkaTrouble("; ".join(refused))


def grow(access: Access, counts: Mapping[str, int], *, timeout_s: float = TIMEOUT_S) -> None:
    """Add partitions until there are so many: topic -> partitions."""
    if counts:
        ask(access, lambda admin: admin.create_partitions(dict(counts)), timeout_s=timeout_s)


def group(access: Access, name: str, *, timeout_s: float = TIMEOUT_S) -> Group:
    """State of a consumer group; one that Kafka does not know is Dead."""

    def find(admin: Any) -> Group:
        described = admin.describe_groups([name])[name]
        until = time.monotonic() + timeout_s
        # A new broker, asked for a group for the first time, first makes a place for groups.
        while "Coordinator" in (described["error"] or "") and time.monotonic() < until:
            time.sleep(0.2)
            described = admin.describe_groups([name])[name]
        if described["error"] and "GroupIdNotFound" not in described["error"]:
            raise KafkaTrouble(f"group {name}: {described['error']}")
        offsets = admin.list_group_offsets({name: None})[name]
        committed = {(at.topic, at.partition): said.offset for at, said in offsets.items()}
        state = described["group_state"] or "Dead"
        return Group(name, state, len(described["members"]), committed)

    return ask(access, find, timeout_s=timeout_s)


def spans(
    access: Access, names: Iterable[str], *, timeout_s: float = TIMEOUT_S
) -> dict[PartitionId, Span]:
    """What each partition of these topics holds.

    Raises:
        KafkaTrouble: there is no such topic.
    """

    def find(admin: Any) -> dict[PartitionId, Span]:
        every = _partitions(admin, names)
        begin = admin.list_partition_offsets(dict.fromkeys(every, OffsetSpec.EARLIEST))
        end = admin.list_partition_offsets(dict.fromkeys(every, OffsetSpec.LATEST))
        return {
            (at.topic, at.partition): Span(begin[at].offset, end[at].offset) for at in sorted(every)
        }

    return ask(access, find, timeout_s=timeout_s)


def offsets_at(
    access: Access, names: Iterable[str], timestamp_ms: int, *, timeout_s: float = TIMEOUT_S
) -> dict[PartitionId, int | None]:
    """Offset of the first message not before a time, by Kafka's stamps; None = there is none."""

    def find(admin: Any) -> dict[PartitionId, int | None]:
        every = _partitions(admin, names)
        found = admin.list_partition_offsets(dict.fromkeys(every, OffsetTimestamp(timestamp_ms)))
        return {
            (at.topic, at.partition): said.offset if said.offset >= 0 else None
            for at, said in found.items()
        }

    return ask(access, find, timeout_s=timeout_s)


def _partitions(admin: Any, names: Iterable[str]) -> list[TopicPartition]:
    wanted = sorted(set(names))
    found = {topic["name"]: topic for topic in admin.describe_topics(wanted)} if wanted else {}
    for name in wanted:
        code = (
            found[name]["error_code"]
            if name in found
            else errors.UnknownTopicOrPartitionError.errno
        )
        if code:
            raise errors.for_code(code)(name)
    return [
        TopicPartition(name, partition["partition_index"])
        for name in wanted
        for partition in found[name]["partitions"]
    ]


def commit(
    access: Access, name: str, offsets: Mapping[PartitionId, int], *, timeout_s: float = TIMEOUT_S
) -> None:
    """Set the offsets of a group that nobody is in.

    Raises:
        KafkaTrouble: somebody is in it, or Kafka refuses a partition.
    """
    asked = {TopicPartition(*at): offset for at, offset in offsets.items()}
    if not asked:
        return
    # A copy: kafka-python empties what it is given.
    done = ask(
        access, lambda admin: admin.reset_group_offsets(name, dict(asked)), timeout_s=timeout_s
    )
    # Errors come back per partition, nothing is raised.
    refused = {
        at: said["error"] for at, said in done.items() if said["error"] is not errors.NoError
    }
    if refused:
        at, error = next(iter(refused.items()))
        raise KafkaTrouble(
            f"group {name}: {len(refused)} of {len(asked)} offsets were not set ({at.topic} "
            f"{at.partition}: {error.__name__}): is a worker running?"
        )
    missing = asked.keys() - done.keys()
    if missing:
        raise KafkaTrouble(f"group {name}: no answer for {len(missing)} of {len(asked)} offsets")
