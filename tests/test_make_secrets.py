import os
import re
import shutil

import pytest
import yaml

from docker_cases import (
    DOCKER,
    OURS,
    ROOT,
    STACKS,
    compose,
    make_secrets,
    openssl,
    run,
    stack,
    tracked,
)
from pipeline.services.topics import specs
from pipeline.settings import load


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secrets") / "made"
    done = make_secrets(folder, "--host", "plant.example", "--host", "10.1.2.3")
    assert not done.returncode, done.stderr
    return folder


def test_secrets_are_readable_by_their_owner_only(made):
    assert made.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in made.iterdir()} == {0o600}


def test_passwords_differ_and_cannot_be_guessed(made):
    files = [f for f in made.iterdir() if f.suffix == "" and f.stat().st_size]
    values = {file.read_text("utf-8") for file in files}
    assert len(values) == len(files) >= 9
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in values)


def test_tokens_that_influxdb_gives_are_empty_files_until_then(made):
    assert {f.name for f in made.iterdir() if not f.stat().st_size} == {
        "influx_writer_token",
        "influx_reader_token",
    }


def test_what_exists_is_never_overwritten(made):
    before = {file: file.read_bytes() for file in made.iterdir()}
    (made / "influx_writer_token").write_text("given", "utf-8")
    done = make_secrets(made)
    assert not done.returncode, done.stderr
    assert (made / "influx_writer_token").read_text("utf-8") == "given"
    (made / "influx_writer_token").write_text("", "utf-8")
    assert {file: file.read_bytes() for file in made.iterdir()} == before
    assert not re.search(r"^made ", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", ["kafka", "influx", "grafana", "serve"])
def test_certificates_chain_to_the_authority_and_name_their_hosts(made, name):
    own, ca = made / f"{name}.pem", made / "ca.pem"
    strict = ("-x509_strict", "-purpose", "sslserver", "-CAfile", ca)
    for host in ("localhost", "plant.example", "influxdb" if name == "influx" else name):
        assert "OK" in openssl("verify", *strict, "-verify_hostname", host, own)
    for address in ("127.0.0.1", "10.1.2.3"):
        assert "OK" in openssl("verify", *strict, "-verify_ip", address, own)
    client = run("openssl", "verify", "-purpose", "sslclient", "-CAfile", ca, own)
    # Only the broker may show its certificate to the broker.
    assert (client.returncode == 0) == (name == "kafka")
    assert openssl("x509", "-in", own, "-noout", "-pubkey") == openssl(
        "pkey", "-in", own, "-pubout"
    )


def test_one_secret_is_renewed_alone(tmp_path):
    assert not make_secrets(tmp_path).returncode
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert not make_secrets(tmp_path, "--force", "serve_token").returncode
    after = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"serve_token"}
    assert not make_secrets(tmp_path, "--force", "--host", "mill", "kafka.pem").returncode
    openssl("verify", "-CAfile", tmp_path / "ca.pem", "-verify_hostname", "mill",
            tmp_path / "kafka.pem")  # fmt: skip


def test_authority_that_is_renewed_renews_what_it_signed(tmp_path):
    assert not make_secrets(tmp_path).returncode
    assert not make_secrets(tmp_path, "--force", "ca.pem").returncode
    for name in ("kafka", "influx", "grafana", "serve"):
        openssl("verify", "-CAfile", tmp_path / "ca.pem", tmp_path / f"{name}.pem")


