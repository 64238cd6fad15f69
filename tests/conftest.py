import os
from collections.abc import Generator

import pytest

import board_plant as plants
import services
from service_influx import InfluxServer
from service_kafka import KafkaServer
from service_kafka_secure import SecureKafka
from worker_cases import Plant

SESSION_S = 6.0
SKIPPED: list[str] = []
NO_GPU: list[str] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a GPU its tests are left out and named at the end: no skips, for they cannot run."""
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if not wanting or _has_gpu():
        return
    items[:] = [item for item in items if item not in wanting]
    config.hook.pytest_deselected(items=wanting)
    NO_GPU.extend(item.nodeid for item in wanting)


def _has_gpu() -> bool:
    import torch  # takes seconds; most runs want no GPU test

    return torch.cuda.is_available()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        SKIPPED.append(f"{item.nodeid}: {report.longrepr}")
    return report


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI a test that did not run is a failure: it must not go unnoticed."""
    if os.environ.get("CI") and SKIPPED and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if NO_GPU:
        terminalreporter.section("not run: this machine has no CUDA GPU")
        for line in NO_GPU:
            terminalreporter.line(line)
    if os.environ.get("CI") and SKIPPED:
        terminalreporter.section("skipped, which CI forbids")
        for line in SKIPPED:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def kafka():
    """A broker that tests share: topics and groups need names of their own."""
    with services.kafka() as server:
        yield server


@pytest.fixture
def kafka_own():
    """A broker of one's own, to be stopped and killed."""
    with services.started(KafkaServer) as server:
        yield server


@pytest.fixture(scope="session")
def secure_kafka():
    """A broker with TLS, client certificates and a user, shared by tests."""
    with services.started(SecureKafka) as server:
        yield server


@pytest.fixture(scope="session")
def influx():
    """An InfluxDB that tests share: each takes a bucket of its own."""
    with services.influx() as server:
        yield server


@pytest.fixture
def influx_own():
    """An InfluxDB of one's own, to be stopped and killed."""
    with services.started(InfluxServer) as server:
        yield server


@pytest.fixture(scope="session")
def grafana(influx, board_plant):
    """A Grafana whose boards show the plant that tests share; without alert rules."""
    with services.grafana(influx, board_plant.bucket) as server:
        yield server


@pytest.fixture(scope="session")
def board_plant(kafka, influx, tmp_path_factory):
    """Six hours of 60 sensors in a bucket of the shared InfluxDB, for boards and rules."""
    with plants.watched(kafka, influx, tmp_path_factory.mktemp("board_plant")) as plant:
        yield plant


@pytest.fixture(scope="module")
def broker():
    """A Kafka that the tests of a module stop and start."""
    with services.started(KafkaServer) as server:
        yield server


@pytest.fixture(scope="module")
def store():
    """An InfluxDB that the tests of a module stop and start."""
    with services.started(InfluxServer) as server:
        yield server


@pytest.fixture
def plant(broker, store, tmp_path):
    """Workers that come and go on these."""
    broker.start()
    store.start()
    made = Plant(broker, store, tmp_path)
    made.environment["ECHOWATCH_WORKER__SESSION_TIMEOUT_S"] = str(SESSION_S)
    made.environment["ECHOWATCH_LEARNING__MIN_WINDOWS"] = "16"
    yield made
    made.close()
