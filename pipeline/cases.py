"""Transitions of all sensors in, in any order; one open case per asset out.

Sensors of one asset may be processed by different workers, so their transitions arrive late, twice
or out of order. Transitions of the last `horizon_s` of an asset's event time are kept sorted and
folded (`pipeline.case_fold`) over a base that holds everything before: within that bound, cases do
not depend on the order of arrival. What arrives behind it is counted and set aside, as is a
duplicate that old.

A transition that arrives late may open a case earlier than it was opened before. The case then has
another id; the one that was given out is withdrawn with `superseded_by`.
"""

from bisect import bisect_left
from dataclasses import asdict, dataclass, field, replace

from pipeline.case_fold import (
    AssetCases,
    Case,
    FoldLimits,
    SensorEvidence,
    asset_from_state,
    asset_to_state,
    fold,
    transition_from_state,
)
from pipeline.messages import NS_PER_S, State, Transition

__all__ = ["Case", "CaseBook", "SensorEvidence"]

VERSION = 1
DAY_S = 86_400.0
_LONG_AGO_NS = -(2**63)


@dataclass(slots=True)
class _Asset:
    """Sorted newest transitions, and the cases before (`base`) and after (`tip`) them."""

    base: AssetCases
    tip: AssetCases
    recent: list[Transition] = field(default_factory=list)
    newest_ns: int = _LONG_AGO_NS
    floor_ns: int = _LONG_AGO_NS  # everything up to here is folded into the base


