"""The stack without containers (docker/stack.py) on real services, as a person starts it."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from service_grafana import GrafanaAccess, GrafanaError, grafana_home
from service_influx import influxd
from service_kafka import jars, java
from service_process import MissingError, accepts, free_port

PROJECT = Path(__file__).resolve().parents[1]
DOCKER = PROJECT / "docker"
sys.path.insert(0, str(DOCKER))

from stack_compose import COMPOSE, Place, environment, interpolated  # noqa: E402  (a script's)

SERVICES = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
STACK = [sys.executable, str(DOCKER / "stack.py")]
ECHOWATCH = Path(sys.executable).with_name("echowatch")
UP_S = 180.0
ALARM_S = 180.0
HOUR_MS = 3_600_000


def refused(folder, *arguments, **environment):
    """What the stack says when it does not start."""
    done = subprocess.run(
        [*STACK, "--folder", str(folder), "--free-ports", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=UP_S,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ")
    return lines[-1]


@dataclass
class Running:
    """A stack of this machine."""

    process: subprocess.Popen
    folder: Path
    log: Path

    @property
    def text(self):
        return self.log.read_text(encoding="utf-8")

    def wait_up(self):
        until = time.monotonic() + UP_S
        while "echowatch is up" not in self.text:
            if self.process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"the stack did not come up:\n{self.text}")
            time.sleep(0.2)

    def children(self):
        """Ids of all processes below the stack."""
        found, below = set(), [self.process.pid]
        while below:
            parent = below.pop()
            listed = subprocess.run(
                ["ps", "-o", "pid=", "--ppid", str(parent)],  # noqa: S607
                capture_output=True,
                text=True,
                check=False,
            )
            new = {int(word) for word in listed.stdout.split()} - found
            found |= new
            below += new
        return found

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    @property
    def grafana(self):
        password = (self.folder / "secrets" / "grafana_admin_password").read_text("utf-8")
        address = re.search(r"http://localhost:\d+(?=/d/)", self.text)[0]
        return GrafanaAccess(address, ("admin", password))

    def shell(self, who, command):
        """A command as a person of this name gives it."""
        file = shlex.quote(str(self.folder / f"{who}.env"))
        return subprocess.run(
            ["bash", "-c", f". {file}; {command}"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def write(self, who):
        """Status of InfluxDB's answer to one point written with the token of writer or reader."""
        command = (
            'curl -s -o /dev/null -w "%{http_code}" --cacert $ECHOWATCH_INFLUX__CA_FILE '
            f'-H "Authorization: Token $(cat {self.folder}/secrets/influx_{who}_token)" '
            '--data "tried value=1" '
            '"$ECHOWATCH_INFLUX__URL/api/v2/write?org=echowatch&bucket=echowatch"'
        )
        return self.shell("admin", command).stdout

    def alarms(self):
        """States of alarm that Grafana's data source tells."""
        now = time.time_ns() // 10**6
        query = "SELECT max(state) FROM alarm WHERE $timeFilter GROUP BY sensor"
        rows = self.grafana.query("echowatch-influx", query, now - 24 * HOUR_MS, now)
        return [row["value"] for row in rows]


