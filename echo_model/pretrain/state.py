"""A run's weights, moments and numbers in, one file out; and back, bit for bit."""

import json
import os
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn


def save_state(
    path: Path, objective: nn.Module, optimiser: torch.optim.Optimizer, numbers: dict[str, Any]
) -> None:
    """Write a run's state; a crash leaves the old file or the new one, never half of one."""
    tensors = {f"objective.{name}": t for name, t in objective.state_dict().items()}
    for at, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{at}.{name}": torch.as_tensor(t) for name, t in moments.items()}
    held = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    data = safetensors.torch.save(held, {"numbers": json.dumps(numbers)})
    part = path.with_suffix(".part")
    part.write_bytes(data)
    os.replace(part, path)  # noqa: PTH105  (Path.replace is the same call)


def read_numbers(path: Path) -> dict[str, Any]:
    """What was stored beside the weights.

    Raises:
        FileNotFoundError: No state.
        ValueError: Damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"--resume needs the state of an earlier run, got no {path}: "
            "check --out, or start without --resume"
        )
    try:
        with safetensors.safe_open(path, "pt") as file:
            numbers: dict[str, Any] = json.loads(file.metadata()["numbers"])
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must be the state of a run, got: {error}") from error
    return numbers


def load_state(path: Path, objective: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Put a stored state back; names and shapes must fit."""
    tensors = safetensors.torch.load_file(path)
    weights: dict[str, Tensor] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "objective":
            weights[rest] = tensor
        else:
            at, _, moment = rest.partition(".")
            moments.setdefault(int(at), {})[moment] = tensor
    objective.load_state_dict(weights, strict=True)
    table = optimiser.state_dict()
    optimiser.load_state_dict({"state": moments, "param_groups": table["param_groups"]})
