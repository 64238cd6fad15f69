"""Departures from the baseline in, evidence per severity out.

Three kinds of evidence, each divided by its own limit so that 1 means "at the limit"; the largest
one decides:

- `drift`: the score against the FROZEN baseline. A slow ramp cannot be absorbed by it.
- `level`: RMS over baseline RMS, the plain rule that every other detector has to beat.
- online detectors of river over decorrelated scores (`adwin`, `page_hinkley`, `kswin`, `gaussian`,
  `half_space_trees`). They adapt, so they see steps inside the healthy range early and forget slow
  ramps; they may raise an advisory, never more.

Windows that follow each other look alike, and drift tests assume that they do not (AR(0.9) noise
gives ADWIN 127 false alarms in 20 k samples): scores are averaged over as many windows as their own
lag-1 correlation asks for before a detector sees them.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from river import anomaly as _anomaly
from river import drift as _drift

from pipeline.baseline import Departure
from pipeline.messages import State

VERSION = 1
MOST_AVERAGED = 50
# A change found online must have reached this share of the drift limit: 2 spreads where health has
# Gaussian tails (limit 5.1 at a budget of 1e4), more where single windows lie far out anyhow.
LEAST_SHARE = 0.4
SEVERITIES = ("advisory", "alert", "alarm")

# River carries no types: it is `Any` here and narrowed in `Fires`.
river_anomaly: Any = _anomaly
river_drift: Any = _drift


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all detectors together say about one window.

    Attributes:
        ratios: Severity -> largest evidence / limit over the detectors.
        reason: Detector that is furthest over (or nearest to) its limit at the worst severity.
        value, limit: Its evidence and its advisory limit (for `level` the alarm limit).
    """

    ratios: Mapping[str, float]
    reason: str
    value: float
    limit: float


class Evidence:
    """The chosen detectors of one sensor.

    Args:
        detectors: Names of river detectors to run beside `drift` and `level`; see `DETECTORS`.
        alert_factor, alarm_factor: An alert needs this multiple of the drift limit, an alarm that.
        level_alarm: RMS / baseline RMS that is an alarm whatever the embedding says; inf = off.
        min_shift: Mean score, in healthy spreads, that a change found online must have reached;
            `LEAST_SHARE` of the limit where that is more.

    Raises:
        ValueError: for an unknown detector or factors that do not rise.
    """

    def __init__(
        self,
        *,
        detectors: Sequence[str] = ("adwin",),
        alert_factor: float = 1.5,
        alarm_factor: float = 2.0,
        level_alarm: float = 2.0,
        min_shift: float = 2.0,
    ) -> None:
        if not 1.0 <= alert_factor <= alarm_factor:
            raise ValueError(
                f"factors must rise from 1, got alert {alert_factor}, alarm {alarm_factor}"
            )
        if level_alarm <= 1.0:
            raise ValueError(f"level_alarm must be above 1 x baseline, got {level_alarm}")
        self._factors = {"advisory": 1.0, "alert": alert_factor, "alarm": alarm_factor}
        self._level_alarm = level_alarm
        self._online = [OnlineDetector(name, min_shift=min_shift) for name in detectors]

    def judge(self, departure: Departure, limit: float) -> Verdict:
        """Weigh one scored window.

        Args:
            departure: From `Baseline.score`.
            limit: The baseline's calibrated limit of the score.
        """
        drift = max(0.0, departure.score / limit)
        level = departure.level_ratio / self._level_alarm
        ratios = {name: drift / self._factors[name] for name in SEVERITIES}
        # A level at half its alarm limit is an ordinary machine: only alarm compares it.
        best = ("level", departure.level_ratio, self._level_alarm)
        if ratios["alarm"] >= level or level < 1.0:
            best = ("drift", departure.score, limit)
        ratios["alarm"] = max(ratios["alarm"], level)
        if level >= 1.0:
            ratios = {name: max(ratio, level) for name, ratio in ratios.items()}
        for detector in self._online:
            fired = detector.update(departure, limit)
            if fired > ratios["advisory"]:
                ratios["advisory"] = fired
                best = (detector.name, departure.score, limit)
        reason, value, at = best
        return Verdict(ratios, reason, value, at)

    def export_state(self) -> State:
        """State of every online detector, as one versioned value."""
        return {
            "version": VERSION,
            "online": {detector.name: detector.export_state() for detector in self._online},
        }

    def import_state(self, state: State) -> None:
        """Go on from an exported state; a detector that is new in the settings starts fresh.

        Raises:
            ValueError: for a state of another version.
        """
        if state.get("version") != VERSION:
            raise ValueError(f"state version must be {VERSION}, got {state.get('version')}")
        for detector in self._online:
            if detector.name in state["online"]:
                detector.import_state(state["online"][detector.name])


