"""What every test set is run with in, what it embeds and scores out.

A set is a function that takes a `Bench` and yields figures; `pipeline.bench.catalogue` names them.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pipeline.bench.degrade import one_level
from pipeline.bench.figures import F64, Figure, Subject, figures_of
from pipeline.bench.representations import F32, Representation, pairs

Embedded = Mapping[str, F32]
Advance = Callable[[str], None]


def _silent(_note: str) -> None:
    pass


@dataclass(frozen=True)
class Bench:
    """What every set is run with.

    Attributes:
        representations: To compare, on the same windows.
        data: Folder of the recorded sets, None without any.
        seeds: Of noise, gain and simulated machines: 0 ... seeds - 1.
        distances: Names in `neighbours.DISTANCES`.
        quick: Fewer windows, for a look within a minute.
        level_removed: Bring every window to one RMS first: what is left without its level?
        advance: Called with a note after each piece of work that `BenchSet.steps` counts.
    """

    representations: tuple[Representation, ...]
    data: Path | None
    seeds: int = 3
    distances: tuple[str, ...] = ("task",)
    quick: bool = False
    level_removed: bool = False
    advance: Advance = _silent
    _kept: dict[Hashable, Embedded] = field(default_factory=dict)

    def missing(self, folders: Sequence[str]) -> str:
        """Names of the folders that are not there."""
        return ", ".join(f for f in folders if self.data is None or not (self.data / f).is_dir())

    def folder(self, name: str) -> Path:
        """A folder of the recorded sets."""
        if self.data is None:
            raise ValueError(f"data must be a folder that holds {name}, got None")
        return self.data / name

    def embedded(self, key: Hashable, windows: Callable[[], F32], rate_hz: float) -> Embedded:
        """(B, K, D) per representation; computed once per `key`, kept in memory."""
        if key not in self._kept:
            waves = one_level(windows()) if self.level_removed else windows()
            self._kept[key] = {r.name: r.embed(waves, rate_hz) for r in self.representations}
        return self._kept[key]

    def mean(
        self, subject: Subject, scores: Sequence[Mapping[str, F64]], weights: F64 | None = None
    ) -> list[Figure]:
        """Figures of the mean over cases, which were scored on the same units in one order.

        Cases without seeds count as if each seed gave the same. Stands for its set.
        """
        seeds = max(values.shape[0] for case in scores for values in case.values())
        means = {
            r.name: np.mean(
                [np.broadcast_to(c[r.name], (seeds, c[r.name].shape[1])) for c in scores], axis=0
            )
            for r in self.representations
        }
        return self.figures(replace(subject, summary=True), means, weights)

    def figures(
        self, subject: Subject, scores: Mapping[str, F64], weights: F64 | None = None
    ) -> list[Figure]:
        """Figures of (S, U) scores, with the differences that are always of interest."""
        return figures_of(subject, scores, pairs(self.representations), weights=weights)


@dataclass(frozen=True, slots=True)
class BenchSet:
    """A test set.

    Attributes:
        title: For tables and pictures, with what is measured.
        folders: That it needs inside the data folder.
        run: Yields its figures.
        steps: How often `run` calls `advance`, for the time left.
    """

    title: str
    folders: tuple[str, ...]
    run: Callable[[Bench], Iterable[Figure]]
    steps: Callable[[Bench], int]
