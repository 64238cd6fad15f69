"""Windows of any rates and lengths in, one embedding per band out, in few large batches.

Bands never attend to each other, so bands of all windows share one flat token matrix, cut into
calls of at most `max_tokens` (activations beyond a few MB make the C allocator map and unmap memory
at every operation, up to 3.7 x slower). The weights are copied at construction into
`echo_model.kernels`, the last layer works on CLS tokens only. Results agree with
`Echo.extract_features` within 1e-5 (fp32) whatever else is in the batch.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echo_model import features, gpu
from echo_model.devices import Precision, check_precision, checked_device, has_native_bf16
from echo_model.echo import Echo, Run, place_tokens
from echo_model.kernels import Layer, Norm, Placement, packs_weights
from echo_model.waves import Samples, stack, too_large

__all__ = ["EchoEngine", "Precision", "has_native_bf16"]

Embedding = NDArray[np.float32]

# Samples per spectrogram call: 8 windows of 1 s at 16 kHz, so that frames stay in the cache.
SPECTRUM_SAMPLES = 1 << 17
# Largest activation (M, 4 D) of one call on a CPU: 2048 tokens of tiny, 1024 of small in fp32.
# Beyond it small loses 16 % to page faults and cache misses (AMD Zen 5, glibc malloc untuned).
CPU_ACTIVATION_BYTES = 6 << 20
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


class EchoEngine:
    """Batched inference for one ECHO network, whose weights are copied at construction.

    Args:
        model: The network.
        device: `cpu`, `cuda` or `cuda:0` ...
        precision: `fp32`, or `bf16` where the processor has it natively (AMX or AVX512-BF16, or a
            CUDA device that does): faster, cosine with fp32 about 0.9999. Keep a baseline and
            its queries in one precision; `model_id` tells them apart.
        max_tokens: Most tokens per encoder call on a CPU, at least one full clip (126). Wide
            networks get fewer, so that activations stay small enough for cache and allocator. A GPU
            has batches of its own, see `echo_model.gpu`.

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
        self.device = checked_device(device)
        check_precision(precision, self.device)
        clip = 1 + model.config.max_patches
        if max_tokens < clip:
            raise ValueError(
                f"max_tokens must be at least {clip} (one full clip), got {max_tokens}"
            )
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.precision, self.max_tokens = precision, max_tokens
        if self.device.type == "cpu":
            row = 4 * model.config.embed_dim * self.dtype.itemsize
            self.max_tokens = min(max_tokens, max(clip, CPU_ACTIVATION_BYTES // row))
        else:
            self.max_tokens = gpu.BATCH_TOKENS
        self._gpu = (
            gpu.GpuEncoder(self._forward, self._tokens, self._tables, self.device)
            if (self.device.type == "cuda")
            else None
        )
        self._model = model
        self._codes: dict[int, Tensor] = {}
        self._copy_weights(model, Placement(self.device, self.dtype, packs_weights(self.device)))

    @torch.inference_mode()
    def _copy_weights(self, model: Echo, place: Placement) -> None:
        proj = model.patch_embed.proj
        assert proj.bias is not None  # noqa: S101  (for the type checker: built with a bias)
        # Time-major, as `features.frame_patches` lays patches out.
        self._patch = place.linear(proj.weight[:, 0].transpose(1, 2).flatten(1), proj.bias)
        self._cls, self._pos = place.put(model.cls_token), place.put(model.pos_embed)
        depth = model.config.depth
        self._layers = [
            Layer(block, place, last=i == depth - 1)
            for i, block in enumerate(model.encoder.blocks())
        ]
        self._norm = Norm(model.norm, place)

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
        if self._gpu is not None:
            return self._embed_on_gpu(self._gpu, samples, sample_rates_hz, scale)
        done: list[_Origin] = []
        pieces = self._pieces(samples, sample_rates_hz, scale)
        rows = [self._encode(call) for call in self._calls(pieces, done)]
        if not rows:
            return []
        host = torch.cat(rows).to(torch.float32).cpu().numpy()
        return _collect(done, host, len(samples))

    def _embed_on_gpu(
        self,
        encoder: gpu.GpuEncoder,
        samples: Sequence[Samples],
        rates: Sequence[float],
        gains: Sequence[float],
    ) -> list[Embedding]:
        known: set[tuple[int, float]] = set()
        for i, (wave, rate, _) in enumerate(zip(samples, rates, gains, strict=True)):
            if wave.ndim != 1 or (wave.size, rate) not in known:
                self._named_group(i, wave, rate)
                known.add((wave.size, rate))
        found = encoder.embed(samples, rates, gains)
        for i, rows in enumerate(found):
            if not np.isfinite(rows).all():
                stack((i,), samples, gains)  # names what was wrong with the samples, if so
                raise ValueError(too_large(i))
        return found

    @staticmethod
    def _spectrum_only(wave: Tensor, rate: float) -> Tensor:
        return features.log_frames(wave, rate)[:, :1, :1]

    def _forward(self, wave: Tensor, rate: float) -> Tensor:
        """CLS tokens (B, K, D) float32 of equally long waves (B, N) without their mean."""
        config, bins = self._model.config, self._model.band_bins(rate)
        spec = features.log_frames(wave, rate)  # (B, T, F)
        codes = self._band_codes(rate).repeat(len(wave), 1)
        clips = features.clip_frames(spec.shape[1], config.spec_len, parity=self._model.parity)
        total = sum(b - a for a, b in clips)
        found: Tensor | None = None
        for a, b in clips:
            patches = features.frame_patches(
                spec[:, a:b], bins, config.band_width, config.patch_frames, self.dtype
            )
            rows = self._encode([(patches.flatten(0, 1), codes)]).to(torch.float32)
            part = rows * ((b - a) / total)
            found = part if found is None else found + part
        assert found is not None  # noqa: S101  (a window holds one frame at least)
        return found.view(len(wave), len(bins), -1)

    def _tables(self, rate: float) -> tuple[Tensor, Tensor]:
        n_fft, _ = features.frame_sizes(rate)
        return features.hann(n_fft, str(self.device)), self._band_codes(rate)

    def _tokens(self, size: int, rate: float) -> int:
        """Tokens of one window."""
        config = self._model.config
        frames = features.frame_count(size, rate)
        clips = features.clip_frames(frames, config.spec_len, parity=self._model.parity)
        patches = (-(-(b - a) // config.patch_frames) for a, b in clips)
        return len(self._model.band_bins(rate)) * sum(1 + p for p in patches)

    @torch.inference_mode()
    def prepare(
        self,
        samples: Sequence[Samples],
        sample_rates_hz: Sequence[float],
        gains: Sequence[float] | None = None,
    ) -> int:
        """What `embed` does before the network, to be timed; gives how much there is of it."""
        scale = [1.0] * len(samples) if gains is None else list(gains)
        if self.device.type == "cuda":
            before = gpu.GpuEncoder(self._spectrum_only, self._tokens, self._tables, self.device)
            return len(before.embed(samples, sample_rates_hz, scale))
        return sum(piece.origin.bands for piece in self._pieces(samples, sample_rates_hz, scale))

    def _pieces(
        self, samples: Sequence[Samples], rates: Sequence[float], gains: Sequence[float]
    ) -> Iterator[_Piece]:
        """Spectrogram patches, windows of equal rate and length together, short ones first."""
        groups: dict[tuple[int, int, int, int], list[int]] = {}
        for i, (wave, rate, _) in enumerate(zip(samples, rates, gains, strict=True)):
            groups.setdefault(self._named_group(i, wave, rate), []).append(i)
        for (_, _, _, size), members in sorted(groups.items()):
            step = max(1, SPECTRUM_SAMPLES // size)
            for start in range(0, len(members), step):
                part = tuple(members[start : start + step])
                waves = stack(part, samples, gains)
                yield from self._spectrum_pieces(waves, rates[part[0]], part)

    def _named_group(self, i: int, wave: Samples, rate: float) -> tuple[int, int, int, int]:
        try:
            return self._group(wave, rate)
        except ValueError as error:
            raise ValueError(f"samples[{i}] at {rate:g} Hz: {error}") from error

    def _group(self, wave: Samples, rate: float) -> tuple[int, int, int, int]:
        """What windows of one spectrogram call share: frames, n_fft, hop and samples."""
        n_fft, hop = features.frame_sizes(rate)
        if wave.ndim != 1 or wave.size < n_fft:
            raise ValueError(self.problem(wave, rate))
        self._model.band_bins(rate)
        return features.frame_count(wave.size, rate), n_fft, hop, wave.size

    def _spectrum_pieces(
        self, waves: NDArray[np.float32], rate: float, windows: tuple[int, ...]
    ) -> Iterator[_Piece]:
        config = self._model.config
        wave = torch.from_numpy(waves).to(self.device)
        mean = wave.mean(-1, keepdim=True, dtype=torch.float64).to(torch.float32)
        spec = features.log_frames(wave.sub_(mean), rate)  # (B, T, F)
        self._check_spectrum(spec, windows)
        bins, codes = self._model.band_bins(rate), self._band_codes(rate)
        clips = features.clip_frames(spec.shape[1], config.spec_len, parity=self._model.parity)
        total = sum(b - a for a, b in clips)
        for a, b in clips:
            patches = features.frame_patches(
                spec[:, a:b], bins, config.band_width, config.patch_frames, self.dtype
            )
            origin = _Origin(windows, len(windows) * len(bins), (b - a) / total)
            yield _Piece(patches.flatten(0, 1), codes.repeat(len(windows), 1), origin)

    @staticmethod
    def _check_spectrum(spec: Tensor, windows: tuple[int, ...]) -> None:
        """Refuse what is not finite before bands attend in groups: 0 * inf would reach neighbours.

        Values are below 10 where they are finite, so their sum tells. With a GPU, where nothing is
        grouped, the results tell in the end: asking here would wait for the device.
        """
        if spec.device.type == "cpu" and not math.isfinite(float(spec.sum())):
            bad = next(w for w, row in zip(windows, spec, strict=True) if not row.isfinite().all())
            raise ValueError(too_large(bad))

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
    if not np.isfinite(host).all():
        bad = next(i for i in range(count) if not np.isfinite(found[i]).all())
        raise ValueError(too_large(bad))
    return [found[i] for i in range(count)]
