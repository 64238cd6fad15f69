"""Windows of any rates and lengths in, one embedding per band out, in few large batches.

Bands never attend to each other, so bands of all windows share one flat token matrix, cut into
calls of at most `max_tokens` (activations beyond a few MB make the C allocator map and unmap memory
at every operation, up to 3.7 x slower). The weights are copied at construction, packed for oneDNN
where the CPU path has it; the last layer works on CLS tokens only. Results agree with
`Echo.extract_features` within 1e-5 whatever else is in the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from numpy.typing import NDArray
from torch import Tensor, nn

from echo_model import features
from echo_model.echo import Echo

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bands of one clip of equally long windows, ready for the encoder."""

    patches: Tensor  # (B, K, P, bins * frames)
    codes: Tensor  # (K, D)
    windows: tuple[int, ...]
    share: float  # of the window's frames


class _Linear:
    """A linear layer with weights laid out once for the CPU's matrix kernels."""

    def __init__(self, weight: Tensor, bias: Tensor, *, packed: bool) -> None:
        self.bias = bias
        self.packed = packed
        self.weight = weight.contiguous()
        if packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, 2048)  # noqa: SLF001  (the only door)

    def __call__(self, x: Tensor, activation: Literal["none", "gelu"] = "none") -> Tensor:
        if self.packed:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001  (the only door)
                x, self.weight, self.bias, activation, [], "none"
            )
            return out
        y = F.linear(x, self.weight, self.bias)
        return F.gelu(y) if activation == "gelu" else y


class _Norm:
    """Layer norm over the last axis."""

    def __init__(self, norm: nn.LayerNorm, dtype: torch.dtype, device: torch.device) -> None:
        self.weight = norm.weight.detach().to(device, dtype)
        self.bias = norm.bias.detach().to(device, dtype)
        self.eps = norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class EchoEngine:
    """Batched inference for one ECHO network."""

    def __init__(
        self,
        model: Echo,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        max_tokens: int = 2048,
    ) -> None:
        self.model = model
        self.max_tokens = max_tokens
        self.precision = precision
        self.device = torch.device(device)

    @property
    def model_id(self) -> str:
        return self.model.model_id

    @property
    def trained(self) -> bool:
        return self.model.trained

    def min_samples(self, sample_rate_hz: float) -> int:
        return features.frame_sizes(sample_rate_hz)[0]

    def band_edges_hz(self, sample_rate_hz: float) -> tuple[tuple[float, float], ...]:
        n_fft, _ = features.frame_sizes(sample_rate_hz)
        step, top = sample_rate_hz / n_fft, sample_rate_hz / 2
        return tuple(
            (max(0.0, (lo - 0.5) * step), min(top, (hi - 0.5) * step))
            for lo, hi in self.model.band_bins(sample_rate_hz)
        )

    @torch.inference_mode()
    def embed(
        self,
        samples: Sequence[NDArray[np.generic]],
        sample_rates_hz: Sequence[float],
        gains: Sequence[float] | None = None,
    ) -> list[NDArray[np.float32]]:
        out = []
        for i, (x, rate) in enumerate(zip(samples, sample_rates_hz, strict=True)):
            wave = np.asarray(x, np.float32) * np.float32(1.0 if gains is None else gains[i])
            u = self.model.extract_features_from_audio(wave, rate).utterance
            out.append(u.view(-1, self.model.config.embed_dim).numpy())
        return out
