"""Weights of ECHO layers in, frozen layers laid out for this processor out.

Inference only: what `echo_model.engine` runs instead of the modules of `echo_model.echo`. On x86
weights are reordered for oneDNN, and what torch is slow at is compiled (`echo_model.compiled`); the
last layer can work on CLS tokens alone.
"""

import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import Tensor, nn

from echo_model import compiled
from echo_model.echo import Block, Run

# Tokens of a full call, for which the weights' layout is chosen; other counts work as well.
ROWS = 2048
# Most threads of torch against which one thread of a compiled kernel is worth it: a sum and its
# norm take 0.37-0.5 of torch's time with one thread, attention 0.2-0.43 for up to 16 tokens.
COMPILED_THREADS = 2
# Short bands attend in groups of so many tokens, masked apart, where torch computes: on a CPU its
# fp32 kernel costs 1-2 us per band and head whatever it does (8 tokens: 1.3-1.8 x faster in pairs).
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

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """Apply to the sum of both; overwrites x."""
        few = x.device.type == "cpu" and torch.get_num_threads() <= COMPILED_THREADS
        if few and compiled.fits(x.shape[1]):
            return compiled.add_norm(x, residual, self.weight, self.bias, self.eps)
        return self(x.add_(residual))


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
        if place.device.type == "cpu":
            compiled.prepare(dim // self.heads, block.norm1.eps, place.dtype)
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
        qkv = self.project(x)
        return self._finish(x, attend(qkv, qkv, runs, self.heads))

    def cls_only(self, x: Tensor, runs: Sequence[Run]) -> Tensor:
        """(M, D) to the CLS rows (bands, D); other rows of the last layer reach no result."""
        parts = torch.split(x, [run.bands * run.tokens for run in runs])
        cls = torch.cat([part[:: run.tokens] for part, run in zip(parts, runs, strict=True)])
        return self._finish(cls, attend(self.query(cls), self.project(x), runs, self.heads))

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = self.norm1.add(self.out(mixed), x)
        return self.norm2.add(self.down(self.up.gelu(x)), x)


def attend(queries: Tensor, keyed: Tensor, runs: Sequence[Run], heads: int) -> Tensor:
    """Attention inside bands.

    Args:
        queries: (M, D or more), scaled, in the first columns; or (bands, D), one per band.
        keyed: (M, 2 D or more), keys and values in the last columns.
        runs: Bands in order.
        heads: Heads.

    Returns:
        (M, D), or (bands, D).
    """
    sizes = [run.bands * run.tokens for run in runs]
    parts = torch.split(keyed, sizes)
    asked = parts if queries is keyed else torch.split(queries, [run.bands for run in runs])
    mixed = [_attend_run(q, kv, run, heads) for q, kv, run in zip(asked, parts, runs, strict=True)]
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed)


def _attend_run(queries: Tensor, keyed: Tensor, run: Run, heads: int) -> Tensor:
    dim = keyed.shape[1] // (3 if queries is keyed else 2)
    if keyed.device.type == "cpu":
        if compiled.fits(dim // heads) and run.tokens <= _longest(keyed.dtype):
            mixed = queries.new_empty(queries.shape[0], dim)
            compiled.attention(queries, keyed, mixed, run.bands, heads)
            return mixed
        if queries is keyed and keyed.dtype == torch.bfloat16:
            return _by_products(keyed, run, heads)
        if queries is keyed and GROUP_TOKENS // run.tokens > 1:
            return _in_groups(keyed, run, heads)
    q = queries[:, :dim].view(run.bands, -1, heads, dim // heads)
    return _by_torch(q, *keyed[:, -2 * dim :].view(*run, 2, heads, -1).unbind(2))


def _longest(dtype: torch.dtype) -> int:
    """Tokens of the longest bands for which one compiled thread beats all threads of torch.

    fp32 3.4-5 x for 2..8 tokens, 2.3 x for 16, 1.4 x for 126; bf16, which it computes in fp32,
    2.7-5 x for 2..8, 1.8 x for 17, 0.8 x for 32 (AMD Zen 4, one thread each).
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return 24 if dtype == torch.bfloat16 else sys.maxsize
    return 16 if threads == COMPILED_THREADS else 0


def _by_torch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B, Q, H, d) and twice (B, L, H, d) to (B * Q, H * d)."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1)


def _in_groups(qkv: Tensor, run: Run, heads: int) -> Tensor:
    """The same, several bands at once."""
    together = GROUP_TOKENS // run.tokens
    groups = -(-run.bands // together)
    # A group that is not full is filled up: alone, its bands would round differently, and a
    # window's embedding must not depend on what else is in the batch.
    empty = (groups * together - run.bands) * run.tokens
    padded = F.pad(qkv, (0, 0, 0, empty)) if empty else qkv
    q, k, v = padded.view(groups, together * run.tokens, 3, heads, -1).unbind(2)
    return _by_torch(q, k, v, own_band(together, run.tokens, qkv.dtype))[: qkv.shape[0]]


def _by_products(qkv: Tensor, run: Run, heads: int) -> Tensor:
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
