"""Points in, acknowledged InfluxDB 2 writes out; every put has a ticket, `confirmed` follows.

One thread, one request at a time, in order. What the server does not take for reasons of its own
is sent again for ever; what it refuses for reasons of the data is halved until the bad points are
alone. Nothing is dropped here, so the caller bounds memory by `pending_bytes`. Points carry their
own time and tags, so writing them twice changes nothing.
"""

import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from connectors.influx_bucket import Fault, InfluxBucket, InfluxError
from connectors.line_protocol import line
from pipeline.messages import Point

__all__ = ["InfluxError", "InfluxWriter", "Stats"]

LOG = logging.getLogger(__name__)

MOST_BYTES = 4_000_000
FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 10.0
LOUD_EVERY_S = 60.0

# Somebody may be changing the token or making the bucket: waiting mends it, silence does not.
CLOSED_DOORS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)


@dataclass(frozen=True, slots=True)
class Stats:
    """What a writer has done so far.

    Attributes:
        points: Stored.
        requests: Sent, whatever became of them.
        retries: Requests that were sent again.
        refused: Points set aside.
        failing_since: `time.monotonic()` of the first failure in a row, None while all is well.
        last_error: Words of the last failure or refusal.
    """

    points: int = 0
    requests: int = 0
    retries: int = 0
    refused: int = 0
    failing_since: float | None = None
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class _Part:
    """Lines of one put; once they are stored, so is every put up to `ticket`."""

    ticket: int
    lines: list[bytes]
    size: int


class _GivenUpError(Exception):
    """The time to close has run out."""


