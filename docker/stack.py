"""Compose's services on this machine without containers: one command in, a watched plant out.

Kafka (TLS, passwords, rights), InfluxDB, bootstrap job, workers, pictures of cases, and Grafana,
each from the files that compose uses; on loopback only, in the foreground, until Ctrl-C. Data and
secrets stay in the folder, so that the next start finds them.
"""
# ruff: noqa: INP001, E402  (a script; where the services' binaries are is known to the tests)

import argparse
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final, NoReturn

import yaml

HERE: Final = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import stack_demo
import stack_services as parts
from stack_compose import COMPOSE, Place, environment
from stack_told import told

from service_grafana import RACE
from service_process import MissingError, free_port, say

# Filled by the bootstrap job.
GIVEN_LATER: Final = ("influx_writer_token", "influx_reader_token")
USUAL_PORTS: Final = {
    "kafka": 9092, "controller": 9093, "outside": 9094, "broker": 9095,
    "influxdb": 8086, "grafana": 3000, "serve": 8630,
}  # fmt: skip
# A service that ends by itself is started again, as by compose; more often than this is trouble.
MOST_RESTARTS: Final = 3
EACH_S: Final = 0.5


class StackError(Exception):
    """The stack cannot start or go on; the text says why in one line."""


class Ended(Exception):  # noqa: N818  (no error: somebody wants the end)
    """Ctrl-C, SIGTERM, or the terminal has gone."""


