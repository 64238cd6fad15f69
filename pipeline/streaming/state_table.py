"""Records of the changelog in, those that know most out: a Faust table.

Faust recovers a table before the first event of a new assignment. Its own stores keep what was
written last; a worker that was frozen and goes on may write an old record after a newer one, so
this one compares what the records know (`pipeline.records.Header.rank`). Values stay as
they are written: the table is read by key, never by its own codecs.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import Any, cast

import faust
from faust.stores import memory
from faust.tables.table import Table
from yarl import URL

from pipeline.records import read_header
from pipeline.services.topics import state_config
from pipeline.state import StateError


class RecordStore(memory.Store[bytes, bytes]):
    """In memory; a record replaces one that knows less. A tombstone replaces all."""

    logger = logging.getLogger("faust.stores")  # its starts and stops are Faust's, not ours

    def put(self, key: bytes, value: bytes | None, partition: int) -> None:
        """Take one record, in the order of the log."""
        if value is None:
            self.data.pop(key, None)
            self._key_partition.pop(key, None)
            return
        old = self.data.get(key)
        if old is None or _rank(value) >= _rank(old):
            self.data[key] = value
            self._key_partition[key] = partition

    def apply_changelog_batch(
        self,
        batch: Iterable[Any],
        to_key: Callable[[Any], Any],  # noqa: ARG002  (Faust's signature; keys are raw bytes)
        to_value: Callable[[Any], Any],  # noqa: ARG002
    ) -> None:
        """Take records of the changelog."""
        for event in batch:
            message = event.message
            self.put(message.key, message.value, message.partition)

    def keys_by_partition(self) -> Iterator[tuple[int, bytes]]:
        """(partition, key) of every record."""
        yield from ((partition, key) for key, partition in list(self._key_partition.items()))


def _rank(value: bytes) -> tuple[float, int]:
    """A record that cannot be read ranks first: it must stop whoever needs it, not be hidden."""
    try:
        return read_header(value).rank
    except StateError:
        return (inf, 0)


class StateTable(Table[bytes, bytes]):
    """A table of state records, written with `put` once the broker has acknowledged them.

    Attributes:
        restored: Records that were read back from the changelog so far.
    """

    logger = logging.getLogger("faust.tables")
    restored = 0

    def _new_store(self) -> RecordStore:
        return RecordStore(
            URL("memory://"),
            self.app,
            self,
            table_name=self.name,
            key_type=self.key_type,
            key_serializer=self.key_serializer,
            value_serializer=self.value_serializer,
            value_type=self.value_type,
            loop=self.loop,
            options=self.options,
        )

    async def on_changelog_event(self, event: Any) -> None:
        """Count a record that is read back, as each is before it is applied."""
        self.restored += 1
        await super().on_changelog_event(event)

    @property
    def records(self) -> RecordStore:
        """The records."""
        return cast("RecordStore", self.data)

    def record(self, key: bytes) -> bytes | None:
        """Value of a record, None where there is none."""
        return cast("bytes | None", self.records.data.get(key))

    def put(self, key: bytes, value: bytes | None, partition: int) -> None:
        """Keep a record that is on the changelog."""
        self.records.put(key, value, partition)


def add_table(app: faust.App, *, partitions: int) -> StateTable:
    """A state table for an app; its changelog is made as `echowatch topics create` would."""
    table = StateTable(
        app,
        name="state",
        key_type=bytes,
        value_type=bytes,
        schema=faust.Schema(
            key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
        ),
        partitions=partitions,
        extra_topic_configs=state_config(),
    )
    return cast("StateTable", app.tables.add(table))
