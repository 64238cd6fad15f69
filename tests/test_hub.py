"""Published checkpoints: through the real client, a hub on loopback and a cache of their own."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from echo_model import checkpoints, hub
from echo_model.checkpoints import CONFIGS
from echo_model.echo import Echo
from hub_server import COMMIT, serving
from pipeline.encoders import ModelError, load_engine
from pipeline.settings import load

TINY, SMALL = "yucongzh/echo-tiny-0828", "yucongzh/ECHO"
DATA = b"what the hub holds" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()
FILES = {f"{TINY}/model.safetensors": DATA, f"{SMALL}/ECHO-small.pth": b"pth" + DATA}
NOWHERE = "http://127.0.0.1:9"
# No torch in these: what is tested is where the file comes from.
FETCH = """
import json, sys
if sys.argv[2] == "no-extra":
    sys.modules["huggingface_hub"] = None
from echo_model.hub import fetch
try:
    path, digest = fetch(sys.argv[1])
    print(json.dumps([str(path), digest]))
except FileNotFoundError as error:
    print(json.dumps(str(error)))
"""


def client(code, home, *arguments, endpoint=NOWHERE, **variables):
    """Run code with the client's variables, which it reads when it is imported."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE"))}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1"}
    environment = {**kept, **quiet, "HF_HOME": str(home), "HF_ENDPOINT": endpoint, **variables}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
        cwd=Path(__file__).resolve().parents[1],
    )  # fmt: skip


def fetch(home, name, extra="", **variables):
    done = client(FETCH, home, name, extra, **variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_a_published_file_is_fetched_once_and_then_used_without_network(tmp_path):
    with serving(FILES) as server:
        (path, digest), told = fetch(tmp_path, TINY, endpoint=server.url)
        assert Path(path).read_bytes() == DATA
        assert digest == DIGEST
        assert f"name it {TINY}@{COMMIT}" in told
        assert sum(line.startswith("GET") for line in server.asked) == 1
        server.asked.clear()
        assert fetch(tmp_path, TINY, endpoint=server.url)[0] == [path, digest]
        assert server.asked == []
    assert fetch(tmp_path, TINY)[0] == [path, digest]
    assert fetch(tmp_path, TINY, HF_HUB_OFFLINE="1")[0] == [path, digest]


def test_a_revision_is_kept_to(tmp_path):
    with serving(FILES) as server:
        (path, digest), told = fetch(tmp_path, f"{SMALL}@{COMMIT}", endpoint=server.url)
        assert Path(path).name == "ECHO-small.pth"
        assert digest == hashlib.sha256(b"pth" + DATA).hexdigest()
        assert "name it" not in told
        told = fetch(tmp_path, f"{SMALL}@main", endpoint=server.url)[1]
        assert f"name it {SMALL}@{COMMIT}" in told  # a branch moves
        server.asked = [line for line in server.asked if "/resolve/main/" not in line]
        assert all(f"/resolve/{COMMIT}/" in line for line in server.asked)
        text, _ = fetch(tmp_path, f"{SMALL}@v9", endpoint=server.url)
        assert "ECHO-small.pth of yucongzh/ECHO at v9 is neither" in text


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({}, "no connection"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"extra": "no-extra"}, "pip install 'echowatch[hub]'"),
    ],
)
def test_out_of_reach_says_in_one_line_what_was_tried_and_what_to_do(tmp_path, variables, why):
    text, _ = fetch(tmp_path, TINY, **variables)
    assert why in text
    assert "download model.safetensors elsewhere" in text
    assert "ECHOWATCH_MODEL" in text
    assert "docs/models.md" in text
    assert "\n" not in text
    assert len(text) < 400


def test_a_file_that_the_hub_does_not_hold_is_named(tmp_path):
    with serving({}) as server:
        text, _ = fetch(tmp_path, TINY, endpoint=server.url)
    assert "model.safetensors of yucongzh/echo-tiny-0828 at main" in text


def cached(home, name, data):
    """A file in the cache's own layout, as its documentation describes it."""
    known = hub.PUBLISHED[name]
    folder = home / "hub" / f"models--{name.replace('/', '--')}"
    digest = hashlib.sha256(data).hexdigest()
    for part in ("blobs", "refs", f"snapshots/{COMMIT}"):
        (folder / part).mkdir(parents=True)
    (folder / "blobs" / digest).write_bytes(data)
    (folder / "refs" / "main").write_text(COMMIT, encoding="ascii")
    link = folder / "snapshots" / COMMIT / known.file
    link.symlink_to(Path("../../blobs") / digest)
    return digest, folder / "blobs" / digest


LOAD = """
import sys
from echo_model.echo import Echo
try:
    print(Echo.from_pretrained(sys.argv[1]).model_id)
except ValueError as error:
    print(error)
"""


def test_a_cached_checkpoint_of_the_published_layout_is_loaded_and_checked(tmp_path):
    weights = Echo(CONFIGS["tiny"], seed=4).state_dict()
    half = {name: tensor.to(torch.float16) for name, tensor in weights.items()}
    digest, blob = cached(tmp_path, TINY, safetensors.torch.save(half))
    done = client(LOAD, tmp_path, TINY, HF_HUB_OFFLINE="1")
    assert done.stdout.strip() == f"echo-tiny-{digest[:8]}", done.stderr
    blob.write_bytes(blob.read_bytes()[:-2] + b"\0\1")
    done = client(LOAD, tmp_path, TINY, HF_HUB_OFFLINE="1")
    assert f"must have SHA-256 {digest}" in done.stdout, done.stderr


def test_other_sizes_than_the_published_ones_are_refused():
    checkpoints.check_size(TINY, CONFIGS["tiny"])
    checkpoints.check_size(f"{SMALL}@{COMMIT}", CONFIGS["small"])
    checkpoints.check_size("nano", CONFIGS["tiny"])
    with pytest.raises(ValueError, match=f"{TINY} must be tiny, got small"):
        checkpoints.check_size(TINY, CONFIGS["small"])


def test_a_local_file_of_a_published_checkpoint_needs_no_hub(tmp_path):
    torch.save({"encoder": Echo(CONFIGS["tiny"], seed=4).state_dict()}, tmp_path / "ECHO-tiny.pth")
    engine = load_engine(load({}, model=str(tmp_path / "ECHO-tiny.pth")))
    assert engine.trained
    assert engine.model_id.startswith("echo-tiny-")
    with pytest.raises(ModelError, match="got 'yucongzh/echo-tniy'"):
        load_engine(load({}, model="yucongzh/echo-tniy"))
