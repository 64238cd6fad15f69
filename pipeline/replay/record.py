"""What was sent and acknowledged in; a file that says so, and from which a replay goes on, out.

The file counts the chunks that are stored without a gap in the order of the replay, and gives per
partition the offset behind them: whatever else of the replay is in the topic lies there or later.
Its digests are SHA-256 chains, d' = sha256(d + payload) from 32 zero bytes, as they can go on.
"""

import hashlib
import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.messages import SensorChunk

FORMAT = 1
NO_DIGEST = "0" * 64


class ReplayError(ValueError):
    """A replay that cannot be done as asked, in words."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What of one sensor was sent.

    Attributes:
        partition: Where it lies, -1 = not known.
        bytes: Of the message values.
        first_ns, last_ns: First start, last end.
        sha256: Chain over the message values in order.
    """

    partition: int = -1
    rate_hz: float = 0.0
    chunks: int = 0
    samples: int = 0
    bytes: int = 0
    first_ns: int = 0
    last_ns: int = 0
    sha256: str = NO_DIGEST


def added(tally: Tally, chunk: SensorChunk, payload: bytes) -> Tally:
    """The tally with one chunk more."""
    chain = hashlib.sha256(bytes.fromhex(tally.sha256))
    chain.update(payload)
    return replace(
        tally,
        rate_hz=chunk.sample_rate_hz,
        chunks=tally.chunks + 1,
        samples=tally.samples + chunk.samples.size,
        bytes=tally.bytes + len(payload),
        first_ns=min(tally.first_ns, chunk.start_ns) if tally.chunks else chunk.start_ns,
        last_ns=max(tally.last_ns, chunk.end_ns) if tally.chunks else chunk.end_ns,
        sha256=chain.hexdigest(),
    )


class Sent:
    """Counts chunks that are stored, in the order of the replay and without a gap.

    Args:
        offsets: Partition -> one past what was stored when `count` chunks were.
        count: Chunks dealt with before.
        tallies: Of these, by sensor.
        refused: Reason -> chunks of these that break the message contract.

    Attributes:
        count: Chunks that are dealt with: all before this number.
        messages, size: Stored messages and bytes so far.
    """

    def __init__(
        self,
        offsets: dict[int, int],
        *,
        count: int = 0,
        tallies: dict[str, Tally] | None = None,
        refused: dict[str, int] | None = None,
    ) -> None:
        self.offsets, self.count = dict(offsets), count
        self.tallies = dict(tallies or {})
        self.refused = Counter(refused or {})
        self._heads = dict(self.tallies)
        self._ahead: dict[int, tuple[str, Tally]] = {}
        self._stored: dict[int, tuple[int, int]] = {}
        self._left_out: dict[int, str] = {}
        self.messages = sum(t.chunks for t in self.tallies.values())
        self.size = sum(t.bytes for t in self.tallies.values())

    @property
    def ahead(self) -> int:
        """Chunks that are sent but wait for an earlier one."""
        return len(self._ahead)

    def add(self, number: int, chunk: SensorChunk, payload: bytes) -> None:
        """A chunk is on its way."""
        head = added(self._heads.get(chunk.sensor_id, Tally()), chunk, payload)
        self._heads[chunk.sensor_id] = head
        self._ahead[number] = (chunk.sensor_id, head)

    def leave_out(self, number: int, reason: str) -> None:
        """A chunk breaks the message contract and is not sent."""
        self._left_out[number] = reason
        self._release()

    def stored(self, number: int, partition: int, offset: int) -> None:
        """The broker has a chunk; offset -1 where it does not say where."""
        self._stored[number] = (partition, offset)
        self._release()

    def _release(self) -> None:
        while True:
            if self.count in self._stored:
                partition, offset = self._stored.pop(self.count)
                sensor_id, tally = self._ahead.pop(self.count)
                self.messages += 1
                self.size += tally.bytes - self.tallies.get(sensor_id, Tally()).bytes
                self.tallies[sensor_id] = replace(tally, partition=partition)
                self.offsets[partition] = max(self.offsets.get(partition, 0), offset + 1)
            elif self.count in self._left_out:
                self.refused[self._left_out.pop(self.count)] += 1
            else:
                return
            self.count += 1


