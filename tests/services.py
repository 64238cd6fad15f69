"""Real Kafka, InfluxDB and Grafana for tests and people, wherever this machine can get them from.

Found in this order: an address in the environment, a folder with binaries, what was fetched or
built earlier, package registries. Else the test is skipped by name (which CI counts as a failure).
"""

import argparse
import contextlib
import fcntl
import os
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

from service_grafana import GivenGrafana, GrafanaServer
from service_influx import InfluxAccess, InfluxServer, built, influxd
from service_kafka import KafkaServer, jars, java
from service_process import MissingError, Server, free_port, say

AnyServer = TypeVar("AnyServer", bound=Server)


def _not_ours(what: str) -> NoReturn:
    pytest.skip(f"needs {what} that the test may stop: unset its TEST_... variables")


class GivenKafka:
    """A person's own Kafka: used, never stopped."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    def start(self) -> None:
        """Not ours."""
        _not_ours("a Kafka")

    stop = kill = start


class GivenInflux(InfluxAccess):
    """A person's own InfluxDB: used, never stopped."""

    def start(self) -> None:
        """Not ours."""
        _not_ours("an InfluxDB")

    stop = kill = start


@contextmanager
def started(make: Callable[[Path], AnyServer]) -> Iterator[AnyServer]:
    """A server with fresh data until the end of the block; the test is skipped without one."""
    with tempfile.TemporaryDirectory(prefix="echowatch-") as folder:
        try:
            server = make(Path(folder))
        except MissingError as missing:
            pytest.skip(str(missing))
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextmanager
def kafka() -> Iterator[KafkaServer | GivenKafka]:
    """The broker that tests share."""
    if given := os.environ.get("TEST_KAFKA_BOOTSTRAP"):
        yield GivenKafka(given)
        return
    with started(KafkaServer) as server:
        yield server


@contextmanager
def influx() -> Iterator[InfluxServer | GivenInflux]:
    """The InfluxDB that tests share."""
    if url := os.environ.get("TEST_INFLUX_URL"):
        token = os.environ.get("TEST_INFLUX_TOKEN", "")
        given = GivenInflux(url, os.environ.get("TEST_INFLUX_ORG", "echowatch"), token)
        yield given
        given.remove_buckets()
        return
    with started(InfluxServer) as server:
        yield server


@contextmanager
def grafana(
    influx: InfluxAccess, bucket: str, *, alerting: bool = False, **variables: str
) -> Iterator[GrafanaServer | GivenGrafana]:
    """A Grafana with the project's data sources, boards and (if asked for) alert rules.

    Args:
        influx: Where the results are.
        bucket: In which bucket.
        alerting: Whether it evaluates the alert rules.
        variables: WEBHOOK_URL="..." for ECHOWATCH_GRAFANA_WEBHOOK_URL and so on; GF_... as is.
    """
    url = os.environ.get("TEST_GRAFANA_URL")
    if url and not (alerting or variables):
        user = os.environ.get("TEST_GRAFANA_USER", "admin")
        admin = user, os.environ.get("TEST_GRAFANA_PASSWORD", "admin")
        with closing(GivenGrafana(url, admin, influx.url, bucket, influx.token)) as given:
            yield given
        return
    make = partial(
        GrafanaServer,
        influx_url=influx.url,
        bucket=bucket,
        token=influx.token,
        alerting=alerting,
        variables=variables,
    )
    with started(make) as server:
        yield server


def run(folder: Path) -> None:
    """Kafka and InfluxDB for a person, until Ctrl-C; the data stay.

    Args:
        folder: Of data, logs and the token.

    Raises:
        MissingError: where one of them is not to be had, or this folder's are running already.
        RuntimeError: if one does not start, or ends by itself.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "lock").open("w", encoding="utf-8") as lock, contextlib.ExitStack() as both:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MissingError(f"services of {folder} are running already") from None
        built_or_found()
        say("starting Kafka and InfluxDB ...")
        ended = threading.Event()
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, lambda *_: ended.set())
        kafka = KafkaServer(folder / "kafka", free_port(9092))
        influx = InfluxServer(folder / "influx", free_port(8086))
        for server in (kafka, influx):
            both.callback(server.stop)
            server.start()
        print(addresses(kafka, influx), flush=True)  # noqa: T201  (for a person to paste)
        while not ended.wait(0.5):
            for server in (kafka, influx):
                if not server.running:
                    raise RuntimeError(f"{server.name} ended by itself; its log: {server.log}")
        say("stopping ...")


def built_or_found() -> None:
    """Have the binaries of both, however long that takes.

    Raises:
        MissingError: where one is not to be had.
    """
    java()
    jars()
    try:
        influxd()
    except MissingError:
        built()


def addresses(kafka: KafkaServer, influx: InfluxServer) -> str:
    """Where they are, and the settings that tell echowatch."""
    settings = {
        "KAFKA__BOOTSTRAP": kafka.bootstrap,
        "INFLUX__URL": influx.url,
        "INFLUX__ORG": influx.org,
        "INFLUX__BUCKET": "echowatch",
        "INFLUX__TOKEN_FILE": str(influx.token_file),
    }
    lines = [f"export ECHOWATCH_{name}={shlex.quote(value)}" for name, value in settings.items()]
    head = f"Kafka {kafka.bootstrap}, InfluxDB {influx.url}; data in {kafka.folder.parent}\n"
    return "\n".join([head, *lines, "\nCtrl-C stops both; their data stay."])


def main() -> None:
    """`run` the services for a person, `fetch` them, or build InfluxDB."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    runs = verbs.add_parser("run", help="Kafka and InfluxDB in the foreground, until Ctrl-C")
    runs.add_argument("--folder", type=Path, default=Path(".services"), help="their data")
    verbs.add_parser("fetch", help="have the binaries, so that tests need not wait")
    verbs.add_parser("build-influx", help="build InfluxDB from its published sources")
    asked = parser.parse_args()
    try:
        if asked.verb == "run":
            run(asked.folder.resolve())
        elif asked.verb == "fetch":
            built_or_found()
        else:
            say(f"InfluxDB is at {built()}")
    except (MissingError, RuntimeError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted; what was fetched in full is kept")


if __name__ == "__main__":
    main()
