"""What is known of a window before and after it is judged, and what the alarm state makes of it."""

from dataclasses import dataclass, replace

import numpy as np

from pipeline.alarms import AlarmLogic, Condition
from pipeline.drift import Verdict
from pipeline.messages import (
    DriftScore,
    Features,
    SensorHealth,
    Spectrum,
    Transition,
    Window,
    WindowResult,
)
from pipeline.running import STOP_FACTOR


@dataclass(frozen=True, slots=True)
class Ready:
    """A window with what is known of it before it is embedded.

    Attributes:
        features: None where the sensor is not believable.
        gain: Factor from ADC numbers to the encoder's range; 0 = not to be embedded.
        fits: Whether rate and unit are those of the baseline.
        renews: Whether rate or unit have changed for good: learning begins anew.
    """

    window: Window
    health: SensorHealth
    features: Features | None
    gain: float
    fits: bool = True
    renews: bool = False

    def not_embedded(self) -> "Ready":
        """The same after the encoder has failed on it: nothing can be said of the machine."""
        detail = "the model could not read this window: if it happens again, report the recording"
        health = replace(self.health, faults=("not_embedded",), detail=detail)
        return replace(self, health=health, features=None, gain=0.0)

    def not_comparable(self) -> "Ready":
        """The same where health was learnt from windows of another length."""
        size_s = self.window.samples.size / self.window.sample_rate_hz
        detail = (
            f"a window of {size_s:.2g} s cannot be compared with those that were learnt: part of a "
            "capture is missing, or captures have another length now: learn anew"
        )
        return replace(self, health=replace(self.health, faults=("gap",), detail=detail))


@dataclass(frozen=True, slots=True)
class Judged:
    """What one window gave: its result, and a spectrum worth keeping."""

    result: WindowResult
    spectra: tuple[Spectrum, ...] = ()


def condition_of(health: SensorHealth, *, running: bool, scored: bool) -> Condition:
    """What a window can tell the alarm state."""
    if not health.ok:
        return "unknown"
    if not running:
        return "stopped"
    return "scored" if scored else "learning"


def transitions_of(
    alarms: AlarmLogic,
    at_ns: int,
    condition: Condition,
    health: SensorHealth,
    verdict: Verdict | None = None,
    drift: DriftScore | None = None,
) -> tuple[Transition, ...]:
    """Move the alarm state by one window.

    Args:
        alarms: Of the sensor.
        at_ns: End of the window.
        condition: From `condition_of`.
        health: Its faults are the reason where nothing was scored.
        verdict: Of a window that was scored.
        drift: Likewise.
    """
    if verdict is None or drift is None:
        return alarms.update(at_ns, condition, reason=",".join(health.faults), detail=health.detail)
    top = int(np.argmax(drift.band_shares))
    return alarms.update(
        at_ns,
        condition,
        verdict.ratios,
        reason=verdict.reason,
        value=verdict.value,
        limit=verdict.limit,
        band_hz=drift.band_edges_hz[top],
        band_share=drift.band_shares[top],
        detail=_hint(verdict),
    )


def _hint(verdict: Verdict) -> str:
    """What a level that jumps far beyond its limit may also mean."""
    if verdict.reason != "level" or verdict.value < STOP_FACTOR:
        return ""
    return (
        "if the machine only stood while its baseline was learnt, declare its running level in "
        "the fleet file and learn anew"
    )
