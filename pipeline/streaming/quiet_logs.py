"""Log records in, one line each out; the same complaint at most once in ten seconds.

While a broker is down its client logs 66 errors a second (measured: 2973 in 45 s, here 26 lines).
"""

import logging
import threading
import time
from asyncio import CancelledError
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from traceback import walk_tb
from typing import Final

from rich.console import Console

CLIENTS: Final = ("aiokafka", "faust", "mode", "kafka")
"""Loggers of the libraries that talk to Kafka."""
TWICE: Final = ("connectors.influx",)
"""Loggers of what each role of a worker has one of: they would all say the same."""
EVERY_S: Final = 10.0
TEMPLATES: Final = 512
"""Different complaints remembered at a time; the oldest is forgotten first."""
FRAMES: Final = 12
"""Calls shown of an error, the innermost first."""


class Repeats(logging.Filter):
    """Lets the first record of a message pass, then one per `every_s`, with how many were held.

    It belongs on handlers (a logger's filter does not see what its children log), on each one its
    own.

    Args:
        names: Loggers concerned, their children included; all others pass.
        every_s: Time between two of the same, s.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        names: Sequence[str] = CLIENTS,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._names = tuple(names)
        self._every_s, self._clock = every_s, clock
        self._lock = Lock()
        # (logger, template) -> [time of the last that passed, held since]
        self._seen: OrderedDict[tuple[str, str], list[float]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may pass; one that stands for others says so."""
        if not any(record.name == n or record.name.startswith(f"{n}.") for n in self._names):
            return True
        # Another handler's filter may have added its note to the message already.
        template = record.__dict__.setdefault("template", str(record.msg))
        key, now = (record.name, template), self._clock()
        with self._lock:
            held = self._hold(key, now)
        if held is None:
            return False
        record.msg = f"{template} (+{held} times)" if held else template
        return True

    def _hold(self, key: tuple[str, str], now: float) -> int | None:
        """None to hold this one back too; else how many were held since the last that passed."""
        seen = self._seen.get(key)
        if seen is not None and now - seen[0] < self._every_s:
            seen[1] += 1
            return None
        self._seen[key] = [now, 0]
        self._seen.move_to_end(key)
        if len(self._seen) > TEMPLATES:
            self._seen.popitem(last=False)
        return 0 if seen is None else int(seen[1])


class OneLine(logging.Formatter):
    """A record as one line: UTC time, level, logger, message, and an error with its calls.

    Args:
        secrets: Texts that are never shown, whatever a library says.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        # The longest first: a secret may be part of another.
        self._secrets = sorted((s for s in secrets if s), key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        """The line; what is not printable is escaped, so that no message can forge another."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        text = record.getMessage()
        if record.exc_info and record.exc_info[1]:
            text += f" | {_error(record.exc_info[1])}"
        for secret in self._secrets:
            text = text.replace(secret, "***")
        safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        return f"{at.removesuffix('+00:00')}Z {record.levelname} {record.name}: {safe}"


class ConsoleHandler(logging.Handler):
    """Writes records to the console, unwrapped and without markup."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            self._console.out(self.format(record), highlight=False)
        except Exception:  # noqa: BLE001  (logging's own rule: a log line never stops the work)
            self.handleError(record)


def configure(
    level: int | str, console: Console, *, secrets: Iterable[str] = ()
) -> logging.Handler:
    """Log to the console, one line per record, repeats held back.

    The Kafka clients are heard from WARNING on, unless `level` is DEBUG. A second call replaces
    the first; handlers of others stay.

    Args:
        level: Of our own records.
        console: Where to.
        secrets: Texts that are never shown.

    Returns:
        The handler.
    """
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, ConsoleHandler)]:
        root.removeHandler(old)
    handler = ConsoleHandler(console)
    handler.setFormatter(OneLine(secrets))
    handler.addFilter(Repeats(CLIENTS + TWICE))
    root.addHandler(handler)
    root.setLevel(level)
    for name in CLIENTS:
        logging.getLogger(name).setLevel(
            root.level if root.level <= logging.DEBUG else max(root.level, logging.WARNING)
        )
    return handler


def tell_of_threads() -> None:
    """Log what ends a thread as one line; one that was cancelled at the end says nothing."""

    def tell(what: threading.ExceptHookArgs) -> None:
        error = what.exc_value
        if error is not None and not isinstance(error, CancelledError):
            name = what.thread.name if what.thread else "a thread"
            logging.getLogger(__name__).error("%s has ended", name, exc_info=error)

    threading.excepthook = tell


def _error(error: BaseException) -> str:
    """The error with its calls, the innermost first: `KeyError: 'x' [a.py:3 f < b.py:9 g]`."""
    frames = [
        f"{Path(frame.f_code.co_filename).name}:{line} {frame.f_code.co_name}"
        for frame, line in walk_tb(error.__traceback__)
    ]
    calls = f" [{' < '.join(frames[: -FRAMES - 1 : -1])}]" if frames else ""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    because = f" because of {_error(cause)}" if cause else ""
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    within = f" of {{{'; '.join(map(_error, parts))}}}" if parts else ""
    return f"{type(error).__name__}: {error}{calls}{within}{because}"
