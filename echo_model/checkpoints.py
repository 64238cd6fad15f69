"""Checkpoint files and names in, checked weights out; and back into a file.

Reads the published layouts (`.pth`, flat or nested under `encoder`, and `.safetensors`), never
executes a pickle, and lets the shapes decide everything that shapes can tell. They cannot tell the
head count nor the last LayerNorm's epsilon; published examples disagree about both.
"""

import hashlib
import io
import logging
import pickle
import re
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from echo_model import hub

logger = logging.getLogger(__name__)

Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class EchoConfig:
    """Sizes of one ECHO network.

    Attributes:
        embed_dim: Width D of a token; even, a multiple of `num_heads`.
        depth: Transformer layers.
        num_heads: Attention heads, D / 64 in all published networks (D / 32 in `nano`).
        band_width: Bins per band.
        patch_frames: Frames per patch ("shift size").
        spec_len: Longest clip in frames, a multiple of `patch_frames`.
        final_norm_eps: Epsilon of the last LayerNorm; 1e-6 in some published examples.
    """

    embed_dim: int
    depth: int
    num_heads: int
    band_width: int = 32
    patch_frames: int = 16
    spec_len: int = 2000
    final_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("embed_dim", "depth", "num_heads", "band_width", "patch_frames", "spec_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.embed_dim % 2 or self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim must be even and a multiple of num_heads, got {self.embed_dim} "
                f"with {self.num_heads} heads"
            )
        if self.spec_len % self.patch_frames:
            raise ValueError(
                f"spec_len must be a multiple of patch_frames, got {self.spec_len} "
                f"with {self.patch_frames}"
            )

    @property
    def max_patches(self) -> int:
        """Patches of the longest clip."""
        return self.spec_len // self.patch_frames


CONFIGS: dict[str, EchoConfig] = {
    "nano": EchoConfig(96, 6, 3),
    "tiny": EchoConfig(192, 12, 3),
    "small": EchoConfig(384, 12, 6),
    "base": EchoConfig(768, 12, 12),
    "large": EchoConfig(1024, 24, 16),
}
# Trained weights that travel with the package: name -> (file under weights/, its SHA-256).
SHIPPED: dict[str, tuple[str, str]] = {
    "nano": (
        "nano.safetensors",
        "fce20a1a33ce23ca24a72fba88b4c3d548ce02ed16f9364f9a47f8f8d9935817",
    ),
}
WEIGHTS_DIR = Path(__file__).parent / "weights"
UNTRAINED = "untrained:"
"""Before a name: the same network with its fixed initial weights, to compare with."""


def config_name(config: EchoConfig) -> str:
    """Short name by width and depth: `tiny`, or `d48l2` for a size without a name."""
    for name, known in CONFIGS.items():
        if (known.embed_dim, known.depth) == (config.embed_dim, config.depth):
            return name
    return f"d{config.embed_dim}l{config.depth}"


def published_heads(embed_dim: int) -> int | None:
    """Head count that belongs to a width (D / 64, nano D / 32), or None where none is known."""
    if embed_dim == CONFIGS["nano"].embed_dim:
        return CONFIGS["nano"].num_heads
    return None if embed_dim % 64 else embed_dim // 64


def read_weights(path: Path, sha256: str | None = None) -> tuple[Weights, str]:
    """Weights of a checkpoint file under their published names, and the file's SHA-256.

    Args:
        path: `.safetensors`, or a torch file (`.pth`, `.pt`, `.bin`), flat or nested in `encoder`.
        sha256: Expected digest in hex; None accepts any.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Wrong digest, unknown layout, or a tensor that is not finite.
    """
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if sha256 is not None and digest != sha256.lower():
        raise ValueError(
            f"{path} must have SHA-256 {sha256.lower()}, got {digest}: "
            "the file is damaged or not the one that was pinned; fetch it again"
        )
    weights = _parse(path, data)
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{path}: {name} must be finite, got NaN or infinity; fetch it again")
    logger.info("loaded %s, SHA-256 %s", path, digest)
    return weights, digest


def _parse(path: Path, data: bytes) -> Weights:
    try:
        if path.suffix == ".safetensors":
            loaded: object = safetensors.torch.load(data)
        else:
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} must be a safetensors file or a torch file of plain tensors, got one that "
            f"cannot be read ({type(error).__name__})"
        ) from error
    if isinstance(loaded, dict) and isinstance(loaded.get("encoder"), dict):
        loaded = loaded["encoder"]
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ValueError(
            f"{path} must hold a dict of tensors, flat or under 'encoder', got "
            f"{type(loaded).__name__}: export the encoder's state_dict"
        )
    return {str(name): tensor.to(torch.float32) for name, tensor in loaded.items()}


