"""Audio at any sample rate in, ECHO utterance and segment embeddings out.

Exact re-implementation of the published encoder (arXiv 2508.14689), weights interchangeable.
Attention never crosses a band, so the network works on a flat list of tokens cut into runs of
equally long bands; `forward` is the special case of one run. Deviations from the published code:
clips longer than `spec_len` frames keep a short tail instead of repeating frames (`parity=True`
restores that), channels are separate entries with their own mean, input is checked, and every layer
of an untrained network starts differently.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self, get_args

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from numpy.typing import ArrayLike
from torch import Tensor, nn

from echo_model import checkpoints, features
from echo_model.checkpoints import CONFIGS, EchoConfig
from echo_model.features import Bins, LastBand

LAYER_EPS = 1e-6
UNTRAINED_SEED = 0


class Run(NamedTuple):
    """Consecutive bands of one length in a flat token list."""

    bands: int
    tokens: int  # per band, CLS included


class _Pair(NamedTuple):
    utterance: Tensor
    segments: Tensor


class EchoFeatures(_Pair):
    """Embeddings of one clip; unpacks as `utterance, segments`.

    Attributes:
        utterance: (K * D,), or (C, K * D) for (C, N) audio: CLS tokens, low band to high.
        segments: (P, K * D), or (C, P, K * D): one row per 16 frames.
        segment_times_s: (P,) float64: start of each row's first frame, seconds from the start.
    """

    segment_times_s: Tensor

    def __new__(cls, utterance: Tensor, segments: Tensor, segment_times_s: Tensor) -> Self:
        """Join the pair and its time axis."""
        made = super().__new__(cls, utterance, segments)
        made.segment_times_s = segment_times_s
        return made


def place_tokens(
    embedded: Tensor, codes: Tensor, cls_token: Tensor, pos_embed: Tensor, runs: Sequence[Run]
) -> Tensor:
    """Flat input tokens of the encoder: per band CLS + code, then patch + position + code.

    Args:
        embedded: (sum of P, D) projected patches, band after band.
        codes: (bands, D), one frequency code per band.
        cls_token: (1, 1, D); it gets no time position.
        pos_embed: (1, 1 + P_max, D), row 0 unused.
        runs: How the bands lie: consecutive bands of one length.

    Returns:
        (M, D).
    """
    out, patch, band = [], 0, 0
    for bands, length in runs:
        code = codes[band : band + bands, None]
        part = embedded[patch : patch + bands * (length - 1)].view(bands, length - 1, -1)
        placed = part + pos_embed[:, 1:length] + code
        out.append(torch.cat([cls_token + code, placed], dim=1).flatten(0, 1))
        patch, band = patch + bands * (length - 1), band + bands
    return out[0] if len(out) == 1 else torch.cat(out)


class PatchEmbedding(nn.Module):
    """Convolution with stride = kernel over a band, held under its published name."""

    def __init__(self, config: EchoConfig) -> None:
        super().__init__()
        kernel = (config.band_width, config.patch_frames)
        self.proj = nn.Conv2d(1, config.embed_dim, kernel, stride=kernel)

    def forward(self, patches: Tensor) -> Tensor:
        """Project (..., band_width * patch_frames) to (..., D): one matrix product."""
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class Attention(nn.Module):
    """Multi-head self-attention inside each band."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, runs: Sequence[Run]) -> Tensor:
        """Attend within bands: (M, D) to (M, D)."""
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)  # (M, 3D)
        parts = torch.split(qkv, [run.bands * run.tokens for run in runs])
        mixed = [self._mix(part, run) for part, run in zip(parts, runs, strict=True)]
        out: Tensor = self.out_proj(mixed[0] if len(mixed) == 1 else torch.cat(mixed))
        return out

    def _mix(self, qkv: Tensor, run: Run) -> Tensor:
        split = qkv.view(run.bands, run.tokens, 3, self.num_heads, -1)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)  # (bands, heads, tokens, d) each
        y = F.scaled_dot_product_attention(q, k, v)
        return y.transpose(1, 2).reshape(run.bands * run.tokens, -1)


