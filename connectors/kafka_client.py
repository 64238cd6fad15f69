"""Access in, clients of kafka-python out that open in bounded time and fail in words.

kafka-python tells why it cannot connect only to its log and tries on until its time is over; a
wrong password would read "unable to bootstrap" after 15 s. Here its log is heard, a cause that no
waiting mends ends the opening at once, and whatever hangs is left behind in a daemon thread.
"""

import logging
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar
from weakref import WeakSet

from kafka import KafkaAdminClient, errors
from kafka.net.compat import KafkaNetClient

from connectors.kafka_access import Access, KafkaTrouble

TIMEOUT_S: Final = 15.0
CLOSE_S: Final = 3.0
MOST_HEARD: Final = 64
T = TypeVar("T")

SOON: Final = (
    errors.CoordinatorNotAvailableError,
    errors.CoordinatorLoadInProgressError,
    errors.NotCoordinatorError,
    errors.NodeNotReadyError,
)
CA = (
    "the certificate of the broker is not trusted: name the authority's PEM file with "
    "ECHOWATCH_KAFKA__CA_FILE, and the host as the certificate does"
)
CLIENT = (
    "the broker wants a client certificate, or refuses ours: see ECHOWATCH_KAFKA__CERT_FILE and "
    "ECHOWATCH_KAFKA__KEY_FILE"
)
NO_TLS = "no TLS is spoken there: see ECHOWATCH_KAFKA__SECURITY and the port"
# What TLS says -> what a person can do; the first that occurs in the error counts.
TLS_WORDS: Final = (("certificate verify failed", CA), ("alert", CLIENT), ("handshake", NO_TLS))
REFUSED = "cannot be reached: connection refused: is the broker running, is the port right?"
UNREACHED: Final = (("ECONNREFUSED", REFUSED), ("DNS", "cannot be reached: no such host"))


class _Heard(logging.Handler):
    """Exceptions that kafka-python mentions in its log, oldest first."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.errors: deque[BaseException] = deque(maxlen=MOST_HEARD)
        self.news = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what was wrong."""
        given = record.args if isinstance(record.args, tuple) else ()
        named = [error for error in given if isinstance(error, BaseException)]
        self.errors += named
        if any(_is_final(error) for error in named):
            self.news.set()


@contextmanager
def opened(
    kind: Callable[..., Any], access: Access, *, timeout_s: float = TIMEOUT_S, **options: Any
) -> Iterator[Any]:
    """A client of kafka-python, closed afterwards; its failures are told in words.

    Args:
        kind: Class of the client.
        access: Address and identity.
        timeout_s: Patience with opening and with each request.
        options: Further keyword arguments of the client.

    Raises:
        KafkaTrouble: no broker answers, we are refused, or a request fails.
        AccessError: for TLS files that cannot be used.
    """
    heard, given = _Heard(), access.options()
    sockets = _sockets(given.get("ssl_context"))
    log = logging.getLogger("kafka")
    log.addHandler(heard)
    try:
        client = _open(kind, access, timeout_s, given | options, heard)
        try:
            yield client
        except errors.KafkaError as error:
            raise KafkaTrouble(words(error, access)) from error
        finally:
            _leave(client.close)
    finally:
        log.removeHandler(heard)
        heard.errors.clear()
        for socket in list(sockets):
            with suppress(OSError):
                socket.close()


def ask(access: Access, work: Callable[[Any], T], *, timeout_s: float = TIMEOUT_S) -> T:
    """What `work` finds with an admin client, in bounded time.

    Where Kafka will have what it needs in a moment (a fresh broker, a moved coordinator), it is
    asked again.

    Raises:
        KafkaTrouble: as `opened`, or nothing came in time.
    """
    deadline = time.monotonic() + timeout_s

    def again(client: Any) -> T:
        while True:
            try:
                return work(client)
            except SOON as error:
                if time.monotonic() > deadline:
                    raise
                logging.getLogger(__name__).debug("asking again: %s", error)
                time.sleep(0.2)

    with opened(KafkaAdminClient, access, timeout_s=timeout_s) as client:
        try:
            return in_thread(lambda: again(client)).result(timeout_s)
        except NotInTime:
            raise KafkaTrouble(f"{_at(access)} did not answer within {timeout_s:g} s") from None


def in_thread(work: Callable[[], T]) -> "Future[T]":
    """Result of `work`, which may hang: nothing waits for its thread at the end."""
    found: Future[T] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:  # noqa: BLE001  (handed to who waits)
            found.set_exception(error)

    threading.Thread(target=run, name="kafka-call", daemon=True).start()
    return found


