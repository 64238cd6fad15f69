"""What people ask of a running plant in; its cases, and what became of their orders, out.

Cases come from the compacted topic of cases, orders go to the compacted topic of commands, each
into the partition in which the workers hear its sensor. An order has been obeyed once the workers
have acknowledged its message: what it changed is on the topic of transitions by then, under its id,
and a refusal is among the dead letters.
"""

import difflib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from connectors.kafka import group, topics
from connectors.kafka_access import Access, KafkaTrouble
from connectors.kafka_follow import Follower, Heard, following
from connectors.kafka_records import Record, partition_of, read_topic, send
from pipeline.alarm_messages import VERSION as CASE_VERSION
from pipeline.alarm_messages import BadTransition, transition_from_json
from pipeline.fleet import Fleet
from pipeline.messages import Transition
from pipeline.orders import ORDER_ID, Order, order_to_json
from pipeline.service_settings import Kafka
from pipeline.services.topics import group_of

SEVERITIES: Final = ("ok", "advisory", "alert", "alarm")
"""Least first."""
ASK_S: Final = 1.0
NEEDED: Final = frozenset(
    {"case_id", "asset", "state", "current", "opened_ns", "acked", "shelved", "sentence", "sensors"}
)


class LiveError(ValueError):
    """Something that cannot be done to the live plant, in words."""


def read_cases(access: Access, kafka: Kafka) -> list[dict[str, Any]]:
    """The newest record of every case, worst and oldest first; withdrawn ones are left out.

    Raises:
        LiveError: there is no topic of cases.
        KafkaTrouble: Kafka does not answer.
    """
    if kafka.alarms not in topics(access, [kafka.alarms]):
        raise LiveError(
            f"no worker has written {kafka.alarms} yet, there is no such topic: "
            "`echowatch topics create`, then `echowatch worker`"
        )
    newest = {record.key: record.value for record in read_topic(access, kafka.alarms)}
    cases = [case for case in map(_case, newest.values()) if case is not None]
    return sorted(cases, key=lambda c: (-SEVERITIES.index(c["current"]), c["opened_ns"]))


def _case(value: bytes | None) -> dict[str, Any] | None:
    """A case of our version; None for what is none, or was withdrawn."""
    try:
        case: Any = json.loads(value or b"")
    except (ValueError, RecursionError):
        return None
    ours = isinstance(case, dict) and case.get("version") == CASE_VERSION and case.keys() >= NEEDED
    if not ours or case["state"] == "superseded" or case["current"] not in SEVERITIES:
        return None
    found: dict[str, Any] = case
    return found


def resolve(target: str, cases: Sequence[Mapping[str, Any]], fleet: Fleet) -> list[str]:
    """Sensors that a target names.

    Args:
        target: Case id (its sensors), asset id (those of its cases and of the fleet) or sensor id.
        cases: From `read_cases`.
        fleet: What is known beside them; may be empty.

    Raises:
        LiveError: nothing knows the target; it names the nearest that are known.
    """
    by_case = {case["case_id"]: _sensors(case) for case in cases}
    if target in by_case:
        return sorted(by_case[target])
    by_asset: dict[str, set[str]] = {info.asset: set() for info in fleet.sensors}
    for info in fleet.sensors:
        by_asset[info.asset].add(info.sensor_id)
    for case in cases:
        by_asset.setdefault(case["asset"], set()).update(_sensors(case))
    if target in by_asset:
        return sorted(by_asset[target])
    sensors = set().union(*by_asset.values()) if by_asset else set()
    if target in sensors:
        return [target]
    known = [*by_case, *by_asset, *sorted(sensors)]
    near = difflib.get_close_matches(target, known, n=3, cutoff=0.5)
    near += [name for name in known if target.lower() in name.lower() and name not in near][:3]
    hint = f"did you mean {' or '.join(near)}?" if near else _hint(known, fleet)
    raise LiveError(f"{target!r} is no case, asset or sensor that is known: {hint}")


def _sensors(case: Mapping[str, Any]) -> set[str]:
    return {sensor["sensor_id"] for sensor in case["sensors"]}


def _hint(known: Sequence[str], fleet: Fleet) -> str:
    shown = f"known are {', '.join(known[:8])}" if known else "there has been no case yet"
    more = "" if fleet.sensors else "; name a sensor that had no case with --fleet"
    return shown + more


@dataclass(slots=True)
class Answer:
    """What became of an order.

    Attributes:
        order: It.
        changes: What it changed.
        refused: Why it was not obeyed; empty where it was, or where nobody has answered.
        heard: Whether workers have answered at all.
    """

    order: Order
    changes: list[Transition] = field(default_factory=list)
    refused: str = ""
    heard: bool = False


