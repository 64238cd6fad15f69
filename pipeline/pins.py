"""Judged windows in; the few whose samples are kept for people out, each with its place.

Of health: of the first `CANDIDATES` windows that a frozen baseline finds healthy, the one nearest
to it; each that is nearer than those before replaces them. It is taken anew after `AGAIN_NS`, for
nothing is kept for ever, and when a baseline is learnt anew. Of a machine that departs: the window
that raised or escalated, and while the evidence stands one every `STANDING_NS`.

A place is `healthy|n` or `now|n`; what is kept there replaces what was there before. A round of
health and an episode of a fault have a place of their own, and places are used in turn: an older
case keeps its picture, and no sensor keeps more than `PLACES`. All is decided by the windows alone,
so a replay after a crash names the same windows and places.
"""

import math
from collections.abc import Iterable
from typing import Final

from pipeline.messages import NS_PER_S, DriftScore, SensorStatus, State, Transition

VERSION: Final = 1
PLACES: Final = {"healthy": 2, "now": 8}
"""Kind -> places per sensor."""
CANDIDATES: Final = 16
AGAIN_NS: Final = 90 * 86_400 * NS_PER_S
STANDING_NS: Final = 4 * 3_600 * NS_PER_S
STANDING: Final = ("advisory", "alert", "alarm")
# Ten percent of level count like one healthy spread of the distance.
PER_LOG_LEVEL: Final = 10.0


class Pins:
    """Chooses for one sensor.

    >>> pins, score = Pins(), DriftScore("p", 0, "m", 0.1, 0.5, 3.0, 1.0, {"advisory": 0.2})
    >>> pins.take(1, "ok", score, ()), pins.take(2, "ok", score, ())
    ('healthy|0', '')
    """

    def __init__(self) -> None:
        self._left = CANDIDATES
        self._nearest = math.inf
        self._healthy = self._now = 0
        self._again_ns = self._pinned_ns = 0

    def forget(self) -> None:
        """Another baseline: its health has a place of its own."""
        if self._left < CANDIDATES:
            self._healthy += 1
        self._left, self._nearest = CANDIDATES, math.inf

    def take(
        self,
        end_ns: int,
        status: SensorStatus,
        drift: DriftScore | None,
        transitions: Iterable[Transition],
    ) -> str:
        """Where the samples of a window are to be kept; empty = nowhere.

        Args:
            end_ns: End of the window.
            status: Of the sensor after it.
            drift: None where the window was neither learnt nor scored.
            transitions: That it made.
        """
        if drift is None or not drift.ratios:
            return ""
        if status == "ok":
            return self._take_healthy(end_ns, drift)
        actions = {transition.action for transition in transitions}
        if actions & {"raise", "escalate"}:
            self._now += "raise" in actions
        elif status not in STANDING or not self._stands(end_ns, drift):
            return ""
        self._pinned_ns = end_ns
        return f"now|{self._now % PLACES['now']}"

    def _stands(self, end_ns: int, drift: DriftScore) -> bool:
        """Whether the evidence of an episode stands, and its picture is old."""
        return end_ns - self._pinned_ns >= STANDING_NS and max(drift.ratios.values()) >= 1.0

    def _take_healthy(self, end_ns: int, drift: DriftScore) -> str:
        if self._left == 0:
            if end_ns < self._again_ns:
                return ""
            self.forget()
        if not max(drift.ratios.values()) < 1.0:
            return ""
        self._left -= 1
        self._again_ns = end_ns + AGAIN_NS
        far = abs(drift.score) + PER_LOG_LEVEL * abs(math.log(max(drift.level_ratio, 1e-9)))
        if not far < self._nearest:
            return ""
        self._nearest = far
        return f"healthy|{self._healthy % PLACES['healthy']}"

    def export_state(self) -> State:
        """Everything that the next window needs, as one versioned JSON value."""
        return {
            "version": VERSION,
            "left": self._left,
            "nearest": None if math.isinf(self._nearest) else self._nearest,
            "healthy": self._healthy,
            "now": self._now,
            "again_ns": self._again_ns,
            "pinned_ns": self._pinned_ns,
        }

    def import_state(self, state: State) -> None:
        """Go on from an exported state.

        Raises:
            ValueError: for a state of another version.
        """
        if state.get("version") != VERSION:
            raise ValueError(f"state version must be {VERSION}, got {state.get('version')}")
        self._left, self._healthy, self._now = state["left"], state["healthy"], state["now"]
        self._nearest = math.inf if state["nearest"] is None else state["nearest"]
        self._again_ns, self._pinned_ns = state["again_ns"], state["pinned_ns"]
