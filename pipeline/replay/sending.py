"""Numbered chunks in; sent at the right time, as fast as the workers and Kafka allow, and recorded.

The producer and the clock are given, so that nothing here knows a client library.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from pipeline.messages import NS_PER_S, SensorChunk
from pipeline.replay.pace import LagGate, Pacer, Rate
from pipeline.replay.record import Record, ReplayError
from pipeline.replay.stream import ChunkStream, lap_state
from pipeline.wire import BadChunk, encode

Identity = tuple[str, int, int, int]
# Sleeps are cut into such pieces, so that a wish to stop is heard.
SLICE_S: Final = 0.1
# No acknowledgement for so long: the broker has gone.
SILENCE_S: Final = 3.0
SAVE_EVERY_S: Final = 1.0
# A record of very many sensors is written seldom enough to cost one part in this many.
SAVE_SHARE: Final = 20
# Stored chunks that wait for one of another partition, before we wait for it as well.
MAX_AHEAD: Final = 20_000
SHOW_EVERY_S: Final = 0.2
# Patience with what is under way when a person ends the replay.
FLUSH_S: Final = 5.0


class Producer(Protocol):
    """What sends chunks; see `connectors.kafka_producer`."""

    @property
    def inflight(self) -> int:
        """Messages that are not acknowledged yet."""

    def silence_s(self) -> float:
        """Time since the last acknowledgement that is being waited for."""

    def has_room(self, timeout_s: float = 0.0) -> bool:
        """Whether the next chunk may be sent."""

    def send(self, number: int, chunk: SensorChunk, payload: bytes | None = None) -> None:
        """Hand one chunk over."""

    def flush(self, timeout_s: float) -> bool:
        """Wait until all is stored; whether it is."""


def identity(chunk: SensorChunk) -> Identity:
    """What tells a chunk from all others of the replay."""
    return (chunk.sensor_id, chunk.epoch, chunk.seq, chunk.start_ns)


class Sending:
    """Sends the chunks of one replay.

    Args:
        record: Kept up to date.
        save: Writes the record.
        producer: Where the chunks go.
        receipts: Where it puts (number, partition, offset) of what is stored, from its own thread.
        pacer: When.
        gate: How many.
        stop: Whether a person wants it to end.
        show: Takes event time and a note on how it goes.
        refuse: Told of a chunk that breaks the message contract; raises to end the replay.
        present: What an earlier, killed run has stored beyond its record: partition and offset.
        future_s: Workers refuse what lies further ahead of the clock than this.
    """

    def __init__(
        self,
        record: Record,
        save: Callable[[], None],
        producer: Producer,
        receipts: deque[tuple[int, int, int]],
        *,
        pacer: Pacer,
        gate: LagGate,
        stop: Callable[[], bool],
        show: Callable[[int, str], None],
        refuse: Callable[[BadChunk, SensorChunk], None],
        present: Mapping[Identity, tuple[int, int]],
        future_s: float,
    ) -> None:
        self._record, self._save = record, save
        self._producer, self._receipts = producer, receipts
        self._pacer, self._gate, self._stop, self._show = pacer, gate, stop, show
        self._refuse, self._present, self._future_s = refuse, present, future_s
        self._rate = Rate()
        self._event_ns = 0
        self._shown = time.monotonic()
        self._saved, self._save_cost = time.monotonic(), 0.0

    def run(self, stream: ChunkStream) -> bool:
        """Send it all; False where a person has ended it before.

        Raises:
            ReplayError: the next chunk lies so far ahead of the clock that workers would refuse it.
        """
        sent_all = self._all(stream) and self._all_stored()
        if not sent_all:
            self._producer.flush(FLUSH_S)
        self.settle()
        return sent_all

    def settle(self) -> None:
        """Take the receipts that have come into the record."""
        while self._receipts:
            self._record.sent.stored(*self._receipts.popleft())

    def _all(self, stream: ChunkStream) -> bool:
        for number, chunk in stream:
            if self._record.shift_ns is None:
                # Before anything is sent: a replay that goes on must move its times as far.
                self._record.shift_ns = stream.shift_ns
                self._save()
            self._record.lap = lap_state(stream.lap)
            if not self._hand_over(number, chunk):
                return False
        return True

    def _all_stored(self) -> bool:
        while not self._producer.flush(SLICE_S):
            self._keep()
            self._note(self._event_ns)
            if self._stop():
                return False
        return True

    def _hand_over(self, number: int, chunk: SensorChunk) -> bool:
        """Deal with one chunk; False where the replay shall end before it."""
        sent = self._record.sent
        try:
            payload = encode(chunk)
        except BadChunk as error:
            self._refuse(error, chunk)
            sent.leave_out(number, error.reason)
            return not self._stop()
        known = self._present.get(identity(chunk))
        if known is None:
            if not self._may_send(chunk.start_ns):
                return False
            self._check_time(chunk)
        sent.add(number, chunk, payload)
        if known is None:
            self._producer.send(number, chunk, payload)
            self._gate.sent()
        else:
            sent.stored(number, *known)
        return True

    def _check_time(self, chunk: SensorChunk) -> None:
        if chunk.end_ns - time.time_ns() > self._future_s * NS_PER_S:
            raise ReplayError(
                f"the next chunk of {chunk.sensor_id} is more than {self._future_s:g} s ahead of "
                "the clock, which workers refuse (ECHOWATCH_WORKER__FUTURE_S): the same command "
                "goes on from here later; or begin anew with --again and an earlier --shift"
            )

    def _may_send(self, event_ns: int) -> bool:
        """Wait until a chunk may be sent; False where the replay shall end."""
        self._event_ns, sent = event_ns, self._record.sent
        while not self._stop():
            self._keep()
            self._note(event_ns)
            rest_s = self._pacer.wait_s(event_ns)
            if rest_s > 0:
                time.sleep(min(rest_s, SLICE_S))
            elif not self._gate.admits(self._producer.inflight) or sent.ahead >= MAX_AHEAD:
                time.sleep(SLICE_S)
            elif self._producer.has_room(SLICE_S):
                return True
        return False

    def _keep(self) -> None:
        """Take receipts, and write the record now and then."""
        self.settle()
        began = time.monotonic()
        if began - self._saved > max(SAVE_EVERY_S, SAVE_SHARE * self._save_cost):
            self._save()
            self._saved = time.monotonic()
            self._save_cost = self._saved - began

    def _note(self, event_ns: int) -> None:
        now = time.monotonic()
        if now - self._shown >= SHOW_EVERY_S:
            self._shown = now
            self._show(event_ns - (self._record.shift_ns or 0), self._how())

    def _how(self) -> str:
        sent, gate = self._record.sent, self._gate
        messages, size = self._rate.now(sent.messages, sent.size)
        if self._producer.silence_s() > SILENCE_S:
            return f"waiting for Kafka ({self._producer.inflight} not acknowledged)"
        if gate.closed and gate.lag is None:
            return "waiting for Kafka (it does not say how far the workers are)"
        if gate.closed:
            return f"waiting for the workers (lag {gate.lag})"
        return f"{messages:.0f} messages/s, {size / 1e6:.1f} MB/s"
