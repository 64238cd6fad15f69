"""What a person asks of one sensor in, the transitions of its alarm state out."""

from typing import Final, Literal, get_args

from pipeline.alarms import AlarmLogic
from pipeline.messages import Transition

Action = Literal["ack", "shelve", "unshelve", "rebaseline"]
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)


def obeyed(
    alarms: AlarmLogic, action: Action, at_ns: int, by: str, why: str, until_ns: int = 0
) -> tuple[Transition, ...]:
    """Obey one command.

    Args:
        alarms: Of the sensor.
        action: What to do; `rebaseline` ends the episode, the baseline is the caller's.
        at_ns: Event time of the command.
        by: Person.
        why: Words; shelving and learning anew need them.
        until_ns: Event time at which a shelving ends.

    Returns:
        What changed; empty where there was nothing to change.

    Raises:
        ValueError: for an unknown action, or a command that the alarm logic refuses.
    """
    if action == "ack":
        return alarms.acknowledge(at_ns, by, why)
    if action == "shelve":
        return alarms.shelve(at_ns, until_ns, by, why)
    if action == "unshelve":
        return alarms.unshelve(at_ns, by, why)
    if action == "rebaseline":
        return alarms.reset(at_ns, by, why)
    raise ValueError(f"action must be one of {', '.join(ACTIONS)}, got {action!r}")
