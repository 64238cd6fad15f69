"""Ratios to a limit, one a second -> alarm transitions, for the alarm logic's tests."""

from collections.abc import Sequence

from pipeline.alarms import AlarmLogic, SeverityRule
from pipeline.messages import NS_PER_S, Severity, Transition

S = NS_PER_S


def quick(m: int = 2, n: int = 3, off: int = 2, *, latch: bool = False) -> SeverityRule:
    return SeverityRule(m, n, on_delay_s=0, off_windows=off, off_delay_s=0, latch=latch)


def one(rule: SeverityRule, **settings_: float) -> AlarmLogic:
    logic = AlarmLogic("s", "a", rules={Severity.ALARM: rule}, **settings_)
    logic.update(0, "learning")
    return logic


def feed(logic: AlarmLogic, ratios: Sequence[float], start_s: int = 1) -> list[Transition]:
    out: list[Transition] = []
    for i, ratio in enumerate(ratios):
        out += logic.update((start_s + i) * S, "scored", {"alarm": ratio})
    return out


def changes(transitions: list[Transition], *, at: int = S) -> list[tuple[int, str]]:
    return [(t.at_ns // at, t.action) for t in transitions]
