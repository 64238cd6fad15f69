"""A command in, a server that is up on its port out, which never outlives whoever started it.

A server may be stopped, killed and started again on the same ports and data. A watchdog shell ends
the server whose owner died without a word. POSIX only.
"""

import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

UP_S = 60.0
DOWN_S = 30.0
# Below the range from which Linux (32768) and macOS (49152) give ports to outgoing connections: a
# client that knocks at a stopped server's port must not be given this very port and meet itself.
PORTS = range(15_000, 32_000)
_GIVEN: set[int] = set()


class MissingError(Exception):
    """A service cannot be had on this machine; the text says what would provide it."""


def cache() -> Path:
    """Folder of this user for what was fetched or built once."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).resolve() / "echowatch"


def services_folder() -> Path:
    """Folder with binaries: SERVICES_DIR, or shared/services beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "services"
    return Path(os.environ.get("SERVICES_DIR") or beside).resolve()


def say(text: str) -> None:
    """Tell a person what takes time."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201  (a person waits)


def made_once(target: Path, make: Callable[[Path], None]) -> Path:
    """`target`, made by `make(path)` under another name if need be: never seen half done.

    Other processes that want the same wait for us and then find it.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            partial = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
            try:
                make(partial)
                partial.rename(target)
            finally:
                _remove(partial)
    return target


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def free_port(*wanted: int) -> int:
    """The first of `wanted` that is free on loopback, else a free one for a server.

    No port is given twice by one process, whose servers may be down for a while.
    """
    candidates = [*wanted, *(PORTS[secrets.randbelow(len(PORTS))] for _ in range(100))]
    for port in candidates:
        if port not in _GIVEN and _bindable(port):
            _GIVEN.add(port)
            return port
    raise MissingError("no free port on 127.0.0.1")


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do it: what an ended one left behind for a minute does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def accepts(port: int) -> bool:
    """Whether somebody listens on this loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_for(condition: Callable[[], bool], within_s: float) -> bool:
    """Whether `condition` came true in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Server:
    """A server process with a folder of its own, startable again after each end.

    Args:
        name: For messages.
        folder: Its data and its log.
        port: Of clients, on loopback; a free one where None.
    """

    def __init__(self, name: str, folder: Path, port: int | None = None) -> None:
        self.name = name
        self.port = port or free_port()
        self.folder = folder.resolve()
        self.log = self.folder / f"{name.lower()}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        folder.mkdir(parents=True, exist_ok=True)

    def command(self) -> list[str]:
        """What to run."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Variables beside those of this process."""
        return {}

    def ready(self) -> bool:
        """Whether the running server serves."""
        raise NotImplementedError

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id.

        Raises:
            RuntimeError: where it does not run.
        """
        if self._process is None or not self.running:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    def log_text(self) -> str:
        """What it wrote since its last start."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def start(self) -> None:
        """Start it and wait until it serves.

        Raises:
            RuntimeError: if it ends or is not up within 60 s, with the end of its log, or if
                somebody else has its port.
        """
        if self.running:
            return
        self._let_go()
        if accepts(self.port):
            raise RuntimeError(f"{self.name}: somebody else listens on 127.0.0.1:{self.port}")
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=os.environ | self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us: we stop it in order
            )
        # End of input comes when the last of us is gone, however that happened.
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", 'read _; kill -9 "$0"', str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(lambda: not self.running or self.ready(), UP_S)
        if not (self.running and self.ready()):
            state = f"not up after {UP_S:.0f} s" if self.running else "ended at once"
            self.kill()
            tail = "\n".join(self.log_text().splitlines()[-20:])
            raise RuntimeError(f"{self.name} {state}; the end of {self.log}:\n{tail}")

    def stop(self) -> None:
        """Let it end in order (SIGTERM).

        Raises:
            RuntimeError: if that takes more than 30 s; it is killed then.
        """
        if not self._end(signal.SIGTERM):
            raise RuntimeError(f"{self.name} did not stop within {DOWN_S:.0f} s and was killed")

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> bool:
        """Whether it ended by itself after this signal."""
        process, ended = self._process, True
        if process is not None and self.running:
            process.send_signal(how)
            try:
                process.wait(DOWN_S)
            except subprocess.TimeoutExpired:
                ended = False
                process.kill()
                process.wait()
        self._let_go()
        return ended

    def _let_go(self) -> None:
        """Send the watchdog home."""
        self._process = None
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.communicate()
            self._watchdog = None
