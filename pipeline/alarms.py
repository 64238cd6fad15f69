"""Evidence of one sensor, window by window, in; the few changes of its alarm state out.

When a severity is raised and when it returns is `pipeline.persistence`: m of n windows over the
limit, an on-delay, a deadband, an off-delay. This is what people see of it and what they may do:

    learning -> ok -> pending -> active_unack -> active_ack -> returning -> ok
                                                 returning, latched and unacknowledged -> rtn_unack

Severities nest: evidence for a severity counts for all lower ones, an active severity keeps the
lower ones active, and the sensor shows the highest that is active or latched.

What pauses, and what is shown. Delays count windows and time *while running and believable*: each
scored window adds the time since the window before it (whatever that was), at most `max_pause_s`,
so that silence counts little and a sparse duty cycle still counts. Windows that are `stopped`,
`unknown` (sensor not believable) or `learning` neither advance nor reset a counter. They do change
the status: it is then `stopped`, `unknown` or `learning`, never `ok`, never a severity. The episode
is kept (`severity`, `acked`, `latched` say so) and resumes with the next scored window. A scored
window without finite evidence counts as `unknown`. Only `reset` drops an episode.

A transition is made when, and only when, something visible changes: status, latched, acked,
shelved. While an alarm is latched, lower severities come and go unseen until it is acknowledged.
Time in alarm is thus from `raise` or `escalate` to `ease` or `return`; a latched alarm gives
`return` with `after="alarm", latched=True` when its condition goes, and `ack` ends it later.

Transition times of one sensor strictly increase: a second change at the same instant, or a clock
that steps back, is stamped 1 ns after the latest. Ids are thus unique, the order survives sorting,
and points in a time series do not overwrite each other. All time is event time.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

from pipeline.messages import NS_PER_S, SensorStatus, Severity, State, Transition
from pipeline.persistence import DEFAULT_RULES, Level, SeverityRule

__all__ = ["DEFAULT_RULES", "AlarmLogic", "Condition", "Phase", "SeverityRule"]

Condition = Literal["learning", "scored", "stopped", "unknown"]
Phase = Literal["learning", "ok", "pending", "active_unack", "active_ack", "returning", "rtn_unack"]

DAY_S = 86_400.0
NAMES: dict[Severity, SensorStatus] = {
    Severity.OK: "ok",
    Severity.ADVISORY: "advisory",
    Severity.ALERT: "alert",
    Severity.ALARM: "alarm",
}
# Attributes that are JSON scalars and travel as they are.
_SAVED = (
    "condition", "shelved_until_ns", "last_ns", "running_ns", "stamped_ns", "acked", "acked_ns",
)  # fmt: skip


class _Evidence(NamedTuple):
    reason: str = ""
    value: float = 0.0
    limit: float = 0.0
    band_hz: tuple[float, float] = (0.0, 0.0)
    band_share: float = 0.0
    detail: str = ""


class AlarmLogic:
    """One sensor's alarm state machine; see the module head for its laws.

    Args:
        sensor_id: Name of the sensor.
        asset: Machine that it watches.
        rules: Severity -> rule; severities without a rule are never raised.
        shelve_max_s: Longest shelving.
        realarm_s: An alarm that was acknowledged but still stands is raised anew after this time.
        max_pause_s: Most running time that one window can add (300 s: two intervals of a sparse
            duty cycle make up the 10 min on-delay, one silence alone does not).

    Raises:
        ValueError: for empty names, no rule, a rule for OK, or times that are not positive.

    >>> rule = SeverityRule(on_windows=2, of_windows=2, on_delay_s=0, latch=True)
    >>> logic = AlarmLogic("p/1", "pump", rules={Severity.ALARM: rule})
    >>> for second in range(1, 4):
    ...     for t in logic.update(second * NS_PER_S, "scored", {"alarm": 1.5}):
    ...         print(second, t.before, "->", t.after, t.action)
    1 learning -> ok learnt
    2 ok -> alarm raise
    """

    def __init__(
        self,
        sensor_id: str,
        asset: str,
        *,
        rules: Mapping[Severity, SeverityRule] = DEFAULT_RULES,
        shelve_max_s: float = 7 * DAY_S,
        realarm_s: float = 7 * DAY_S,
        max_pause_s: float = 300.0,
    ) -> None:
        if not sensor_id or not asset:
            raise ValueError(f"sensor_id and asset must be named, got {sensor_id!r}, {asset!r}")
        if not rules or Severity.OK in rules:
            raise ValueError(f"rules must be for advisory, alert or alarm, got {list(rules)}")
        times = {"shelve_max_s": shelve_max_s, "realarm_s": realarm_s, "max_pause_s": max_pause_s}
        if not all(seconds > 0 for seconds in times.values()):
            raise ValueError(f"times must be positive, got {times} s")
        self.sensor_id = sensor_id
        self.asset = asset
        self._rules = {severity: rules[severity] for severity in sorted(rules, reverse=True)}
        self._shelve_max_ns = round(shelve_max_s * NS_PER_S)
        self._realarm_ns = round(realarm_s * NS_PER_S)
        self._max_pause_ns = round(max_pause_s * NS_PER_S)
        self._condition: Condition = "learning"
        self._shelved_until_ns = 0
        self._last_ns: int | None = None
        self._running_ns = 0
        self._stamped_ns: int | None = None
        self._clear()

    def _clear(self) -> None:
        """Begin without an episode."""
        self._levels = {severity: Level(rule) for severity, rule in self._rules.items()}
        self._acked = False
        self._acked_ns = 0
        self._evidence = _Evidence()

    @property
    def status(self) -> SensorStatus:
        """What people are shown."""
        if self._condition != "scored":
            return self._condition
        return NAMES[self.severity]

    @property
    def severity(self) -> Severity:
        """Highest severity that is active or latched, also while the status is a pause."""
        held = (s for s, level in self._levels.items() if level.active or level.latched)
        return next(held, Severity.OK)  # levels are kept from the highest down

    @property
    def active(self) -> Severity:
        """Highest severity whose condition stands or is still in its off-delay."""
        return next((s for s, level in self._levels.items() if level.active), Severity.OK)

    @property
    def latched(self) -> bool:
        """Whether the shown severity only waits for its acknowledgement."""
        return self.severity > self.active

    @property
    def acked(self) -> bool:
        """Whether a person has acknowledged the highest severity of this episode."""
        return self._acked

    @property
    def shelved_until_ns(self) -> int:
        """End of the shelving, 0 where there is none."""
        return self._shelved_until_ns

    @property
    def last_ns(self) -> int:
        """Time of the last window, 0 before the first."""
        return self._last_ns or 0

    def phase(self, severity: Severity) -> Phase:
        """Where one severity stands in its own state machine."""
        level = self._levels[severity]
        if level.active:
            if not level.standing:
                return "returning"
            return "active_ack" if self._acked else "active_unack"
        if level.latched or level.standing:
            return "rtn_unack" if level.latched else "pending"
        return "learning" if self._condition == "learning" else "ok"

    def update(
        self,
        at_ns: int,
        condition: Condition,
        ratios: Mapping[str, float] | None = None,
        *,
        reason: str = "",
        value: float = 0.0,
        limit: float = 0.0,
        band_hz: tuple[float, float] = (0.0, 0.0),
        band_share: float = 0.0,
        detail: str = "",
    ) -> tuple[Transition, ...]:
        """Take one window.

        Args:
            at_ns: End of the window.
            condition: What the window could tell: `scored` needs `ratios`.
            ratios: Severity name -> evidence / limit; a severity that is not named has none.
            reason: Detector furthest over its limit, or the sensor's faults.
            value: Evidence of `reason`.
            limit: Its limit.
            band_hz: (low, high) of the band with the largest share of the drift.
            band_share: Its share, 0-1.
            detail: Plain words; they travel as the transition's `why`, with `by` empty.

        Returns:
            The visible changes, in order.

        Raises:
            ValueError: for an unknown condition, or a scored window without ratios.
        """
        if condition not in get_args(Condition):
            raise ValueError(f"condition must be one of {get_args(Condition)}, got {condition!r}")
        if condition == "scored" and ratios is None:
            raise ValueError("a scored window needs its ratios, got None")
        if condition == "scored" and any(math.isnan(r) for r in (ratios or {}).values()):
            condition, reason = "unknown", "no_evidence"
        seen = _Evidence(reason, value, limit, band_hz, band_share, detail)
        out = []
        if 0 < self._shelved_until_ns <= at_ns:
            self._shelved_until_ns = 0
            out.append(self._emit("unshelve", at_ns, self.status, why="shelving expired"))
        if condition == "scored" and self._last_ns is not None:
            self._running_ns += max(0, min(at_ns - self._last_ns, self._max_pause_ns))
        self._last_ns = at_ns
        out += self._change_condition(at_ns, condition, seen)
        if condition == "scored":
            out += self._judge(at_ns, ratios or {}, seen)
        return tuple(out)

    def acknowledge(self, at_ns: int, by: str, why: str = "") -> tuple[Transition, ...]:
        """A person has seen the alarm; a latched one ends. Nothing to acknowledge: no change.

        Raises:
            ValueError: where `by` is empty.
        """
        _require("acknowledge", by=by)
        if self.severity == Severity.OK or self._acked:
            return ()
        before, since_ns = self.status, self._levels[self.severity].on_at[0]
        for level in self._levels.values():
            level.latched = False
        self._acked, self._acked_ns = True, at_ns
        return (self._emit("ack", at_ns, before, since_ns=since_ns, by=by, why=why),)

    def shelve(self, at_ns: int, until_ns: int, by: str, why: str) -> tuple[Transition, ...]:
        """Notify nobody until `until_ns` (event time); the state machine goes on.

        Raises:
            ValueError: where `by` or `why` is empty, or the end is not within `shelve_max_s`.
        """
        _require("shelve", by=by, why=why)
        if not at_ns < until_ns <= at_ns + self._shelve_max_ns:
            allowed, got = self._shelve_max_ns / NS_PER_S, (until_ns - at_ns) / NS_PER_S
            raise ValueError(f"shelving must last > 0 and <= {allowed:g} s, got {got:g} s")
        self._shelved_until_ns = until_ns
        return (self._emit("shelve", at_ns, self.status, by=by, why=why),)

    def unshelve(self, at_ns: int, by: str, why: str = "") -> tuple[Transition, ...]:
        """End the shelving early.

        Raises:
            ValueError: where `by` is empty or the sensor is not shelved.
        """
        _require("unshelve", by=by)
        if not self._shelved_until_ns:
            raise ValueError(f"unshelve needs a shelved sensor, {self.sensor_id} is not shelved")
        self._shelved_until_ns = 0
        return (self._emit("unshelve", at_ns, self.status, by=by, why=why),)

    def reset(self, at_ns: int, by: str, why: str) -> tuple[Transition, ...]:
        """Drop the episode and learn anew (maintenance, new baseline); shelving stays.

        Raises:
            ValueError: where `by` or `why` is empty.
        """
        _require("reset", by=by, why=why)
        before = self.status
        self._clear()
        self._condition = "learning"
        return (self._emit("learn", at_ns, before, by=by, why=why),)

    def export_state(self) -> State:
        """Everything that the next window needs, as one versioned JSON value."""
        return {
            "version": 1,
            **{name: getattr(self, f"_{name}") for name in _SAVED},
            "evidence": [*self._evidence[:3], *self._evidence.band_hz, *self._evidence[4:]],
            "levels": {NAMES[s]: level.export_state() for s, level in self._levels.items()},
        }

    def import_state(self, state: State) -> None:
        """Go on from `export_state`. A severity that had no rule then starts clear.

        Raises:
            ValueError: for a version this code does not know.
        """
        if state.get("version") != 1:
            raise ValueError(f"alarm state version must be 1, got {state.get('version')!r}")
        self._clear()
        for name in _SAVED:
            setattr(self, f"_{name}", state[name])
        reason, value, limit, low, high, share, detail = state["evidence"]
        self._evidence = _Evidence(reason, value, limit, (low, high), share, detail)
        for severity, level in self._levels.items():
            if NAMES[severity] in state["levels"]:
                level.import_state(state["levels"][NAMES[severity]])

    def _change_condition(self, at_ns: int, new: Condition, seen: _Evidence) -> list[Transition]:
        old, before = self._condition, self.status
        if new == old:
            return []
        self._condition = new
        entering = {"unknown": "sensor_bad", "stopped": "stop", "learning": "learn"}
        leaving = {"unknown": "sensor_good", "stopped": "start", "learning": "learnt"}
        if new == "unknown":
            return [self._emit("sensor_bad", at_ns, before, evidence=seen, why=seen.detail)]
        action = leaving[old] if old in ("unknown", "stopped") else entering.get(new, "learnt")
        return [self._emit(action, at_ns, before)]

    def _judge(self, at_ns: int, ratios: Mapping[str, float], seen: _Evidence) -> list[Transition]:
        """Let every severity take its evidence and name the change that shows."""
        before, shown, was_latched = self.status, self.severity, self.latched
        self._step_levels(at_ns, ratios)
        now = self.severity
        if now > shown or (now == shown and was_latched and not self.latched):
            self._acked, self._evidence = False, seen
            action = "escalate" if Severity.OK < shown < now else "raise"
            since_ns = self._levels[now].on_at[0]
        elif now < shown or (self.latched and not was_latched):
            action = "ease" if Severity.OK < now < shown else "return"
            since_ns = self._levels[shown].off_at[0]
        elif self._realarm_due(at_ns):
            self._acked, self._evidence = False, seen
            action, since_ns = "raise", self._levels[now].on_at[0]
        else:
            return []
        why = seen.detail
        return [self._emit(action, at_ns, before, since_ns=since_ns, evidence=seen, why=why)]

    def _step_levels(self, at_ns: int, ratios: Mapping[str, float]) -> None:
        """Step the severities from the highest down, so that they stay nested."""
        ratio, above = 0.0, None
        for severity, level in self._levels.items():
            ratio = max(ratio, ratios.get(NAMES[severity], 0.0))
            level.observe(ratio, at_ns, self._running_ns)
            forced = above is not None and above.active
            if level.due_on(self._running_ns) or (forced and not level.active):
                if forced and not level.standing and above is not None:
                    level.standing, level.on_at = True, above.on_at
                level.active, level.latched = True, False
            elif level.due_off(self._running_ns) and not forced:
                level.active = False
                level.latched = level.rule.latch and not self._acked
            above = level

    def _realarm_due(self, at_ns: int) -> bool:
        """Is a person's acknowledgement so old that a standing condition asks again?"""
        standing = self._acked and self._levels[self.severity].standing
        return standing and at_ns - self._acked_ns >= self._realarm_ns

    def _emit(
        self,
        action: str,
        at_ns: int,
        before: SensorStatus,
        *,
        since_ns: int | None = None,
        evidence: _Evidence | None = None,
        by: str = "",
        why: str = "",
    ) -> Transition:
        """Stamp a change that has happened; the end of an episode forgets it."""
        stamp_ns = at_ns if self._stamped_ns is None else max(at_ns, self._stamped_ns + 1)
        self._stamped_ns = stamp_ns
        shown = evidence or self._evidence
        made = Transition(
            transition_id=f"{self.sensor_id}|{stamp_ns}|{self.status}|{action}",
            sensor_id=self.sensor_id,
            asset=self.asset,
            at_ns=stamp_ns,
            since_ns=at_ns if since_ns is None else since_ns,
            before=before,
            after=self.status,
            action=action,
            acked=self._acked,
            latched=self.latched,
            shelved_until_ns=self._shelved_until_ns,
            reason=shown.reason,
            value=shown.value,
            limit=shown.limit,
            band_hz=shown.band_hz,
            band_share=shown.band_share,
            by=by,
            why=why,
        )
        if self.severity == Severity.OK:
            self._acked, self._evidence = False, _Evidence()
        return made


def _require(command: str, **words: str) -> None:
    missing = [name for name, word in words.items() if not word.strip()]
    if missing:
        raise ValueError(f"{command} needs {' and '.join(missing)}, got an empty text")
