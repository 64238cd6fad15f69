"""Velocities of windows in, RMS velocity over at least one second out.

Windows are often a little shorter than what a velocity needs (`MIN_VELOCITY_S`): the mean squares
of those that follow each other without a gap are averaged until they cover it. A longer window
stands alone.
"""

import math
from dataclasses import replace
from typing import Final

from pipeline.indicators import MIN_VELOCITY_S
from pipeline.messages import Features, State, Window

VERSION: Final = 1


class VelocityAverage:
    """The newest contiguous windows of one sensor, no more than a second needs."""

    def __init__(self) -> None:
        self._stream: tuple[int, float, str] = (0, 0.0, "")  # epoch, rate, unit
        self._parts: list[tuple[int, int, float]] = []  # (start index, samples, mean square)

    def averaged(self, window: Window, found: Features | None, *, running: bool) -> Features | None:
        """Take the sensor's next window.

        Args:
            window: The window.
            found: Its indicators, with the velocity of the window alone; None where the sensor is
                not believable, which ends the average, as a stop of the machine does.
            running: Whether the machine runs.

        Returns:
            The indicators; their velocity stands for a second or more, or is None.
        """
        if found is None or window.samples.size >= MIN_VELOCITY_S * window.sample_rate_hz:
            return found
        velocity = None
        if running and found.velocity_mm_s is not None:
            velocity = self._take(window, found.velocity_mm_s)
        return found if velocity == found.velocity_mm_s else replace(found, velocity_mm_s=velocity)

    def _take(self, window: Window, velocity_mm_s: float) -> float | None:
        """Add one part and give the average over what covers the needed time."""
        if not self._continues(window):
            self._parts.clear()
        self._stream = (window.epoch, window.sample_rate_hz, window.unit)
        self._parts.append((window.start_index, window.samples.size, velocity_mm_s**2))
        needed = MIN_VELOCITY_S * window.sample_rate_hz
        end = window.start_index + window.samples.size
        while len(self._parts) > 1 and end - self._parts[1][0] >= needed:
            del self._parts[0]
        if end - self._parts[0][0] < needed:
            return None
        samples = sum(size for _, size, _ in self._parts)
        return math.sqrt(sum(size * square for _, size, square in self._parts) / samples)

    def _continues(self, window: Window) -> bool:
        """Whether nothing is missing between the newest part and this window, no window either."""
        if not self._parts or window.gap_s > 0.0:
            return False
        start, size, _ = self._parts[-1]
        same = self._stream == (window.epoch, window.sample_rate_hz, window.unit)
        return same and start < window.start_index <= start + size

    def export_state(self) -> State:
        """All that the next window's velocity depends on."""
        return {
            "version": VERSION,
            "stream": list(self._stream),
            "parts": [list(part) for part in self._parts],
        }

    def import_state(self, state: State) -> None:
        """Go on from an exported state.

        Raises:
            ValueError: for a state of another version.
        """
        if state.get("version") != VERSION:
            raise ValueError(f"state version must be {VERSION}, got {state.get('version')}")
        epoch, rate_hz, unit = state["stream"]
        self._stream = (epoch, rate_hz, unit)
        self._parts = [(start, size, square) for start, size, square in state["parts"]]
