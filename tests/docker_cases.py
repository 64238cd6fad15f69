"""The files of docker/ in; what compose, bash and Kubernetes would make of them out."""

import json
import lzma
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from service_process import cache, made_once, services_folder

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "docker"
K8S = DOCKER / "k8s"
PLUGIN = "docker-compose-2.40.3"
OURS = {"STACK_UID": "1234", "STACK_GID": "1234", "STACK_DATA": "/data"}
STACKS = {
    "cpu": ["compose.yaml"],
    "gpu": ["compose.yaml", "compose.gpu.yaml"],
    "fleet": ["compose.yaml", "compose.fleet.yaml"],
    "dev": ["compose.dev.yaml"],
}


def compose_binary():
    """The compose plugin, which also runs by itself and needs no engine for `config`."""
    packed = services_folder() / f"{PLUGIN}-linux-amd64.xz"
    if found := shutil.which("docker-compose"):
        return Path(found)
    kept = cache() / PLUGIN
    if not kept.exists() and not packed.exists():
        pytest.skip(f"needs docker-compose on the PATH or {packed.name} in {packed.parent}")

    def unpack(binary):
        with lzma.open(packed) as source, binary.open("wb") as target:
            shutil.copyfileobj(source, target)
        binary.chmod(0o755)

    return made_once(kept, unpack)


def compose(files, variables, *arguments):
    """`docker compose -f ... config` with just these variables; its finished process."""
    command = [compose_binary(), *(word for file in files for word in ("-f", DOCKER / file))]
    # The owner's .env, if there is one, is not to be read.
    command += ["--env-file", os.devnull, "--profile", "*", "config", "--format", "json"]
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return run(*command, *arguments, env={**kept, **variables})


def stack(name, **variables):
    """What compose makes of a stack, as a dict."""
    done = compose(STACKS[name], {**OURS, "STACK_FLEET": "/fleet.yaml", **variables})
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def secrets_of(service):
    return {secret["source"] for secret in service.get("secrets", ())}


def run(*command, **options):
    """A finished process, whatever its exit code; its words are kept."""
    program = shutil.which(str(command[0]))
    assert program, f"needs {command[0]} on the PATH"
    return subprocess.run(
        [program, *map(str, command[1:])],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        **options,
    )


def tracked(folder):
    """Files of a folder that git knows."""
    listed = run("git", "ls-files", folder, cwd=ROOT)
    return [ROOT / line for line in listed.stdout.splitlines()]


def make_secrets(folder, *arguments, script=DOCKER / "make_secrets.sh"):
    """Run make_secrets.sh; its finished process."""
    where = () if folder is None else ("--dir", folder)
    return run("bash", script, *where, *arguments)


def openssl(*arguments):
    """Output of openssl, which must succeed."""
    done = run("openssl", *arguments)
    assert not done.returncode, done.stderr
    return done.stdout


def copied():
    """Paths, relative to the project, that the Dockerfile takes from it."""
    text = re.sub(r"\\\n", " ", (DOCKER / "Dockerfile").read_text("utf-8"))
    found = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    return [path for line in found for path in line.split()]


def manifests(folder=K8S):
    """(file, document) of every manifest that is no kustomization."""
    for file in sorted(folder.rglob("*.yaml")):
        if file.name != "kustomization.yaml":
            for document in yaml.safe_load_all(file.read_text("utf-8")):
                yield file, document


def pods(documents):
    """(name, pod) of every workload."""
    for _, document in documents:
        if document["kind"] in ("StatefulSet", "Deployment", "Job"):
            yield document["metadata"]["name"], document["spec"]["template"]["spec"]
