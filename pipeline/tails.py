"""Distances among healthy windows in; their spread, and the limit that a budget allows, out.

The tail above the 80 % quantile is taken as exponential (peaks over threshold, Pickands 1975, shape
0), which is what a bank of some hundred windows can support.
"""

import numpy as np
from numpy.typing import NDArray

# 1.4826 x MAD estimates sigma of a Gaussian.
MAD_TO_SIGMA = 1.4826
# Two windows of stationary noise differ by chance; a spread below 5 % of the distance would turn
# that estimation noise into huge scores.
MIN_LOG_SPREAD = 0.05
DISTANCE_FLOOR = 1e-7
TAIL_QUANTILE = 0.8
# Mean excess of a Gaussian above its 80 % quantile, in sigma: health has no lighter tail, a small
# bank only looks so (a limit of 2.9 from 50 captures gave 10 early episodes on a real life).
GAUSSIAN_EXCESS = 0.56


def log_distances(distances: NDArray[np.floating]) -> NDArray[np.float64]:
    """Natural logarithm of distances, floored so that identical windows stay finite."""
    logs: NDArray[np.float64] = np.log(np.maximum(distances.astype(np.float64), DISTANCE_FLOOR))
    return logs


def spread_of(logs: NDArray[np.float64]) -> float:
    """Robust sigma of (n,) log distances, bounded below."""
    sigma = MAD_TO_SIGMA * float(np.median(np.abs(logs - np.median(logs))))
    return max(sigma, MIN_LOG_SPREAD)


def tail_limit(scores: NDArray[np.float64], budget_windows: float) -> float:
    """Score crossed once in `budget_windows` healthy windows by an exponential tail.

    Above the 80 % quantile u the mean excess is b; P(score > x) = 0.2 exp(-(x - u) / b).
    """
    threshold = float(np.quantile(scores, TAIL_QUANTILE))
    excess = scores[scores > threshold] - threshold
    mean_excess = max(float(excess.mean()) if excess.size else 0.0, GAUSSIAN_EXCESS)
    return threshold + mean_excess * float(np.log((1.0 - TAIL_QUANTILE) * budget_windows))


def growth(rms: NDArray[np.float32]) -> float:
    """Median level of the last quarter over that of the first."""
    quarter = max(1, rms.size // 4)
    first = float(np.median(rms[:quarter]))
    return float(np.median(rms[-quarter:])) / first if first > 0 else 1.0


def moved(distances: NDArray[np.float32], block: NDArray[np.int64]) -> float:
    """How far the newest quarter of windows lies beyond the older ones, in healthy spreads.

    Args:
        distances: (n, n), in time order.
        block: (n,) contiguous block of each; older windows are compared across blocks.
    """
    older = len(block) - len(block) // 4
    across = np.where(block[:, None] == block[None, :], np.float32(np.inf), distances)
    known = log_distances(across[:older, :older].min(axis=1))
    new = log_distances(distances[older:, :older].min(axis=1))
    return float(np.median(new) - np.median(known)) / spread_of(known)
