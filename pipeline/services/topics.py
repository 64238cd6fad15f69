"""Settings of Kafka in, the topics and consumer groups that they mean out.

Sensors, what people say about them and their state must lie in the same partition of their topics,
so that a worker that is given a partition has all three: these topics have equal partition counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from pipeline.service_settings import Kafka

Role = Literal["signals", "cases"]
ROLES: Final[tuple[Role, ...]] = ("signals", "cases")

MIB: Final = 1 << 20
# Kafka's own default: 1 MiB and the head of a batch.
MESSAGE_BYTES: Final = MIB + 12
# A refused message travels on with its headers and reasons.
DEAD_LETTER_BYTES: Final = 2 * MIB
# A baseline with its bank is the largest record of a state.
STATE_BYTES: Final = 16 * MIB
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
TRANSITION_DAYS: Final = 30
DEAD_LETTER_DAYS: Final = 14
# A shelving ends after a week; who said what is asked for a year.
COMMAND_DAYS: Final = 365
# Pictures of health are taken anew after 90 days of running.
SNAPSHOT_DAYS: Final = 730


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """How a topic must be.

    Attributes:
        name: Name of the topic.
        kind: What it holds: signals, transitions, alarms, commands, snapshots, dead-letters or
            state.
        partitions: Partitions.
        replication: Copies.
        config: Kafka's names of settings -> values as Kafka writes them.
    """

    name: str
    kind: str
    partitions: int
    replication: int
    config: Mapping[str, str]


def group_of(kafka: Kafka, role: Role) -> str:
    """Consumer group, and Faust's application id, of the workers of a role.

    >>> group_of(Kafka(group="plant"), "signals")
    'plant-signals'
    """
    return f"{kafka.group}-{role}"


def state_topic(kafka: Kafka, role: Role) -> str:
    """Changelog in which the workers of a role keep their state.

    >>> state_topic(Kafka(), "cases")
    'echowatch-cases-state-changelog'
    """
    return f"{group_of(kafka, role)}-state-changelog"


def specs(kafka: Kafka) -> tuple[TopicSpec, ...]:
    """All topics that these settings need, signals first."""
    max_gb = kafka.retention_gb
    retention = {
        "cleanup.policy": "delete",
        "retention.ms": str(round(kafka.retention_h * HOUR_MS)),
        "retention.bytes": "-1" if max_gb is None else str(round(max_gb * 1e9)),
    }
    compact = {"cleanup.policy": "compact"}
    seen = {"cleanup.policy": "compact,delete", "retention.ms": str(SNAPSHOT_DAYS * DAY_MS)}
    said = {"cleanup.policy": "compact,delete", "retention.ms": str(COMMAND_DAYS * DAY_MS)}
    named = [
        *((name, "signals", retention) for name in kafka.signals),
        (kafka.transitions, "transitions", _kept(TRANSITION_DAYS)),
        (kafka.alarms, "alarms", compact),
        (kafka.commands, "commands", said),
        (kafka.snapshots, "snapshots", seen),
        (kafka.dead_letters, "dead-letters", _kept(DEAD_LETTER_DAYS, DEAD_LETTER_BYTES)),
        *((state_topic(kafka, role), "state", state_config()) for role in ROLES),
    ]
    return tuple(_spec(kafka, name, kind, config) for name, kind, config in named)


def _spec(kafka: Kafka, name: str, kind: str, config: Mapping[str, str]) -> TopicSpec:
    full = {"max.message.bytes": str(MESSAGE_BYTES), **config}
    if kafka.replication >= 3:  # with fewer copies one lost broker would stop all writing
        full["min.insync.replicas"] = "2"
    return TopicSpec(name, kind, kafka.partitions, kafka.replication, MappingProxyType(full))


def _kept(days: int, max_bytes: int = MESSAGE_BYTES) -> dict[str, str]:
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(days * DAY_MS),
        "max.message.bytes": str(max_bytes),
    }


def state_config() -> dict[str, str]:
    """Kafka's settings of a changelog."""
    return {
        "cleanup.policy": "compact",
        "max.message.bytes": str(STATE_BYTES),
        # Small segments and an early cleaner: a worker reads all of it when it takes over.
        "segment.bytes": str(16 * MIB),
        "segment.ms": str(HOUR_MS // 12),
        "min.cleanable.dirty.ratio": "0.2",
        # An old record of a worker that was frozen must not push a newer one out before a reader,
        # who ranks them, has seen both.
        "min.compaction.lag.ms": str(HOUR_MS // 6),
    }
