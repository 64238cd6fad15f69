"""`echowatch pretrain`: a recipe and openly licensed signals in, encoder weights out."""

import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

if TYPE_CHECKING:
    from echo_model.pretrain.trainer import Progress, Trainer

console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

CUDA = re.compile(r"cuda(:\d+)?")
EPILOG = (
    "The folder --out holds state, log.csv, curves.svg, recipe.yaml and, when training ends or is "
    "stopped, the encoder with its model card. Ctrl-C stores the state; --resume goes on. Exit "
    "codes: 0 done, 1 could not be done, 2 wrong usage, 130 interrupted."
)


def pretrain(
    config: Annotated[str, typer.Argument(help="YAML recipe, or nano for the shipped one.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the run; made if absent.")
    ] = Path("echowatch-pretrain"),
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder that the recipe's paths are relative to.",
            envvar="ECHO_PRETRAIN_DATA",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    minutes: Annotated[
        float | None,
        typer.Option(help="Fit what is left of the schedule into this time.", min=0.01),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of the processor.", min=1)] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda[:N].")] = "cpu",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check recipe and data, time a few steps, write nothing."),
    ] = False,
    export: Annotated[
        bool,
        typer.Option("--export", help="Only write encoder, card and curves of the run in --out."),
    ] = False,
) -> None:
    """Train an encoder from scratch, without labels, on any machine."""
    import torch

    from pipeline.commands import RunError
    from pipeline.memory import TRAINING_BYTES, keep_memory

    keep_memory(TRAINING_BYTES, arenas=1)

    torch.set_num_threads(threads)
    try:
        trainer = _trainer(config, data, out, device)
        if export or resume:
            trainer.resume()
        elif not dry_run:
            trainer.start()
    except ValueError as error:
        raise RunError(str(error)) from error
    if dry_run:
        _try(trainer)
        return
    try:
        if not export:
            _train(trainer, minutes)
    except FloatingPointError as error:
        raise RunError(str(error)) from error
    finally:
        if trainer.step:
            _export(trainer, data)


def _trainer(config: str, data: Path | None, out: Path, device: str) -> "Trainer":
    import torch

    from echo_model.pretrain.config import load_recipe, shipped_recipe
    from echo_model.pretrain.trainer import Trainer

    if device != "cpu" and not (CUDA.fullmatch(device) and torch.cuda.is_available()):
        there = "cpu or cuda[:N]" if torch.cuda.is_available() else "cpu (no CUDA device here)"
        raise ValueError(f"--device must be {there}, got {device!r}")
    shipped = shipped_recipe(config)
    recipe = load_recipe(Path(config) if shipped is None else shipped)
    return Trainer(recipe, data, out, device=device)


def _train(trainer: "Trainer", minutes: float | None) -> None:
    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        trainer.run(minutes=minutes, show=_show)
    finally:
        signal.signal(signal.SIGTERM, before)


def _show(progress: "Progress") -> None:
    row = progress.row
    console.print(
        f"step {progress.step}/{progress.steps}  loss {row['loss']:.3f} (patch {row['patch']:.3f}, "
        f"band {row['band']:.3f})  rank {row['rank']:.1f}  {row['tokens_per_s']:.0f} tokens/s "
        f"({100 * row['data_share']:.0f} % data)  to go {_clock(progress.eta_s)}",
        markup=False,
    )
    for warning in progress.warnings:
        console.print(f"warning: {warning}", markup=False, style="yellow")


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h"


def _try(trainer: "Trainer") -> None:
    """Time a few steps without writing anything."""
    report = trainer.rehearse()
    console.print(
        f"recipe and data are fine: {report.parameters:,} encoder parameters, "
        f"{report.step_s * 1000:.0f} ms per step, {report.tokens_per_s:.0f} tokens/s, "
        f"{100 * report.data_share:.0f} % of the time for data, about "
        f"{_clock(report.step_s * trainer.schedule.steps)} for {trainer.schedule.steps} steps",
        markup=False,
    )


def _export(trainer: "Trainer", data: Path | None) -> None:
    from echo_model.pretrain.export import write_results

    for path in write_results(trainer.recipe, data, trainer.out, step=trainer.step):
        console.print(f"wrote {path}", markup=False)
