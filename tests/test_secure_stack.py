"""The broker, the rights and the tokens of docker/, with real services and without containers."""

import os
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import (
    InvalidRecordError,
    TopicAuthorizationFailedError,
)

from connectors.files.write import write_recordings
from connectors.kafka import Topic, create, topics
from connectors.kafka_access import KafkaTrouble
from docker_cases import DOCKER, ROOT, make_secrets, run
from pipeline.services.kafka_settings import access_of
from pipeline.services.topics import specs
from pipeline.settings import load
from pipeline.simulation import simulate
from service_process import MissingError, free_port
from worker_cases import ECHOWATCH, WorkerProcess, wait_for

sys.path.insert(0, str(DOCKER))

import stack as whole
import stack_services as parts
from stack_compose import Place, environment

pytestmark = pytest.mark.stack

PORTS = ("kafka", "outside", "broker", "controller", "influxdb", "grafana", "serve")
SERVICE = {"admin": "bootstrap", "ingest": "replay"}
PRINCIPALS = ("ingest", "worker", "serve", "operator")
TOPICS = tuple(spec.name for spec in specs(load({}).kafka))
STATE = "echowatch-signals-state-changelog"
# As the table in docs/deployment.md says it; everything else must be refused.
WRITE = {
    "ingest": {"sensors.signals"},
    "worker": {"sensor.transitions", "machine.alarms", "sensor.snapshots", "sensors.dead-letters",
               "echowatch-cases-state-changelog", STATE},
    "serve": set(),
    "operator": {"machine.commands"},
}  # fmt: skip
READ = {
    "ingest": set(),
    "worker": {"sensors.signals", "machine.commands", "sensor.transitions",
               "echowatch-cases-state-changelog", STATE},
    "serve": {"sensor.snapshots", "machine.alarms"},
    "operator": {"machine.alarms", "sensor.transitions", "sensors.dead-letters",
                 "sensors.signals", "machine.commands"},
}  # fmt: skip
# Nothing may be written but what is bound: `read_only: true`, as far as this machine lets us.
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro / && exec "$@"'


@dataclass
class Secured:
    """A broker and an InfluxDB as compose has them, with everything that bootstrap makes."""

    place: Place
    folder: Path
    kafka: parts.Service
    influx: parts.Service

    def environment(self, principal, **changed):
        """Settings of a principal, as its container has them."""
        return environment(SERVICE.get(principal, principal), self.place) | changed

    def access(self, principal, **changed):
        return access_of(load(self.environment(principal, **changed)).kafka)

    def echowatch(self, principal, *arguments, **changed):
        kept = {name: os.environ[name] for name in ("PATH", "HOME")}
        settings = kept | self.environment(principal, **changed)
        return run(ECHOWATCH, *arguments, env=settings, cwd=self.folder, timeout=180)

    def influx_says(self, token, path, line=None):
        """Status and text of InfluxDB's answer to one of the tokens; a line is posted."""
        text = (self.place.secrets / f"influx_{token}_token").read_text("utf-8")
        address = f"https://127.0.0.1:{self.influx.port}{path}"
        request = urllib.request.Request(address, line, {"Authorization": f"Token {text}"})
        trusted = ssl.create_default_context(cafile=self.place.secrets / "ca.pem")
        try:
            with urllib.request.urlopen(request, timeout=30, context=trusted) as answer:  # noqa: S310
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def may_write_to(self, token, bucket):
        path = f"/api/v2/write?org=echowatch&bucket={bucket}"
        status, text = self.influx_says(token, path, b"probe,of=rights value=1")
        assert status == 204 or status in (401, 403, 404), text
        return status == 204

    def may_read_from(self, token, bucket):
        asked = urllib.parse.urlencode({"db": bucket, "q": "select * from probe"})
        status, text = self.influx_says(token, f"/query?{asked}")
        return status == 200 and "series" in text


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stack")
    done = make_secrets(folder / "secrets")
    assert not done.returncode, done.stderr
    ports = {name: free_port() for name in PORTS}
    place = Place(folder / "data", folder / "secrets", ports, {"STACK_PARTITIONS": "2"})
    try:
        services = parts.kafka(place), parts.influxdb(place)
    except MissingError as missing:
        pytest.skip(str(missing))
    made = Secured(place, folder, *services)
    try:
        for service in services:
            service.start()
        whole.bootstrap(place)
        yield made
    finally:
        for service in services:
            service.kill()


def may_write(access, names):
    """Topics that would take a record; compacted ones take none, as it has no key."""
    allowed = set()
    options = access.options() | {"max_block_ms": 10_000, "enable_idempotence": False}
    with closing(KafkaProducer(**options)) as producer:
        for name in names:
            with suppress(TopicAuthorizationFailedError):
                with suppress(InvalidRecordError):
                    producer.send(name, b"{}", partition=0).get(10)
                allowed.add(name)
    return allowed


