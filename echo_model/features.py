"""Audio in; log spectrograms, their frequency bands and the bands' codes out.

The arithmetic of ECHO (arXiv 2508.14689): 25 ms Hann frames every 10 ms at the signal's own rate,
natural log magnitude, fixed normalisation, bands of 32 bins, a code for each band's relative
centre. Deviations: the mean is taken in float64 and per channel, so that neither neighbours in a
batch nor other channels can change a result; the last band may be dropped or overlapped instead of
padded. Shapes: B batch, N samples, F bins, T frames, K bands, P patches, D embedding.
"""

import math
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from numpy.typing import ArrayLike
from torch import Tensor

from echo_model import compiled

LastBand = Literal["pad", "drop", "overlap"]
Bins = tuple[tuple[int, int], ...]

FRAME_S = 0.025
HOP_S = 0.01
MIN_RATE_HZ = 100.0
LOG_FLOOR = 1e-9
# Mean and spread of ln|X| over the authors' training audio (published ECHO code).
LOG_MEAN = -5.874158
LOG_SPREAD = 2 * 5.223174
# Scale of a band's relative centre before it becomes angles (published ECHO code).
CODE_SCALE = 25.0


def frame_sizes(sample_rate_hz: float) -> tuple[int, int]:
    """Frame length and hop of the spectrogram, in samples.

    Args:
        sample_rate_hz: Rate in Hz, a float, >= 100 (below it 10 ms hold no sample).

    Raises:
        ValueError: The rate is not finite or too low.
    """
    rate = float(sample_rate_hz)
    if not (math.isfinite(rate) and rate >= MIN_RATE_HZ):
        raise ValueError(
            f"sample_rate_hz must be a finite number >= {MIN_RATE_HZ:g} Hz, got {sample_rate_hz}: "
            "slower signals have no 10 ms frames; pass the native rate, not a decimated one"
        )
    return int(FRAME_S * rate), int(HOP_S * rate)


def frame_count(n_samples: int, sample_rate_hz: float) -> int:
    """Frames that `n_samples` give: 1 + (N - n_fft) // hop, or 0 where none fits."""
    n_fft, hop = frame_sizes(sample_rate_hz)
    return 0 if n_samples < n_fft else 1 + (n_samples - n_fft) // hop


def window_length(patches: int, sample_rate_hz: float, patch_frames: int = 16) -> int:
    """Samples that fill exactly `patches` patches, so that no padding is encoded."""
    n_fft, hop = frame_sizes(sample_rate_hz)
    return n_fft + (patches * patch_frames - 1) * hop


def as_waveform(audio: ArrayLike | Tensor, sample_rate_hz: float) -> Tensor:
    """Checked audio as a float32 tensor of the same shape.

    Args:
        audio: (N,) or (C, N), any real dtype, in the sensor's unit.
        sample_rate_hz: Rate in Hz, >= 100.

    Raises:
        ValueError: Wrong shape, complex, not finite, or shorter than one frame.
    """
    n_fft, _ = frame_sizes(sample_rate_hz)
    wave = audio if isinstance(audio, Tensor) else torch.from_numpy(np.array(audio))
    if wave.ndim not in (1, 2) or wave.is_complex():
        raise ValueError(
            f"audio must be real and (N,) or (C, N), got {wave.dtype} {tuple(wave.shape)}"
        )
    if wave.shape[-1] < n_fft:
        raise ValueError(
            f"audio must hold at least one frame of {n_fft} samples (25 ms at "
            f"{sample_rate_hz:g} Hz), got {wave.shape[-1]}: collect a longer window"
        )
    wave = wave.to(torch.float32)
    if not bool(torch.isfinite(wave).all()):
        raise ValueError(
            "audio must be finite, got NaN, infinity or values beyond float32: "
            "mask or drop the damaged stretch first"
        )
    return wave


@lru_cache(maxsize=64)
def hann(n_fft: int, device: str = "cpu") -> Tensor:
    """Periodic Hann window, (n_fft,) float32; shared, not to be written to."""
    with torch.inference_mode(mode=False):
        return torch.hann_window(n_fft, device=device)


def log_spectrogram(waves: Tensor, sample_rate_hz: float) -> Tensor:
    """Normalised log magnitude: (ln(|X| + 1e-9) + 5.874158) / 10.446348.

    Args:
        waves: (..., N) float32, N >= n_fft; each row loses its own mean.
        sample_rate_hz: Rate in Hz.

    Returns:
        (..., F, T) float32 with F = n_fft // 2 + 1; silence is -1.42146.
    """
    mean = waves.mean(-1, keepdim=True, dtype=torch.float64).to(torch.float32)
    return log_frames(waves - mean, sample_rate_hz).transpose(-1, -2)


def log_frames(centred: Tensor, sample_rate_hz: float) -> Tensor:
    """`log_spectrogram` of waves without their mean, frame after frame.

    Args:
        centred: (..., N) float32, N >= n_fft, mean zero.
        sample_rate_hz: Rate in Hz.

    Returns:
        (..., T, F) float32.
    """
    n_fft, hop = frame_sizes(sample_rate_hz)
    frames = centred.unfold(-1, n_fft, hop) * hann(n_fft, str(centred.device))  # (..., T, n_fft)
    parts = torch.view_as_real(torch.fft.rfft(frames))  # (..., T, F, 2)
    if parts.device.type == "cpu":
        # In one pass; torch takes 8 x, NumPy with AVX-512 2.5 x as long.
        logs = compiled.log_magnitude(parts.numpy(), LOG_FLOOR, LOG_MEAN, LOG_SPREAD)
        return torch.from_numpy(logs)
    # Within one rounding step of torch's complex abs, which takes 4-9 x as long.
    magnitude = torch.addcmul(parts[..., 0].square(), parts[..., 1], parts[..., 1]).sqrt_()
    return magnitude.add_(LOG_FLOOR).log_().sub_(LOG_MEAN).div_(LOG_SPREAD)