@contextlib.contextmanager
def running(folder, *arguments):
    for found in (grafana_home, influxd, java, jars):
        try:
            found()
        except MissingError as missing:
            pytest.skip(str(missing))
    log = folder.with_suffix(".log")
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            [*STACK, "--folder", str(folder), "--free-ports", *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    stack = Running(process, folder, log)
    try:
        stack.wait_up()
        yield stack
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """The stack with the simulated plant."""
    with running(tmp_path_factory.mktemp("stack") / "demo", "--demo", "2") as started:
        yield started


@pytest.mark.stack
def test_an_alarm_of_the_plant_is_seen_in_grafana(stack):
    until = time.monotonic() + ALARM_S
    while 3 not in stack.alarms():
        assert time.monotonic() < until, f"no alarm, only {stack.alarms()}:\n{stack.text}"
        time.sleep(1.0)


@pytest.mark.stack
def test_the_boards_are_there_for_who_logs_in_only(stack):
    boards = stack.grafana.call("GET", "/api/search?type=dash-db")
    assert {board["uid"] for board in boards} >= {"echowatch-fleet", "echowatch-asset"}
    stranger = GrafanaAccess(stack.grafana.url, ("admin", "wrong"))
    with pytest.raises(GrafanaError, match="401"):
        stranger.call("GET", "/api/search?type=dash-db")


@pytest.mark.stack
def test_boards_of_the_stack_lead_to_its_own_pages(stack):
    pages = re.search(r"http://localhost:\d+(?=\s+open on this machine)", stack.text)[0]
    for uid in ("echowatch-fleet", "echowatch-sensor-health"):
        board = stack.grafana.call("GET", f"/api/dashboards/uid/{uid}")["dashboard"]
        listed = {variable["name"]: variable for variable in board["templating"]["list"]}
        assert listed["snapshots"]["query"] == pages


@pytest.mark.stack
def test_grafana_s_token_cannot_write(stack):
    assert stack.write("reader") == "403"
    assert stack.write("writer") == "204"


@pytest.mark.stack
def test_a_person_may_look_but_not_change_topics(stack):
    seen = stack.shell("operator", "echowatch lag")
    assert seen.returncode in (0, 1)
    assert "worker" in seen.stdout or "partition" in seen.stdout, seen.stderr
    changed = stack.shell("operator", "ECHOWATCH_KAFKA__PARTITIONS=24 echowatch topics create")
    assert changed.returncode != 0
    assert "Traceback" not in changed.stderr


@pytest.mark.stack
def test_a_worker_with_a_wrong_token_says_so_and_ends(stack, tmp_path):
    wrong = tmp_path / "token"
    wrong.write_text("nonsense", encoding="utf-8")
    own = f"ECHOWATCH_KAFKA__GROUP=other ECHOWATCH_INFLUX__TOKEN_FILE={shlex.quote(str(wrong))}"
    done = stack.shell("admin", f"{own} echowatch worker --port {free_port()}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: InfluxDB")
    assert "does not know the token" in done.stderr


@pytest.mark.stack
def test_a_folder_has_one_stack(stack):
    assert "is running already" in refused(stack.folder)


@pytest.mark.stack
def test_sigterm_leaves_no_process_and_the_next_start_finds_the_data(stack):
    below = stack.children()
    assert len(below) >= 7
    seen = len(stack.alarms())
    assert stack.end() == 0
    alive = [pid for pid in below if Path(f"/proc/{pid}").exists()]
    assert not alive
    with running(stack.folder, "--workers", "1") as again:
        assert len(again.alarms()) >= seen > 0
        token = again.folder / "secrets" / "influx_admin_token"
        again.end()
    token.write_text("nonsense", encoding="utf-8")
    assert "token" in refused(stack.folder)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_compose_s_variables_with_folders_and_addresses_of_here(service, tmp_path):
    ports = dict.fromkeys(("kafka", "influxdb", "grafana", "serve"), 12345)
    place = Place(tmp_path, tmp_path / "secrets", ports, {})
    found = environment(service, place)
    wanted = SERVICES[service].get("environment", {})
    assert found.keys() == {name.removesuffix("__FILE") for name in wanted}
    for value in found.values():
        assert not re.search(r"/run/secrets|/var/lib|/etc/|0\.0\.0\.0|kafka:|influxdb:|\$\{", value)


def test_what_compose_demands_and_nobody_gave_is_named():
    with pytest.raises(ValueError, match="needs STACK_HOST: say where"):
        interpolated("${STACK_HOST:?say where}", {})


def with_secrets(folder):
    """A folder whose secrets were made at an earlier start."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl on the PATH for certificates")
    make = ["bash", str(DOCKER / "make_secrets.sh"), "--dir", str(folder / "secrets")]
    subprocess.run(make, check=True, capture_output=True)
    return folder


def test_a_missing_secret_is_named(tmp_path):
    secret = with_secrets(tmp_path) / "secrets" / "kafka_worker_password"
    secret.unlink()
    assert f"{secret} is missing" in refused(tmp_path)


def test_a_secret_that_others_may_read_is_named(tmp_path):
    secret = with_secrets(tmp_path) / "secrets" / "serve_token"
    secret.chmod(0o644)
    said = refused(tmp_path)
    assert f"{secret} can be read by others" in said
    assert f"chmod 600 {secret}" in said


def test_a_taken_port_is_named(tmp_path):
    with_secrets(tmp_path)
    with socket.socket() as taken:
        if not accepts(3000):
            taken.bind(("127.0.0.1", 3000))
            taken.listen()
        done = subprocess.run(
            [*STACK, "--folder", str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=UP_S,
            check=False,
        )
    assert done.returncode == 1
    assert "3000 (grafana)" in done.stderr
    assert "--free-ports" in done.stderr


def test_a_missing_binary_is_named(tmp_path):
    if Path("/usr/share/grafana").exists():
        pytest.skip("needs a machine without an installed Grafana")
    nothing = {"SERVICES_DIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    assert "Grafana: needs" in refused(with_secrets(tmp_path), **nothing)


@pytest.mark.stack
def test_a_listener_without_encryption_is_refused(tmp_path):
    template = tmp_path / "server.properties"
    text = (DOCKER / "kafka" / "server.properties").read_text(encoding="utf-8")
    template.write_text(text.replace("CLIENTS:SASL_SSL", "CLIENTS:SASL_PLAINTEXT"), "utf-8")
    said = refused(with_secrets(tmp_path), KAFKA_TEMPLATE=str(template))
    assert "listener without encryption" in said
