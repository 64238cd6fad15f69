"""Arrivals of one sensor's windows in; its usual interval and the deadline of its silence out.

All in event time. Intervals are those of the sensor's own clock; silence counts in the time of the
plant, so that a clock that is late or has stepped back makes none.
"""

from typing import Final

from pipeline.messages import NS_PER_S, State

VERSION: Final = 1


class Pace:
    """When a sensor was heard.

    Args:
        min_silence_s: Shortest silence that is a fault; three usual intervals are waited for in any
            case.

    Attributes:
        usual_s: Usual interval of windows, 0 before the second.
    """

    def __init__(self, min_silence_s: float) -> None:
        self._min_silence_s = min_silence_s
        self.usual_s = 0.0
        self._last_ns = 0
        self._heard_ns = 0

    def step(self, end_ns: int) -> float:
        """Seconds since the window before, 0 for the first and for a clock that stepped back."""
        step_s = max(0, end_ns - self._last_ns) / NS_PER_S if self._last_ns else 0.0
        if self._last_ns and step_s > 0:
            # Falls slowly, so that one short interval among long ones is no new habit.
            usual = self.usual_s * 0.95
            self.usual_s = max(usual, step_s) if step_s < 10 * usual or usual == 0 else usual
        self._last_ns = end_ns
        return step_s

    def hear(self, at_ns: int, now_ns: int) -> None:
        """Let silence count from now, the time of the plant.

        A sensor that is alone is the plant; a clock that runs far ahead must not buy years.
        """
        self._heard_ns = max(now_ns, at_ns)

    @property
    def wait_s(self) -> float:
        """Silence that is a fault."""
        return max(self._min_silence_s, 3.0 * self.usual_s)

    @property
    def deadline_ns(self) -> int:
        """Time of the plant at which silence becomes a fault."""
        return self._heard_ns + round(self.wait_s * NS_PER_S)

    def export_state(self) -> State:
        """All that the next window depends on."""
        return {
            "version": VERSION,
            "usual_s": self.usual_s,
            "last_ns": self._last_ns,
            "heard_ns": self._heard_ns,
        }

    def import_state(self, state: State) -> None:
        """Go on from an exported state.

        Raises:
            ValueError: for a state of another version.
        """
        if state.get("version") != VERSION:
            raise ValueError(f"state version must be {VERSION}, got {state.get('version')}")
        self.usual_s = state["usual_s"]
        self._last_ns, self._heard_ns = state["last_ns"], state["heard_ns"]
