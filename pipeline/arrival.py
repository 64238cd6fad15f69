"""What a sensor sends in; what may be believed of its time and format out.

Two things that one bad message must not do: move the clock of the whole plant, and throw away a
baseline. A chunk that leaps far ahead waits for the next one to confirm it. A window of another
sample rate or unit is only set aside until several in a row say the same.
"""

from dataclasses import asdict
from typing import Any, Final

import numpy as np

from pipeline.messages import NS_PER_S, Flags, SensorChunk, State, StreamEvent, Window

VERSION: Final = 1

# A leap of a sensor's clock beyond this is believed only when its next chunk agrees; logs with
# longer pauses lose nothing by the wait.
LEAP_NS: Final = 30 * 86_400 * NS_PER_S
# A sensor that is further ahead of all others does not move the clock of the plant.
AHEAD_NS: Final = 86_400 * NS_PER_S
# Windows in a row that make another rate or unit the sensor's own.
CONFIRM: Final = 3

Key = tuple[float, str]


class LeapGuard:
    """Holds back one chunk whose time leaps ahead.

    Args:
        sensor_id: Name of the sensor.

    Attributes:
        end_ns: End of the last chunk that was given, 0 before the first.
    """

    def __init__(self, sensor_id: str) -> None:
        self.sensor_id = sensor_id
        self.end_ns = 0
        self._held: SensorChunk | None = None

    def push(self, chunk: SensorChunk) -> list[SensorChunk | StreamEvent]:
        """Take a chunk; give what may be used now, in order."""
        given: list[SensorChunk | StreamEvent] = []
        if self._held is not None:
            held, self._held = self._held, None
            if chunk.start_ns >= held.start_ns - LEAP_NS:
                given.append(self._use(held))
            else:
                ahead_s = (held.start_ns - self.end_ns) / NS_PER_S
                detail = f"one chunk stamped {ahead_s:.0f} s ahead was set aside"
                given.append(
                    StreamEvent(self.sensor_id, self.end_ns, "clock_step", ahead_s, detail)
                )
        if self.end_ns and chunk.start_ns > self.end_ns + LEAP_NS:
            self._held = chunk
            return given
        return [*given, self._use(chunk)]

    def flush(self) -> list[SensorChunk]:
        """End of the stream: nothing comes that could contradict."""
        held, self._held = self._held, None
        return [] if held is None else [self._use(held)]

    def _use(self, chunk: SensorChunk) -> SensorChunk:
        self.end_ns = chunk.end_ns
        return chunk

    def export_state(self) -> State:
        """All that the next chunk depends on."""
        held: dict[str, Any] | None = None
        if self._held is not None:
            held = {**asdict(self._held), "flags": int(self._held.flags)}
        return {"version": VERSION, "end_ns": self.end_ns, "held": held}

    def import_state(self, state: State) -> None:
        """Go on from an exported state.

        Raises:
            ValueError: for a state of another version.
        """
        if state.get("version") != VERSION:
            raise ValueError(f"state version must be {VERSION}, got {state.get('version')}")
        self.end_ns = state["end_ns"]
        held = state["held"]
        self._held = None
        if held is not None:
            samples = np.asarray(held["samples"])
            self._held = SensorChunk(**{**held, "samples": samples, "flags": Flags(held["flags"])})


class FormatGuard:
    """Says whether a window has the rate and unit that the sensor's baseline is made of."""

    def __init__(self) -> None:
        self.key: Key | None = None
        self._other: Key | None = None
        self._times = 0

    def take(self, window: Window) -> tuple[bool, bool]:
        """Take a believable window.

        Returns:
            Whether it fits, and whether it is the first of a new format.
        """
        key = (window.sample_rate_hz, window.unit)
        if self.key is None:
            self.key = key
        if key == self.key:
            self._other = None
            return True, False
        self._times = self._times + 1 if key == self._other else 1
        self._other = key
        if self._times < CONFIRM:
            return False, False
        self.key, self._other = key, None
        return True, True

    def export_state(self) -> State:
        """All that the next window depends on."""
        return {
            "version": VERSION,
            "key": None if self.key is None else list(self.key),
            "other": None if self._other is None else list(self._other),
            "times": self._times,
        }

    def import_state(self, state: State) -> None:
        """Go on from an exported state.

        Raises:
            ValueError: for a state of another version.
        """
        if state.get("version") != VERSION:
            raise ValueError(f"state version must be {VERSION}, got {state.get('version')}")
        self.key, self._other = _key(state["key"]), _key(state["other"])
        self._times = state["times"]


def _key(value: list[Any] | None) -> Key | None:
    return None if value is None else (float(value[0]), str(value[1]))


class PlantClock:
    """Event time of the plant: the latest of all sensors, but of none far ahead of the rest."""

    def __init__(self) -> None:
        self._leader = ""
        self._leader_ns = 0
        self._second_ns = 0

    def take(self, sensor_id: str, at_ns: int) -> int:
        """Hear a sensor; give the time of the plant."""
        if sensor_id == self._leader:
            self._leader_ns = max(self._leader_ns, at_ns)
        elif at_ns > self._leader_ns:
            self._second_ns = self._leader_ns
            self._leader, self._leader_ns = sensor_id, at_ns
        else:
            self._second_ns = max(self._second_ns, at_ns)
        alone = self._second_ns == 0
        leaps = not alone and self._leader_ns > self._second_ns + AHEAD_NS
        return self._second_ns if leaps else self._leader_ns

    def export_state(self) -> State:
        """All that the next call depends on."""
        return {
            "version": VERSION,
            "leader": self._leader,
            "leader_ns": self._leader_ns,
            "second_ns": self._second_ns,
        }

    def import_state(self, state: State) -> None:
        """Go on from an exported state.

        Raises:
            ValueError: for a state of another version.
        """
        if state.get("version") != VERSION:
            raise ValueError(f"state version must be {VERSION}, got {state.get('version')}")
        self._leader, self._leader_ns = state["leader"], state["leader_ns"]
        self._second_ns = state["second_ns"]
