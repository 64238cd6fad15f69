"""Chunks of any mix of sensors in; window results, stream events and spectra out.

`process` is one micro-batch: every sensor cuts its windows, all are measured and those worth it
embedded together, then each is judged in stream order. How chunks are grouped into
batches changes nothing but speed, nor does how sensors are shared out over monitors. So whoever has
a thread for the encoder may call the three steps apart, and measure a batch before the one before
it is judged. Time is event time: a sensor is silent when the others of its group have moved on
without it.
"""

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.asked import Action
from pipeline.indicators import features_of
from pipeline.messages import (
    NS_PER_S,
    BandEdges,
    Processed,
    Samples,
    SensorChunk,
    SensorHealth,
    Spectrum,
    State,
    StreamEvent,
    Transition,
    Window,
    WindowResult,
)
from pipeline.ready import Ready
from pipeline.sensor import SensorMonitor
from pipeline.signal_shape import shapes_of
from pipeline.silence import WALL, SilenceWatch

VERSION = 3
RATES_CACHED = 256

Item = tuple[SensorMonitor, Window | StreamEvent | int]
"""What a sensor's chunk gave; an int is its `newest_ns`, before the rest."""
Found = tuple[SensorMonitor, Ready | SensorHealth | int]
Embedding = NDArray[np.float32]


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
    ) -> Sequence[Embedding | None]:
        """(N,) windows of any rates and lengths in, (K, D) each out; None for one that fails."""

    def band_edges_hz(self, sample_rate_hz: float) -> BandEdges:
        """Frequency range of each of the K bands."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A micro-batch that waits for its embeddings.

    Attributes:
        found: What its windows and events gave, in stream order.
        events: Those of the streams.
    """

    found: list[Found]
    events: tuple[StreamEvent, ...]

    @property
    def to_embed(self) -> list[Ready]:
        """The windows that are worth it."""
        ready = (done for _, done in self.found if isinstance(done, Ready))
        return [window for window in ready if window.gain != 0.0]


