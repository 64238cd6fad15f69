"""The transitions of one asset, in order of event time, folded into its cases.

A case is what people work on: one asset, all its sensors that confirm, from the first raise until
every sensor is back. The fold is a pure function of the ordered transitions, so that whoever feeds
it in that order gets the same cases (`pipeline.cases` keeps the order).

- A transition to advisory, alert or alarm opens a case where none is open, or joins the open one.
- A sensor that is not believable never opens a case; its asset's open case names it.
- `stopped`, `unknown` and a learning that nobody asked for pause a sensor's evidence; the severity
  that it had stays in force. A reset by a person (`learn` with `by`) clears it, and who resets has
  seen it: it counts as acknowledged.
- A case closes when every sensor's severity is back to ok; a latched alarm is not. A raise within
  `reopen_ns` of the close reopens the same case.
"""

from dataclasses import asdict, dataclass, replace

from pipeline.messages import SensorStatus, Severity, State, Transition

SEVERITIES: dict[SensorStatus, Severity] = {
    "ok": Severity.OK,
    "advisory": Severity.ADVISORY,
    "alert": Severity.ALERT,
    "alarm": Severity.ALARM,
}


@dataclass(frozen=True, slots=True)
class SensorEvidence:
    """What one sensor contributes to a case.

    Attributes:
        first_ns: Start of the condition that brought it into the case.
        last_ns: Its latest transition while it had a severity.
        severity: Highest in this case.
        current: In force now; `status` may be a pause (`stopped`, `unknown`, `learning`).
        acked: Whether a person has acknowledged its latest episode.
        latched: Condition has gone, acknowledgement is missing.
        shelved_until_ns: 0 = not shelved.
        reason, value, limit, band_hz, band_share, detail: Of its latest raise or escalation.
    """

    sensor_id: str
    first_ns: int
    last_ns: int
    severity: Severity
    current: Severity
    status: SensorStatus
    acked: bool = False
    latched: bool = False
    shelved_until_ns: int = 0
    reason: str = ""
    value: float = 0.0
    limit: float = 0.0
    band_hz: tuple[float, float] = (0.0, 0.0)
    band_share: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One asset's trouble, from its first raise to the return of its last sensor.

    Attributes:
        case_id: `asset|opened_ns`.
        opened_ns: Time of the first raise.
        closed_ns: None while open.
        sensors: Evidence per sensor, in order of `first_ns`.
        suspect: Sensors of the asset that are not believable now.
        events: Transitions that made the case, the oldest and the newest ones.
        omitted: Transitions left out of `events` to bound it.
        reopened: Times that it was reopened.
        superseded_by: Set only on a case withdrawn because an earlier transition arrived late: id
            of the case that holds its evidence now.
    """

    case_id: str
    asset: str
    opened_ns: int
    closed_ns: int | None = None
    sensors: tuple[SensorEvidence, ...] = ()
    suspect: tuple[str, ...] = ()
    events: tuple[Transition, ...] = ()
    omitted: int = 0
    reopened: int = 0
    superseded_by: str = ""

    @property
    def severity(self) -> Severity:
        """Highest severity that the case has reached."""
        return max((sensor.severity for sensor in self.sensors), default=Severity.OK)

    @property
    def current(self) -> Severity:
        """Highest severity in force now."""
        return max((sensor.current for sensor in self.sensors), default=Severity.OK)

    @property
    def since_ns(self) -> int:
        """Start of the earliest condition."""
        return self.sensors[0].first_ns if self.sensors else self.opened_ns

    @property
    def first_out(self) -> str:
        """Sensor that departed first."""
        return self.sensors[0].sensor_id if self.sensors else ""

    @property
    def standing(self) -> tuple[SensorEvidence, ...]:
        """Evidence with a severity in force now."""
        return tuple(sensor for sensor in self.sensors if sensor.current > Severity.OK)

    @property
    def acked(self) -> bool:
        """Whether every standing sensor (once closed: every sensor) is acknowledged."""
        return all(sensor.acked for sensor in self.standing or self.sensors)

    @property
    def shelved(self) -> bool:
        """Whether every standing sensor is shelved, so that nobody is notified."""
        return bool(self.standing) and all(s.shelved_until_ns > 0 for s in self.standing)


@dataclass(frozen=True, slots=True)
class AssetCases:
    """All that the fold knows of one asset.

    Attributes:
        cases: In order of opening; only the last one may be open.
        suspect: Sensors that are not believable now.
    """

    asset: str
    cases: tuple[Case, ...] = ()
    suspect: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FoldLimits:
    """Bounds of the fold.

    Attributes:
        reopen_ns: A raise this soon after the close reopens the case.
        max_events: Transitions kept per case.
        keep_closed: Closed cases kept per asset.
    """

    reopen_ns: int
    max_events: int
    keep_closed: int


def fold(state: AssetCases, transition: Transition, limits: FoldLimits) -> AssetCases:
    """Take the next transition of an asset.

    Args:
        state: Of the transitions before, in order of event time.
        transition: Not earlier than those.
        limits: The same for all transitions of an asset.
    """
    sensor_id = transition.sensor_id
    suspect = set(state.suspect) - {sensor_id}
    if transition.after == "unknown":
        suspect.add(sensor_id)
    state = replace(state, suspect=tuple(sorted(suspect)))
    last = state.cases[-1] if state.cases else None
    earlier = state.cases[:-1]
    if last is None or last.closed_ns is not None:
        if SEVERITIES.get(transition.after, Severity.OK) == Severity.OK:
            return state
        if last is not None and _reopens(last, transition, limits):
            last = replace(last, closed_ns=None, reopened=last.reopened + 1)
        else:
            at_ns = transition.at_ns
            earlier = state.cases
            last = Case(f"{state.asset}|{at_ns}", state.asset, at_ns)
    case = _take(replace(last, suspect=state.suspect), transition, limits.max_events)
    cases = (*earlier, case)
    return replace(state, cases=cases[-limits.keep_closed - 1 :])


def _reopens(case: Case, transition: Transition, limits: FoldLimits) -> bool:
    return case.closed_ns is not None and transition.at_ns - case.closed_ns <= limits.reopen_ns


def _take(case: Case, transition: Transition, max_events: int) -> Case:
    """Let an open case take a transition of its asset, and close where nothing stands."""
    known = {sensor.sensor_id: sensor for sensor in case.sensors}
    old = known.get(transition.sensor_id)
    if old is not None or SEVERITIES.get(transition.after, Severity.OK) > Severity.OK:
        known[transition.sensor_id] = _evidence(old, transition)
    elif transition.action not in ("sensor_bad", "sensor_good"):
        return case
    events = (*case.events, transition)
    over = max(0, len(events) - max_events)
    if over:
        head = max_events // 4
        events = events[:head] + events[head + over :]
    sensors = tuple(sorted(known.values(), key=lambda s: (s.first_ns, s.sensor_id)))
    stands = any(sensor.current > Severity.OK for sensor in sensors)
    return replace(
        case,
        sensors=sensors,
        events=events,
        omitted=case.omitted + over,
        closed_ns=None if stands else transition.at_ns,
    )


def _evidence(old: SensorEvidence | None, transition: Transition) -> SensorEvidence:
    shown = SEVERITIES.get(transition.after)
    reset = transition.action == "learn" and bool(transition.by)
    if reset:
        shown = Severity.OK
    if old is None:
        current = shown or Severity.OK
        old = SensorEvidence(
            transition.sensor_id, transition.since_ns, transition.at_ns, current, current, "ok"
        )
        fresh = True
    else:
        current = old.current if shown is None else shown
        fresh = transition.action in ("raise", "escalate")
    told = replace(old, status=transition.after, shelved_until_ns=transition.shelved_until_ns)
    if not current and not old.current:
        return told
    told = replace(
        told,
        last_ns=transition.at_ns,
        severity=max(old.severity, current),
        current=current,
        acked=transition.acked or reset,
        latched=transition.latched,
    )
    if not fresh:
        return told
    return replace(
        told,
        reason=transition.reason,
        value=transition.value,
        limit=transition.limit,
        band_hz=transition.band_hz,
        band_share=transition.band_share,
        detail="" if transition.by else transition.why,
    )


def asset_to_state(state: AssetCases) -> State:
    """An asset's cases as JSON values."""
    return asdict(state)


def asset_from_state(state: State) -> AssetCases:
    """Undo `asset_to_state`, also after a trip through JSON."""
    cases = tuple(_case_from_state(case) for case in state["cases"])
    return AssetCases(state["asset"], cases, tuple(state["suspect"]))


def _case_from_state(state: State) -> Case:
    parts = {
        "sensors": tuple(_evidence_from_state(sensor) for sensor in state["sensors"]),
        "suspect": tuple(state["suspect"]),
        "events": tuple(transition_from_state(event) for event in state["events"]),
    }
    return Case(**{**state, **parts})


def _evidence_from_state(state: State) -> SensorEvidence:
    low, high = state["band_hz"]
    parts = {
        "severity": Severity(state["severity"]),
        "current": Severity(state["current"]),
        "band_hz": (low, high),
    }
    return SensorEvidence(**{**state, **parts})


def transition_from_state(state: State) -> Transition:
    """Undo `dataclasses.asdict` of a transition, also after a trip through JSON."""
    low, high = state["band_hz"]
    return Transition(**{**state, "band_hz": (low, high)})
