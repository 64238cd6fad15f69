"""Folders of recordings and seeds of machines in, a clip for every draw out.

What a draw gives depends on the seed and the step alone, never on what was drawn before: that makes
a resumed run bit-exact. Decoded recordings stay in memory as 16-bit samples up to a limit.
"""

import csv
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile

from echo_model.features import MIN_RATE_HZ
from echo_model.pretrain.simulated import Clip, machine

SIMULATED_SEED, DRAW_SEED = 11, 13
# A simulated machine stays this many steps per slot of the pool.
POOL_TRIES = 8


@dataclass(frozen=True, slots=True)
class Recording:
    """One mono recording in a file.

    Attributes:
        path: Of the file.
        seconds: Its length.
        licence, credit: As the index states them.
    """

    path: Path
    seconds: float
    licence: str
    credit: str


class Source(Protocol):
    """Where clips come from."""

    def draw(self, rng: np.random.Generator, step: int, seconds: float) -> Clip:
        """A clip of at least `seconds` where the source has one, else a long one it has."""


class ClipCache:
    """Decoded recordings, least recently used ones dropped beyond a limit.

    Args:
        limit_bytes: Most memory for samples.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.held_bytes = limit_bytes, 0
        self._clips: OrderedDict[Path, Clip] = OrderedDict()

    def read(self, path: Path) -> Clip:
        """First channel of a file, decoded once while it stays in memory."""
        if path in self._clips:
            self._clips.move_to_end(path)
            return self._clips[path]
        samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
        clip = Clip(np.ascontiguousarray(samples[:, 0]), float(rate))
        self._clips[path] = clip
        self.held_bytes += clip.samples.nbytes
        while self.held_bytes > self.limit_bytes and len(self._clips) > 1:
            _, old = self._clips.popitem(last=False)
            self.held_bytes -= old.samples.nbytes
        return clip


class Recordings:
    """Recordings drawn with equal chances.

    Args:
        recordings: At least one.
        cache: Shared by all sources.
    """

    def __init__(self, recordings: Sequence[Recording], cache: ClipCache) -> None:
        self._recordings, self._cache = tuple(recordings), cache
        self._seconds = np.array([item.seconds for item in recordings])

    def draw(self, rng: np.random.Generator, step: int, seconds: float) -> Clip:
        """See `Source`."""
        del step
        best = -1
        for _ in range(POOL_TRIES):
            at = int(rng.integers(len(self._recordings)))
            if best < 0 or self._seconds[at] > self._seconds[best]:
                best = at
            if self._seconds[best] >= seconds:
                break
        return self._cache.read(self._recordings[best].path)


class SimulatedMachines:
    """A pool of simulated machines of which some are replaced at every step.

    Args:
        seed: Of the run.
        pool: Machines at a time.
        fresh: New ones per step; each lives pool / fresh steps.
    """

    def __init__(self, seed: int, pool: int, fresh: float) -> None:
        self._seed, self._pool, self._fresh = seed, pool, fresh
        self._held: dict[int, tuple[int, Clip]] = {}

    def draw(self, rng: np.random.Generator, step: int, seconds: float) -> Clip:
        """See `Source`."""
        best: Clip | None = None
        for _ in range(POOL_TRIES):
            clip = self._at(int(rng.integers(self._pool)), step)
            length = len(clip.samples) / clip.rate_hz
            if best is None or length > len(best.samples) / best.rate_hz:
                best = clip
            if length >= seconds:
                break
        assert best is not None  # noqa: S101  (for the type checker: POOL_TRIES > 0)
        return best

    def _at(self, slot: int, step: int) -> Clip:
        number = int((step * self._fresh - slot) // self._pool)  # of the machine in this slot
        held = self._held.get(slot)
        if held is None or held[0] != number:
            seed = (self._seed, SIMULATED_SEED, slot, number + 1)
            held = (number, machine(np.random.Generator(np.random.SFC64(seed))))
            self._held[slot] = held
        return held[1]


class Mixture:
    """Several sources, each drawn as often as its weight says.

    Args:
        sources: With their weights, which need not sum to 1.
        seed: Of the run.
    """

    def __init__(self, sources: Sequence[tuple[Source, float]], seed: int) -> None:
        weights = np.array([weight for _, weight in sources], dtype=np.float64)
        self._sources = [source for source, _ in sources]
        self._edges = np.cumsum(weights / weights.sum())
        self.seed = seed

    def generator(self, step: int) -> np.random.Generator:
        """The one stream of random numbers for the data of a step."""
        return np.random.Generator(np.random.SFC64((self.seed, DRAW_SEED, step)))

    def draw(self, rng: np.random.Generator, step: int, seconds: float) -> Clip:
        """See `Source`."""
        at = int(np.searchsorted(self._edges, rng.random(), side="right"))
        return self._sources[min(at, len(self._sources) - 1)].draw(rng, step, seconds)


def indexed(folder: Path, include: Sequence[str], licence: str) -> list[Recording]:
    """Recordings that a folder's `index.csv` names.

    Args:
        folder: Holds `index.csv` with a column `file`, and may hold `seconds`, `licence`,
            `credit`, `file_rate` or `sample_rate` and `n_frames`.
        include: Beginnings of the files to take; empty takes all.
        licence: For files whose row states none.

    Raises:
        FileNotFoundError: No folder, or no index in it.
        ValueError: No recording is left.
    """
    index = folder / "index.csv"
    if not index.is_file():
        raise FileNotFoundError(
            f"a data source must be a folder with index.csv, got {folder}: fetch the data, name "
            "its folder with --data, or take the source out of the configuration"
        )
    with index.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    taken = [row for row in rows if not include or row["file"].startswith(tuple(include))]
    found = {row["file"]: _recording(folder, row, licence) for row in taken}
    usable = [item for item in found.values() if item is not None]
    if not usable:
        raise ValueError(f"{index} must name at least one file under {list(include)}, got none")
    return usable


def _recording(folder: Path, row: dict[str, str], licence: str) -> Recording | None:
    rate = float(row.get("file_rate") or row.get("sample_rate") or 0)
    if 0 < rate < MIN_RATE_HZ:
        return None
    seconds = float(row.get("seconds") or 0)
    if not seconds and rate:
        seconds = float(row.get("n_frames") or 0) / rate
    path = folder / row["file"]
    stated, credit = row.get("licence") or licence, row.get("credit") or ""
    return Recording(path, seconds, stated, credit)
