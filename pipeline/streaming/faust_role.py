"""One role of a worker as a Faust app: messages of our partitions in, offsets committed out.

Faust gives the partitions, the changelog and the heartbeats; `Delivery` decides what is read and
committed. The app acknowledges nothing by itself (`noack`): its own commits run past messages that
are not finished. An exception in the agent crashes the app: its default acknowledges and skips.
"""

import asyncio
import logging
import tempfile
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import faust
import mode
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
)
from faust.exceptions import ConsumerNotStarted, ProducerSendError
from faust.types import TP
from yarl import URL

from connectors.kafka_access import Access
from pipeline.service_settings import Kafka, WorkerSettings
from pipeline.services.topics import MESSAGE_BYTES, STATE_BYTES, Role, group_of
from pipeline.streaming.delivery import Delivery
from pipeline.streaming.faust_recovery import Tables
from pipeline.streaming.faust_transport import transport_of
from pipeline.streaming.metrics import Metrics
from pipeline.streaming.stage import Outgoing, Partition, Received, StateWrite
from pipeline.streaming.state_table import StateTable, add_table

log = logging.getLogger(__name__)

FATAL: Final = (
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
    ClusterAuthorizationFailedError,
    InvalidTopicError,
)
# What the driver raises before it has a connection of its own.
NOT_READY: Final = (AssertionError, ConsumerNotStarted)
# Messages between the consumer and the agent: few, for a full buffer stalls all topics of an app.
BUFFER_MESSAGES: Final = 512
POLL_MESSAGES: Final = 64
# Only its answer tells a worker that another one has left or joined.
HEARTBEAT_S: Final = 1.0
REVOKE_S: Final = 2.5
# Partitions held for less were snatched away: two workers of one name do so about twice a second.
HELD_S: Final = 2.0
STOP_S: Final = 4.0
LOOK_S: Final = 2.0
AGAIN_S: Final = 0.5
# What Kafka said is believed for this long.
FRESH_S: Final = 3 * LOOK_S


def make_app(
    role: Role, access: Access, kafka: Kafka, worker: WorkerSettings, partitions: int
) -> faust.App:
    """A Faust app with the settings that were measured to lose nothing."""
    session_s = worker.session_timeout_s
    brokers = [URL(f"kafka://{address}") for address in access.bootstrap]
    app = faust.App(
        group_of(kafka, role),
        broker=brokers,
        broker_credentials=_credentials(access),
        store="memory://",
        datadir=tempfile.gettempdir(),  # the memory store writes nothing
        autodiscover=False,
        web_enabled=False,
        topic_partitions=partitions,
        topic_replication_factor=kafka.replication,
        topic_disable_leader=True,
        consumer_group_instance_id=worker.instance_id,
        broker_session_timeout=session_s,
        broker_heartbeat_interval=min(HEARTBEAT_S, session_s / 5),
        broker_request_timeout=max(40.0, session_s + 5.0),
        # A full ledger stops polling for as long as InfluxDB is down.
        broker_max_poll_interval=86_400.0,
        broker_max_poll_records=POLL_MESSAGES,
        consumer_max_fetch_size=4 << 20,
        consumer_metadata_max_age_ms=5000,
        consumer_auto_offset_reset="earliest",
        stream_buffer_maxsize=BUFFER_MESSAGES,
        stream_wait_empty=False,
        stream_recovery_delay=0.0,
        table_standby_replicas=0,
        producer_acks=-1,
        producer_max_request_size=STATE_BYTES,
        # With the 16 kB of Faust each state of a checkpoint took a request of its own.
        producer_max_batch_size=MESSAGE_BYTES // 2,
        agent_supervisor="mode.CrashingSupervisor",
        TableManager=Tables,
    )
    app.transport = transport_of(app, brokers)
    return app


def _credentials(access: Access) -> Any:
    context = access.tls()
    if access.authenticated:
        return faust.SASLCredentials(
            username=access.username,
            password=access.password,
            mechanism=access.mechanism,
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context=context)


def _by_partition(offsets: Mapping[TP, int]) -> dict[Partition, int]:
    return {Partition(tp.topic, tp.partition): offset for tp, offset in offsets.items()}


def start(first: int, committed: int, end: int | None) -> int:
    """Offset of the first message to take of a partition.

    Args:
        first: Oldest message that is kept.
        committed: Where the group is; 0 = nowhere.
        end: Of the next message that will be written. A group beyond it was in a log that is
            gone or cut off: Kafka then gives the oldest message, and so it is the one to wait for.

    >>> start(3, 7, 9), start(3, 0, 9), start(3, 20, 9)
    (7, 3, 3)
    """
    return first if end is not None and committed > end else max(first, committed)


