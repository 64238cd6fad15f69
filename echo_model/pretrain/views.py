"""Clips in, a batch of band patches out: what the teacher hears and what the student hears.

Each clip is cut at a random place, scaled by a random gain and tinted by a random tilt, which
teacher and student share; noise and a further small gain are the student's alone. Both see the same
2-5 random bands of 32 bins (published ECHO code). Deviations: the last start bin can be drawn, a
short band is filled up below as at inference, signals of fewer than 32 bins take part (D13).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echo_model import features
from echo_model.pretrain.simulated import FULL_SCALE, Clip
from echo_model.pretrain.sources import Mixture

F32 = NDArray[np.float32]
NOISE_SAMPLES = 1 << 20
NOISE_SEED = 17
# Exponents of the power spectrum: blue, white, pink, between, brown.
NOISE_EXPONENTS = (-1.0, 0.0, 0.0, 1.0, 1.0, 2.0)
SILENCE = 1e-5
# ln(10) / 20 / LOG_SPREAD: one decibel in the normalised log spectrum.
DECIBEL = float(np.log(10.0) / 20 / features.LOG_SPREAD)


@dataclass(frozen=True, slots=True)
class Views:
    """How clips are cut and changed.

    Attributes:
        bands: Fewest and most bands per clip.
        patches: ((patches, chance), ...): lengths of the cuts.
        ragged: Chance of a length that does not fill its last patch.
        short_band: Chance that a clip's top band is the one filled up below, as at inference.
        gain_db: Range of the shared gain.
        tilt_db: Largest shared tilt over the whole spectrum, either way.
        jitter_db: Standard deviation of the student's own gain.
        noise: Chance of noise for the student.
        snr_db: Range of its signal-to-noise ratio.
    """

    bands: tuple[int, int] = (2, 5)
    patches: tuple[tuple[int, float], ...] = ((1, 0.05), (3, 0.15), (6, 0.45), (8, 0.15), (16, 0.2))
    ragged: float = 0.2
    short_band: float = 0.15
    gain_db: tuple[float, float] = (-25.0, 30.0)
    tilt_db: float = 12.0
    jitter_db: float = 3.0
    noise: float = 0.8
    snr_db: tuple[float, float] = (-10.0, 30.0)

    def __post_init__(self) -> None:
        if not 1 <= self.bands[0] <= self.bands[1]:
            raise ValueError(f"views.bands must be two numbers >= 1, low first, got {self.bands}")
        sizes, chances = [size for size, _ in self.patches], [chance for _, chance in self.patches]
        if min(sizes, default=0) < 1 or min(chances) < 0 or not sum(chances) > 0:
            raise ValueError(
                "views.patches must be pairs of a number >= 1 and a chance >= 0 that is not 0 "
                f"everywhere, got {self.patches}"
            )
        for name in ("ragged", "short_band", "noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"views.{name} must lie in 0..1, got {getattr(self, name)}")
        for name in ("gain_db", "snr_db"):
            if not getattr(self, name)[0] <= getattr(self, name)[1]:
                raise ValueError(f"views.{name} must be low first, got {getattr(self, name)}")
        if self.tilt_db < 0 or self.jitter_db < 0:
            raise ValueError("views.tilt_db and views.jitter_db must not be negative")


@dataclass(frozen=True, slots=True)
class Batch:
    """Bands of one length.

    Attributes:
        clean, noisy: (B, P, bins * frames): the teacher's and the student's patches.
        codes: (B, D) frequency codes.
        clip: (B,) number of the clip each band was cut from.
    """

    clean: Tensor
    noisy: Tensor
    codes: Tensor
    clip: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        clean, noisy = self.clean.to(device), self.noisy.to(device)
        return Batch(clean, noisy, self.codes.to(device), self.clip.to(device))


class Cutter:
    """Draws batches from a mixture of sources.

    Args:
        mixture: Where clips come from.
        views: How they are cut and changed.
        tokens: Tokens of a batch, CLS included.
        dim: Of the frequency code.
        width, frames: Bins of a band and frames of a patch.
    """

    def __init__(
        self, mixture: Mixture, views: Views, tokens: int, dim: int, width: int, frames: int
    ) -> None:
        self._mixture, self._views = mixture, views
        self._tokens, self._dim, self._width, self._frames = tokens, dim, width, frames
        self._lengths = [length for length, _ in views.patches]
        chances = np.array([chance for _, chance in views.patches])
        self._edges = np.cumsum(chances / chances.sum())
        self._noises = _noises()

    def batch(self, step: int) -> Batch:
        """The batch of a step; the same one whenever it is asked for."""
        rng = self._mixture.generator(step)
        at = int(np.searchsorted(self._edges, rng.random(), side="right"))
        patches = self._lengths[min(at, len(self._lengths) - 1)]
        frames = patches * self._frames
        if rng.random() < self._views.ragged:
            frames -= int(rng.integers(1, self._frames))
        wanted = max(1, self._tokens // (patches + 1))
        clean, noisy, codes, clips = [], [], [], []
        held, clip = 0, 0
        while held < wanted:
            a, b, code = self._cut(rng, step, frames)
            take = min(len(code), wanted - held)
            clean.append(a[:take])
            noisy.append(b[:take])
            codes.append(code[:take])
            clips.append(torch.full((take,), clip))
            held, clip = held + take, clip + 1
        return Batch(torch.cat(clean), torch.cat(noisy), torch.cat(codes), torch.cat(clips))

    def _cut(
        self, rng: np.random.Generator, step: int, frames: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        clip, x = self._stretch(rng, step, frames)
        n_fft, hop = features.frame_sizes(clip.rate_hz)
        n_bins = n_fft // 2 + 1
        bins = self._bands(rng, n_bins)
        gain_db = rng.uniform(*self._views.gain_db)
        tilt_db = rng.uniform(-1, 1) * self._views.tilt_db
        shade = _shade(bins, self._width, n_bins, gain_db, tilt_db)
        both = np.stack([x, x + self._noise(rng, x)])
        clean, noisy = _bands_of(both, n_fft, hop, bins, self._width) + shade
        noisy += float(rng.normal(0, self._views.jitter_db)) * DECIBEL
        for row, (lo, hi) in enumerate(bins):
            clean[row, : self._width - (hi - lo)] = 0
            noisy[row, : self._width - (hi - lo)] = 0
        codes = features.frequency_code(tuple(bins), n_fft, self._dim)
        return (
            features.to_patches(clean, self._frames),
            features.to_patches(noisy, self._frames),
            codes,
        )

    def _stretch(self, rng: np.random.Generator, step: int, frames: int) -> tuple[Clip, F32]:
        """A random piece of a random clip, repeated where the clip is too short; mean removed."""
        clip = self._mixture.draw(rng, step, 0.015 + 0.01 * frames)
        n_fft, hop = features.frame_sizes(clip.rate_hz)
        n = n_fft + (frames - 1) * hop
        samples = clip.samples
        if len(samples) < n:
            samples = np.tile(samples, -(-n // len(samples)))
        start = int(rng.integers(len(samples) - n + 1))
        x = samples[start : start + n].astype(np.float32) / np.float32(FULL_SCALE + 1)
        return clip, x - x.mean()

    def _bands(self, rng: np.random.Generator, n_bins: int) -> list[tuple[int, int]]:
        """2-5 bins ranges; starts uniform over all bins."""
        width = self._width
        if n_bins <= width:
            return [(0, n_bins)]
        lowest, most = self._views.bands
        count = min(int(rng.integers(lowest, most + 1)), 2 * (n_bins // width))
        starts = rng.integers(0, n_bins - width + 1, count)
        bins = [(int(lo), int(lo) + width) for lo in starts]
        rest = n_bins % width
        if rest and rng.random() < self._views.short_band:
            bins[0] = (n_bins - rest, n_bins)
        return bins

    def _noise(self, rng: np.random.Generator, x: F32) -> F32:
        """The student's noise, (N,)."""
        level = float(np.sqrt(np.mean(x * x)))
        chance, snr_db = rng.random(), rng.uniform(*self._views.snr_db)
        colour, start = rng.integers(len(self._noises)), rng.integers(NOISE_SAMPLES - len(x))
        if chance >= self._views.noise:
            return np.zeros_like(x)
        gain = np.float32(max(level, SILENCE) * 10 ** (-snr_db / 20))
        return self._noises[colour][start : start + len(x)] * gain


