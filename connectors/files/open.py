"""Paths of any mix of files and folders in, one time-ordered stream of chunks out.

Time of a file, in this order: what the file says, its columns, its name, then `ReadOptions.start`
+ index x `period_s` (without a period one after the other, each a new epoch). The time part of a
file name is no part of the sensor id, so that `pump_20240501_120000.wav` and the file of an hour
later are one sensor `pump`. Files of one sensor are read in a row, never interleaved.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from connectors.files import (
    arrays,
    audio,
    hdf5,
    index_set,
    matlab,
    parquet,
    raw,
    snapshots,
    tdms,
    text,
)
from connectors.files.chains import PlannedFile, stream
from connectors.files.recording import (
    MAX_RATE_HZ,
    MIN_RATE_HZ,
    ChannelInfo,
    Description,
    ReadError,
    ReadOptions,
    Recording,
    report,
    sensor_name,
    with_options,
)
from connectors.files.times import time_in_name
from pipeline.messages import NS_PER_S, SensorChunk

DEFAULTS = ReadOptions()

_READERS: dict[str, Callable[[Path, ReadOptions], list[Recording]]] = {
    "audio": audio.recordings,
    "femto": snapshots.femto,
    "hdf5": hdf5.recordings,
    "ims": snapshots.ims,
    "index-set": index_set.recordings,
    "mat": matlab.recordings,
    "npy": arrays.npy,
    "npz": arrays.npz,
    "parquet": parquet.recordings,
    "raw": raw.recordings,
    "tdms": tdms.recordings,
    "text": text.recordings,
}
_LAYOUTS: dict[str, Callable[[Path], bool]] = {
    "index-set": index_set.is_index_set,
    "femto": snapshots.is_femto,
    "ims": snapshots.is_ims,
}
_MAGIC = (
    (b"RIFF", "audio"),
    (b"RF64", "audio"),
    (b"fLaC", "audio"),
    (b"FORM", "audio"),
    (b"OggS", "audio"),
    (b"\x93NUMPY", "npy"),
    (b"MATLAB 7.3", "hdf5"),
    (b"MATLAB 5.0", "mat"),
    (b"\x89HDF\r\n", "hdf5"),
    (b"PAR1", "parquet"),
    (b"TDSm", "tdms"),
)
_SUFFIXES = {
    ".wav": "audio",
    ".flac": "audio",
    ".aif": "audio",
    ".aiff": "audio",
    ".ogg": "audio",
    ".oga": "audio",
    ".npy": "npy",
    ".npz": "npz",
    ".mat": "mat",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".hdf": "hdf5",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".tdms": "tdms",
    ".csv": "text",
    ".tsv": "text",
    ".bin": "raw",
    ".raw": "raw",
    ".pcm": "raw",
}
# Table, prose, or binary: only the content tells.
_MAYBE_TEXT = (".txt", ".dat", ".asc", ".lvm", "")
_SUFFIX = re.compile(r"\.[A-Za-z]\w{0,8}$")


@dataclass(frozen=True, slots=True)
class Source:
    """One file, or one folder with a known layout.

    Attributes:
        kind: Reader that takes it.
        name: What its sensors are called by default: path within the given folder, no suffix.
    """

    path: Path
    kind: str
    name: str

    def chunks(self, options: ReadOptions = DEFAULTS) -> Iterator[SensorChunk]:
        """Its chunks, in order of time."""
        return _stream([self], options)

    def describe(self, options: ReadOptions = DEFAULTS) -> Description:
        """What it holds, from its headers."""
        found = recordings(self, options)
        notes = [note for r in found for note in r.notes]
        if any(r.sample_rate_hz is None for r in found):
            notes.append("rate unknown: pass --rate")
        notes += [_too_slow(rate) for rate in _slow_rates(found)]
        if any(r.start_ns is None for r in found):
            notes.append("no time: pass --start, or it begins 2000-01-01T00:00:00Z")
        return Description(
            path=self.path,
            kind=self.kind,
            channels=tuple(info for r in found for info in _infos(r)),
            duration_s=_duration_s(found),
            n_captures=max(r.n_captures for r in found),
            labels=_count(label for r in found for label in r.labels),
            notes=tuple(dict.fromkeys(notes)),
        )


def discover(paths: Sequence[Path | str], options: ReadOptions = DEFAULTS) -> list[Source]:
    """What each path is: a file by content, then suffix; a folder by layout, then its files.

    Raises:
        ReadError: A path that is missing, or no signal file, where `on_error` is `stop`.
    """
    found: list[Source] = []
    for given in map(Path, paths):
        try:
            found.extend(_expand(given, given, options))
        except ReadError as error:
            report(error, options)
    return found


def describe(path: Path | str, options: ReadOptions = DEFAULTS) -> Description:
    """What a path holds, from headers; a folder without a layout is the sum of its files.

    Raises:
        ReadError: A broken file where `on_error` is `stop`, or nothing readable at all.
    """
    described = []
    for source in discover([path], options):
        try:
            described.append(source.describe(options))
        except ReadError as error:
            report(error, options)
    if not described:
        raise ReadError(Path(path), "nothing readable in it", f"known: {', '.join(_READERS)}")
    return described[0] if len(described) == 1 else _sum(Path(path), described)


def _sum(path: Path, parts: list[Description]) -> Description:
    lengths = [part.duration_s for part in parts if part.duration_s is not None]
    return Description(
        path=path,
        kind="folder",
        channels=tuple(channel for part in parts for channel in part.channels),
        duration_s=sum(lengths) if len(lengths) == len(parts) else None,
        n_captures=sum(part.n_captures for part in parts),
        labels=_count(label for part in parts for label in part.labels),
        notes=tuple(f"{part.path.name}: {note}" for part in parts for note in part.notes),
    )


def _count(labels: Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    counts: Counter[str] = Counter()
    for label, n in labels:
        counts[label] += n
    return tuple(sorted(counts.items()))


def read(paths: Sequence[Path | str], *, options: ReadOptions = DEFAULTS) -> Iterator[SensorChunk]:
    """All chunks of all paths by start time; headers are read now, samples when asked for.

    Raises:
        ReadError: A broken file where `on_error` is `stop`; now or while reading.
    """
    return _stream(discover(paths, options), options)


def recordings(source: Source, options: ReadOptions = DEFAULTS) -> list[Recording]:
    """A source's recordings, with the names, units and times that options and file name give."""
    timed = time_in_name(_SUFFIX.sub("", source.path.name), options.time_pattern)
    name = source.name
    if timed is not None and not source.path.is_dir():
        rest = time_in_name(Path(name).name, options.time_pattern)
        name = (Path(name).parent / (rest[1] if rest else "")).as_posix().strip("./")
        name = name or source.path.resolve().parent.name
    try:
        found = _READERS[source.kind](source.path, options)
    except OSError as error:
        raise ReadError(source.path, f"cannot be read ({error})") from error
    if not found:
        raise ReadError(source.path, "holds no samples")
    alone = sum(len(r.channels) for r in found) == 1
    named = [_named(recording, source, name, options, alone=alone) for recording in found]
    # A sensor whose rate was changed is one recording per rate.
    sensors = Counter((c.sensor_id, r.sample_rate_hz) for r in named for c in r.channels)
    twice = [sensor for (sensor, _), n in sensors.items() if n > 1]
    if twice:
        raise ReadError(
            source.path,
            f"several channels would become sensor {twice[0]!r}",
            "use {channel} in the sensor template, or map each channel",
        )
    if timed is None:
        return named
    return [
        replace(r, start_ns=timed[0], time_source="file name") if r.start_ns is None else r
        for r in named
    ]