class Monitor:
    """All sensors of one worker or one embedded run.

    Args:
        encoder: Model for all of them.
        make_sensor: Sensor id -> `SensorMonitor`, fresh or restored; called when first needed.
        group_of: Sensor id -> what it is heard together with, e.g. its partition.
    """

    def __init__(
        self,
        encoder: Encoder,
        make_sensor: Callable[[str], SensorMonitor],
        group_of: Callable[[str], Hashable] = lambda _id: 0,
    ) -> None:
        self._encoder = encoder
        self._make_sensor = make_sensor
        self._group_of = group_of
        self._sensors: dict[str, SensorMonitor] = {}
        self._groups: dict[str, Hashable] = {}
        self._watches: dict[Hashable, SilenceWatch] = {}
        self._edges: dict[float, BandEdges] = {}

    @property
    def sensors(self) -> dict[str, SensorMonitor]:
        """Sensor id -> its monitor, for every sensor in memory."""
        return self._sensors

    def process(self, chunks: Iterable[SensorChunk]) -> Processed:
        """Take a micro-batch; the result does not depend on how chunks are batched."""
        batch = self.measure(chunks)
        return self.judge(batch, self.embed(batch))

    def flush(self) -> Processed:
        """End of the stream: what the windowers still hold."""
        sensors = self._sensors.values()
        batch = measure_all([(sensor, item) for sensor in sensors for item in sensor.flush()])
        return self.judge(batch, self.embed(batch))

    def measure(self, chunks: Iterable[SensorChunk]) -> Measured:
        """First step: cut windows, measure them, decide which are worth an embedding."""
        items: list[Item] = []
        for chunk in chunks:
            sensor = self.sensor(chunk.sensor_id)
            given = sensor.cut(chunk)
            items.append((sensor, sensor.newest_ns))
            items.extend((sensor, item) for item in given)
        return measure_all(items)

    def embed(self, batch: Measured) -> Sequence[Embedding | None]:
        """Second step: ask the encoder; touches no sensor, so another thread may do it."""
        wanted = batch.to_embed
        if not wanted:
            return []
        rates = [ready.window.sample_rate_hz for ready in wanted]
        for rate in set(rates):
            self._band_edges(rate)  # asked in `judge`, it would wait for the next batch's embedding
        return self._encoder.embed(
            [ready.window.samples for ready in wanted], rates, [ready.gain for ready in wanted]
        )

    def judge(self, batch: Measured, embedded: Sequence[Embedding | None]) -> Processed:
        """Third step: learn, score and move alarms, batches in the order of their measuring."""
        embeddings = iter(embedded)
        results: list[WindowResult] = []
        spectra: list[Spectrum] = []
        for sensor, done in batch.found:
            watch = self._watch(sensor.sensor_id)
            if isinstance(done, int):
                sensor.arrive(done, watch.now_ns)
                continue
            health = done.health if isinstance(done, Ready) else done
            watch.hear(sensor.sensor_id, health.window_end_ns)
            results += self._silences(watch, but=sensor.sensor_id)
            # Of this sensor its own stream tells, be it that the plant has not noticed yet.
            if 0 < sensor.deadline_ns < health.window_end_ns:
                results.append(sensor.silence())
            if isinstance(done, Ready):
                embedding = next(embeddings) if done.gain != 0.0 else None
                if embedding is not None and not is_finite(embedding):
                    embedding = None
                edges = self._band_edges(done.window.sample_rate_hz)
                judged = sensor.judge(done, embedding, edges)
                results.append(judged.result)
                spectra.extend(judged.spectra)
            else:
                results.append(sensor.unusable(done))
            watch.expect(sensor.sensor_id, sensor.overdue_ns)
        return Processed(tuple(results), batch.events, tuple(spectra))

    def tick(self, group: Hashable, now_ns: int) -> Processed:
        """Let a clock outside move the time of a group, as a window of another sensor would.

        Args:
            group: As `group_of` names it; nothing happens where it has no sensor.
            now_ns: Event time that windows of now would have.
        """
        watch = self._watches.get(group)
        if watch is None:
            return Processed((), (), ())
        watch.hear(WALL, now_ns)
        return Processed(tuple(self._silences(watch)), (), ())

    def expect(self, sensor_id: str, deadline_ns: int, heard_ns: int) -> None:
        """Wait for a sensor that is not in memory; it is made when it is heard or due.

        Args:
            sensor_id: Name of the sensor.
            deadline_ns: Its `SensorMonitor.deadline_ns`; 0 = not waited for.
            heard_ns: Its `SensorMonitor.event_ns`, which the group's clock has reached; 0 = none.
        """
        watch = self._watch(sensor_id)
        if heard_ns:
            watch.hear(sensor_id, heard_ns)
        if deadline_ns:
            watch.expect(sensor_id, deadline_ns)

    def drop(self, sensor_ids: Collection[str]) -> None:
        """Forget sensors, and the time of groups that have none left."""
        for sensor_id in sensor_ids:
            self._sensors.pop(sensor_id, None)
            self._groups.pop(sensor_id, None)
        left = set(self._groups.values())
        self._watches = {group: watch for group, watch in self._watches.items() if group in left}
        for watch in self._watches.values():
            watch.forget(set(sensor_ids))

    def obey(
        self, sensor_id: str, action: Action, by: str, why: str, shelve_s: float = 0.0
    ) -> tuple[Transition, ...]:
        """Do what a person asks of one sensor, at the event time that it has reached.

        Args:
            sensor_id: Name of the sensor.
            action: What to do, see `pipeline.asked`.
            by: Person.
            why: Words.
            shelve_s: Length of a shelving, seconds of event time.

        Returns:
            What changed; empty where there was nothing to change.

        Raises:
            ValueError: for a command that the alarm logic refuses, in words.
        """
        sensor = self.sensor(sensor_id)
        until_ns = sensor.event_ns + round(shelve_s * NS_PER_S)
        return sensor.obey(action, sensor.event_ns, by, why, until_ns)

    def sensor(self, sensor_id: str) -> SensorMonitor:
        """The monitor of a sensor; made or restored where it is not in memory."""
        if sensor_id not in self._sensors:
            self._sensors[sensor_id] = self._make_sensor(sensor_id)
        return self._sensors[sensor_id]

    def _watch(self, sensor_id: str) -> SilenceWatch:
        if sensor_id not in self._groups:
            group = self._groups[sensor_id] = self._group_of(sensor_id)
            self._watches.setdefault(group, SilenceWatch())
        return self._watches[self._groups[sensor_id]]

    def _band_edges(self, sample_rate_hz: float) -> BandEdges:
        found = self._edges.get(sample_rate_hz)
        if found is None:
            found = self._encoder.band_edges_hz(sample_rate_hz)
            if len(self._edges) >= RATES_CACHED:  # a gateway may send the rate that it measures
                self._edges = {}
            self._edges[sample_rate_hz] = found
        return found

    def _silences(self, watch: SilenceWatch, but: str = WALL) -> list[WindowResult]:
        """Results of the sensors that the time of their group has left behind, but one."""
        results = []
        for sensor_id in watch.due():
            if sensor_id == but:
                continue
            sensor = self.sensor(sensor_id)
            if sensor.overdue_ns >= watch.now_ns:
                watch.expect(sensor_id, sensor.overdue_ns)
            elif sensor.overdue_ns:
                results.append(sensor.silence())
        return results

    def export_state(self) -> State:
        """What is known beyond the sensors, as one versioned value; groups must be JSON scalars."""
        watches = [[group, watch.export_state()] for group, watch in self._watches.items()]
        return {"version": VERSION, "watches": watches}

    def import_state(self, state: State, sensors: Mapping[str, tuple[State, State | None]]) -> None:
        """Go on from exported states.

        Args:
            state: From `export_state`.
            sensors: Sensor id -> (`export_live`, last `export_baseline`) of its `SensorMonitor`.

        Raises:
            ValueError: for a state of another version or another model.
        """
        if state.get("version") != VERSION:
            raise ValueError(f"state version must be {VERSION}, got {state.get('version')}")
        for group, exported in state["watches"]:
            self._watches[group] = SilenceWatch()
            self._watches[group].import_state(exported)
        for sensor_id, (live, baseline) in sensors.items():
            self.sensor(sensor_id).import_state(live, baseline)


def is_finite(embedding: Embedding) -> bool:
    """Whether all of (K, D) are numbers, of a size that can be compared.

    >>> is_finite(np.ones((2, 3), np.float32)), is_finite(np.full((2, 3), np.nan, np.float32))
    (True, False)
    """
    flat = embedding.ravel()
    return math.isfinite(np.dot(flat, flat))


def measure_all(items: Sequence[Item]) -> Measured:
    """Health, indicators and gain of every window, all measured together.

    Args:
        items: What the chunks of any sensors gave, each sensor's in their order.

    Returns:
        What each window gave, and the health of sensors whose events say that they hardly give any.
    """
    windows = [item for _, item in items if isinstance(item, Window)]
    shapes, features = iter(shapes_of(windows)), iter(features_of(windows))
    found: list[Found] = []
    for sensor, item in items:
        if isinstance(item, Window):
            found.append((sensor, sensor.ready(item, next(shapes), next(features))))
        elif isinstance(item, int):
            found.append((sensor, item))
        elif (health := sensor.hear(item)) is not None:
            found.append((sensor, health))
    return Measured(found, tuple(item for _, item in items if isinstance(item, StreamEvent)))
