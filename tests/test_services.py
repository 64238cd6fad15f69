import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import uuid
from contextlib import contextmanager
from ipaddress import ip_address
from itertools import islice
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

import service_influx
import service_kafka
import services
from service_influx import DIRECT, InfluxAccess
from service_process import MissingError, Server, accepts, free_port, made_once, wait_for


def topic_with(bootstrap, *values):
    topic = f"kept-{uuid.uuid4().hex[:8]}"
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}})
    admin.close()
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for value in values:
        producer.send(topic, value).get(timeout=20)
    producer.close()
    return topic


def read(bootstrap, topic, count):
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        consumer_timeout_ms=20_000,
    )
    try:
        return [message.value for message in islice(consumer, count)]
    finally:
        consumer.close()


def test_a_broker_comes_back_on_its_port_with_its_data(kafka_own):
    topic = topic_with(kafka_own.bootstrap, b"one", b"two")
    kafka_own.stop()
    kafka_own.start()
    assert read(kafka_own.bootstrap, topic, 2) == [b"one", b"two"]
    kafka_own.kill()
    kafka_own.start()
    assert read(kafka_own.bootstrap, topic, 2) == [b"one", b"two"]


def write(influx, bucket, lines, token=None):
    asked = f"{influx.url}/api/v2/write?org={influx.org}&bucket={bucket}"
    headers = {"Authorization": f"Token {token or influx.token}"}
    request = urllib.request.Request(asked, lines.encode(), headers)  # noqa: S310  (loopback)
    try:
        with DIRECT.open(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_influx_keeps_what_it_acknowledged_over_a_kill(influx_own):
    bucket = influx_own.new_bucket("kept")
    lines = "\n".join(f"score,sensor=a value={i} {1 + i}" for i in range(5000))
    assert write(influx_own, bucket, lines) == 204
    influx_own.kill()
    influx_own.start()
    rows = influx_own.query(bucket, "SELECT value FROM score GROUP BY sensor")
    assert [row["value"] for row in rows] == list(range(5000))
    assert rows[0] == {"sensor": "a", "time": 1, "value": 0}
    influx_own.stop()
    influx_own.start()
    assert influx_own.query(bucket, "SELECT count(value) FROM score")[0]["count"] == 5000


def test_a_token_opens_its_own_bucket_in_its_own_direction_only(influx):
    bucket, other = influx.new_bucket("mine"), influx.new_bucket("other")
    writer = influx.new_token(bucket, read=False)
    assert write(influx, bucket, "a b=1 1", writer) == 204
    assert write(influx, other, "a b=1 1", writer) in (403, 404)
    assert write(influx, bucket, "a b=1 1", influx.new_token(bucket, write=False)) == 403


def topics(**access):
    admin = KafkaAdminClient(bootstrap_timeout_ms=2_000, **access)
    try:
        return admin.list_topics()
    finally:
        admin.close()


def test_a_client_with_a_certificate_is_let_in_and_one_without_is_not(secure_kafka):
    access = {
        "bootstrap_servers": secure_kafka.ssl_bootstrap,
        "security_protocol": "SSL",
        "ssl_cafile": str(secure_kafka.ca_file),
    }
    own = {"ssl_certfile": str(secure_kafka.cert_file), "ssl_keyfile": str(secure_kafka.key_file)}
    topics(**access, **own)
    with pytest.raises(KafkaError):
        topics(**access)


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"])
def test_the_user_is_let_in_over_tls_and_a_wrong_password_is_not(secure_kafka, mechanism):
    access = {
        "bootstrap_servers": secure_kafka.sasl_ssl_bootstrap,
        "security_protocol": "SASL_SSL",
        "ssl_cafile": str(secure_kafka.ca_file),
        "sasl_mechanism": mechanism,
        "sasl_plain_username": secure_kafka.username,
    }
    topics(**access, sasl_plain_password=secure_kafka.password)
    with pytest.raises(KafkaError):
        topics(**access, sasl_plain_password=secure_kafka.password[::-1])


def test_the_user_is_let_in_without_tls_too(secure_kafka):
    topics(
        bootstrap_servers=secure_kafka.sasl_plaintext_bootstrap,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="SCRAM-SHA-256",
        sasl_plain_username=secure_kafka.username,
        sasl_plain_password=secure_kafka.password,
    )


class Listener(Server):
    """A server of the standard library, which starts fast."""

    def __init__(self, folder):
        super().__init__("Listener", folder)
        self.host = "127.0.0.1"

    def command(self):
        return [sys.executable, "-m", "http.server", str(self.port), "--bind", self.host]

    def ready(self):
        return accepts(self.port)


OWNER = """
import sys, time
from pathlib import Path
from test_services import Listener
server = Listener(Path(sys.argv[1]))
server.start()
print(server.port, flush=True)
time.sleep(1000)
"""


def test_a_server_never_outlives_its_owner(tmp_path):
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE) as owner:
        port = int(owner.stdout.readline())
        assert accepts(port)
        owner.kill()
    assert wait_for(lambda: not accepts(port), 10)


def test_a_server_outlives_the_thread_that_started_it(tmp_path):
    server = Listener(tmp_path)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    assert accepts(server.port)
    server.stop()
    assert not server.running
    assert not accepts(server.port)


