"""Event times of a group of sensors in; which of them have been silent for too long out.

A group is what is heard in one order, a Kafka partition or a whole log: one that is being caught up
must not make the sensors of another look silent. All in event time; the clock only notices a
silence, what it is called and when it began is the sensor's own (`pipeline.pace`).
"""

import heapq
from collections.abc import Collection, Iterator
from typing import Final

from pipeline.arrival import PlantClock
from pipeline.messages import State

VERSION: Final = 1
# The clock on the wall takes part in the time of the plant under the name that no sensor has.
WALL: Final = ""


class SilenceWatch:
    """Clock and deadlines of one group.

    Attributes:
        now_ns: Event time of the group.
    """

    def __init__(self) -> None:
        self.now_ns = 0
        self._clock = PlantClock()
        self._deadlines: list[tuple[int, str]] = []
        # The earliest of each sensor; what else of it lies in the heap is out of date.
        self._expected: dict[str, int] = {}

    def hear(self, sensor_id: str, at_ns: int) -> None:
        """Let a sensor, or the `WALL`, move the clock."""
        self.now_ns = self._clock.take(sensor_id, at_ns)

    def expect(self, sensor_id: str, deadline_ns: int) -> None:
        """Wait for a sensor; where it is waited for already, till the earlier of both."""
        known_ns = self._expected.get(sensor_id)
        if known_ns is None or deadline_ns < known_ns:
            self._expected[sensor_id] = deadline_ns
            heapq.heappush(self._deadlines, (deadline_ns, sensor_id))

    def due(self) -> Iterator[str]:
        """Sensors whose deadline has passed; they are no longer waited for.

        A sensor that was heard since it was expected is given, too: expect it again.
        """
        while self._deadlines and self._deadlines[0][0] < self.now_ns:
            at_ns, sensor_id = heapq.heappop(self._deadlines)
            if self._expected.get(sensor_id) == at_ns:
                del self._expected[sensor_id]
                yield sensor_id

    def forget(self, sensor_ids: Collection[str]) -> None:
        """Wait for these no more."""
        self._deadlines = [item for item in self._deadlines if item[1] not in sensor_ids]
        heapq.heapify(self._deadlines)
        for sensor_id in sensor_ids:
            self._expected.pop(sensor_id, None)

    def export_state(self) -> State:
        """All that the next call depends on."""
        return {
            "version": VERSION,
            "now_ns": self.now_ns,
            "clock": self._clock.export_state(),
            "deadlines": [
                [at_ns, sensor_id]
                for at_ns, sensor_id in self._deadlines
                if self._expected.get(sensor_id) == at_ns
            ],
        }

    def import_state(self, state: State) -> None:
        """Go on from an exported state.

        Raises:
            ValueError: for a state of another version.
        """
        if state.get("version") != VERSION:
            raise ValueError(f"state version must be {VERSION}, got {state.get('version')}")
        self.now_ns = state["now_ns"]
        self._clock.import_state(state["clock"])
        self._deadlines = [(at_ns, sensor_id) for at_ns, sensor_id in state["deadlines"]]
        heapq.heapify(self._deadlines)
        self._expected = {sensor_id: at_ns for at_ns, sensor_id in self._deadlines}
