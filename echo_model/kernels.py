"""Weights of ECHO layers in, frozen layers laid out for this processor out.

Inference only: what `echo_model.engine` runs instead of the modules of `echo_model.echo`. On x86
weights are reordered for oneDNN; the last layer can work on CLS tokens alone.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import Tensor, nn

from echo_model.echo import Block, Run

# Tokens of a full call, for which the weights' layout is chosen; other counts work as well.
ROWS = 2048
# Short bands attend in groups of so many tokens, masked apart: on a CPU the fp32 SDPA kernel costs
# 1-2 us per band and head whatever it does (8 tokens: 1.3-1.8 x faster in pairs).
GROUP_TOKENS = 16
gelu_ = torch.ops.aten.gelu_.default


class Linear:
    """A linear layer with its weights laid out once for the matrix kernels."""

    def __init__(self, weight: Tensor, bias: Tensor, *, packed: bool) -> None:
        self.weight, self.bias, self.packed = weight.contiguous(), bias.contiguous(), packed
        if packed:
            # Reordered for oneDNN: 2.0 x the fp32 rate of F.linear (MKL) on AMD Zen 5.
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, ROWS)  # noqa: SLF001  (no public door)

    def __call__(self, x: Tensor) -> Tensor:
        """Apply to (M, D)."""
        if not self.packed:
            return F.linear(x, self.weight, self.bias)
        linear = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001  (no public door)
        out: Tensor = linear(x, self.weight, self.bias, "none", [], "")
        return out

    def gelu(self, x: Tensor) -> Tensor:
        """Exact GELU of the layer's output."""
        if self.packed:  # in the product's own pass over its output
            linear = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001  (no public door)
            fused: Tensor = linear(x, self.weight, self.bias, "gelu", [], "none")
            return fused
        # In place: a second (M, 4 D) matrix costs more in page faults than the GELU itself.
        out: Tensor = gelu_(self(x))
        return out

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """The layer's output plus a residual."""
        # As fast as oneDNN's fused sum, measured for 512..2048 rows of 192.
        return self(x).add_(residual)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where weights live and in which number format."""

    device: torch.device
    dtype: torch.dtype
    packed: bool

    def put(self, tensor: Tensor) -> Tensor:
        """A copy of the tensor, there."""
        return tensor.detach().to(self.device, self.dtype, copy=True)

    def linear(self, weight: Tensor, bias: Tensor) -> Linear:
        """A linear layer, there."""
        return Linear(self.put(weight), self.put(bias), packed=self.packed)


class Norm:
    """Layer norm over the last axis."""

    def __init__(self, norm: nn.LayerNorm, place: Placement) -> None:
        self.weight, self.bias = place.put(norm.weight), place.put(norm.bias)
        self.eps = norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        """Apply to (M, D)."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class Layer:
    """One post-norm transformer layer on flat tokens, weights frozen."""

    def __init__(self, block: Block, place: Placement, *, last: bool) -> None:
        attn, dim = block.self_attn, block.self_attn.out_proj.in_features
        self.heads = attn.num_heads
        scale = (dim // self.heads) ** -0.5  # of the scores, taken into the queries once
        weight, bias = (
            _scaled(attn.in_proj_weight, dim, scale),
            _scaled(attn.in_proj_bias, dim, scale),
        )
        if last:
            self.query = place.linear(weight[:dim], bias[:dim])
            weight, bias = weight[dim:], bias[dim:]
        self.project = place.linear(weight, bias)
        self.out = place.linear(attn.out_proj.weight, attn.out_proj.bias)
        self.up = place.linear(block.linear1.weight, block.linear1.bias)
        self.down = place.linear(block.linear2.weight, block.linear2.bias)
        self.norm1, self.norm2 = Norm(block.norm1, place), Norm(block.norm2, place)

    def __call__(self, x: Tensor, runs: Sequence[Run]) -> Tensor:
        """(M, D) to (M, D)."""
        parts = torch.split(self.project(x), [run.bands * run.tokens for run in runs])
        mixed = [attend(part, run, self.heads) for part, run in zip(parts, runs, strict=True)]
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
            _attend_apart(
                query.view(run.bands, 1, self.heads, -1),
                *part.view(*run, 2, self.heads, -1).unbind(2),
            )
            for query, part, run in zip(queries, projected, runs, strict=True)
        ]
        return self._finish(cls, mixed)

    def _finish(self, x: Tensor, mixed: list[Tensor]) -> Tensor:
        x = self.norm1(self.out.add(mixed[0] if len(mixed) == 1 else torch.cat(mixed), x))
        return self.norm2(self.down.add(self.up.gelu(x), x))


def attend(qkv: Tensor, run: Run, heads: int) -> Tensor:
    """Attention inside bands: (B * L, 3 D), queries scaled, to (B * L, D)."""
    if qkv.device.type == "cpu" and qkv.dtype == torch.bfloat16:
        return _attend_products(qkv, run, heads)
    together = GROUP_TOKENS // run.tokens if qkv.device.type == "cpu" else 1
    if together < 2:
        return _attend_apart(*qkv.view(*run, 3, heads, -1).unbind(2))
    groups = -(-run.bands // together)
    # A group that is not full is filled up: alone, its bands would round differently, and a
    # window's embedding must not depend on what else is in the batch.
    empty = (groups * together - run.bands) * run.tokens
    padded = F.pad(qkv, (0, 0, 0, empty)) if empty else qkv
    q, k, v = padded.view(groups, together * run.tokens, 3, heads, -1).unbind(2)
    mixed = _attend_apart(q, k, v, own_band(together, run.tokens, qkv.dtype))
    return mixed[: qkv.shape[0]]


def _attend_apart(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B, Q, H, d) and twice (B, L, H, d) to (B * Q, H * d)."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1)


def _attend_products(qkv: Tensor, run: Run, heads: int) -> Tensor:
    """The same as two batched products, scores keys-first so that softmax runs over rows.

    In bf16 1.7-4.9 x faster than the CPU's SDPA for 2..126 tokens, 1.2-1.7 x than queries-first.
    """
    parts = qkv.view(*run, 3, heads, -1).permute(2, 0, 3, 1, 4).contiguous()
    q, k, v = parts.flatten(1, 2)  # (B * H, L, d) each
    weights = torch.bmm(k, q.transpose(1, 2)).softmax(1)
    mixed = torch.bmm(weights.transpose(1, 2), v).view(run.bands, heads, run.tokens, -1)
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1)


@lru_cache(maxsize=32)
def own_band(bands: int, tokens: int, dtype: torch.dtype) -> Tensor:
    """Added to the scores of bands side by side, so that none attends to another."""
    with torch.inference_mode(mode=False):
        apart = torch.full((bands, bands), -torch.inf).fill_diagonal_(0.0)
        return apart.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1).to(dtype)


def _scaled(weight: Tensor, rows: int, scale: float) -> Tensor:
    """A copy whose first rows are scaled."""
    return torch.cat([weight.detach()[:rows] * scale, weight.detach()[rows:]])


def packs_weights(device: torch.device) -> bool:
    """Whether `Linear` may reorder weights for oneDNN on this device."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return device.type == "cpu" and x86 and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
