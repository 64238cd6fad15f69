"""Names of test sets in, what each of them needs and how it is run out.

A set is a function that takes a `Bench` and yields figures; a new one is added to `SETS`.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

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
        data: Folder of the recorded sets.
        seeds: Of noise, gain and simulated machines: 0 ... seeds - 1.
        distances: Names in `neighbours.DISTANCES`.
        quick: Fewer windows, for a look within a minute.
        advance: Called with a note after each piece of work that `BenchSet.steps` counts.
    """

    representations: tuple[Representation, ...]
    data: Path
    seeds: int = 3
    distances: tuple[str, ...] = ("task",)
    quick: bool = False
    advance: Advance = _silent
    _kept: dict[Hashable, Embedded] = field(default_factory=dict)

    def embedded(self, key: Hashable, windows: Callable[[], F32], rate_hz: float) -> Embedded:
        """(B, K, D) per representation; computed once per `key`, kept in memory."""
        if key not in self._kept:
            waves = windows()
            self._kept[key] = {r.name: r.embed(waves, rate_hz) for r in self.representations}
        return self._kept[key]

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


SETS: Final[dict[str, BenchSet]] = {}
