"""Chunks of any mix of sensors in; window results, stream events and spectra out.

`process` is one micro-batch: every sensor cuts its windows, all are measured and those worth it
embedded together, then each is judged in stream order. How chunks are grouped into
batches changes nothing but speed. Time is event time: a sensor is silent when the others have moved
on without it. A clock that steps back makes no silence, for that counts from when a window came.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.arrival import PlantClock
from pipeline.indicators import features_of
from pipeline.messages import (
    BandEdges,
    Processed,
    Samples,
    SensorChunk,
    SensorHealth,
    Spectrum,
    State,
    StreamEvent,
    Window,
    WindowResult,
)
from pipeline.sensor import Ready, SensorMonitor
from pipeline.signal_shape import shapes_of

VERSION = 2

Item = tuple[SensorMonitor, Window | StreamEvent]


class Encoder(Protocol):
    """What the monitor asks of a model."""

    @property
    def model_id(self) -> str:
        """Name that a baseline is bound to."""

    @property
    def trained(self) -> bool:
        """Whether its weights have learnt anything."""

    def embed(
        self,
        samples: Sequence[Samples],
        sample_rates_hz: Sequence[float],
        gains: Sequence[float] | None = None,
    ) -> list[NDArray[np.float32]]:
        """(N,) windows of any rates and lengths in, (K, D) each out."""

    def band_edges_hz(self, sample_rate_hz: float) -> BandEdges:
        """Frequency range of each of the K bands."""


class Monitor:
    """All sensors of one worker or one embedded run.

    Args:
        encoder: Model for all of them.
        make_sensor: Sensor id -> fresh `SensorMonitor`; called at its first chunk.
    """

    def __init__(self, encoder: Encoder, make_sensor: Callable[[str], SensorMonitor]) -> None:
        self._encoder = encoder
        self._make_sensor = make_sensor
        self._sensors: dict[str, SensorMonitor] = {}
        self._edges: dict[float, BandEdges] = {}
        self._clock = PlantClock()
        self._now_ns = 0
        self._deadlines: list[tuple[int, str]] = []
        self._expected: set[str] = set()

    @property
    def sensors(self) -> dict[str, SensorMonitor]:
        """Sensor id -> its monitor, for every sensor seen."""
        return self._sensors

    def process(self, chunks: Iterable[SensorChunk]) -> Processed:
        """Take a micro-batch; the result does not depend on how chunks are batched."""
        items: list[Item] = []
        for chunk in chunks:
            sensor = self._sensor(chunk.sensor_id)
            items.extend((sensor, item) for item in sensor.cut(chunk))
        return self._judge(items)

    def flush(self) -> Processed:
        """End of the stream: what the windowers still hold."""
        sensors = self._sensors.values()
        return self._judge([(sensor, item) for sensor in sensors for item in sensor.flush()])

    def _sensor(self, sensor_id: str) -> SensorMonitor:
        if sensor_id not in self._sensors:
            self._sensors[sensor_id] = self._make_sensor(sensor_id)
        return self._sensors[sensor_id]

    def _judge(self, items: list[Item]) -> Processed:
        found = measured(items)
        embeddings = iter(self._embed([done for _, done in found if isinstance(done, Ready)]))
        results: list[WindowResult] = []
        spectra: list[Spectrum] = []
        for sensor, done in found:
            health = done.health if isinstance(done, Ready) else done
            results.extend(self._silences(sensor.sensor_id, health.window_end_ns))
            if isinstance(done, Ready):
                embedding = next(embeddings) if done.gain != 0.0 else None
                edges = self._band_edges(done.window.sample_rate_hz)
                judged = sensor.judge(done, embedding, edges, self._now_ns)
                results.append(judged.result)
                spectra.extend(judged.spectra)
            else:
                results.append(sensor.unusable(done, self._now_ns))
            self._expect(sensor)
        events = tuple(item for _, item in items if isinstance(item, StreamEvent))
        return Processed(tuple(results), events, tuple(spectra))

    def _embed(self, found: list[Ready]) -> list[NDArray[np.float32]]:
        wanted = [ready for ready in found if ready.gain != 0.0]
        if not wanted:
            return []
        return self._encoder.embed(
            [ready.window.samples for ready in wanted],
            [ready.window.sample_rate_hz for ready in wanted],
            [ready.gain for ready in wanted],
        )

    def _band_edges(self, sample_rate_hz: float) -> BandEdges:
        if sample_rate_hz not in self._edges:
            self._edges[sample_rate_hz] = self._encoder.band_edges_hz(sample_rate_hz)
        return self._edges[sample_rate_hz]

    def _expect(self, sensor: SensorMonitor) -> None:
        """Wait for this sensor's next window; each sensor is in the heap at most once."""
        if sensor.sensor_id not in self._expected:
            self._expected.add(sensor.sensor_id)
            heapq.heappush(self._deadlines, (sensor.deadline_ns, sensor.sensor_id))

    def _silences(self, sensor_id: str, now_ns: int) -> list[WindowResult]:
        """Results of the sensors whose deadline the stream's event time has passed."""
        self._now_ns = self._clock.take(sensor_id, now_ns)
        results = []
        while self._deadlines and self._deadlines[0][0] < self._now_ns:
            _, waiting = heapq.heappop(self._deadlines)
            sensor = self._sensors[waiting]
            if sensor.deadline_ns >= self._now_ns:
                heapq.heappush(self._deadlines, (sensor.deadline_ns, waiting))
                continue
            self._expected.discard(waiting)
            results.append(sensor.silence())
        return results

    def export_state(self) -> State:
        """What is known beyond the sensors, as one versioned value."""
        return {
            "version": VERSION,
            "now_ns": self._now_ns,
            "clock": self._clock.export_state(),
            "deadlines": [[at_ns, sensor_id] for at_ns, sensor_id in self._deadlines],
        }

    def import_state(self, state: State, sensors: Mapping[str, tuple[State, State]]) -> None:
        """Go on from exported states.

        Args:
            state: From `export_state`.
            sensors: Sensor id -> (`export_live`, `export_baseline`) of its `SensorMonitor`.

        Raises:
            ValueError: for a state of another version or another model.
        """
        if state.get("version") != VERSION:
            raise ValueError(f"state version must be {VERSION}, got {state.get('version')}")
        self._now_ns = state["now_ns"]
        self._clock.import_state(state["clock"])
        self._deadlines = [(at_ns, sensor_id) for at_ns, sensor_id in state["deadlines"]]
        self._expected = {sensor_id for _, sensor_id in self._deadlines}
        for sensor_id, (live, baseline) in sensors.items():
            self._sensor(sensor_id).import_state(live, baseline)


def measured(items: Sequence[Item]) -> list[tuple[SensorMonitor, Ready | SensorHealth]]:
    """Health, indicators and gain of every window, all measured together.

    Args:
        items: Windows and stream events of any sensors, each sensor's in their order.

    Returns:
        What each window gave, and the health of sensors whose events say that they hardly give any.
    """
    windows = [item for _, item in items if isinstance(item, Window)]
    shapes, features = iter(shapes_of(windows)), iter(features_of(windows))
    found: list[tuple[SensorMonitor, Ready | SensorHealth]] = []
    for sensor, item in items:
        if isinstance(item, Window):
            found.append((sensor, sensor.ready(item, next(shapes), next(features))))
        elif (health := sensor.hear(item)) is not None:
            found.append((sensor, health))
    return found
