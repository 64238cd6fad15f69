"""Messages of sensors and orders of people in; points, transitions and state records out.

The first stage of the worker around `Monitor.process`. A message that a sensor's restored state has
heard is skipped before its windows are cut; one that cannot be used becomes a dead letter. Sensors
are restored when they are first heard, so that a new assignment costs little more than the reading
of the changelog.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Final

from pipeline.alarm_messages import transition_to_json
from pipeline.assembly import build_sensor
from pipeline.careful import CarefulEncoder
from pipeline.fleet import Fleet
from pipeline.messages import (
    NS_PER_S,
    BandEdges,
    Processed,
    Samples,
    SensorChunk,
    Transition,
    WindowResult,
)
from pipeline.monitor import Embedding, Encoder, Measured, Monitor
from pipeline.orders import ORDER_ID, BadOrder, Order, order_from_json
from pipeline.points import PointMaker
from pipeline.sensor import SensorMonitor
from pipeline.settings import Settings
from pipeline.snapshots import key_of, snapshot_to_bytes
from pipeline.streaming.metrics import Metrics
from pipeline.streaming.promises import Obeyed, from_record, to_record
from pipeline.streaming.sensor_records import SensorRecords
from pipeline.streaming.stage import (
    CONTENT_TYPE,
    MAX_DETAIL,
    Begun,
    Outcome,
    Outgoing,
    Partition,
    Received,
    Refused,
    States,
    StateWrite,
    dead_letter,
)
from pipeline.wire import PROTOBUF, BadChunk, decode

NOT_EMBEDDED: Final = "not_embedded"


@dataclass(slots=True)
class _Heard:
    """Newest event time of a partition, how late that came, and what has passed since."""

    event_ns: int
    late_ns: int
    idle_ns: int = 0


class SignalStage:
    """All sensors of the partitions of one worker.

    Args:
        settings: All of them.
        fleet: What is known of the plant; empty where there is no fleet file.
        encoder: Model.
        metrics: Of this role.
        encoding: Where the encoder is called while the batch before is judged; None = here.
        wall_ns: Present time.
    """

    def __init__(
        self,
        settings: Settings,
        fleet: Fleet,
        encoder: Encoder,
        *,
        metrics: Metrics,
        encoding: Executor | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._settings = settings
        self._fleet = fleet
        self._encoder = CarefulEncoder(_Timed(encoder, metrics), _ignore)
        self._encoding = encoding
        self._metrics = metrics
        self._wall_ns = wall_ns
        self._points = PointMaker(fleet)
        self._ahead_ns = round(settings.worker.future_s * NS_PER_S)
        self._live_ns = round(settings.worker.live_s * NS_PER_S)

    def assign(self, states: States, ends: Mapping[Partition, int]) -> None:
        """Begin anew with the partitions that are ours now; see `Stage`."""
        self._records = SensorRecords(states, ends)
        self._touched: set[str] = set()
        self._heard: dict[int, _Heard] = {}
        known = self._records.known
        self._monitor = Monitor(self._encoder, self._sensor, lambda name: known[name].partition)
        self._promised: dict[str, list[Obeyed]] = {}
        self._overdue: list[Outcome] = []
        for sensor_id, header in self._records.waiting:
            if header.promised:
                # Who wrote this may have died before it was told; told twice it is the same.
                kept = [from_record(record) for record in header.promised]
                self._overdue.append(self._told(kept))
                self._touched.add(sensor_id)
            if header.deadline_ns and not self._unwanted(sensor_id):
                self._monitor.expect(sensor_id, header.deadline_ns, header.heard_ns)

    def _sensor(self, sensor_id: str) -> SensorMonitor:
        sensor = build_sensor(self._fleet.sensor(sensor_id), self._settings, self._encoder)
        if self._records.restore(sensor):
            self._metrics.restored.inc()
        return sensor

    def begin(self, batch: Sequence[Received]) -> Begun:
        """Cut and measure the windows of messages, and let the encoder begin with them."""
        chunks: list[SensorChunk] = []
        orders: list[tuple[Received, Order]] = []
        letters: list[Outgoing] = []
        now_ns = self._wall_ns()
        for message in batch:
            try:
                if message.partition.topic == self._settings.kafka.commands:
                    orders += [(message, order) for order in self._order(message)]
                else:
                    chunks += self._chunk(message, now_ns)
            except Refused as refused:
                letters.append(self._letter(message, refused))
        measured = self._monitor.measure(chunks)
        self._touched.update(chunk.sensor_id for chunk in chunks)
        embedded = self._embedded(measured)

        def finish() -> Outcome:
            done = self._monitor.judge(measured, embedded())
            for message, order in orders:
                try:
                    self._obey(order)
                except Refused as refused:
                    letters.append(self._letter(message, refused))
            return self._outcome(done, letters, barrier=bool(orders))

        # An order acts at the time that its sensor has reached: nothing newer may be measured.
        return Begun(finish, alone=bool(orders))

    def _embedded(self, measured: Measured) -> Callable[[], Sequence[Embedding | None]]:
        """Let the encoder begin; gives what waits for its answer."""
        if self._encoding is None:
            found = self._monitor.embed(measured)
            return lambda: found
        return self._encoding.submit(self._monitor.embed, measured).result

    def tick(self, elapsed_ns: int) -> Outcome:
        """Notice sensors that fell silent where no other one of the partition tells the time."""
        silent: list[WindowResult] = []
        for number, heard in self._heard.items():
            heard.idle_ns += elapsed_ns
            if 0 <= heard.late_ns <= self._live_ns:
                silent += self._monitor.tick(number, heard.event_ns + heard.idle_ns).windows
        return self._outcome(Processed(tuple(silent), (), ()), [])

    def snapshot(self) -> list[StateWrite]:
        """State of every sensor that has changed."""
        touched, self._touched = sorted(self._touched), set(self._promised)
        promised, self._promised = self._promised, {}
        writes: list[StateWrite] = []
        for sensor_id in touched:
            obeyed = promised.get(sensor_id, [])
            records = [to_record(one) for one in obeyed]
            writes += self._records.write(self._monitor.sensor(sensor_id), records)
            if obeyed:
                writes[-1] = replace(writes[-1], told=self._told(obeyed))
        return writes + self._records.dead()

    def _chunk(self, message: Received, now_ns: int) -> list[SensorChunk]:
        """The chunk of a message; none where it has been heard.

        Raises:
            Refused: for a message that cannot be used.
        """
        kind = message.headers.get(CONTENT_TYPE, b"").decode("latin-1") or PROTOBUF
        try:
            chunk = decode(
                message.value or b"", content_type=kind, now_ns=now_ns, ahead_ns=self._ahead_ns
            )
        except BadChunk as bad:
            raise Refused(bad.reason, str(bad)) from bad
        if not self._note(chunk.sensor_id, message):
            return []
        number, heard = message.partition.number, self._heard.get(message.partition.number)
        if heard is None or chunk.end_ns > heard.event_ns:
            self._heard[number] = _Heard(chunk.end_ns, now_ns - chunk.end_ns)
        return [chunk]

    def _note(self, sensor_id: str, message: Received) -> bool:
        """Note that a sensor hears a message; give whether it is news to it.

        Raises:
            Refused: for a sensor that may not be heard, or not from this partition.
        """
        topic, number = message.partition
        if self._unwanted(sensor_id):
            raise Refused("unknown_sensor", f"{sensor_id} is not in the fleet file")
        known = self._records.known.get(sensor_id)
        if known is None:
            self._admit()
            known = self._records.meet(sensor_id, number)
        if known.partition != number:
            raise Refused(
                "wrong_partition",
                f"{sensor_id} is heard from partition {known.partition}: its producers must "
                "place it by murmur2 of its id, or all in another same way",
            )
        if message.offset <= known.positions.get(topic, -1):
            self._metrics.skipped.inc()
            return False
        known.positions[topic] = message.offset
        return True

    def _unwanted(self, sensor_id: str) -> bool:
        """Whether a sensor is refused, be it that one without this fleet file has heard it."""
        refused = self._settings.worker.unknown_sensors == "refuse"
        return refused and self._fleet.lacks(sensor_id)

    def _admit(self) -> None:
        most = self._settings.worker.max_sensors
        if len(self._records.known) >= most:
            raise Refused("too_many_sensors", f"{most} sensors are known: raise max_sensors")

    def _order(self, message: Received) -> list[Order]:
        try:
            order = order_from_json(message.value or b"")
        except BadOrder as bad:
            raise Refused("bad_order", str(bad)) from bad
        if order.sensor_id not in self._records.known:
            raise Refused("bad_order", f"{order.sensor_id} has not been heard in this partition")
        return [order] if self._note(order.sensor_id, message) else []

    def _obey(self, order: Order) -> None:
        """Obey, and promise to tell of it.

        Raises:
            Refused: for an order that cannot be obeyed now.
        """
        self._touched.add(order.sensor_id)
        changes: Sequence[Transition] = ()
        refused = ""
        if order.action != "maintenance":
            try:
                changes = self._changes(order)
            except ValueError as error:
                refused = str(error)
        self._promised.setdefault(order.sensor_id, []).append(Obeyed(order, changes, refused))
        self._metrics.transitions.inc(len(changes))
        if refused:
            raise Refused("order_refused", refused)

    def _changes(self, order: Order) -> Sequence[Transition]:
        name = order.sensor_id
        if not self._monitor.sensor(name).event_ns:
            raise ValueError(f"{name} has no result yet: its signal has not filled a window")
        assert order.action != "maintenance"  # noqa: S101  (narrowing: a note changes nothing)
        return self._monitor.obey(name, order.action, order.by, order.why, shelve_s=order.shelve_s)

    def _told(self, kept: Sequence[Obeyed]) -> Outcome:
        """What goes out once the state that includes these orders is stored."""
        guard, topic = self._quarantined, self._settings.kafka.transitions
        points = [
            self._points.order_point(one.order, refused=one.refused, quarantined=guard)
            for one in kept
        ]
        messages: list[Outgoing] = []
        for one in kept:
            points += self._points.transition_points(one.changes, quarantined=guard)
            headers = {ORDER_ID: one.order.order_id.encode()}
            messages += [
                Outgoing(topic, change.asset.encode(), transition_to_json(change), headers)
                for change in one.changes
            ]
        return Outcome(points, messages)

    def _letter(self, message: Received, refused: Refused) -> Outgoing:
        self._metrics.dead_letters.labels(refused.reason).inc()
        return dead_letter(self._settings.kafka.dead_letters, message, refused.reason, str(refused))

    def _quarantined(self, sensor_id: str) -> bool:
        accepted = self._settings.worker.unknown_sensors == "accept"
        return not accepted and self._fleet.lacks(sensor_id)

    def _outcome(
        self,
        done: Processed,
        letters: Sequence[Outgoing],
        *,
        barrier: bool = False,
    ) -> Outcome:
        self._touched.update(window.sensor_id for window in done.windows)
        changes = [t for window in done.windows for t in window.transitions]
        overdue, self._overdue = self._overdue, []
        points = [
            *self._points.points(done, quarantined=self._quarantined),
            *(point for told in overdue for point in told.points),
        ]
        topic = self._settings.kafka.transitions
        messages = [Outgoing(topic, t.asset.encode(), transition_to_json(t)) for t in changes]
        told_before = [message for told in overdue for message in told.messages]
        failed = [self._failed(w) for w in done.windows if NOT_EMBEDDED in w.health.faults]
        pinned = [w for w in done.windows if w.pin and not self._quarantined(w.sensor_id)]
        kept = [self._snapshot(window) for window in pinned]
        self._metrics.snapshots.inc(len(kept))
        newest_ns = max((window.window_end_ns for window in done.windows), default=0)
        self._count(done, len(messages), newest_ns)
        outgoing = [*letters, *failed, *kept, *told_before, *messages]
        return Outcome(points, outgoing, len(done.windows), newest_ns, barrier)

    def _snapshot(self, window: WindowResult) -> Outgoing:
        """The samples of a window that people will want to see."""
        topic = self._settings.kafka.snapshots
        return Outgoing(topic, key_of(window), snapshot_to_bytes(window))

    def _failed(self, window: WindowResult) -> Outgoing:
        """What tells of a window that the encoder could not take; its signal is in its topic."""
        self._metrics.dead_letters.labels("encoder_failed").inc()
        headers = {
            "reason": "encoder_failed",
            "detail": window.health.detail[:MAX_DETAIL],
            "window_start_ns": str(window.window_start_ns),
            "window_end_ns": str(window.window_end_ns),
        }
        coded = {name: text.encode() for name, text in headers.items()}
        topic = self._settings.kafka.dead_letters
        return Outgoing(topic, window.sensor_id.encode(), b"", coded)

    def _count(self, done: Processed, transitions: int, newest_ns: int) -> None:
        metrics = self._metrics
        metrics.windows.inc(len(done.windows))
        metrics.nan_scores.inc(sum(map(lacks_score, done.windows)))
        metrics.batch_windows.observe(len(done.windows))
        metrics.transitions.inc(transitions)
        metrics.sensors.set(len(self._records.known))
        for event in done.events:
            metrics.stream_events.labels(event.kind).inc()
        if newest_ns:
            metrics.last_event_ns.set(newest_ns)


def lacks_score(window: WindowResult) -> bool:
    """Whether a window that was to be scored has no finite score.

    Embeddings that are not finite never reach the baseline: such a window says `not_embedded`. A
    score of finite embeddings that is none would compare as healthy, so that nobody would hear.
    """
    drift = window.drift
    bad = drift is not None and bool(drift.band_shares) and not math.isfinite(drift.score)
    return bad or NOT_EMBEDDED in window.health.faults


class _Timed:
    """An encoder whose calls are timed."""

    def __init__(self, encoder: Encoder, metrics: Metrics) -> None:
        self._encoder = encoder
        self._seconds = metrics.embed_s

    @property
    def model_id(self) -> str:
        return self._encoder.model_id

    @property
    def trained(self) -> bool:
        return self._encoder.trained

    def embed(
        self,
        samples: Sequence[Samples],
        sample_rates_hz: Sequence[float],
        gains: Sequence[float] | None = None,
    ) -> Sequence[Embedding | None]:
        began_s = time.perf_counter()
        found = self._encoder.embed(samples, sample_rates_hz, gains)
        self._seconds.observe(time.perf_counter() - began_s)
        return found

    def band_edges_hz(self, sample_rate_hz: float) -> BandEdges:
        return self._encoder.band_edges_hz(sample_rate_hz)


def _ignore(_: Exception | None) -> None:
    """The window's health tells of it."""
