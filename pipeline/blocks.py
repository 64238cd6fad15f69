"""Windows in, blocks of like ones out that are measured together.

NumPy and SciPy cost some microseconds per call and little per row; a few rows stay in the cache.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import Final

from pipeline.messages import Window

# 8 x 1 s at 16 kHz in float32 are 0.5 MB; SciPy transforms 4 rows at a time.
ROWS: Final = 8
# Longer windows go alone, so that memory stays bounded.
SAMPLES: Final = 1 << 18


def blocks(
    windows: Sequence[Window], likes: Sequence[Hashable] | None = None
) -> Iterator[list[int]]:
    """Indices of windows of one length and rate, a block at a time.

    Args:
        windows: Of any length and rate.
        likes: What else must be equal within a block, one for each window.
    """
    groups: dict[Hashable, list[int]] = {}
    for i, window in enumerate(windows):
        like = None if likes is None else likes[i]
        groups.setdefault((window.samples.size, window.sample_rate_hz, like), []).append(i)
    for members in groups.values():
        rows = min(ROWS, max(1, SAMPLES // windows[members[0]].samples.size))
        for start in range(0, len(members), rows):
            yield members[start : start + rows]
