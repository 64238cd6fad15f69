"""Windows in, one array of numbers per window out: encoders, and what they have to beat.

All are applied to the same windows. Shapes: B windows, N samples, K bands, D numbers per band.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from echo_model import features
from echo_model.checkpoints import CONFIGS, SHIPPED, UNTRAINED
from echo_model.echo import Echo
from echo_model.engine import EchoEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

F32 = NDArray[np.float32]
Kind = Literal["trained", "untrained", "bands", "simple"]

LOG_BANDS: Final = "log bands"
EQUAL_BANDS: Final = "log bands, equal size"
RMS_KURTOSIS: Final = "RMS + kurtosis"

# Log-spaced bands of the small comparison; mean and standard deviation make 64 numbers.
BANDS: Final = 32
# Below it a power is digital silence: -180 dB of full scale.
POWER_FLOOR: Final = 1e-18
# Samples per spectrogram call: a few MB, which stay in the cache and the allocator's pool.
BLOCK: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Representation:
    """A way to turn a window into numbers.

    Attributes:
        name: As in tables.
        kind: `trained` or `untrained` encoder, log `bands`, or `simple` statistics.
        embed: (B, N) float32 and a rate in Hz -> (B, K, D) float32.
        engine: The encoder, None for the others.
    """

    name: str
    kind: Kind
    embed: Callable[[F32, float], F32]
    engine: EchoEngine | None = None


def encoder(model: str) -> Representation:
    """An encoder: a shipped name, `untrained:NAME`, or a checkpoint file.

    Raises:
        ValueError: Unknown name, no such file, or not a checkpoint.
    """
    try:
        network = Echo.from_pretrained(model)
    except FileNotFoundError as error:
        raise ValueError(f"{error}; {UNTRAINED}NAME is the same network untrained") from error
    engine = EchoEngine(network)

    def embed(windows: F32, rate_hz: float) -> F32:
        return np.stack(engine.embed(list(windows), [rate_hz] * len(windows)))

    return Representation(
        _name(model, network), "trained" if network.trained else "untrained", embed, engine
    )


def _name(model: str, network: Echo) -> str:
    """A name, or the folder of a checkpoint file where the file itself says nothing."""
    if not network.trained:
        return _twin(model.removeprefix(UNTRAINED))
    if model in SHIPPED:
        return model
    path = Path(model).resolve()
    return path.parent.name if path.stem == "encoder" else path.stem


def _twin(size: str) -> str:
    return f"untrained {size}"


def log_bands() -> Representation:
    """Mean and standard deviation over frames of 32 log-spaced band energies (in nepers)."""

    def embed(windows: F32, rate_hz: float) -> F32:
        n_fft, hop = features.frame_sizes(rate_hz)
        edges = np.unique(np.geomspace(2, n_fft // 2 + 1, BANDS + 1).astype(int))
        return _band_energies(windows, n_fft, hop, edges)

    return Representation(LOG_BANDS, "bands", embed)


def equal_bands(embed_dim: int) -> Representation:
    """Log-band energies as many numbers as an encoder of width `embed_dim` gives.

    Equally wide bands; frames are as long as it takes to tell so many of them apart (37.5 ms for
    nano), the hop stays 10 ms.
    """

    def embed(windows: F32, rate_hz: float) -> F32:
        n_fft, hop = features.frame_sizes(rate_hz)
        bands = -(-(n_fft // 2 + 1) // 32) * embed_dim // 2
        frame = min(max(n_fft, 2 * bands), windows.shape[1])
        edges = np.unique(np.linspace(0, frame // 2 + 1, bands + 1).astype(int))
        return _band_energies(windows, frame, hop, edges)

    return Representation(EQUAL_BANDS, "bands", embed)


def rms_kurtosis() -> Representation:
    """Logarithms of RMS and kurtosis: (B, 1, 2)."""

    def embed(windows: F32, _rate_hz: float) -> F32:
        x = windows.astype(np.float64)
        x -= x.mean(1, keepdims=True)
        power = np.mean(x * x, axis=1) + POWER_FLOOR
        kurtosis = (np.mean(x**4, axis=1) + POWER_FLOOR**2) / power**2
        return np.stack([np.log(power) / 2, np.log(kurtosis)], axis=1)[:, None].astype(np.float32)

    return Representation(RMS_KURTOSIS, "simple", embed)


def _band_energies(windows: F32, n_fft: int, hop: int, edges: NDArray[np.int64]) -> F32:
    """(B, bands, 2) mean and standard deviation over frames of ln of the RMS in each band."""
    rows = []
    window = torch.hann_window(n_fft)
    for part in _parts(windows):
        waves = torch.from_numpy(part - part.mean(1, keepdims=True))
        spectrum = torch.stft(waves, n_fft, hop, window=window, center=False, return_complex=True)
        power = (spectrum.real.square() + spectrum.imag.square()).numpy()  # (B, F, T)
        count = np.diff(edges)[:, None]
        energy = np.add.reduceat(power[:, : edges[-1]], edges[:-1], axis=1) / count
        logs = np.log(energy + POWER_FLOOR) / 2
        rows.append(np.stack([logs.mean(2), logs.std(2)], axis=2))
    return np.concatenate(rows).astype(np.float32)


def _parts(windows: F32) -> "Iterator[F32]":
    size = max(1, BLOCK // windows.shape[1])
    for start in range(0, len(windows), size):
        yield np.ascontiguousarray(windows[start : start + size])


def chosen(models: Sequence[str]) -> list[Representation]:
    """The given encoders, an untrained twin of each size, log bands twice, RMS + kurtosis.

    Raises:
        ValueError: A model that cannot be loaded.
    """
    found = _apart([encoder(model) for model in models])
    there = {r.name for r in found}
    sizes = dict.fromkeys(_size(r) for r in found if r.kind == "trained")
    twins = [s for s in sizes if s in CONFIGS and _twin(s) not in there]
    found += [encoder(UNTRAINED + size) for size in twins]
    widest = max(r.engine.embed_dim for r in found if r.engine is not None)
    return [*found, log_bands(), equal_bands(widest), rms_kurtosis()]


def _apart(found: Sequence[Representation]) -> list[Representation]:
    """One of each network; two with one name get the beginning of their digest behind it."""
    by_id = {_model_id(r): r for r in found}
    names = [r.name for r in by_id.values()]
    return [
        replace(r, name=f"{r.name} {model_id.split('-')[-1]}") if names.count(r.name) > 1 else r
        for model_id, r in by_id.items()
    ]


def _size(representation: Representation) -> str:
    return _model_id(representation).split("-")[1]


def _model_id(representation: Representation) -> str:
    assert representation.engine is not None  # noqa: S101  (for the type checker)
    return representation.engine.model_id


def pairs(found: Sequence[Representation]) -> list[tuple[str, str]]:
    """Whose difference is of interest: each model minus untrained, minus both log bands."""
    names = {r.name for r in found}
    wanted = []
    for one in found:
        if one.kind not in ("trained", "untrained"):
            continue
        others = [_twin(_size(one))] if one.kind == "trained" else []
        wanted += [(one.name, two) for two in [*others, LOG_BANDS, EQUAL_BANDS] if two in names]
    return wanted
