"""Host windows in, host embeddings out of a GPU that never waits for the host.

Windows of one rate, length and number format form batches of a few static sizes. Samples travel as
they came (int16 stays int16) through two pinned buffers on a stream of their own, so that the next
batch is on its way while one is computed; everything from the gain to the CLS tokens happens on the
device. A batch shape that comes again is recorded as a CUDA graph. Where memory runs out the batch
is halved, for good, and the work goes on. On a CPU the same code runs without streams and graphs:
that is how its logic is tested where there is no GPU.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echo_model.waves import Samples

logger = logging.getLogger(__name__)

Rows = NDArray[np.float32]
Forward = Callable[[Tensor, float], Tensor]  # (B, N) float32 without mean, rate -> (B, K, D)

# Tokens of a full batch: 2142 windows of 1 s at 16 kHz; tiny's widest activation is then 184 MB in
# bf16, and its bands, of two tokens at least, stay below the 65,535 blocks of a CUDA grid axis.
BATCH_TOKENS = 120_000
# Recorded batch shapes; the least used one goes.
GRAPHS = 16
SLOTS = 2
ALIGNED = 256
_NOTHING: NDArray[np.float32] = np.empty((0, 0), np.float32)


class Shape(NamedTuple):
    """What windows of one batch share."""

    rate: float
    size: int  # samples
    whole: bool  # int16, sent as it is; else float32


class Halving:
    """Most windows per batch for each shape; less, for good, where memory ran out.

    Args:
        free: Called before the next try.
    """

    def __init__(self, free: Callable[[], None] = lambda: None) -> None:
        self._free = free
        self._most: dict[Shape, int] = {}

    def run(
        self,
        shape: Shape,
        members: Sequence[int],
        most: int,
        call: Callable[[Sequence[int]], None],
    ) -> None:
        """Call with all members, part by part; a part that does not fit comes again in halves.

        Raises:
            MemoryError: A single window does not fit.
        """
        start = 0
        while start < len(members):
            room = self._most.setdefault(shape, most)
            part = members[start : start + room]
            try:
                call(part)
            except torch.OutOfMemoryError as error:
                if len(part) == 1:
                    raise MemoryError(
                        f"one window of {shape.size} samples at {shape.rate:g} Hz does not fit "
                        "into the GPU's memory: use shorter windows, another GPU or device='cpu'"
                    ) from error
                self._most[shape] = len(part) // 2
                failed = True
            else:
                start, failed = start + len(part), False
            if failed:  # here, for the error's traceback held tensors of the failed batch
                self._free()


@dataclass(slots=True)
class _Slot:
    """One pinned buffer and its copy on the device."""

    host: Tensor
    device: Tensor
    sent: torch.cuda.Event | None = None  # the host buffer may be filled again
    used: torch.cuda.Event | None = None  # the device buffer may be overwritten


class Staging:
    """Batches of samples and gains to the device, two under way at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]
        self._slots: list[_Slot | None] = [None] * SLOTS
        self._turn = 0

    def send(
        self, shape: tuple[int, int], dtype: torch.dtype, fill: Callable[[Tensor, Tensor], None]
    ) -> tuple[Tensor, Tensor]:
        """Have a batch filled in and start its way; `release` says when it has been read.

        Args:
            shape: (B, N).
            dtype: Of the samples.
            fill: Writes samples (B, N) and gains (B, 1) float32 in host memory.

        Returns:
            Both on the device; work queued from now on waits for them.
        """
        slot = self._slot(_room(shape, dtype))
        if slot.sent is not None:
            slot.sent.synchronize()
        fill(*_views(slot.host, shape, dtype))
        size = _room(shape, dtype)
        if self._stream is None:
            slot.device[:size].copy_(slot.host[:size])
            return _views(slot.device, shape, dtype)
        with torch.cuda.stream(self._stream):
            if slot.used is not None:
                self._stream.wait_event(slot.used)
            slot.device[:size].copy_(slot.host[:size], non_blocking=True)
            slot.sent = self._stream.record_event()
        torch.cuda.current_stream(self._device).wait_event(slot.sent)
        return _views(slot.device, shape, dtype)

    def release(self) -> None:
        """What was sent last has been read by the work queued so far."""
        slot = self._slots[self._turn]
        if slot is not None and self._stream is not None:
            slot.used = torch.cuda.current_stream(self._device).record_event()
        self._turn = (self._turn + 1) % SLOTS

    def _slot(self, size: int) -> _Slot:
        slot = self._slots[self._turn]
        if slot is None or slot.host.numel() < size:
            if self._stream is not None:  # nothing may still read what is let go
                torch.cuda.synchronize(self._device)
            self._slots[self._turn] = None
            host = torch.empty(size, dtype=torch.uint8, pin_memory=self._stream is not None)
            slot = _Slot(host, torch.empty(size, dtype=torch.uint8, device=self._device))
            self._slots[self._turn] = slot
        return slot


