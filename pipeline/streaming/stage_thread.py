"""Batches in, outcomes out: the one thread that owns a stage and all its state.

While more waits, a batch is begun before the one before it is finished: the encoder works on it in
a thread of its own while that one is judged. Outcomes then come one batch late, and nothing else
changes: how a stream is cut into batches changes no result.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipeline.streaming.outbox import Sink
from pipeline.streaming.stage import Begun, Outcome, Partition, Received, Stage, States, StateWrite


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a batch.

    Attributes:
        batch: Its messages; none where only time has passed.
        outcome: What it gave.
        ticket: Of the last points that were put into the sink by then; 0 for none yet.
    """

    batch: Sequence[Received]
    outcome: Outcome
    ticket: int


@dataclass(frozen=True, slots=True)
class _Open:
    """A batch that is begun and not finished."""

    batch: Sequence[Received]
    rest: Begun


class StageThread:
    """Calls a stage, one call at a time; points go to the sink from here, not from the event loop.

    Whoever calls must wait for one call to end before the next.

    Args:
        stage: What is done with messages.
        sink: InfluxDB.
    """

    def __init__(self, stage: Stage, sink: Sink) -> None:
        self._stage = stage
        self._sink = sink
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stage")
        self._open: _Open | None = None
        self._called = 0
        self._ticket = 0
        self._turn = 0

    @property
    def messages(self) -> int:
        """In hand: given to the stage, outcome not yet given back."""
        return self._called + _size(self._open)

    async def assign(self, states: States, ends: Mapping[Partition, int]) -> None:
        """See `Stage`; what was begun is forgotten."""
        self.forget()
        await self._call(self._stage.assign, states, ends)

    async def take(self, batch: Sequence[Received], *, more: bool) -> list[Done]:
        """Begin with a batch, finish the one before.

        Args:
            batch: Each partition's messages in their order.
            more: Whether another one will follow at once; without, this one is finished, too.

        Returns:
            What was finished, in order; nothing where all was forgotten meanwhile.
        """
        before, turn = self._taken(), self._turn
        self._called = len(batch) + _size(before)
        advance = partial(self._advance, before, batch, more=more)
        done, left = await self._call(advance)
        if turn != self._turn:
            return []
        self._open, self._called = left, 0
        return list(done)

    async def finish(self) -> list[Done]:
        """Finish what is begun."""
        begun, turn = self._taken(), self._turn
        if begun is None:
            return []
        self._called = len(begun.batch)
        done = await self._call(self._end, begun)
        if turn != self._turn:
            return []
        self._called = 0
        return [done]

    def _taken(self) -> _Open | None:
        """What is begun, for the one call that finishes it: whoever waits may be cancelled."""
        begun, self._open = self._open, None
        return begun

    async def tick(self, elapsed_ns: int) -> Done:
        """See `Stage`; to be called with nothing begun."""
        done: Done = await self._call(self._tick, elapsed_ns)
        return done

    async def snapshot(self) -> list[StateWrite]:
        """See `Stage`; to be called with nothing begun, for its state knows what was begun."""
        states: list[StateWrite] = await self._call(self._stage.snapshot)
        return states

    def forget(self) -> None:
        """What was given to the stage is not ours any more."""
        self._turn += 1
        self._open, self._called = None, 0

    def close(self) -> None:
        """End without waiting."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    # In the thread.

    def _advance(
        self, before: _Open | None, batch: Sequence[Received], *, more: bool
    ) -> tuple[list[Done], _Open | None]:
        entered = _Open(batch, self._stage.begin(batch))
        done = [] if before is None else [self._end(before)]
        if more and not entered.rest.alone:
            return done, entered
        return [*done, self._end(entered)], None

    def _end(self, begun: _Open) -> Done:
        return self._put(begun.batch, begun.rest.finish())

    def _tick(self, elapsed_ns: int) -> Done:
        return self._put((), self._stage.tick(elapsed_ns))

    def _put(self, batch: Sequence[Received], outcome: Outcome) -> Done:
        if outcome.points:
            self._ticket = self._sink.put(outcome.points)
        return Done(batch, outcome, self._ticket)

    async def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def _size(begun: _Open | None) -> int:
    return 0 if begun is None else len(begun.batch)
