"""What a person says about alarms of a stored run in, transitions and updated cases out.

Acknowledging, shelving and unshelving act on the state at rest of a run that is not running now;
their time is the event time that the run has reached, so that replaying log and commands in that
order gives the same history. Who, why and when are kept in the transition.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from pipeline.alarms import AlarmLogic
from pipeline.asked import obeyed
from pipeline.assembly import rules
from pipeline.case_fold import Case
from pipeline.cases import CaseBook
from pipeline.embedded import Store
from pipeline.messages import NS_PER_S, Transition
from pipeline.settings import Delays
from pipeline.state import pack, unpack

Action = Literal["ack", "shelve", "unshelve"]


class OperatorError(ValueError):
    """A command that cannot be obeyed, in words."""


def command(
    store: Store,
    target: str,
    action: Action,
    *,
    by: str,
    why: str,
    describe_case: Callable[[Case], Mapping[str, Any]],
    asset_of: Callable[[str], str],
    shelve_s: float = 0.0,
) -> list[Transition]:
    """Obey one command for a sensor, or for all sensors of an asset or case.

    Args:
        store: Of a finished or interrupted run.
        target: Sensor id, asset id or case id.
        action: What to do.
        by: Person.
        why: Words; shelving needs them.
        describe_case: Case -> JSON-able record for the store.
        asset_of: Sensor id -> asset id.
        shelve_s: Length of a shelving, seconds of event time.

    Returns:
        What changed; empty where there was nothing to change.

    Raises:
        OperatorError: for an unknown target, or a command that the alarm logic refuses.
    """
    states = store.states()
    delays = Delays(**store.facts()["settings"]["delays"])
    cases = CaseBook(reopen_s=delays.reopen_s)
    cases.import_state(unpack(states["cases"]))
    done: list[Transition] = []
    written: dict[str, bytes] = {}
    changed: dict[str, Case] = {}
    for sensor_id in _chosen(states, target, asset_of):
        live = unpack(states[f"live {sensor_id}"])
        logic = AlarmLogic(sensor_id, asset_of(sensor_id), rules=rules(delays))
        logic.import_state(live["alarms"])
        until_ns = logic.last_ns + round(shelve_s * NS_PER_S)
        try:
            found = obeyed(logic, action, logic.last_ns, by, why, until_ns)
        except ValueError as error:
            raise OperatorError(str(error)) from error
        written[f"live {sensor_id}"] = pack({**live, "alarms": logic.export_state()})
        for transition in found:
            changed |= {case.case_id: case for case in cases.add(transition)}
        done += found
    written["cases"] = pack(cases.export_state())
    records = [describe_case(case) for case in changed.values()]
    store.commit([], cases=records, states=written, transitions=done)
    return done


def _chosen(states: Mapping[str, bytes], target: str, asset_of: Callable[[str], str]) -> list[str]:
    """The sensors that a target names."""
    known = [name.removeprefix("live ") for name in states if name.startswith("live ")]
    asset = target.partition("|")[0]
    chosen = [sensor for sensor in known if sensor == target or asset_of(sensor) == asset]
    if not chosen:
        raise OperatorError(
            f"{target!r} is no sensor, asset or case of this run; it has {', '.join(known[:8])}"
        )
    return chosen
