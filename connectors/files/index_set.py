"""A folder of audio files with an `index.csv` in, chunks of its segments out.

One row per (segment, channel): `file, offset_frames, n_frames, sensor, channel, start_time,
time_source, sample_rate, unit, scale`, optionally `label` and what `connectors.files.write` adds
(`offset, start_ns, epoch, flags`); value in `unit` = float sample (full scale +-1) x `scale` +
`offset`. Without flags, A segment that the sensor's next one does not follow at once is a capture.
Files with synthetic times run on without gaps but are different recordings: each begins an epoch.
"""

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import soundfile as sf

from connectors.files.audio import encoding_of_subtype, open_sound, read_frames
from connectors.files.recording import (
    MAX_CHANNELS,
    Block,
    Channel,
    Jump,
    ReadError,
    ReadOptions,
    Recording,
    guarded,
    sensor_name,
    with_options,
)
from connectors.files.times import format_time, parse_time
from pipeline.messages import NS_PER_S, Flags

NEEDED = ("file", "offset_frames", "n_frames", "sensor", "channel", "start_time", "sample_rate")
MAX_INDEX_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive rows of an index that lie side by side in one file.

    Attributes:
        columns: Channel number in the audio file of each of `channels`.
        time_source: `real`, `repaired` or `synthetic`, as the index states it.
        label: As the index states it; never used for reading.
        epoch, flags: As the index states them, else None.
    """

    file: Path
    offset: int
    n_samples: int
    start_ns: int
    sample_rate_hz: float
    time_source: str
    label: str
    channels: tuple[Channel, ...]
    columns: tuple[int, ...]
    epoch: int | None = None
    flags: Flags | None = None

    @property
    def end_ns(self) -> int:
        """Time one sample period after the last sample."""
        return self.start_ns + round(self.n_samples * NS_PER_S / self.sample_rate_hz)


def is_index_set(folder: Path) -> bool:
    """Whether the folder's `index.csv` has the columns of this layout."""
    index = folder / "index.csv"
    if not index.is_file():
        return False
    with index.open("rb") as file:
        head = file.readline(65_536).decode("utf-8", "replace")
    return set(NEEDED) <= {name.strip() for name in head.lstrip("\ufeff").split(",")}


def segments(folder: Path) -> list[Segment]:
    """The index as segments, in its order; channels of one stretch are joined."""
    index, found = folder / "index.csv", list[Segment]()
    if index.stat().st_size > MAX_INDEX_BYTES:
        raise ReadError(index, f"larger than {MAX_INDEX_BYTES} bytes", "split the set")
    with index.open(encoding="utf-8-sig", newline="") as file:
        try:
            for number, row in enumerate(csv.DictReader(file), start=2):
                _join(found, _segment(folder, row, number))
        except (csv.Error, UnicodeDecodeError) as error:
            raise ReadError(index, f"not a CSV table ({error})") from error
    if not found:
        raise ReadError(index, "has no rows")
    return found


def _join(found: list[Segment], new: Segment) -> None:
    last = found[-1] if found else None
    beside = last is not None and (last.file, last.offset, last.n_samples, last.start_ns) == (
        new.file,
        new.offset,
        new.n_samples,
        new.start_ns,
    )
    if last is None or not beside:
        found.append(new)
        return
    found[-1] = replace(
        last, channels=last.channels + new.channels, columns=last.columns + new.columns
    )


def _segment(folder: Path, row: dict[str, str], number: int) -> Segment:
    index = folder / "index.csv"
    try:
        scale, zero = float(row.get("scale") or 1.0), float(row.get("offset") or 0.0)
        unit, epoch, flags = row.get("unit") or "unknown", row.get("epoch"), row.get("flags")
        start_ns = row.get("start_ns")
        segment = Segment(
            file=folder / row["file"],
            offset=int(row["offset_frames"]),
            n_samples=int(row["n_frames"]),
            start_ns=int(start_ns) if start_ns else parse_time(row["start_time"]),
            sample_rate_hz=float(row["sample_rate"]),
            time_source=row.get("time_source") or "real",
            label=row.get("label") or "",
            channels=(Channel(row["sensor"], unit=unit, scale=scale, offset=zero),),
            columns=(int(row["channel"]),),
            epoch=int(epoch) if epoch else None,
            flags=Flags(int(flags)) if flags else None,
        )
    except (ValueError, TypeError) as error:
        raise ReadError(index, f"row {number}: {error}", "correct the row") from error
    if not (math.isfinite(scale + zero) and segment.offset >= 0 and segment.n_samples > 0):
        raise ReadError(index, f"row {number}: scale, offset or length out of range")
    if not 0 <= segment.columns[0] < MAX_CHANNELS or not 0 < segment.sample_rate_hz <= 1e6:
        raise ReadError(index, f"row {number}: channel or sample_rate out of range")
    if not segment.file.resolve().is_relative_to(folder.resolve()):
        raise ReadError(index, f"row {number}: file {row['file']!r} lies outside the folder")
    return segment


