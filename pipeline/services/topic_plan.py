"""Topics as they should be and as they are in, what to make, change or refuse out.

Nothing shrinks: what would delete messages or hide them from their state is refused with its
reason. As a half changed set of topics is worse than an old one, one refusal stops all changes.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.service_settings import Kafka
from pipeline.services.topics import Role, TopicSpec

# Where more is kept than asked for, less would lose messages.
KEPT: Final = ("retention.ms", "retention.bytes", "max.message.bytes")
# Where more than asked for only adds safety.
AT_LEAST: Final = ("min.insync.replicas", "min.compaction.lag.ms")
UNLIMITED: Final = float("inf")
CHANGELOG: Final = "-changelog"
# A sensor, what is said about it and its state lie in partitions of one number.
TOGETHER: Final = ("signals", "transitions", "commands", "state")


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which a topic is not as it should be.

    Attributes:
        topic: Name of the topic.
        what: partitions, replication or one of Kafka's names of settings.
        found, wanted: As Kafka writes them; `found` is empty for a topic that is missing.
        refusal: Why it cannot be changed; empty where it can.
    """

    topic: str
    what: str
    found: str
    wanted: str
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What separates the topics that are from those that should be.

    Attributes:
        missing: Topics to be made.
        differences: Of topics that exist.
        uneven: Partition counts that differ though they must not, in words; empty if all is well.
    """

    missing: tuple[TopicSpec, ...]
    differences: tuple[Difference, ...]
    uneven: str

    @property
    def refusals(self) -> tuple[Difference, ...]:
        """Differences that must be settled by a person."""
        return tuple(one for one in self.differences if one.refusal)

    @property
    def fits(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.missing or self.differences or self.uneven)

    def growth(self) -> dict[str, int]:
        """Topic -> partitions that it is to have."""
        return {d.topic: int(d.wanted) for d in self.differences if d.what == "partitions"}

    def settings(self) -> dict[str, dict[str, str]]:
        """Topic -> settings that change."""
        changes: dict[str, dict[str, str]] = {}
        for one in self.differences:
            if one.what not in ("partitions", "replication"):
                changes.setdefault(one.topic, {})[one.what] = one.wanted
        return changes


def plan(wanted: Sequence[TopicSpec], found: Mapping[str, TopicSpec], pattern: str | None) -> Plan:
    """What to do.

    Args:
        wanted: Topics as they should be.
        found: Name -> topic as it is; others than the wanted ones may be among them.
        pattern: Regular expression of further signal topics; None = there are none.
    """
    stateful = [spec.name for spec in wanted if spec.kind == "state" and spec.name in found]
    differences = [
        difference
        for spec in wanted
        if spec.name in found
        for difference in _differences(spec, found[spec.name], stateful)
    ]
    missing = tuple(spec for spec in wanted if spec.name not in found)
    together = {spec.name for spec in wanted if spec.kind in TOGETHER}
    together |= set(matching(pattern, found, {spec.name for spec in wanted}))
    counts = {name: found[name].partitions for name in sorted(together) if name in found}
    return Plan(missing, tuple(differences), _uneven(counts))


def matching(pattern: str | None, names: Iterable[str], known: Iterable[str] = ()) -> list[str]:
    """Names that match a pattern of signal topics as a whole; no known ones, no changelogs.

    >>> matching("plant-.", ["plant-1", "sensors.signals", "plant-2", "plant-10"], ["plant-2"])
    ['plant-1']
    """
    if pattern is None:
        return []
    left_out = set(known)
    return sorted(
        name
        for name in names
        if re.fullmatch(pattern, name) and name not in left_out and not name.endswith(CHANGELOG)
    )


def read_by(kafka: Kafka, role: Role, existing: Iterable[str]) -> list[str]:
    """Topics whose messages the workers of a role read; what people say is read beside them."""
    if role == "cases":
        return [kafka.transitions]
    others = (kafka.transitions, kafka.alarms, kafka.commands, kafka.snapshots, kafka.dead_letters)
    return [*kafka.signals, *matching(kafka.signals_pattern, existing, (*kafka.signals, *others))]


def _uneven(counts: Mapping[str, int]) -> str:
    if len(set(counts.values())) <= 1:
        return ""
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    return (
        f"partition counts differ: {listed}; signals, transitions, commands and state must have "
        "equally many, or a sensor and its state are in different hands"
    )


def _differences(spec: TopicSpec, found: TopicSpec, stateful: Sequence[str]) -> list[Difference]:
    name, differences = spec.name, []
    if spec.partitions != found.partitions:
        refusal = _growth_refusal(spec, found, stateful)
        pair = (str(found.partitions), str(spec.partitions))
        differences.append(Difference(name, "partitions", *pair, refusal))
    if spec.replication != found.replication:
        pair = (str(found.replication), str(spec.replication))
        refusal = "copies are moved by Kafka's own tool, kafka-reassign-partitions"
        differences.append(Difference(name, "replication", *pair, refusal))
    for key, value in spec.config.items():
        is_now = found.config.get(key, "")
        if not _same(key, is_now, value):
            refusal = _shrinkage(key, is_now, value)
            differences.append(Difference(name, key, is_now, value, refusal))
    return differences


def _growth_refusal(spec: TopicSpec, found: TopicSpec, stateful: Sequence[str]) -> str:
    if spec.partitions < found.partitions:
        return "partitions cannot be taken away: set ECHOWATCH_KAFKA__PARTITIONS, or delete it"
    if stateful and spec.kind != "dead-letters":
        return (
            f"{stateful[0]} exists: sensors would move to other partitions, away from their "
            "state; use a new ECHOWATCH_KAFKA__GROUP and new topics"
        )
    return ""


def _same(key: str, found: str, wanted: str) -> bool:
    if key == "cleanup.policy":
        return set(found.split(",")) == set(wanted.split(","))
    if key in AT_LEAST:
        return _amount(found) >= _amount(wanted)
    try:
        return float(found) == float(wanted)
    except ValueError:
        return found == wanted


def _shrinkage(key: str, found: str, wanted: str) -> str:
    if key == "cleanup.policy":
        deletes = "delete" in wanted.split(",") and "delete" not in found.split(",")
        return "it would begin to delete what is kept for ever now" if deletes else ""
    if key in KEPT and _amount(wanted) < _amount(found):
        return "nothing is shrunk: messages would be lost or refused"
    return ""


def _amount(text: str) -> float:
    """A number of bytes, copies or ms; -1 is without limit, and what is not set is nothing."""
    amount = float(text or 0)
    return UNLIMITED if amount < 0 else amount
