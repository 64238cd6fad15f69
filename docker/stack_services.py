"""Compose's services in, processes of this machine with folder, port and log out.

The binaries are found as the tests find them (tests/service_*.py), the settings are compose's own.
"""
# ruff: noqa: INP001  (part of a script)

import json
import shutil
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from stack_compose import Place, environment

from service_grafana import grafana_home, keep
from service_influx import influxd
from service_kafka import STARTED, jars, java
from service_process import Server, accepts

HERE: Final = Path(__file__).resolve().parent
ECHOWATCH: Final = Path(sys.executable).with_name("echowatch")
BASH: Final = shutil.which("bash") or "/bin/bash"
FIRST_WORKER: Final = 8620


class Service(Server):
    """One process.

    Args:
        name: For messages and its log.
        place: Where things are.
        port: That it serves.
        command: What to run.
        variables: Beside those of this process.
        up: Whether it serves, asked again and again.
    """

    def __init__(
        self,
        name: str,
        place: Place,
        port: int,
        command: Sequence[str],
        variables: Mapping[str, str],
        up: Callable[["Service"], bool],
    ) -> None:
        super().__init__(name, place.data / "log", port)
        self._command = list(command)
        self._variables = dict(variables)
        self._up = up

    def command(self) -> list[str]:
        """What to run."""
        return self._command

    def environment(self) -> dict[str, str]:
        """Variables beside those of this process."""
        return self._variables

    def ready(self) -> bool:
        """Whether it serves."""
        return self._up(self)

    def last_words(self) -> str:
        """The line of its log that tells best why it ended."""
        lines = [line.strip() for line in self.log_text().splitlines() if line.strip()]
        told = [line for line in lines if "error" in line.lower() or ".sh: " in line]
        return (told or lines or ["it said nothing"])[-1][:400]


def binaries() -> None:
    """Have all that is run here; Kafka is fetched if need be.

    Raises:
        MissingError: where one is not to be had.
    """
    for found in (grafana_home, influxd, java, jars):
        found()


def kafka(place: Place) -> Service:
    """The broker: docker/kafka/start.sh, as in its container, with less memory."""
    folder = place.data / "kafka"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    variables = environment("kafka", place) | {
        "KAFKA_LIBS": str(jars()),
        "KAFKA_DATA": str(folder / "data"),
        "KAFKA_RUN": str(folder),
        "KAFKA_SECRETS": str(place.secrets),
        "KAFKA_BIND": "127.0.0.1",
        "KAFKA_HOST": "127.0.0.1",
        "KAFKA_OUTSIDE_HOST": "127.0.0.1",
        "KAFKA_PORT": str(place.ports["kafka"]),
        "KAFKA_OUTSIDE_PORT": str(place.ports["outside"]),
        "KAFKA_BROKER_PORT": str(place.ports["broker"]),
        "KAFKA_CONTROLLER_PORT": str(place.ports["controller"]),
        "KAFKA_HEAP": "256m",
        "KAFKA_HEAP_MIN": "64m",
        "KAFKA_JAVA_OPTIONS": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
    }
    command = [BASH, str(HERE / "kafka" / "start.sh")]

    def up(service: Service) -> bool:
        return STARTED in service.log_text() and accepts(service.port)

    return Service("Kafka", place, place.ports["kafka"], command, variables, up)


def influxdb(place: Place) -> Service:
    """InfluxDB, which listens with TLS."""
    (place.data / "influxdb").mkdir(parents=True, exist_ok=True)
    port = place.ports["influxdb"]
    address = f"https://127.0.0.1:{port}/health"
    variables = environment("influxdb", place)
    return Service(
        "InfluxDB", place, port, [str(influxd())], variables, _answers(place, address, "pass")
    )


def grafana(place: Place, changed: Mapping[str, str]) -> Service:
    """Grafana with compose's data sources, boards and alert rules.

    Args:
        place: Where things are.
        changed: Variables that are other than compose's.
    """
    home, port = grafana_home(), place.ports["grafana"]
    (place.data / "grafana").mkdir(parents=True, exist_ok=True)
    own = {
        "GRAFANA_BOARDS": str(HERE.parent / "grafana" / "dashboards"),
        "GRAFANA_SECRETS": str(place.secrets),
        "GF_SERVER_HTTP_PORT": str(port),
        "GF_PATHS_PLUGINS": str(place.data / "grafana"),
        "ECHOWATCH_GRAFANA_KEEP": keep(home),
    }
    variables = environment("grafana", place) | own | dict(changed)
    config = HERE.parent / "grafana" / "grafana.ini"
    command = [BASH, str(HERE / "grafana" / "start.sh"), str(home / "bin" / "grafana"), "server"]
    address = f"{variables['GF_SERVER_PROTOCOL']}://127.0.0.1:{port}/api/health"
    command += ["--homepath", str(home), "--config", str(config)]
    return Service("Grafana", place, port, command, variables, _answers(place, address, "ok"))


def worker(place: Place, number: int, changed: Mapping[str, str]) -> Service:
    """The worker of this number, from 1 on."""
    port = place.ports[f"worker{number}"]
    variables = environment("worker", place) | {"ECHOWATCH_WORKER__PORT": str(port), **changed}
    up = _answers(place, f"http://127.0.0.1:{port}/ready")
    return Service(f"worker{number}", place, port, [str(ECHOWATCH), "worker"], variables, up)


def serve(place: Place, changed: Mapping[str, str | None]) -> Service:
    """The pages of cases; a variable that is changed to None is left out."""
    port = place.ports["serve"]
    wanted = environment("serve", place) | {"ECHOWATCH_SERVE__PORT": str(port)} | dict(changed)
    variables = {name: value for name, value in wanted.items() if value is not None}
    scheme = "https" if "ECHOWATCH_SERVE__CERT_FILE" in variables else "http"
    up = _answers(place, f"{scheme}://127.0.0.1:{port}/health")
    return Service("serve", place, port, [str(ECHOWATCH), "serve"], variables, up)


def _answers(place: Place, address: str, word: str = "") -> Callable[[Service], bool]:
    def up(_service: Service) -> bool:
        status, said = ask(address, place.secrets / "ca.pem")
        return status == 200 and word in said

    return up


def ask(address: str, ca_file: Path, token: str = "", body: object = None) -> tuple[int, str]:
    """Status and text of an answer; (0, why) where there is none.

    Args:
        address: Of http or https.
        ca_file: Authority that the server's certificate must chain to.
        token: Of InfluxDB.
        body: JSON to post; None = get.
    """
    trusted = ssl.create_default_context(cafile=str(ca_file))
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)
    )
    headers = {"Authorization": f"Token {token}"} if token else {}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, headers)  # noqa: S310  (ours)
    try:
        with opener.open(request, timeout=5) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace")
    except OSError as error:
        return 0, str(error)
