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
