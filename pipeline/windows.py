"""Chunks in, windows on a fixed grid out.

One `Windower` per sensor, in event time only. Starts of windows are multiples of the stride counted
from the Unix epoch in sample indices, so that replay, restart, reordering and the moment of joining
do not change a window's id (sensor, start_ns, length). No window spans a gap, a restart of the
device or a change of its format. Bursts that end with the flag END_OF_CAPTURE become one window
each, of their own length.
"""

import math
from dataclasses import asdict
from typing import Any, Final

from pipeline.cutting import Cutter, Output, min_samples, window_samples
from pipeline.messages import NS_PER_S, Flags, SensorChunk, State

__all__ = ["Output", "Windower", "min_samples", "window_samples"]

VERSION: Final = 1
_REMEMBERED: Final = 32
"""Chunks whose keys are kept to recognise a duplicate."""
_STEP_RUN: Final = 32
"""Consecutive late chunks with old counters after which a clock step is the better explanation."""


class Windower:
    """Cuts the chunks of one sensor into windows.

    Chunks in order are used at once. Others wait until more than `reorder_chunks` of them are held;
    then what is missing is given up. Where a stream or an epoch begins nothing tells which chunk is
    the first, so that `reorder_chunks` are held there too. A chunk behind what has been used is a
    duplicate (dropped and counted), late (set aside with an event), or, where the counter has gone
    on or late chunks keep coming, a clock that stepped back: then the stream begins anew at its
    time, and times of windows go backwards after the event `clock_step`.

    Args:
        sensor_id: Of the only sensor that may be pushed.
        k: Window length in patches of 16 STFT frames, >= 1; see `window_samples`.
        stride_s: Distance of window starts, seconds; None means the window length.
        duty_cycle_s: Only the first window at or after each multiple of this time, seconds.
        reorder_chunks: Chunks that may overtake one that is missing. 0 trusts the order received.
        gap_tolerance_samples: Jitter of timestamps that is no gap.
        jitter_s: The same in seconds, the larger counts: 0.001 for a gateway that stamps in whole
            milliseconds.
        drift_ppm: Deviation of a sensor's clock from its stamps that is no gap.
        captures: True: the sensor sends bursts that end with END_OF_CAPTURE. Pauses between them
            are no gaps and the duty cycle does not apply. False: the flag is ignored. None: the
            first flag decides; where the first capture has by then been cut on the grid, because
            it is longer than a window, its rest is dropped.
        max_capture_s: A longer capture, or one of more than `MOST_CAPTURE_SAMPLES`, is cut on the
            grid. In the mode None the sensor then counts as continuous until its next
            END_OF_CAPTURE.

    Raises:
        ValueError: for numbers out of range.
    """

    def __init__(
        self,
        sensor_id: str,
        *,
        k: int = 6,
        stride_s: float | None = None,
        duty_cycle_s: float | None = None,
        reorder_chunks: int = 2,
        gap_tolerance_samples: float = 0.5,
        jitter_s: float = 0.0,
        drift_ppm: float = 100.0,
        captures: bool | None = None,
        max_capture_s: float = 60.0,
    ) -> None:
        _check(1, k=k)
        _check(0, reorder_chunks=reorder_chunks)
        _check(
            0.0,
            gap_tolerance_samples=gap_tolerance_samples,
            jitter_s=jitter_s,
            drift_ppm=drift_ppm,
        )
        _check_positive(stride_s=stride_s, duty_cycle_s=duty_cycle_s, max_capture_s=max_capture_s)
        self.sensor_id = sensor_id
        self._reorder = reorder_chunks
        self._cutter = Cutter(
            sensor_id,
            k=k,
            stride_s=stride_s,
            duty_cycle_s=duty_cycle_s,
            gap_tolerance_samples=gap_tolerance_samples,
            jitter_s=jitter_s,
            drift_ppm=drift_ppm,
            captures=captures,
            max_capture_s=max_capture_s,
        )
        self._held: list[SensorChunk] = []
        self._seen: dict[tuple[int, int, int], None] = {}
        self._seq = 0  # counter of the last chunk used
        self._since_seq = 0  # from here to _seq no chunk is missing
        self._since_ns = 0
        self._retired: tuple[int, int] | None = None  # the epoch before this one, and its end in ns
        self._late_run = 0

    @property
    def counts(self) -> dict[str, int]:
        """Events by kind since the beginning, duplicates included."""
        return dict(self._cutter.counts)

    @property
    def late(self) -> int:
        """Chunks that came after their time and were set aside."""
        return self._cutter.counts.get("late", 0)

    @property
    def duplicates(self) -> int:
        """Chunks that had come before."""
        return self._cutter.counts.get("duplicate", 0)

    @property
    def buffered_bytes(self) -> int:
        """Bytes of the samples that wait for their window or for their turn."""
        return self._cutter.nbytes + sum(chunk.samples.nbytes for chunk in self._held)

    @property
    def buffered_since_ns(self) -> int | None:
        """Time of the oldest sample that waits; None where none does."""
        times = [chunk.start_ns for chunk in self._held]
        since_ns = self._cutter.since_ns
        return min(times if since_ns is None else [*times, since_ns], default=None)

    def push(self, chunk: SensorChunk) -> Output:
        """Take one chunk; give the windows that are now complete and what happened, in order.

        Raises:
            ValueError: for another sensor's chunk or a rate below 100 Hz.
        """
        if chunk.sensor_id != self.sensor_id:
            raise ValueError(f"this windower cuts {self.sensor_id!r}, got {chunk.sensor_id!r}")
        if self._is_duplicate(chunk):
            self._cutter.event("duplicate", chunk.start_ns)
            return []
        if not self._held and self._is_next(chunk) and not self._is_late(chunk):
            return self._use(chunk)
        self._held.append(chunk)
        return self._release(self._reorder)

    def flush(self) -> Output:
        """End of the stream, or of waiting for it: use what is held, drop partial windows.

        A capture that has begun becomes a window. The stream may go on afterwards, on its grid.
        """
        return self._release(0) + self._cutter.end()

    def export_state(self) -> State:
        """All that the next chunk depends on, as a value for `pipeline.state.pack`."""
        return {
            "version": VERSION,
            "sensor_id": self.sensor_id,
            "cutter": self._cutter.export_state(),
            "held": [asdict(chunk) | {"flags": int(chunk.flags)} for chunk in self._held],
            "seen": [list(key) for key in self._seen],
            "seq": self._seq,
            "since": [self._since_seq, self._since_ns],
            "retired": self._retired,
            "late_run": self._late_run,
        }

    def import_state(self, state: State) -> None:
        """Go on from an exported state.

        Raises:
            ValueError: for a state of another version or sensor.
        """
        for name, mine in (("version", VERSION), ("sensor_id", self.sensor_id)):
            if state.get(name) != mine:
                raise ValueError(f"state's {name} must be {mine!r}, got {state.get(name)!r}")
        self._cutter.import_state(state["cutter"])
        self._held = [_chunk(record) for record in state["held"]]
        self._seen = dict.fromkeys((epoch, seq, start) for epoch, seq, start in state["seen"])
        self._seq = state["seq"]
        self._since_seq, self._since_ns = state["since"]
        retired = state["retired"]
        self._retired = None if retired is None else (retired[0], retired[1])
        self._late_run = state["late_run"]

    def _is_duplicate(self, chunk: SensorChunk) -> bool:
        key = (chunk.epoch, chunk.seq, chunk.start_ns)
        if key in self._seen:
            return True
        if any((held.epoch, held.seq, held.start_ns) == key for held in self._held):
            return True
        # Where the device counts and nothing is missing, all of the past is known.
        return (
            chunk.epoch == self._cutter.epoch
            and self._since_seq < self._seq
            and self._since_seq <= chunk.seq <= self._seq
            and self._since_ns <= chunk.start_ns < self._cutter.expected_ns
        )

    def _is_next(self, chunk: SensorChunk) -> bool:
        if chunk.epoch != self._cutter.epoch:
            return False
        return chunk.seq == self._seq + 1 or self._cutter.continues(chunk)

    def _is_late(self, chunk: SensorChunk) -> bool:
        """Whether a chunk lies before what has been used, and its counter does, too."""
        if self._retired is not None and chunk.epoch == self._retired[0]:
            return chunk.start_ns < max(self._retired[1], self._cutter.expected_ns)
        if chunk.epoch != self._cutter.epoch or chunk.seq > self._seq:
            return False
        half_sample_ns = round(0.5 * NS_PER_S / chunk.sample_rate_hz)
        return chunk.end_ns <= self._cutter.expected_ns + half_sample_ns

    def _release(self, keep: int) -> Output:
        """Use chunks whose turn has come, and others until no more than `keep` are held."""
        outputs: Output = []
        while self._held:
            ready = [held for held in self._held if self._is_late(held) or self._is_next(held)]
            if not ready and len(self._held) <= keep:
                break
            epoch = self._cutter.epoch
            chunk = min(ready or self._held, key=lambda c: (c.epoch != epoch, c.start_ns, c.seq))
            self._held = [held for held in self._held if held is not chunk]
            outputs += self._set_aside(chunk) if self._is_late(chunk) else self._use(chunk)
        return outputs

    def _set_aside(self, chunk: SensorChunk) -> Output:
        self._late_run += 1
        uncounted = chunk.epoch == self._cutter.epoch and chunk.seq == self._seq
        if self._late_run >= (self._reorder + 2 if uncounted else _STEP_RUN):
            return self._use(chunk)
        amount_s = chunk.samples.size / chunk.sample_rate_hz
        return [self._cutter.event("late", chunk.start_ns, amount_s)]

    def _use(self, chunk: SensorChunk) -> Output:
        before, steps = self._cutter.epoch, self._cutter.counts.get("clock_step", 0)
        if before is not None and chunk.epoch != before:
            self._retired = (before, self._cutter.expected_ns)
        outputs = self._cutter.take(chunk)
        stepped = self._cutter.counts.get("clock_step", 0) != steps
        if chunk.epoch != before or chunk.seq != self._seq + 1 or stepped:
            self._since_seq, self._since_ns = chunk.seq, chunk.start_ns
        self._seq = chunk.seq
        self._late_run = 0
        self._seen[chunk.epoch, chunk.seq, chunk.start_ns] = None
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return outputs


def _chunk(record: dict[str, Any]) -> SensorChunk:
    return SensorChunk(**(record | {"flags": Flags(record["flags"])}))


def _check(least: float, **numbers: float) -> None:
    for name, number in numbers.items():
        if not least <= number < math.inf:
            raise ValueError(f"{name} must be at least {least}, and finite, got {number}")


def _check_positive(**numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is not None and not 0 < number < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {number}")
