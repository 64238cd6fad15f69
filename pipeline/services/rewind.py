"""A consumer group and a time in, its offsets and the state that must follow them back out.

Messages that are read again must not be skipped as already heard: the state is rewritten first, in
the partition it lies in and with a higher epoch, so that it wins over whatever a worker wrote that
was frozen meanwhile; offsets move last, for without them nothing is read again. What people said is
not read again: the offsets of the topic of commands stay, and so do the positions in the state.
"""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final

from connectors.kafka import PartitionId, Span, commit, group, offsets_at, spans, topics
from connectors.kafka_access import Access, KafkaTrouble
from connectors.kafka_records import Record, read_topic, send
from pipeline.records import Header, name_of, read_body, read_header, write_record
from pipeline.sensor import rewound
from pipeline.service_settings import Kafka
from pipeline.services.topic_plan import read_by
from pipeline.services.topics import Role, group_of, state_topic
from pipeline.state import pack, unpack

FORGOTTEN: Final[dict[Role, tuple[str, ...]]] = {"signals": ("live", "base"), "cases": ("case",)}


@dataclass(frozen=True, slots=True)
class Move:
    """Where a group is in a partition and where it is to be; `now` None = it never read there."""

    topic: str
    partition: int
    now: int | None
    to: int
    held: Span

    @property
    def again(self) -> int:
        """Messages that will be read again; negative: that will never be read."""
        start = self.held.begin if self.now is None else max(self.now, self.held.begin)
        return min(start, self.held.end) - self.to


@dataclass(frozen=True, slots=True)
class Rewind:
    """What is going to happen.

    Attributes:
        group: Consumer group.
        moves: One per partition.
        beyond: The time is after the newest message of every partition.
        state_topic: Changelog of the group.
        writes: Records that replace what the state topic holds.
        relearn: Nothing that was learnt is kept.
    """

    group: str
    moves: tuple[Move, ...]
    beyond: bool
    state_topic: str
    writes: tuple[Record, ...]
    relearn: bool


def plan(
    access: Access, kafka: Kafka, role: Role, to_ms: int | None, *, relearn: bool = False
) -> Rewind:
    """Find out what a rewind has to do; changes nothing.

    Args:
        access: Address and identity.
        kafka: Names of groups and topics.
        role: Whose group.
        to_ms: Time by Kafka's stamps; None = the oldest message that is kept.
        relearn: Forget baselines as well. Cases are made anew in any case.

    Raises:
        KafkaTrouble: the group has members, a topic is missing, or a record is damaged.
    """
    name = group_of(kafka, role)
    committed = _idle(access, name)
    existing = topics(access)
    read = read_by(kafka, role, existing)
    held = spans(access, read)
    found = {} if to_ms is None else offsets_at(access, read, to_ms)
    moves = tuple(
        Move(*at, committed.get(at), _target(at, span, found), span) for at, span in held.items()
    )
    changelog = state_topic(kafka, role)
    forget = relearn or role == "cases"
    writes: list[Record] = []
    if changelog in existing:
        with closing(read_topic(access, changelog)) as log:
            wanted = _forgotten(log, FORGOTTEN[role]) if forget else _heard_nothing(log, kafka)
            writes += wanted
    beyond = to_ms is not None and all(offset is None for offset in found.values())
    return Rewind(name, moves, beyond, changelog, tuple(writes), forget)


def carry_out(access: Access, wanted: Rewind) -> None:
    """Do it: state first, then offsets; doing it twice is doing it once.

    Raises:
        KafkaTrouble: a worker has joined meanwhile, or Kafka refuses.
    """
    _idle(access, wanted.group)
    if wanted.writes:
        send(access, wanted.state_topic, wanted.writes)
    commit(access, wanted.group, {(move.topic, move.partition): move.to for move in wanted.moves})


def newest(records: Iterable[Record], kind: str) -> dict[tuple[int, bytes], bytes]:
    """(partition, key) -> record of that kind that knows most; a tombstone begins anew.

    Raises:
        KafkaTrouble: for a record that cannot be read.
    """
    best: dict[tuple[int, bytes], tuple[tuple[int, int], bytes]] = {}
    for record in records:
        key, place = record.key or b"", (record.partition or 0, record.key or b"")
        if name_of(key)[0] != kind:
            continue
        if record.value is None:
            best.pop(place, None)
            continue
        rank = _header(key, record.value).rank
        if place not in best or rank >= best[place][0]:
            best[place] = (rank, record.value)
    return {place: value for place, (_, value) in best.items()}


def _idle(access: Access, name: str) -> dict[PartitionId, int]:
    """Offsets of a group that nobody is in."""
    found = group(access, name)
    if found.members or found.state not in ("Empty", "Dead"):
        count = f"{found.members} member{'' if found.members == 1 else 's'}"
        raise KafkaTrouble(
            f"group {name} has {count} ({found.state}): stop its workers first; one that was "
            "killed is a member until its session ends (ECHOWATCH_WORKER__SESSION_TIMEOUT_S)"
        )
    return dict(found.committed)


def _target(at: PartitionId, span: Span, found: dict[PartitionId, int | None]) -> int:
    if at not in found:
        return span.begin
    offset = found[at]
    return span.end if offset is None else offset


def _heard_nothing(records: Iterable[Record], kafka: Kafka) -> Iterable[Record]:
    """Live records that keep what was learnt and have heard no signal yet."""
    for (partition, key), value in newest(records, "live").items():
        old = _header(key, value)
        said = {topic: at for topic, at in old.positions.items() if topic == kafka.commands}
        # What was promised of orders, and which baseline is meant, holds still.
        header = replace(old, positions=said, epoch=old.epoch + 1, deadline_ns=0, heard_ns=0)
        body = read_body(value)
        try:
            body = pack(rewound(unpack(body))) if body else body
        except ValueError as error:
            raise _damaged(key, error) from error
        yield Record(partition, -1, key, write_record(header, body))


def _forgotten(records: Iterable[Record], kinds: Iterable[str]) -> Iterable[Record]:
    """Records that know nothing, but outrank what a frozen worker may still write."""
    epochs: dict[tuple[int, bytes], int | None] = {}
    for record in records:
        if record.key is None or name_of(record.key)[0] not in kinds:
            continue
        place = (record.partition or 0, record.key)
        if record.value is None:
            epochs[place] = None
        else:
            epochs[place] = max(epochs.get(place) or 0, _epoch(record.value))
    for (partition, key), epoch in epochs.items():
        if epoch is None:
            continue
        yield Record(partition, -1, key, None)
        if name_of(key)[0] != "base":
            yield Record(partition, -1, key, write_record(Header(epoch=epoch + 1), b""))


def _epoch(value: bytes) -> int:
    """Of a record; 0 of a damaged one, which is being forgotten."""
    try:
        return read_header(value).epoch
    except ValueError:
        return 0


def _header(key: bytes, value: bytes) -> Header:
    try:
        return read_header(value)
    except ValueError as error:
        raise _damaged(key, error) from error


def _damaged(key: bytes, error: ValueError) -> KafkaTrouble:
    return KafkaTrouble(f"state {key.decode(errors='replace')}: {error}; --relearn forgets it")
