"""Chunks in their order in, windows and what happened to the stream out.

The part of a `Windower` that knows about time and signal; who comes first is settled before.
"""

from typing import Final

from pipeline.messages import (
    NS_PER_S,
    Encoding,
    Flags,
    SensorChunk,
    State,
    StreamEvent,
    StreamEventKind,
    Window,
)
from pipeline.stretch import Stretch
from pipeline.timeline import Clock, Grid

HOP_S: Final = 0.010
FRAME_S: Final = 0.025
PATCH_FRAMES: Final = 16
"""STFT of the encoder: 25 ms frames every 10 ms, 16 of them per patch (ECHO, section 3)."""

# What waits for the end of its capture is part of the sensor's state: 8 MiB of the 16 that one
# record of the changelog may have (`pipeline.services.topics`). 10 s at 200 kHz fit, 60 s at
# 34 kHz.
MOST_CAPTURE_SAMPLES: Final = 2 << 20

Format = tuple[float, Encoding, float, float, str]
"""(rate, encoding, scale, offset, unit): one window has one of each."""
Output = list[Window | StreamEvent]
_ANY: Final = 1 << 62


def min_samples(sample_rate_hz: float) -> int:
    """Samples of one STFT frame (25 ms), the shortest window there is."""
    return int(FRAME_S * sample_rate_hz)


def window_samples(sample_rate_hz: float, k: int = 6) -> int:
    """Samples of a window that fills k patches of 16 STFT frames without padding.

    Args:
        sample_rate_hz: At least 100 Hz.
        k: Patches in time, >= 1.

    Raises:
        ValueError: for a rate at which 10 ms hold no sample.

    >>> window_samples(16000.0)
    15600
    """
    hop = int(HOP_S * sample_rate_hz)
    if hop < 1:
        raise ValueError(f"rate must be at least 100 Hz, got {sample_rate_hz} Hz")
    return min_samples(sample_rate_hz) + (PATCH_FRAMES * k - 1) * hop


