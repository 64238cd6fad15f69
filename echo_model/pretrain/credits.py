"""Attribution files of the training data in, one credits file for the weights out.

Creative Commons attribution asks for the creator, the licence with its address, the source and
whether it was changed, clip by clip; MIT, BSD and Unlicense ask for their text. Clips that were not
in the mix (share-alike ones, those of other sets) are left out.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from echo_model.pretrain.config import Recipe, SourceTable
from echo_model.pretrain.sources import Recording, indexed

CLIP_LISTS, SECTIONS = "ATTRIBUTION.txt", "ATTRIBUTION.md"
SHARE_ALIKE = re.compile(r"\bBY-SA\b")
LICENCE_TEXT = re.compile(r"-(MIT|BSD-3-Clause|Unlicense)\.")
CLIP_LINE = re.compile(r"- \[(?P<clip>[\w-]+)\.ogg\]:.*")
HEAD = """# Credits of the shipped weights

The weights in this folder were learnt from the recordings named here, besides machines that
`echo_model.pretrain.simulated` makes up. No recording is part of this package. Every clip was cut,
mixed with noise and turned into a spectrogram on the way; what was done to it before stands in its
line. Thanks to everyone named.

Licences: [CC0 1.0](https://creativecommons.org/publicdomain/zero/1.0/),
[CC BY 2.0](https://creativecommons.org/licenses/by/2.0/),
[CC BY 3.0](https://creativecommons.org/licenses/by/3.0/),
[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/),
[CC Sampling Plus 1.0](https://creativecommons.org/licenses/sampling+/1.0/); the texts of MIT, BSD
and Unlicense stand at the end."""


def credits_of(recipe: Recipe, data: Path) -> str:
    """The credits of all recordings that a recipe uses, as Markdown.

    Args:
        recipe: Of the run; sources that are not in use are left out.
        data: Folder that the recipe's paths are relative to.

    Raises:
        FileNotFoundError: A folder of recordings without an attribution file.
        ValueError: A clip without a line, or a share-alike one.
    """
    parts, texts = [HEAD], []
    for source in recipe.sources:
        if source.use and source.kind == "recordings":
            folder = data / source.path
            recordings = indexed(folder, source.include, source.licence)
            parts.append(_section(source, folder, recordings))
            texts += _licence_texts(folder / "licenses")
    parts += ["## Licence texts", *texts] if texts else []
    return "\n\n".join(parts) + "\n"


def _section(source: SourceTable, folder: Path, recordings: Sequence[Recording]) -> str:
    minutes = sum(item.seconds for item in recordings) / 60
    head = f"## Source `{source.name}`: {len(recordings)} clips, {minutes:.0f} minutes"
    if (folder / SECTIONS).is_file():
        body = _by_collection((folder / SECTIONS).read_text(encoding="utf-8"))
    elif (folder / CLIP_LISTS).is_file():
        text = (folder / CLIP_LISTS).read_text(encoding="utf-8")
        lines = _by_clip(text, [item.path.stem for item in recordings])
        body = f"{source.credit}. The set as a whole: {source.licence}.\n\n{lines}"
    else:
        raise FileNotFoundError(
            f"{folder} must hold {SECTIONS} or {CLIP_LISTS}, got neither: weights cannot be "
            "shipped without the credits of their data"
        )
    return f"{head}\n\n{body}"


def _by_collection(text: str) -> str:
    """Sections of a list by collection, share-alike ones left out."""
    sections = re.split(r"(?m)^## ", text)[1:]
    taken = [part for part in sections if not SHARE_ALIKE.search(part.splitlines()[0])]
    for part in taken:
        if SHARE_ALIKE.search(part):
            raise ValueError(f"section {part.splitlines()[0]!r} must hold no share-alike clip")
    named = "\n\n".join(f"### {part.strip()}" for part in taken)
    return f"{len(taken)} collections, each with its licence per clip.\n\n{named}"


def _by_clip(text: str, stems: Iterable[str]) -> str:
    """Lines of the clips that were used; a file's name ends in the name of its clip."""
    lines = {m["clip"]: m[0] for m in CLIP_LINE.finditer(text)}
    clips = sorted(stem.rsplit("_", 1)[-1] for stem in stems)
    missing = [clip for clip in clips if clip not in lines]
    if missing:
        raise ValueError(f"every clip must have its line, got none for {missing[:5]}")
    return "\n".join(lines[clip] for clip in clips)


def _licence_texts(folder: Path) -> list[str]:
    files = sorted(folder.glob("*")) if folder.is_dir() else []
    return [
        f"### {path.stem}\n\n```\n{path.read_text(encoding='utf-8').strip()}\n```"
        for path in files
        if LICENCE_TEXT.search(path.name)
    ]