def _named(
    recording: Recording, source: Source, name: str, options: ReadOptions, *, alone: bool
) -> Recording:
    def named(channel_name: str) -> str:
        return sensor_name(
            options.sensor,
            name if alone else f"{name}/{channel_name}",
            channel=channel_name,
            stem=_SUFFIX.sub("", source.path.name),
            folder=source.path.resolve().parent.name,
        )

    channels = tuple(
        c
        if c.sensor_id
        else replace(with_options(c, options, recording.full_scale), sensor_id=named(c.name))
        for c in recording.channels
    )
    rate = recording.sample_rate_hz or options.sample_rate_hz
    if rate is not None and not 0.0 < rate <= MAX_RATE_HZ:
        raise ReadError(source.path, f"sample rate {rate} Hz, must lie in 0-{MAX_RATE_HZ:.0f} Hz")
    return replace(recording, channels=channels, sample_rate_hz=rate)


def _expand(path: Path, root: Path, options: ReadOptions) -> Iterator[Source]:
    if not path.exists():
        raise ReadError(path, "no such file or folder", "check the path")
    if path.is_dir():
        yield from _folder(path, root, options)
        return
    kind = kind_of(path)
    if kind is None:
        raise ReadError(
            path, "not a signal file of a known format", f"known: {', '.join(_READERS)}"
        )
    yield _source(path, kind, root)


