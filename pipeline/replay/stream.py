"""Recorded chunks in; the chosen ones numbered, renamed, moved in time and repeated out.

The same recordings and options give the same numbers, so that an interrupted replay knows what it
has sent by one number. A chunk belongs to the time it starts at.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipeline.messages import NS_PER_S, SensorChunk


@dataclass(frozen=True, slots=True)
class Selection:
    """What of the recordings is sent, and as what.

    Attributes:
        from_ns: First start time, and
        until_ns: the first that is too late; None = no bound.
        names: Recorded sensor id -> sensor id, where it changes.
        prefix: Put before every other sensor id, with a slash; empty = none.
        laps: How often all of it is sent, None = without end.
    """

    from_ns: int | None = None
    until_ns: int | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    laps: int | None = 1

    def name_of(self, recorded: str) -> str:
        """Sensor id that a recorded one is sent as.

        >>> Selection(prefix="line2").name_of("pump/DE")
        'line2/pump/DE'
        """
        named = self.names.get(recorded, recorded)
        return f"{self.prefix}/{named}" if self.prefix else named


@dataclass(frozen=True, slots=True)
class Lap:
    """What one pass over the recordings adds to those that follow it.

    Attributes:
        chunks: How many it has.
        span_ns: First start to last end.
        epochs, seqs: One more than the largest epoch and message counter, less the smallest.
    """

    chunks: int
    span_ns: int
    epochs: int
    seqs: int


class ChunkStream:
    """The chunks of a replay in order, with their numbers.

    Args:
        read: Begins to read the recordings, by start time.
        selection: What of them.
        shift_ns: Added to every time, or a function that is given the first start and says so.
        done: Chunks that have been dealt with; the first to come has this number.
        lap: As found in an earlier run, if that came so far.

    Attributes:
        shift_ns: As decided; None until the first chunk is there.
        lap: None until the first pass is over.
    """

    def __init__(
        self,
        read: Callable[[], Iterator[SensorChunk]],
        selection: Selection,
        *,
        shift_ns: int | Callable[[int], int] = 0,
        done: int = 0,
        lap: Lap | None = None,
    ) -> None:
        self._read, self._selection = read, selection
        self._shift = shift_ns
        self.shift_ns: int | None = shift_ns if isinstance(shift_ns, int) else None
        self._done, self.lap = done, lap

    def __iter__(self) -> Iterator[tuple[int, SensorChunk]]:
        """(number, chunk); ends after the last lap, or where nothing is selected."""
        laps = self._selection.laps
        lap = 0 if self.lap is None else self._done // self.lap.chunks
        while laps is None or lap < laps:
            measure = _Measure()
            yield from self._one(lap, measure)
            if not measure.chunks:
                return
            self.lap = self.lap or measure.lap()
            lap += 1

    def _one(self, lap: int, measure: "_Measure") -> Iterator[tuple[int, SensorChunk]]:
        before = self.lap or Lap(0, 0, 0, 0)
        for chunk in self._selected():
            number = lap * before.chunks + measure.chunks
            measure.take(chunk)
            if self.shift_ns is None:
                self.shift_ns = self._decided(chunk.start_ns)
            if number >= self._done:
                yield (
                    number,
                    replace(
                        chunk,
                        sensor_id=self._selection.name_of(chunk.sensor_id),
                        start_ns=chunk.start_ns + self.shift_ns + lap * before.span_ns,
                        epoch=chunk.epoch + lap * before.epochs,
                        seq=chunk.seq + lap * before.seqs,
                    ),
                )

    def _decided(self, first_ns: int) -> int:
        return self._shift if isinstance(self._shift, int) else self._shift(first_ns)

    def _selected(self) -> Iterator[SensorChunk]:
        since = -math.inf if self._selection.from_ns is None else self._selection.from_ns
        until = math.inf if self._selection.until_ns is None else self._selection.until_ns
        for chunk in self._read():
            if chunk.start_ns >= until:
                return  # in order of time; what a clock that steps back says later is left out
            if chunk.start_ns >= since:
                yield chunk


class _Measure:
    """Finds out what a lap is while it goes by."""

    def __init__(self) -> None:
        self.chunks = 0
        self._times: list[int] = []
        self._epochs: list[int] = []
        self._seqs: list[int] = []

    def take(self, chunk: SensorChunk) -> None:
        self.chunks += 1
        self._times = _bounds(self._times, chunk.start_ns, chunk.end_ns)
        self._epochs = _bounds(self._epochs, chunk.epoch, chunk.epoch)
        self._seqs = _bounds(self._seqs, chunk.seq, chunk.seq)

    def lap(self) -> Lap:
        (first, end), (epoch, top), (seq, last) = self._times, self._epochs, self._seqs
        return Lap(self.chunks, end - first, top - epoch + 1, last - seq + 1)


def _bounds(known: list[int], low: int, high: int) -> list[int]:
    return [min(known[0], low), max(known[1], high)] if known else [low, high]


def lap_state(lap: Lap | None) -> dict[str, Any] | None:
    """A lap as JSON keeps it."""
    return None if lap is None else asdict(lap)


def shift_to(now_ns: int) -> Callable[[int], int]:
    """A shift that puts the first chunk at `now_ns`."""
    return lambda first_ns: now_ns - first_ns


def seconds_ns(seconds: float) -> int:
    """Seconds as whole nanoseconds."""
    return round(seconds * NS_PER_S)
