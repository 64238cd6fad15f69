"""Level of a signal in, the factor that brings it into the encoder's range out.

The gain of a sensor is set once per format, by its first believable window, to a power of two that
brings its RMS near 0.1: per-window scaling would erase the level, no scaling would let raw ADC
counts leave the range the encoder knows.
"""

import math
from typing import Final

TARGET_RMS: Final = 0.1
# A signal of 1e-40 asks for a gain that no float32 holds.
MOST_GAIN_BITS: Final = 20


def gain_of(rms: float) -> float:
    """Power of two that brings an RMS near the target; bounded, so that noise stays finite.

    >>> gain_of(1.0)
    0.125
    """
    return 2.0 ** min(MOST_GAIN_BITS, round(math.log2(TARGET_RMS / rms))) if rms > 0 else 0.0