@dataclass(frozen=True, slots=True)
class _OurStates:
    """Records of the partitions that are ours."""

    table: StateTable
    numbers: frozenset[int]

    def get(self, key: bytes) -> bytes | None:
        return self.table.record(key)

    def keys(self) -> Iterator[tuple[int, bytes]]:
        for number, key in self.table.records.keys_by_partition():
            if number in self.numbers:
                yield number, key


class FaustRole:
    """A running app.

    Args:
        role: signals or cases.
        topics: To read; all with the same number of partitions.
        partitions: That number.
        access, kafka, worker: How to reach Kafka, and how to work.
        metrics: Of this role.

    Attributes:
        delivery: What messages are given to; to be set before `start`.
        assigned: Partitions that are ours.
        lags: (topic, partition) of these -> messages not yet acknowledged, as Kafka said last.
        settled: Times that we got our partitions and their state.
        unsettled: Times in a row that the group began anew before we had our partitions.
        snatched: Times in a row that they were taken away almost as soon as we had them.
        rooted: Whether we once had them for longer.
        left: False where `stop` could not wait for the end: something may go on in the group.
    """

    delivery: Delivery

    def __init__(
        self,
        role: Role,
        topics: Sequence[str],
        partitions: int,
        *,
        access: Access,
        kafka: Kafka,
        worker: WorkerSettings,
        metrics: Metrics,
    ) -> None:
        self.role = role
        self.app = make_app(role, access, kafka, worker, partitions)
        self._table = add_table(self.app, partitions=partitions)
        self._metrics = metrics
        self._ends: dict[Partition, int] = {}
        self._fetched: dict[Partition, int] = {}
        self._looked_s = -FRESH_S
        self.assigned: frozenset[Partition] = frozenset()
        self.lags: dict[tuple[str, int], float] = {}
        self.left = True
        self.settled = self.unsettled = self.snatched = 0
        self.rooted = False
        self._settled_s = -HELD_S
        source = self.app.topic(
            *topics, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
        )
        self.app.agent(
            source,
            name=f"echowatch.{role}",
            concurrency=1,
            supervisor_strategy=mode.CrashingSupervisor,
        )(self._read)
        self._topics = frozenset(topics)
        signals: Any = self.app  # Faust's types of signals ask for less than they send
        signals.on_partitions_revoked.connect(self._revoked)
        signals.on_rebalance_complete.connect(self._assigned)

    async def _read(self, stream: Any) -> None:
        async for event in stream.noack().events():
            message = event.message
            received = Received(
                Partition(message.topic, message.partition),
                message.offset,
                message.key,
                message.value,
                dict(message.headers or ()),
                time.monotonic(),
            )
            await self.delivery.admit(received, message.generation_id)

    async def _revoked(self, _app: Any, *_arguments: Any, **_named: Any) -> None:
        log.info("%s: %d partitions given back", self.role, len(self.assigned))
        self.unsettled += 1
        held_s = time.monotonic() - self._settled_s
        self.snatched = self.snatched + 1 if held_s < HELD_S else 0
        self.rooted |= self.settled > 0 and held_s >= HELD_S
        await self.delivery.revoke(REVOKE_S)
        self._give_back()

    def _give_back(self) -> None:
        self._metrics.forget_partitions(self.lags)
        self.lags.clear()
        self.assigned = frozenset()

    async def _assigned(self, _app: Any, *_arguments: Any, **_named: Any) -> None:
        generation = self.app.consumer_generation_id
        ours = {tp for tp in self.app.consumer.assignment() if tp.topic in self._topics}
        found = await self._ends_and_starts(generation, ours)
        if found is None:
            return  # taken away again meanwhile
        self._ends, starts = found
        self.assigned = frozenset(Partition(tp.topic, tp.partition) for tp in ours)
        states = _OurStates(self._table, frozenset(tp.partition for tp in ours))
        await self.delivery.assign(generation, states, self._ends, starts)
        self._metrics.assigned_partitions.set(len(states.numbers))
        self.settled += 1
        self.unsettled = 0
        self._settled_s = time.monotonic()
        numbers = ", ".join(str(n) for n in sorted(states.numbers))
        log.info("%s: partitions %s are ours", self.role, numbers or "none")

    async def _ends_and_starts(
        self, generation: int, ours: set[TP]
    ) -> tuple[dict[Partition, int], dict[Partition, int]] | None:
        """Where our partitions end, and where we begin; None where they are ours no more."""
        if not ours:
            return {}, {}
        consumer: Any = self.app.consumer  # its interface leaves the committed offsets out
        while generation == self.app.consumer_generation_id and not self.app.should_stop:
            try:
                ends = await consumer.highwaters(*ours)
                first = await consumer.earliest_offsets(*ours)
                committed = await consumer.seek_to_committed()
            except (TimeoutError, KafkaError, OSError, AssertionError) as error:
                log.debug("%s: Kafka does not say where we begin: %r", self.role, error)
                await asyncio.sleep(AGAIN_S)
                continue
            starts = {
                tp: start(first.get(tp) or 0, committed.get(tp) or 0, ends.get(tp)) for tp in ours
            }
            return _by_partition(ends), _by_partition(starts)
        return None

    # What `Delivery` asks of Kafka.

    async def send(self, message: Outgoing) -> Awaitable[Any]:
        """Queue one message; the awaitable ends when the broker has it."""
        sent: Awaitable[Any] = await self.app.producer.send(
            message.topic,
            message.key,
            message.value,
            message.partition,
            None,
            dict(message.headers),
        )
        return sent

    def transient(self, error: BaseException) -> bool:
        """Whether sending again may help."""
        cause = error.__cause__ if isinstance(error, ProducerSendError) else error
        return isinstance(cause, KafkaError | OSError) and not isinstance(cause, FATAL)

    def stored(self, write: StateWrite) -> None:
        """A state record is on the changelog."""
        self._table.put(write.key, write.value, write.partition)

    async def seek(self, partition: Partition, offset: int) -> None:
        """Read a partition again from this offset; never raises."""
        log.info("%s: reading %s/%d again from %d", self.role, *partition, offset)
        try:
            async with asyncio.timeout(LOOK_S):
                await self.app.consumer.seek_wait({TP(*partition): offset})
        except (TimeoutError, KafkaError, OSError, AssertionError) as error:
            log.debug("%s: could not: %r", self.role, error)

    async def commit(self, offsets: Mapping[Partition, int]) -> bool:
        """Commit the offsets of the next messages; False where the partitions are not ours."""
        if not offsets:
            return True
        wanted = {TP(p.topic, p.number): offset for p, offset in offsets.items()}
        # Faust's own door commits what was acknowledged; this one commits what it is told to.
        consumer: Any = self.app.consumer
        done = await consumer._commit(wanted)  # noqa: SLF001
        return bool(done)

    def caught_up(self) -> bool:
        """Whether Kafka has answered just now that nothing waits to be read."""
        fresh = time.monotonic() - self._looked_s < FRESH_S
        return fresh and not self.delivery.waiting and self.waiting == 0

    @property
    def waiting(self) -> int:
        """Messages in Kafka that we have not read, as it said last."""
        return sum(max(0, end - self._position(p, end)) for p, end in self._ends.items())

    def _position(self, partition: Partition, end: int) -> int:
        read = self.delivery.read.get(partition)
        return self._fetched.get(partition, end) if read is None else read + 1

    @property
    def joined(self) -> int:
        """Grows while we come by our partitions and their state."""
        return self.settled + self._table.restored

    @property
    def broker_silent_s(self) -> float:
        """Seconds since Kafka answered last."""
        return time.monotonic() - self._looked_s

    @property
    def failure(self) -> BaseException | None:
        """What the app has crashed of."""
        reason: BaseException | None = self.app.crash_reason
        return reason

    async def start(self) -> None:
        """Join the group."""
        self._looked_s = time.monotonic()
        await self.app.start()

    async def look(self) -> None:
        """Ask Kafka for the ends of our partitions, for lag and for silence; never raises."""
        ours = [TP(p.topic, p.number) for p in self.assigned]
        # One that is not ours tells as well whether Kafka answers, in the midst of a rebalance.
        asked = ours or [TP(min(self._topics), 0)]
        try:
            async with asyncio.timeout(LOOK_S + 1.0):
                ends = await self.app.consumer.highwaters(*asked)
                unread = [tp for tp in ours if Partition(*tp) not in self.delivery.read]
                fetched = {Partition(*tp): await self.app.consumer.position(tp) for tp in unread}
        except (TimeoutError, KafkaError, OSError, KeyError, *NOT_READY) as error:
            log.debug("Kafka does not answer: %r", error)
            return
        self._ends = {Partition(*tp): ends[tp] for tp in ours}
        self._fetched = {p: offset for p, offset in fetched.items() if offset is not None}
        self._looked_s = time.monotonic()
        await self.delivery.go_on(self._ends)
        acknowledged = self.delivery.checkpoints.committed
        for partition in self.assigned:
            end = self._ends.get(partition, 0)
            behind = max(0, end - acknowledged.get(partition, self._position(partition, end)))
            self._metrics.lag.labels(partition.topic, str(partition.number)).set(behind)
            self.lags[partition] = behind

    async def stop(self, patience_s: float) -> bool:
        """Finish what was processed, leave the group.

        Returns:
            Whether everything processed is acknowledged.
        """
        finished = await self.delivery.close(patience_s)
        self._give_back()
        try:
            async with asyncio.timeout(STOP_S):
                await self.app.stop()
        except (TimeoutError, RuntimeError, KafkaError) as error:
            log.warning("%s: left the group without waiting: %r", self.role, error)
            self.left = False
        return finished