def band_bins(n_bins: int, width: int, last_band: LastBand = "pad") -> Bins:
    """Bin ranges [lo, hi) of the bands, low to high.

    Args:
        n_bins: Bins of the spectrogram.
        width: Bins per band.
        last_band: What becomes of a remainder of fewer than `width` bins: `pad` keeps it as a
            short band (published ECHO), `drop` leaves it out, `overlap` takes the top `width` bins.

    Raises:
        ValueError: Unknown `last_band`, or no full band for `drop` and `overlap`.
    """
    if last_band not in get_args(LastBand):
        raise ValueError(f"last_band must be one of {get_args(LastBand)}, got {last_band!r}")
    if last_band != "pad" and n_bins < width:
        raise ValueError(
            f"last_band={last_band!r} needs {width} bins, got {n_bins}: use last_band='pad'"
        )
    full = [(lo, lo + width) for lo in range(0, n_bins - width + 1, width)]
    if n_bins % width and last_band == "pad":
        full.append((n_bins - n_bins % width, n_bins))
    if n_bins % width and last_band == "overlap":
        full.append((n_bins - width, n_bins))
    return tuple(full)


def split_bands(spec: Tensor, bins: Bins, width: int) -> Tensor:
    """Cut (B, F, T) into bands (B, K, width, T); a short band gets zero rows BELOW its bins.

    Zero is the mean log level of the training audio, not silence.
    """
    aligned = 0  # leading bands that lie side by side from bin 0, taken in one slice
    while aligned < len(bins) and bins[aligned] == (aligned * width, (aligned + 1) * width):
        aligned += 1
    rows = [spec[:, : aligned * width]]
    for lo, hi in bins[aligned:]:
        rows += [spec.new_zeros(spec.shape[0], width - (hi - lo), spec.shape[2]), spec[:, lo:hi]]
    return torch.cat(rows, dim=1).view(spec.shape[0], len(bins), width, spec.shape[2])


def to_patches(bands: Tensor, patch_frames: int) -> Tensor:
    """Cut (..., width, T) into patches (..., P, width * patch_frames), frequency-major.

    The last patch is filled up with zero columns on the right.
    """
    patches = -(-bands.shape[-1] // patch_frames)
    filled = F.pad(bands, (0, patches * patch_frames - bands.shape[-1]))
    columns = filled.view(*filled.shape[:-1], patches, patch_frames)  # (..., width, P, patch)
    return columns.transpose(-3, -2).flatten(-2)


def frame_patches(
    frames: Tensor, bins: Bins, width: int, patch_frames: int, dtype: torch.dtype
) -> Tensor:
    """`split_bands` and `to_patches` in two copies, each patch time-major instead.

    Args:
        frames: (B, T, F), as `log_frames` gives them.
        bins: Bin ranges of the K bands.
        width: Bins per band.
        patch_frames: Frames per patch.
        dtype: Of the result.

    Returns:
        (B, K, P, patch_frames * width).
    """
    batch, length, _ = frames.shape
    patches, bands = -(-length // patch_frames), len(bins)
    filled = frames.new_zeros(batch, patches * patch_frames, bands * width)
    aligned = 0  # leading bands that lie side by side from bin 0, taken in one slice
    while aligned < bands and bins[aligned] == (aligned * width, (aligned + 1) * width):
        aligned += 1
    filled[:, :length, : aligned * width] = frames[..., : aligned * width]
    for band, (lo, hi) in enumerate(bins[aligned:], aligned + 1):
        filled[:, :length, band * width - (hi - lo) : band * width] = frames[..., lo:hi]
    cut = filled.view(batch, patches, patch_frames, bands, width).permute(0, 3, 1, 2, 4)
    return torch.empty(cut.shape, dtype=dtype, device=cut.device).copy_(cut).flatten(-2)


def frequency_code(bins: Bins, n_fft: int, dim: int) -> Tensor:
    """Code of each band's relative centre p = (lo + hi - 1) / n_fft: (K, dim) float32.

    Even entries sin, odd ones cos of 25 p 10000^(-2j / dim). The rate cancels in p, so bands of
    different rates with equal relative centres share a code.
    """
    centre = torch.tensor([(lo + hi - 1) / n_fft for lo, hi in bins], dtype=torch.float64)
    angles = CODE_SCALE * torch.outer(centre, _inverse_wavelengths(dim))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(torch.float32)


def time_position(patches: int, dim: int) -> Tensor:
    """Position table (1, 1 + patches, dim): row 0 zeros, then [sin | cos] of the patch index."""
    angles = torch.outer(torch.arange(patches, dtype=torch.float64), _inverse_wavelengths(dim))
    table = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.cat([torch.zeros(1, dim, dtype=torch.float64), table]).to(torch.float32)[None]


def clip_frames(n_frames: int, spec_len: int, *, parity: bool = False) -> Bins:
    """Frame ranges [a, b) that are encoded one by one.

    Args:
        n_frames: Frames of the spectrogram.
        spec_len: Longest clip the network has time positions for.
        parity: True replaces a remainder by the LAST `spec_len` frames, as the published code
            does (frames then count twice); False keeps the remainder as a short clip of its own.
    """
    clips = [(a, min(a + spec_len, n_frames)) for a in range(0, n_frames, spec_len)]
    if parity and len(clips) > 1:
        clips[-1] = (n_frames - spec_len, n_frames)
    return tuple(clips)


def _inverse_wavelengths(dim: int) -> Tensor:
    steps = torch.arange(0, dim, 2, dtype=torch.float64)
    return torch.exp(-math.log(10000.0) / dim * steps)