class Block(nn.Module):
    """Post-norm transformer layer."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(dim, num_heads)
        self.linear1 = nn.Linear(dim, 4 * dim)
        self.linear2 = nn.Linear(4 * dim, dim)
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_EPS)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_EPS)

    def forward(self, x: Tensor, runs: Sequence[Run]) -> Tensor:
        """One layer over flat tokens: (M, D) to (M, D)."""
        x = self.norm1(x + self.self_attn(x, runs))
        out: Tensor = self.norm2(x + self.linear2(F.gelu(self.linear1(x))))
        return out


class BandEncoder(nn.Module):
    """The stack of layers, held under its published name."""

    def __init__(self, config: EchoConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Block(config.embed_dim, config.num_heads) for _ in range(config.depth)
        )

    def forward(self, x: Tensor, runs: Sequence[Run]) -> Tensor:
        """All layers over flat tokens: (M, D) to (M, D)."""
        for block in self.blocks():
            x = block(x, runs)
        return x

    def blocks(self) -> list[Block]:
        """The layers, typed."""
        return [layer for layer in self.layers if isinstance(layer, Block)]


class Echo(nn.Module):
    """The ECHO encoder.

    Args:
        config: Sizes.
        last_band: What becomes of a remainder of fewer than 32 bins, see `features.band_bins`;
            only `pad` is comparable with published numbers.
        parity: Clips beyond `spec_len` frames as the published code cuts them (repeated frames).
        seed: Seed of the initial weights.

    Attributes:
        trained: False until weights were loaded.
        sha256: Digest of the checkpoint file, None without one.
    """

    pos_embed: nn.Parameter

    def __init__(
        self,
        config: EchoConfig,
        *,
        last_band: LastBand = "pad",
        parity: bool = False,
        seed: int = UNTRAINED_SEED,
    ) -> None:
        super().__init__()
        if last_band not in get_args(LastBand):
            raise ValueError(f"last_band must be one of {get_args(LastBand)}, got {last_band!r}")
        self.config, self.last_band, self.parity, self.seed = config, last_band, parity, seed
        self.trained = False
        self.sha256: str | None = None
        dim = config.embed_dim
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        table = features.time_position(config.max_patches, dim)
        self.pos_embed = nn.Parameter(table, requires_grad=False)
        self.patch_embed = PatchEmbedding(config)
        self.encoder = BandEncoder(config)
        self.norm = nn.LayerNorm(dim, eps=config.final_norm_eps)
        self._initialise(torch.Generator().manual_seed(seed))

    def _initialise(self, generator: torch.Generator) -> None:
        """Draw every weight matrix on its own; biases zero, norms one."""
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if name == "cls_token":
                    weight.normal_(0.0, 0.02, generator=generator)
                elif weight.ndim > 1 and name != "pos_embed":
                    nn.init.xavier_uniform_(weight.flatten(1), generator=generator)
                elif name.endswith("bias"):
                    weight.zero_()

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | Path,
        *,
        sha256: str | None = None,
        num_heads: int | None = None,
        force_heads: bool = False,
        final_norm_eps: float = 1e-5,
        last_band: LastBand = "pad",
        parity: bool = False,
    ) -> Self:
        """Load a published checkpoint, or a network by name.

        Args:
            path_or_name: `.safetensors` or `.pth` file, a published id (`hub.PUBLISHED`), or one
                of `checkpoints.CONFIGS`. A name without shipped weights, or with `untrained:`
                before it, gives an untrained network with a fixed seed.
            sha256: Expected digest of the file, hex.
            num_heads: Head count; None takes D / 64 (nano: D / 32).
            force_heads: Accept a head count other than the published one.
            final_norm_eps: Epsilon of the last LayerNorm (some published examples: 1e-6).
            last_band: See the class.
            parity: See the class.

        Raises:
            FileNotFoundError: Neither a file nor a known name, or a published one out of reach.
            ValueError: Wrong digest, names, shapes or head count.
        """
        path, pinned = checkpoints.resolve(path_or_name)
        if path is None:
            if sha256 is not None:
                raise ValueError(f"sha256 must be None for {path_or_name!r}: it has no file")
            config = checkpoints.named_config(
                str(path_or_name),
                num_heads=num_heads,
                force_heads=force_heads,
                final_norm_eps=final_norm_eps,
            )
            return cls(config, last_band=last_band, parity=parity).eval()
        weights, digest = checkpoints.read_weights(path, sha256 or pinned)
        config = checkpoints.infer_config(
            weights, num_heads=num_heads, force_heads=force_heads, final_norm_eps=final_norm_eps
        )
        checkpoints.check_size(str(path_or_name), config)
        model = cls(config, last_band=last_band, parity=parity).eval()
        shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
        checkpoints.check_names(shapes, weights)
        model.load_state_dict(weights, strict=True)
        model.trained, model.sha256 = True, digest
        return model

    def save(self, path: str | Path) -> str:
        """Write the weights in the released layout (`.safetensors`); returns the SHA-256."""
        return checkpoints.save_weights(self.state_dict(), path)

    @property
    def model_id(self) -> str:
        """What an embedding depends on, in one word: a baseline belongs to one model id."""
        parts = ["echo", checkpoints.config_name(self.config)]
        if self.config.num_heads != checkpoints.published_heads(self.config.embed_dim):
            parts.append(f"h{self.config.num_heads}")
        if self.config.final_norm_eps != CONFIGS["tiny"].final_norm_eps:
            parts.append(f"eps{self.config.final_norm_eps:g}")
        parts += [self.last_band] if self.last_band != "pad" else []
        parts += ["parity"] if self.parity else []
        parts.append(self.sha256[:8] if self.sha256 else f"untrained-s{self.seed}")
        return "-".join(parts)

    def band_bins(self, sample_rate: float) -> Bins:
        """Bin ranges [lo, hi) of the bands at a rate in Hz."""
        n_fft, _ = features.frame_sizes(sample_rate)
        return features.band_bins(n_fft // 2 + 1, self.config.band_width, self.last_band)

    def band_codes(self, sample_rate: float) -> Tensor:
        """Frequency codes of the bands at a rate in Hz: (K, D) float32."""
        n_fft, _ = features.frame_sizes(sample_rate)
        bins = self.band_bins(sample_rate)
        return features.frequency_code(bins, n_fft, self.config.embed_dim)

    def forward(self, bands: Tensor, codes: Tensor) -> Tensor:
        """Encode bands of one length.

        Args:
            bands: (B, band_width, T) normalised log spectrum; T is filled up to whole patches.
            codes: (B, D) frequency codes.

        Returns:
            (B, 1 + P, D): the CLS token, then one token per patch.
        """
        patches = features.to_patches(bands, self.config.patch_frames)
        run = Run(bands.shape[0], 1 + patches.shape[1])
        embedded = self.patch_embed(patches.flatten(0, 1))
        tokens = place_tokens(embedded, codes, self.cls_token, self.pos_embed, [run])
        x = self.encoder(tokens, [run])
        out: Tensor = self.norm(x)
        return out.view(run.bands, run.tokens, -1)

    def preprocess_audio_to_spectrogram(
        self, audio: ArrayLike | Tensor, sample_rate: float
    ) -> Tensor:
        """Normalised log spectrogram of raw audio.

        Args:
            audio: (N,) or (C, N), any real dtype; scale each sensor once so that full scale is
                about +-1, never each clip.
            sample_rate: Rate in Hz, >= 100, may be fractional.

        Returns:
            (F, T) or (C, F, T) float32.

        Raises:
            ValueError: Not finite, too short, too slow or the wrong shape.
        """
        wave = features.as_waveform(audio, sample_rate).to(self.cls_token.device)
        return features.log_spectrogram(wave, sample_rate)

    @torch.no_grad()
    def extract_features(self, spec: ArrayLike | Tensor, sample_rate: float) -> EchoFeatures:
        """Embeddings of a spectrogram made by `preprocess_audio_to_spectrogram`.

        Args:
            spec: (F, T) or (C, F, T), finite, F as the rate demands.
            sample_rate: Rate in Hz of the audio it came from.

        Raises:
            ValueError: Wrong shape or not finite.
        """
        batch = self._checked_spec(spec, sample_rate)
        clips = self._clips(batch.shape[-1])
        codes = self.band_codes(sample_rate).to(batch.device)
        done = [self._encode_clip(batch[..., a:b], codes, sample_rate) for a, b in clips]
        frames = torch.tensor([b - a for a, b in clips], dtype=batch.dtype, device=batch.device)
        share = (frames / frames.sum())[:, None, None]  # equal shares in parity mode
        utterance = (torch.stack([cls for cls, _ in done]) * share).sum(0)
        segments = torch.cat([rows for _, rows in done], dim=1)
        if torch.as_tensor(spec).ndim == 2:
            utterance, segments = utterance[0], segments[0]
        return EchoFeatures(utterance, segments, self.segment_times(batch.shape[-1], sample_rate))

    def extract_features_from_audio(
        self, audio: ArrayLike | Tensor, sample_rate: float
    ) -> EchoFeatures:
        """Embeddings of raw audio: the two steps above in one."""
        return self.extract_features(
            self.preprocess_audio_to_spectrogram(audio, sample_rate), sample_rate
        )

    def segment_times(self, n_frames: int, sample_rate: float) -> Tensor:
        """Start of each segment row in seconds: (P,) float64.

        A row covers 16 frames; frames are hop / rate apart, which is not exactly 10 ms at every
        rate. In parity mode rows of a repeated tail come out of order, as they do there.
        """
        _, hop = features.frame_sizes(sample_rate)
        step = self.config.patch_frames
        starts = [torch.arange(a, b, step) for a, b in self._clips(n_frames)]
        return torch.cat(starts).to(torch.float64) * (hop / float(sample_rate))

    def _clips(self, n_frames: int) -> Bins:
        return features.clip_frames(n_frames, self.config.spec_len, parity=self.parity)

    def _checked_spec(self, spec: ArrayLike | Tensor, sample_rate: float) -> Tensor:
        given = torch.as_tensor(spec, dtype=torch.float32, device=self.cls_token.device)
        n_bins = features.frame_sizes(sample_rate)[0] // 2 + 1
        if given.ndim not in (2, 3) or given.shape[-2] != n_bins or given.shape[-1] == 0:
            raise ValueError(
                f"spec must be ({n_bins}, T) or (C, {n_bins}, T) at {sample_rate:g} Hz, "
                f"got {tuple(given.shape)}: use preprocess_audio_to_spectrogram"
            )
        if not bool(torch.isfinite(given).all()):
            raise ValueError("spec must be finite, got NaN or infinity")
        return given if given.ndim == 3 else given[None]

    def _encode_clip(
        self, spec: Tensor, codes: Tensor, sample_rate: float
    ) -> tuple[Tensor, Tensor]:
        """CLS tokens (C, K * D) and segment rows (C, P, K * D) of (C, F, T)."""
        channels, bands = spec.shape[0], codes.shape[0]
        cut = features.split_bands(spec, self.band_bins(sample_rate), self.config.band_width)
        out = self(cut.flatten(0, 1), codes.repeat(channels, 1))
        out = out.unflatten(0, (channels, bands))  # (C, K, 1 + P, D)
        return out[:, :, 0].flatten(1), out[:, :, 1:].transpose(1, 2).flatten(2)


AudioMAEWithBand = Echo