def may_read(access, names):
    """Topics that can be seen and read."""
    allowed = set()
    with closing(KafkaConsumer(**access.options(), request_timeout_ms=10_000)) as consumer:
        for name in consumer.topics() & set(names):
            with suppress(TopicAuthorizationFailedError):
                consumer.assign([TopicPartition(name, 0)])
                consumer.seek(TopicPartition(name, 0), 0)
                consumer.poll(500)
                allowed.add(name)
    return allowed


@pytest.mark.parametrize("principal", PRINCIPALS)
def test_a_principal_may_write_what_it_must_and_nothing_else(stack, principal):
    assert may_write(stack.access(principal), TOPICS) == WRITE[principal]


@pytest.mark.parametrize("principal", PRINCIPALS)
def test_a_principal_may_read_what_it_must_and_nothing_else(stack, principal):
    assert may_read(stack.access(principal), TOPICS) == READ[principal]


def test_only_the_admin_may_make_topics(stack):
    wanted = [Topic("another", 1, 1, {})]
    for principal in PRINCIPALS:
        with pytest.raises(KafkaTrouble, match="another"):
            create(stack.access(principal), wanted)
    create(stack.access("admin"), wanted)


def test_who_may_not_see_settings_of_topics_is_told_so(stack):
    done = stack.echowatch("serve", "topics", "check")
    assert done.returncode == 1
    assert "'serve' may not see the settings of sensor.snapshots" in done.stderr


def test_a_wrong_password_is_refused_in_words(stack, tmp_path):
    wrong = tmp_path / "password"
    wrong.write_text("not-the-password", "utf-8")
    access = stack.access("operator", ECHOWATCH_KAFKA__PASSWORD_FILE=str(wrong))
    with pytest.raises(KafkaTrouble, match="operator") as told:
        topics(access)
    assert "not-the-password" not in str(told.value)


@pytest.mark.parametrize("port", ["kafka", "outside"])
def test_a_client_without_encryption_is_refused_in_words(stack, port):
    at = {"ECHOWATCH_KAFKA__BOOTSTRAP": f"127.0.0.1:{stack.place.ports[port]}"}
    access = stack.access("operator", ECHOWATCH_KAFKA__SECURITY="PLAINTEXT", **at)
    with pytest.raises(KafkaTrouble, match=r"127\.0\.0\.1"):
        topics(access, timeout_s=5)


def test_a_client_that_does_not_know_the_authority_refuses_the_broker(stack):
    access = replace(stack.access("operator"), ca_file=None)
    with pytest.raises(KafkaTrouble, match="certificate"):
        topics(access)


@pytest.mark.parametrize("port", ["broker", "controller"])
def test_the_brokers_own_doors_want_the_brokers_certificate(stack, port):
    at = f"127.0.0.1:{stack.place.ports[port]}"
    ca = stack.place.secrets / "ca.pem"
    client = ("s_client", "-connect", at, "-CAfile", ca, "-verify_return_error", "-brief")
    for shown in ((), ("-cert", stack.place.secrets / "influx.pem",
                       "-key", stack.place.secrets / "influx.pem")):  # fmt: skip
        # TLS 1.2 tells of the refusal within the handshake.
        assert run("openssl", *client, "-tls1_2", *shown).returncode
    own = stack.place.secrets / "kafka.pem"
    assert not run("openssl", *client, "-tls1_2", "-cert", own, "-key", own).returncode


def test_bootstrap_again_changes_nothing_and_takes_away_what_is_too_much(stack, tmp_path):
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **stack.environment("admin")}
    script = (sys.executable, DOCKER / "kafka" / "access.py", "--secrets", stack.place.secrets)
    assert "; 0 rights given, 0 taken away" in run(*script, env=given).stdout
    more = (DOCKER / "kafka" / "acls.yaml").read_text("utf-8").replace(
        "serve: # pictures of cases", "serve:\n  signals: [read, write]"
    )  # fmt: skip
    (tmp_path / "acls.yaml").write_text(more, "utf-8")
    done = run(*script, "--acls", tmp_path / "acls.yaml", env=given)
    assert "; 2 rights given, 0 taken away" in done.stdout, done.stderr
    signals = ["sensors.signals"]
    assert may_read(stack.access("serve"), signals)
    assert "; 0 rights given, 2 taken away" in run(*script, env=given).stdout
    wait_for(lambda: not may_read(stack.access("serve"), signals), "the right to go")


