"""docker/grafana/start.sh, by which every Grafana of a stack starts."""

import os
import re
import shutil
import sys

import pytest

from board_cases import NAMES, boards
from docker_cases import DOCKER, ROOT, make_secrets, run, stack
from service_grafana import GrafanaServer
from service_process import MissingError

ADDRESS = "https://watch.example:8630"
SECRETS = ("ca.pem", "grafana.pem", "grafana_admin_password", "grafana_secret_key")


@pytest.fixture
def made(tmp_path):
    done = make_secrets(tmp_path / "secrets")
    assert not done.returncode, done.stderr
    (tmp_path / "secrets" / "influx_reader_token").write_text("given", "utf-8")
    return tmp_path


def start(folder, *command, **variables):
    """The script with another command in Grafana's place."""
    given = {
        "PATH": os.environ["PATH"],
        "GRAFANA_BOARDS": str(ROOT / "grafana" / "dashboards"),
        "GRAFANA_SECRETS": str(folder / "secrets"),
        "ECHOWATCH_GRAFANA_DASHBOARDS": str(folder / "new" / "boards"),
        "ECHOWATCH_GRAFANA_SNAPSHOT_URL": ADDRESS,
        **variables,
    }
    return run("bash", DOCKER / "grafana" / "start.sh", *(command or ["true"]), env=given)


@pytest.mark.parametrize("address", [ADDRESS, ADDRESS + "//", "http://[::1]:8630/below/it"])
def test_boards_lead_to_the_pages_of_this_deployment(made, address):
    done = start(made, ECHOWATCH_GRAFANA_SNAPSHOT_URL=address)
    assert not done.returncode, done.stderr
    written = {f.stem: f.read_text("utf-8") for f in (made / "new" / "boards").iterdir()}
    wanted = {n: boards.text_of(b) for n, b in boards.boards(address.rstrip("/")).items()}
    assert written == wanted
    assert written.keys() == set(NAMES)


def test_compose_gives_the_address_under_which_its_pages_are_reached():
    grafana = stack("cpu", STACK_HOST="plant.example")["services"]["grafana"]
    assert grafana["entrypoint"] == ["/etc/echowatch/grafana/start.sh"]
    assert grafana["environment"]["ECHOWATCH_GRAFANA_SNAPSHOT_URL"] == "https://plant.example:8630"
    assert grafana["environment"]["ECHOWATCH_GRAFANA_DASHBOARDS"].startswith("/tmp/")  # noqa: S108
    mounted = {volume["target"] for volume in grafana["volumes"]}
    assert {"/etc/echowatch/grafana", "/etc/echowatch/dashboards"} <= mounted


@pytest.mark.parametrize("page", ["boards.md", "deployment.md"])
def test_the_documented_command_writes_boards_for_another_grafana(tmp_path, page):
    text = (ROOT / "docs" / page).read_text("utf-8")
    said = re.search(r"^python (grafana/boards\.py write .*?)(?: *#.*)?$", text, re.MULTILINE)[1]
    words = [str(ROOT / word) if word.endswith(".py") else word for word in said.split()]
    done = run(sys.executable, *words, cwd=tmp_path)
    assert not done.returncode, done.stderr
    address = words[words.index("--snapshots") + 1]
    for name, made in boards.boards(address).items():
        assert (tmp_path / "boards" / f"{name}.json").read_text("utf-8") == boards.text_of(made)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "watch.example",
        "javascript:alert(1)",
        "https:///",
        'https://a"b',
        "https://a|b",
        "https://a&b",
    ],
)
def test_an_address_that_is_none_is_refused(made, address):
    done = start(made, "echo", "started", ECHOWATCH_GRAFANA_SNAPSHOT_URL=address)
    assert done.returncode
    assert "must be an address of http or https" in done.stderr
    assert "started" not in done.stdout


@pytest.mark.parametrize("missing", [*SECRETS, "influx_reader_token"])
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_grafana_does_not_start_without_a_secret(made, missing, how):
    (made / "secrets" / missing).unlink()
    if how == "empty":
        (made / "secrets" / missing).touch()
    done = start(made, "echo", "started")
    assert done.returncode
    assert f"{missing} is missing, empty or not readable" in done.stderr
    assert "started" not in done.stdout


def test_what_the_script_is_given_is_run_with_its_arguments(made):
    assert start(made, "echo", "one two", "three").stdout == "one two three\n"


@pytest.mark.stack
def test_grafana_with_the_project_s_file_has_no_key_that_others_know(tmp_path):
    try:
        server = GrafanaServer(tmp_path, "http://127.0.0.1:9", "none", "none")
    except MissingError as missing:
        pytest.skip(str(missing))
    environment = server.environment()
    assert shutil.which("bash")
    del environment["GF_SECURITY_SECRET_KEY"]
    done = run(*server.command(), env={**os.environ, **environment}, timeout=60)
    assert done.returncode
    assert "grafana_secret_key" in done.stdout + done.stderr
