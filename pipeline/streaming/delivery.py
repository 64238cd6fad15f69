"""Messages in; results stored, state on the changelog, and only then acknowledgements out.

One `Delivery` per role. Messages wait in the ledger; all that wait or come within a moment, up to a
cost, are one micro-batch for the stage, which runs in one thread. A checkpoint is cut every few
seconds: results up to the cut are confirmed by InfluxDB and Kafka, then the states are written,
then the messages are acknowledged. While InfluxDB or Kafka cannot take results, checkpoints wait,
the ledger fills, reading stops, and Kafka keeps what comes: nothing is dropped.
"""

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType

from pipeline.streaming.checkpoints import Checkpoints, Cut
from pipeline.streaming.ledger import Ledger
from pipeline.streaming.metrics import Metrics
from pipeline.streaming.outbox import Broker, Outbox, Sink
from pipeline.streaming.stage import Outgoing, Partition, Received, Stage, States
from pipeline.streaming.stage_thread import Done, StageThread
from pipeline.streaming.turns import Turns

log = logging.getLogger(__name__)

TICK_S = 1.0
TICK_NS = round(TICK_S * 1e9)
# Of a slow stream, what comes within this time is one micro-batch: with nano, 100 windows a second
# take half a core instead of nine tenths.
GATHER_S = 0.05
# Of one message: headers, key and Python's own.
OVERHEAD_BYTES = 1024


