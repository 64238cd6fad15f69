"""A folder of snapshots up to a failure in, chunks of its sensors in time order out."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.messages import Flags, SensorChunk

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Life:
    """All that was recorded of one machine.

    Attributes:
        sensors: Names.
        samples: (N, C) float32 of the one file, full scale +-1.
        rows: Index rows in time order.
    """

    sensors: tuple[str, ...]
    samples: NDArray[np.float32]
    rows: tuple[dict[str, str], ...]

    def chunks(self, sensor: str) -> Iterator[SensorChunk]:
        """Captures of one sensor."""
        for seq, row in enumerate(row for row in self.rows if row["sensor"] == sensor):
            first, count = int(row["offset_frames"]), int(row["n_frames"])
            yield SensorChunk(
                sensor_id=sensor,
                sample_rate_hz=float(row["sample_rate"]),
                start_ns=_ns(row["start_time"]),
                samples=self.samples[first : first + count, int(row["channel"])].copy(),
                seq=seq,
                scale=float(row["scale"]),
                unit=row["unit"],
                flags=Flags.END_OF_CAPTURE,
            )


def read_life(folder: Path) -> Life:
    """The snapshots of one folder with an `index.csv` and one audio file."""
    with (folder / "index.csv").open(newline="", encoding="utf-8") as text:
        rows = tuple(csv.DictReader(text))
    samples, _ = soundfile.read(folder / rows[0]["file"], dtype="float32", always_2d=True)
    sensors = tuple(dict.fromkeys(row["sensor"] for row in rows))
    return Life(sensors, samples, rows)


def _ns(words: str) -> int:
    moment = datetime.fromisoformat(words).replace(tzinfo=UTC)
    return (moment - EPOCH) // timedelta(microseconds=1) * 1000