@lru_cache(maxsize=1)
def _noises() -> tuple[F32, ...]:
    """Long stretches of coloured noise, RMS 1."""
    made = []
    for i, exponent in enumerate(NOISE_EXPONENTS):
        rng = np.random.Generator(np.random.SFC64((NOISE_SEED, i)))
        spectrum = np.fft.rfft(rng.standard_normal(NOISE_SAMPLES))
        bins = np.maximum(np.arange(len(spectrum)), 32)
        x = np.fft.irfft(spectrum * bins ** (-exponent / 2))
        made.append((x / x.std()).astype(np.float32))
    return tuple(made)


def _shade(
    bins: list[tuple[int, int]], width: int, n_bins: int, gain_db: float, tilt_db: float
) -> Tensor:
    """Gain plus tilt as an addend to the log spectrum: (bands, width, 1)."""
    rows = torch.tensor([hi - width for _, hi in bins])[:, None] + torch.arange(width)
    tilt = (rows / n_bins - 0.5) * tilt_db
    return ((gain_db + tilt) * DECIBEL)[:, :, None]


def _bands_of(x: F32, n_fft: int, hop: int, bins: list[tuple[int, int]], width: int) -> Tensor:
    """Normalised log spectrum of the drawn bands only: (2, N) to (2, bands, width, T)."""
    framed = torch.from_numpy(x).unfold(1, n_fft, hop)
    spectrum = torch.fft.rfft(framed * features.hann(n_fft))  # (2, T, F)
    rows = torch.tensor([hi - width for _, hi in bins])[:, None] + torch.arange(width)
    drawn: Tensor = spectrum[:, :, rows.clamp_min_(0).flatten()].abs()  # (2, T, bands * width)
    drawn.add_(features.LOG_FLOOR).log_().sub_(features.LOG_MEAN).div_(features.LOG_SPREAD)
    parted = drawn.view(*drawn.shape[:2], len(bins), width)
    return parted.permute(0, 2, 3, 1).contiguous()
