"""Windows in, the same windows under noise and with a random gain out.

Noise is set to each window's own RMS, so that a case says how hard it is. What is drawn depends on
the seed and the position of the window alone: every representation sees the same noise.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.gain import TARGET_RMS

F32 = NDArray[np.float32]
Colour = Literal["white", "pink"]


@dataclass(frozen=True, slots=True)
class Case:
    """What is done to windows.

    Attributes:
        snr_db: Power of the window over that of the noise; None adds none.
        colour: Of the noise: `white`, or `pink` (power as 1 / f).
        gain_db: Each window gets a gain of -gain_db ... gain_db, uniform in dB.
    """

    name: str
    snr_db: float | None = None
    colour: Colour = "white"
    gain_db: float = 0.0

    @property
    def seeded(self) -> bool:
        """Whether another seed gives other windows."""
        return self.snr_db is not None or self.gain_db > 0


GAIN_DB: Final = 10.0
CLEAN: Final = Case("clean")
CASES: Final = (
    CLEAN,
    *(
        Case(f"{colour} {snr_db:g} dB", snr_db, colour, GAIN_DB)
        for colour in ("white", "pink")
        for snr_db in (0.0, -6.0)
    ),
)


def degraded(windows: F32, case: Case, seed: int) -> F32:
    """Add noise and gain to (B, N) windows; they are left as they are."""
    rng = np.random.default_rng((seed, 20))
    return np.stack([_one(wave, case, rng) for wave in windows])


def one_level(windows: F32) -> F32:
    """(B, N) windows at an RMS of `gain.TARGET_RMS`; digital silence stays silent."""
    rms = windows.std(1, keepdims=True, dtype=np.float64)
    scaled: F32 = (windows * np.where(rms > 0, TARGET_RMS / np.maximum(rms, 1e-12), 0.0)).astype(
        np.float32
    )
    return scaled


def _one(wave: F32, case: Case, rng: np.random.Generator) -> F32:
    out = wave.astype(np.float32, copy=True)
    if case.snr_db is not None:
        level = wave.std(dtype=np.float64) * 10 ** (-case.snr_db / 20)
        out += _noise(rng, case.colour, wave.size) * np.float32(level)
    if case.gain_db:
        out *= np.float32(10 ** (rng.uniform(-case.gain_db, case.gain_db) / 20))
    return out


def _noise(rng: np.random.Generator, colour: Colour, n: int) -> F32:
    """(n,) of RMS 1."""
    noise = rng.standard_normal(n)
    if colour == "pink":
        spectrum = np.fft.rfft(noise)
        spectrum[0] = 0
        spectrum[1:] /= np.sqrt(np.arange(1, spectrum.size))
        noise = np.fft.irfft(spectrum, n)
    scaled: F32 = (noise / noise.std()).astype(np.float32)
    return scaled
