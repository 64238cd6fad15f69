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
        self._expected: set[str] = set()

    def hear(self, sensor_id: str, at_ns: int) -> None:
        """Let a sensor, or the `WALL`, move the clock."""
        self.now_ns = self._clock.take(sensor_id, at_ns)

    def expect(self, sensor_id: str, deadline_ns: int) -> None:
        """Wait for a sensor, unless it is waited for already: then `due` will tell it early."""
        if sensor_id not in self._expected:
            self._expected.add(sensor_id)
            heapq.heappush(self._deadlines, (deadline_ns, sensor_id))

    def due(self) -> Iterator[str]:
        """Sensors whose deadline has passed; they are no longer waited for.

        A sensor that was heard since it was expected is given, too: expect it again.
        """
        while self._deadlines and self._deadlines[0][0] < self.now_ns:
            _, sensor_id = heapq.heappop(self._deadlines)
            self._expected.discard(sensor_id)
            yield sensor_id

    def forget(self, sensor_ids: Collection[str]) -> None:
        """Wait for these no more."""
        self._deadlines = [item for item in self._deadlines if item[1] not in sensor_ids]
        heapq.heapify(self._deadlines)
        self._expected.difference_update(sensor_ids)

    def export_state(self) -> State:
        """All that the next call depends on."""
        return {
            "version": VERSION,
            "now_ns": self.now_ns,
            "clock": self._clock.export_state(),
            "deadlines": [[at_ns, sensor_id] for at_ns, sensor_id in self._deadlines],
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
        self._expected = {sensor_id for _, sensor_id in self._deadlines}
