"""Embeddings of one sensor in; drift scores and the evidence behind them out.

Joins what belongs to one (sensor, rate, unit, model): the running gate, the baseline and the
detectors over it. All three begin anew when rate or unit change for good.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.baseline import Baseline
from pipeline.drift import Evidence, Verdict
from pipeline.messages import BandEdges, DriftScore, State, Window
from pipeline.running import RunningGate

VERSION: Final = 3
NAN: Final = float("nan")
LENGTH_SLACK: Final = 1.25
# Windows that the small state may carry before the large one is due: 43 kB of a nano embedding.
TAIL_ROWS: Final = 32


class Reference:
    """What one sensor knows of its machine's health.

    Args:
        sensor_id: Name of the sensor.
        gate, baseline, evidence: Makers of the stages that begin anew with `renew`.
        model_id: Encoder whose embeddings arrive; a stored baseline of another one is refused.
        trained: Whether that encoder carries trained weights.

    Attributes:
        gate: Decides whether the machine runs.
    """

    def __init__(
        self,
        sensor_id: str,
        *,
        gate: Callable[[], RunningGate],
        baseline: Callable[[], Baseline],
        evidence: Callable[[], Evidence],
        model_id: str,
        trained: bool,
    ) -> None:
        self.sensor_id = sensor_id
        self._make = (gate, baseline, evidence)
        self._model_id = model_id
        self._trained = trained
        self._baseline_no = 0  # of the last `export_baseline`
        self._saved = (0, 0)  # rewrites and rows that it held
        self._reset()

    def _reset(self) -> None:
        gate, baseline, evidence = self._make
        self.gate = gate()
        self._baseline = baseline()
        self._evidence = evidence()
        self._lengths = (0, 0)

    @property
    def changed(self) -> bool:
        """Whether `export_baseline` is due: more has changed than a few windows on top."""
        rewrites, rows = self._saved
        return self._baseline.rewrites != rewrites or self._baseline.size - rows > TAIL_ROWS

    @property
    def frozen(self) -> bool:
        """Whether learning is over and windows are scored."""
        return self._baseline.frozen

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about the frozen baseline."""
        return self._baseline.calibration.notes if self.frozen else ()

    def about(self) -> dict[str, Any]:
        """The baseline for people, JSON-able; empty while it is learnt."""
        if not self.frozen:
            return {}
        health, (first_ns, last_ns) = self._baseline.calibration, self._baseline.span_ns
        return {
            "windows": self._baseline.size,
            "first_ns": first_ns,
            "last_ns": last_ns,
            "rms": health.rms,
            "limit": health.limit,
        }

    def comparable(self, n_samples: int) -> bool:
        """Whether windows of this length may be compared with those learnt.

        Another length spreads the embeddings otherwise: 0.25 s against 1 s reads as an alarm.
        """
        shortest, longest = self._lengths
        return longest == 0 or shortest / LENGTH_SLACK <= n_samples <= LENGTH_SLACK * longest

    def renew(self) -> None:
        """Forget everything: the signal is another one from now on."""
        self._reset()
        # No baseline has been rewritten so many times: what was exported is void.
        self._saved = (-1 if self._baseline_no else 0, 0)

    def learn(
        self,
        window: Window,
        rms: float,
        embedding: NDArray[np.float32],
        ran_s: float,
        edges: BandEdges,
    ) -> DriftScore:
        """Teach the baseline; once it has enough, find the running level and try to freeze.

        Args:
            window: A window of the running machine.
            rms: Its level, in the sensor's unit.
            embedding: (K, D) float32.
            ran_s: Running time since the window before.
            edges: ((low, high), ...) Hz of the K bands.
        """
        baseline, n = self._baseline, window.samples.size
        shortest, longest = self._lengths if self._lengths[1] else (n, n)
        self._lengths = (min(shortest, n), max(longest, n))
        baseline.learn(embedding, rms, window.end_ns, ran_s)
        if baseline.due:
            runs = self.gate.fit(baseline.rms)
            if not runs.all():
                baseline.forget(runs)
            if baseline.due:
                baseline.freeze_if_settled()
        return DriftScore(
            sensor_id=self.sensor_id,
            window_end_ns=window.end_ns,
            model_id=self._model_id,
            distance=NAN,
            score=NAN,
            limit=NAN,
            level_ratio=NAN,
            learning_pct=baseline.learning_pct,
            baseline_n=baseline.size,
            band_edges_hz=edges,
            trained=self._trained,
        )

    def score(
        self, window: Window, rms: float, embedding: NDArray[np.float32], edges: BandEdges
    ) -> tuple[DriftScore, Verdict]:
        """Compare one window with the frozen baseline and weigh the evidence; arguments as above.

        Raises:
            RuntimeError: while still learning.
        """
        departure = self._baseline.score(embedding, rms)
        limit = self._baseline.calibration.limit
        verdict = self._evidence.judge(departure, limit)
        drift = DriftScore(
            sensor_id=self.sensor_id,
            window_end_ns=window.end_ns,
            model_id=self._model_id,
            distance=departure.distance,
            score=departure.score,
            limit=limit,
            level_ratio=departure.level_ratio,
            ratios=dict(verdict.ratios),
            reason=verdict.reason,
            learning_pct=100.0,
            baseline_n=self._baseline.size,
            band_edges_hz=edges,
            band_shares=departure.band_shares,
            nearest_ns=departure.nearest_ns,
            trained=self._trained,
        )
        return drift, verdict

    def export_live(self) -> State:
        """The small, often changing part of the state: it builds on the last `export_baseline`.

        Raises:
            RuntimeError: where that one is void, because more has changed since.
        """
        rewrites, rows = self._saved
        if self._baseline.rewrites != rewrites:
            raise RuntimeError(
                f"the baseline of {self.sensor_id} has changed: call export_baseline before"
            )
        return {
            "version": VERSION,
            "model_id": self._model_id,
            "baseline_no": self._baseline_no,
            "tail": self._baseline.export_tail(rows),
            "lengths": list(self._lengths),
            "running_above": self.gate.above,
            "running_known": self.gate.known,
            "evidence": self._evidence.export_state(),
        }

    def export_baseline(self) -> State:
        """The large, rarely changing part: what is known of health; live parts build on it."""
        self._baseline_no += 1
        self._saved = (self._baseline.rewrites, self._baseline.size)
        return {
            "version": VERSION,
            "model_id": self._model_id,
            "baseline_no": self._baseline_no,
            "bank": self._baseline.export_state(),
        }

    def import_state(self, live: State, baseline: State | None) -> None:
        """Go on from exported states; self must be fresh.

        Args:
            live: From `export_live`; its evidence may be None, which begins anew.
            baseline: From the last `export_baseline` before; None where there was none.

        Raises:
            ValueError: for a state of another version or model, or two that do not belong together.
        """
        for state in (live, baseline or live):
            self._check(state)
        found = 0 if baseline is None else baseline["baseline_no"]
        if live["baseline_no"] != found:
            raise ValueError(
                f"the state of {self.sensor_id} builds on baseline {live['baseline_no']}, "
                f"got {found or 'none'}: keep what was written together"
            )
        rewrites = self._baseline.rewrites
        if baseline is not None:
            self._baseline.import_state(baseline["bank"])
        # A baseline of an older version is another one now: `changed` says that it is due.
        self._baseline_no, self._saved = found, (rewrites, self._baseline.size)
        self._baseline.extend(live["tail"])
        self._lengths = (live["lengths"][0], live["lengths"][1])
        self.gate.above, self.gate.known = live["running_above"], live["running_known"]
        if live["evidence"] is not None:
            self._evidence.import_state(live["evidence"])

    def _check(self, state: State) -> None:
        if state.get("version") != VERSION:
            raise ValueError(f"state version must be {VERSION}, got {state.get('version')}")
        if state["model_id"] != self._model_id:
            raise ValueError(
                f"the baseline of {self.sensor_id} belongs to model {state['model_id']}, this "
                f"run uses {self._model_id}: give that model, or a new output folder"
            )


def rewound(live: State) -> State:
    """The same with evidence that begins anew; see `pipeline.sensor.rewound`."""
    return {**live, "evidence": None}