class OnlineDetector:
    """One river detector over decorrelated scores.

    River objects cannot be exported without pickle, so the state is the scores themselves: the last
    `memory` of them, replayed through a fresh detector. To make that exact and bounded the detector
    is rebuilt from the newest half whenever the memory is full, restored or not.

    Args:
        name: One of `DETECTORS`.
        min_shift: Mean of the newest scores that a change must have reached to count.
        hold: Decorrelated scores for which a change stands.
        warm_up: Scores from which the correlation is estimated.
        memory: Decorrelated scores kept.

    Raises:
        ValueError: for an unknown name.
    """

    def __init__(
        self,
        name: str,
        *,
        min_shift: float = 2.0,
        hold: int = 10,
        warm_up: int = 128,
        memory: int = 400,
    ) -> None:
        if name not in DETECTORS:
            raise ValueError(f"detector must be one of {', '.join(DETECTORS)}, got {name!r}")
        self.name = name
        self._min_shift = min_shift
        self._hold = hold
        self._warm_up = warm_up
        self._memory = memory
        self._reset()

    def _reset(self) -> None:
        self._fires = DETECTORS[self.name]()
        self._history: list[list[float]] = []
        self._warm: list[float] = []
        self._every = 0
        self._pending: list[list[float]] = []
        self._left = 0

    def update(self, departure: Departure, limit: float = 0.0) -> float:
        """Take one score.

        Args:
            departure: From `Baseline.score`.
            limit: The baseline's calibrated limit of the score.

        Returns:
            1.0 while a change stands, else 0.0.
        """
        point = [
            min(max(departure.score, -20.0), 20.0),
            math.log(departure.level_ratio + 1e-9),
        ]
        if self._every == 0:
            self._warm.append(point[0])
            if len(self._warm) == self._warm_up:
                self._every = _decorrelation(self._warm)
                self._warm.clear()
            return 0.0
        self._pending.append(point)
        if len(self._pending) == self._every:
            point = [sum(values) / self._every for values in zip(*self._pending, strict=True)]
            self._take(point, max(self._min_shift, LEAST_SHARE * limit))
            self._pending.clear()
        return 1.0 if self._left > 0 else 0.0

    def _take(self, point: list[float], min_shift: float) -> None:
        if len(self._history) == self._memory:
            self._history = self._history[self._memory // 2 :]
            self._replay()
        self._history.append(point)
        fired = self._fires(point)
        newest = [score for score, _ in self._history[-5:]]
        if fired and sum(newest) / len(newest) >= min_shift:
            self._left = self._hold
        elif self._left > 0:
            self._left -= 1

    def _replay(self) -> None:
        self._fires = DETECTORS[self.name]()
        for point in self._history:
            self._fires(point)

    def export_state(self) -> State:
        """The scores that rebuild the detector, as one versioned value."""
        return {
            "version": VERSION,
            "history": np.asarray(self._history, np.float64).reshape(-1, 2),
            "warm": np.asarray(self._warm, np.float64),
            "every": self._every,
            "pending": np.asarray(self._pending, np.float64).reshape(-1, 2),
            "left": self._left,
        }

    def import_state(self, state: State) -> None:
        """Go on from an exported state.

        Raises:
            ValueError: for a state of another version.
        """
        if state.get("version") != VERSION:
            raise ValueError(f"state version must be {VERSION}, got {state.get('version')}")
        self._reset()
        self._history = state["history"].tolist()
        self._warm = state["warm"].tolist()
        self._every = state["every"]
        self._pending = state["pending"].tolist()
        self._left = state["left"]
        self._replay()


def _decorrelation(scores: Sequence[float]) -> int:
    """Windows to average so that the lag-1 correlation of the means falls to 0.2, 1-50.

    The scores are taken as AR(1). Means of n of them correlate by
    r (1 - r^n)^2 / (n (1 - r^2) - 2 r (1 - r^n)); the estimate of r from N scores is low by
    (1 + 4 r) / N (Kendall 1954).
    """
    values = np.asarray(scores) - np.mean(scores)
    power = float(values @ values)
    found = float(values[1:] @ values[:-1]) / power if power > 0 else 0.0
    r = min(0.99, found + (1 + 4 * found) / len(scores))
    for n in range(1, MOST_AVERAGED):
        left = 1.0 - r**n
        if r * left**2 <= 0.2 * (n * (1 - r * r) - 2 * r * left):
            return n
    return MOST_AVERAGED


Fires = Callable[[Sequence[float]], bool]


def _change_test(detector: Any) -> Fires:
    def fires(point: Sequence[float]) -> bool:
        detector.update(point[0])
        return bool(detector.drift_detected)

    return fires


def _adwin() -> Fires:
    """Adaptive windowing, Bifet and Gavalda 2007; delta 1e-5: no false alarm in 20 k iid scores."""
    return _change_test(river_drift.ADWIN(delta=1e-5))


def _page_hinkley() -> Fires:
    """Page 1954; scores are in healthy spreads, so is the threshold: 30 above a 0.5 allowance."""
    return _change_test(
        river_drift.PageHinkley(min_instances=30, delta=0.5, threshold=30.0, mode="up")
    )


def _kswin() -> Fires:
    """Raab et al. 2020, Kolmogorov-Smirnov over two windows; seeded, since it samples."""
    return _change_test(river_drift.KSWIN(alpha=1e-4, window_size=200, stat_size=60, seed=0))


def _gaussian() -> Fires:
    """A rolling Gaussian of the last 200 scores; fires where the two-sided tail is below 1e-6."""
    scorer = river_anomaly.GaussianScorer(window_size=200, grace_period=50)

    def fires(point: Sequence[float]) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            extreme = scorer.score_one(None, point[0]) > 1.0 - 1e-6
        scorer.learn_one(None, point[0])
        return bool(extreme)

    return fires


def _half_space_trees() -> Fires:
    """Tan, Ting and Liu 2011, on score and log level squashed into [0, 1]."""
    trees = river_anomaly.HalfSpaceTrees(n_trees=10, height=6, window_size=100, seed=0)

    def fires(point: Sequence[float]) -> bool:
        features = {
            "score": 1.0 / (1.0 + math.exp(-point[0] / 4.0)),
            "level": 1.0 / (1.0 + math.exp(-point[1] * 2.0)),
        }
        extreme = trees.score_one(features) > 0.95
        trees.learn_one(features)
        return bool(extreme)

    return fires


DETECTORS: dict[str, Callable[[], Fires]] = {
    "adwin": _adwin,
    "page_hinkley": _page_hinkley,
    "kswin": _kswin,
    "gaussian": _gaussian,
    "half_space_trees": _half_space_trees,
}
