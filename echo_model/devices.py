"""Names of devices and number formats in, checked against this machine."""

from typing import Literal, get_args

import torch

Precision = Literal["fp32", "bf16"]


def checked_device(device: str) -> torch.device:
    """The device of that name, `cuda` with its number.

    Raises:
        ValueError: Unknown, or not in this machine.
    """
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device must be cpu or cuda[:N], got {device!r}") from None
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda[:N], got {device!r}")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} needs a CUDA GPU, got none: use device='cpu'")
    if found.type == "cpu":
        return found
    index = torch.cuda.current_device() if found.index is None else found.index
    if index >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"device must be cuda:0 .. cuda:{count - 1} here, got {device!r}")
    return torch.device("cuda", index)


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse a number format that the device lacks.

    Raises:
        ValueError: Unknown, or emulated here.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {get_args(Precision)}, got {precision!r}")
    if precision == "bf16" and not has_native_bf16(device):
        raise ValueError(
            f"precision 'bf16' needs AMX or AVX512-BF16, or a GPU that has it, got {device}: "
            "emulated it is slower than fp32; use precision='fp32'"
        )


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))
