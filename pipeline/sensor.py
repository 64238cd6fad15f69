"""One sensor: chunks in, windows to embed out; embeddings in, results out.

The two halves are apart because all sensors' windows are embedded together in between: `cut` does
what needs no embedding (windows, health, indicators), `judge` what follows it (running gate,
baseline, evidence, alarm state). Both run in the order of the stream, so the size of the batches in
between changes nothing.

The gain of a sensor is set once, by its first believable window, to a power of two that brings its
RMS near 0.1: per-window scaling would erase the level, no scaling would let raw ADC counts leave
the range the encoder knows.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.alarms import AlarmLogic, Condition
from pipeline.baseline import Baseline, Departure
from pipeline.drift import Evidence, Verdict
from pipeline.health import SensorHealthCheck
from pipeline.indicators import features, spectrum
from pipeline.messages import (
    NS_PER_S,
    BandEdges,
    DriftScore,
    Features,
    SensorChunk,
    SensorHealth,
    Spectrum,
    SpectrumKind,
    State,
    StreamEvent,
    Transition,
    Window,
    WindowResult,
)
from pipeline.running import RunningGate
from pipeline.windows import Windower

VERSION = 1
TARGET_RMS = 0.1
HEALTHY_SPECTRA = 64
HEALTHY_EVERY = 4
NAN = float("nan")

Embedding = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Cut:
    """A window with what is known of it before it is embedded.

    Attributes:
        gain: Factor from ADC numbers to the encoder's range; 0 = not to be embedded.
        features: None where the sensor is not believable.
    """

    window: Window
    health: SensorHealth
    features: Features | None
    gain: float


@dataclass(frozen=True, slots=True)
class Judged:
    """What one window gave: its result, and a spectrum worth keeping."""

    result: WindowResult
    spectra: tuple[Spectrum, ...] = ()


class SensorMonitor:
    """All state of one sensor.

    Args:
        sensor_id: Name of the sensor.
        asset: Machine that it watches.
        windower, health, alarms: Its stages; they keep their state over a change of rate.
        gate, baseline, evidence: Makers of the stages that start anew when the rate changes.
        model_id: Encoder whose embeddings arrive; a stored baseline of another one is dropped.
        trained: Whether that encoder carries trained weights.
        min_silence_s: Shortest silence that makes the sensor unknown; three of its usual
            intervals are waited for in any case.
    """

    def __init__(
        self,
        sensor_id: str,
        asset: str,
        *,
        windower: Windower,
        health: SensorHealthCheck,
        alarms: AlarmLogic,
        gate: Callable[[], RunningGate],
        baseline: Callable[[], Baseline],
        evidence: Callable[[], Evidence],
        model_id: str,
        trained: bool,
        min_silence_s: float = 300.0,
    ) -> None:
        self.sensor_id = sensor_id
        self.asset = asset
        self.windower = windower
        self.health = health
        self.alarms = alarms
        self.baseline = baseline()
        self._gate = gate()
        self._evidence = evidence()
        self._make = (gate, baseline, evidence)
        self._model_id = model_id
        self._trained = trained
        self._min_silence_s = min_silence_s
        self._events: list[StreamEvent] = []
        self._rate_hz = 0.0
        self._unit = "unknown"
        self._gain = 0.0
        self._last_ns = 0
        self._period_s = 0.0
        self._learnt = 0
        self._healthy_sum = np.empty(0, np.float64)
        self._healthy_hz = np.empty(0, np.float32)
        self._healthy_n = 0
        self._latest: Window | None = None
        self.baseline_changed = True

    def cut(self, chunk: SensorChunk) -> tuple[list[Cut], list[StreamEvent]]:
        """Take a chunk; give the windows it completes and what happened to the stream."""
        return self._prepare(self.windower.push(chunk))

    def flush(self) -> tuple[list[Cut], list[StreamEvent]]:
        """End of stream: give what the windower still holds."""
        return self._prepare(self.windower.flush())

    def _prepare(self, items: list[Window | StreamEvent]) -> tuple[list[Cut], list[StreamEvent]]:
        cuts, events = [], []
        for item in items:
            if isinstance(item, StreamEvent):
                self._events.append(item)
                events.append(item)
                continue
            cuts.append(self._cut(item))
        return cuts, events

    def _cut(self, window: Window) -> Cut:
        health = self.health.check(window, self._events)
        self._events.clear()
        if not health.ok:
            return Cut(window, health, None, 0.0)
        found = features(window)
        if self._gain == 0.0 and found.rms > 0:
            self._gain = 2.0 ** round(math.log2(TARGET_RMS / found.rms))
        # A frozen gate knows already that the machine stands; a learning one decides in `judge`.
        stands = self.baseline.frozen and not self._gate.running(found.rms)
        known_rate = window.sample_rate_hz == self._rate_hz
        gain = 0.0 if stands and known_rate else self._gain * window.scale
        return Cut(window, health, found, gain)

    def judge(self, cut: Cut, embedding: Embedding | None, edges: BandEdges) -> Judged:
        """Learn or score one window and move the alarm state.

        Args:
            cut: From `cut` or `flush`, in their order.
            embedding: (K, D) float32; None where `cut.gain` is 0.
            edges: ((low, high), ...) Hz of the K bands.
        """
        window = cut.window
        self._renew(window.sample_rate_hz)
        self._unit = window.unit
        step_s = self._step(window)
        running = cut.features is not None and self._gate.running(cut.features.rms)
        drift: DriftScore | None = None
        verdict: Verdict | None = None
        if cut.features is not None and running and embedding is not None:
            if self.baseline.frozen:
                departure = self.baseline.score(embedding, cut.features.rms)
                verdict = self._evidence.judge(departure, self.baseline.calibration.limit)
                drift = self._scored(window, departure, verdict, edges)
            else:
                drift = self._learn(cut, embedding, step_s, edges)
        condition = self._condition(cut.health, running=running, scored=verdict is not None)
        transitions = self._alarm(window.end_ns, condition, cut.health, verdict, drift)
        self._latest = window if cut.health.ok else self._latest
        result = WindowResult(
            sensor_id=self.sensor_id,
            asset=self.asset,
            window_start_ns=window.start_ns,
            window_end_ns=window.end_ns,
            status=self.alarms.status,
            running=running,
            health=cut.health,
            features=cut.features,
            drift=drift,
            transitions=transitions,
        )
        return Judged(result, self._pictures(window, transitions))

    def silence(self) -> WindowResult:
        """The sensor has been silent for too long: its state is unknown from the deadline on."""
        at_ns = self.deadline_ns
        since_s = (at_ns - self._last_ns) / NS_PER_S
        detail = f"no data for {since_s:.0f} s: check sensor, cable and gateway"
        health = SensorHealth(self.sensor_id, at_ns, ("silent",), gap_s=since_s, detail=detail)
        return WindowResult(
            sensor_id=self.sensor_id,
            asset=self.asset,
            window_start_ns=at_ns,
            window_end_ns=at_ns,
            status="unknown",
            running=False,
            health=health,
            transitions=self._alarm(at_ns, "unknown", health, None, None),
        )

    @property
    def deadline_ns(self) -> int:
        """Event time at which silence becomes a fault."""
        wait_s = max(self._min_silence_s, 3.0 * self._period_s)
        return self._last_ns + round(wait_s * NS_PER_S)

    def about(self) -> dict[str, Any]:
        """What a person wants to know beside the results, JSON-able."""
        return {
            "sample_rate_hz": self._rate_hz,
            "unit": self._unit,
            "running_above": self._gate.above,
            "notes": list(self.baseline.calibration.notes) if self.baseline.frozen else [],
        }

    def latest_spectrum(self) -> Spectrum | None:
        """Spectrum of the newest believable window."""
        return None if self._latest is None else self._spectrum(self._latest, "latest")

    def export_live(self) -> State:
        """The small, often changing part of the state: everything but the baseline."""
        return {
            "version": VERSION,
            "windower": self.windower.export_state(),
            "health": self.health.export_state(),
            "alarms": self.alarms.export_state(),
            "evidence": self._evidence.export_state(),
            "events": [asdict(event) for event in self._events],
            "rate_hz": self._rate_hz,
            "unit": self._unit,
            "gain": self._gain,
            "last_ns": self._last_ns,
            "period_s": self._period_s,
        }

    def export_baseline(self) -> State:
        """The large, rarely changing part: what is known of health."""
        return {
            "version": VERSION,
            "model_id": self._model_id,
            "rate_hz": self._rate_hz,
            "running_above": self._gate.above,
            "bank": self.baseline.export_state(),
            "learnt": self._learnt,
            "healthy_sum": self._healthy_sum,
            "healthy_hz": self._healthy_hz,
            "healthy_n": self._healthy_n,
        }

    def import_state(self, live: State, baseline: State) -> None:
        """Go on from exported states.

        Raises:
            ValueError: for a state of another version or a baseline of another model.
        """
        if (live.get("version"), baseline.get("version")) != (VERSION, VERSION):
            raise ValueError(
                f"sensor state version must be {VERSION}, got {live.get('version')} and "
                f"{baseline.get('version')}"
            )
        if baseline["model_id"] != self._model_id:
            raise ValueError(
                f"the baseline of {self.sensor_id} belongs to model {baseline['model_id']}, this "
                f"run uses {self._model_id}: give that model, or a new output folder"
            )
        self.windower.import_state(live["windower"])
        self.health.import_state(live["health"])
        self.alarms.import_state(live["alarms"])
        self._evidence.import_state(live["evidence"])
        self._events = [StreamEvent(**event) for event in live["events"]]
        self._rate_hz, self._unit, self._gain = live["rate_hz"], live["unit"], live["gain"]
        self._last_ns, self._period_s = live["last_ns"], live["period_s"]
        self._gate.above = baseline["running_above"]
        self.baseline.import_state(baseline["bank"])
        self._learnt = baseline["learnt"]
        self._healthy_sum = baseline["healthy_sum"]
        self._healthy_hz = baseline["healthy_hz"]
        self._healthy_n = baseline["healthy_n"]

    def _renew(self, sample_rate_hz: float) -> None:
        """A baseline belongs to one rate: start anew when it changes."""
        if self._rate_hz not in (0.0, sample_rate_hz):
            gate, baseline, evidence = self._make
            self._gate, self.baseline, self._evidence = gate(), baseline(), evidence()
            self._healthy_sum, self._healthy_n = np.empty(0, np.float64), 0
            self._learnt = 0
            self.baseline_changed = True
        self._rate_hz = sample_rate_hz

    def _step(self, window: Window) -> float:
        """Seconds since the window before, 0 for the first; keeps the usual interval."""
        step_s = (window.end_ns - self._last_ns) / NS_PER_S if self._last_ns else 0.0
        if self._last_ns and step_s > 0:
            # Falls slowly, so that one short interval among long ones is no new habit.
            usual = self._period_s * 0.95
            self._period_s = max(usual, step_s) if step_s < 10 * usual or usual == 0 else usual
        self._last_ns = window.end_ns
        return step_s

    def _learn(self, cut: Cut, embedding: Embedding, step_s: float, edges: BandEdges) -> DriftScore:
        """Teach the baseline; once it has enough, find the running level and try to freeze."""
        assert cut.features is not None  # noqa: S101  (narrowing: judged windows have features)
        window, baseline = cut.window, self.baseline
        # A long pause is no running time: at most three usual intervals count.
        ran_s = min(step_s, 3.0 * self._period_s)
        baseline.learn(embedding, cut.features.rms, window.end_ns, ran_s)
        self.baseline_changed = True
        self._learnt += 1
        if self._learnt % HEALTHY_EVERY == 0 and self._healthy_n < HEALTHY_SPECTRA:
            self._add_healthy(self._spectrum(window, "healthy"))
        if baseline.due:
            runs = self._gate.fit(baseline.rms)
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

    def _scored(
        self, window: Window, departure: Departure, verdict: Verdict, edges: BandEdges
    ) -> DriftScore:
        return DriftScore(
            sensor_id=self.sensor_id,
            window_end_ns=window.end_ns,
            model_id=self._model_id,
            distance=departure.distance,
            score=departure.score,
            limit=self.baseline.calibration.limit,
            level_ratio=departure.level_ratio,
            ratios=dict(verdict.ratios),
            reason=verdict.reason,
            learning_pct=100.0,
            baseline_n=self.baseline.size,
            band_edges_hz=edges,
            band_shares=departure.band_shares,
            nearest_ns=departure.nearest_ns,
            trained=self._trained,
        )

    def _condition(self, health: SensorHealth, *, running: bool, scored: bool) -> Condition:
        if not health.ok:
            return "unknown"
        if not running:
            return "stopped"
        return "scored" if scored else "learning"

    def _alarm(
        self,
        at_ns: int,
        condition: Condition,
        health: SensorHealth,
        verdict: Verdict | None,
        drift: DriftScore | None,
    ) -> tuple[Transition, ...]:
        if verdict is None or drift is None:
            return self.alarms.update(
                at_ns, condition, reason=",".join(health.faults), detail=health.detail
            )
        top = int(np.argmax(drift.band_shares))
        return self.alarms.update(
            at_ns,
            condition,
            verdict.ratios,
            reason=verdict.reason,
            value=verdict.value,
            limit=verdict.limit,
            band_hz=drift.band_edges_hz[top],
            band_share=drift.band_shares[top],
        )

    def _pictures(
        self, window: Window, transitions: tuple[Transition, ...]
    ) -> tuple[Spectrum, ...]:
        """Spectra that a person will want: health when learnt, the machine when it alarms."""
        found = []
        for transition in transitions:
            if transition.action == "learnt" and self._healthy_n:
                mean = (self._healthy_sum / self._healthy_n).astype(np.float32)
                found.append(
                    Spectrum(self.sensor_id, window.end_ns, "healthy", self._healthy_hz, mean)
                )
            if transition.action in ("raise", "escalate"):
                found.append(self._spectrum(window, "alarm"))
        return tuple(found)

    def _add_healthy(self, found: Spectrum) -> None:
        if self._healthy_n == 0:
            self._healthy_sum = np.zeros(found.amplitude.size)
            self._healthy_hz = found.freq_hz
        if found.amplitude.size == self._healthy_sum.size:
            self._healthy_sum += found.amplitude
            self._healthy_n += 1

    def _spectrum(self, window: Window, kind: SpectrumKind) -> Spectrum:
        freq_hz, amplitude = spectrum(window.values(), window.sample_rate_hz)
        return Spectrum(self.sensor_id, window.end_ns, kind, freq_hz, amplitude)
