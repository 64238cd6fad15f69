"""Lanes of chunks in, one stream in order of start time out; a lane opens when its time comes."""

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pipeline.messages import SensorChunk


@dataclass(frozen=True, slots=True)
class Lane:
    """Chunks that must stay in their order: one file, or one sensor's files in a row.

    Attributes:
        start_ns: Not later than the first chunk.
        open: Begins to read; not called before the stream has reached `start_ns`.
    """

    start_ns: int
    open: Callable[[], Iterator[SensorChunk]]


def merge(lanes: Iterable[Lane]) -> Iterator[SensorChunk]:
    """All lanes by start time; a lane whose own time steps back keeps its order."""
    waiting = sorted(enumerate(lanes), key=lambda item: (-item[1].start_ns, -item[0]))
    heads: list[tuple[int, int, SensorChunk, Iterator[SensorChunk]]] = []
    while waiting or heads:
        while waiting and (not heads or waiting[-1][1].start_ns <= heads[0][0]):
            number, lane = waiting.pop()
            _push(heads, number, lane.open())
        if heads:
            _, number, chunk, rest = heapq.heappop(heads)
            yield chunk
            _push(heads, number, rest)


def _push(
    heads: list[tuple[int, int, SensorChunk, Iterator[SensorChunk]]],
    number: int,
    chunks: Iterator[SensorChunk],
) -> None:
    chunk = next(chunks, None)
    if chunk is not None:
        heapq.heappush(heads, (chunk.start_ns, number, chunk, chunks))
