"""State of one sensor or asset in, one record of the changelog out, and back.

A record is a header of one JSON line and a packed state (`pipeline.state`). The header says up to
which offset of which topic the state has heard, so that what it has heard is never learnt twice and
of two records the one that knows more wins, whoever wrote last: a worker that was frozen and goes
on may write an old one after a newer.

Keys: `live|SENSOR` (small, often), `base|SENSOR|NUMBER` (baselines; large, rare; each under a key
of its own that the live record names, so that the pair changes in one write), `case|ASSET`.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from pipeline.state import StateError

VERSION: Final = 1
Kind = Literal["live", "base", "case"]


@dataclass(frozen=True, slots=True)
class Header:
    """What a record knows.

    Attributes:
        positions: Topic -> offset of the last message that the state includes.
        epoch: Raised by a rewind: records of a higher epoch win, whatever their offsets.
        base: Number of the baseline that a live record belongs to; empty before the first.
        deadline_ns: Event time at which the sensor counts as silent; 0 = not waited for.
        heard_ns: Event time at which it was heard last.
        promised: What is still to be told of orders that the state includes, see
            `pipeline.streaming.promises`.
    """

    positions: dict[str, int] = field(default_factory=dict)
    epoch: int = 0
    base: str = ""
    deadline_ns: int = 0
    heard_ns: int = 0
    promised: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rank(self) -> tuple[int, int]:
        """Of two records of one key, the one that ranks higher knows more."""
        return (self.epoch, sum(self.positions.values()) + len(self.positions))


def key_of(kind: Kind, name: str, number: str = "") -> bytes:
    """Key of the record of a sensor or asset.

    >>> key_of("live", "plant/pump/de"), key_of("base", "plant/pump/de", "3")
    (b'live|plant/pump/de', b'base|plant/pump/de|3')
    """
    return f"{kind}|{name}|{number}".encode() if number else f"{kind}|{name}".encode()


def name_of(key: bytes) -> tuple[str, str, str]:
    """(kind, sensor or asset, number of a baseline) of a key.

    >>> name_of(b"base|plant/pump/de|3")
    ('base', 'plant/pump/de', '3')
    """
    kind, _, name = key.decode().partition("|")
    # Neither sensors nor assets have a bar in their names.
    name, _, number = name.partition("|")
    return kind, name, number


def write_record(header: Header, body: bytes) -> bytes:
    """Value of a record."""
    return json.dumps({"version": VERSION, **asdict(header)}).encode() + b"\n" + body


def read_header(value: bytes) -> Header:
    """Header of a record, without looking at its state.

    Raises:
        StateError: for bytes that are no record, or one of another version.
    """
    head, newline, _ = value.partition(b"\n")
    try:
        found: dict[str, Any] = json.loads(head)
        version = found.pop("version")
        if not newline or version != VERSION:
            raise StateError(f"record version must be {VERSION}, got {version!r}")
        return Header(**found)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StateError(f"not a state record: {error}") from error


def read_body(value: bytes) -> bytes:
    """Packed state of a record; empty where a rewind has forgotten it, which only time outranks."""
    return value.partition(b"\n")[2]


def unusable(key: bytes, error: Exception) -> StateError:
    """What to say of a record that is damaged, or was made by another version or model."""
    kind, name, _ = name_of(key)
    role = "cases" if kind == "case" else "signals --relearn"
    return StateError(
        f"the state of {name} cannot be used: {error}. Start the worker with the version, model "
        "and settings that made it, or have it made anew: stop all workers and run "
        f"`echowatch rewind --to earliest --role {role}`"
    )
