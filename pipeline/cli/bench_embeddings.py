"""`echowatch bench embeddings`: encoders and test sets in, figures with intervals out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from pipeline.terminal import steps

if TYPE_CHECKING:
    from collections.abc import Collection

    from pipeline.bench.figures import Figure
    from pipeline.bench.representations import Representation
    from pipeline.bench.sets import Bench

EXIT_USAGE = 2
DEFAULT_MODEL = "nano"
FILE_WIDTH = 140

console = Console(stderr=True, highlight=False, emoji=False)
EPILOG = (
    "Sets whose folder is missing in --data are left out by name. --out gets embeddings.csv, "
    "embeddings.json and embeddings.svg. Exit codes: 0 done, 1 could not be done, 2 wrong usage "
    "(unknown model, set, distance or folder), 130 interrupted."
)


def bench_embeddings(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Shipped names, checkpoint files or untrained:NAME; default nano."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Folder with cwru_12k, gearbox_gfd, esc10, femto_*."
        ),
    ] = None,
    sets: Annotated[str, typer.Option(help="Names with commas between; default all.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Draws of noise, gain and machines.")] = 3,
    distance: Annotated[
        str, typer.Option(help="task, euclid, cosine, whitened, band-z; several with commas.")
    ] = "task",
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for results; made if absent.")
    ] = Path("echowatch-bench"),
    without_level: Annotated[
        bool, typer.Option("--without-level", help="Bring every window to one RMS first.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer windows, one seed.")] = False,
) -> None:
    """Compare encoders with the same network untrained, log-band energies, RMS + kurtosis.

    All see the same windows, noise and gains, so differences are paired; intervals are 95 %,
    bootstrapped over recordings.
    """
    import torch

    from pipeline.bench.representations import chosen
    from pipeline.bench.sets import Bench

    wanted = _known_sets(sets)
    distances = _known_distances(distance)
    torch.set_num_threads(1)
    try:
        out.mkdir(parents=True, exist_ok=True)  # before minutes of work
    except OSError as error:
        _refuse(f"--out must be a folder that can be made: {error}")
    try:
        representations = chosen(models or [DEFAULT_MODEL])
    except ValueError as error:
        _refuse(str(error))
    bench = Bench(
        tuple(representations), data, 1 if quick else seeds, distances, quick, without_level
    )
    figures = _run(bench, wanted)
    if not figures:
        _refuse("no set could be run: give the folder of the recordings with --data")
    _show(figures, distances)
    _write(out, figures, bench)


def _known_sets(text: str) -> list[str]:
    from pipeline.bench.catalogue import SETS

    return _named("--sets", text, SETS) or list(SETS)


def _known_distances(text: str) -> tuple[str, ...]:
    from pipeline.bench.neighbours import DISTANCES, TASK

    return tuple(_named("--distance", text, (TASK, *DISTANCES))) or (TASK,)


def _named(option: str, text: str, known: "Collection[str]") -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            _refuse(f"{option} must be of {', '.join(known)}, got {name!r}")
    return list(dict.fromkeys(names))


def _refuse(text: str) -> NoReturn:
    console.print(f"error: {text}", markup=False, style="bold red", soft_wrap=True)
    raise typer.Exit(EXIT_USAGE)


def _run(bench: "Bench", names: list[str]) -> "list[Figure]":
    from dataclasses import replace

    from pipeline.bench.catalogue import SETS

    present = []
    for name in names:
        missing = bench.missing(SETS[name].folders)
        if missing:
            console.print(f"{name} left out: no {missing} in --data", markup=False)
        else:
            present.append(name)
    found: list[Figure] = []
    total = sum(SETS[name].steps(bench) for name in present)
    with steps(console, total) as advance:
        running = replace(bench, advance=advance)
        for name in present:
            found += SETS[name].run(running)
    return found


def _show(figures: "list[Figure]", distances: tuple[str, ...]) -> None:
    from pipeline.bench.catalogue import SETS
    from pipeline.bench.report import differences, overall, table

    stdout = Console(highlight=False, emoji=False)
    if not stdout.is_terminal:
        stdout.width = FILE_WIDTH
    for distance in distances:
        suffix = f", distance {distance}" if len(distances) > 1 else ""
        for name in dict.fromkeys(f.set for f in figures):
            part = [f for f in figures if f.set == name]
            stdout.print(table(part, SETS[name].title + suffix, distance), "")
        if means := overall(figures):
            stdout.print(table(means, f"Mean of the sets{suffix}", distance), "")
        stdout.print(differences(figures, distance), "")


def _write(out: Path, figures: "list[Figure]", bench: "Bench") -> None:
    from pipeline.bench.catalogue import SETS
    from pipeline.bench.picture import draw
    from pipeline.bench.report import overall, write_csv, write_json

    everything = [*figures, *overall(figures)]
    write_csv(out / "embeddings.csv", everything)
    about = {
        "seeds": bench.seeds,
        "quick": bench.quick,
        "without_level": bench.level_removed,
        "models": {r.name: _model_id(r) for r in bench.representations if r.engine is not None},
    }
    write_json(out / "embeddings.json", everything, about)
    draw(
        out / "embeddings.svg",
        [f for f in figures if f.distance in (bench.distances[0], "")],
        {r.name: r.kind for r in bench.representations},
        {name: known.title for name, known in SETS.items()},
        f"Seeds: {bench.seeds}, 95 % intervals over recordings, distance "
        f"{bench.distances[0]}{', level removed' if bench.level_removed else ''}"
        f"{'; quick' if bench.quick else ''}",
    )
    console.print(f"wrote {out}/embeddings.csv, .json, .svg", markup=False, soft_wrap=True)


def _model_id(representation: "Representation") -> str:
    assert representation.engine is not None  # noqa: S101  (for the type checker)
    return representation.engine.model_id