@dataclass(slots=True)
class Asked:
    """Orders that are sent, and who listens for their answers.

    Attributes:
        answers: Order id -> what became of it.
        follower: None where nobody listens.
        places: (partition, offset) -> order id.
        letters: (partition, offset) of a refused message of the topic -> why.
    """

    access: Access
    kafka: Kafka
    answers: dict[str, Answer]
    follower: Follower | None
    places: dict[tuple[int, int], str] = field(default_factory=dict)
    letters: dict[tuple[int, int], str] = field(default_factory=dict)


@contextmanager
def asking(
    access: Access, kafka: Kafka, orders: Sequence[Order], *, listen: bool = True
) -> Iterator[Asked]:
    """Send orders, each to where its sensor is heard; they are stored when this begins.

    Args:
        access: Address and identity.
        kafka: Names of the topics.
        orders: To send.
        listen: Hear what becomes of them, see `wait`.

    Raises:
        LiveError: topics are missing or do not fit together.
        KafkaTrouble: Kafka does not take them.
    """
    partitions = _partitions(access, kafka)
    answers = {order.order_id: Answer(order) for order in orders}
    records = [
        Record(partition_of(o.sensor_id.encode(), partitions), -1, o.key, order_to_json(o))
        for o in orders
    ]
    if not listen:
        send(access, kafka.commands, records)
        yield Asked(access, kafka, answers, None)
        return
    heard_on = [kafka.commands, kafka.transitions, kafka.dead_letters]
    with following(access, heard_on) as follower:
        send(access, kafka.commands, records)
        yield Asked(access, kafka, answers, follower)


def _partitions(access: Access, kafka: Kafka) -> int:
    """Partitions of the signals, in the one of which a sensor is heard its orders must lie."""
    needed = (kafka.commands, kafka.transitions, kafka.dead_letters)
    found = topics(access, [*kafka.signals, *needed])
    missing = [name for name in needed if name not in found]
    if missing:
        raise LiveError(f"there is no topic {missing[0]}: create it with `echowatch topics create`")
    counts = {name: found[name].partitions for name in kafka.signals if name in found}
    counts[kafka.commands] = found[kafka.commands].partitions
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise LiveError(f"partition counts differ ({listed}): see `echowatch topics check`")
    return counts[kafka.commands]


def wait(asked: Asked, wait_s: float) -> bool:
    """Listen until every order is answered.

    Returns:
        Whether workers are running: without any nobody is waited for.
    """
    assert asked.follower is not None  # noqa: S101  (only who listens can wait)
    until = time.monotonic() + wait_s
    looked_s, obeyed = 0.0, set[str]()
    while time.monotonic() < until:
        heard = asked.follower.poll()
        for message in heard:
            _hear(message, asked)
        for place, order_id in asked.places.items():
            if place in asked.letters:
                answer = asked.answers[order_id]
                answer.refused, answer.heard = asked.letters[place], True
        if not heard:
            # What an order changes is written before its message is acknowledged.
            for order_id in obeyed:
                asked.answers[order_id].heard = True
        if all(answer.heard for answer in asked.answers.values()):
            break
        if time.monotonic() - looked_s > ASK_S:
            looked_s = time.monotonic()
            members, obeyed = _obeyed(asked)
            if not members and not obeyed:
                return False
    return True


def _hear(message: Heard, asked: Asked) -> None:
    told = {name: value.decode(errors="replace") for name, value in message.headers.items()}
    if message.topic == asked.kafka.commands:
        order_id = _order_id(message.value)
        if order_id in asked.answers:
            asked.places[message.partition, message.offset] = order_id
    elif message.topic == asked.kafka.transitions:
        if told.get(ORDER_ID) in asked.answers:
            _changed(asked.answers[told[ORDER_ID]], message.value)
    elif told.get("source_topic") == asked.kafka.commands:
        at = (told.get("source_partition", ""), told.get("source_offset", ""))
        if at[0].isdecimal() and at[1].isdecimal():
            asked.letters[int(at[0]), int(at[1])] = told.get("detail", "")


def _order_id(value: bytes | None) -> str:
    try:
        found = json.loads(value or b"")
    except (ValueError, RecursionError):
        return ""
    return str(found.get("order_id", "")) if isinstance(found, dict) else ""


def _changed(answer: Answer, value: bytes | None) -> None:
    try:
        change = transition_from_json(value or b"")
    except BadTransition:
        return
    if change not in answer.changes:
        answer.changes.append(change)
    answer.heard = True


def _obeyed(asked: Asked) -> tuple[int, set[str]]:
    """(workers there are, orders whose messages they have acknowledged)."""
    try:
        found = group(asked.access, group_of(asked.kafka, "signals"))
    except KafkaTrouble:
        return 1, set()  # it may answer the next time
    commands = asked.kafka.commands
    done = {
        number: offset for (name, number), offset in found.committed.items() if name == commands
    }
    obeyed = {
        order_id
        for (number, offset), order_id in asked.places.items()
        if done.get(number, 0) > offset
    }
    return found.members, obeyed
