"""What orders changed in, values that travel with a sensor's state out, and back.

Between the messages of sensors and those of people there is no order that a second reading would
keep: obeyed again after a crash, an order would act at another event time. So nothing is told of an
order before the state that includes it is kept; that record says what is still to be told, and
whoever restores it tells it again, word for word.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.alarm_messages import transition_from_json, transition_to_json
from pipeline.messages import Transition
from pipeline.orders import Order, order_from_json, order_to_json


@dataclass(frozen=True, slots=True)
class Obeyed:
    """An order, and what became of it.

    Attributes:
        changes: Of the sensor's alarm state; empty where there was nothing to change.
        refused: Why it was not obeyed; empty where it was.
    """

    order: Order
    changes: Sequence[Transition] = ()
    refused: str = ""


def to_record(obeyed: Obeyed) -> dict[str, Any]:
    """A JSON-able record."""
    return {
        "order": order_to_json(obeyed.order).decode(),
        "changes": [transition_to_json(change).decode() for change in obeyed.changes],
        "refused": obeyed.refused,
    }


def from_record(record: Mapping[str, Any]) -> Obeyed:
    """Undo `to_record`."""
    return Obeyed(
        order_from_json(record["order"].encode()),
        tuple(transition_from_json(change.encode()) for change in record["changes"]),
        record["refused"],
    )