def test_a_renewed_password_holds_and_the_old_one_does_not(stack, tmp_path):
    file = stack.place.secrets / "kafka_operator_password"
    old = tmp_path / "old"
    old.write_text(file.read_text("utf-8"), "utf-8")
    done = make_secrets(stack.place.secrets, "--force", "kafka_operator_password")
    assert not done.returncode, done.stderr
    with pytest.raises(KafkaTrouble, match="operator"):
        topics(stack.access("operator"))
    whole.bootstrap(stack.place)
    assert topics(stack.access("operator"), ["machine.alarms"])
    with pytest.raises(KafkaTrouble, match="operator"):
        topics(stack.access("operator", ECHOWATCH_KAFKA__PASSWORD_FILE=str(old)))


def read_only(writable):
    """A prefix under which only this folder can be written; nothing where the kernel refuses."""
    unshare = shutil.which("unshare")
    prefix = [unshare, "--mount", "sh", "-c", READ_ONLY, str(writable)]
    probe = ROOT / ".written"
    if unshare and not run(*prefix, "true").returncode:
        assert run(*prefix, "touch", probe).returncode, "the file system can be written"
        return prefix
    return []


def start_worker(stack, folder, **changed):
    """The worker as its container has it."""
    port, log = free_port(), folder / "worker.log"
    (folder / "tmp").mkdir()
    settings = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "tmp"),
        "TMPDIR": str(folder / "tmp"),
    }
    settings |= stack.environment("worker", ECHOWATCH_WORKER__PORT=str(port), **changed)
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            [*read_only(folder / "tmp"), ECHOWATCH, "worker"],
            env=settings,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    return WorkerProcess(process, log, port)


def test_a_worker_does_all_its_work_with_its_rights_its_token_and_no_file_system(stack, tmp_path):
    chunks = list(simulate.plant(7, sensors=2, hours=0.1).chunks())[:24]
    write_recordings(chunks, tmp_path / "recordings")
    worker = start_worker(
        stack, tmp_path, ECHOWATCH_PROFILE="accelerated", ECHOWATCH_WORKER__CHECKPOINT_S="1"
    )
    try:
        wait_for(worker.ready, "the worker at work")
        health = [sys.executable, DOCKER / "health.py"]
        assert not run(*health, env={"ECHOWATCH_WORKER__PORT": str(worker.port)}).returncode
        assert run(*health, f"http://127.0.0.1:{worker.port}/nothing").returncode
        sent = stack.echowatch(
            "ingest", "replay", str(tmp_path / "recordings"), "--to", "kafka", "--speed", "max",
            "--shift", f"{time.time() - chunks[-1].start_ns / 1e9 - 60:.0f}",
            "--resume", str(tmp_path / "replay.json"),
        )  # fmt: skip
        assert sent.returncode == 0, sent.stderr
        wait_for(lambda: worker.metric("echowatch_windows_total") > 0, "windows")
        lag = lambda: stack.echowatch("operator", "lag", "--role", "signals").stdout  # noqa: E731
        wait_for(lambda: "total" in (text := lag()) and " 0 " in text.split("total")[1], "no lag")
    finally:
        ended = worker.end()
    assert ended == 0, worker.text
    assert "uthorization" not in worker.text
    assert "Read-only" not in worker.text
    assert may_read(stack.access("worker"), [STATE])
    asked = urllib.parse.urlencode({"db": "echowatch", "q": "select * from sensor_health"})
    assert "series" in stack.influx_says("reader", f"/query?{asked}")[1]


def test_a_worker_with_a_wrong_token_ends_with_the_reason(stack, tmp_path):
    wrong = tmp_path / "token"
    wrong.write_text("not-the-token", "utf-8")
    worker = start_worker(stack, tmp_path, ECHOWATCH_INFLUX__TOKEN_FILE=str(wrong))
    assert worker.process.wait(180) == 1
    last = worker.text.strip().splitlines()[-1]
    assert "token" in last
    assert "not-the-token" not in worker.text


@pytest.mark.parametrize("name", ["KAFKA__PASSWORD_FILE", "INFLUX__TOKEN_FILE"])
def test_a_worker_without_a_secret_ends_with_its_name(stack, tmp_path, name):
    done = stack.echowatch("worker", "worker", **{f"ECHOWATCH_{name}": str(tmp_path / "none")})
    assert done.returncode
    assert f"{tmp_path / 'none'} cannot be read" in done.stderr


def test_a_token_does_one_thing_in_its_buckets(stack):
    rolled = ("echowatch_1m", "echowatch_1h")
    assert stack.may_write_to("writer", "echowatch")
    assert all(stack.may_write_to("admin", bucket) for bucket in rolled)
    for bucket in ("echowatch", *rolled):
        assert stack.may_read_from("reader", bucket)
        assert not stack.may_write_to("reader", bucket)
        assert not stack.may_read_from("writer", bucket)
    for bucket in (*rolled, "_monitoring"):
        assert not stack.may_write_to("writer", bucket)
    assert stack.may_read_from("admin", "echowatch")