def secrets_of(folder: Path) -> Path:
    """The folder of secrets, filled at the first start; every file must be its owner's alone.

    Raises:
        StackError: for one that is missing, empty, or that others may read.
    """
    secrets = folder / "secrets"
    make = HERE / "make_secrets.sh"
    if not secrets.exists():
        say(f"making certificates, passwords and tokens in {secrets} ...")
        done = subprocess.run(  # noqa: S603  (ours)
            [parts.BASH, str(make), "--dir", str(secrets)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StackError(done.stderr.strip().splitlines()[-1])
    for name in yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["secrets"]:
        file = secrets / name
        empty_is_well = name in GIVEN_LATER
        if not file.is_file() or not (file.stat().st_size or empty_is_well):
            raise StackError(
                f"secret {file} is missing or empty: bring it back, or make it anew with "
                f"{make} --dir {secrets}"
            )
        if file.stat().st_mode & 0o077:
            raise StackError(f"secret {file} can be read by others: chmod 600 {file}")
    return secrets


def ports_of(workers: int, *, free: bool) -> dict[str, int]:
    """Service -> port; the usual ones, others only if that is allowed.

    Raises:
        StackError: where a usual port is taken.
    """
    wanted = USUAL_PORTS | {
        f"worker{number}": parts.FIRST_WORKER + number - 1 for number in range(1, workers + 1)
    }
    given = {name: free_port(port) for name, port in wanted.items()}
    taken = [f"{port} ({name})" for name, port in wanted.items() if given[name] != port]
    if taken and not free:
        raise StackError(
            f"taken on 127.0.0.1: port {', '.join(taken)}; end who listens there, or take free "
            "ports: --free-ports"
        )
    return given


def together(services: Sequence[parts.Service]) -> None:
    """Start services at once and wait until all of them serve.

    Raises:
        StackError: where one does not.
    """
    say(f"starting {', '.join(service.name for service in services)} ...")
    with ThreadPoolExecutor(len(services)) as pool:
        starts = [pool.submit(_start, service) for service in services]
        try:
            wait(starts, return_when=FIRST_EXCEPTION)
            for start in starts:
                if start.done():
                    start.result()
            wait(starts)
        except BaseException:  # the others need not go on waiting
            for service in services:
                service.kill()
            raise


def _start(service: parts.Service) -> None:
    began = time.monotonic()
    try:
        service.start()
    except RuntimeError as error:
        if RACE not in service.log_text():
            why = str(error).partition(";")[0]
            raise StackError(f"{why}: {service.last_words()} (log: {service.log})") from None
        service.start()
    say(f"  {service.name} is up ({time.monotonic() - began:.1f} s)")


def bootstrap(place: Place) -> None:
    """Compose's bootstrap job: principals and their rights, topics, buckets, tokens.

    Raises:
        StackError: where it fails.
    """
    log = place.data / "log" / "bootstrap.log"
    python = f"{parts.ECHOWATCH.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    own = {"PATH": python, "BOOTSTRAP_SECRETS": str(place.secrets)}
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as out:
        job = subprocess.Popen(  # noqa: S603  (ours)
            [parts.BASH, str(HERE / "bootstrap.sh")],
            env=os.environ | environment("bootstrap", place) | own,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            code = job.wait()
        except BaseException:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()
            raise
    said = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    if code:
        raise StackError(f"bootstrap failed: {said[-1] if said else code} (log: {log})")
    say(f"  bootstrap: principals, topics, buckets, tokens ({time.monotonic() - began:.1f} s)")


@contextlib.contextmanager
def ending() -> Iterator[Callable[[], None]]:
    """Within it a signal raises Ended; the function makes further signals mean nothing."""

    def end(*_: object) -> NoReturn:
        raise Ended

    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {name: signal.signal(name, end) for name in names}

    def deaf() -> None:
        for name in names:
            signal.signal(name, signal.SIG_IGN)

    try:
        yield deaf
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


class Stack:
    """All services of one folder.

    Args:
        place: Where things are.
        workers: Their number.
        known: Settings of the workers, beside compose's.
        plant: What they watch, if that is a service as well.
    """

    def __init__(
        self,
        place: Place,
        workers: int,
        known: Mapping[str, str],
        plant: parts.Service | None = None,
    ) -> None:
        self.place = place
        # On loopback a browser needs neither TLS nor a token, and knows no authority of ours.
        port = place.ports["serve"]
        shown = {
            "GF_SERVER_PROTOCOL": "http",
            "GF_SERVER_ROOT_URL": f"{self.url}/",
            "GF_SECURITY_COOKIE_SECURE": "false",
            "ECHOWATCH_GRAFANA_SNAPSHOT_URL": f"http://localhost:{port}",
        }
        plain = dict.fromkeys(f"ECHOWATCH_SERVE__{n}_FILE" for n in ("CERT", "KEY", "TOKEN"))
        self.stores = [parts.kafka(place), parts.influxdb(place)]
        self.pages = [parts.grafana(place, shown), parts.serve(place, plain)]
        self.workers = [parts.worker(place, n, known) for n in range(1, workers + 1)]
        self.plant = [plant] if plant else []
        self._restarts = 0

    @property
    def url(self) -> str:
        """Address of Grafana."""
        return f"http://localhost:{self.place.ports['grafana']}"

    def start(self) -> None:
        """Start all of them, in order.

        Raises:
            StackError: where one does not start.
        """
        together(self.stores)
        bootstrap(self.place)
        together([*self.workers, *self.pages])
        if self.plant:
            together(self.plant)

    def watch(self) -> NoReturn:
        """Start again what ends by itself.

        Raises:
            StackError: where that does not help.
        """
        while True:
            for service in (*self.stores, *self.workers, *self.pages, *self.plant):
                if not service.running:
                    self._again(service)
            time.sleep(EACH_S)

    def _again(self, service: parts.Service) -> None:
        why = f"{service.name} ended by itself: {service.last_words()} (log: {service.log})"
        self._restarts += 1
        if self._restarts > MOST_RESTARTS:
            raise StackError(why)
        say(f"{why}; starting it again")
        _start(service)

    def stop(self) -> None:
        """End all of them: who speaks first, then who listens, the stores last."""
        for services in (self.plant, self.workers, self.pages, self.stores):
            with ThreadPoolExecutor(max(1, len(services))) as pool:
                list(pool.map(_stop, services))


def _stop(service: parts.Service) -> None:
    try:
        service.stop()
    except RuntimeError as error:
        say(str(error))


def run(asked: argparse.Namespace) -> None:
    """Start the stack of a folder, and stop it when somebody wants that.

    Raises:
        StackError, MissingError: where it cannot start or go on.
    """
    folder: Path = asked.folder.resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(f"the stack of {folder} is running already") from None
        secrets = secrets_of(folder)
        ports = ports_of(asked.workers, free=asked.free_ports)
        parts.binaries()
        given = {name: text for name, text in os.environ.items() if name.startswith("STACK_")}
        place = Place(folder, secrets, ports, given)
        if asked.demo:
            known = stack_demo.settings(place, asked.demo)
            plant = stack_demo.plant(place, asked.demo, known)
        else:
            known = {"ECHOWATCH_WORKER__FLEET": str(asked.fleet.resolve())} if asked.fleet else {}
            plant = None
        _lived(Stack(place, asked.workers, known, plant))


def _lived(stack: Stack) -> None:
    began = time.monotonic()
    with ending() as deaf:
        try:
            stack.start()
            took_s = time.monotonic() - began
            print(told(stack.place, stack.url, stack.workers, took_s), flush=True)  # noqa: T201
            stack.watch()
        except Ended:
            say("stopping ...")
        finally:
            deaf()
            stack.stop()


def main() -> None:
    """Run the stack until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".stack"), help="data and secrets")
    parser.add_argument("--workers", type=int, default=2, help="how many workers (default 2)")
    parser.add_argument("--fleet", type=Path, help="fleet file of the workers")
    parser.add_argument("--free-ports", action="store_true", help="other ports where taken")
    parser.add_argument(
        "--demo", nargs="?", type=float, const=6.0, default=0.0, metavar="HOURS",
        help="with a simulated plant and so much of its past (default 6)",
    )  # fmt: skip
    # What a shell has set for other services must not lead these elsewhere.
    for name in (*os.environ,):
        if name.startswith(("ECHOWATCH_KAFKA__", "ECHOWATCH_INFLUX__")):
            del os.environ[name]
    try:
        run(parser.parse_args())
    except (StackError, MissingError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