def test_host_that_a_kept_certificate_lacks_is_told_with_the_remedy(made):
    done = make_secrets(made, "--host", "other.example")
    assert done.returncode
    assert "kafka.pem does not name other.example: add it with --host" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--force", "nothing"], "unknown file nothing"),
        (["--hosts"], "unknown option --hosts"),
        (["--host"], "--host needs a value"),
        (["--host", "a b"], "--host must be a name or an address"),
        (["--host", "x\nDNS:evil"], "--host must be a name or an address"),
        (["--host", "1.2.3.999"], "--host must be a name or an address"),
        (["--host", ":"], "--host must be a name or an address"),
        (["--host", "-noout"], "--host must be a name or an address"),
        (["--days", "-3"], "--days must be a positive whole number"),
        (["--user", "0:0"], "not root"),
    ],
)
def test_wrong_use_of_make_secrets_is_refused_before_anything_is_made(tmp_path, arguments, said):
    done = make_secrets(tmp_path / "new", *arguments)
    assert done.returncode
    assert said in done.stderr
    assert not (tmp_path / "new").exists()


def test_containers_run_as_the_owner_of_the_secrets_and_never_as_root(tmp_path):
    script = shutil.copy2(DOCKER / "make_secrets.sh", tmp_path)
    done = make_secrets(None, "--host", "plant.example", script=script)
    assert not done.returncode, done.stderr
    given = dict(
        line.split("=") for line in (tmp_path / ".env").read_text("utf-8").splitlines()[1:]
    )
    uid, gid = int(given["STACK_UID"]), int(given["STACK_GID"])
    assert uid
    owners = {(f.stat().st_uid, f.stat().st_gid) for f in (tmp_path / "secrets").iterdir()}
    folders = [tmp_path / "data" / name for name in ("kafka", "influxdb", "grafana")]
    owners |= {(f.stat().st_uid, f.stat().st_gid) for f in [tmp_path / "secrets", *folders]}
    assert owners == {(uid, gid)}
    assert given["STACK_HOST"] == "plant.example"
    # Once more: the files stay with whom the containers run as.
    env_file = tmp_path / ".env"
    env_file.write_text(
        env_file.read_text("utf-8").replace(f"UID={uid}", f"UID={uid if os.getuid() else 4711}"),
        "utf-8",
    )
    assert not make_secrets(None, "--host", "plant.example", script=script).returncode
    assert (tmp_path / "secrets" / "ca.pem").stat().st_uid == (uid if os.getuid() else 4711)
    done = make_secrets(None, "--user", "4712:4712", script=script)
    assert "change STACK_UID" in done.stderr
    found = compose(STACKS["cpu"], given)
    assert not found.returncode, found.stderr


@pytest.mark.parametrize("user", ["0", "00", "+0", "root", '"1000"', "1000\r", "1000\nSTACK_UID=0"])
def test_a_stack_that_would_run_as_root_or_nobody_knows_as_whom_is_refused(tmp_path, user):
    script = shutil.copy2(DOCKER / "make_secrets.sh", tmp_path)
    (tmp_path / ".env").write_bytes(f"STACK_UID={user}\nSTACK_GID=0\n".encode())
    done = make_secrets(None, script=script)
    assert done.returncode
    assert "STACK_UID:STACK_GID is" in done.stderr
    assert not (tmp_path / "secrets").exists()


def test_git_ignores_what_is_secret_or_local():
    for name in ("secrets/ca.key", ".env", "data/kafka/x", "echowatch.env"):
        done = run("git", "check-ignore", "--quiet", f"docker/{name}", cwd=ROOT)
        assert not done.returncode, name


def test_no_file_of_docker_or_grafana_holds_a_secret():
    for file in [*tracked("docker"), *tracked("grafana")]:
        text = re.sub(r"sha256:[0-9a-f]{64}", "", file.read_text("utf-8"))
        assert "PRIVATE KEY-----" not in text, file
        assert not re.findall(r"\b[0-9a-f]{32,}\b|\beyJ[\w-]{10,}", text), file
        assert not re.findall(r"(?i)(password|token)\s*[:=]\s*[\"']?[A-Za-z0-9+/]{8,}", text), file


