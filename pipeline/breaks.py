"""Stream events in, the health of a sensor whose signal keeps breaking out.

A sensor whose samples come slower than it declares, or whose stamps jitter, breaks its signal at
every chunk. Then hardly a window is ever complete, nothing is judged, and it would seem silent
although it sends. What counts is a run of stretches that are too short for a window, so that a
lossy sensor which still gives windows is left alone.
"""

from collections import Counter
from dataclasses import asdict, replace
from typing import Final

from pipeline.messages import NS_PER_S, SensorHealth, State, StreamEvent, Window

VERSION: Final = 1

# Short stretches in turn that are a fault; it is told once for as many while no window comes.
RUN: Final = 8
# Stretches up to this multiple of the last window are short: of those, every second one holds no
# window on the grid. As long as no window has come, all are.
SHORT: Final = 1.5
# One-sided gaps up to this are samples at a wrong rate, longer ones are lost messages.
SLIP_S: Final = 0.1

# Events that end a stretch -> the fault that a run of them is, what they are, what to check.
# Overlaps do not end one: what came twice is dropped, and the stretch goes on.
BREAKS: Final = {
    "gap": ("gap", "signal has broken", "network and gateway"),
    "clock_step": ("clock_step", "the device's clock has jumped", "time synchronisation"),
    "rate_change": ("rate_mismatch", "sample rate has changed", "the sensor's settings"),
    "format_change": ("format_change", "encoding or scale has changed", "the sensor's settings"),
    "epoch_change": ("epoch_change", "the device has restarted", "its supply"),
}


class Breaks:
    """Follows how one sensor's signal breaks.

    Args:
        sensor_id: Name of the sensor.
    """

    def __init__(self, sensor_id: str) -> None:
        self.sensor_id = sensor_id
        self._breaks: list[StreamEvent] = []  # the newest RUN of short stretches in turn
        self._overlaps = 0  # among them
        self._untold = 0  # breaks since the last window or report
        self._length_ns = 0  # of the last window

    def event(self, event: StreamEvent) -> SensorHealth | None:
        """Take the next event; give the sensor's health where it is time to tell.

        Which event that is depends on the sensor's own stream only.
        """
        self._overlaps += event.kind == "overlap"
        if event.kind not in BREAKS:
            return None
        self._stretch_until(event.at_ns)
        self._breaks = [*self._breaks[1 - RUN :], event]
        self._untold += 1
        found = self._fault()
        if found is None or self._untold < RUN:
            return None
        self._untold = 0
        fault, detail = found
        return SensorHealth(self.sensor_id, event.at_ns, (fault,), detail=detail)

    def window(self, window: Window, health: SensorHealth) -> SensorHealth:
        """Take a window; a rare one in a broken signal is no more believable than its sensor."""
        self._untold = 0
        self._length_ns = health.window_end_ns - window.start_ns
        self._stretch_until(health.window_end_ns)
        found = self._fault()
        if found is None or found[0] in health.faults:
            return health
        fault, detail = found
        told = "; ".join(part for part in (health.detail, detail) if part)
        return replace(health, faults=(*health.faults, fault), detail=told)

    def _stretch_until(self, at_ns: int) -> None:
        """A stretch that is long enough for windows ends the run."""
        if not self._breaks or not self._length_ns:
            return
        last = self._breaks[-1]
        began_ns = last.at_ns + (round(last.amount_s * NS_PER_S) if last.kind == "gap" else 0)
        if at_ns - began_ns > SHORT * self._length_ns:
            self._breaks, self._overlaps = [], 0

    def _fault(self) -> tuple[str, str] | None:
        """Name and words of the fault that the run is; None where it is short."""
        if len(self._breaks) < RUN:
            return None
        kind, _ = Counter(event.kind for event in self._breaks).most_common(1)[0]
        span_s = max(0.0, (self._breaks[-1].at_ns - self._breaks[0].at_ns) / NS_PER_S)
        fault, what, remedy = BREAKS[kind]
        lost_s = [event.amount_s for event in self._breaks[:-1]]
        plain = not self._breaks[-1].detail  # else a gap of another sort
        if kind == "gap" and plain and max(lost_s) <= SLIP_S and span_s > 0.0:
            if self._overlaps:
                return fault, f"time stamps jump to and fro in {span_s:.1f} s: check the gateway"
            slower = 100 * sum(lost_s) / span_s
            return "rate_mismatch", (
                f"samples come {slower:.2g} % slower than their declared rate, which breaks the "
                "signal again and again: check the sensor's settings"
            )
        return fault, f"{what} {RUN} times within {span_s:.1f} s: check {remedy}"

    def export_state(self) -> State:
        """All that the next event and window depend on."""
        return {
            "version": VERSION,
            "breaks": [asdict(event) for event in self._breaks],
            "overlaps": self._overlaps,
            "untold": self._untold,
            "length_ns": self._length_ns,
        }

    def import_state(self, state: State) -> None:
        """Go on from an exported state.

        Raises:
            ValueError: for a state of another version.
        """
        if state.get("version") != VERSION:
            raise ValueError(f"state version must be {VERSION}, got {state.get('version')}")
        self._breaks = [StreamEvent(**event) for event in state["breaks"]]
        self._overlaps = state["overlaps"]
        self._untold = state["untold"]
        self._length_ns = state["length_ns"]
