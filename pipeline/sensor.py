"""One sensor: chunks in, windows to measure out; measured windows in, results out.

The steps are apart because all sensors' windows are measured and embedded together in between:
`cut` gives windows and stream events, `ready` takes what was measured on a window (health, gain),
`judge` its embedding (running gate, baseline, evidence, alarm state). Each runs in the order of the
stream, so the size of the batches in between changes nothing.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline import reference
from pipeline.alarms import AlarmLogic
from pipeline.arrival import FormatGuard, LeapGuard
from pipeline.asked import Action, obeyed
from pipeline.baseline import Baseline
from pipeline.breaks import Breaks
from pipeline.drift import Evidence, Verdict
from pipeline.gain import gain_of
from pipeline.health import SensorHealthCheck
from pipeline.messages import (
    BandEdges,
    DriftScore,
    Features,
    SensorChunk,
    SensorHealth,
    Spectrum,
    State,
    StreamEvent,
    Transition,
    Window,
    WindowResult,
)
from pipeline.pace import Pace
from pipeline.pictures import Pictures
from pipeline.pins import Pins
from pipeline.ready import Judged, Ready, condition_of, transitions_of
from pipeline.reference import Reference
from pipeline.running import RunningGate
from pipeline.signal_shape import SignalShape
from pipeline.velocity import VelocityAverage
from pipeline.windows import Windower

VERSION = 5
# Stream events kept for the health of the next window; one that never comes would need no end.
MOST_EVENTS = 64

Embedding = NDArray[np.float32]


class SensorMonitor:
    """All state of one sensor.

    Args:
        sensor_id: Name of the sensor.
        asset: Machine that it watches.
        windower, health, alarms: Its stages; they keep their state over a change of format.
        gate, baseline, evidence: Makers of the stages that start anew when rate or unit change.
        model_id: Encoder whose embeddings arrive; a stored baseline of another one is refused.
        trained: Whether that encoder carries trained weights.
        min_silence_s: Shortest silence that makes the sensor unknown; three of its usual
            intervals are waited for in any case.
        first_silence_s: The same before the sensor's rhythm is known, see `Pace`.
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
        first_silence_s: float = 0.0,
    ) -> None:
        self.sensor_id = sensor_id
        self.asset = asset
        self.windower = windower
        self.health = health
        self.alarms = alarms
        self._reference = Reference(
            sensor_id,
            gate=gate,
            baseline=baseline,
            evidence=evidence,
            model_id=model_id,
            trained=trained,
        )
        self._pace = Pace(min_silence_s, first_silence_s)
        self._events: list[StreamEvent] = []
        self._leaps = LeapGuard(sensor_id)
        self._format = FormatGuard()
        self._renewals = 0  # that `ready` has seen and `judge` has not
        self._breaks = Breaks(sensor_id)
        self._velocity = VelocityAverage()
        self._pictures = Pictures(sensor_id)
        self._pins = Pins()
        self._gain = 0.0

    @property
    def baseline_changed(self) -> bool:
        """Whether `export_baseline` is due before the next `export_live`."""
        return self._reference.changed

    def cut(self, chunk: SensorChunk) -> list[Window | StreamEvent]:
        """Take a chunk; give the windows it completes and what happened to the stream, in order."""
        items: list[Window | StreamEvent] = []
        for item in self._leaps.push(chunk):
            items += [item] if isinstance(item, StreamEvent) else self.windower.push(item)
        return items

    @property
    def newest_ns(self) -> int:
        """End of the last chunk that `cut` has believed."""
        return self._leaps.end_ns

    def arrive(self, newest_ns: int, now_ns: int) -> None:
        """Take the time of a chunk, in stream order, before what it gave is judged.

        Args:
            newest_ns: What the property was when the chunk had come.
            now_ns: Event time of the plant, from which silence is counted where this sensor's
                clock is late.
        """
        self._pace.arrive(newest_ns, now_ns)

    def flush(self) -> list[Window | StreamEvent]:
        """End of stream: give what the windower still holds."""
        items = [item for chunk in self._leaps.flush() for item in self.windower.push(chunk)]
        return [*items, *self.windower.flush()]

    def hear(self, event: StreamEvent) -> SensorHealth | None:
        """Take an event that `cut` gave; give health where the stream hardly gives windows."""
        self._events = [*self._events[1 - MOST_EVENTS :], event]
        return self._breaks.event(event)

    def ready(self, window: Window, shape: SignalShape | None, found: Features) -> Ready:
        """Decide whether a window is believable, and whether and with which gain to embed it.

        Args:
            window: From `cut`, in its order.
            shape: From `pipeline.signal_shape.shapes_of`.
            found: From `pipeline.indicators.features_of`.
        """
        health = self._breaks.window(window, self.health.judge(window, shape, self._events))
        self._events.clear()
        if not health.ok:
            return Ready(window, health, None, 0.0)
        fits, renews = self._format.take(window)
        self._renewals += renews
        if renews or (self._gain == 0.0 and found.rms > 0):
            self._gain = gain_of(found.rms)
        # A frozen gate knows already that the machine stands; a learning one decides in `judge`,
        # and so does one that a window before this one, not judged yet, will replace.
        frozen = self._reference.frozen and not self._renewals
        stands = frozen and not self._reference.gate.running(found.rms)
        gain = self._gain * window.scale if fits and not stands else 0.0
        return Ready(window, health, found, gain, fits, renews)

    def judge(self, cut: Ready, embedding: Embedding | None, edges: BandEdges) -> Judged:
        """Learn or score one window and move the alarm state.

        Args:
            cut: From `ready`, in the order of the windows.
            embedding: (K, D) float32; None where `cut.gain` is 0 or the encoder has failed.
            edges: ((low, high), ...) Hz of the K bands.
        """
        if cut.gain != 0.0 and embedding is None:
            cut = cut.not_embedded()
        window, end_ns = cut.window, cut.window.end_ns
        if cut.renews:
            self._forget()
            self._renewals -= 1
        step_s = self._pace.step(end_ns)
        self._pace.hear(end_ns)
        running = cut.features is not None and self._reference.gate.running(cut.features.rms)
        drift, verdict = None, None
        if running and embedding is not None:
            if self._reference.comparable(window.samples.size):
                drift, verdict = self._compare(cut, embedding, step_s, edges)
            elif self._reference.frozen:
                cut = cut.not_comparable()
        condition = condition_of(cut.health, running=running, scored=verdict is not None)
        transitions = transitions_of(self.alarms, end_ns, condition, cut.health, verdict, drift)
        if cut.health.ok:
            self._pictures.latest_window = window
        pin = self._pins.take(end_ns, self.alarms.status, drift, transitions)
        result = WindowResult(
            sensor_id=self.sensor_id,
            asset=self.asset,
            window_start_ns=window.start_ns,
            window_end_ns=end_ns,
            status=self.alarms.status,
            running=running,
            health=cut.health,
            features=self._velocity.averaged(window, cut.features, running=running),
            drift=drift,
            transitions=transitions,
            pin=pin,
            window=window if pin else None,
        )
        return Judged(result, self._pictures.asked_for(window, transitions))

    def _compare(
        self, cut: Ready, embedding: Embedding, step_s: float, edges: BandEdges
    ) -> tuple[DriftScore, Verdict | None]:
        """Learn from or score a window of the running machine."""
        assert cut.features is not None  # noqa: S101  (narrowing: what runs has been measured)
        window, rms = cut.window, cut.features.rms
        if self._reference.frozen:
            return self._reference.score(window, rms, embedding, edges)
        # A long pause is no running time: at most three usual intervals count.
        ran_s = min(step_s, 3.0 * self._pace.usual_s)
        drift = self._reference.learn(window, rms, embedding, ran_s, edges)
        self._pictures.learn(window)
        return drift, None

    def obey(
        self, action: Action, at_ns: int, by: str, why: str, until_ns: int = 0
    ) -> tuple[Transition, ...]:
        """Do what a person asks.

        Args:
            action: `rebaseline` forgets what is known of health and learns anew.
            at_ns: Event time of the command, see `event_ns`.
            by: Person.
            why: Words.
            until_ns: Event time at which a shelving ends.

        Returns:
            What changed; empty where there was nothing to change.

        Raises:
            ValueError: for a command that the alarm logic refuses, in words.
        """
        done = obeyed(self.alarms, action, at_ns, by, why, until_ns)
        if action == "rebaseline":
            self._forget()
        return done

    def _forget(self) -> None:
        """Learn health anew."""
        self._reference.renew()
        self._pictures.forget()
        self._pins.forget()

    def silence(self) -> WindowResult:
        """The sensor has been silent for too long: its state is unknown from the deadline on.

        Told once, until the sensor is heard again; ask `deadline_ns` before.
        """
        at_ns, since_s = self.deadline_ns, self._pace.wait_s
        self._pace.give_up()
        detail = f"no data for more than {since_s:.0f} s: check sensor, cable and gateway"
        health = SensorHealth(self.sensor_id, at_ns, ("silent",), gap_s=since_s, detail=detail)
        return self._unknown(health)

    def unusable(self, health: SensorHealth) -> WindowResult:
        """The sensor sends, but `hear` finds that its signal breaks too often to give windows."""
        self._pace.hear(health.window_end_ns)
        return self._unknown(health)

    def _unknown(self, health: SensorHealth) -> WindowResult:
        at_ns = health.window_end_ns
        return WindowResult(
            sensor_id=self.sensor_id,
            asset=self.asset,
            window_start_ns=at_ns,
            window_end_ns=at_ns,
            status="unknown",
            running=False,
            health=health,
            transitions=transitions_of(self.alarms, at_ns, "unknown", health),
        )

    @property
    def deadline_ns(self) -> int:
        """Event time at which silence becomes a fault; 0 where the sensor is not waited for."""
        return self._pace.deadline_ns

    @property
    def overdue_ns(self) -> int:
        """Time of the plant after which that silence is told without hearing the sensor; or 0."""
        return self._pace.overdue_ns

    @property
    def event_ns(self) -> int:
        """Event time of the last result, 0 before the first: the time of commands."""
        return self.alarms.last_ns

    def about(self) -> dict[str, Any]:
        """What a person wants to know beside the results, JSON-able."""
        rate_hz, unit = self._format.key or (0.0, "unknown")
        return {
            "sample_rate_hz": rate_hz,
            "unit": unit,
            "running_above": self._reference.gate.above,
            "baseline": self._reference.about(),
            "notes": list(self._reference.notes),
        }

    def latest_spectrum(self) -> Spectrum | None:
        """Spectrum of the newest believable window."""
        return self._pictures.latest()

    @property
    def _stages(self) -> dict[str, "_Stage"]:
        """What a rewind begins anew."""
        return {
            "windower": self.windower,
            "health": self.health,
            "alarms": self.alarms,
            "breaks": self._breaks,
            "velocity": self._velocity,
            "leaps": self._leaps,
            "pace": self._pace,
            "pins": self._pins,
        }

    def export_live(self) -> State:
        """The small, often changing part of the state, on top of the last `export_baseline`.

        Raises:
            RuntimeError: where that one is void, because more has changed since.
        """
        return {
            "version": VERSION,
            **{name: stage.export_state() for name, stage in self._stages.items()},
            "events": [asdict(event) for event in self._events],
            "reference": self._reference.export_live(),
            "format": self._format.export_state(),
            "gain": self._gain,
            "pictures": None if self._reference.frozen else self._pictures.export_state(),
        }

    def export_baseline(self) -> State:
        """The large, rarely changing part: what is known of health.

        It begins a new pair: write it together with the next `export_live`.
        """
        return {**self._reference.export_baseline(), "pictures": self._pictures.export_state()}

    def import_state(self, live: State, baseline: State | None) -> None:
        """Go on from exported states; self must be fresh.

        Args:
            live: From `export_live`, or `rewound`.
            baseline: From the last `export_baseline` before; None where there was none.

        Raises:
            ValueError: for a state of another version or model, or two that do not belong together.
        """
        if live.get("version") != VERSION:
            raise ValueError(f"sensor state version must be {VERSION}, got {live.get('version')}")
        self._reference.import_state(live["reference"], baseline)
        for name, stage in self._stages.items():
            if live.get(name) is not None:
                stage.import_state(live[name])
        self._events = [StreamEvent(**event) for event in live["events"]]
        self._format.import_state(live["format"])
        self._gain = live["gain"]
        pictures = live["pictures"] or (baseline or {}).get("pictures")
        if pictures is not None:
            self._pictures.import_state(pictures)


class _Stage(Protocol):
    """What has a state."""

    def export_state(self) -> State: ...

    def import_state(self, state: State) -> None: ...


def rewound(live: State) -> State:
    """State of a sensor whose stream will be read again from an earlier time.

    What was learnt stays: baseline, gain and format. All else begins as it did once.

    Args:
        live: From `SensorMonitor.export_live`; its baseline stays as it is.

    Raises:
        ValueError: for a state of another version.
    """
    if live.get("version") != VERSION:
        raise ValueError(f"sensor state version must be {VERSION}, got {live.get('version')}")
    kept = ("version", "format", "gain", "pictures")
    anew = {name: live[name] if name in kept else None for name in live}
    return {**anew, "events": [], "reference": reference.rewound(live["reference"])}