class Cutter:
    """Cuts the chunks of one sensor, which come in order, into windows.

    Arguments are those of `pipeline.windows.Windower`.

    Attributes:
        counts: Events by kind.
        epoch: Of the last chunk; None before the first.
    """

    def __init__(
        self,
        sensor_id: str,
        *,
        k: int,
        stride_s: float | None,
        duty_cycle_s: float | None,
        gap_tolerance_samples: float,
        jitter_s: float,
        drift_ppm: float,
        captures: bool | None,
        max_capture_s: float,
    ) -> None:
        self.sensor_id = sensor_id
        self._k = k
        self._stride_s = stride_s
        self._duty_cycle_s = duty_cycle_s
        self._tolerance = gap_tolerance_samples
        self._jitter_s = jitter_s
        self._drift_ppm = drift_ppm
        self._captures = captures
        self._max_capture_s = max_capture_s
        self.counts: dict[str, int] = {}
        self.epoch: int | None = None
        self._format: Format = (0.0, "f32", 1.0, 0.0, "")
        self._capturing = captures is True
        self._closed = False  # the last capture has ended as it should
        self._cursor = 0  # no window starts before this index
        self._gap_s = 0.0  # signal missing since the last window
        self._clock: Clock
        self._stretch: Stretch

    @property
    def nbytes(self) -> int:
        """Bytes of the samples that wait for their window."""
        return 0 if self.epoch is None else self._stretch.nbytes

    @property
    def since_ns(self) -> int | None:
        """Time of the oldest sample that waits; None where none does."""
        if self.epoch is None or not len(self._stretch):
            return None
        return self._clock.timebase.ns_at(self._stretch.first)

    @property
    def expected_ns(self) -> int:
        """Stamp that the next chunk should carry."""
        return self._clock.expected_ns

    def continues(self, chunk: SensorChunk) -> bool:
        """Whether a chunk of this epoch starts where the last one ended."""
        return abs(self._clock.lead(chunk.start_ns)) <= self._clock.tolerance

    def take(self, chunk: SensorChunk) -> Output:
        """Cut one more chunk."""
        outputs: Output = []
        lead = 0.0
        skip = 0
        if self.epoch is None:
            self._anchor(chunk)
        elif (change := self._change(chunk)) is not None:
            outputs = self._turn(chunk, *change)
        else:
            lead = self._clock.lead(chunk.start_ns)
            if lead > self._clock.tolerance:
                outputs = self._gap(chunk, lead)
                lead = 0.0
            elif lead < -self._clock.tolerance:
                skip = round(-lead)
                lead = 0.0
                if skip >= chunk.samples.size:
                    outputs = self._turn(chunk, "clock_step", "the sensor's clock stepped back")
                    skip = 0
                else:
                    outputs = [self._overlap(chunk, skip)]
        self._append(chunk, skip, lead)
        return outputs + self._cut(ended=Flags.END_OF_CAPTURE in chunk.flags)

    def end(self) -> Output:
        """Stop waiting: a capture that has begun becomes a window, other partial ones go."""
        outputs: Output = []
        if self.epoch is None:
            return outputs
        if self._capturing and self._stretch.whole and len(self._stretch):
            outputs.append(self._capture())
        self._clear()
        return outputs

    def event(
        self, kind: StreamEventKind, at_ns: int, amount_s: float = 0.0, detail: str = ""
    ) -> StreamEvent:
        """Count and describe what happened."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        return StreamEvent(self.sensor_id, at_ns, kind, amount_s, detail)

    def _anchor(self, chunk: SensorChunk) -> None:
        """Begin anew at the stamp of a chunk."""
        rate_hz = chunk.sample_rate_hz
        if self.epoch is None or rate_hz != self._format[0]:
            self._set_rate(rate_hz)
        self.epoch = chunk.epoch
        self._format = _format(chunk)
        self._clock = self._new_clock(rate_hz, chunk.start_ns)
        self._stretch = Stretch(self._clock.next_index, chunk.start_ns)

    def _set_rate(self, rate_hz: float) -> None:
        self._length = window_samples(rate_hz, self._k)
        stride = self._length if self._stride_s is None else max(1, round(self._stride_s * rate_hz))
        self._grid = Grid(rate_hz, stride, duty_cycle_s=self._duty_cycle_s)

    def _new_clock(self, rate_hz: float, start_ns: int) -> Clock:
        tolerance = max(self._tolerance, self._jitter_s * rate_hz)
        return Clock(rate_hz, start_ns, tolerance=tolerance, drift_ppm=self._drift_ppm)

    def _change(self, chunk: SensorChunk) -> tuple[StreamEventKind, str] | None:
        """What forbids this chunk to share a window with the last one."""
        if chunk.epoch != self.epoch:
            return "epoch_change", f"{self.epoch} -> {chunk.epoch}"
        after = _format(chunk)
        if after == self._format:
            return None
        if after[0] != self._format[0]:
            return "rate_change", f"{self._format[0]:.12g} Hz -> {after[0]:.12g} Hz"
        before_text, after_text = (
            ", ".join(str(value) for value in values[1:]) for values in (self._format, after)
        )
        return "format_change", f"{before_text} -> {after_text}"

    def _turn(self, chunk: SensorChunk, kind: StreamEventKind, detail: str) -> Output:
        """End what there is and begin anew, with an event."""
        outputs = self.end()
        step_s = (chunk.start_ns - self._clock.expected_ns) / NS_PER_S
        tolerance_s = self._clock.tolerance / self._format[0]
        missing_s = step_s if step_s > tolerance_s else 0.0
        amount_s = step_s if kind == "clock_step" else missing_s
        outputs.append(self.event(kind, chunk.start_ns, amount_s, detail))
        self._gap_s += missing_s
        self._cursor = 0
        self._anchor(chunk)
        return outputs

    def _gap(self, chunk: SensorChunk, lead: float) -> Output:
        outputs: Output = []
        pause = self._capturing and self._closed and not len(self._stretch)
        if not pause:
            amount_s = lead / chunk.sample_rate_hz
            outputs = self.end()
            outputs.append(self.event("gap", self._clock.expected_ns, amount_s))
            self._gap_s += amount_s
        self._anchor(chunk)
        return outputs

    def _overlap(self, chunk: SensorChunk, skip: int) -> StreamEvent:
        detail = f"{skip} samples came twice, the second ones were set aside"
        return self.event("overlap", chunk.start_ns, skip / chunk.sample_rate_hz, detail)

    def _append(self, chunk: SensorChunk, skip: int, lead: float) -> None:
        if self._stretch.whole and not len(self._stretch):
            self._clock.slip(most=_ANY)
            skipped_ns = round(skip * NS_PER_S / chunk.sample_rate_hz)
            self._stretch = Stretch(self._clock.next_index, chunk.start_ns + skipped_ns)
        samples = chunk.samples[skip:] if skip else chunk.samples
        self._stretch.append(samples, chunk.flags)
        self._clock.advance(samples.size, lead)

    def _cut(self, *, ended: bool) -> Output:
        """Cut what is complete."""
        stretch = self._stretch
        longest = min(self._max_capture_s * self._format[0], MOST_CAPTURE_SAMPLES)
        fits = stretch.whole and len(stretch) <= longest
        if ended and self._captures is not False:
            self._capturing = True
            outputs = [self._capture()] if fits else self._cut_grid()
            self._clear()
            return outputs
        self._closed = False
        if self._capturing and fits:
            return []
        if self._capturing:
            stretch.whole = False
            self._capturing = self._captures is True
        return self._cut_grid()

    def _cut_grid(self) -> Output:
        stretch, length = self._stretch, self._length
        outputs: Output = []
        start = self._grid.next_start(max(self._cursor, stretch.first))
        while start + length <= stretch.end:
            outputs.append(self._window(start, length, self._clock.timebase.ns_at(start)))
            stretch.whole = False
            self._cursor = start + 1
            start = self._grid.next_start(self._cursor)
        undecided = self._captures is None and stretch.whole
        if not undecided or len(stretch) > 2 * length:
            stretch.drop_before(start - self._clock.margin)
        stretch.shift(self._clock.slip(most=max(0, start - stretch.first)))
        return outputs

    def _capture(self) -> Window | StreamEvent:
        """The whole stretch as one window of its own length."""
        stretch = self._stretch
        rate_hz, n, least = self._format[0], len(stretch), min_samples(self._format[0])
        if n < least:
            detail = f"a capture of {n} samples is shorter than one STFT frame, {least}"
            return self.event("gap", stretch.start_ns, n / rate_hz, detail)
        return self._window(stretch.first, n, stretch.start_ns)

    def _window(self, start: int, length: int, start_ns: int) -> Window:
        part = self._stretch.cut(start, length)
        rate_hz, encoding, scale, offset, unit = self._format
        gap_s, self._gap_s = self._gap_s, 0.0
        assert self.epoch is not None  # noqa: S101  (there is no stretch before the first chunk)
        return Window(
            sensor_id=self.sensor_id,
            sample_rate_hz=rate_hz,
            start_ns=start_ns,
            start_index=start,
            samples=part.samples,
            epoch=self.epoch,
            encoding=encoding,
            scale=scale,
            offset=offset,
            unit=unit,
            flags=part.flags,
            gap_s=0.0 if self._capturing else gap_s,
        )

    def _clear(self) -> None:
        self._closed = self._capturing
        self._stretch = Stretch(self._clock.next_index, self._clock.expected_ns)

    def export_state(self) -> State:
        """All that the next chunk depends on."""
        state: State = {
            "counts": dict(self.counts),
            "epoch": self.epoch,
            "capturing": self._capturing,
            "closed": self._closed,
            "cursor": self._cursor,
            "gap_s": self._gap_s,
        }
        if self.epoch is not None:
            state["format"] = list(self._format)
            state["clock"] = self._clock.export_state()
            state["stretch"] = self._stretch.export_state()
        return state

    def import_state(self, state: State) -> None:
        """Go on from an exported state."""
        self.counts = dict(state["counts"])
        self.epoch = state["epoch"]
        self._capturing = state["capturing"]
        self._closed = state["closed"]
        self._cursor = state["cursor"]
        self._gap_s = state["gap_s"]
        if self.epoch is not None:
            rate_hz, encoding, scale, offset, unit = state["format"]
            self._format = (rate_hz, encoding, scale, offset, unit)
            self._set_rate(rate_hz)
            self._clock = self._new_clock(rate_hz, 0)
            self._clock.import_state(state["clock"])
            self._stretch = Stretch.from_state(state["stretch"])


def _format(chunk: SensorChunk) -> Format:
    return (chunk.sample_rate_hz, chunk.encoding, chunk.scale, chunk.offset, chunk.unit)
