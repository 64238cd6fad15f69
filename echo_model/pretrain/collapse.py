"""Embeddings and a line of the log in, signs that a network is about to answer a constant out."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

# Below these a run is about to collapse; healthy runs of nano stay 3 x above or more.
LEAST = {"target_std": 0.02, "prediction_std": 0.02, "rank": 1.2}


def effective_rank(rows: Tensor) -> float:
    """Exponential of the entropy of the centred rows' spectrum: 1 where all lie on a line."""
    centred = rows.double() - rows.double().mean(0)
    power = torch.linalg.svdvals(centred).square()
    share = power / power.sum().clamp_min(1e-30)
    return float(torch.exp(-(share * (share + 1e-30).log()).sum()))


def collapse_signs(row: Mapping[str, float]) -> Iterator[str]:
    """What in a line of the log tells of a collapse."""
    for name, least in LEAST.items():
        if row[name] < least:
            yield (
                f"{name} must stay above {least:g}, got {row[name]:.3g}: the network may be "
                "collapsing to a constant; lower optimiser.rate or raise teacher.decay"
            )