@dataclass(slots=True)
class Record:
    """The file's content.

    Attributes:
        job: What identifies the replay; another one may not go on from here.
        files: What identifies the recordings.
        status: `running` (or killed), `interrupted` or `finished`.
        partitions: Of the topic; sensors change partition with their number.
        shift_ns: As decided at the first chunk.
        lap: Of a repeated replay, once it is known.
        speed: As asked for last.
        started, updated: UTC times.
        sessions: How often it was started.
    """

    job: dict[str, Any]
    files: dict[str, Any]
    partitions: int
    sent: Sent
    status: str = "running"
    shift_ns: int | None = None
    lap: dict[str, int] | None = None
    speed: str = "max"
    started: str = ""
    updated: str = ""
    sessions: int = 0

    def to_json(self) -> dict[str, Any]:
        """As the file keeps it."""
        sent = self.sent
        return {
            "format": FORMAT,
            "status": self.status,
            "job": self.job,
            "files": self.files,
            "partitions": self.partitions,
            "started": self.started,
            "updated": self.updated,
            "sessions": self.sessions,
            "speed": self.speed,
            "shift_ns": self.shift_ns,
            "lap": self.lap,
            "count": sent.count,
            "offsets": {str(p): offset for p, offset in sorted(sent.offsets.items())},
            "refused": dict(sent.refused),
            "totals": {
                "chunks": sent.messages,
                "samples": sum(t.samples for t in sent.tallies.values()),
                "bytes": sent.size,
            },
            "sensors": {name: asdict(tally) for name, tally in sorted(sent.tallies.items())},
        }


def save(path: Path, record: Record) -> None:
    """Write the file so that a reader, or a crash, sees the old content or the new.

    Raises:
        ReplayError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            json.dump(record.to_json(), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise ReplayError(f"record {path} cannot be written: {error.strerror}") from error


def load(path: Path) -> Record | None:
    """Read the file, None where there is none.

    Raises:
        ReplayError: it cannot be read, or is something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ReplayError(f"record {path} has format {found['format']}, known is {FORMAT}")
        sent = Sent(
            {int(p): offset for p, offset in found["offsets"].items()},
            count=found["count"],
            tallies={name: Tally(**tally) for name, tally in found["sensors"].items()},
            refused=found["refused"],
        )
        names = ("job", "files", "partitions", "status", "shift_ns", "lap", "speed", "started",
                 "updated", "sessions")  # fmt: skip
        return Record(sent=sent, **{name: found[name] for name in names})
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ReplayError(f"record {path} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ReplayError(
            f"{path} is no record of a replay: remove it, or name another with --resume"
        ) from error


def facts_of(paths: list[Path]) -> dict[str, Any]:
    """Number, bytes and a digest of names, sizes and times of all files under the paths."""
    lines, size = [], 0
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                stat = file.stat()
                size += stat.st_size
                lines.append(f"{file}\t{stat.st_size}\t{stat.st_mtime_ns}")
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return {"count": len(lines), "bytes": size, "sha256": digest}


def default_path(job: dict[str, Any]) -> Path:
    """`replay-TOPIC-xxxxxxxx.json` in the current folder, one per job."""
    digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:8]
    return Path(f"replay-{job['topic']}-{digest}.json")


def check_same(record: Record, job: dict[str, Any], files: dict[str, Any], path: Path) -> None:
    """Refuse to go on with another job, or with recordings that have changed.

    Raises:
        ReplayError: says what differs.
    """
    for name, value in job.items():
        if record.job.get(name) != value:
            raise ReplayError(
                f"{path} belongs to another replay ({name}: was {record.job.get(name)!s:.80}, now "
                f"{value!s:.80}): name another with --resume, or discard it with --again"
            )
    if record.files != files:
        raise ReplayError(
            f"the recordings have changed since {path} was begun ({record.files.get('count')} "
            f"files of {record.files.get('bytes')} bytes, now {files['count']} of "
            f"{files['bytes']}): what was sent cannot be told; begin anew with --again"
        )
    if record.status == "finished":
        raise ReplayError(
            f"this replay was finished at {record.updated} ({record.sent.messages} chunks, see "
            f"{path}): send it once more with --again"
        )