def infer_config(
    weights: Weights,
    *,
    num_heads: int | None = None,
    force_heads: bool = False,
    final_norm_eps: float = 1e-5,
) -> EchoConfig:
    """Sizes from the weights' shapes; only heads and epsilon come from the caller.

    Raises:
        ValueError: Not an ECHO checkpoint, or a head count that is not the published one.
    """
    kernel, table = weights.get("patch_embed.proj.weight"), weights.get("pos_embed")
    layers = {m[1] for name in weights if (m := re.match(r"encoder\.layers\.(\d+)\.", name))}
    if kernel is None or kernel.ndim != 4 or table is None or table.ndim != 3 or not layers:
        raise ValueError(
            "an ECHO checkpoint must hold patch_embed.proj.weight (D, 1, bins, frames), pos_embed "
            f"(1, 1 + P, D) and encoder.layers.*, got {sorted(weights)[:8]}"
        )
    dim, _, band_width, patch_frames = kernel.shape
    return EchoConfig(
        embed_dim=dim,
        depth=len(layers),
        num_heads=_heads(dim, num_heads, force=force_heads),
        band_width=band_width,
        patch_frames=patch_frames,
        spec_len=(table.shape[1] - 1) * patch_frames,
        final_norm_eps=final_norm_eps,
    )


def named_config(
    name: str,
    *,
    num_heads: int | None = None,
    force_heads: bool = False,
    final_norm_eps: float = 1e-5,
) -> EchoConfig:
    """One of `CONFIGS` (`untrained:` before it or not), with another epsilon or forced head count.

    Raises:
        ValueError: Unknown name, or a head count that is not the published one.
    """
    if name.removeprefix(UNTRAINED) not in CONFIGS:
        raise ValueError(f"name must be one of {sorted(CONFIGS)}, got {name!r}")
    base = CONFIGS[name.removeprefix(UNTRAINED)]
    heads = _heads(base.embed_dim, num_heads, force=force_heads)
    return replace(base, num_heads=heads, final_norm_eps=final_norm_eps)


def _heads(dim: int, num_heads: int | None, *, force: bool) -> int:
    known = published_heads(dim)
    if num_heads is None:
        if known is None:
            raise ValueError(
                f"num_heads must be given for embed_dim {dim}: no rule is published for it; "
                "pass num_heads=... and force_heads=True"
            )
        return known
    if num_heads != known and not force:
        raise ValueError(
            f"num_heads must be {known} for embed_dim {dim}, got {num_heads}: a checkpoint loads "
            "with any count and then gives other embeddings; pass force_heads=True if you mean it"
        )
    return num_heads


def check_names(expected: dict[str, tuple[int, ...]], weights: Weights) -> None:
    """Refuse weights whose names or shapes are not exactly the expected ones.

    Raises:
        ValueError: Lists what is missing, what is unexpected and which shapes differ.
    """
    missing = sorted(expected.keys() - weights.keys())
    extra = sorted(weights.keys() - expected.keys())
    wrong = [
        f"{name} must be {shape}, got {tuple(weights[name].shape)}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    if missing or extra or wrong:
        raise ValueError(
            f"checkpoint does not fit: missing {missing}, unexpected {extra}, shapes {wrong}"
        )


def save_weights(weights: Weights, path: str | Path) -> str:
    """Write weights in the released layout as safetensors; returns the file's SHA-256.

    Raises:
        ValueError: The suffix is not `.safetensors`.
    """
    target = Path(path)
    if target.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {target.name!r}")
    flat = {name: t.detach().cpu().to(torch.float32).contiguous() for name, t in weights.items()}
    data = safetensors.torch.save(flat)
    target.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def resolve(path_or_name: str | Path) -> tuple[Path | None, str | None]:
    """File of a path or name, and its pinned SHA-256; (None, None) for a name without weights.

    A published id is looked for in the hub's cache, then fetched.

    Raises:
        FileNotFoundError: Neither a file nor a known name, or a published file out of reach.
    """
    text = str(path_or_name)
    if text in SHIPPED:
        file, digest = SHIPPED[text]
        return WEIGHTS_DIR / file, digest
    if text.removeprefix(UNTRAINED) in CONFIGS:
        return None, None
    path = Path(path_or_name)
    if path.is_file():
        return path, None
    if hub.published(text):
        return hub.fetch(text)
    known = sorted({*CONFIGS, *SHIPPED, *hub.PUBLISHED})
    raise FileNotFoundError(
        f"model must be a checkpoint file or one of {known}, got {text!r}: "
        "check the path, or download the checkpoint first"
    )


def check_size(name: str, config: EchoConfig) -> None:
    """Refuse a published file that has not the sizes published under its id.

    Raises:
        ValueError: Other sizes; any name that is no published id is let through.
    """
    known = hub.published(name)
    if known is not None and config_name(config) != known.size:
        raise ValueError(
            f"{name} must be {known.size}, got {config_name(config)}: something else is published "
            "there now; name a revision, ID@COMMIT"
        )
