"""Results in; a word that Kafka and InfluxDB have them, out.

What cannot be taken now is sent again for ever; nothing is dropped here. What a broker refuses for
good, such as a message that is too large, is an error of ours.
"""

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from pipeline.messages import Point
from pipeline.streaming.stage import Outcome, Outgoing, Partition, StateWrite

log = logging.getLogger(__name__)

FIRST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 2.0


class Sink(Protocol):
    """Where points go; a put never blocks."""

    @property
    def confirmed(self) -> int:
        """Every put up to this ticket is stored."""

    @property
    def pending_bytes(self) -> int:
        """What waits."""

    def put(self, points: Iterable[Point]) -> int:
        """Take points; give a ticket."""


class Broker(Protocol):
    """What a delivery asks of Kafka."""

    async def send(self, message: Outgoing) -> Awaitable[Any]:
        """Queue one message; the awaitable ends when the broker has it, on all replicas."""

    def caught_up(self) -> bool:
        """Whether Kafka has answered just now that nothing waits to be read."""

    def transient(self, error: BaseException) -> bool:
        """Whether sending again may help."""

    def stored(self, write: StateWrite) -> None:
        """A state record is on the changelog."""

    async def seek(self, partition: Partition, offset: int) -> None:
        """Read a partition again from this offset; never raises."""

    async def commit(self, offsets: Mapping[Partition, int]) -> bool:
        """Commit the offsets of the next messages; False where the partitions are not ours."""


class Outbox:
    """Sends messages and state records, and waits for what the sink has confirmed.

    Args:
        sink: InfluxDB.
        broker: Kafka.
        state_topic: Changelog of the state records.
    """

    def __init__(self, sink: Sink, broker: Broker, state_topic: str) -> None:
        self._sink = sink
        self._broker = broker
        self._state_topic = state_topic
        self._settled = asyncio.Event()

    def settled(self) -> None:
        """The sink has confirmed more; to be called in the event loop."""
        self._settled.set()

    async def confirmed(self, ticket: int) -> None:
        """Wait until the sink has everything up to this ticket."""
        while self._sink.confirmed < ticket:
            self._settled.clear()
            if self._sink.confirmed < ticket:
                await self._settled.wait()

    async def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Store what had to wait for the states that include it."""
        points = [point for outcome in outcomes for point in outcome.points]
        ticket = self._sink.put(points) if points else 0
        messages = [message for outcome in outcomes for message in outcome.messages]
        await asyncio.gather(*(self.send(message) for message in messages))
        await self.confirmed(ticket)

    async def write(self, write: StateWrite) -> None:
        """Bring a state record onto the changelog."""
        await self.send(
            Outgoing(self._state_topic, write.key, write.value, partition=write.partition)
        )
        self._broker.stored(write)

    async def send(self, message: Outgoing) -> None:
        """Send until the broker has it.

        Raises:
            Exception: what sending again cannot mend.
        """
        wait_s = FIRST_WAIT_S
        while True:
            try:
                await (await self._broker.send(message))
            except Exception as error:
                if not self._broker.transient(error):
                    raise
                log.debug("sending again: %r", error)
            else:
                return
            await asyncio.sleep(wait_s)
            wait_s = min(LONGEST_WAIT_S, 2 * wait_s)
