"""Event times and a clock in, when to send out; a group's lag in, how much may be sent out."""

import math
import time
from collections import deque
from collections.abc import Callable

from pipeline.messages import NS_PER_S

Clock = Callable[[], float]


class Pacer:
    """Spaces chunks by their event time.

    Args:
        speed: Seconds of recording per second, inf = never wait.
        clock: Seconds that never go back.
        max_gap_s: A longer pause in the recording lasts only so long, in its seconds.
        slack_s: Delay that is made up for; what is later than that moves the schedule, so that no
            outage and no wait for others ends in a burst.
    """

    def __init__(
        self,
        speed: float,
        *,
        clock: Clock = time.monotonic,
        max_gap_s: float = math.inf,
        slack_s: float = 1.0,
    ) -> None:
        self._speed, self._clock = speed, clock
        self._max_gap_s, self._slack_s = max_gap_s, slack_s
        self._event_ns: int | None = None
        self._due = 0.0

    def wait_s(self, event_ns: int) -> float:
        """Seconds until a chunk of this event time is due, 0 or less = send it.

        To be asked for each chunk in turn, as often as one likes. Time that steps back waits for
        nothing and is caught up with before the pace goes on.
        """
        now = self._clock()
        if self._event_ns is None:
            self._event_ns, self._due = event_ns, now
        step_s = max(0, event_ns - self._event_ns) / NS_PER_S
        self._event_ns = max(self._event_ns, event_ns)
        due = self._due + min(step_s, self._max_gap_s) / self._speed
        self._due = max(due, now - self._slack_s)
        return self._due - now


class LagGate:
    """Lets only so much through that a group of readers stays within a limit.

    Args:
        limit: Messages it may have before it; 0 = any number.
        lag: Asks how many it has, None = cannot be told now.
        clock: Seconds that never go back.
        every_s: Between two questions.
        again_s: The same while nothing may pass.

    Attributes:
        lag: Last answer, None = none.
        closed: Whether chunks wait for the readers.
    """

    def __init__(
        self,
        limit: int,
        lag: Callable[[], int | None],
        *,
        clock: Clock = time.monotonic,
        every_s: float = 1.0,
        again_s: float = 0.25,
    ) -> None:
        self._limit, self._ask, self._clock = limit, lag, clock
        self._every_s, self._again_s = every_s, again_s
        self._asked = -math.inf
        self._left = 0
        self.lag: int | None = None
        self.closed = False

    def admits(self, unacknowledged: int) -> bool:
        """Whether one more message may be sent.

        Args:
            unacknowledged: Messages under way, which the answer may not count yet.
        """
        if not self._limit:
            return True
        wait_s = self._every_s if self._left > 0 else self._again_s
        if self._clock() - self._asked >= wait_s:
            self.lag = self._ask()
            self._asked = self._clock()
            self._left = 0 if self.lag is None else self._limit - self.lag - unacknowledged
        self.closed = self._left <= 0
        return not self.closed

    def sent(self) -> None:
        """Count one message that was sent."""
        self._left -= 1


class Rate:
    """Messages and bytes per second over the last few seconds."""

    def __init__(self, *, clock: Clock = time.monotonic, over_s: float = 5.0) -> None:
        self._clock, self._over_s = clock, over_s
        self._seen: deque[tuple[float, int, int]] = deque()

    def now(self, messages: int, size: int) -> tuple[float, float]:
        """(messages/s, bytes/s), given the totals so far."""
        at = self._clock()
        self._seen.append((at, messages, size))
        while len(self._seen) > 2 and at - self._seen[1][0] > self._over_s:
            self._seen.popleft()
        began, messages_then, size_then = self._seen[0]
        length = max(at - began, 1e-3)
        return (messages - messages_then) / length, (size - size_then) / length
