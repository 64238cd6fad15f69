"""A plant with a story in; its history, and then its present, on a Kafka topic out.

The history is sent as fast as the workers follow and ends at the present; the present is sent when
the clock reaches it. Both are one stream: what lies before the clock is due at once. What people
say in the story is sent as orders, once the workers have come to its moment.
"""

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from connectors.kafka_access import Access
from connectors.kafka_producer import ChunkProducer, DeliveryError
from connectors.kafka_tail import TopicError, TopicView
from pipeline.messages import NS_PER_S, SensorChunk
from pipeline.orders import Order, new_order
from pipeline.replay.pace import LagGate, Rate
from pipeline.service_settings import Kafka
from pipeline.services import live_alarms
from pipeline.services.topics import group_of
from pipeline.simulation.life import Life
from pipeline.simulation.record import (
    Record,
    SimulateError,
    Watermark,
    default_path,
    load,
    save,
)
from pipeline.simulation.story import PLANT, SAYINGS
from pipeline.terminal import Advance, interruptible, meter

STORY_S: Final = 8 * 3600.0
"""Length of the story where there is no history: it unfolds from now on."""
SLICE_S: Final = 0.1
SAVE_EVERY_S: Final = 1.0
SHOW_EVERY_S: Final = 0.2
ANSWER_S: Final = 60.0
# Workers that have not moved for so long are perhaps not there.
PATIENCE_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be sent, and how.

    Attributes:
        kafka: Names of the topics.
        topic: Must exist.
        history_s: Length of the history; 0 = only the present.
        every_s: Time from one capture of a sensor to the next.
        live: Go on with the present until Ctrl-C.
        orders: Send what people say, too.
        max_lag: Messages that may wait for the workers; 0 = any number, and orders wait for nobody.
        record: File of how far it is; None = `default_path`.
        again: Begin anew, whatever the record says.
    """

    kafka: Kafka
    topic: str
    seed: int = 0
    history_s: float = STORY_S
    every_s: float = 60.0
    live: bool = False
    orders: bool = True
    max_lag: int = 2000
    record: Path | None = None
    again: bool = False


def simulate(job: Job, access: Access, console: Console) -> dict[str, Any]:
    """Send the plant; goes on where an earlier run of the same job ended.

    What was missed meanwhile is sent first, at most the length of the history.

    Returns:
        `status` (`finished` or `interrupted`), `sent` (messages), `start_ns` (of the history),
        `sent_ns` and `path` (the record).

    Raises:
        SimulateError: it cannot be done; the text says why.
        KafkaTrouble, LiveError: likewise.
    """
    with _in_words(), closing(TopicView(access, job.topic)) as view:
        identified = {"plant": PLANT, "topic": job.topic, "cluster": view.cluster_id,
                      "seed": job.seed, "history_s": job.history_s,
                      "every_s": job.every_s}  # fmt: skip
        path = job.record or default_path(identified)
        record = _begun(job, identified, path)
        life = _life(job, record.start_ns)
        with interruptible() as stop:
            sending = _Sending(job, access, view, life, record, path, stop, console)
            finished = sending.run()
    status = "finished" if finished else "interrupted"
    return {"status": status, "sent": sending.sent, "path": str(path),
            "start_ns": record.start_ns, "sent_ns": record.sent_ns}  # fmt: skip


def planned(job: Job) -> dict[str, Any]:
    """What would be sent up to the present, sensor by sensor; nothing is sent."""
    life = _life(job, 0)
    captures = int(job.history_s / job.every_s)
    rates = {channel.sensor.sensor_id: channel.sensor.rate_hz for channel in life.channels}
    return {"topic": job.topic, "captures": captures, "sensors": rates}


def _life(job: Job, start_ns: int) -> Life:
    try:
        return Life(job.seed, start_ns, job.history_s or STORY_S, job.every_s)
    except ValueError as error:
        raise SimulateError(str(error)) from error


def _begun(job: Job, identified: dict[str, Any], path: Path) -> Record:
    """The record to go on with, moved on to what may still be sent."""
    since_ns = time.time_ns() - round(job.history_s * NS_PER_S)
    record = None if job.again else load(path, identified)
    if record is None:
        record = Record(identified, since_ns, since_ns)
    record.sent_ns = max(record.sent_ns, since_ns)
    save(path, record)
    return record


class _Sending:
    """Sends one plant.

    Attributes:
        sent: Messages so far.
    """

    def __init__(
        self,
        job: Job,
        access: Access,
        view: TopicView,
        life: Life,
        record: Record,
        path: Path,
        stop: Callable[[], bool],
        console: Console,
    ) -> None:
        self._job, self._access, self._view, self._life = job, access, view, life
        self._record, self._path, self._stop, self._console = record, path, stop, console
        self._group = group_of(job.kafka, "signals")
        self._gate = LagGate(job.max_lag, self._lag)
        self._mark, self._receipts = Watermark(record.sent_ns), deque[int]()
        self._rate, self._event_ns, self.sent, self._bytes = Rate(), record.sent_ns, 0, 0
        self._saved = self._shown = self._moved = time.monotonic()
        self._show: Advance = lambda _event_ns, _note: None
        self._orders = deque(_moments(job, life, record.sent_ns))

    def run(self) -> bool:
        """Send it all; False where a person has ended it before."""
        since_ns = self._record.sent_ns
        stream = self._life.chunks(since_ns)
        receipts = self._receipts
        with closing(
            ChunkProducer(self._access, self._job.topic, acked=lambda n, *_: receipts.append(n))
        ) as producer:
            try:
                length_s = (time.time_ns() - since_ns) / NS_PER_S
                with meter(self._console, since_ns, length_s, line_every_s=5.0) as self._show:
                    first, done = self._history(stream, producer)
                    done = done and self._flushed(producer) and self._worked_off()
                if done and self._job.live:
                    self._console.print(
                        f"history is sent ({self.sent} messages); live until Ctrl-C", markup=False
                    )
                    with meter(self._console, since_ns, None, line_every_s=60.0) as self._show:
                        done = self._present(itertools.chain([first], stream), producer)
            finally:
                producer.flush(5.0)
                self._keep(now=True)
        return done

    def _history(
        self, stream: Iterator[SensorChunk], producer: ChunkProducer
    ) -> tuple[SensorChunk, bool]:
        """Send what lies before the clock; the first chunk that does not, and whether it came."""
        for chunk in stream:
            if chunk.end_ns > time.time_ns():
                return chunk, True
            if not self._hand_over(chunk, producer):
                return chunk, False
        raise AssertionError("unreachable: a life has no end")

    def _present(self, stream: Iterator[SensorChunk], producer: ChunkProducer) -> bool:
        """Send each chunk when it has been measured; ends only where a person says so."""
        for chunk in stream:
            if not self._hand_over(chunk, producer):
                break
        return True

    def _hand_over(self, chunk: SensorChunk, producer: ChunkProducer) -> bool:
        """Send one chunk when it may go; False where a person has ended it before."""
        if self._orders and self._orders[0][0].at_ns <= chunk.start_ns:
            orders = self._orders.popleft()
            if not (self._flushed(producer) and self._worked_off() and self._say(orders)):
                return False
        while True:
            self._note(chunk.start_ns, self._how(producer))
            self._keep()
            if self._stop():
                return False
            ahead_s = (chunk.end_ns - time.time_ns()) / NS_PER_S
            if ahead_s > 0:
                time.sleep(min(ahead_s, SLICE_S))
            elif not self._gate.admits(producer.inflight):
                time.sleep(SLICE_S)
            elif producer.has_room(SLICE_S):
                break
        self._mark.send(self.sent, chunk.start_ns)
        producer.send(self.sent, chunk)
        self._gate.sent()
        self.sent += 1
        self._bytes += chunk.samples.nbytes
        self._moved = time.monotonic()
        return True

    def _flushed(self, producer: ChunkProducer) -> bool:
        """Wait until Kafka has what was sent."""
        while not producer.flush(SLICE_S):
            self._note(self._event_ns, self._how(producer))
            if self._stop():
                return False
        return True

    def _worked_off(self) -> bool:
        """Wait until the workers have acknowledged all of it."""
        lag, self._moved = None, time.monotonic()
        while self._job.max_lag and not self._stop():
            before, lag = lag, self._lag()
            if lag == 0:
                return True
            if lag != before:
                self._moved = time.monotonic()
            self._note(self._event_ns, self._waiting(lag))
            time.sleep(SLICE_S)
        return not self._stop()

    def _say(self, orders: list[Order]) -> bool:
        """Send orders and wait until workers have obeyed."""
        self._note(self._event_ns, "people speak")
        listen = self._job.max_lag > 0
        try:
            with live_alarms.asking(self._access, self._job.kafka, orders, listen=listen) as asked:
                until = time.monotonic() + ANSWER_S * listen
                while time.monotonic() < until and not self._stop():
                    live_alarms.wait(asked, 1.0)
                    if all(answer.heard for answer in asked.answers.values()):
                        break
        except live_alarms.LiveError as error:
            raise SimulateError(f"{error}; --no-orders sends signals only") from error
        for answer in asked.answers.values():
            order = answer.order
            if answer.refused:
                said = f"{order.sensor_id}: {order.action} was refused: {answer.refused}"
                self._console.print(said, markup=False, soft_wrap=True)
        return not self._stop()

    def _keep(self, *, now: bool = False) -> None:
        """Take receipts, and write the record now and then."""
        while self._receipts:
            self._mark.store(self._receipts.popleft())
        if now or time.monotonic() - self._saved > SAVE_EVERY_S:
            self._record.sent_ns = self._mark.at_ns()
            save(self._path, self._record)
            self._saved = time.monotonic()

    def _note(self, event_ns: int, how: str) -> None:
        self._event_ns = event_ns
        if time.monotonic() - self._shown >= SHOW_EVERY_S:
            self._shown = time.monotonic()
            self._show(event_ns, how)

    def _how(self, producer: ChunkProducer) -> str:
        if producer.silence_s() > PATIENCE_S / 5:
            return f"waiting for Kafka ({producer.inflight} not acknowledged)"
        if self._gate.closed:
            return self._waiting(self._gate.lag)
        messages, size = self._rate.now(self.sent, self._bytes)
        return f"{messages:.0f} messages/s, {size / 1e6:.1f} MB/s"

    def _waiting(self, lag: int | None) -> str:
        hint = ""
        if time.monotonic() - self._moved > PATIENCE_S:
            hint = ": is one running? `echowatch worker`; --max-lag 0 waits for nobody"
        return f"waiting for the workers (lag {'unknown' if lag is None else lag}){hint}"

    def _lag(self) -> int | None:
        try:
            return self._view.lag(self._group)
        except TopicError as error:
            if error.passing:
                return None
            raise SimulateError(f"{error}; --max-lag 0 sends without asking") from error


def _moments(job: Job, life: Life, since_ns: int) -> list[list[Order]]:
    """What people will say, moment by moment."""
    said = [
        new_order(channel.sensor.sensor_id, s.action, by=s.by, why=s.why, at_ns=life.at_ns(s.at))
        for s in SAYINGS
        for channel in life.channels
        if job.orders and channel.sensor.asset == f"{PLANT}/{s.machine}"
    ]
    later = sorted((o for o in said if o.at_ns >= since_ns), key=lambda order: order.at_ns)
    return [list(orders) for _, orders in itertools.groupby(later, key=lambda o: o.at_ns)]


@contextmanager
def _in_words() -> Iterator[None]:
    """What Kafka's connectors raise beside `KafkaTrouble`, as our error; their log keeps quiet."""
    log, silent = logging.getLogger("kafka"), logging.NullHandler()
    log.addHandler(silent)
    log.propagate = False
    try:
        yield
    except (DeliveryError, TopicError) as error:
        raise SimulateError(str(error)) from error
    finally:
        log.propagate = True
        log.removeHandler(silent)
