"""Tiny recipes, a folder of recordings, and batches to pre-train on in tests."""

import csv

import numpy as np
import soundfile
import yaml

from echo_model.pretrain.config import load_recipe

TINY = {
    "name": "tiny-test",
    "model": {"name": "test", "embed_dim": 16, "depth": 2, "num_heads": 2},
    "steps": 6,
    "log_every": 1,
    "seed": 3,
    "batch": {"tokens": 60, "clones": 2, "repeat": 2},
    "views": {"patches": [[1, 0.3], [3, 0.7]]},
    "optimiser": {"warmup_steps": 2},
    "teacher": {"layers": 2},
    "sources": [
        {
            "name": "machines", "kind": "simulated", "weight": 1.0, "licence": "own",
            "pool": 3, "fresh": 0.5,
        },
    ],
}  # fmt: skip
RECORDED = {
    "name": "recorded", "kind": "recordings", "path": "clips", "include": ["open/"],
    "weight": 2.0, "licence": "CC0 1.0",
}  # fmt: skip


def recipe_file(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(TINY | changes), encoding="utf-8")
    return path


def recipe(folder, **changes):
    return load_recipe(recipe_file(folder, **changes))


def recordings(data):
    """Two open clips, one share-alike clip and an index, under `data`/clips."""
    rng = np.random.default_rng(0)
    rows = []
    for name, rate, licence, credit in (
        ("open/a.flac", 8000, "CC BY 4.0", "Ada"),
        ("open/b.wav", 12345, "MIT", "Bo & Co"),
        ("by-sa/c.flac", 8000, "CC BY-SA 4.0", "Cy"),
    ):
        path = data / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(rate), rate)
        rows.append(
            {"file": name, "seconds": "1.0", "licence": licence, "credit": credit,
             "file_rate": str(rate)}
        )  # fmt: skip
    with (data / "clips" / "index.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return data