def start(folder, **variables):
    """start.sh with a Kafka that is `true`: what comes before it."""
    (folder / "data").mkdir(exist_ok=True)
    (folder / "bin").mkdir(exist_ok=True)
    java = folder / "bin" / "java"
    java.write_text("#!/bin/sh\nexit 0\n", "utf-8")
    java.chmod(0o755)
    given = {
        "PATH": "/usr/bin:/bin",
        "JAVA_HOME": str(folder),
        "KAFKA_DATA": str(folder / "data"),
        "KAFKA_RUN": str(folder),
        "KAFKA_SECRETS": str(folder / "secrets"),
    }
    return run("bash", DOCKER / "kafka" / "start.sh", env={**given, **variables})


@pytest.mark.parametrize("missing", ["ca.pem", "kafka.pem", "kafka_admin_password"])
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_broker_does_not_start_without_a_secret(tmp_path, made, missing, how):
    shutil.copytree(made, tmp_path / "secrets")
    (tmp_path / "secrets" / missing).unlink()
    if how == "empty":
        (tmp_path / "secrets" / missing).touch()
    done = start(tmp_path)
    assert done.returncode
    assert f"{missing} is missing, empty or not readable: docker/make_secrets.sh" in done.stderr


@pytest.mark.parametrize("user", ["0", "+0", "root", "1000:0"])
def test_broker_does_not_start_where_containers_would_be_root(tmp_path, made, user):
    shutil.copytree(made, tmp_path / "secrets")
    done = start(tmp_path, KAFKA_USER=user)
    assert done.returncode
    assert f"STACK_UID is {user}, but containers never run as root" in done.stderr
    assert not start(tmp_path, KAFKA_USER="1000").returncode
    wanted = stack("cpu")["services"]["kafka"]["environment"]["KAFKA_USER"]
    assert wanted == OURS["STACK_UID"]


def test_broker_with_an_unencrypted_listener_starts_in_dev_only(tmp_path, made):
    shutil.copytree(made, tmp_path / "secrets")
    template = {"KAFKA_TEMPLATE": str(DOCKER / "kafka" / "server.dev.properties")}
    done = start(tmp_path, **template)
    assert done.returncode
    assert "has a listener without encryption: only KAFKA_DEV=yes allows that" in done.stderr
    assert not start(tmp_path, **template, KAFKA_DEV="yes").returncode


def test_broker_whose_template_names_what_nobody_sets_does_not_start(tmp_path, made):
    shutil.copytree(made, tmp_path / "secrets")
    (tmp_path / "template").write_text("log.dirs=${KAFKA_DATUM}\n", "utf-8")
    done = start(tmp_path, KAFKA_TEMPLATE=str(tmp_path / "template"))
    assert done.returncode
    assert "wants ${KAFKA_DATUM}, which is not set" in done.stderr


def test_rendered_broker_has_no_variable_left_and_no_secret(tmp_path, made):
    shutil.copytree(made, tmp_path / "secrets")
    done = start(tmp_path, KAFKA_HOST="mill&co\\1")  # nothing is special in a value
    assert not done.returncode, done.stderr
    text = (tmp_path / "server.properties").read_text("utf-8")
    assert not re.search(r"\${\w", text)
    assert "advertised.listeners=CLIENTS://mill&co\\1:9092," in text
    assert (made / "kafka_admin_password").read_text("utf-8") not in text
    assert not (tmp_path / "format").exists()


def test_rights_name_topics_that_exist_and_principals_that_have_passwords(made):
    table = yaml.safe_load((DOCKER / "kafka" / "acls.yaml").read_text("utf-8"))
    kinds = {spec.kind for spec in specs(load({}).kafka)} | {"groups"}
    for who, given in table.items():
        assert (made / f"kafka_{who}_password").exists()
        assert given.keys() <= kinds
    # Least privilege, in the words of the table.
    assert table["ingest"]["signals"] == ["write"]
    assert not any("write" in operations for operations in table["serve"].values())
    assert [kind for kind, o in table["operator"].items() if "write" in o] == ["commands"]
    assert "write" not in table["worker"]["signals"] + table["worker"]["commands"]
