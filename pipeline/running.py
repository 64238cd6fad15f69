"""Window levels in, "the machine runs" or "it stands" out.

A stopped machine must neither teach the baseline nor alarm. The gate is declared (always, or a
level in the sensor's unit) or found: once learning has enough windows, a gap of more than 14 dB
between two groups of levels separates standing from running. A machine that was never seen standing
is taken to stand 14 dB below the quietest window that was learnt. Speeds of one machine rarely lie
that far apart (imbalance grows with the square of speed: a factor 5 is 2.2 x the speed); where they
do, declare it. A machine that only stood while it was learnt cannot be told from one that runs
quietly: declare its level too.
"""

import numpy as np
from numpy.typing import NDArray

# Smallest ratio between neighbouring levels that is taken for a stop: 14 dB.
STOP_FACTOR = 5.0
# Share of windows on each side that makes a group, not an outlier.
MIN_SHARE = 0.05


class RunningGate:
    """Decides per window whether the machine runs.

    Args:
        above: RMS in the sensor's unit from which it runs; 0 = always; None = found by `fit`.

    Attributes:
        above: The level in force.
        known: Whether it was declared or found; else it only lies well below all that was learnt.

    Raises:
        ValueError: for a negative level.
    """

    def __init__(self, above: float | None = None) -> None:
        if above is not None and above < 0:
            raise ValueError(f"above must be an RMS >= 0 in the sensor's unit, got {above}")
        self.above = above or 0.0
        self.known = above is not None

    def running(self, rms: float) -> bool:
        """Whether a window of this RMS counts as running."""
        return rms >= self.above

    def fit(self, rms: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Find the level between standing and running; a declared gate stays as it is.

        Args:
            rms: (n,) levels of the windows learnt so far.

        Returns:
            (n,) which of them were running.
        """
        if not self.known:
            # Once found it stays: without the standing windows the gap is gone.
            found = _stop_level(rms)
            self.known = found > 0
            self.above = found or float(np.min(rms)) / STOP_FACTOR
        return np.asarray(rms >= self.above, np.bool_)


def _stop_level(rms: NDArray[np.float32]) -> float:
    """Geometric middle of the widest gap between two groups of levels; 0 if there is none."""
    levels = np.sort(np.log(np.maximum(rms, np.finfo(np.float32).tiny)))
    edge = max(3, int(MIN_SHARE * levels.size))
    if levels.size < 2 * edge:
        return 0.0
    gaps = np.diff(levels[edge - 1 : levels.size - edge + 1])
    widest = int(np.argmax(gaps))
    if gaps[widest] < np.log(STOP_FACTOR):
        return 0.0
    low, high = levels[edge - 1 + widest], levels[edge + widest]
    return float(np.exp((low + high) / 2))
