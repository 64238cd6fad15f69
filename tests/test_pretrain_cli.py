"""Laws of `echowatch pretrain` at the command line."""

import pytest
import torch

from pipeline.cli import main
from pretrain_cases import RECORDED, TINY, recipe_file, recordings


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def pretrain(*arguments):
    """Exit code of the command."""
    try:
        main(["pretrain", *map(str, arguments)])
    except SystemExit as end:
        return end.code or 0
    return 0


def test_a_run_leaves_everything_in_its_folder_and_can_be_prolonged(tmp_path, capsys):
    out = tmp_path / "run"
    assert pretrain(recipe_file(tmp_path, steps=2), "--out", out) == 0
    names = {"state.safetensors", "log.csv", "curves.svg", "recipe.yaml", "encoder.safetensors"}
    assert {path.name for path in out.iterdir()} == names | {"MODEL_CARD.md"}
    assert "step 2/2" in capsys.readouterr().err
    assert pretrain(recipe_file(tmp_path, steps=3), "--out", out, "--resume") == 0
    assert "3 steps" in (out / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_a_run_is_never_overwritten(tmp_path, capsys):
    path, out = recipe_file(tmp_path, steps=1), tmp_path / "run"
    assert pretrain(path, "--out", out) == 0
    assert pretrain(path, "--out", out) == 1
    assert "add --resume" in capsys.readouterr().err


def test_another_recipe_is_refused_on_resume(tmp_path, capsys):
    out = tmp_path / "run"
    assert pretrain(recipe_file(tmp_path, steps=1), "--out", out) == 0
    assert pretrain(recipe_file(tmp_path, seed=8), "--out", out, "--resume") == 1
    assert "recipe it was started with" in capsys.readouterr().err


def test_nothing_to_resume_is_said(tmp_path, capsys):
    assert pretrain(recipe_file(tmp_path), "--out", tmp_path / "run", "--resume") == 1
    assert "start without --resume" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    out = tmp_path / "run"
    assert pretrain(recipe_file(tmp_path), "--out", out, "--dry-run") == 0
    assert "ms per step" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("given", [False, True])
def test_missing_data_are_named_with_the_remedy(tmp_path, capsys, given):
    path = recipe_file(tmp_path, sources=[*TINY["sources"], RECORDED])
    data = ["--data", tmp_path / "nowhere"] if given else []
    assert pretrain(path, "--out", tmp_path / "run", *data) == 1
    told = capsys.readouterr().err
    assert "--data" in told
    assert ("index.csv" in told) == given
    assert not (tmp_path / "run").exists()


def test_the_data_folder_may_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("ECHO_PRETRAIN_DATA", str(recordings(tmp_path / "data")))
    path = recipe_file(tmp_path, steps=1, sources=[RECORDED])
    assert pretrain(path, "--out", tmp_path / "run") == 0
    assert "Bo & Co" in (tmp_path / "run" / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_a_config_that_is_no_file_is_named(tmp_path, capsys):
    assert pretrain(tmp_path / "none.yaml", "--out", tmp_path / "run") == 1
    told = capsys.readouterr().err
    assert "none.yaml" in told
    assert "pretrain nano" in told


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_refused(tmp_path, capsys):
    assert pretrain(recipe_file(tmp_path), "--out", tmp_path / "run", "--device", "cuda") == 1
    assert "--device must be cpu" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "gpu", "cuda:x"])
def test_a_device_that_is_none_is_refused(tmp_path, capsys, text):
    assert pretrain(recipe_file(tmp_path), "--out", tmp_path / "run", "--device", text) == 1
    assert "--device must be cpu" in capsys.readouterr().err


def test_a_damaged_state_is_said(tmp_path, capsys):
    out = tmp_path / "run"
    path = recipe_file(tmp_path, steps=1)
    assert pretrain(path, "--out", out) == 0
    (out / "state.safetensors").write_bytes(b"not a state")
    assert pretrain(path, "--out", out, "--resume") == 1
    assert "must be the state of a run" in capsys.readouterr().err
