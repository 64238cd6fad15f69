"""Real Kafka and InfluxDB for tests, wherever this machine can get them from.

Found in this order: an address in the environment, a folder with binaries, what was fetched or built
earlier, package registries. Else the test is skipped by name (which CI counts as a failure).
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

from service_influx import InfluxAccess, InfluxServer
from service_kafka import KafkaServer
from service_process import MissingError, Server

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