class Delivery:
    """Carries messages to a stage and its results away.

    Args:
        stage: What is done with messages; called in one thread of its own.
        sink: InfluxDB.
        broker: Kafka.
        state_topic: Changelog of the state records.
        metrics: Of this role.
        checkpoint_s: Seconds between checkpoints.
        trust_s: See `pipeline.streaming.watchdog.Standing`.
        max_bytes, max_messages: Read but not acknowledged; at these reading stops.
        cost: Message -> its share of a micro-batch; a batch ends at 1.

    Attributes:
        checkpoints: What brings cuts of the stream to their end.
        lost: What the stage has failed of where `run` did not call it.
    """

    def __init__(
        self,
        stage: Stage,
        sink: Sink,
        broker: Broker,
        *,
        state_topic: str,
        metrics: Metrics,
        checkpoint_s: float,
        trust_s: float,
        max_bytes: float,
        max_messages: int,
        cost: Callable[[Received], float],
    ) -> None:
        self._stage = StageThread(stage, sink)
        self._sink = sink
        self._broker = broker
        self._metrics = metrics
        self._checkpoint_s = checkpoint_s
        self._cost = cost
        self._max_bytes = max_bytes
        self._ledger = Ledger(max_bytes=max_bytes, max_messages=max_messages)
        self._queue: deque[Received] = deque()
        self._busy = asyncio.Lock()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._outbox = Outbox(sink, broker, state_topic)
        self.checkpoints = Checkpoints(
            self._ledger,
            self._outbox,
            broker,
            metrics=metrics,
            trust_s=trust_s,
            released=self._room.set,
            disown=self._disown,
        )
        self._turns = Turns()
        self._upto: dict[Partition, int] = {}
        self.read: dict[Partition, int] = {}
        self._sent: list[asyncio.Task[None]] = []
        self._unstored: deque[tuple[int, float]] = deque()  # (ticket, received_s) of batches
        self._ticket = 0
        self._cut_at_s = time.monotonic()
        self._dirty = False
        self.ready = False
        self._closing = False
        self.lost: Exception | None = None
        self._turn = 0
        self.done = 0

    @property
    def blocked(self) -> bool:
        """Whether reading waits for results to be taken."""
        return self._ledger.full or self._sink.pending_bytes > self._max_bytes

    @property
    def waiting(self) -> int:
        """Messages read and not processed; those in the stage's hands are among them."""
        return len(self._queue) + self._stage.messages

    @property
    def held(self) -> tuple[int, int]:
        """(messages, bytes) read and not acknowledged."""
        return self._ledger.messages, self._ledger.bytes

    async def admit(self, received: Received, generation: int) -> None:
        """Take a message, as soon as there is room; one of an old generation is dropped."""
        while self.blocked and generation == self._ledger.generation:
            self._room.clear()
            self._wake.set()  # a checkpoint makes room
            await self._room.wait()
        if generation != self._ledger.generation or not self.ready:
            return
        verdict = self._turns.offer(received.partition, received.offset)
        if verdict == "again":
            await self._broker.seek(received.partition, self._turns.next[received.partition])
        if verdict != "take":
            return
        size = received.size + OVERHEAD_BYTES
        self._ledger.admit(received.partition, received.offset, size)
        self._queue.append(received)
        self.read[received.partition] = received.offset
        self._metrics.messages.labels(received.partition.topic).inc()
        self._metrics.bytes.labels(received.partition.topic).inc(received.size)
        self._wake.set()

    async def revoke(self, patience_s: float) -> None:
        """Partitions are taken away: finish what is in hand if that is quick, forget the rest."""
        self._turns.close()  # what came now would overtake what is forgotten
        self._queue.clear()
        if self.ready and not await self._finish_within(patience_s):
            log.info("gave partitions away before all results were confirmed")
        await self._forget()

    async def go_on(self, ends: Mapping[Partition, int]) -> None:
        """Read again what was lost on the way to us, where nothing comes that would show it.

        Args:
            ends: Partition -> offset of the next message that will be written to it.
        """
        if self.ready and not self.blocked and not self.waiting:
            for partition, offset in self._turns.stuck(ends).items():
                await self._broker.seek(partition, offset)

    async def _forget(self) -> None:
        self._disown()
        self._turn += 1
        await self.checkpoints.give_up()
        self._upto.clear()
        self.read.clear()
        for task in self._sent:
            task.cancel()
        self._sent.clear()
        self._unstored.clear()
        self._dirty = False

    async def assign(
        self,
        generation: int,
        states: States,
        ends: Mapping[Partition, int],
        starts: Mapping[Partition, int] = MappingProxyType({}),
    ) -> None:
        """Begin with the partitions of a new generation.

        Args:
            generation: Of the group.
            states: Their records.
            ends: Partition -> offset of the next message that will be written to it.
            starts: Partition -> offset of the first message that is not acknowledged.
        """
        async with self._busy:
            await self._forget()
            turn = self._turn
            try:
                await self._stage.assign(states, ends)
            except Exception as error:  # noqa: BLE001  (`run` raises it: this is called by Faust)
                self.lost = error
                self._wake.set()
                return
            if turn != self._turn:
                return  # taken away again meanwhile
            self._ledger.begin(generation)
            self._turns.begin(starts)
            self.checkpoints.renew()
            self.ready = True
            self._cut_at_s = time.monotonic()

    def refused(self, letter: Outgoing) -> None:
        """The sink has set something aside; to be called in the event loop."""
        if self.ready:
            self._sent.append(asyncio.ensure_future(self._outbox.send(letter)))

    def progress(self) -> None:
        """The sink has confirmed more; to be called in the event loop."""
        self._outbox.settled()
        self._room.set()
        self._count_stored()

    async def run(self) -> None:
        """Process until `close`.

        Raises:
            Exception: whatever the stage or a broken broker raises: the worker must end.
        """
        try:
            while not self._closing:
                await self._turn_once()
        except Exception:
            # The stage may have heard messages whose results went down with it: a state that
            # knows of them must never be kept.
            await self._forget()
            raise

    async def _turn_once(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), TICK_S)
        if self._queue and not self._stage.messages and not self._fills_a_batch():
            await asyncio.sleep(GATHER_S)
        self._wake.clear()
        async with self._busy:
            if self.lost is not None:
                raise self.lost
            if not self._closing:
                await self._step()
        self.checkpoints.over()

    async def _step(self) -> None:
        """One micro-batch or tick, and a cut where it is due."""
        if not self.ready:
            return
        generation = self._ledger.generation
        done: list[Done] = []
        if batch := self._drain():
            done = await self._stage.take(batch, more=bool(self._queue))
        elif not self._stage.messages and self._broker.caught_up():
            done = [await self._stage.tick(TICK_NS)]
        if generation != self._ledger.generation:
            return  # the partitions were taken away meanwhile; their new owner does it again
        for part in done:
            self._hand_over(part)
        if self._queue:
            self._wake.set()
        if any(part.outcome.barrier for part in done):
            await self._checkpoint(generation)
        elif self._dirty and (self.blocked or self._due):
            await self._cut()

    @property
    def _due(self) -> bool:
        return time.monotonic() - self._cut_at_s >= self._checkpoint_s

    def _fills_a_batch(self) -> bool:
        costs = itertools.accumulate(self._cost(message) for message in self._queue)
        return any(cost >= 1.0 for cost in costs)

    def _drain(self) -> list[Received]:
        batch: list[Received] = []
        cost = 0.0
        while self._queue and cost < 1.0:
            batch.append(self._queue.popleft())
            cost += self._cost(batch[-1])
        return batch

    def _hand_over(self, done: Done) -> None:
        batch, outcome, self._ticket = done.batch, done.outcome, done.ticket
        self._sent += [
            asyncio.ensure_future(self._outbox.send(message)) for message in outcome.messages
        ]
        for message in batch:
            self._upto[message.partition] = message.offset
        if batch:
            self._unstored.append((self._ticket, batch[0].received_s))
            self._count_stored()
            self._metrics.batch_messages.observe(len(batch))
        self.done += len(batch)
        self._dirty = self._dirty or bool(batch) or bool(outcome.points)
        if outcome.newest_ns:
            late_s = time.time() - outcome.newest_ns * 1e-9
            self._metrics.sample_to_score_s.observe(late_s)

    def _count_stored(self) -> None:
        """Observe how long batches took that the sink has by now."""
        while self._unstored and self._unstored[0][0] <= self._sink.confirmed:
            _, received_s = self._unstored.popleft()
            self._metrics.received_to_stored_s.observe(time.monotonic() - received_s)

    async def _cut(self) -> None:
        """Begin a checkpoint, unless the one before is still on its way."""
        if not self.checkpoints.over():
            return
        generation = self._ledger.generation
        await self._finish_begun()
        if not self.ready or generation != self._ledger.generation:
            return  # the partitions were taken away meanwhile
        states = await self._stage.snapshot()
        if generation != self._ledger.generation:
            return
        cut = Cut(generation, dict(self._upto), states, self._ticket, self._sent)
        self._sent, self._dirty = [], False
        self._cut_at_s = time.monotonic()
        self.checkpoints.begin(cut)

    async def _finish_begun(self) -> None:
        """Finish the batch that is begun: a checkpoint holds whole batches."""
        generation = self._ledger.generation
        for part in await self._stage.finish():
            if generation == self._ledger.generation:
                self._hand_over(part)

    async def _checkpoint(self, generation: int) -> None:
        """Cut a checkpoint and wait for its end, whatever that is."""
        await self.checkpoints.settle()
        if generation == self._ledger.generation:
            await self._cut()
        await self.checkpoints.settle()

    def _disown(self) -> None:
        """Nothing that we hold is ours any more."""
        self.ready = False
        self._queue.clear()
        self._stage.forget()
        self._turns.close()
        self._ledger.begin(-1)
        self._room.set()

    async def _finish_within(self, patience_s: float) -> bool:
        """A last checkpoint; whether everything processed is acknowledged.

        What the stage fails of is kept: Faust calls this, and `run` or its caller must raise it.
        """
        try:
            # A batch in the stage's thread is waited for: its results belong to the state.
            await asyncio.wait_for(self._finish_all(), patience_s)
        except TimeoutError:
            return False
        except Exception as error:  # noqa: BLE001
            self.lost = error
            self._wake.set()
            return False
        return True

    async def _finish_all(self) -> None:
        """A last checkpoint of all that was processed."""
        async with self._busy:
            try:
                await self.checkpoints.settle()
                if self.ready:
                    await self._finish_begun()
                if self._dirty:
                    await self._cut()
                    await self.checkpoints.settle()
            except BaseException:
                self._disown()  # `run` must not go on with what was in hand
                raise

    async def close(self, patience_s: float) -> bool:
        """End: process nothing more, checkpoint what was processed, within a time; see `lost`.

        Returns:
            Whether everything processed is acknowledged.
        """
        self._closing = True
        self._wake.set()
        self._queue.clear()
        try:
            return await self._finish_within(patience_s)
        finally:
            await self._forget()
            self._stage.close()
