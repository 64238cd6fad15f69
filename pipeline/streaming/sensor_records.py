"""What a worker's sensors have heard and learnt: from records of the changelog, and back into them.

Baselines are written under a key of their own each time, and the live record names the one that it
belongs to: the pair changes with one write, whenever a worker dies. A baseline that nothing names
any more is deleted late, for a worker that is being replaced may still be writing.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from secrets import token_hex
from typing import Any, Final

from pipeline.messages import State
from pipeline.records import (
    Header,
    key_of,
    name_of,
    read_body,
    read_header,
    unusable,
    write_record,
)
from pipeline.sensor import SensorMonitor
from pipeline.state import pack, unpack
from pipeline.streaming.stage import Partition, States, StateWrite

KEEP_OLD_BASE_S: Final = 60.0


@dataclass(slots=True)
class Known:
    """What is known of a sensor beside its monitor.

    Attributes:
        partition: Number of the partition that its messages lie in.
        positions: Topic -> offset of the last message heard.
        epoch: Of its records, see `pipeline.records.Header`.
        base: Number of the baseline on the changelog that the next record builds on.
    """

    partition: int
    positions: dict[str, int] = field(default_factory=dict)
    epoch: int = 0
    base: str = ""


class SensorRecords:
    """The records of all sensors of the partitions that are ours.

    Args:
        states: Newest records of the changelog.
        ends: Partition -> offset of the next message that will be written to it.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        states: States,
        ends: Mapping[Partition, int],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._states = states
        self._ends = dict(ends)
        self._clock = clock
        self._writer = token_hex(4)  # so that two workers never write one baseline's key
        self._written = 0
        self._dying: list[tuple[float, StateWrite]] = []
        self.known: dict[str, Known] = {}
        self.waiting: list[tuple[str, Header]] = []
        self._read_all()

    def _read_all(self) -> None:
        named: set[bytes] = set()
        bases: list[tuple[int, bytes]] = []
        for partition, key in self._states.keys():  # noqa: SIM118  (not a mapping)
            kind, sensor_id, _ = name_of(key)
            value = self._states.get(key)
            if kind == "base":
                bases.append((partition, key))
            elif kind == "live" and value is not None:
                header = _header(key, value)
                positions = self._believable(header.positions, partition)
                # What is written next knows of fewer messages, and must win nevertheless.
                epoch = header.epoch + (positions != header.positions)
                self.known[sensor_id] = Known(partition, positions, epoch, header.base)
                self.waiting.append((sensor_id, header))
                named.add(key_of("base", sensor_id, header.base))
        for partition, key in bases:
            if key not in named:
                self._let_die(partition, key)

    def _believable(self, positions: Mapping[str, int], partition: int) -> dict[str, int]:
        """Positions beyond the end of a topic are those of one that was deleted and made anew."""
        return {
            topic: offset
            for topic, offset in positions.items()
            if offset < self._ends.get(Partition(topic, partition), offset + 1)
        }

    def meet(self, sensor_id: str, partition: int) -> Known:
        """What is known of a sensor, of a new one as well."""
        return self.known.setdefault(sensor_id, Known(partition))

    def restore(self, sensor: SensorMonitor) -> bool:
        """Give a fresh sensor the state that the changelog holds of it.

        Returns:
            Whether there was one.

        Raises:
            StateError: for a damaged state, or one of another version, model or baseline.
        """
        key = key_of("live", sensor.sensor_id)
        base = self.known[sensor.sensor_id].base
        try:
            live = self._body(key)
            if live is None:
                return False
            sensor.import_state(live, self._body(key_of("base", sensor.sensor_id, base)))
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise unusable(key, error) from error
        return True

    def write(
        self, sensor: SensorMonitor, promised: Sequence[Mapping[str, Any]] = ()
    ) -> list[StateWrite]:
        """Records of what a sensor knows now; the baseline, where it is written, comes first.

        Args:
            sensor: Its monitor.
            promised: What is to be told once the records, of which the last names it, are stored.
        """
        known = self.known[sensor.sensor_id]
        header = Header(
            positions=dict(known.positions),
            epoch=known.epoch,
            base=known.base,
            deadline_ns=sensor.deadline_ns,
            heard_ns=sensor.event_ns,
            promised=[dict(one) for one in promised],
        )
        written: list[StateWrite] = []
        if sensor.baseline_changed:
            header = self._renew_base(sensor, known, header, written)
        body = write_record(header, pack(sensor.export_live()))
        return [*written, StateWrite(known.partition, key_of("live", sensor.sensor_id), body)]

    def _renew_base(
        self, sensor: SensorMonitor, known: Known, header: Header, written: list[StateWrite]
    ) -> Header:
        if known.base:
            self._let_die(known.partition, key_of("base", sensor.sensor_id, known.base))
        self._written += 1
        known.base = f"{self._writer}-{self._written}"
        header = replace(header, base=known.base)
        body = write_record(header, pack(sensor.export_baseline()))
        key = key_of("base", sensor.sensor_id, known.base)
        written.append(StateWrite(known.partition, key, body, first=True))
        return header

    def dead(self) -> list[StateWrite]:
        """Deletions that are due."""
        now_s = self._clock()
        due = [write for at_s, write in self._dying if at_s <= now_s]
        self._dying = [(at_s, write) for at_s, write in self._dying if at_s > now_s]
        return due

    def _let_die(self, partition: int, key: bytes) -> None:
        self._dying.append((self._clock() + KEEP_OLD_BASE_S, StateWrite(partition, key, None)))

    def _body(self, key: bytes) -> State | None:
        value = self._states.get(key)
        body = b"" if value is None else read_body(value)
        return unpack(body) if body else None


def _header(key: bytes, value: bytes) -> Header:
    try:
        return read_header(value)
    except ValueError as error:
        raise unusable(key, error) from error
