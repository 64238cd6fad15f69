"""A recipe and a data folder in, training steps, a log and a resumable state out.

A step is a function of the state and its number alone: data, masks and schedule are drawn from the
seed and the step. A stopped run that is resumed therefore goes on bit for bit (one thread, one
machine), unless `minutes` fits the schedule to the clock.
"""

import csv
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echo_model.pretrain.collapse import collapse_signs, effective_rank
from echo_model.pretrain.config import Recipe, SourceTable, dump_recipe
from echo_model.pretrain.objectives import (
    Hidden,
    Losses,
    MaskedAutoencoder,
    TeacherStudent,
    follow,
    hide,
)
from echo_model.pretrain.schedule import Schedule
from echo_model.pretrain.sources import (
    ClipCache,
    Mixture,
    Recordings,
    SimulatedMachines,
    Source,
    indexed,
)
from echo_model.pretrain.state import load_state, read_numbers, save_state
from echo_model.pretrain.views import Batch, Cutter

MASK_SEED = 19
STATE_FILE, RECIPE_FILE, LOG_FILE = "state.safetensors", "recipe.yaml", "log.csv"
CHECKPOINT_S = 300.0
REPLAN_S = 60.0
COLUMNS = (
    "step", "seconds", "rate", "decay", "loss", "patch", "band", "target_std", "prediction_std",
    "rank", "tokens_per_s", "data_share",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is.

    Attributes:
        step, steps: Done, and in total as planned now.
        row: Last line of the log.
        eta_s: Seconds to go at the present pace.
        warnings: Signs of collapse.
    """

    step: int
    steps: int
    row: dict[str, float]
    eta_s: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a few steps that are not kept show.

    Attributes:
        parameters: Of the encoder.
        step_s: Seconds per step.
        tokens_per_s: Tokens of the teacher per second.
        data_share: Share of the time for data.
    """

    parameters: int
    step_s: float
    tokens_per_s: float
    data_share: float


def open_source(table: SourceTable, data: Path | None, seed: int, cache: ClipCache) -> Source:
    """The source that a table of the recipe describes."""
    if table.kind == "simulated":
        return SimulatedMachines(seed, table.pool, table.fresh)
    if data is None and not Path(table.path).is_absolute():
        raise ValueError(
            f"source {table.name} needs the folder its path {table.path!r} lies in, got none: "
            "name it with --data (or ECHO_PRETRAIN_DATA), or write `use: false`"
        )
    folder = Path(table.path) if data is None else data / table.path
    return Recordings(indexed(folder, table.include, table.licence), cache)


class Trainer:
    """One run.

    Args:
        recipe: What to compute.
        data: Folder that the sources' paths are relative to.
        out: Folder for state, log and recipe; made if absent.
        device: `cpu` or `cuda[:N]`.
    """

    def __init__(
        self, recipe: Recipe, data: Path | None, out: Path, *, device: str = "cpu"
    ) -> None:
        self.recipe, self.out, self.device = recipe, out, torch.device(device)
        sizes = recipe.model.sizes()
        self.objective = _objective(recipe)
        self.objective.to(self.device)
        self.optimiser = _optimiser(self.objective, recipe)
        self.schedule = Schedule(recipe.steps, recipe.optimiser)
        cache = ClipCache(recipe.cache_mb << 20)
        sources: list[tuple[Source, float]] = [
            (open_source(table, data, recipe.seed, cache), table.weight)
            for table in recipe.sources
            if table.use
        ]
        self._cutter = Cutter(
            Mixture(sources, recipe.seed),
            recipe.views,
            recipe.batch.tokens,
            sizes.embed_dim,
            sizes.band_width,
            sizes.patch_frames,
        )
        self._held: tuple[int, Batch] | None = None
        self.step, self.seconds = 0, 0.0

    def resume(self) -> None:
        """Go on where the run in `out` was last stored.

        Raises:
            FileNotFoundError: Nothing is stored there.
            ValueError: It was stored under another recipe, or is damaged.
        """
        path = self.out / STATE_FILE
        numbers = read_numbers(path)
        if numbers["recipe"] != self.recipe.digest():
            raise ValueError(
                f"a run must be resumed with the recipe it was started with, got another one: "
                f"compare yours with {self.out / RECIPE_FILE} (only steps, cache_mb and log_every "
                "may differ), or start anew with another --out"
            )
        load_state(path, self.objective, self.optimiser)
        self.step, self.seconds = int(numbers["step"]), float(numbers["seconds"])
        self.schedule.restore(numbers["schedule"])
        if numbers.get("asked", self.recipe.steps) != self.recipe.steps:
            self.schedule.replan(self.step, self.recipe.steps - self.step)
        self._keep_log(self.step)

    def start(self) -> None:
        """Make the folder of a new run.

        Raises:
            FileExistsError: It holds a run already.
        """
        if (self.out / STATE_FILE).exists():
            raise FileExistsError(
                f"--out must be a folder without a run, got {self.out}: "
                "add --resume to go on with it, or name another folder"
            )
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / RECIPE_FILE).write_text(dump_recipe(self.recipe), encoding="utf-8")
        with (self.out / LOG_FILE).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(COLUMNS)

    def run(
        self,
        *,
        minutes: float | None = None,
        checkpoint_s: float = CHECKPOINT_S,
        show: Callable[[Progress], None] = lambda _: None,
        until: int | None = None,
    ) -> None:
        """Train to the end of the schedule; store the state now and then and at the end.

        Args:
            minutes: Fit what is left of the schedule, its decay included, into this time.
            checkpoint_s: Seconds between stored states.
            show: Called after every line of the log.
            until: Stop before this step instead.
        """
        began = saved = planned = time.monotonic()
        first, offset = self.step, self.seconds
        pace = _Pace()
        try:
            while self.step < self.schedule.steps and self.step != until:
                losses = self.advance(pace)
                now = time.monotonic()
                self.seconds = offset + now - began
                if minutes is not None and now - planned > REPLAN_S:
                    per_step = (now - began) / (self.step - first)
                    left = int((60 * minutes - (now - began)) / per_step)
                    self.schedule.replan(self.step, left, began_at=first)
                    planned = now
                if self.step % self.recipe.log_every == 0:
                    show(self._log(losses, pace))
                    pace = _Pace()
                if now - saved > checkpoint_s:
                    self._check(losses)
                    self.save()
                    saved = now
        except FloatingPointError:
            raise  # the last stored state is the one to go on from
        except BaseException:
            self.save()
            raise
        self.save()

    def advance(self, pace: "_Pace") -> Losses:
        """One step."""
        recipe, t0 = self.recipe, time.monotonic()
        batch = self._batch(self.step // recipe.batch.repeat)
        pace.data_s += time.monotonic() - t0
        hidden = self._hidden(batch)
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.optimiser.rate * self.schedule.scale(self.step)
        with _arithmetic(recipe.precision, self.device):
            losses: Losses = self.objective(batch, hidden)
            losses.total.backward()  # type: ignore[no-untyped-call]
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, recipe.optimiser.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        follow(self.objective, self._decay())
        self.step += 1
        pace.steps += 1
        pace.sums += torch.stack([value.detach().float() for value in losses[:5]]).cpu()
        pace.tokens += batch.clean.shape[0] * (1 + batch.clean.shape[1])
        pace.total_s += time.monotonic() - t0
        return losses

    def rehearse(self, steps: int = 6) -> Rehearsal:
        """Time a few steps; what they change is not stored."""
        self.advance(_Pace())  # the first one fills caches
        pace = _Pace()
        for _ in range(steps):
            self.advance(pace)
        return Rehearsal(
            sum(p.numel() for p in self.objective.teacher.parameters()),
            pace.total_s / steps,
            pace.tokens / pace.total_s,
            pace.data_s / pace.total_s,
        )

    def save(self) -> None:
        """Store the state."""
        numbers = {
            "recipe": self.recipe.digest(),
            "step": self.step,
            "seconds": self.seconds,
            "schedule": self.schedule.export(),
            "asked": self.recipe.steps,
        }
        save_state(self.out / STATE_FILE, self.objective, self.optimiser, numbers)

    def _batch(self, number: int) -> Batch:
        if self._held is None or self._held[0] != number:
            self._held = (number, self._cutter.batch(number).to(self.device))
        return self._held[1]

    def _hidden(self, batch: Batch) -> Hidden:
        rng = np.random.Generator(np.random.SFC64((self.recipe.seed, MASK_SEED, self.step)))
        bands, patches = batch.clean.shape[:2]
        # Rounded up or down by chance, so that short bands keep the right share on average.
        kept = math.floor(rng.uniform(*self.recipe.batch.keep) * patches + rng.random())
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        clones = self.recipe.batch.clones
        if rng.random() < self.recipe.batch.whole:
            kept, clones = patches, 1
        return hide(bands, patches, clones, kept, generator).to(self.device)

    def _decay(self) -> float:
        low, high = self.recipe.teacher.decay
        return low + (high - low) * min(1.0, self.step / self.recipe.teacher.decay_steps)

    def _log(self, losses: Losses, pace: "_Pace") -> Progress:
        values = (
            self.step,
            round(self.seconds, 1),
            self.recipe.optimiser.rate * self.schedule.scale(self.step),
            self._decay(),
            *(float(total) / max(1, pace.steps) for total in pace.sums),
            effective_rank(losses.cls),
            pace.tokens / max(pace.total_s, 1e-9),
            pace.data_s / max(pace.total_s, 1e-9),
        )
        row: dict[str, Any] = dict(zip(COLUMNS, values, strict=True))
        self._check(losses)
        with (self.out / LOG_FILE).open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(
                [f"{value:.6g}" if isinstance(value, float) else value for value in values]
            )
        left = self.schedule.steps - self.step
        return Progress(
            self.step,
            self.schedule.steps,
            row,
            left * pace.total_s / max(1, pace.steps),
            tuple(collapse_signs(row)) if self.step > self.recipe.optimiser.warmup_steps else (),
        )

    def _check(self, losses: Losses) -> None:
        value = float(losses.total.detach())
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss must be finite, got {value} at step {self.step}: lower "
                "optimiser.rate, or use fp32; resume goes on from the last stored state"
            )

    def _keep_log(self, step: int) -> None:
        """Drop lines of the log that lie after the stored state."""
        path = self.out / LOG_FILE
        if not path.is_file():
            return
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file))
        kept = [row for row in rows if row and int(row[0]) <= step]
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *kept])


