"""Compose's services as processes of this machine: each with its folder, port and log.

The binaries are those of the tests (tests/service_*.py), the configuration is compose's own.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.request import Request

from service_grafana import grafana_home
from service_influx import DIRECT, influxd
from service_kafka import STARTED, jars, java
from service_process import Server, accepts

HERE: Final = Path(__file__).resolve().parent
PROJECT: Final = HERE.parent
ECHOWATCH: Final = Path(sys.executable).with_name("echowatch")
# One broker, one machine: as little memory as works.
JVM: Final = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"


class Broker(Server):
    """Kafka with TLS, passwords and rights: docker/kafka/start.sh, as in its container.

    Args:
        folder: Its data and its log.
        secrets: Folder of the secrets.
        ports: Of `kafka` (clients), `outside`, `broker` and `controller`.
    """

    def __init__(self, folder: Path, secrets: Path, ports: Mapping[str, int]) -> None:
        super().__init__("Kafka", folder, ports["kafka"])
        self.secrets = secrets
        self.ports = ports
        self.libs = jars()
        self.java = java()
        (self.folder / "data").mkdir(exist_ok=True)

    @property
    def bootstrap(self) -> str:
        """Address for clients."""
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """What to run; bash gives way to the JVM."""
        return ["bash", str(HERE / "kafka" / "start.sh")]

    def environment(self) -> dict[str, str]:
        """What start.sh fills into server.properties."""
        return {
            "KAFKA_LIBS": str(self.libs),
            "KAFKA_DATA": str(self.folder / "data"),
            "KAFKA_RUN": str(self.folder),
            "KAFKA_SECRETS": str(self.secrets),
            "KAFKA_BIND": "127.0.0.1",
            "KAFKA_HOST": "127.0.0.1",
            "KAFKA_OUTSIDE_HOST": "127.0.0.1",
            "KAFKA_PORT": str(self.ports["kafka"]),
            "KAFKA_OUTSIDE_PORT": str(self.ports["outside"]),
            "KAFKA_BROKER_PORT": str(self.ports["broker"]),
            "KAFKA_CONTROLLER_PORT": str(self.ports["controller"]),
            "KAFKA_HEAP": "256m",
            "KAFKA_HEAP_MIN": "64m",
            "KAFKA_JAVA_OPTIONS": JVM,
        }

    def ready(self) -> bool:
        """Whether the broker answers requests."""
        return STARTED in self.log_text() and accepts(self.port)
