"""A folder of labelled recordings in, windows with what is known about them out.

Reads the `index.csv` that all shared sets have (one row per segment and channel).
"""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.gain import gain_of

F32 = NDArray[np.float32]
Words = NDArray[np.str_]
Row = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Windows of one length and rate.

    Attributes:
        windows: (B, N) float32, one fixed gain per sensor.
        recording: (B,) which recording a window is of: the unit of every interval.
        label: (B,) class or state.
        group: (B,) load or fold: windows of one group are never on both sides.
        sensor: (B,) each sensor has a bank of its own.
    """

    rate_hz: float
    windows: F32
    recording: Words
    label: Words
    group: Words
    sensor: Words


@dataclass(frozen=True, slots=True)
class Reading:
    """How rows of an index become windows.

    Attributes:
        seconds: Length of a window; 0 takes each segment whole.
        most: Windows per segment at most.
        label, group, recording: Of a row.
        keep: Which rows are read.
        fixed_gain: Bring each sensor to the level the monitor would (by its first window).
    """

    seconds: float
    most: int
    label: Callable[[Row], str]
    group: Callable[[Row], str]
    recording: Callable[[Row], str]
    keep: Callable[[Row], bool] = lambda _row: True
    fixed_gain: bool = True


def read_corpus(folder: Path, reading: Reading) -> Corpus:
    """Windows of all rows that are kept, in index order; segments are not overlapped.

    Raises:
        ValueError: Rows of several sample rates, or none.
    """
    with (folder / "index.csv").open(newline="", encoding="utf-8") as text:
        rows = [row for row in csv.DictReader(text) if reading.keep(row)]
    rates = {float(row["sample_rate"]) for row in rows}
    if len(rates) != 1:
        raise ValueError(f"{folder}: rows must have one sample rate, got {sorted(rates)}")
    rate_hz = rates.pop()
    parts: list[F32] = []
    known: list[tuple[str, str, str, str]] = []
    gains: dict[str, float] = {}
    for row, wave in _waves(folder, rows):
        windows = _cut(wave, reading, rate_hz)
        gain = 1.0
        if reading.fixed_gain:
            gain = gains.setdefault(row["sensor"], gain_of(float(windows[0].std())))
        parts.append(windows * np.float32(gain))
        about = (reading.recording(row), reading.label(row), reading.group(row), row["sensor"])
        known += [about] * len(windows)
    recording, label, group, sensor = (np.array(column) for column in zip(*known, strict=True))
    return Corpus(rate_hz, _same_length(parts), recording, label, group, sensor)


def _waves(folder: Path, rows: Sequence[Row]) -> Iterator[tuple[Row, F32]]:
    """Each row with its samples in its unit; a file with several channels is read once."""
    last: tuple[str, ...] = ()
    samples = np.empty((0, 0), np.float32)
    for row in rows:
        place = (row["file"], row["offset_frames"], row["n_frames"])
        if place != last:
            samples, _ = soundfile.read(
                folder / place[0],
                start=int(place[1]),
                frames=int(place[2]),
                dtype="float32",
                always_2d=True,
            )
            last = place
        yield row, samples[:, int(row["channel"])] * np.float32(row["scale"])


def _cut(wave: F32, reading: Reading, rate_hz: float) -> F32:
    n = round(reading.seconds * rate_hz) or wave.size
    count = min(reading.most, wave.size // n)
    return np.array(wave[: count * n].reshape(count, n))


def _same_length(parts: Sequence[F32]) -> F32:
    """Whole segments may differ by a few samples: cut to the shortest."""
    n = min(part.shape[1] for part in parts)
    return np.concatenate([part[:, :n] for part in parts])