def _room(shape: tuple[int, int], dtype: torch.dtype) -> int:
    """Bytes of samples, then gains on a boundary that suits any kernel."""
    return -(-shape[0] * shape[1] * dtype.itemsize // ALIGNED) * ALIGNED + 4 * shape[0]


def _views(flat: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    size = _room(shape, dtype)
    samples = flat[: shape[0] * shape[1] * dtype.itemsize].view(dtype).view(shape)
    return samples, flat[size - 4 * shape[0] : size].view(torch.float32)[:, None]


class _Recorded:
    """The work of one batch shape as a CUDA graph."""

    def __init__(
        self,
        work: Callable[[Tensor, Tensor], Tensor],
        raw: Tensor,
        gains: Tensor,
        pool: Any,  # the name of its type is private
        tables: Sequence[Tensor],
    ) -> None:
        self._tables = tables  # read at each replay, so they may not go
        self.raw, self.gains = raw.clone(), gains.clone()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self.rows = work(self.raw, self.gains)

    def __call__(self) -> Tensor:
        self._graph.replay()
        return self.rows


class GpuEncoder:
    """Windows to embeddings on one device.

    Args:
        forward: The network on a batch of equal windows.
        tokens: Tokens of one window of (samples, rate): decides the batch size.
        tables: What `forward` reads beside weights, made once per rate.
        device: `cuda:N`; on `cpu` without streams and graphs.
    """

    def __init__(
        self,
        forward: Forward,
        tokens: Callable[[int, float], int],
        tables: Callable[[float], Sequence[Tensor]],
        device: torch.device,
    ) -> None:
        self._forward, self._tokens, self._device = forward, tokens, device
        self._tables = tables
        self._staging, self._halving = Staging(device), Halving(self._forget)
        # One pool for all: replays never overlap and each result is copied out before the next.
        self._pool = torch.cuda.graph_pool_handle() if self._cuda else None
        self._graphs: OrderedDict[tuple[Shape, int], _Recorded | None] = OrderedDict()
        self._plain: set[tuple[Shape, int]] = set()

    def embed(
        self, samples: Sequence[Samples], rates: Sequence[float], gains: Sequence[float]
    ) -> list[Rows]:
        """(K, D) float32 per window; not checked for being finite.

        Raises:
            MemoryError: One window does not fit into the device's memory.
        """
        found: list[Rows] = [_NOTHING] * len(samples)
        waiting: list[tuple[Sequence[int], Tensor]] = []
        on_device = torch.cuda.device(self._device) if self._cuda else nullcontext()
        with on_device:
            for shape, members in _groups(samples, rates).items():
                most = max(1, BATCH_TOKENS // self._tokens(shape.size, shape.rate))

                def call(part: Sequence[int], shape: Shape = shape, most: int = most) -> None:
                    rows = self._batch(shape, part, samples, gains, bucket(len(part), most))
                    waiting.append((part, rows))

                self._halving.run(shape, members, most, call)
            if self._cuda:
                torch.cuda.current_stream(self._device).synchronize()
        for part, rows in waiting:
            for i, row in zip(part, rows.numpy(), strict=False):  # a bucket's padding is left over
                found[i] = row.copy()
        return found

    def _record(
        self,
        key: tuple[Shape, int],
        work: Callable[[Tensor, Tensor], Tensor],
        raw: Tensor,
        gains: Tensor,
    ) -> _Recorded | None:
        """The work as a graph; None where torch cannot, for one when memory runs out meanwhile."""
        if self._cuda and not any(self._graphs.values()):
            # The pool went with the last graph in it: torch refuses its name from then on.
            self._pool = torch.cuda.graph_pool_handle()
        try:
            recorded = _Recorded(work, raw, gains, self._pool, self._tables(key[0].rate))
        except RuntimeError as error:
            logger.warning("batches of %s are computed without a CUDA graph: %s", key, error)
            self._plain.add(key)
        else:
            self._graphs[key] = recorded
            return recorded
        self._forget()
        self._graphs[key] = None
        return None

    @property
    def _cuda(self) -> bool:
        return self._device.type == "cuda"

    def _forget(self) -> None:
        """Give back what recorded batches hold; work under way still needs its buffers."""
        if self._cuda:
            torch.cuda.synchronize(self._device)
            self._graphs.clear()
            torch.cuda.empty_cache()

    def _batch(
        self,
        shape: Shape,
        part: Sequence[int],
        samples: Sequence[Samples],
        gains: Sequence[float],
        size: int,
    ) -> Tensor:
        """Embeddings (size, K, D) in host memory, on their way."""

        def fill(host: Tensor, factors: Tensor) -> None:
            rows = host.numpy()
            with np.errstate(over="ignore", invalid="ignore"):  # the result tells
                np.stack([samples[i] for i in part], out=rows[: len(part)], casting="unsafe")
            rows[len(part) :] = 0
            factors.fill_(1.0)
            factors.numpy()[: len(part), 0] = [gains[i] for i in part]

        dtype = torch.int16 if shape.whole else torch.float32
        raw, factors = self._staging.send((size, shape.size), dtype, fill)
        try:
            rows = self._computed(shape, raw, factors)
        finally:
            self._staging.release()
        host = torch.empty(rows.shape, dtype=torch.float32, pin_memory=self._cuda)
        return host.copy_(rows, non_blocking=True)

    def _computed(self, shape: Shape, raw: Tensor, gains: Tensor) -> Tensor:
        def work(raw: Tensor, gains: Tensor) -> Tensor:
            wave = raw.to(torch.float32) * gains
            mean = wave.mean(-1, keepdim=True, dtype=torch.float64).to(torch.float32)
            return self._forward(wave.sub_(mean), shape.rate).to(torch.float32)

        key = (shape, raw.shape[0])
        if not self._cuda:
            return work(raw, gains)
        if key not in self._graphs:  # first time: plainly, which also makes plans and tables
            while len(self._graphs) >= GRAPHS:
                torch.cuda.synchronize(self._device)  # it may still be at work
                self._graphs.popitem(last=False)
            self._graphs[key] = None
            return work(raw, gains)
        self._graphs.move_to_end(key)
        recorded = self._graphs[key]
        if recorded is None and key not in self._plain:
            recorded = self._record(key, work, raw, gains)
        if recorded is None:
            return work(raw, gains)
        recorded.raw.copy_(raw)
        recorded.gains.copy_(gains)
        return recorded()


def bucket(count: int, most: int) -> int:
    """Windows that a batch of `count` is filled up to: the next power of two, at most `most`."""
    return max(count, min(most, 1 << (count - 1).bit_length()))


def _groups(samples: Sequence[Samples], rates: Sequence[float]) -> dict[Shape, list[int]]:
    groups: dict[Shape, list[int]] = {}
    for i, (wave, rate) in enumerate(zip(samples, rates, strict=True)):
        shape = Shape(float(rate), wave.size, wave.dtype == np.int16)
        groups.setdefault(shape, []).append(i)
    return groups