def recordings(folder: Path, options: ReadOptions) -> list[Recording]:
    """One recording per group of channels that lie side by side in the same files."""
    found, lanes = segments(folder), dict[tuple[object, ...], list[Segment]]()
    for segment in found:
        key = (segment.sample_rate_hz, *(c.name for c in segment.channels))
        lanes.setdefault(key, []).append(segment)
    notes = tuple(_notes(folder, found))
    return [_recording(lane, options, notes) for lane in lanes.values()]


def _recording(lane: list[Segment], options: ReadOptions, notes: tuple[str, ...]) -> Recording:
    first = lane[0]
    with open_sound(first.file) as sound:
        channels = _channels(first, sound, options)
    return Recording(
        channels=channels,
        sample_rate_hz=first.sample_rate_hz,
        start_ns=first.start_ns,
        n_samples=sum(s.n_samples for s in lane),
        blocks=lambda n: _blocks(lane, n, options),
        time_source=f"index ({first.time_source})",
        end_ns=max(s.end_ns for s in lane),
        n_captures=len(lane),
        labels=tuple(sorted(Counter(s.label for s in lane if s.label).items())),
        notes=notes,
    )


def _channels(segment: Segment, sound: sf.SoundFile, options: ReadOptions) -> tuple[Channel, ...]:
    """The segment's channels with the encoding of its file and scales per ADC step."""
    encoding, full_scale = encoding_of_subtype(sound.subtype)
    return tuple(
        with_options(
            replace(
                c,
                encoding=encoding,
                scale=c.scale / full_scale,
                sensor_id=sensor_name(
                    options.sensor,
                    c.name,
                    channel=c.name,
                    stem=segment.file.stem,
                    folder=segment.file.parent.name,
                ),
            ),
            options,
            full_scale,
        )
        for c in segment.channels
    )


def _blocks(lane: list[Segment], n: int, options: ReadOptions) -> Iterator[Block]:
    with _Sounds() as sounds:
        for i, segment in enumerate(lane):
            if segment.time_source == "repaired":
                options.on_problem(
                    f"{segment.file}: time {format_time(segment.start_ns)} at frame "
                    f"{segment.offset} is repaired, says the index"
                )
            yield from guarded(_segment_blocks(sounds, lane, i, n, options), options)


def _segment_blocks(
    sounds: "_Sounds", lane: list[Segment], i: int, n: int, options: ReadOptions
) -> Iterator[Block]:
    segment = lane[i]
    sound = sounds.get(segment)
    before = lane[max(i - 1, 0)]
    other_file = segment.file != before.file
    yield Jump(
        segment.start_ns,
        new_recording=(other_file and segment.time_source == "synthetic")
        or segment.epoch != before.epoch,
        channels=_channels(segment, sound, options)
        if segment.channels != before.channels or other_file
        else (),
        flags=segment.flags,
        stated_epochs=segment.epoch is not None,
    )
    position, end = segment.offset, segment.offset + segment.n_samples
    while position < end:
        sound = sounds.get(segment)
        if sound.tell() != position:
            sound.seek(position)
        block = read_frames(sound, min(n, end - position))
        if not len(block):
            raise ReadError(segment.file, f"truncated at frame {position}")
        position += len(block)
        yield block[:, list(segment.columns)]


class _Sounds:
    """The sound file that was used last, open: seeking is cheap, opening is not."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._sound: sf.SoundFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._sound is not None:
            self._sound.close()
        self._file = self._sound = None

    def get(self, segment: Segment) -> sf.SoundFile:
        """The segment's file, which must be what the index says."""
        if self._sound is None or segment.file != self._file:
            self.__exit__()
            self._file, self._sound = segment.file, open_sound(segment.file)
        sound, end = self._sound, segment.offset + segment.n_samples
        if max(segment.columns) >= sound.channels or end > sound.frames:
            raise ReadError(
                segment.file,
                f"has {sound.frames} frames x {sound.channels} channels, the index asks for "
                f"frames up to {end} of channel {max(segment.columns)}",
                "the file is truncated or not the one that was indexed",
            )
        if abs(sound.samplerate - segment.sample_rate_hz) >= 1.0:  # headers hold whole hertz
            raise ReadError(
                segment.file,
                f"sample rate {sound.samplerate} Hz, the index says {segment.sample_rate_hz} Hz",
            )
        return sound


def _notes(folder: Path, found: list[Segment]) -> Iterator[str]:
    repaired = sum(s.time_source == "repaired" for s in found)
    if repaired:
        yield f"{repaired} of {len(found)} segments carry repaired times"
    if any(s.time_source == "synthetic" for s in found):
        yield "times are synthetic"
    meta = folder / "meta.json"
    if meta.is_file() and meta.stat().st_size < 2**20:
        try:
            facts = json.loads(meta.read_text("utf-8"))
        except ValueError as error:
            raise ReadError(meta, f"not JSON ({error})") from error
        if isinstance(facts, dict):
            yield from (str(facts[k]) for k in ("description", "licence") if k in facts)
