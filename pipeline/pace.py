"""Arrivals of one sensor's windows in; its usual interval and the deadline of its silence out.

All in event time. Intervals are those of the sensor's own clock, and silence counts in it, too, so
that a sensor's silence depends on its own stream and not on how it is merged with others. The time
of the plant only notices it, later than the sensor's own next window could belie it. Where a clock
is late or has stepped back, silence counts in the time of the plant.
"""

from typing import Final

from pipeline.messages import NS_PER_S, State

VERSION: Final = 3
# A clock further behind the plant than this share of the wait is no measure of silence.
TRUSTED_LAG: Final = 1 / 3
# Share of the wait by which sensors may be merged out of order without seeming silent.
SKEW: Final = 1 / 10
# An interval so many times the usual one is a pause: a sensor that sends bursts of several windows
# makes one after each burst. Pauses that differ less than this become its habit with the third.
PAUSE: Final = 10.0
ALIKE: Final = 1.25
HABIT: Final = 3


class Pace:
    """When a sensor was heard.

    Args:
        min_silence_s: Shortest silence that is a fault; three usual intervals are waited for in any
            case.
        first_silence_s: Silence that is a fault before the sensor's rhythm is known: until it has
            sent for `min_silence_s` without a pause, or has a habit of pauses.

    Attributes:
        usual_s: Usual interval of windows, 0 before the second.
        pause_s: Usual pause between bursts of windows, 0 where there is no such habit.
    """

    def __init__(self, min_silence_s: float, first_silence_s: float = 0.0) -> None:
        self._min_silence_s = min_silence_s
        self._first_silence_s = first_silence_s
        self._known = False
        self.usual_s = 0.0
        self.pause_s = 0.0
        self._pauses = 0
        self._last_pause_s = 0.0
        self._since_pause_s = 0.0
        self._last_ns = 0
        self._newest_ns = 0
        self._now_ns = 0
        self._heard_ns = 0
        self._lag_ns = 0
        self._waiting = False

    def arrive(self, newest_ns: int, now_ns: int) -> None:
        """Something came, whether or not it gives a window.

        What waits for a chunk that is missing gives its windows late; that is no lag of the clock.

        Args:
            newest_ns: End of what came, by the sensor's clock.
            now_ns: Time of the plant.
        """
        self._newest_ns, self._now_ns = newest_ns, now_ns

    def step(self, end_ns: int) -> float:
        """Seconds since the window before, 0 for the first and for a clock that stepped back."""
        step_s = max(0, end_ns - self._last_ns) / NS_PER_S if self._last_ns else 0.0
        if self._last_ns and step_s > 0:
            # Falls slowly, so that one short interval among long ones is no new habit.
            usual = self.usual_s * 0.95
            if usual == 0 or step_s < PAUSE * usual:
                self.usual_s = max(usual, step_s)
                self._go_on(step_s)
            else:
                self.usual_s = usual
                self._pause(step_s)
        self._last_ns = end_ns
        return step_s

    def _pause(self, step_s: float) -> None:
        """Count pauses that are alike; outages come in all lengths."""
        last_s, self._last_pause_s, self._since_pause_s = self._last_pause_s, step_s, 0.0
        alike = last_s / ALIKE <= step_s <= last_s * ALIKE
        self._pauses = self._pauses + 1 if alike else 1
        if self._pauses >= HABIT:
            self.pause_s = max(step_s, last_s)
            self._known = True

    def _go_on(self, step_s: float) -> None:
        """Forget the habit of one that has long been sending without a pause."""
        self._since_pause_s += step_s
        self._known |= self._since_pause_s >= self._min_silence_s
        if self._since_pause_s > 3.0 * self.pause_s:
            self.pause_s = 0.0

    def hear(self, at_ns: int) -> None:
        """Let silence count from the end of this window."""
        lag_ns = max(0, self._now_ns - self._newest_ns)
        trusted = lag_ns <= TRUSTED_LAG * self.wait_s * NS_PER_S
        self._heard_ns = at_ns if trusted else self._now_ns
        self._lag_ns = lag_ns if trusted else 0
        self._waiting = True

    def give_up(self) -> None:
        """The silence has been told: once is enough."""
        self._waiting = False

    @property
    def wait_s(self) -> float:
        """Silence that is a fault."""
        first_s = 0.0 if self._known else self._first_silence_s
        return max(self._min_silence_s, first_s, 3.0 * self.usual_s, 3.0 * self.pause_s)

    @property
    def deadline_ns(self) -> int:
        """Time at which silence becomes a fault; 0 where nothing is waited for."""
        return self._heard_ns + round(self.wait_s * NS_PER_S) if self._waiting else 0

    @property
    def overdue_ns(self) -> int:
        """Time of the plant after which the sensor's own next window would say so, too; or 0."""
        if not self._waiting:
            return 0
        wait_ns = round((1 + SKEW) * self.wait_s * NS_PER_S)
        return max(self._heard_ns, self._newest_ns) + self._lag_ns + wait_ns

    def export_state(self) -> State:
        """All that the next window depends on."""
        return {
            "version": VERSION,
            "usual_s": self.usual_s,
            "pauses": [self.pause_s, self._pauses, self._last_pause_s, self._since_pause_s],
            "last_ns": self._last_ns,
            "newest_ns": self._newest_ns,
            "now_ns": self._now_ns,
            "heard_ns": self._heard_ns,
            "lag_ns": self._lag_ns,
            "waiting": self._waiting,
            "known": self._known,
        }

    def import_state(self, state: State) -> None:
        """Go on from an exported state.

        Raises:
            ValueError: for a state of another version.
        """
        if state.get("version") != VERSION:
            raise ValueError(f"state version must be {VERSION}, got {state.get('version')}")
        self.usual_s = state["usual_s"]
        self.pause_s, self._pauses, self._last_pause_s, self._since_pause_s = state["pauses"]
        self._last_ns, self._heard_ns = state["last_ns"], state["heard_ns"]
        self._newest_ns, self._now_ns = state["newest_ns"], state["now_ns"]
        self._lag_ns, self._waiting = state["lag_ns"], state["waiting"]
        # States of version 0.1.0 say nothing of it: their sensors have been heard for long.
        self._known = state.get("known", True)
