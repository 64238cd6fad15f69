"""Jars from Maven in, a real Kafka broker (KRaft, one node) on loopback out."""

import hashlib
import os
import shutil
import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from service_process import (
    MissingError,
    Server,
    accepts,
    cache,
    free_port,
    made_once,
    say,
    services_folder,
)

VERSION = "4.1.1"
POM = Path(__file__).with_name("kafka-pom.xml")
PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=2
log.cleaner.dedupe.buffer.size=2097152
# With the defaults a broker that was killed needs 13 s to come back, with these 5 s.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""
LOGGING = """
rootLogger.level=WARN
rootLogger.appenderRef.out.ref=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %c{1}: %m%n
# Its line "Kafka Server started" tells that requests are answered.
logger.server.name=kafka.server.KafkaRaftServer
logger.server.level=INFO
"""
STARTED = "Kafka Server started"


def java() -> str:
    """The Java to run.

    Raises:
        MissingError: without one.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin" if home else None)
    if found is None:
        raise MissingError(
            "Kafka: needs Java 17 or newer (java on the PATH, or JAVA_HOME), or the address of a "
            "broker in TEST_KAFKA_BOOTSTRAP"
        )
    return found


def jars() -> Path:
    """Folder with the broker's jars: of the services folder, or fetched once through Maven.

    Raises:
        MissingError: where neither is to be had.
    """
    for found in sorted(services_folder().glob("kafka*/libs/kafka_2.13-*.jar")):
        return found.parent
    edition = hashlib.sha256(POM.read_bytes()).hexdigest()[:8]
    return made_once(cache() / f"kafka-{VERSION}-{edition}", _fetch)


def _fetch(folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise MissingError(
            "Kafka: needs Maven (mvn on the PATH) to fetch the broker, an unpacked Kafka in "
            f"{services_folder()} (SERVICES_DIR), or the address of one in TEST_KAFKA_BOOTSTRAP"
        )
    say(f"fetching Kafka {VERSION} through Maven, 43 MB, once ...")
    done = subprocess.run(
        [
            *(maven, "-q", "-B", "-f", str(POM), "dependency:copy-dependencies"),
            *("-DincludeScope=runtime", f"-DoutputDirectory={folder}"),
        ],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise MissingError(
            f"Kafka: Maven could not fetch it:\n{(done.stdout + done.stderr)[-2000:]}"
        )


class KafkaServer(Server):
    """One broker; topics are made by who needs them, never by being named.

    Args:
        folder: Its data and its log; what is there from an earlier run is kept.
        port: Of clients; a free one where None.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        super().__init__("Kafka", folder, port)
        self.libs = jars()
        self.java = java()
        self._configure()

    @property
    def bootstrap(self) -> str:
        """Address for clients."""
        return f"127.0.0.1:{self.port}"

    def listeners(self) -> dict[str, int]:
        """Port of each listener beside the controller's."""
        return {"PLAINTEXT": self.port}

    def properties(self) -> str:
        """Lines of server.properties beside those that all brokers share."""
        return ""

    def command(self) -> list[str]:
        """What to run."""
        return [*self._jvm(), "kafka.Kafka", "server.properties"]

    def ready(self) -> bool:
        """Whether the broker answers requests."""
        return STARTED in self.log_text() and accepts(self.port)

    def _jvm(self) -> list[str]:
        options = "-Xmx256m -Xms64m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData"
        logging = "-Dlog4j2.configurationFile=log4j2.properties"
        return [
            *(self.java, *options.split(), "-XX:+ExitOnOutOfMemoryError", logging),
            *("-cp", f"{self.libs}/*"),
        ]

    def _configure(self) -> None:
        controller, listeners = free_port(), self.listeners()
        addresses = [f"{name}://127.0.0.1:{port}" for name, port in listeners.items()]
        kinds = ",".join(f"{name}:{name}" for name in listeners)
        own = f"""
log.dirs={self.folder / "data"}
controller.quorum.voters=1@127.0.0.1:{controller}
listeners={",".join([*addresses, f"CONTROLLER://127.0.0.1:{controller}"])}
advertised.listeners={",".join(addresses)}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,{kinds}
"""
        text = PROPERTIES + own + self.properties()
        (self.folder / "server.properties").write_text(text, encoding="utf-8")
        (self.folder / "log4j2.properties").write_text(LOGGING, encoding="utf-8")
        if not (self.folder / "data" / "meta.properties").exists():
            self._format(urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("="))

    def _format(self, cluster: str) -> None:
        """Write by hand what the storage tool would, which saves starting a JVM."""
        (self.folder / "data").mkdir(exist_ok=True)
        text = f"version=1\ncluster.id={cluster}\nnode.id=1\n"
        (self.folder / "data" / "meta.properties").write_text(text, encoding="utf-8")
