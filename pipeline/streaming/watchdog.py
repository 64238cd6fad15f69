"""Regular calls in; how long work has stood still beside waiting messages out."""

import time
from collections.abc import Callable
from typing import Final

Clock = Callable[[], float]
STEP_S: Final = 5.0
"""Longest time between two calls of the watchdog that counts: calls come every second."""


def awake_and_asleep_s() -> float:
    """Seconds that never go back and count while the machine sleeps, where the system has such."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)  # Linux only; elsewhere sleep goes unnoticed
    return time.monotonic() if boot is None else time.clock_gettime(boot)


class Standing:
    """Whether a process may still hold what it held: not after it stood still for long.

    Others may have taken over its partitions while it was stopped, swapped out, or its machine
    asleep. Whoever is in doubt asks before it writes.

    Args:
        trust_s: Standing still for longer is a reason to doubt, s.
        clock: Seconds; by default one that goes on while the machine sleeps.
    """

    def __init__(self, trust_s: float, clock: Clock = awake_and_asleep_s) -> None:
        if not trust_s > 0:
            raise ValueError(f"trust must be positive, got {trust_s} s")
        self._trust_s, self._clock = trust_s, clock
        self._last, self._doubted = clock(), False

    @property
    def doubtful(self) -> bool:
        """Whether to ask; true before the first beat after standing still, too."""
        return self._doubted or self._clock() - self._last > self._trust_s

    def beat(self) -> None:
        """Say that we are awake, several times per `trust_s`."""
        self._doubted = self.doubtful
        self._last = self._clock()

    def doubt(self) -> None:
        """Something else is a reason to ask."""
        self._doubted = True

    def trust(self) -> None:
        """We asked, and what we hold is ours."""
        self._doubted = False
        self._last = self._clock()


class Watchdog:
    """Notices work that does not advance although messages wait.

    Of the time between two calls at most `STEP_S` and a quarter of the limit count: a process that
    itself stood still must get a chance to go on.

    Args:
        limit_s: Patience, s.
        clock: Seconds that never go back.

    Attributes:
        stalled: Seconds without progress, None while they are fewer than the limit.
    """

    def __init__(self, limit_s: float, clock: Clock = time.monotonic) -> None:
        if not limit_s > 0:
            raise ValueError(f"limit must be positive, got {limit_s} s")
        self._limit_s, self._clock = limit_s, clock
        self._step_s = min(STEP_S, limit_s / 4)
        self._done: int | None = None
        self._last = clock()
        self._stood_s = 0.0

    @property
    def stalled(self) -> float | None:
        """Seconds without progress beside waiting messages, None below the limit."""
        return self._stood_s if self._stood_s >= self._limit_s else None

    def progress(self, done: int, waiting: int, *, excused: bool = False) -> None:
        """Say how things are; call it every second.

        Args:
            done: Messages processed so far; any change is progress.
            waiting: Messages not yet processed.
            excused: Whether something outside stands in the way (sink or broker down).
        """
        now = self._clock()
        passed_s, self._last = now - self._last, now
        stands = waiting > 0 and not excused and done == self._done
        self._done = done
        self._stood_s = self._stood_s + min(passed_s, self._step_s) if stands else 0.0
