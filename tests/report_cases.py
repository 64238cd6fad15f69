"""A few words about a sensor's life -> its trend and spectrum, for the report's tests."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.messages import NS_PER_S, Spectrum, SpectrumKind, Trend

Array = NDArray[Any]
T0 = 1_767_600_000 * NS_PER_S
HOUR = 3600 * NS_PER_S
SPAN = 72 * HOUR
EDGES = tuple((1600.0 * i, 1600.0 * (i + 1)) for i in range(8))
OCTAVES = np.array([31.5 * 2 ** (i / 3) for i in range(26)])


def told(kind: str, at: Array, ratio: Array, *, learning: Array) -> tuple[Array, Array]:
    """Status and faults, (n,) each, of a life whose score stands at `ratio` of its limit."""
    n = len(at)
    status = np.array(["ok"] * n, dtype="<U8")
    for name, above in (("advisory", 1.0), ("alert", 1.5), ("alarm", 2.0)):
        over = np.convolve(ratio > above, np.ones(6), "full")[:n] >= 6
        status[np.maximum.accumulate(over)] = name
    status[learning] = "learning"
    stopped = (at % 0.333 > 0.3) & (kind in {"ok", "stopped"}) | (at > 0.9) & (kind == "stopped")
    status[stopped] = "stopped"
    faults = np.array([""] * n, dtype="<U24")
    if kind == "broken":
        faults[(at > 0.3) & (at < 0.33)] = "gap"
        faults[at > 0.55] = "flatline"
        faults[at > 0.9] = "bias_shift,flatline"
    status[faults != ""] = "unknown"
    return status, faults


def bands_of(
    rng: np.random.Generator, wear: Array, score: Array, rms: Array
) -> tuple[Array, Array]:
    """Shares of the bands, (n, 8), and octaves in dB, (n, 26), of a life that wears."""
    shares = rng.dirichlet(np.ones(len(EDGES)), len(wear)) * (1 - wear[:, None].clip(0, 0.7))
    shares[:, 2] += wear.clip(0, 0.7)
    shares[np.isnan(score)] = np.nan
    octaves = -60 + 8 * np.sin(np.arange(26) / 4) + rng.standard_normal((len(wear), 26))
    octaves += 0 * rms[:, None]  # unknown where the level is
    octaves[:, 18:22] += 16 * wear[:, None]
    return shares.astype(np.float32), octaves.astype(np.float32)


def trend_of(kind: str, seed: int = 0, n: int = 864, sensor_id: str = "s") -> Trend:
    """A life: `ok`, `bearing` (wears out), `level` (advisory), `broken`, `learning`, `stopped`."""
    rng = np.random.default_rng(seed)
    at = np.linspace(0.0, 1.0, n)
    end_ns = T0 + np.round(at * SPAN).astype(np.int64)
    learning = at < (1.1 if kind == "learning" else 0.15)
    worn = {"bearing": np.clip((at - 0.45) / 0.55, 0, None), "level": 0.25 * (at > 0.8)}
    wear = worn.get(kind, 0.0 * at) ** 1.5
    rms = 0.08 * (1 + 3.4 * wear) * np.exp(0.06 * rng.standard_normal(n))
    crest = 3.4 + 0.3 * rng.standard_normal(n) + 5 * wear * np.exp(-wear)
    score = rng.standard_normal(n) + 42 * wear
    limit = np.full(n, 6.4)
    status, faults = told(kind, at, score / limit, learning=learning)
    stopped, dead = status == "stopped", faults != ""
    for column in (score, limit):
        column[learning | stopped | dead] = np.nan
    rms[dead] = np.nan
    rms[stopped] *= 0.03
    level = np.where(np.isnan(score), np.nan, rms / 0.08)
    shares, octaves = bands_of(rng, wear, score, rms)
    return Trend(
        sensor_id=sensor_id,
        end_ns=end_ns,
        status=status,
        faults=faults,
        rms=rms,
        peak=rms * crest,
        crest=crest,
        kurtosis=np.where(dead, np.nan, 3 + 0.2 * rng.standard_normal(n) + 9 * wear),
        velocity_mm_s=rms * 12,
        score=score,
        limit=limit,
        level_ratio=level,
        ratio=np.fmax(score / (2 * limit), level / 2.0 * (level > 2)),
        learning_pct=np.where(learning, np.minimum(99, at / 0.0015), 100.0),
        band_edges_hz=EDGES,
        band_shares=shares,
        octaves_hz=OCTAVES,
        octaves_db=octaves,
    )


def spectrum_of(kind: SpectrumKind, *, worn: bool, n: int = 12_800) -> Spectrum:
    rng = np.random.default_rng(len(kind))
    hz = np.arange(n, dtype=np.float64)
    amplitude = 2e-4 * rng.rayleigh(1.0, n) / (1 + (hz / 9000) ** 4)
    for order in range(1, 6):
        amplitude[round(24.7 * order)] = 0.03 / order
    if worn:
        for order in range(1, 40):
            line = round(107.3 * order)
            amplitude[line] += 0.02 * np.exp(-(((line - 3600) / 900) ** 2))
    return Spectrum("s", T0 + SPAN // 2, kind, hz.astype(np.float32), amplitude.astype(np.float32))
