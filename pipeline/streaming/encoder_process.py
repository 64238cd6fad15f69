"""Windows in, embeddings out of a process of its own.

The stage and the Kafka client hold the interpreter lock for most of a core; an encoder of many
short operations beside them waits for it at each one. In a process of its own it computes while the
stage judges the batch before. Both ends of the pipe are ours, on one machine: what goes through it
is pickled.

The child ends with its parent: where the pipe is closed, and on Linux even where that was killed
while an embedding never ends. Signals that ask to end are for the parent, who finishes what it has.
"""

import ctypes
import logging
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any, Final

from rich.console import Console

from pipeline.careful import EncoderGoneError
from pipeline.messages import BandEdges, Samples
from pipeline.monitor import Embedding, Encoder
from pipeline.settings import Settings, load
from pipeline.streaming import quiet_logs

OF_ENCODER: Final = ("model", "model_sha256", "device", "precision", "threads")
"""Settings that an encoder depends on."""
DEAF: Final = "import signal as s; [s.signal(n, s.SIG_IGN) for n in (s.SIGINT, s.SIGTERM)]"
"""First of all the child turns a deaf ear to what asks it to end."""
END_S: Final = 5.0
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


class EncoderProcess:
    """The encoder that the settings name, loaded and run by a child of this process.

    Making one starts the child; do so in the main thread, for the child ends with that thread.
    Several threads may ask; they are answered one after the other.

    Args:
        settings: Which, and on what.

    Attributes:
        model_id, trained: Of the encoder; there once `wait_ready` has returned.
        pid: Of the child.
    """

    model_id: str
    trained: bool

    def __init__(self, settings: Settings) -> None:
        self._pipe, theirs = Pipe()
        fd = theirs.fileno()
        # It shall find the modules where we have found them.
        look = f"import sys; sys.path[:] = {sys.path!r}"
        program = f"{DEAF}; {look}; from {__name__} import serve; serve({fd})"
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  (ourselves)
                [sys.executable, "-c", program], stdin=subprocess.DEVNULL, pass_fds=(fd,)
            )
        self.pid = self._process.pid
        self._lock = Lock()
        level = logging.getLogger().getEffectiveLevel()
        self._pipe.send((level, {name: getattr(settings, name) for name in OF_ENCODER}))

    def wait_ready(self) -> None:
        """Wait until the encoder is loaded.

        Raises:
            ModelError: for one that cannot be had.
            EncoderGoneError: where the child has ended.
        """
        self.model_id, self.trained = self._answer()

    def embed(
        self,
        samples: Sequence[Samples],
        sample_rates_hz: Sequence[float],
        gains: Sequence[float] | None = None,
    ) -> Sequence[Embedding | None]:
        """See `pipeline.monitor.Encoder`.

        Raises:
            ValueError, RuntimeError: what the encoder raised, in its words.
            EncoderGoneError: where the child has ended.
        """
        found: list[Embedding | None] = self._ask("embed", samples, sample_rates_hz, gains)
        return found

    def band_edges_hz(self, sample_rate_hz: float) -> BandEdges:
        """See `pipeline.monitor.Encoder`."""
        edges: BandEdges = self._ask("band_edges_hz", sample_rate_hz)
        return edges

    def close(self) -> None:
        """End the child, which has nothing that is worth waiting for."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()

    def _ask(self, what: str, *arguments: Any) -> Any:
        with self._lock:
            try:
                self._pipe.send((what, arguments))
            except OSError as error:
                raise self._gone() from error
            return self._answer()

    def _answer(self) -> Any:
        try:
            found, error = self._pipe.recv()
        except (EOFError, OSError) as lost:
            raise self._gone() from lost
        if error is not None:
            raise error
        return found

    def _gone(self) -> EncoderGoneError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        code = self._process.returncode
        return EncoderGoneError(f"the encoder's process has ended with code {code}")


def serve(fd: int) -> None:
    """The child: answer what comes through the pipe until it is closed."""
    _die_with_the_parent()
    with Connection(fd) as pipe, suppress(EOFError, ConnectionError):
        level, named = pipe.recv()
        quiet_logs.configure(level, Console(stderr=True, highlight=False, soft_wrap=True))
        engine = _load(pipe, named)
        while engine is not None:
            what, arguments = pipe.recv()
            try:
                found = getattr(engine, what)(*arguments)
            except Exception as error:  # noqa: BLE001  (whatever a model raises; the parent raises it)
                pipe.send((None, _plain(error)))
            else:
                pipe.send((found, None))


def _load(pipe: Connection, named: dict[str, Any]) -> Encoder | None:
    """The encoder, and word of it; None where there is none to be had."""
    from pipeline.encoders import ModelError, load_engine  # noqa: PLC0415  (the parent needs no torch)

    try:
        engine = load_engine(load({}, **named))
    except ModelError as error:
        pipe.send((None, error))
        return None
    pipe.send(((engine.model_id, engine.trained), None))
    return engine


def _plain(error: Exception) -> Exception:
    """An error that survives the way to a process that may lack its class."""
    if isinstance(error, ValueError):
        return ValueError(str(error))
    return RuntimeError(f"{type(error).__name__}: {error}")


def _die_with_the_parent() -> None:
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
