"""Evidence of one severity, window by window, in; whether its condition stands or has gone out.

Two stages. (1) A debounced comparator: the condition *stands* once `on_windows` of the last
`of_windows` windows reach the limit (ratio >= 1), and has *gone* once as many of them as exclude
that (at least `on_windows`) lie below the deadband (ratio < 1 - deadband); one outlier changes
nothing. (2) Delays: a condition that has stood for `on_delay_s` is due to be raised, at a window
over the limit; one that has been gone for `off_windows` and `off_delay_s` is due to return, at a
window below the deadband. What would not raise an alarm does not hold one.

Only windows that were scored while running come here, with a clock that counts running time.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.messages import NS_PER_S, Severity, State

_OVER, _BETWEEN, _LOW = 1, 0, -1


@dataclass(frozen=True, slots=True)
class SeverityRule:
    """When a severity is raised and when it returns.

    Defaults after ISA-18.2 practice: on-delay max(3 windows, 10 min running), off-delay twice that,
    deadband 10 % of the limit.

    Attributes:
        on_windows, of_windows: m of the last n scored windows must reach the limit.
        on_delay_s: Running time for which the condition must have stood.
        off_windows, off_delay_s: Windows and running time for which it must have been gone.
        deadband: Share of the limit, 0 <= deadband < 1; gone means ratio < 1 - deadband.
        latch: Whether the severity stays until acknowledged.

    Raises:
        ValueError: for counts below 1, m > n, negative delays or a deadband outside [0, 1).
    """

    on_windows: int = 3
    of_windows: int = 3
    on_delay_s: float = 600.0
    off_windows: int = 6
    off_delay_s: float = 1200.0
    deadband: float = 0.10
    latch: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.on_windows <= self.of_windows:
            raise ValueError(
                "on_windows must be at least 1 and at most of_windows, "
                f"got {self.on_windows} of {self.of_windows}"
            )
        if self.off_windows < 1:
            raise ValueError(f"off_windows must be at least 1, got {self.off_windows}")
        for name, delay_s in (("on_delay_s", self.on_delay_s), ("off_delay_s", self.off_delay_s)):
            if not 0 <= delay_s < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {delay_s} s")
        if not 0 <= self.deadband < 1:
            raise ValueError(f"deadband must be in [0, 1), got {self.deadband}")


DEFAULT_RULES: Mapping[Severity, SeverityRule] = {
    Severity.ADVISORY: SeverityRule(),
    Severity.ALERT: SeverityRule(),
    Severity.ALARM: SeverityRule(latch=True),
}


@dataclass(slots=True)
class Level:
    """One severity's comparator, delays and latch.

    Attributes:
        rule: When to raise and when to return.
        recent: (side, event ns, running ns) of the last `of_windows` windows.
        standing: Whether the condition stands, as the comparator has it.
        active: Whether the severity is raised; set by `pipeline.alarms`, as is `latched`.
        latched: Whether it has returned but waits for its acknowledgement.
        on_at: (event ns, running ns) of the first window of the run that made it stand.
        off_at: The same of the first window below the deadband since it went.
        off_count: Windows since then, that one included.
    """

    rule: SeverityRule
    recent: deque[tuple[int, int, int]] = field(default_factory=deque)  # (side, event, running)
    standing: bool = False
    active: bool = False
    latched: bool = False
    on_at: tuple[int, int] = (0, 0)
    off_at: tuple[int, int] = (0, 0)
    off_count: int = 0

    def observe(self, ratio: float, at_ns: int, running_ns: int) -> None:
        """Stage 1: take one window's evidence and settle whether the condition stands."""
        low = ratio < 1 - self.rule.deadband
        side = _OVER if ratio >= 1 else _LOW if low else _BETWEEN
        self.recent.append((side, at_ns, running_ns))
        while len(self.recent) > self.rule.of_windows:
            self.recent.popleft()
        self.off_count += 1
        sides = [item[0] for item in self.recent]
        m, n = self.rule.on_windows, self.rule.of_windows
        if not self.standing and sides.count(_OVER) >= m:
            self.standing = True
            self.on_at = self.recent[sides.index(_OVER)][1:]
        elif self.standing and sides.count(_LOW) >= max(m, n - m + 1):
            self.standing = False
            tail = sides[::-1].index(_OVER) if _OVER in sides else len(sides)
            first_low = sides.index(_LOW, len(sides) - tail)
            self.off_at = self.recent[first_low][1:]
            self.off_count = len(sides) - first_low

    def due_on(self, running_ns: int) -> bool:
        """Stage 2: has the condition stood long enough, and stands it in this window?"""
        return (
            not self.active
            and self.standing
            and self.recent[-1][0] == _OVER
            and running_ns - self.on_at[1] >= round(self.rule.on_delay_s * NS_PER_S)
        )

    def due_off(self, running_ns: int) -> bool:
        """Stage 2: has the condition been gone long enough, and is this window low?"""
        return (
            self.active
            and not self.standing
            and self.recent[-1][0] == _LOW
            and self.off_count >= self.rule.off_windows
            and running_ns - self.off_at[1] >= round(self.rule.off_delay_s * NS_PER_S)
        )

    def export_state(self) -> State:
        """This severity's part of the alarm state, as JSON."""
        return {
            "recent": [list(item) for item in self.recent],
            "flags": [self.standing, self.active, self.latched],
            "on_at": list(self.on_at),
            "off_at": list(self.off_at),
            "off_count": self.off_count,
        }

    def import_state(self, state: State) -> None:
        """Go on from `export_state`."""
        self.recent = deque((s, at, run) for s, at, run in state["recent"])
        self.standing, self.active, self.latched = state["flags"]
        self.on_at = (state["on_at"][0], state["on_at"][1])
        self.off_at = (state["off_at"][0], state["off_at"][1])
        self.off_count = state["off_count"]
