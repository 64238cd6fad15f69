import re
from pathlib import Path

from typer.main import get_command

from echo_model.checkpoints import CONFIGS
from pipeline.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_command_is_in_the_readme_and_nothing_else():
    described = set(re.findall(r"^\| `echowatch (\w+)", README, re.MULTILINE))
    assert described == set(get_command(app).commands)


def test_every_model_is_in_the_readme_with_its_sizes():
    rows = re.findall(r"^\| `(\w+)`[^|]*\| (\d+) \| (\d+) \| (\d+) \|", README, re.MULTILINE)
    found = {name: tuple(map(int, sizes)) for name, *sizes in rows}
    assert found == {n: (c.embed_dim, c.depth, c.num_heads) for n, c in CONFIGS.items()}


def test_every_local_link_leads_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_make_target_in_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make (\w+)", README, re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
