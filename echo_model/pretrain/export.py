"""A run's state in, an encoder file in the released layout and its model card out."""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch

from echo_model.checkpoints import config_name
from echo_model.pretrain.config import Recipe, SourceTable, dump_recipe
from echo_model.pretrain.curves import draw_curves
from echo_model.pretrain.sources import Recording, indexed
from echo_model.pretrain.trainer import LOG_FILE, STATE_FILE

ENCODER_FILE, CARD_FILE, CURVES_FILE = "encoder.safetensors", "MODEL_CARD.md", "curves.svg"
MOST_CREDITS = 400
PREFIX = "objective.teacher."
LICENCE = (
    "The weights are released under the licence of this project; the credits above fulfil the "
    "attribution that CC BY asks for."
)
EVALUATION = """| test | this model | same net untrained | log-band energies |
|---|---|---|---|
| to be filled by `echowatch bench embeddings` | | | |"""
LIMITS = """- Trained for hours on a processor, not for weeks on accelerators: a start, not a peak.
- Embeddings of different sample rates are not comparable; a baseline belongs to one sensor, rate
  and model.
- Many clips are simulated machines; real ones differ in ways nobody simulated.
- It names no faults. It tells how far a signal is from what was seen before."""


def export_encoder(state: Path, recipe: Recipe, step: int, target: Path) -> str:
    """Write the averaged encoder of a run as fp16 safetensors; returns the file's SHA-256.

    The file's metadata hold the sizes, the recipe's digest and the number of steps.
    """
    tensors = safetensors.torch.load_file(state)
    weights = {
        name.removeprefix(PREFIX): tensor.to(torch.float16).contiguous()
        for name, tensor in tensors.items()
        if name.startswith(PREFIX)
    }
    config = recipe.model.sizes()
    about = {
        "config": asdict(config),
        "recipe": recipe.digest(),
        "objective": recipe.objective,
        "steps": step,
    }
    # One entry: the order of several is random, and with it the digest of the file.
    data = safetensors.torch.save(weights, {"echo": json.dumps(about)})
    target.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def write_results(recipe: Recipe, data: Path | None, out: Path, *, step: int) -> list[Path]:
    """Write encoder, model card and curves of the run in `out`; returns the files."""
    encoder, card, picture = (out / name for name in (ENCODER_FILE, CARD_FILE, CURVES_FILE))
    sha256 = export_encoder(out / STATE_FILE, recipe, step, encoder)
    log = out / LOG_FILE
    text = model_card(recipe, data, log, step=step, file=encoder.name, sha256=sha256)
    card.write_text(text, encoding="utf-8")
    draw_curves(log, picture, title=f"{recipe.name}: {recipe.objective}, {step} steps")
    return [encoder, card, picture]


def licence_counts(recordings: Sequence[Recording]) -> list[tuple[str, int, float]]:
    """(licence, clips, minutes) of some recordings, most clips first."""
    clips = Counter(item.licence for item in recordings)
    minutes: Counter[str] = Counter()
    for item in recordings:
        minutes[item.licence] += item.seconds / 60  # type: ignore[assignment]
    return [(name, count, float(minutes[name])) for name, count in clips.most_common()]


def model_card(
    recipe: Recipe, data: Path | None, log: Path, *, step: int, file: str, sha256: str
) -> str:
    """The model card as Markdown: what it is, learnt from what, how, and how far to trust it."""
    sizes = recipe.model.sizes()
    rows = _log_rows(log)
    last = rows[-1] if rows else {}
    hours = float(last.get("seconds", 0)) / 3600
    facts = (
        f"- File: `{file}`, SHA-256 `{sha256}`, fp16 safetensors in the released layout\n"
        f"- Objective: {recipe.objective}, {step} steps, {hours:.1f} h, seed {recipe.seed}, "
        f"{recipe.precision}\n"
        f"- Last losses: patch {last.get('patch', '-')}, band {last.get('band', '-')}; effective "
        f"rank of embeddings {last.get('rank', '-')}"
    )
    what = (
        "Encoder for vibration and sound at any sample rate (arXiv 2508.14689), trained from "
        f"scratch without labels: {_count(recipe)} trained parameters (width {sizes.embed_dim}, "
        f"depth {sizes.depth}, heads {sizes.num_heads})."
    )
    parts = (
        f"# ECHO {config_name(sizes)}: model card",
        what,
        facts,
        f"## Data and credits\n\n{_data_section(recipe, data)}",
        f"## Licence\n\n{LICENCE}",
        f"## Evaluation\n\n{EVALUATION}",
        f"## Limits\n\n{LIMITS}",
        f"## Recipe\n\n```yaml\n{dump_recipe(recipe)}```",
    )
    return "\n\n".join(parts) + "\n"


def _data_section(recipe: Recipe, data: Path | None) -> str:
    total = sum(source.weight for source in recipe.sources if source.use)
    lines = [
        "| source | share of clips | clips | minutes | licence | credit |",
        "|---|---|---|---|---|---|",
    ]
    named: list[str] = []
    for source in recipe.sources:
        if not source.use:
            continue
        share = f"{100 * source.weight / total:.0f} %"
        found = _found(source, data)
        clips = str(len(found)) if found else "on the fly"
        minutes = f"{sum(item.seconds for item in found) / 60:.0f}" if found else "-"
        cells = (source.name, share, clips, minutes, source.licence, source.credit)
        lines.append(f"| {' | '.join(cells)} |")
        named += [
            f"- {source.name}: {count} clips, {length:.1f} min, {name}"
            for name, count, length in licence_counts(found)
        ]
        named += _names(source, found)
    left_out = [source.name for source in recipe.sources if not source.use]
    lines += ["", f"Left out: {', '.join(left_out)}."] if left_out else []
    lines += ["", "No CWRU, FEMTO or gearbox recording was used; they are test data."]
    return "\n".join([*lines, "", *named])


def _names(source: SourceTable, found: Sequence[Recording]) -> list[str]:
    """Everyone who must be named, once per source."""
    names = sorted({item.credit.strip() for item in found if item.credit.strip()})
    if not names:
        return []
    more = f" and {len(names) - MOST_CREDITS} more" if len(names) > MOST_CREDITS else ""
    return [f"- credits of {source.name}: " + "; ".join(names[:MOST_CREDITS]) + more]


def _found(source: SourceTable, data: Path | None) -> list[Recording]:
    if source.kind == "simulated" or data is None:
        return []
    return indexed(data / source.path, source.include, source.licence)


def _count(recipe: Recipe) -> str:
    s = recipe.model.sizes()
    d = s.embed_dim
    layer = 12 * d * d + 13 * d
    return f"{s.depth * layer + s.band_width * s.patch_frames * d + 4 * d:,}"


def _log_rows(log: Path) -> list[dict[str, str]]:
    if not log.is_file():
        return []
    with log.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