@dataclass(slots=True)
class _Pace:
    """Where time went since the last line of the log."""

    steps: int = 0
    tokens: int = 0
    data_s: float = 0.0
    total_s: float = 0.0
    sums: Tensor = field(default_factory=lambda: torch.zeros(5))  # of the losses


@contextmanager
def _arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """fp32, or matrix products of bf16 numbers summed in fp32."""
    if precision == "fp32":
        yield
    elif device.type == "cuda":
        with torch.autocast("cuda", dtype=torch.bfloat16):
            yield
    else:
        # Autocast converts at every layer and is no faster here; this saves 5 % of a step.
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def _objective(recipe: Recipe) -> TeacherStudent | MaskedAutoencoder:
    sizes, teacher, loss = recipe.model.sizes(), recipe.teacher, recipe.loss
    decoder = (loss.decoder_layers, loss.decoder_kernel)
    torch.manual_seed(recipe.seed)  # decoder and heads
    if recipe.objective == "mae":
        return MaskedAutoencoder(
            sizes,
            recipe.seed,
            full=teacher.decorrelate,
            decoder=decoder,
            band_weight=loss.band_weight,
        )
    return TeacherStudent(
        sizes,
        recipe.seed,
        layers=teacher.layers,
        norm="instance" if teacher.norm == "instance" else "batch",
        full=teacher.decorrelate,
        decoder=decoder,
        band_weight=loss.band_weight,
    )


def _optimiser(objective: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    trained = [p for p in objective.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in trained if p.ndim > 1],
            "weight_decay": recipe.optimiser.weight_decay,
        },
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.optimiser.rate, betas=recipe.optimiser.betas)
