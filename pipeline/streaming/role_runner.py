"""One role kept at work: its topics awaited, its app started, watched and, at the end, drained."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from aiokafka.errors import KafkaError

from connectors.influx import Stats
from connectors.kafka_access import Access
from pipeline.careful import EncoderGoneError
from pipeline.services.influx_settings import writer_of
from pipeline.services.topic_plan import read_by
from pipeline.services.topic_watch import TopicWatch
from pipeline.services.topics import Role, state_topic
from pipeline.settings import Settings
from pipeline.state import StateError
from pipeline.streaming.delivery import Delivery
from pipeline.streaming.endpoints import Verdict
from pipeline.streaming.faust_role import FaustRole
from pipeline.streaming.metrics import Metrics
from pipeline.streaming.stage import DEAD_LETTER_BYTES, MAX_DETAIL, Outgoing, Received, Stage
from pipeline.streaming.watchdog import Watchdog

log = logging.getLogger(__name__)

WATCH_S = 0.25
TOPICS_S = 3.0
# Longer than this without an answer of Kafka, and a worker is not ready.
SILENT_S = 15.0
# Two workers of one name throw each other out of the group with every heartbeat, for ever.
MOST_UNSETTLED = 10
# A micro-batch also ends at this many messages, for small ones cost time, too.
BATCH_MESSAGES = 512


class WorkerFailure(RuntimeError):  # noqa: N818  (what happened, not a mistake of the caller)
    """The worker cannot go on; whoever supervises it shall start it again."""


class RoleRunner:
    """Runs one role until it is told to stop.

    Args:
        role: signals or cases.
        settings: All of them.
        access: How to reach Kafka.
        stage: What is done with the messages.
        metrics: Of this role.

    Attributes:
        sink: Writer of the results; to be started before `run`.

    Raises:
        InfluxError: for an address or token that cannot be used.
    """

    def __init__(
        self,
        role: Role,
        settings: Settings,
        access: Access,
        *,
        stage: Stage,
        metrics: Metrics,
    ) -> None:
        self.role = role
        self.sink = writer_of(
            settings.influx, refused=self._sink_refused, progress=self._sink_progress
        )
        self.metrics = metrics
        self._settings = settings
        self._access = access
        self._stage = stage
        self._app: FaustRole | None = None
        self._missing: tuple[str, ...] = ()
        self._told = Stats()
        self._left_out: set[str] = set()
        self._watch_topics = TopicWatch(access)
        metrics.checkpoint_age_s.set_function(self._checkpoint_age_s)

    def _checkpoint_age_s(self) -> float:
        if self._app is None or not self._app.delivery.held[0]:
            return 0.0
        return time.monotonic() - self._app.delivery.checkpoints.stored_s

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping`.

        Raises:
            WorkerFailure: where the worker cannot go on.
            AccessError: where Kafka refuses us.
        """
        while not stopping.is_set():
            topics = await self._await_topics(stopping)
            if topics:
                await self._work(topics, stopping)

    async def _await_topics(self, stopping: asyncio.Event) -> dict[str, int]:
        """Topics to read -> partitions, once all that is needed exists."""
        said = ""
        while not stopping.is_set():
            found = await self._watch_topics.look()
            self._missing = ("Kafka",) if found is None else self._lacking(found)
            if found is not None and not self._missing:
                return self._to_read(found)
            text = f"waiting for {', '.join(self._missing)}"
            if text != said:
                log.warning("%s: %s (see: echowatch topics create)", self.role, text)
                said = text
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), 1.0)
        return {}

    def _lacking(self, found: Mapping[str, int]) -> tuple[str, ...]:
        kafka = self._settings.kafka
        needed = [kafka.transitions, kafka.dead_letters]
        ours = [kafka.commands, kafka.snapshots] if self.role == "signals" else [kafka.alarms]
        needed += ours
        missing = [f"topic {name}" for name in needed if name not in found]
        kinds = read_by(kafka, self.role, found)
        if self.role == "signals" and not set(kinds) & set(found):
            pattern = f" or /{kafka.signals_pattern}/" if kafka.signals_pattern else ""
            missing.append(f"topic {', '.join(kafka.signals)}{pattern}")
        return tuple(missing)

    def _to_read(self, found: Mapping[str, int]) -> dict[str, int]:
        """The topics of this role that exist; nothing that is needed may be missing.

        Raises:
            WorkerFailure: where their partitions differ.
        """
        kafka = self._settings.kafka
        names = read_by(kafka, self.role, found)
        if self.role == "cases":
            return {name: found[name] for name in names}
        wanted = found[kafka.commands]
        odd = {n for n in names if n not in kafka.signals and found[n] != wanted}
        for name in sorted(odd - self._left_out):
            log.warning("%s: %s is left out: it has %d partitions, commands have %d",
                        self.role, name, found[name], wanted)  # fmt: skip
        self._left_out |= odd
        read = sorted({kafka.commands, *names} - odd)
        topics = {name: found[name] for name in read if name in found}
        if len(set(topics.values())) > 1:
            counts = ", ".join(f"{name} {count}" for name, count in topics.items())
            raise WorkerFailure(
                f"signals and commands must have equally many partitions, got {counts}: "
                "see echowatch topics check"
            )
        return topics

    async def _work(self, topics: Mapping[str, int], stopping: asyncio.Event) -> None:
        """Run one app until the end or until the topics change."""
        app = self._make_app(topics)
        self._app = app
        self._loop = asyncio.get_running_loop()
        processing = asyncio.ensure_future(app.delivery.run())
        finished = False
        try:
            if await self._started(app, stopping):
                log.info("%s: reading %s", self.role, ", ".join(topics))
                await self._watch(app, processing, topics, stopping)
        finally:
            finished = await app.stop(self._settings.worker.drain_s)
            processing.cancel()
            await asyncio.gather(processing, return_exceptions=True)
            self._app = None
            if not finished:
                log.warning("%s: ended before all results were confirmed; they will be done again "
                            "by the next worker", self.role)  # fmt: skip
        if (lost := app.delivery.lost) is not None:
            raise self._failure(lost) from lost
        if not app.left and not stopping.is_set():
            # It would keep its share of the group beside the next one, and work on nothing.
            raise WorkerFailure(f"{self.role}: could not leave the group to read other topics")

    async def _started(self, app: FaustRole, stopping: asyncio.Event) -> bool:
        """Start an app, which joins the group and recovers; False where we shall end before that.

        False, too, where Kafka goes away meanwhile: with it back, another app begins anew.
        """
        starting, told = asyncio.ensure_future(app.start()), asyncio.ensure_future(stopping.wait())
        try:
            await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                await starting
            return starting.done()
        except (KafkaError, OSError) as error:
            if isinstance(error, KafkaError) and not error.retriable:
                raise
            log.warning("%s: Kafka went away as we came: %r", self.role, error)
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), 1.0)
            return False
        finally:
            told.cancel()
            starting.cancel()

    def _make_app(self, topics: Mapping[str, int]) -> FaustRole:
        settings, worker = self._settings, self._settings.worker
        app = FaustRole(
            self.role,
            tuple(topics),
            next(iter(topics.values())),
            access=self._access,
            kafka=settings.kafka,
            worker=worker,
            metrics=self.metrics,
        )
        app.delivery = Delivery(
            self._stage,
            self.sink,
            app,
            state_topic=state_topic(settings.kafka, self.role),
            metrics=self.metrics,
            checkpoint_s=worker.checkpoint_s,
            trust_s=worker.session_timeout_s / 5,
            max_bytes=worker.pending_mb * 1e6,
            max_messages=worker.pending_messages,
            cost=_cost(worker.batch_samples),
        )
        return app

    def _sink_progress(self) -> None:
        """InfluxDB has confirmed more; called in the sink's thread."""
        if (app := self._app) is not None:
            self._loop.call_soon_threadsafe(app.delivery.progress)

    def _sink_refused(self, line: str, why: str) -> None:
        """InfluxDB refuses a point for good; called in the sink's thread."""
        self.metrics.dead_letters.labels("influx_refused").inc()
        headers = {"reason": b"influx_refused", "detail": why[:MAX_DETAIL].encode()}
        value = line.encode()[:DEAD_LETTER_BYTES]
        letter = Outgoing(self._settings.kafka.dead_letters, None, value, headers)
        if (app := self._app) is not None:
            self._loop.call_soon_threadsafe(app.delivery.refused, letter)

    async def _watch(
        self,
        app: FaustRole,
        processing: asyncio.Future[None],
        topics: Mapping[str, int],
        stopping: asyncio.Event,
    ) -> None:
        """Look after a running app; return when it shall end."""
        dogs = [Watchdog(self._settings.worker.watchdog_s) for _ in range(2)]
        looked_s = topics_s = time.monotonic()
        while not stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), WATCH_S)
            app.delivery.checkpoints.standing.beat()
            self._check(app, processing, *dogs)
            now_s = time.monotonic()
            if now_s - looked_s >= 1.0:
                await app.look()
                self._measure(app)
                looked_s = time.monotonic()
            if now_s - topics_s >= TOPICS_S:
                topics_s = now_s
                if await self._changed(topics):
                    return

    def _check(
        self, app: FaustRole, processing: asyncio.Future[None], dog: Watchdog, joining: Watchdog
    ) -> None:
        """Raise where the app cannot go on."""
        self._check_alive(app, processing)
        silent = app.broker_silent_s > SILENT_S
        # Recovery has been seen to stand still after a rebalance, with all of the changelog read.
        joining.progress(app.joined, app.unsettled, excused=silent)
        if joining.stalled is not None:
            raise WorkerFailure(
                f"{self.role}: waited {joining.stalled:.0f} s for partitions and their state"
            )
        delivery = app.delivery
        failing = self.sink.stats.failing_since is not None
        dog.progress(delivery.done, delivery.waiting + app.waiting, excused=silent or failing)
        if dog.stalled is not None:
            raise WorkerFailure(
                f"{self.role}: nothing was processed for {dog.stalled:.0f} s although "
                f"{delivery.waiting + app.waiting} messages wait"
            )

    def _check_alive(self, app: FaustRole, processing: asyncio.Future[None]) -> None:
        """Raise where the app or its processing has ended, or the group throws us out."""
        if processing.done():
            # Cancelled by nobody: a role that ends without a word would leave half a worker.
            error = asyncio.CancelledError() if processing.cancelled() else processing.exception()
            raise self._failure(error) from error
        if app.failure is not None:
            raise WorkerFailure(f"{self.role}: Kafka client: {app.failure!r}") from app.failure
        name = self._settings.worker.instance_id
        # The newcomer shall go, not the one that was at work before.
        most = MOST_UNSETTLED * (2 if app.rooted else 1)
        if name is not None and max(app.unsettled, app.snatched) >= most:
            raise WorkerFailure(
                f"{self.role}: another worker has the instance id {name!r} as well: they take the "
                "partitions from each other; give each worker its own"
            )

    def _failure(self, error: BaseException | None) -> WorkerFailure:
        """What tells of an error of the stage."""
        if isinstance(error, StateError | EncoderGoneError):
            return WorkerFailure(f"{self.role}: {error}")
        log.error("%s: this must not happen", self.role, exc_info=error)
        return WorkerFailure(f"{self.role}: {error!r}")

    async def _changed(self, topics: Mapping[str, int]) -> bool:
        found = await self._watch_topics.look()
        if found is None or self._lacking(found):
            return False
        now = self._to_read(found)
        gone = {name for name in topics if name not in now}
        if now != topics and not gone:
            log.info("%s: topics are now %s", self.role, ", ".join(now))
        return now != topics and not gone

    def _measure(self, app: FaustRole) -> None:
        messages, size = app.delivery.held
        self.metrics.queue_messages.set(messages)
        self.metrics.queue_bytes.set(size)
        self.metrics.sink_pending_bytes.set(self.sink.pending_bytes)
        before, self._told = self._told, self.sink.stats
        self.metrics.sink_points.inc(self._told.points - before.points)
        self.metrics.sink_retries.inc(self._told.retries - before.retries)
        self.metrics.sink_refused.inc(self._told.refused - before.refused)

    @property
    def delivery(self) -> Delivery | None:
        """Of the running app, None between two of them."""
        return None if self._app is None else self._app.delivery

    def lags(self) -> dict[tuple[str, int], float]:
        """(topic, partition) -> messages not yet acknowledged."""
        return {} if self._app is None else dict(self._app.lags)

    def ready(self) -> Verdict:
        """Whether this role works on its share."""
        app, reasons = self._app, []
        if app is None:
            waits = ", ".join(self._missing) or "its start"
            return Verdict(ok=False, reasons=(f"{self.role}: waiting for {waits}",))
        if not app.delivery.ready:
            reasons.append(f"{self.role}: waiting for partitions and their state")
        if app.broker_silent_s > SILENT_S:
            reasons.append(f"{self.role}: Kafka is silent for {app.broker_silent_s:.0f} s")
        if self.sink.stats.failing_since is not None:
            reasons.append(f"{self.role}: InfluxDB: {self.sink.stats.last_error}")
        messages, size = app.delivery.held
        facts = {
            "partitions": len({partition.number for partition in app.assigned}),
            "unacknowledged_messages": messages,
            "unacknowledged_bytes": size,
            "waiting_messages": app.waiting,
            "checkpoint_age_s": round(self._checkpoint_age_s(), 1),
        }
        return Verdict(ok=not reasons, reasons=tuple(reasons), facts={self.role: facts})


def _cost(batch_samples: int) -> Callable[[Received], float]:
    """Share of a micro-batch; samples are at least 2 bytes."""
    return lambda message: max(1.0 / BATCH_MESSAGES, message.size / (2.0 * batch_samples))
