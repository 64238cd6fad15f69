"""Windows of any rates and lengths in, one embedding per band out, in few large batches.

Bands never attend to each other, so bands of all windows share one flat token matrix, cut into
calls of at most `max_tokens` (activations beyond a few MB make the C allocator map and unmap memory
at every operation, up to 3.7 x slower). The weights are copied at construction and, on x86, laid
out for oneDNN; the last layer works on CLS tokens only. Results agree with
`Echo.extract_features` within 1e-5 (fp32) whatever else is in the batch.
"""

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from numpy.typing import NDArray
from torch import Tensor, nn

from echo_model import features
from echo_model.echo import Block, Echo, Run, place_tokens

Precision = Literal["fp32", "bf16"]
Samples = NDArray[np.generic]
Embedding = NDArray[np.float32]

# Samples per spectrogram call: 32 windows of 1 s at 16 kHz; keeps memory bounded.
SPECTRUM_SAMPLES = 1 << 19
CACHED_RATES = 256


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bands of one clip of a few equally long windows, ready for the encoder."""

    patches: Tensor  # (B * K, P, bins * frames)
    codes: Tensor  # (B * K, D)
    origin: "_Origin"


@dataclass(frozen=True, slots=True)
class _Origin:
    """Whose bands they are."""

    windows: tuple[int, ...]  # B of them
    bands: int  # B * K
    share: float  # of each window's frames


class _Linear:
    """A linear layer with its weights laid out once for the matrix kernels."""

    def __init__(self, weight: Tensor, bias: Tensor, *, packed: bool) -> None:
        self.weight, self.bias, self.packed = weight.contiguous(), bias.contiguous(), packed
        if packed:
            # oneDNN with reordered weights: twice MKL's fp32 rate on AMD Zen 5, equal on Intel.
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, 2048)  # noqa: SLF001

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed:
            return self._fused(x, "none")
        return F.linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        return F.gelu(self(x))

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        return self(x).add_(residual)

    def _fused(self, x: Tensor, activation: str) -> Tensor:
        run = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001  (no public door)
        out: Tensor = run(x, self.weight, self.bias, activation, [], "")
        return out


@dataclass(frozen=True, slots=True)
class _Placement:
    """Where weights live and in which number format."""

    device: torch.device
    dtype: torch.dtype
    packed: bool

    def put(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.device, self.dtype, copy=True)

    def linear(self, weight: Tensor, bias: Tensor) -> _Linear:
        return _Linear(self.put(weight), self.put(bias), packed=self.packed)


class _Norm:
    """Layer norm over the last axis."""

    def __init__(self, norm: nn.LayerNorm, place: _Placement) -> None:
        self.weight, self.bias, self.eps = place.put(norm.weight), place.put(norm.bias), norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class _Layer:
    """One post-norm transformer layer on flat tokens, weights frozen."""

    def __init__(self, block: Block, place: _Placement, *, last: bool) -> None:
        attn, dim = block.self_attn, block.self_attn.out_proj.in_features
        self.heads = attn.num_heads
        weight, bias = attn.in_proj_weight.detach(), attn.in_proj_bias.detach()
        if last:
            self.query = place.linear(weight[:dim], bias[:dim])
            weight, bias = weight[dim:], bias[dim:]
        self.project = place.linear(weight, bias)
        self.out = place.linear(attn.out_proj.weight, attn.out_proj.bias)
        self.up = place.linear(block.linear1.weight, block.linear1.bias)
        self.down = place.linear(block.linear2.weight, block.linear2.bias)
        self.norm1, self.norm2 = _Norm(block.norm1, place), _Norm(block.norm2, place)

    def __call__(self, x: Tensor, runs: Sequence[Run]) -> Tensor:
        """(M, D) to (M, D)."""
        parts = torch.split(self.project(x), [run.bands * run.tokens for run in runs])
        mixed = [
            _attend(*part.view(*run, 3, self.heads, -1).unbind(2))
            for part, run in zip(parts, runs, strict=True)
        ]
        return self._finish(x, mixed)

    def cls_only(self, x: Tensor, runs: Sequence[Run]) -> Tensor:
        """(M, D) to the CLS rows (bands, D); other rows of the last layer reach no result."""
        sizes = [run.bands * run.tokens for run in runs]
        cls = torch.cat(
            [part[:: run.tokens] for part, run in zip(torch.split(x, sizes), runs, strict=True)]
        )
        projected = torch.split(self.project(x), sizes)
        queries = torch.split(self.query(cls), [run.bands for run in runs])
        mixed = [
            _attend(
                query.view(run.bands, 1, self.heads, -1),
                *part.view(*run, 2, self.heads, -1).unbind(2),
            )
            for query, part, run in zip(queries, projected, runs, strict=True)
        ]
        return self._finish(cls, mixed)

    def _finish(self, x: Tensor, mixed: list[Tensor]) -> Tensor:
        x = self.norm1(self.out.add(mixed[0] if len(mixed) == 1 else torch.cat(mixed), x))
        return self.norm2(self.down.add(self.up.gelu(x), x))


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention inside bands: (B, Q, H, d) and twice (B, L, H, d) to (B * Q, H * d)."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if q.dtype == torch.bfloat16 and q.device.type == "cpu":
        # Measured for 8..126 tokens: 1.5-2.7 x faster than the bf16 SDPA kernel on the CPU.
        scores = (q @ k.transpose(-1, -2)).mul_(q.shape[-1] ** -0.5)
        mixed = scores.softmax(-1) @ v
    else:
        mixed = F.scaled_dot_product_attention(q, k, v)
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1)


class EchoEngine:
    """Batched inference for one ECHO network, whose weights are copied at construction.

    Args:
        model: The network.
        device: `cpu`, `cuda` or `cuda:0` ...
        precision: `fp32`, or `bf16` where the processor has it natively (AMX or AVX512-BF16, or a
            CUDA device that does): faster, cosine with fp32 about 0.9999. Keep a baseline and
            its queries in one precision; `model_id` tells them apart.
        max_tokens: Tokens per encoder call; at least one full clip (126).

    Raises:
        ValueError: Unknown device or precision, one that this machine lacks, too few tokens.
    """

    def __init__(
        self,
        model: Echo,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        max_tokens: int = 2048,
    ) -> None:
        self.device = _checked_device(device)
        _check_precision(precision, self.device)
        if max_tokens < 1 + model.config.max_patches:
            raise ValueError(
                f"max_tokens must be at least {1 + model.config.max_patches} (one full clip), "
                f"got {max_tokens}"
            )
        self.precision, self.max_tokens = precision, max_tokens
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._model = model
        self._codes: dict[int, Tensor] = {}
        self._copy_weights(model, _Placement(self.device, self.dtype, _packs(self.device)))

    @torch.inference_mode()
    def _copy_weights(self, model: Echo, place: _Placement) -> None:
        proj = model.patch_embed.proj
        assert proj.bias is not None  # noqa: S101  (for the type checker: built with a bias)
        self._patch = place.linear(proj.weight.flatten(1), proj.bias)
        self._cls, self._pos = place.put(model.cls_token), place.put(model.pos_embed)
        depth = model.config.depth
        self._layers = [
            _Layer(block, place, last=i == depth - 1)
            for i, block in enumerate(model.encoder.blocks())
        ]
        self._norm = _Norm(model.norm, place)

    @property
    def model_id(self) -> str:
        """The model's id; bf16 results carry their own, for they are not comparable."""
        suffix = "" if self.precision == "fp32" else f"-{self.precision}"
        return self._model.model_id + suffix

    @property
    def trained(self) -> bool:
        """Whether the weights came from training."""
        return self._model.trained

    @property
    def embed_dim(self) -> int:
        """Length D of a band's embedding."""
        return self._model.config.embed_dim

    def min_samples(self, sample_rate_hz: float) -> int:
        """Shortest window at this rate: one 25 ms frame."""
        return features.frame_sizes(sample_rate_hz)[0]

    def band_edges_hz(self, sample_rate_hz: float) -> tuple[tuple[float, float], ...]:
        """Frequency range of each band, low to high.

        Bin k stands for (k +- 1/2) sample_rate / n_fft, cut to 0 .. Nyquist, so bands touch and a
        last band of the Nyquist bin alone is half a bin wide.
        """
        n_fft, _ = features.frame_sizes(sample_rate_hz)
        step, top = sample_rate_hz / n_fft, sample_rate_hz / 2
        return tuple(
            (max(0.0, (lo - 0.5) * step), min(top, (hi - 0.5) * step))
            for lo, hi in self._model.band_bins(sample_rate_hz)
        )

    def problem(self, samples: Samples, sample_rate_hz: float) -> str | None:
        """Why `embed` would refuse this window, or None: sift before batching."""
        try:
            features.as_waveform(samples, sample_rate_hz)
            self._model.band_bins(sample_rate_hz)
        except ValueError as error:
            return str(error)
        return None if samples.ndim == 1 else f"samples must be (N,), got {samples.shape}"

    @torch.inference_mode()
    def embed(
        self,
        samples: Sequence[Samples],
        sample_rates_hz: Sequence[float],
        gains: Sequence[float] | None = None,
    ) -> list[Embedding]:
        """Embed windows together.

        Args:
            samples: (N,) each, any real dtype, any lengths of at least `min_samples`.
            sample_rates_hz: Rate of each window, >= 100 Hz.
            gains: Factor of each window, applied before the spectrogram; None means 1.

        Returns:
            (K, D) float32 per window: CLS tokens of its bands, low to high; K depends on the rate.
            Windows longer than `spec_len` frames give the frame-weighted mean of their clips.

        Raises:
            ValueError: Names the first window that cannot be embedded and why.
        """
        scale = [1.0] * len(samples) if gains is None else list(gains)
        done: list[_Origin] = []
        pieces = self._pieces(samples, sample_rates_hz, scale)
        rows = [self._encode(call) for call in self._calls(pieces, done)]
        if not rows:
            return []
        host = torch.cat(rows).to(torch.float32).cpu().numpy()
        return _collect(done, host, len(samples))

    def _pieces(
        self, samples: Sequence[Samples], rates: Sequence[float], gains: Sequence[float]
    ) -> Iterator[_Piece]:
        """Spectrogram patches, windows of equal rate and length together, short ones first."""
        groups: dict[tuple[int, int, int, int], list[int]] = {}
        for i, (wave, rate, _) in enumerate(zip(samples, rates, gains, strict=True)):
            n_fft, hop = features.frame_sizes(rate)
            if wave.ndim != 1 or wave.size < n_fft:
                raise ValueError(f"samples[{i}] at {rate:g} Hz: {self.problem(wave, rate)}")
            frames = features.frame_count(wave.size, rate)
            groups.setdefault((frames, n_fft, hop, wave.size), []).append(i)
        for (_, _, _, size), members in sorted(groups.items()):
            step = max(1, SPECTRUM_SAMPLES // size)
            for start in range(0, len(members), step):
                part = tuple(members[start : start + step])
                waves = _stack(part, samples, gains)
                yield from self._spectrum_pieces(waves, rates[part[0]], part)

    def _spectrum_pieces(
        self, waves: NDArray[np.float32], rate: float, windows: tuple[int, ...]
    ) -> Iterator[_Piece]:
        config = self._model.config
        spec = features.log_spectrogram(torch.from_numpy(waves).to(self.device), rate)
        bins, codes = self._model.band_bins(rate), self._band_codes(rate)
        clips = features.clip_frames(spec.shape[-1], config.spec_len, parity=self._model.parity)
        total = sum(b - a for a, b in clips)
        for a, b in clips:
            bands = features.split_bands(spec[..., a:b], bins, config.band_width)
            patches = features.to_patches(bands.to(self.dtype), config.patch_frames)
            origin = _Origin(windows, len(windows) * len(bins), (b - a) / total)
            yield _Piece(patches.flatten(0, 1), codes.repeat(len(windows), 1), origin)

    def _band_codes(self, rate: float) -> Tensor:
        n_fft, _ = features.frame_sizes(rate)
        if n_fft not in self._codes:
            if len(self._codes) >= CACHED_RATES:
                self._codes.clear()
            self._codes[n_fft] = self._model.band_codes(rate).to(self.device, self.dtype)
        return self._codes[n_fft]

    def _calls(
        self, pieces: Iterator[_Piece], done: list[_Origin]
    ) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """Cut pieces into calls of at most `max_tokens`; `done` gets their origins in order."""
        call: list[tuple[Tensor, Tensor]] = []
        room = self.max_tokens
        for piece in pieces:
            done.append(piece.origin)
            bands, tokens = piece.patches.shape[0], 1 + piece.patches.shape[1]
            start = 0
            while start < bands:
                take = min(bands - start, room // tokens)
                if take == 0:
                    yield call
                    call, room = [], self.max_tokens
                    continue
                cut = slice(start, start + take)
                call.append((piece.patches[cut], piece.codes[cut]))
                start, room = start + take, room - take * tokens
        if call:
            yield call

    def _encode(self, call: list[tuple[Tensor, Tensor]]) -> Tensor:
        """CLS tokens (bands, D) of one call."""
        runs: list[Run] = []
        for patches, _ in call:
            bands, tokens = patches.shape[0], 1 + patches.shape[1]
            if runs and runs[-1].tokens == tokens:
                runs[-1] = Run(runs[-1].bands + bands, tokens)
            else:
                runs.append(Run(bands, tokens))
        flat = [patches.flatten(0, 1) for patches, _ in call]
        embedded = self._patch(flat[0] if len(flat) == 1 else torch.cat(flat))
        codes = torch.cat([codes for _, codes in call])
        x = place_tokens(embedded, codes, self._cls, self._pos, runs)
        for layer in self._layers[:-1]:
            x = layer(x, runs)
        return self._norm(self._layers[-1].cls_only(x, runs))


def _stack(
    windows: Sequence[int], samples: Sequence[Samples], gains: Sequence[float]
) -> NDArray[np.float32]:
    waves = np.empty((len(windows), samples[windows[0]].size), np.float32)
    for row, i in zip(waves, windows, strict=True):
        with np.errstate(over="ignore", invalid="ignore"):  # caught and named below
            np.multiply(samples[i], np.float32(gains[i]), out=row, casting="unsafe")
        # A float64 sum of float32 cannot overflow, so it is finite exactly if every sample is.
        if not np.isfinite(row.sum(dtype=np.float64)):
            raise ValueError(
                f"samples[{i}] must be finite after its gain of {gains[i]:g}, got NaN, infinity or "
                "values beyond float32: mask or drop the damaged stretch first"
            )
    return waves


def _collect(done: Sequence[_Origin], host: NDArray[np.float32], count: int) -> list[Embedding]:
    """Rows of all pieces, joined to one (K, D) array per window."""
    found: dict[int, Embedding] = {}
    start = 0
    for origin in done:
        block = host[start : start + origin.bands]
        block = block.reshape(len(origin.windows), -1, host.shape[1])
        start += origin.bands
        for window, rows in zip(origin.windows, block, strict=True):
            part = rows * np.float32(origin.share)
            found[window] = found[window] + part if window in found else part
    bad = [i for i in range(count) if not np.isfinite(found[i]).all()]
    if bad:
        raise ValueError(
            f"samples[{bad[0]}] must be small enough for a float32 spectrum, got a result that is "
            "not finite: scale the sensor so that full scale is about +-1"
        )
    return [found[i] for i in range(count)]


def _packs(device: torch.device) -> bool:
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return device.type == "cpu" and x86 and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def _checked_device(device: str) -> torch.device:
    found = torch.device(device)
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda, got {device!r}")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} needs a CUDA GPU, got none: use device='cpu'")
    return found


def _check_precision(precision: str, device: torch.device) -> None:
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {get_args(Precision)}, got {precision!r}")
    if precision == "bf16" and not has_native_bf16(device):
        raise ValueError(
            f"precision 'bf16' needs AMX or AVX512-BF16, or a GPU that has it, got {device}: "
            "emulated it is slower than fp32; use precision='fp32'"
        )


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))
