"""What people say to the workers in, messages of the topic of commands out, and back.

An order acts on one sensor at the event time that its worker has reached; `at_ns` is the wall clock
when it was said. The id is a hash of content and time: the same order sent twice is one order. The
topic is compacted by `sensor|action` and an order must lie in the partition of its sensor's id.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Final, Literal, get_args

from pipeline.json_fields import Record
from pipeline.wire import EARLIEST_NS, LATEST_NS, MAX_ID_LENGTH

VERSION: Final = 1
ORDER_ID: Final = "order_id"
"""Header of a transition that an order made."""
MAX_BYTES: Final = 8192
MAX_BY: Final = 80
MAX_WHY: Final = 500
MAX_SHELVE_S: Final = 168 * 3600.0
"""A week: ISA-18.2 wants shelved alarms to come back by themselves."""

Action = Literal["ack", "shelve", "unshelve", "rebaseline", "maintenance"]
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)
NEED_WHY: Final = frozenset({"shelve", "rebaseline", "maintenance"})
"""Orders that change what is watched, or are words themselves."""

OrderReason = Literal[
    "not_json",  # no JSON object, or too long
    "bad_version",  # of another version
    "bad_field",  # missing, or of the wrong type
    "bad_action",  # unknown
    "bad_sensor",  # no sensor id
    "bad_by",  # nobody, too long or not printable
    "bad_why",  # missing where it is needed, too long or not printable
    "bad_time",  # before 1990 or after 2200
    "bad_shelve",  # not more than 0 s and at most a week, or another action with a length
    "bad_id",  # not that of this content
]
REASONS: Final[tuple[OrderReason, ...]] = get_args(OrderReason)

ORDER_FIELDS: Final = {
    "version": "1",
    "order_id": "hash of the other fields; may be left out",
    "sensor_id": "whom it concerns",
    "action": "ack, shelve, unshelve, rebaseline or maintenance",
    "by": f"person, 1 to {MAX_BY} printable characters",
    "why": f"at most {MAX_WHY} printable characters; shelve, rebaseline and maintenance need it",
    "at_ns": "wall clock when it was said, ns since 1970 UTC",
    "shelve_s": "length of a shelving, s of event time, at most 168 h; else 0 or left out",
}
"""Fields of a message of the topic of commands."""

_SENSOR_ID = re.compile(r"[A-Za-z0-9._:-]+(/[A-Za-z0-9._:-]+)*")


class BadOrder(ValueError):  # noqa: N818  (the name is what dead letters hold)
    """An order that cannot be obeyed, or a message that is none.

    Attributes:
        reason: One of `REASONS`.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Order:
    """One thing that a person said.

    Attributes:
        order_id: Of its content and time; see `new_order`.
        sensor_id: Whom it concerns.
        action: `rebaseline`: drop what is known of health and learn anew; `maintenance`: a note.
        by: Person.
        why: Their words.
        at_ns: Wall clock when it was said.
        shelve_s: Length of a shelving, seconds of event time; 0 for other actions.
    """

    order_id: str
    sensor_id: str
    action: Action
    by: str
    why: str
    at_ns: int
    shelve_s: float = 0.0

    @property
    def key(self) -> bytes:
        """Key of the message: of a sensor and action only the newest order is kept.

        >>> new_order("p/1", "ack", by="eva", at_ns=1_700_000_000_000_000_000).key
        b'p/1|ack'
        """
        return f"{self.sensor_id}|{self.action}".encode()


def new_order(
    sensor_id: str, action: str, *, by: str, at_ns: int, why: str = "", shelve_s: float = 0.0
) -> Order:
    """An order with its id; the same words at the same time give the same id.

    Raises:
        BadOrder: for one that no worker would take.
    """
    if action not in ACTIONS:
        raise BadOrder("bad_action", f"known are {', '.join(ACTIONS)}, got {action[:40]!r}")
    _check_words(action, by, why)
    if len(sensor_id) > MAX_ID_LENGTH or not _SENSOR_ID.fullmatch(sensor_id):
        raise BadOrder(
            "bad_sensor",
            f"1 to {MAX_ID_LENGTH} of A-Z a-z 0-9 . _ : - in parts joined by single slashes, "
            f"got {sensor_id[:80]!r}",
        )
    if not EARLIEST_NS <= at_ns <= LATEST_NS:
        raise BadOrder("bad_time", f"must be ns since 1970, from 1990 to 2200, got {at_ns}")
    if action == "shelve" and not 0.0 < shelve_s <= MAX_SHELVE_S:
        raise BadOrder("bad_shelve", f"must last > 0 s and <= {MAX_SHELVE_S:g} s, got {shelve_s} s")
    if action != "shelve" and shelve_s != 0.0:
        raise BadOrder("bad_shelve", f"{action} has no length, got {shelve_s} s")
    content = json.dumps([sensor_id, action, by, why, at_ns, float(shelve_s)])
    order_id = hashlib.sha256(content.encode()).hexdigest()[:16]
    return Order(order_id, sensor_id, action, by, why, at_ns, float(shelve_s))


def order_to_json(order: Order) -> bytes:
    """An order as a message."""
    return json.dumps({"version": VERSION, **asdict(order)}).encode()


def order_from_json(data: bytes) -> Order:
    """Read back what `order_to_json` wrote.

    Raises:
        BadOrder: for anything else, and nothing else.
    """
    record = Record(data, version=VERSION, max_bytes=MAX_BYTES, refuse=BadOrder)
    order = new_order(
        record.text("sensor_id"),
        record.text("action"),
        by=record.text("by"),
        why=record.text("why", ""),
        at_ns=record.integer("at_ns"),
        shelve_s=record.number("shelve_s", 0.0),
    )
    given = record.text("order_id", order.order_id)
    if given != order.order_id:
        raise BadOrder("bad_id", f"must be {order.order_id} or left out, got {given[:40]!r}")
    return order


def _check_words(action: str, by: str, why: str) -> None:
    if not by.strip() or len(by) > MAX_BY or not by.isprintable():
        raise BadOrder("bad_by", f"1 to {MAX_BY} printable characters, got {by[: MAX_BY + 1]!r}")
    if len(why) > MAX_WHY or not why.isprintable():
        raise BadOrder(
            "bad_why", f"at most {MAX_WHY} printable characters, got {why[: MAX_WHY + 1]!r}"
        )
    if action in NEED_WHY and not why.strip():
        raise BadOrder("bad_why", f"{action} needs its reason in words, got none")
