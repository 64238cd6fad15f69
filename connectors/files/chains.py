"""Files whose headers were read in, their chunks in order of time out.

Files of one sensor form a chain and are read in a row, oldest first, so that no sensor's stream is
ever interleaved; chains are merged by start time. Files without any time form one chain too.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from connectors.files.cut import chunks_of, jump_tolerance_ns
from connectors.files.merge import Lane, merge
from connectors.files.recording import (
    ReadError,
    ReadOptions,
    Recording,
    report,
)
from connectors.files.times import DEFAULT_START_NS, format_time, parse_time
from pipeline.messages import NS_PER_S, Flags, SensorChunk

_NEVER_NS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file whose header was read.

    Attributes:
        open: Reads the header again; every rate is known.
        sensors: Sensor ids it holds.
        start_ns: None where it holds no time.
    """

    path: Path
    open: Callable[[], list[Recording]]
    sensors: frozenset[str]
    start_ns: int | None


def stream(files: Sequence[PlannedFile], options: ReadOptions) -> Iterator[SensorChunk]:
    """All files by start time; a file is opened when the stream has reached its start."""
    origin_ns = DEFAULT_START_NS if options.start is None else parse_time(options.start)
    chains = _chains(_with_period(files, origin_ns, options.period_s), origin_ns)
    return merge([Lane(c.origin_ns, partial(c.chunks, options)) for c in chains])


def _with_period(
    files: Sequence[PlannedFile], origin_ns: int, period_s: float | None
) -> list[PlannedFile]:
    """Files without a time at origin + index x period, where there is a period."""
    if period_s is None:
        return list(files)
    placed, untimed = [], 0
    for file in files:
        if file.start_ns is None:
            at_ns = origin_ns + round(untimed * period_s * NS_PER_S)
            placed.append(replace(file, start_ns=at_ns))
            untimed += 1
        else:
            placed.append(file)
    return placed


def _chains(files: Sequence[PlannedFile], origin_ns: int) -> list["_Chain"]:
    """Files grouped so that no sensor, and no file without a time, is in two groups."""
    groups: dict[int, list[PlannedFile]] = {}
    owner: dict[str, int] = {}
    for number, file in enumerate(files):
        keys = _keys(file)
        joined = sorted({owner[key] for key in keys if key in owner})
        home = joined[0] if joined else number
        members = groups.setdefault(home, [])
        for other in joined[1:]:
            moved = groups.pop(other)
            members += moved
            owner.update((key, home) for m in moved for key in _keys(m))
        members.append(file)
        owner.update(dict.fromkeys(keys, home))
    return [_Chain(members, origin_ns) for members in groups.values()]


def _keys(file: PlannedFile) -> list[str]:
    return [*file.sensors, *([""] if file.start_ns is None else [])]


@dataclass(slots=True)
class _Sensor:
    """What goes on across the files of one sensor."""

    seq: int = 0
    base_epoch: int = 0
    top_epoch: int = 0
    end_ns: int | None = None


class _Chain:
    """Files in a row; epochs and message counters go on from file to file."""

    def __init__(self, files: list[PlannedFile], origin_ns: int) -> None:
        def start_ns(file: PlannedFile) -> int:
            return origin_ns if file.start_ns is None else file.start_ns

        self._files = sorted(files, key=start_ns)
        self.origin_ns = start_ns(self._files[0])
        self._end_ns = origin_ns
        self._sensors: dict[str, _Sensor] = {}

    def chunks(self, options: ReadOptions) -> Iterator[SensorChunk]:
        """The chunks of all files."""
        was_capture = False
        for file, following_ns in zip(self._files, self._following(), strict=True):
            # The last file has no successor to tell: it is what those before it were.
            next_ns = _NEVER_NS if following_ns is None and was_capture else following_ns
            try:
                for chunk in self._file(file, next_ns, options):
                    was_capture = Flags.END_OF_CAPTURE in chunk.flags
                    yield chunk
            except ReadError as error:
                report(error, options)

    def _following(self) -> list[int | None]:
        """Per file: start of the next file that shares a sensor with it."""
        coming: dict[str, int | None] = {}
        following: list[int | None] = []
        for file in reversed(self._files):
            starts = [coming[s] for s in file.sensors if s in coming]
            following.append(min((s for s in starts if s is not None), default=None))
            coming.update(dict.fromkeys(file.sensors, file.start_ns))
        return following[::-1]

    def _file(
        self, file: PlannedFile, next_ns: int | None, options: ReadOptions
    ) -> Iterator[SensorChunk]:
        start_ns = self._end_ns if file.start_ns is None else file.start_ns
        placed = [replace(r, start_ns=start_ns) if r.start_ns is None else r for r in file.open()]
        for recording in placed:
            self._go_on(file, recording, options)
        lanes = [Lane(r.start_ns or 0, partial(chunks_of, r, options, next_ns)) for r in placed]
        for chunk in merge(lanes):
            yield self._stamped(chunk)

    def _go_on(self, file: PlannedFile, recording: Recording, options: ReadOptions) -> None:
        """Decide whether a file continues its sensors' epochs."""
        begin_ns = (recording.start_ns or 0) + jump_tolerance_ns(recording.sample_rate_hz or 1.0)
        for channel in recording.channels:
            sensor = self._sensors.setdefault(channel.sensor_id, _Sensor())
            if sensor.end_ns is None:
                continue
            overlaps = begin_ns < sensor.end_ns
            if overlaps:
                options.on_problem(
                    f"{file.path}: begins {format_time(begin_ns)}, before the previous file of "
                    f"{channel.sensor_id} ends; a new epoch begins"
                )
            sensor.base_epoch = sensor.top_epoch + (overlaps or file.start_ns is None)

    def _stamped(self, chunk: SensorChunk) -> SensorChunk:
        sensor = self._sensors[chunk.sensor_id]
        stamped = replace(chunk, seq=sensor.seq, epoch=sensor.base_epoch + chunk.epoch)
        sensor.seq += 1
        sensor.top_epoch = max(sensor.top_epoch, stamped.epoch)
        sensor.end_ns = max(sensor.end_ns or chunk.end_ns, chunk.end_ns)
        self._end_ns = max(self._end_ns, chunk.end_ns)
        return stamped
