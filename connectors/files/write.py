"""Chunks in, a folder of audio files with an `index.csv` out, which `connectors.files` reads back.

One file per sensor, sample rate and encoding; chunks lie in it one after the other, each with its
own row and its exact time. Integers become FLAC or WAV of their own width, floats become float WAV,
so that nothing is rounded: value in `unit` = float sample (full scale +-1) x `scale` + `offset`.
"""

import csv
import json
import re
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from pipeline.messages import NS_PER_S, Encoding, SensorChunk

COLUMNS = (
    "file", "offset_frames", "n_frames", "sensor", "channel", "start_time", "time_source",
    "sample_rate", "label", "unit", "scale", "offset", "start_ns", "epoch", "seq", "flags",
)  # fmt: skip

_SUBTYPES: dict[Encoding, str] = {"i16": "PCM_16", "i24": "PCM_24", "i32": "PCM_32", "f32": "FLOAT"}
# Number that a float sample of 1.0 stands for; floats travel as they are.
_UNITY: dict[Encoding, float] = {"i16": 2.0**15, "i24": 2.0**23, "i32": 2.0**31, "f32": 1.0}
# FLAC holds whole rates up to 655 350 Hz and at most 24 bits.
_FLAC_MAX_HZ = 655_350

_Key = tuple[str, float, Encoding]


def write_recordings(
    chunks: Iterable[SensorChunk],
    folder: Path,
    *,
    container: Literal["flac", "wav"] = "flac",
    time_source: str = "real",
    description: str = "",
) -> int:
    """Write chunks as recordings; needs one open file per sensor.

    Args:
        chunks: Of any sensors, each sensor's in order; f32 always becomes WAV.
        folder: Made if absent; must not hold an `index.csv`.
        container: FLAC halves the size, WAV is faster.
        time_source: Noted in each row: `real` where times mean what they say, else `synthetic`.
        description: Noted in `meta.json`.

    Returns:
        Number of chunks written.

    Raises:
        FileExistsError: there is a set in the folder already.
    """
    if container not in ("flac", "wav"):
        raise ValueError(f"container must be flac or wav, got {container!r}")
    index = folder / "index.csv"
    if index.exists():
        raise FileExistsError(f"{index} exists; name an empty folder or remove that set")
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    with ExitStack() as stack:
        rows = csv.writer(stack.enter_context(index.open("w", encoding="utf-8", newline="")))
        rows.writerow(COLUMNS)
        files: dict[_Key, _File] = {}
        for chunk in chunks:
            key = (chunk.sensor_id, chunk.sample_rate_hz, chunk.encoding)
            if key not in files:
                files[key] = stack.enter_context(_open(folder, chunk, container, len(files)))
            rows.writerow(files[key].write(chunk, time_source))
            count += 1
    _describe(folder, description, time_source)
    return count


def _describe(folder: Path, description: str, time_source: str) -> None:
    meta = {"set": folder.name, "description": description, "timestamps": time_source}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


@dataclass
class _File:
    """One audio file that grows."""

    sound: Any
    name: str
    samples: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sound.close()

    def write(self, chunk: SensorChunk, time_source: str) -> list[object]:
        """Append a chunk; gives its row of the index."""
        offset, size = self.samples, int(chunk.samples.size)
        self.sound.write(_as_stored(chunk))
        self.samples += size
        return [
            self.name, offset, size, chunk.sensor_id, 0, iso_time(chunk.start_ns), time_source,
            f"{chunk.sample_rate_hz:.17g}", "", chunk.unit,
            repr(chunk.scale * _UNITY[chunk.encoding]), repr(chunk.offset),
            chunk.start_ns, chunk.epoch, chunk.seq, int(chunk.flags),
        ]  # fmt: skip


def _open(folder: Path, chunk: SensorChunk, container: str, number: int) -> _File:
    """A new file for a chunk's sensor; the number keeps alike names apart."""
    rate = max(1, round(chunk.sample_rate_hz))
    flac = container == "flac" and chunk.encoding in ("i16", "i24") and rate <= _FLAC_MAX_HZ
    stem = re.sub(r"[^A-Za-z0-9.-]+", "_", chunk.sensor_id)[:100].strip(".")
    name = f"{number:04d}_{stem}.{'flac' if flac else 'wav'}"
    sound = sf.SoundFile(
        folder / name,
        mode="w",
        samplerate=rate,
        channels=1,
        format="FLAC" if flac else "WAV",
        subtype=_SUBTYPES[chunk.encoding],
    )
    return _File(sound, name)


def _as_stored(chunk: SensorChunk) -> NDArray[Any]:
    """The samples as the sound library wants them: integers left-justified in their type."""
    if chunk.encoding == "i24":
        return np.left_shift(chunk.samples.astype(np.int32), 8)
    return chunk.samples


def iso_time(ns: int) -> str:
    """UTC without a zone, exact: microseconds, or nanoseconds where they matter.

    >>> iso_time(1_500_000_000), iso_time(1_000_000_001)
    ('1970-01-01T00:00:01.500000', '1970-01-01T00:00:01.000000001')
    """
    whole, rest = divmod(ns, NS_PER_S)
    second = datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{second}.{rest:09d}" if rest % 1000 else f"{second}.{rest // 1000:06d}"
