"""Messages of the topics of snapshots and cases in; what a person asks about out, from memory.

Bounded in bytes: where more comes, the oldest goes. Pictures of health, pictures of departures and
cases have a share each, so that a plant full of alarms does not push out what they are compared
with. Of two messages of one key the later one counts, as on the topics. Safe to use from several
threads.
"""

import json
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

from pipeline.alarm_messages import VERSION as CASE_VERSION
from pipeline.json_fields import INT64
from pipeline.messages import NS_PER_S
from pipeline.snapshots import (
    BadSnapshot,
    Snapshot,
    is_finite,
    is_text,
    keys_of,
    snapshot_from_bytes,
)

SHARES: Final = {"healthy": 0.45, "now": 0.45, "case": 0.10}
OVERHEAD_BYTES: Final = 512
"""Of a record in memory beside its bytes."""
MAX_CASE_BYTES: Final = 1 << 20
SEVERITIES: Final = ("ok", "advisory", "alert", "alarm")
"""Least first."""
TEXTS: Final = (
    "case_id", "asset", "asset_name", "plant", "area", "line", "superseded_by", "first_out",
    "sentence",
)  # fmt: skip
# A change that shares its window with another is stamped some nanoseconds later.
STAMP_SLACK_NS: Final = NS_PER_S // 1000

Case = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pair:
    """What the pictures of one sensor show; None where nothing is kept."""

    now: Snapshot | None
    healthy: Snapshot | None


class Shelf:
    """Records by key, the oldest out where they take more than their bytes.

    >>> shelf = Shelf(2 * (OVERHEAD_BYTES + 2))
    >>> for key in (b"a", b"b", b"c"):
    ...     shelf.put(key, b"1")
    >>> shelf.get(b"a"), shelf.get(b"c"), len(shelf), shelf.dropped
    (None, b'1', 2, 1)
    """

    def __init__(self, max_bytes: float) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self.size = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> bytes | None:
        """The newest value of a key."""
        return self._kept.get(key)

    def values(self) -> list[bytes]:
        """All of them, oldest first."""
        return list(self._kept.values())

    def put(self, key: bytes, value: bytes | None) -> None:
        """Keep a value, instead of the one before; None forgets it."""
        before = self._kept.pop(key, None)
        if before is not None:
            self.size -= _cost(key, before)
        if value is None:
            return
        self._kept[key] = value
        self.size += _cost(key, value)
        while self.size > self._max_bytes:
            oldest, gone = self._kept.popitem(last=False)
            self.size -= _cost(oldest, gone)
            self.dropped += 1


def _cost(key: bytes, value: bytes) -> int:
    return len(key) + len(value) + OVERHEAD_BYTES