class InfluxWriter:
    """Writes points in a thread of its own.

    Args:
        url: `http://` or `https://` address.
        token: May write the bucket; never shown.
        org: Organisation.
        bucket: Bucket.
        batch_lines: Most points of one request.
        timeout_s: Patience with one request.
        ca_file: Certificates (PEM) the server must chain to, else the system's.
        allow_plaintext: Permit http to other machines.
        refused: Called in the writer's thread with a bad point's line and the reason.
        progress: Called in the writer's thread when `confirmed` moved, or writing began to fail,
            recovered or ended.

    Raises:
        InfluxError: for an address, token or file that cannot be used.
    """

    def __init__(
        self,
        url: str,
        token: str,
        org: str,
        bucket: str,
        *,
        batch_lines: int = 5000,
        timeout_s: float = 10.0,
        ca_file: Path | None = None,
        allow_plaintext: bool = False,
        refused: Callable[[str, str], None] = lambda _line, _why: None,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._batch_lines, self._timeout_s = batch_lines, timeout_s
        self._refused, self._progress = refused, progress
        self._store = InfluxBucket(
            url,
            token,
            org,
            bucket,
            timeout_s=timeout_s,
            ca_file=ca_file,
            allow_plaintext=allow_plaintext,
        )
        self._changed = threading.Condition()
        self._waiting: deque[_Part] = deque()
        self._given = self._confirmed = self._pending = 0
        self._counts: Counter[str] = Counter()
        self._failing_since: float | None = None
        self._last_error = ""
        self._loud_at: dict[str, float] = {}
        self._closing, self._ended = threading.Event(), threading.Event()
        self._close_at = 0.0
        self._broken: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="influx-writer", daemon=True)

    def __repr__(self) -> str:
        return f"InfluxWriter({self._store!r})"

    def check(self) -> None:
        """Ask the server whether it would take our points; stores nothing.

        A server that cannot be reached now is no error: the writer keeps trying.

        Raises:
            InfluxError: where waiting would not help: token, organisation, bucket, TLS, or
                something else than InfluxDB.
        """
        if (why := self._store.check()) is not None:
            LOG.warning("%r cannot be reached, will keep trying: %s", self._store, why)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def put(self, points: Iterable[Point]) -> int:
        """Hand points over, without waiting.

        Args:
            points: Any number, also none.

        Returns:
            Ticket: 1 for the first call, one more for each further one.

        Raises:
            InfluxError: after `close`, or where the thread has failed.
        """
        texts = [text.encode(errors="replace") for p in points if (text := line(p)) is not None]
        parts = list(_cut(texts, self._batch_lines)) or [[]]
        with self._changed:
            self._must_live()
            if self._closing.is_set():
                raise InfluxError("the writer is closed: put before close")
            self._given += 1
            for left, part in zip(reversed(range(len(parts))), parts, strict=True):
                size = sum(map(len, part)) + len(part)
                self._waiting.append(_Part(self._given - (left > 0), part, size))
                self._pending += size
            self._changed.notify_all()
            return self._given

    @property
    def confirmed(self) -> int:
        """Every put up to this ticket is stored, or set aside as refused."""
        with self._changed:
            self._must_live()
            return self._confirmed

    @property
    def pending_bytes(self) -> int:
        """Text of the lines that wait or are under way."""
        with self._changed:
            return self._pending

    @property
    def stats(self) -> Stats:
        """What was done so far."""
        return Stats(
            **{name: self._counts[name] for name in ("points", "requests", "retries", "refused")},
            failing_since=self._failing_since,
            last_error=self._last_error,
        )

    def wait(self, ticket: int, timeout_s: float) -> bool:
        """Wait until a put is confirmed.

        Returns:
            Whether it is.

        Raises:
            InfluxError: where the thread has failed.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._confirmed >= ticket or self._ended.is_set(), timeout_s
            )
            self._must_live()
            return self._confirmed >= ticket

    def close(self, timeout_s: float) -> bool:
        """Write the rest as far as time allows and end the thread.

        A request under way when time is up ends the thread once it is answered or times out.

        Returns:
            Whether every put is confirmed.
        """
        with self._changed:
            self._close_at = time.monotonic() + timeout_s
            self._closing.set()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        else:
            self._store.close()
        with self._changed:
            self._ended.set()
            self._changed.notify_all()
            return self._confirmed == self._given and self._broken is None

    def _must_live(self) -> None:
        if self._broken is not None:
            raise InfluxError(f"the writer has failed: {self._broken!r}") from self._broken

    def _run(self) -> None:
        try:
            while parts := self._take():
                self._write([text for part in parts for text in part.lines])
                with self._changed:
                    self._confirmed = parts[-1].ticket
                    self._pending -= sum(part.size for part in parts)
                    self._changed.notify_all()
                self._progress()
        except _GivenUpError:
            LOG.warning("closed with %d bytes not written to %r", self._pending, self._store)
        except Exception as error:  # the caller learns of it from its next call
            LOG.exception("the writer to %r has failed", self._store)
            self._broken = error
        finally:
            with self._changed:
                self._ended.set()
                self._changed.notify_all()
            self._store.close()
            with suppress(Exception):  # it may be progress() that failed
                self._progress()

    def _take(self) -> list[_Part]:
        """Wait for parts, take what fits into one request; nothing at the end."""
        parts: list[_Part] = []
        lines = size = 0
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
            while self._waiting:
                lines += len(self._waiting[0].lines)
                size += self._waiting[0].size
                if parts and (lines > self._batch_lines or size > MOST_BYTES):
                    break
                parts.append(self._waiting.popleft())
        return parts

    def _write(self, lines: list[bytes]) -> None:
        """Store lines, set bad ones aside."""
        stack = [lines] if lines else []
        while stack:
            part = stack.pop()
            fault = self._send(part)
            if fault is None:
                self._counts["points"] += len(part)
            elif len(part) == 1 or fault.dropped >= len(part):
                self._set_aside(part, fault)
            else:
                part = _alike_together(part, fault)
                middle = len(part) // 2
                stack += [part[middle:], part[:middle]]

    def _send(self, lines: list[bytes]) -> Fault | None:
        """Send until the server takes or refuses the lines."""
        body = b"\n".join(lines)
        tries = 0
        while not self._ended.is_set():
            self._counts.update(requests=1, retries=min(tries, 1))
            fault = self._store.write(body, self._patience_s())
            if fault is None or fault.of_data:
                self._well()
                return fault
            self._ill(fault)
            self._pause(tries, fault)
            tries += 1
        raise _GivenUpError

    def _patience_s(self) -> float:
        if not self._closing.is_set():
            return self._timeout_s
        return min(self._timeout_s, max(0.1, self._close_at - time.monotonic()))

    def _pause(self, tries: int, fault: Fault) -> None:
        longest = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(tries, 10))
        # Full jitter, so that the writers of a plant do not come back as one.
        delay = random.uniform(0, longest)  # noqa: S311  (no secret)
        if fault.retry_after_s is not None:
            delay = fault.retry_after_s + min(delay, FIRST_DELAY_S)
        (self._ended if self._closing.is_set() else self._closing).wait(delay)

    def _set_aside(self, lines: list[bytes], fault: Fault) -> None:
        self._counts["refused"] += len(lines)
        self._last_error = fault.why
        if self._loud("refused"):
            LOG.warning(
                "%r refuses points, %d by now, such as: %s",
                self._store, self._counts["refused"], fault.why,
            )  # fmt: skip
        for text in lines:
            self._refused(text.decode(), fault.why)

    def _ill(self, fault: Fault) -> None:
        began = self._failing_since is None
        self._last_error = fault.why
        if began:
            self._failing_since = time.monotonic()
        if fault.status in CLOSED_DOORS:
            if self._loud("closed door"):
                LOG.error("%r does not let us in, results wait: %s", self._store, fault.why)
        elif began:
            LOG.warning("%r takes no points, results wait: %s", self._store, fault.why)
        if began:
            self._progress()

    def _well(self) -> None:
        since, self._failing_since = self._failing_since, None
        if since is not None:
            LOG.warning(
                "%r takes points again after %.1f s, %d bytes wait",
                self._store, time.monotonic() - since, self._pending,
            )  # fmt: skip
            self._progress()

    def _loud(self, what: str) -> bool:
        """Whether a minute has passed since this was said last."""
        now = time.monotonic()
        if now - self._loud_at.get(what, -LOUD_EVERY_S) < LOUD_EVERY_S:
            return False
        self._loud_at[what] = now
        return True


def _cut(lines: list[bytes], most: int) -> Iterator[list[bytes]]:
    """Parts of at most `most` lines and about 4 MB."""
    start = size = 0
    for at, text in enumerate(lines):
        if at > start and (at - start == most or size + len(text) > MOST_BYTES):
            yield lines[start:at]
            start, size = at, 0
        size += len(text) + 1
    if lines:
        yield lines[start:]


def _alike_together(lines: list[bytes], fault: Fault) -> list[bytes]:
    """Lines in an order that puts likely culprits side by side: few halvings find many.

    Only after a partial write: there the first line of a new field has settled its type already,
    and a stable sort lets the later of two points of one series and time win as before.
    """
    if fault.status != HTTPStatus.UNPROCESSABLE_ENTITY:
        return lines
    if "retention" in fault.why:
        return sorted(lines, key=lambda text: int(text.rpartition(b" ")[2]))
    return sorted(lines, key=lambda text: text.partition(b" ")[0])
