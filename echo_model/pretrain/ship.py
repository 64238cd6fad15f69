"""A finished run in, the weights that travel with the package out.

    python -m echo_model.pretrain.ship RUN --data DIR [--evaluation TABLE.md]

Copies the exported encoder into `echo_model/weights`, writes its card and the credits of its data
beside it, and pins its digest in `echo_model/checkpoints.py`. For a checkout, not an installation.
"""

import argparse
import re
import sys
from pathlib import Path

import safetensors.torch
import torch

from echo_model import checkpoints
from echo_model.echo import Echo
from echo_model.pretrain.config import load_recipe
from echo_model.pretrain.credits import credits_of
from echo_model.pretrain.export import CARD_FILE, ENCODER_FILE
from echo_model.pretrain.trainer import RECIPE_FILE

MOST_BYTES = 3_000_000
CREDITS_FILE = "CREDITS.md"
AFTERWARDS = """Now measure what stands in words and figures, and mend what differs:
  python -m pytest tests/test_checkpoints.py tests/test_shipped.py tests/test_recordings.py
  python benchmarks/recordings.py        # tables of README.md, "What it finds"
  make test
Baselines learnt with the weights before are not used with these: sensors learn anew."""


def ship(
    run: Path,
    data: Path,
    *,
    package: Path = Path(checkpoints.__file__).parent,
    evaluation: str | None = None,
) -> str:
    """Make a run's encoder the shipped one of its size; returns its SHA-256.

    Args:
        run: Folder of `echowatch pretrain`.
        data: Folder that the recipe's paths are relative to.
        package: Folder of `checkpoints.py`; its `weights` receives the files.
        evaluation: Markdown for the card's section of that name; None leaves it.

    Raises:
        FileNotFoundError: A file of the run is missing.
        ValueError: The encoder is none of the named sizes, too large, not fp16, or not the one of
            the card.
    """
    encoder, card = run / ENCODER_FILE, (run / CARD_FILE).read_text(encoding="utf-8")
    model = Echo.from_pretrained(encoder)
    digest = model.sha256 or ""
    name = checkpoints.config_name(model.config)
    _check(encoder, name, digest, card)
    weights = package / "weights"
    weights.mkdir(exist_ok=True)
    credit = credits_of(load_recipe(run / RECIPE_FILE), data)
    (weights / f"{name}.safetensors").write_bytes(encoder.read_bytes())
    (weights / CREDITS_FILE).write_text(credit, encoding="utf-8")
    (weights / CARD_FILE).write_text(_card(card, name, evaluation), encoding="utf-8")
    _pin(package / "checkpoints.py", name, digest)
    return digest


def _check(encoder: Path, name: str, digest: str, card: str) -> None:
    if name not in checkpoints.CONFIGS:
        raise ValueError(f"{encoder} must have a size of {list(checkpoints.CONFIGS)}, got {name}")
    size = encoder.stat().st_size
    if name == "nano" and size > MOST_BYTES:
        raise ValueError(f"{encoder} must have at most {MOST_BYTES} bytes, got {size}")
    kinds = {tensor.dtype for tensor in safetensors.torch.load_file(encoder).values()}
    if kinds != {torch.float16}:
        raise ValueError(f"{encoder} must hold fp16 only, got {kinds}: export it again")
    if digest not in card:
        raise ValueError(f"{encoder} must be the file of its {CARD_FILE}: export both again")


def _card(text: str, name: str, evaluation: str | None) -> str:
    """The run's card for readers of the package: its file's name there, all credits in one file."""
    text = text.replace(f"`{ENCODER_FILE}`", f"`{name}.safetensors`")
    text = re.sub(r"(?m)^- credits of .*\n", "", text).replace("ATTRIBUTION.md", CREDITS_FILE)
    # A count in words of the recipe; the credits count what was used.
    text = re.sub(r"\d+ openly licensed collections", "openly licensed collections", text)
    text = text.replace(
        "## Licence\n",
        f"Everyone who must be named: [{CREDITS_FILE}]({CREDITS_FILE}).\n\n## Licence\n",
    )
    if evaluation is not None:
        section = f"## Evaluation\n\n{evaluation.strip()}\n\n"
        text = re.sub(r"(?ms)^## Evaluation\n.*?(?=^## )", lambda _: section, text)
    return text


def _pin(source: Path, name: str, digest: str) -> None:
    """Write a digest into `SHIPPED`."""
    text = source.read_text(encoding="utf-8")
    file = f"{name}.safetensors"
    old = rf'("{re.escape(file)}",\s+")[0-9a-f]{{64}}"'
    found, count = re.subn(old, rf'\g<1>{digest}"', text)
    if not count:
        first = "SHIPPED: dict[str, tuple[str, str]] = {\n"
        entry = f'    "{name}": (\n        "{file}",\n        "{digest}",\n    ),\n'
        found = text.replace(first, first + entry)
        if found == text:
            raise ValueError(f"{source} must hold SHIPPED with one entry per line")
    source.write_text(found, encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of echowatch pretrain")
    parser.add_argument("--data", type=Path, required=True, help="its training data")
    parser.add_argument("--evaluation", type=Path, help="Markdown for the card")
    asked = parser.parse_args()
    table = asked.evaluation.read_text(encoding="utf-8") if asked.evaluation else None
    try:
        digest = ship(asked.run, asked.data, evaluation=table)
    except (OSError, ValueError) as error:
        sys.exit(f"not shipped: {error}")
    sys.stdout.write(f"shipped, SHA-256 {digest}\n{AFTERWARDS}\n")


if __name__ == "__main__":
    main()