def _folder(path: Path, root: Path, options: ReadOptions) -> Iterator[Source]:
    """One layout source, or what its files and folders are; what is no signal is told, not read."""
    layout = next((kind for kind, is_layout in _LAYOUTS.items() if is_layout(path)), None)
    if layout is not None:
        yield _source(path, layout, root)
        return
    ignored = []
    for entry in sorted(path.iterdir()):
        if entry.name.startswith(".") or (entry.is_dir() and entry.is_symlink()):
            continue
        if entry.is_dir():
            yield from _folder(entry, root, options)
        elif entry.suffix not in (".yaml", ".yml"):  # sidecars are read with what they describe
            kind = kind_of(entry) if entry.is_file() else None
            if kind is None or (kind == "text" and text.sniff(entry) is None):
                ignored.append(entry.name)
            else:
                yield _source(entry, kind, root)
    if ignored:
        shown = ", ".join(ignored[:5]) + (", ..." if len(ignored) > 5 else "")
        options.on_problem(f"{path}: {len(ignored)} files are no signal files, ignored: {shown}")


def _source(path: Path, kind: str, root: Path) -> Source:
    inside = path.relative_to(root) if path != root else Path(path.resolve().name)
    name = inside.as_posix() if path.is_dir() else _SUFFIX.sub("", inside.as_posix())
    return Source(path, kind, name)


def kind_of(path: Path) -> str | None:
    """Reader of a file by its first bytes, else by its suffix; None where nobody takes it."""
    try:
        with path.open("rb") as file:
            head = file.read(128)
    except OSError as error:
        raise ReadError(path, f"cannot be read ({error.strerror})", "check permissions") from error
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    suffix = _SUFFIX.search(path.name)
    known = _SUFFIXES.get(suffix[0].lower() if suffix else "")
    if known is not None:
        return known
    if raw.sidecar_of(path) is not None:
        return "raw"
    maybe = (suffix[0].lower() if suffix else "") in _MAYBE_TEXT
    return "text" if maybe and text.sniff(path) is not None else None


def _slow_rates(found: Sequence[Recording]) -> list[float]:
    rates = {r.sample_rate_hz for r in found if r.sample_rate_hz is not None}
    return sorted(rate for rate in rates if rate < MIN_RATE_HZ)


def _too_slow(rate: float) -> str:
    return f"sample rate {rate:g} Hz, a signal needs at least {MIN_RATE_HZ:g} Hz"


def _infos(recording: Recording) -> Iterator[ChannelInfo]:
    for channel in recording.channels:
        yield ChannelInfo(
            sensor_id=channel.sensor_id,
            name=channel.name,
            sample_rate_hz=recording.sample_rate_hz,
            unit=channel.unit,
            scale=channel.scale,
            encoding=channel.encoding,
            n_samples=recording.n_samples,
            start_ns=recording.start_ns,
            time_source=recording.time_source,
        )


def _end_ns(recording: Recording, start_ns: int) -> int | None:
    if recording.end_ns is not None:
        return recording.end_ns
    if recording.n_samples is None or recording.sample_rate_hz is None:
        return None
    return start_ns + round(recording.n_samples * NS_PER_S / recording.sample_rate_hz)


def _duration_s(found: list[Recording]) -> float | None:
    spans = [(r.start_ns or 0, _end_ns(r, r.start_ns or 0)) for r in found]
    ends = [end for _, end in spans if end is not None]
    if len(ends) < len(spans):
        return None
    return (max(ends) - min(start for start, _ in spans)) / NS_PER_S


def _stream(sources: Sequence[Source], options: ReadOptions) -> Iterator[SensorChunk]:
    planned = []
    for source in sources:
        try:
            planned.append(_planned(source, options))
        except ReadError as error:
            report(error, options)
    return stream(planned, options)


def _planned(source: Source, options: ReadOptions) -> PlannedFile:
    found = recordings(source, options)
    if any(r.sample_rate_hz is None for r in found):
        raise ReadError(source.path, "rate unknown", "pass --rate")
    for rate in _slow_rates(found):
        raise ReadError(source.path, _too_slow(rate), "leave it out, or --on-error skip")
    starts = [r.start_ns for r in found if r.start_ns is not None]
    return PlannedFile(
        path=source.path,
        open=partial(recordings, source, options),
        sensors=frozenset(c.sensor_id for r in found for c in r.channels),
        start_ns=min(starts) if len(starts) == len(found) else None,
    )