class SnapshotStore:
    """What `echowatch serve` knows.

    Args:
        max_bytes: Of all of it.

    Attributes:
        refused: Messages that were none of ours.
    """

    def __init__(self, max_bytes: float) -> None:
        self._lock = Lock()
        self._shelves = {kind: Shelf(share * max_bytes) for kind, share in SHARES.items()}
        self.refused = 0

    def put_snapshot(self, key: bytes | None, value: bytes | None) -> None:
        """Take a message of the topic of snapshots."""
        kind = (key or b"").decode(errors="replace").rpartition("|")[0].rpartition("|")[2]
        if key is None or kind not in ("healthy", "now"):
            self.refused += 1
            return
        if value is not None and not _belongs(key, value):
            self.refused += 1
            return
        with self._lock:
            self._shelves[kind].put(key, value)

    def put_case(self, key: bytes | None, value: bytes | None) -> None:
        """Take a message of the topic of cases."""
        case = None if value is None else read_case(value)
        if key is None or (value is not None and (case is None or case["case_id"].encode() != key)):
            self.refused += 1
            return
        with self._lock:
            self._shelves["case"].put(key, value)

    def case(self, case_id: str) -> Case | None:
        """A case as it stands; the one that has its evidence now where it was withdrawn."""
        for _ in range(8):  # withdrawn again and again: a late transition may be followed by others
            with self._lock:
                value = self._shelves["case"].get(case_id.encode())
            case = None if value is None else read_case(value)
            if case is None or case["state"] != "superseded":
                return case
            case_id = case["superseded_by"]
        return None

    def cases(self, asset: str | None = None) -> list[Case]:
        """Cases that were not withdrawn, open ones first, then the newest first.

        Args:
            asset: Of this machine only.
        """
        with self._lock:
            values = self._shelves["case"].values()
        if asset is not None:  # reading a few instead of thousands
            named = json.dumps(asset).encode()
            values = [value for value in values if named in value]
        found = [case for case in map(read_case, values) if case and case["state"] != "superseded"]
        found = [case for case in found if asset in (None, case["asset"])]
        return sorted(found, key=lambda case: (case["state"] != "open", -case["opened_ns"]))

    def pair(self, sensor_id: str, since_ns: int = 0, until_ns: int | None = None) -> Pair:
        """The newest departure of a sensor within a time, and the health of then.

        Args:
            sensor_id: Name of the sensor.
            since_ns: Opening of the case.
            until_ns: Its end; None = it is open.
        """
        now = [
            one
            for one in self._snapshots(sensor_id, "now")
            if since_ns - STAMP_SLACK_NS <= one.facts["end_ns"]
            and (until_ns is None or one.facts["end_ns"] <= until_ns + STAMP_SLACK_NS)
        ]
        healthy = self._snapshots(sensor_id, "healthy")
        shown = now[-1] if now else None
        if shown is not None:
            before = [one for one in healthy if one.facts["end_ns"] <= shown.facts["end_ns"]]
            healthy = before or healthy
        return Pair(shown, healthy[-1] if healthy else None)

    def facts(self) -> dict[str, Any]:
        """Counts for people and programs."""
        with self._lock:
            shelves = self._shelves.items()
            return {
                **{f"{kind}_kept": len(shelf) for kind, shelf in shelves},
                **{f"{kind}_dropped": shelf.dropped for kind, shelf in shelves},
                "bytes": sum(shelf.size for _, shelf in shelves),
                "refused": self.refused,
            }

    def _snapshots(self, sensor_id: str, kind: str) -> list[Snapshot]:
        """Oldest first."""
        with self._lock:
            values = [self._shelves[kind].get(key) for key in keys_of(sensor_id, kind)]
        found = [snapshot_from_bytes(value) for value in values if value is not None]
        return sorted(found, key=lambda one: int(one.facts["end_ns"]))


def _belongs(key: bytes, value: bytes) -> bool:
    """Whether a value is a snapshot, of this key."""
    try:
        facts = snapshot_from_bytes(value).facts
    except BadSnapshot:
        return False
    return f"{facts['sensor_id']}|{facts['place']}".encode() == key


def read_case(value: bytes) -> Case | None:
    """A case of our version; None for what is none."""
    try:
        case: Any = json.loads(value) if len(value) <= MAX_CASE_BYTES else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(case, dict) or case.get("version") != CASE_VERSION:
        return None
    fits = (
        all(is_text(case.get(name)) for name in TEXTS)
        and case.get("state") in ("open", "closed", "superseded")
        and all(case.get(name) in SEVERITIES for name in ("severity", "current"))
        and all(_is_time(case.get(name)) for name in ("opened_ns", "changed_ns", "since_ns"))
        and (case.get("closed_ns") is None or _is_time(case["closed_ns"]))
        and isinstance(case.get("sensors"), list)
        and all(_is_evidence(sensor) for sensor in case["sensors"])
    )
    return case if fits else None


def _is_time(value: object) -> bool:
    return type(value) is int and value in INT64


def _is_evidence(sensor: Any) -> bool:
    if not isinstance(sensor, dict):
        return False
    band, share = sensor.get("band_hz"), sensor.get("band_share")
    return (
        all(is_text(sensor.get(name)) for name in ("sensor_id", "name", "status", "reason"))
        and all(sensor.get(name) in SEVERITIES for name in ("severity", "current"))
        and isinstance(band, list)
        and len(band) == 2
        and all(is_finite(edge) for edge in band)
        and (share is None or is_finite(share))
    )
