"""A recording in, its sensor chunks out."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectors.files.recording import Block, Jump, ReadOptions, Recording
from connectors.files.times import format_time
from pipeline.messages import NS_PER_S, Encoding, Flags, SensorChunk

# A chunk must fit a 900 kB message; 4 bytes is the widest sample.
MAX_CHUNK_SAMPLES = 200_000


def encode(block: NDArray[Any]) -> NDArray[Any]:
    """(N, C) numbers of any kind as int16, int32 or float32, whichever loses nothing it need not.

    64-bit numbers become float32: seven digits, more than any ADC of this trade delivers.
    """
    kind = block.dtype.newbyteorder("=")
    if kind in (np.dtype(np.int16), np.dtype(np.int32), np.dtype(np.float32)):
        return block.astype(kind, copy=False)
    if kind in (np.dtype(np.int8), np.dtype(np.uint8)):
        return block.astype(np.int16)
    if kind == np.dtype(np.uint16):
        return block.astype(np.int32)
    if kind.kind in "fiu":
        with np.errstate(over="ignore"):
            return block.astype(np.float32)
    raise TypeError(f"samples must be integers or real floats, got {block.dtype}")


def encoding_of(dtype: np.dtype[Any]) -> Encoding:
    """Encoding that `encode` gives to numbers of this type."""
    names: dict[str, Encoding] = {"int16": "i16", "int32": "i32", "float32": "f32"}
    return names[encode(np.empty((0, 1), dtype)).dtype.name]


def rechunk(blocks: Iterable[Block], n: int) -> Iterator[Block]:
    """Blocks of any length as blocks of `n` frames; the last before a jump may be shorter."""
    rest: NDArray[Any] | None = None
    for raw in blocks:
        if isinstance(raw, Jump):
            if rest is not None and len(rest):
                yield rest
            rest = None
            yield raw
            continue
        block = raw if rest is None or not len(rest) else np.concatenate([rest, raw])
        full = len(block) // n * n
        for begin in range(0, full, n):
            yield block[begin : begin + n]
        rest = block[full:]
    if rest is not None and len(rest):
        yield rest


def jump_tolerance_ns(rate: float) -> int:
    """Half a sample, or the microsecond that clocks and indexes round to."""
    return max(1_000, round(0.5 * NS_PER_S / rate))


def chunks_of(
    recording: Recording, options: ReadOptions, next_start_ns: int | None = None
) -> Iterator[SensorChunk]:
    """One recording as chunks, all channels of a stretch before the next stretch.

    `next_start_ns` is when the sensors' next file begins: a jump up to it, or where there is
    none the jumps before, make the last stretch a capture.
    """
    rate, start_ns = recording.sample_rate_hz, recording.start_ns
    if rate is None or start_ns is None:  # `connectors.files.open` has placed it before
        raise ValueError("a recording needs a rate and a start before it can be cut")
    n = min(max(1, round(options.chunk_s * rate)), MAX_CHUNK_SAMPLES)
    cut = _Cut(recording, rate, start_ns)
    for block in rechunk(recording.blocks(n), n):
        if not isinstance(block, Jump):
            yield from cut.push(block)
            continue
        end_ns = cut.end_ns
        at_ns = end_ns + block.ahead_ns if block.start_ns is None else block.start_ns
        yield from cut.flush(at_ns)
        if cut.jump(block, at_ns):
            new = "" if block.stated_epochs else "; a new epoch begins"
            options.on_problem(
                f"{recording.channels[0].sensor_id}: time steps back from {format_time(end_ns)} "
                f"to {format_time(at_ns)}{new}"
            )
    yield from cut.flush(next_start_ns)


class _Cut:
    """Holds one stretch back, because only what follows tells whether it ends a capture."""

    def __init__(self, recording: Recording, rate: float, start_ns: int) -> None:
        self._channels, self._rate = recording.channels, rate
        self._origin_ns, self._position, self._epoch = start_ns, 0, 0
        self._held: NDArray[Any] | None = None
        self._was_capture = False
        self._flags: Flags | None = None

    @property
    def end_ns(self) -> int:
        held = 0 if self._held is None else len(self._held)
        return self._origin_ns + round((self._position + held) * NS_PER_S / self._rate)

    def push(self, block: NDArray[Any]) -> Iterator[SensorChunk]:
        """The stretch before this one."""
        yield from self._emit((self._flags or Flags.NONE) & ~Flags.END_OF_CAPTURE)
        self._held = encode(block)

    def flush(self, next_start_ns: int | None) -> Iterator[SensorChunk]:
        """The last stretch before an interruption, flagged if time jumps forward there."""
        if self._held is None:
            return
        if next_start_ns is not None:
            ahead_ns = next_start_ns - self.end_ns
            self._was_capture = ahead_ns > jump_tolerance_ns(self._rate)
        told = Flags.END_OF_CAPTURE if self._was_capture else Flags.NONE
        yield from self._emit(told if self._flags is None else self._flags)

    def jump(self, jump: Jump, at_ns: int) -> bool:
        """Go on at another time; whether that was a step back."""
        back = self._position > 0 and at_ns < self.end_ns - jump_tolerance_ns(self._rate)
        new = jump.new_recording or (back and not jump.stated_epochs)
        self._epoch += self._position > 0 and new
        self._origin_ns, self._position = at_ns, 0
        self._channels, self._flags = jump.channels or self._channels, jump.flags
        return back

    def _emit(self, flags: Flags) -> Iterator[SensorChunk]:
        if self._held is None:
            return
        at_ns = self._origin_ns + round(self._position * NS_PER_S / self._rate)
        for column, channel in enumerate(self._channels):
            yield SensorChunk(
                sensor_id=channel.sensor_id,
                sample_rate_hz=self._rate,
                start_ns=at_ns,
                samples=np.ascontiguousarray(self._held[:, column]),
                epoch=self._epoch,
                encoding=channel.encoding,
                scale=channel.scale,
                offset=channel.offset,
                unit=channel.unit,
                flags=flags,
            )
        self._position += len(self._held)
        self._held = None