def test_a_server_that_does_not_come_up_says_why(tmp_path):
    server = Listener(tmp_path)
    server.host = "192.0.2.1"
    with pytest.raises(RuntimeError, match=r"(?s)Listener ended at once.*Cannot assign"):
        server.start()
    server.host = "127.0.0.1"
    with (
        socket.create_server(("127.0.0.1", server.port)),
        pytest.raises(RuntimeError, match="somebody else"),
    ):
        server.start()
    server.start()
    server.stop()


def test_a_port_is_given_once_and_never_while_somebody_has_it():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert free_port(taken.getsockname()[1]) != taken.getsockname()[1]
    ports = [free_port() for _ in range(300)]
    assert len(set(ports)) == 300
    assert free_port(ports[0]) not in ports


def test_what_several_want_at_once_is_made_once_and_never_seen_half_done(tmp_path):
    target, made, seen = tmp_path / "folder", [], []
    everybody = threading.Barrier(4)

    def make(folder):
        made.append(folder)
        assert not wait_for(lambda: len(made) > 1, 0.2)
        folder.mkdir()
        assert not target.exists()
        (folder / "file").touch()

    def want():
        everybody.wait()
        seen.append((made_once(target, make) / "file").exists())

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), seen) == (1, [True] * 4)


def test_what_could_not_be_made_leaves_nothing_behind(tmp_path):
    def fail(path):
        path.mkdir()
        raise MissingError("no")

    with pytest.raises(MissingError):
        made_once(tmp_path / "folder", fail)
    assert [path.name for path in tmp_path.iterdir()] == [".folder.lock"]


@pytest.mark.parametrize(("module", "need"), [(service_kafka, "Kafka"), (service_influx, "Influx")])
def test_a_machine_without_a_service_skips_by_name(tmp_path, monkeypatch, module, need):
    for name in ("CI", "JAVA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("PATH", "SERVICES_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    make = module.KafkaServer if need == "Kafka" else module.InfluxServer
    with (
        pytest.raises(pytest.skip.Exception, match=rf"{need}.* needs .*TEST_{need.upper()}"),
        services.started(make),
    ):
        pass


def test_a_persons_own_services_are_used_and_never_stopped(monkeypatch, influx):
    monkeypatch.setenv("TEST_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    for name in ("url", "token", "org"):
        monkeypatch.setenv(f"TEST_INFLUX_{name.upper()}", getattr(influx, name))
    with services.kafka() as given:
        assert given.bootstrap == "127.0.0.1:1"
        with pytest.raises(pytest.skip.Exception, match="Kafka"):
            given.kill()
    with services.influx() as given:
        bucket = given.new_bucket("own")
        assert write(given, bucket, "a b=1 1") == 204
        assert given.query(bucket, "SELECT b FROM a") == [{"time": 1, "b": 1}]
        with pytest.raises(pytest.skip.Exception, match="InfluxDB"):
            given.stop()
    assert write(influx, bucket, "a b=1 1") == 404


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, which only Linux has")
def test_services_listen_on_loopback_only(secure_kafka, influx):
    for server, ports in ((secure_kafka, 5), (influx, 1)):
        addresses = list(listening(server.pid))
        assert len(addresses) == ports
        assert all(address.is_loopback for address in addresses)


def listening(pid):
    """Addresses that a process listens on."""
    links = [str(name.readlink()) for name in Path(f"/proc/{pid}/fd").iterdir()]
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text("ascii").splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in links:
                raw = bytes.fromhex(words[1].partition(":")[0])
                parts = [raw[i : i + 4][::-1] for i in range(0, len(raw), 4)]
                address = ip_address(b"".join(parts))
                yield getattr(address, "ipv4_mapped", None) or address


def test_a_person_gets_addresses_that_work_and_finds_the_data_again(tmp_path):
    folder = tmp_path / ".services"
    topic, bucket = None, None
    for _ in range(2):
        with person_runs(folder) as settings:
            bootstrap = settings["ECHOWATCH_KAFKA__BOOTSTRAP"]
            token_file = Path(settings["ECHOWATCH_INFLUX__TOKEN_FILE"])
            assert token_file.stat().st_mode & 0o777 == 0o600
            url, org = settings["ECHOWATCH_INFLUX__URL"], settings["ECHOWATCH_INFLUX__ORG"]
            own = InfluxAccess(url, org, token_file.read_text("utf-8"))
            if topic is None:
                topic, bucket = topic_with(bootstrap, b"kept"), settings["ECHOWATCH_INFLUX__BUCKET"]
                assert write(own, bucket, "a b=1 1") == 204
            assert read(bootstrap, topic, 1) == [b"kept"]
            assert own.query(bucket, "SELECT b FROM a") == [{"time": 1, "b": 1}]
        assert not accepts(int(bootstrap.rpartition(":")[2]))


@contextmanager
def person_runs(folder):
    command = [sys.executable, str(Path(services.__file__)), "run", "--folder", str(folder)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            settings = {}
            for line in process.stdout:
                if line.startswith("export "):
                    name, _, value = shlex.split(line)[1].partition("=")
                    settings[name] = value
                if "Ctrl-C" in line:
                    break
            yield settings
        finally:
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
