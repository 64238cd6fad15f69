"""Encoders and sample rates in, this machine's throughput and how close to its limit it is out.

The limit is the time that the network's matrix products alone take, same shapes, same machine, same
run, with the faster of the two calls that torch offers (weights reordered for oneDNN, or plain).
Attention, norms, GELU and the spectrogram are not in it, so nothing reaches 100 %. Runs of engine,
limit and spectrogram alternate and the best of each counts: load from elsewhere only ever slows. On
a CPU the clock is the processor time of one thread: a worker per core with one thread each gives
more than one worker with many.
This is the encoder alone: decoding messages, indicators, baselines and alarms come on top.
"""

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echo_model import features
from echo_model.checkpoints import EchoConfig
from echo_model.devices import checked_device
from echo_model.echo import Echo
from echo_model.engine import EchoEngine, Precision, has_native_bf16
from echo_model.kernels import Linear, packs_weights

# One batch on a CPU: at most 64 windows and so many values (tokens * D), that no cell takes long;
# 64 windows of 1 s at 16 kHz with tiny.
CPU_WINDOWS, CPU_VALUES = 64, 3584 * 192
CUDA_WINDOWS = 2048
MIN_REPEATS, MAX_REPEATS = 3, 15
CELL_S = 2.0

Product = tuple[int, int, int]  # rows, inputs, outputs
Samples = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of the table.

    Attributes:
        model: Name as asked for.
        sample_rate_hz: Rate of the windows.
        precision: `fp32` or `bf16`.
        device: `cpu` or `cuda:N`.
        cores: Cores that `sensors` counts, each with a worker of one thread; 1 with a GPU.
        window_s: Length of a window in seconds.
        batch: Windows per batch.
        windows_per_s: Windows embedded per second of one core (or GPU), best batch: int16 samples
            in host memory to embeddings in host memory.
        limit_per_s: The same for the matrix products alone.
        limit_share: Limit's time over the engine's, 0..1.
        spectrum_share: Part of the engine's time before the network, 0..1.
        sensors: Sensors of one window per interval that the encoder alone carries on all cores.
    """

    model: str
    sample_rate_hz: float
    precision: Precision
    device: str
    cores: int
    window_s: float
    batch: int
    windows_per_s: float
    limit_per_s: float
    limit_share: float
    spectrum_share: float
    sensors: int


@dataclass(frozen=True, slots=True)
class Step:
    """One cell to be measured."""

    model: str
    network: Echo
    engine: EchoEngine
    sample_rate_hz: float

    @property
    def name(self) -> str:
        """What a progress line calls it."""
        return f"{self.model} {self.sample_rate_hz:g} Hz {self.engine.precision}"

    def measure(self, window_s: float, interval_s: float) -> Cell:
        """Measure it."""
        return measure(
            self.engine,
            self.network.config,
            model=self.model,
            sample_rate_hz=self.sample_rate_hz,
            window_s=window_s,
            interval_s=interval_s,
        )


def plan(
    models: Sequence[str],
    rates_hz: Sequence[float],
    *,
    device: str = "cpu",
    precisions: Sequence[str] | None = None,
) -> list[Step]:
    """Cells of a table; engines are made, rates and precisions checked before the first runs.

    Raises:
        ValueError: Unknown model, device or precision, or one that this machine lacks.
    """
    torch.set_num_threads(1)
    native = has_native_bf16(checked_device(device))
    wanted = precisions or (["fp32", "bf16"] if native else ["fp32"])
    steps = []
    for name in models:
        network = Echo.from_pretrained(name)
        for rate in rates_hz:
            network.band_bins(rate)
        engines = [EchoEngine(network, device=device, precision=p) for p in wanted]  # type: ignore[arg-type]
        steps += [Step(name, network, engine, rate) for rate in rates_hz for engine in engines]
    return steps


def machine(device: str) -> dict[str, object]:
    """What the figures were measured on."""
    found: dict[str, object] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "bf16": sorted(
            name for name, there in torch.cpu.get_capabilities().items() if there and "bf16" in name
        ),
        "load_before": round(os.getloadavg()[0], 2),
    }
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def machine_line(cell: Cell) -> str:
    """The same in one line."""
    found = machine(cell.device)
    what = found.get("gpu", found["processor"])
    return f"{what}, {found['cores']} cores, torch {found['torch']}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def measure(
    engine: EchoEngine,
    config: EchoConfig,
    *,
    model: str,
    sample_rate_hz: float,
    window_s: float,
    interval_s: float,
    budget_s: float = CELL_S,
) -> Cell:
    """One cell of the table, in about `budget_s` seconds."""
    shape = window_shape(engine, config, sample_rate_hz, window_s)
    count = batch_size(engine, shape)
    samples, rates = windows(sample_rate_hz, window_s, count), [sample_rate_hz] * count
    gains = [1 / 32768] * count
    limit = Limit(config, engine, shape, count)
    engine_s, limit_s, spectrum_s = alternate(
        [
            lambda: engine.embed(samples, rates, gains),
            limit.run,
            lambda: engine.prepare(samples, rates, gains),
        ],
        budget_s,
        engine.device,
    )
    best = min(engine_s)
    cores = (os.cpu_count() or 1) if engine.device.type == "cpu" else 1
    return Cell(
        model=model,
        sample_rate_hz=sample_rate_hz,
        precision=engine.precision,
        device=str(engine.device),
        cores=cores,
        window_s=window_s,
        batch=count,
        windows_per_s=count / best,
        limit_per_s=count / min(limit_s),
        limit_share=min(limit_s) / best,
        spectrum_share=min(spectrum_s) / best,
        sensors=int(cores * interval_s * count / best),
    )


def window_shape(
    engine: EchoEngine, config: EchoConfig, sample_rate_hz: float, window_s: float
) -> tuple[int, tuple[int, ...]]:
    """Bands of a window, and patches per band of each of its clips."""
    frames = features.frame_count(round(window_s * sample_rate_hz), sample_rate_hz)
    if frames == 0:
        raise ValueError(f"window must hold one frame of 25 ms, got {window_s:g} s")
    clips = features.clip_frames(frames, config.spec_len)
    patches = tuple(-(-(b - a) // config.patch_frames) for a, b in clips)
    return len(engine.band_edges_hz(sample_rate_hz)), patches


def batch_size(engine: EchoEngine, shape: tuple[int, tuple[int, ...]]) -> int:
    """Windows per batch."""
    if engine.device.type == "cuda":
        return CUDA_WINDOWS
    bands, patches = shape
    values = bands * sum(1 + p for p in patches) * engine.embed_dim
    return max(1, min(CPU_WINDOWS, CPU_VALUES // values))


def windows(sample_rate_hz: float, window_s: float, count: int) -> list[Samples]:
    """Noise as a converter gives it: (N,) int16 each, about a tenth of full scale."""
    rng = np.random.default_rng(0)
    size = round(window_s * sample_rate_hz)
    return [(3000 * rng.standard_normal(size)).astype(np.int16) for _ in range(count)]


def products(config: EchoConfig, patches: int, bands: int) -> Iterator[Product]:
    """Matrix products of one encoder call; the last layer works on CLS rows but for its keys."""
    dim, rows = config.embed_dim, patches + bands
    yield patches, config.band_width * config.patch_frames, dim
    for _ in range(config.depth - 1):
        yield rows, dim, 3 * dim
        yield rows, dim, dim
        yield rows, dim, 4 * dim
        yield rows, 4 * dim, dim
    yield rows, dim, 2 * dim
    yield bands, dim, dim
    yield bands, dim, dim
    yield bands, dim, 4 * dim
    yield bands, 4 * dim, dim


class Limit:
    """The matrix products of a batch alone, cut into calls as the engine cuts it."""

    def __init__(
        self, config: EchoConfig, engine: EchoEngine, shape: tuple[int, tuple[int, ...]], count: int
    ) -> None:
        bands, patches = shape
        self._work: list[tuple[Linear, Tensor]] = []
        self._weights: dict[tuple[int, int, int, bool], Linear] = {}
        self._inputs: dict[tuple[int, int], Tensor] = {}
        self._device, self._dtype = engine.device, engine.dtype
        calls = [
            list(products(config, p * part, part))
            for p in patches
            for part in _parts(count * bands, max(1, engine.max_tokens // (1 + p)))
        ]
        packed = packs_weights(engine.device)
        self._work = self._built(calls, packed=packed)
        if packed:
            plain = self._built(calls, packed=False)
            by_onednn, by_blas = alternate([self.run, lambda: self._run(plain)], 0.2, engine.device)
            if min(by_blas) < min(by_onednn):
                self._work = plain

    @torch.inference_mode()
    def run(self) -> None:
        """All products once."""
        self._run(self._work)

    @staticmethod
    @torch.inference_mode()
    def _run(work: list[tuple[Linear, Tensor]]) -> None:
        for linear, x in work:
            linear(x)

    def _built(self, calls: list[list[Product]], *, packed: bool) -> list[tuple[Linear, Tensor]]:
        return [
            (self._linear(place, wide, out, packed=packed), self._input(rows, wide))
            for call in calls
            for place, (rows, wide, out) in enumerate(call)
        ]

    def _linear(self, place: int, wide: int, out: int, *, packed: bool) -> Linear:
        """Weights of one place in the network, as many as the network has: caches count."""
        key = (place, wide, out, packed)
        if key not in self._weights:
            weight = torch.randn(out, wide).to(self._device, self._dtype)
            bias = torch.zeros(out, device=self._device, dtype=self._dtype)
            self._weights[key] = Linear(weight, bias, packed=packed)
        return self._weights[key]

    def _input(self, rows: int, wide: int) -> Tensor:
        if (rows, wide) not in self._inputs:
            self._inputs[rows, wide] = torch.randn(rows, wide).to(self._device, self._dtype)
        return self._inputs[rows, wide]


def alternate(
    runs: Sequence[Callable[[], object]], budget_s: float, device: torch.device
) -> list[list[float]]:
    """Seconds of each callable, taken in turns until the time is up; one turn warms up."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    taken: list[list[float]] = [[] for _ in runs]
    start = time.perf_counter()
    for turn in range(MAX_REPEATS + 1):
        marks = [clock()]
        for call in runs:
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            marks.append(clock())
        if turn:
            for seconds, (a, b) in zip(taken, pairwise(marks), strict=True):
                seconds.append(b - a)
        if turn >= MIN_REPEATS and time.perf_counter() - start > budget_s:
            break
    return taken


def _parts(total: int, most: int) -> list[int]:
    whole, rest = divmod(total, most)
    return [most] * whole + [rest] * bool(rest)
