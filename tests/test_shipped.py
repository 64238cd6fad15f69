"""The weights that travel with the package: trained, small, credited, pinned and in the wheel."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from echo_model import checkpoints
from echo_model.checkpoints import CONFIGS
from echo_model.echo import Echo
from echo_model.pretrain.credits import credits_of
from echo_model.pretrain.export import write_results
from echo_model.pretrain.ship import ship
from echo_model.pretrain.trainer import Trainer
from pipeline.encoders import load_engine
from pipeline.settings import load
from pretrain_cases import RECORDED, recipe, recordings

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "echo_model" / "weights"
SECTIONS = """# Credits

## set - someone/set

- a: Ada | CC BY 4.0 | https://example.org/a | changed: cut
- b: Bo & Co | MIT | b.wav | changed: cut

## set (CC BY-SA) - someone/set

- c: Cy | CC BY-SA 4.0 | https://example.org/c | changed: cut
"""

torch.set_num_threads(1)


def test_the_default_model_is_trained() -> None:
    engine = load_engine(load({}))
    _, digest = checkpoints.SHIPPED["nano"]
    assert engine.trained
    assert engine.model_id == f"echo-nano-{digest[:8]}"
    untrained = load_engine(load({}, model="untrained:nano"))
    assert not untrained.trained
    assert untrained.model_id == "echo-nano-untrained-s0"


@pytest.mark.parametrize("name", checkpoints.SHIPPED)
def test_shipped_weights_are_small_half_floats_of_the_size_of_their_name(name: str) -> None:
    path = WEIGHTS / checkpoints.SHIPPED[name][0]
    assert path.stat().st_size <= {"nano": 3_000_000, "tiny": 12_000_000}[name]
    assert {t.dtype for t in safetensors.torch.load_file(path).values()} == {torch.float16}
    assert Echo.from_pretrained(name).config == CONFIGS[name]


def test_card_and_credits_lie_beside_the_shipped_weights() -> None:
    card = (WEIGHTS / "MODEL_CARD.md").read_text(encoding="utf-8")
    for _, digest in checkpoints.SHIPPED.values():
        assert digest in card
    credit = (WEIGHTS / "CREDITS.md").read_text(encoding="utf-8")
    assert "BY-SA" not in credit
    for source, clips in re.findall(r"^- (\w+): (\d+) clips", card, re.MULTILINE):
        named = re.search(rf"^## Source `{source}`: (\d+) clips", credit, re.MULTILINE)
        assert named, source
        assert int(named[1]) >= int(clips)
    for about in ("Permission is hereby granted", "Redistribution and use in source"):
        assert about in credit


def test_the_wheel_holds_all_that_the_checkout_does(tmp_path: Path) -> None:
    for name in ("pipeline", "echo_model", "connectors"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    build = "from setuptools import build_meta; build_meta.build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        held = set(wheel.namelist())
    for path in WEIGHTS.iterdir():
        assert f"echo_model/weights/{path.name}" in held
    modules = {
        str(path.relative_to(tmp_path))
        for name in ("pipeline", "echo_model", "connectors")
        for path in (tmp_path / name).rglob("*.py")
    }
    assert modules <= held


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of a few steps with the sizes of nano."""
    data = recordings(tmp_path / "data")
    (data / "clips" / "ATTRIBUTION.md").write_text(SECTIONS, encoding="utf-8")
    (data / "clips" / "licenses").mkdir()
    (data / "clips" / "licenses" / "set-MIT.txt").write_text("MIT License, Bo", encoding="utf-8")
    (data / "clips" / "licenses" / "set-credits.md").write_text("a list", encoding="utf-8")
    chosen = recipe(tmp_path, model={"name": "nano"}, sources=[RECORDED], steps=2)
    trainer = Trainer(chosen, data, tmp_path / "run")
    trainer.start()
    trainer.run()
    write_results(chosen, data, tmp_path / "run", step=trainer.step)
    package = tmp_path / "package"
    package.mkdir()
    shutil.copy(ROOT / "echo_model" / "checkpoints.py", package)
    return tmp_path


def test_a_shipped_run_is_pinned_carded_and_credited(run: Path) -> None:
    digest = ship(run / "run", run / "data", package=run / "package", evaluation="| a | b |")
    before = (ROOT / "echo_model" / "checkpoints.py").read_text(encoding="utf-8")
    after = (run / "package" / "checkpoints.py").read_text(encoding="utf-8")
    assert after == before.replace(checkpoints.SHIPPED["nano"][1], digest) != before
    weights = run / "package" / "weights"
    assert Echo.from_pretrained(weights / "nano.safetensors", sha256=digest).trained
    card = (weights / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"`nano.safetensors`, SHA-256 `{digest}`" in card
    assert "## Evaluation\n\n| a | b |\n\n## Limits" in card
    assert "Ada" not in card
    credit = (weights / "CREDITS.md").read_text(encoding="utf-8")
    assert "- a: Ada | CC BY 4.0 | https://example.org/a" in credit
    assert "MIT License, Bo" in credit
    assert "a list" not in credit
    assert "Cy" not in credit


def test_a_run_without_credits_is_not_shipped(run: Path) -> None:
    (run / "data" / "clips" / "ATTRIBUTION.md").unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold ATTRIBUTION\.md or ATTRIBUTION\.txt"):
        ship(run / "run", run / "data", package=run / "package")
    (run / "data" / "clips" / "ATTRIBUTION.txt").write_text(
        "- [a.ogg]:  clip by Ada [CC0]\n- [x.ogg]: not used\n", encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"must have its line, got none for \['b'\]"):
        ship(run / "run", run / "data", package=run / "package")
    assert not (run / "package" / "weights" / "nano.safetensors").exists()


def test_weights_of_another_size_or_card_are_not_shipped(run: Path) -> None:
    card = run / "run" / "MODEL_CARD.md"
    text = card.read_text(encoding="utf-8")
    card.write_text(re.sub("[0-9a-f]{64}", "0" * 64, text), encoding="utf-8")
    with pytest.raises(ValueError, match=r"must be the file of its MODEL_CARD\.md"):
        ship(run / "run", run / "data", package=run / "package")
    Echo(CONFIGS["nano"]).save(run / "run" / "encoder.safetensors")
    with pytest.raises(ValueError, match="must hold fp16 only"):
        ship(run / "run", run / "data", package=run / "package")


def test_share_alike_clips_never_slip_into_the_credits(run: Path) -> None:
    list_ = run / "data" / "clips" / "ATTRIBUTION.md"
    list_.write_text(SECTIONS.replace("set (CC BY-SA)", "set two"), encoding="utf-8")
    with pytest.raises(ValueError, match="must hold no share-alike clip"):
        credits_of(recipe(run / "other", sources=[RECORDED]), run / "data")