class CaseBook:
    """The cases of every asset.

    Args:
        reopen_s: A raise this soon after a case was closed reopens it.
        horizon_s: How much later than the newest of its asset a transition may arrive.
        max_events: Transitions that a case shows.
        keep_closed: Closed cases kept per asset.
        max_recent: Transitions kept in order per asset; in a storm the horizon shrinks to these.

    Attributes:
        late: Transitions that arrived behind the horizon and were set aside.
        duplicates: Transitions that had been seen.

    Raises:
        ValueError: for times that are negative or counts below 1.

    >>> book = CaseBook()
    >>> alarm = Transition("s|9|alarm|raise", "s", "pump", 9, 7, "ok", "alarm", "raise")
    >>> [(case.case_id, case.first_out, case.severity.name) for case in book.add(alarm)]
    [('pump|9', 's', 'ALARM')]
    >>> book.add(alarm)
    ()
    """

    def __init__(
        self,
        *,
        reopen_s: float = DAY_S,
        horizon_s: float = DAY_S,
        max_events: int = 64,
        keep_closed: int = 8,
        max_recent: int = 512,
    ) -> None:
        if reopen_s < 0 or horizon_s < 0:
            raise ValueError(
                f"times must not be negative, got reopen_s {reopen_s} s, horizon_s {horizon_s} s"
            )
        if min(max_events, keep_closed, max_recent) < 1:
            raise ValueError(
                f"counts must be at least 1, got max_events {max_events}, "
                f"keep_closed {keep_closed}, max_recent {max_recent}"
            )
        self._limits = FoldLimits(round(reopen_s * NS_PER_S), max_events, keep_closed)
        self._horizon_ns = round(horizon_s * NS_PER_S)
        self._max_recent = max_recent
        self._assets: dict[str, _Asset] = {}
        self.late = 0
        self.duplicates = 0

    def add(self, transition: Transition) -> tuple[Case, ...]:
        """Take one transition.

        Returns:
            The cases of its asset that it opened, changed, closed or withdrew; empty for one that
            changes nothing or arrives behind the horizon.
        """
        name = transition.asset
        asset = self._assets.setdefault(name, _Asset(AssetCases(name), AssetCases(name)))
        if transition.at_ns <= max(asset.floor_ns, asset.newest_ns - self._horizon_ns - 1):
            self.late += 1
            return ()
        at = bisect_left(asset.recent, _order(transition), key=_order)
        if at < len(asset.recent) and _order(asset.recent[at]) == _order(transition):
            self.duplicates += 1
            return ()
        asset.recent.insert(at, transition)
        asset.newest_ns = max(asset.newest_ns, transition.at_ns)
        before = asset.tip
        if at == len(asset.recent) - 1:
            asset.tip = fold(asset.tip, transition, self._limits)
        else:
            asset.tip = self._fold_recent(asset)
        self._compact(asset)
        return _changes(before, asset.tip)

    def cases(self) -> list[Case]:
        """Open and recently closed cases, in order of opening."""
        found = [case for asset in self._assets.values() for case in asset.tip.cases]
        return sorted(found, key=lambda case: (case.opened_ns, case.asset))

    @property
    def open_cases(self) -> list[Case]:
        """At most one per asset, in order of opening."""
        return [case for case in self.cases() if case.closed_ns is None]

    def export_state(self) -> State:
        """Everything, as one versioned JSON value."""
        return {
            "version": VERSION,
            "late": self.late,
            "duplicates": self.duplicates,
            "assets": {name: self.export_asset(name) for name in self._assets},
        }

    def import_state(self, state: State) -> None:
        """Go on from `export_state`.

        Raises:
            ValueError: for a version this code does not know.
        """
        _check(state)
        self._assets.clear()
        self.late, self.duplicates = state["late"], state["duplicates"]
        for name, asset in state["assets"].items():
            self.import_asset(name, asset)

    def export_asset(self, name: str) -> State:
        """One asset's part, for a store that keeps a record per asset."""
        asset = self._assets[name]
        return {
            "version": VERSION,
            "base": asset_to_state(asset.base),
            "recent": [asdict(transition) for transition in asset.recent],
            "newest_ns": asset.newest_ns,
            "floor_ns": asset.floor_ns,
        }

    def import_asset(self, name: str, state: State) -> None:
        """Go on with one asset from `export_asset`.

        Raises:
            ValueError: for a version this code does not know.
        """
        _check(state)
        base = asset_from_state(state["base"])
        recent = [transition_from_state(item) for item in state["recent"]]
        asset = _Asset(base, base, recent, state["newest_ns"], state["floor_ns"])
        asset.tip = self._fold_recent(asset)
        self._assets[name] = asset

    def _fold_recent(self, asset: _Asset) -> AssetCases:
        cases = asset.base
        for transition in asset.recent:
            cases = fold(cases, transition, self._limits)
        return cases

    def _compact(self, asset: _Asset) -> None:
        """Fold what can no longer be overtaken into the base."""
        past_ns = asset.newest_ns - self._horizon_ns
        while asset.recent and (
            asset.recent[0].at_ns < past_ns or len(asset.recent) > self._max_recent
        ):
            oldest = asset.recent.pop(0)
            asset.base = fold(asset.base, oldest, self._limits)
            asset.floor_ns = oldest.at_ns


def _order(transition: Transition) -> tuple[int, str, str]:
    """Event time first; the rest makes equal times the same in every replay."""
    return (transition.at_ns, transition.sensor_id, transition.transition_id)


def _changes(before: AssetCases, after: AssetCases) -> tuple[Case, ...]:
    """Cases that differ, and those given out before that are no more."""
    old = {case.case_id: case for case in before.cases}
    new = {case.case_id for case in after.cases}
    changed = [case for case in after.cases if old.get(case.case_id) != case]
    for case in before.cases:
        # A case older than all that are kept was only dropped from memory.
        holders = [other for other in after.cases if other.opened_ns <= case.opened_ns]
        if case.case_id not in new and holders:
            closed_ns = case.opened_ns if case.closed_ns is None else case.closed_ns
            heir = holders[-1].case_id
            changed.append(replace(case, closed_ns=closed_ns, superseded_by=heir))
    return tuple(changed)


def _check(state: State) -> None:
    if state.get("version") != VERSION:
        raise ValueError(f"case state version must be {VERSION}, got {state.get('version')!r}")
