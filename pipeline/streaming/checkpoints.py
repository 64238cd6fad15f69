"""A cut of the stream in; its results confirmed, its states stored, its messages acknowledged.

In this order, and one cut at a time. A cut of an earlier generation of the group is thrown away,
and so is what a worker finds in its hands that was frozen and lost its place.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.streaming.ledger import Ledger
from pipeline.streaming.metrics import Metrics
from pipeline.streaming.outbox import Broker, Outbox
from pipeline.streaming.stage import Partition, StateWrite
from pipeline.streaming.watchdog import Standing

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cut:
    """Everything up to one moment of the stream.

    Attributes:
        generation: Of the group.
        upto: Partition -> offset of the last message that it includes.
        states: Records of what has changed.
        ticket: Of the last points that it includes.
        sent: The messages that it includes, on their way.
    """

    generation: int
    upto: dict[Partition, int]
    states: list[StateWrite]
    ticket: int
    sent: list[asyncio.Task[None]]


class Checkpoints:
    """Brings cuts to their end.

    Args:
        ledger: What was read and not acknowledged.
        outbox: Where results and states go.
        broker: Kafka.
        metrics: Of this role.
        trust_s: See `pipeline.streaming.watchdog.Standing`.
        released: Called when the ledger has room.
        disown: Called when nothing that we hold is ours any more.

    Attributes:
        standing: Whether our place in the group is beyond doubt; to be told that we are awake.
        committed: Partition -> offset of the first message that is not acknowledged.
        stored_s: Monotonic time of the last checkpoint.
    """

    def __init__(
        self,
        ledger: Ledger,
        outbox: Outbox,
        broker: Broker,
        *,
        metrics: Metrics,
        trust_s: float,
        released: Callable[[], None],
        disown: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._outbox = outbox
        self._broker = broker
        self._metrics = metrics
        self._released = released
        self._disown = disown
        self._task: asyncio.Task[None] | None = None
        self.standing = Standing(trust_s)
        self.committed: dict[Partition, int] = {}
        self.stored_s = time.monotonic()

    def begin(self, cut: Cut) -> None:
        """Start with a cut; the one before must be over."""
        self._task = asyncio.ensure_future(self._finish(cut))

    def over(self) -> bool:
        """Whether no cut is on its way.

        Raises:
            Exception: what the last one has failed of; one that was given up has not failed.
        """
        if (task := self._task) is None:
            return True
        if not task.done():
            return False
        self._task = None
        if not task.cancelled():
            task.result()
        return True

    async def settle(self) -> None:
        """Wait for the cut that is on its way; giving up waiting does not end it.

        Raises:
            Exception: what it has failed of.
        """
        if self._task is not None:
            await asyncio.wait([self._task])
        self.over()

    async def give_up(self) -> None:
        """End the cut that is on its way, and forget what was acknowledged."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self.committed.clear()

    def renew(self) -> None:
        """Partitions were given to us just now."""
        self.standing.trust()
        self.stored_s = time.monotonic()

    async def _finish(self, cut: Cut) -> None:
        """Wait for the results, write the states, acknowledge."""
        await self._outbox.confirmed(cut.ticket)
        if cut.sent:
            await asyncio.gather(*cut.sent)
        if not await self._still_ours(cut):
            return
        first = [write for write in cut.states if write.first]
        await asyncio.gather(*(self._outbox.write(write) for write in first))
        if not await self._still_ours(cut):
            return
        await asyncio.gather(
            *(self._outbox.write(write) for write in cut.states if not write.first)
        )
        if cut.generation != self._ledger.generation:
            return
        await self._outbox.tell([write.told for write in cut.states if write.told is not None])
        released = self._ledger.release(cut.generation, cut.upto)
        self.committed |= released
        self._released()
        if not await self._broker.commit(released):
            self.standing.doubt()
            return
        self.stored_s = time.monotonic()
        self._metrics.checkpoints.inc()

    async def _still_ours(self, cut: Cut) -> bool:
        if cut.generation != self._ledger.generation or cut.generation < 0:
            return False
        if not self.standing.doubtful:
            return True
        if await self._broker.commit(self.committed | self._ledger.first()):
            self.standing.trust()
            return True
        log.warning("lost our partitions while standing still: threw a checkpoint away")
        # Its states are nowhere now, and no later checkpoint may release its messages.
        self._disown()
        return False