def words(error: BaseException, access: Access) -> str:
    """One line of what is wrong and what mends it."""
    at, said = _at(access), str(error).split(": ", 1)[-1][:200]
    if "SSL:" in said or "Handshake failed" in said:
        remedies = (remedy for mark, remedy in TLS_WORDS if mark in said.lower())
        return f"TLS to {at} failed: {next(remedies, 'both sides say no more')} ({said})"
    for mark, remedy in UNREACHED:
        if mark in said:
            return f"{at} {remedy}"
    who = f"user {access.username!r}" if access.authenticated else "this client"
    known: dict[type[BaseException], str] = {
        errors.SaslAuthenticationFailedError: (
            f"refuses {who} by {access.mechanism}: wrong user or password"
        ),
        errors.UnsupportedSaslMechanismError: (
            f"does not take {access.mechanism}: see ECHOWATCH_KAFKA__MECHANISM"
        ),
        errors.AuthorizationError: (
            f"does not permit this to {who} ({type(error).__name__}): an ACL is missing"
        ),
        errors.UnknownTopicOrPartitionError: (
            f"has no such topic ({said}): create it with `echowatch topics create`"
        ),
        errors.InvalidReceiveError: "answers something else: TLS? see ECHOWATCH_KAFKA__SECURITY",
    }
    found = (text for kind, text in known.items() if isinstance(error, kind))
    return f"{at} {next(found, f'fails: {type(error).__name__}: {said}')}"


def _sockets(context: ssl.SSLContext | None) -> "WeakSet[ssl.SSLSocket]":
    """Sockets that will shake hands: kafka-python leaves those that fail to it open."""
    made: WeakSet[ssl.SSLSocket] = WeakSet()

    class Remembered(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002  (as given)
            made.add(self)
            super().do_handshake(block)

    if context is not None:
        context.sslsocket_class = Remembered
    return made


def _open(
    kind: Callable[..., Any],
    access: Access,
    timeout_s: float,
    options: dict[str, Any],
    heard: _Heard,
) -> Any:
    nets: list[Any] = []

    def net(**config: Any) -> Any:
        nets.append(KafkaNetClient(**config))
        return nets[-1]

    patience_ms = round(1000 * timeout_s)
    given = {
        "bootstrap_timeout_ms": patience_ms,
        "request_timeout_ms": patience_ms,
        "kafka_client": net,
    }
    opening = in_thread(lambda: kind(**given | options))
    opening.add_done_callback(lambda _: heard.news.set())
    heard.news.wait(timeout_s + 1)
    if opening.done() and opening.exception() is None:
        return opening.result()
    # A client that could not be opened leaves its thread and its sockets to us.
    for one in nets:
        _leave(one.close)
    trouble = opening.exception() if opening.done() else None
    if trouble is not None and not isinstance(trouble, errors.KafkaError):
        raise trouble
    raise KafkaTrouble(_why(list(heard.errors), access, timeout_s)) from trouble


def _why(heard: Sequence[BaseException], access: Access, timeout_s: float) -> str:
    """The gravest of what was heard: a refused user looks like a lost connection at times."""
    final = [error for error in heard if _is_final(error)]
    telling = [error for error in heard if not isinstance(error, errors.KafkaTimeoutError)]
    if final:
        return words(final[-1], access)
    if not telling:
        return f"{_at(access)} did not answer within {timeout_s:g} s"
    if "socket disconnected" in str(telling[-1]):
        remedy = (
            f"wrong user or password for {access.username!r}, or {access.mechanism} not offered? "
            "see ECHOWATCH_KAFKA__USERNAME and ECHOWATCH_KAFKA__MECHANISM"
            if access.authenticated
            else "does it want TLS or a user? see ECHOWATCH_KAFKA__SECURITY"
        )
        return f"{_at(access)} hangs up: {remedy}"
    return words(telling[-1], access)


def _is_final(error: BaseException) -> bool:
    """Whether waiting does not mend it."""
    refused = (errors.SaslAuthenticationFailedError, errors.UnsupportedSaslMechanismError)
    text = str(error).lower()
    return isinstance(error, refused) or "certificate" in text or "alert" in text


def _leave(close: Callable[[], None]) -> None:
    """Close, but wait for it no longer than it deserves."""
    try:
        in_thread(close).result(CLOSE_S)
    except (NotInTime, errors.KafkaError, OSError) as error:
        logging.getLogger(__name__).debug("closing: %s", error)


def _at(access: Access) -> str:
    return f"Kafka at {', '.join(access.bootstrap)}"
