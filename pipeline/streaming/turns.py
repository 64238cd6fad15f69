"""Offsets as Faust delivers them in; whether each is the next one of its partition, out.

Faust resumes its queues after it has sought the committed offsets, and resuming empties them
(faust-streaming 0.15, `on_recovery_completed`): what it read in between is gone, and what it reads
after that looks like the next message. About one rebalance in ten lost a message that way. So only
the next offset is taken; after a gap the partition is read again from where it must go on. A gap
that stays is one of the log itself, for compaction and transactions leave holes in it.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from pipeline.streaming.stage import Partition

log = logging.getLogger(__name__)

Verdict = Literal["take", "drop", "again"]

# Reading again takes a moment, in which more of what comes too early may come.
AGAIN_S: Final = 0.3
# So often the same offset must come first before what is missing counts as gone.
TRIES: Final = 4
# Nothing for so long although Kafka has more: the last message before a pause may be lost as well.
STUCK_S: Final = 3.0


@dataclass(slots=True)
class _Gap:
    """What came instead of an offset."""

    lowest: int
    tries: int = 0
    at_s: float = float("-inf")


class Turns:
    """The next offset of every partition that is ours.

    Args:
        clock: Monotonic seconds.

    Attributes:
        next: Partition -> offset that must come next.

    >>> turns, p = Turns(), Partition("signals", 0)
    >>> turns.begin({p: 7})
    >>> turns.offer(p, 8), turns.offer(p, 7), turns.offer(p, 7), turns.offer(p, 8)
    ('again', 'take', 'drop', 'take')
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open = False
        self._gaps: dict[Partition, _Gap] = {}
        self._moved_s: dict[Partition, float] = {}
        self.next: dict[Partition, int] = {}

    def begin(self, starts: Mapping[Partition, int]) -> None:
        """Begin with these offsets; a partition without one begins with what comes first."""
        self.close()
        self.next.update(starts)
        self._moved_s = dict.fromkeys(starts, self._clock())
        self._open = True

    def close(self) -> None:
        """Take nothing any more."""
        self._open = False
        self.next.clear()
        self._gaps.clear()
        self._moved_s.clear()

    def offer(self, partition: Partition, offset: int) -> Verdict:
        """Take the next message, drop another one, or read the partition again from `next`."""
        if not self._open:
            return "drop"
        expected = self.next.get(partition, offset)
        if offset < expected:
            return "drop"
        if offset > expected and (verdict := self._gap(partition, expected, offset)) != "take":
            return verdict
        self._gaps.pop(partition, None)
        self.next[partition] = offset + 1
        self._moved_s[partition] = self._clock()
        return "take"

    def _gap(self, partition: Partition, expected: int, offset: int) -> Verdict:
        gap = self._gaps.setdefault(partition, _Gap(offset))
        gap.lowest = min(gap.lowest, offset)
        if gap.tries >= TRIES and offset == gap.lowest:
            log.warning("%s/%d has no offsets %d to %d", *partition, expected, offset - 1)
            return "take"
        if self._clock() - gap.at_s < AGAIN_S:
            return "drop"
        gap.tries += 1
        gap.at_s = self._clock()
        return "again"

    def stuck(self, ends: Mapping[Partition, int]) -> dict[Partition, int]:
        """Partitions that give nothing although there is more -> offset to read again from.

        Args:
            ends: Partition -> offset of the next message that will be written to it.
        """
        now_s = self._clock()
        found = {
            partition: offset
            for partition, offset in self.next.items()
            if ends.get(partition, 0) > offset and now_s - self._moved_s[partition] > STUCK_S
        }
        self._moved_s.update(dict.fromkeys(found, now_s))
        return found
