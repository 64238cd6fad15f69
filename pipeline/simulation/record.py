"""How far a simulated plant has spoken in; a file that says so, and from which it goes on, out."""

import hashlib
import json
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMAT = 1


class SimulateError(ValueError):
    """A simulation that cannot be done as asked, in words."""


@dataclass(slots=True)
class Record:
    """The file's content.

    Attributes:
        job: What makes it the same plant on the same topic.
        start_ns: Where its history begins.
        sent_ns: All captures that begin before this are stored.
    """

    job: dict[str, Any]
    start_ns: int
    sent_ns: int


class Watermark:
    """Captures handed over and stored, in any order, in; the time before which all are stored out.

    Args:
        at_ns: That time at the beginning.
    """

    def __init__(self, at_ns: int) -> None:
        self._at_ns = at_ns
        self._under_way: deque[tuple[int, int]] = deque()
        self._stored: set[int] = set()

    def send(self, number: int, start_ns: int) -> None:
        """One more is under way, the next in order of time."""
        self._under_way.append((number, start_ns))

    def store(self, number: int) -> None:
        """Kafka has it."""
        self._stored.add(number)

    def at_ns(self) -> int:
        """All captures that begin before are stored."""
        while self._under_way and self._under_way[0][0] in self._stored:
            number, start_ns = self._under_way.popleft()
            self._stored.discard(number)
            self._at_ns = start_ns + 1
        return self._at_ns


def default_path(job: dict[str, Any]) -> Path:
    """`simulate-TOPIC-xxxxxxxx.json` in the current folder, one per plant and cluster."""
    digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:8]
    return Path(f"simulate-{job['topic']}-{digest}.json")


def save(path: Path, record: Record) -> None:
    """Write the file as a whole, or not at all.

    Raises:
        SimulateError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(json.dumps({"format": FORMAT, **asdict(record)}), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise SimulateError(
            f"record {path} cannot be written: {error.strerror}; name another with --resume"
        ) from error


def load(path: Path, job: dict[str, Any]) -> Record | None:
    """Read the file of this job, None where there is none.

    Raises:
        SimulateError: it cannot be read, or belongs to another plant or topic.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise SimulateError(f"record {path} cannot be read: {error}") from error
    record = _parsed(text)
    if record is None:
        raise SimulateError(
            f"{path} is no record of a simulation: remove it, or name another with --resume"
        )
    for name, value in job.items():
        if record.job.get(name) != value:
            raise SimulateError(
                f"{path} belongs to another plant ({name}: was {record.job.get(name)}, now "
                f"{value}): name another with --resume, or begin anew with --again"
            )
    return record


def _parsed(text: str) -> Record | None:
    """A record from its text, None for anything else."""
    try:
        found = json.loads(text)
        known = found["format"] == FORMAT
        record = Record(dict(found["job"]), int(found["start_ns"]), int(found["sent_ns"]))
    except (ValueError, KeyError, TypeError):
        return None
    return record if known else None
