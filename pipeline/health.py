"""Windows and stream events in, one sensor's believability out.

Answers "is the sensor lying?", never "is the machine ill?": no check reacts to level, crest or
kurtosis. What is physical in a vibration signal stays healthy: ten times the RMS, single shocks, a
stopped machine that leaves a few ADC steps of noise. What is not: exact repetition, samples pinned
to the extremes, a mean that walks away, power piled up below the machine's lowest frequencies.

References (bias, AC level above 9 Hz) are learnt slowly, and from healthy windows only. A
`CLOCK_UNSYNCED` flag is a property of the device and no fault. Stuck message counters are not seen
here.
"""

import math
from collections.abc import Sequence

from pipeline.messages import FULL_SCALE, NS_PER_S, Flags, SensorHealth, State, StreamEvent, Window
from pipeline.signal_shape import (
    SignalShape,
    clipped_share,
    count_non_finite,
    shapes_of,
    with_runs,
)

STATE_VERSION = 1

# Windows before the learnt bias is trusted.
MIN_LEARNT = 4
# Relative change of the AC reference per window, at most: up in a minute, down in hours, so that a
# stopped machine does not lower it.
AC_RISE, AC_FALL = 0.05, 0.0005
# Von Neumann ratio of the 50 ms block means: 2 for noise, 4 sin^2(pi f 0.05 s) for a tone. Below
# 1.2 the slow part lies under 3.7 Hz and falls with frequency. A wander that has been seen lasts up
# to 1.8: single windows of 2 Hz noise scatter from 0.4 to 1.7.
SLOPE_RATIO, SLOPE_RATIO_ON = 1.2, 1.8
# Share of the window that one repeated value must fill.
FLAT_SHARE = 0.5
# No vibration or sound has such values in any unit; a decoding error has.
MOST_VALUE = 1e9
# Successive windows with a slip in the same direction that make a rate mismatch.
SLIP_WINDOWS = 3

Faults = dict[str, str]
"""Name of the fault -> sentence for a technician."""


class SensorHealthCheck:
    """Checks the windows of one sensor, in order.

    A fault lasts as long as its windows fail. A shifted bias is adopted as the new normal after
    `bias_relearn_windows` faulty windows at one level (a re-mounted or exchanged sensor).

    Args:
        expected_rate_hz: Declared sample rate; None: any constant rate will do.
        full_scale: Largest value the sensor can give, in its unit; None: what the encoding holds.
        rate_tolerance: Relative difference of rates that is a mismatch (crystals: 1e-4).
        gap_tolerance_s: Missing signal up to this is no fault.
        clock_tolerance_s: Clock steps up to this are no fault (NTP slews by milliseconds).
        clip_share: Share of samples within 0.1 % of full scale that is clipping.
        clip_run_share: Share of samples in runs of 3 or more at an extreme value below full scale
            (saturated amplifier) that is clipping.
        dropout_s: Shortest run of one value inside a live signal that is a dropout.
        bias_ac: Bias shift that is a fault, in multiples of the AC level. No vibration moves the
            mean of a window by that much.
        bias_full_scale: Bias shift that is a fault at any AC level, as a share of full scale.
        bias_noise: Bias shift that is never a fault, as a share of full scale.
        slow_share: Share of the AC power below 9 Hz that is a ski slope, if it also falls with
            frequency and exceeds the two limits that follow; 1 turns the check off, for machines
            below about 220 rpm.
        slow_ac: Least RMS of a ski slope, in multiples of the AC reference.
        slow_full_scale: Likewise as a share of full scale; 4 x this while nothing is learnt.
        learning_rate: Weight of one healthy window in the learnt bias; follows thermal drift of
            2 % of the AC level per window.
        bias_relearn_windows: Faulty windows at one bias until it is adopted.

    Raises:
        ValueError: for a limit that is not positive.

    >>> import numpy as np
    >>> check = SensorHealthCheck()
    >>> noise = np.random.default_rng(0).normal(0, 500, 25_600).astype(np.int16)
    >>> check.check(Window("s", 25_600.0, 0, 0, noise, encoding="i16")).ok
    True
    >>> check.check(Window("s", 25_600.0, 0, 25_600, noise * 0, encoding="i16")).detail
    'signal has been constant for 1.00 s: check cable and supply'
    """

    def __init__(
        self,
        *,
        expected_rate_hz: float | None = None,
        full_scale: float | None = None,
        rate_tolerance: float = 0.005,
        gap_tolerance_s: float = 0.1,
        clock_tolerance_s: float = 0.01,
        clip_share: float = 0.01,
        clip_run_share: float = 0.002,
        dropout_s: float = 0.01,
        bias_ac: float = 3.0,
        bias_full_scale: float = 0.2,
        bias_noise: float = 0.001,
        slow_share: float = 0.6,
        slow_ac: float = 1.0,
        slow_full_scale: float = 0.005,
        learning_rate: float = 0.02,
        bias_relearn_windows: int = 3600,
    ) -> None:
        for name, value in locals().items():
            if name != "self" and value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self._expected_rate_hz = expected_rate_hz
        self._full_scale = full_scale
        self._rate_tolerance = rate_tolerance
        self._gap_tolerance_s = gap_tolerance_s
        self._clock_tolerance_s = clock_tolerance_s
        self._clip_share = clip_share
        self._clip_run_share = clip_run_share
        self._dropout_s = dropout_s
        self._bias_ac = bias_ac
        self._bias_full_scale = bias_full_scale
        self._bias_noise = bias_noise
        self._slow_share = slow_share
        self._slow_ac = slow_ac
        self._slow_full_scale = slow_full_scale
        self._learning_rate = learning_rate
        self._bias_relearn_windows = bias_relearn_windows
        self._reset()

    def _reset(self) -> None:
        self._unit = ""
        self._learnt = 0
        self._bias = 0.0
        self._ac = 0.0
        self._shifted = 0
        self._shifted_bias = 0.0
        self._slips = 0
        self._after_capture = False
        self._stood_still = False
        self._wandered = False
        self._last: tuple[int, int] | None = None  # epoch and start_ns of the last window

    def check(self, window: Window, events: Sequence[StreamEvent] = ()) -> SensorHealth:
        """Judge one window, and learn from it if it is healthy.

        Args:
            window: The sensor's next window.
            events: What happened to its stream since the window before.
        """
        return self.judge(window, shapes_of([window])[0], events)

    def judge(
        self, window: Window, shape: SignalShape | None, events: Sequence[StreamEvent] = ()
    ) -> SensorHealth:
        """The same for a window whose shape is known already from `signal_shape.shapes_of`."""
        if window.unit != self._unit:
            self._unit, self._learnt, self._shifted = window.unit, 0, 0
        faults: Faults = {}
        shape, clipped = self._check_samples(window, shape, faults)
        self._check_stream(window, events, faults)
        bias = flat = 0.0
        if shape is not None:
            bias = shape.mean * window.scale + window.offset
            flat = shape.run_s / shape.duration_s if "flatline" in faults else shape.held
            if not faults:
                self._learn(bias, shape.fast_rms * abs(window.scale))
        self._last = (window.epoch, window.start_ns)
        self._wandered = "ski_slope" in faults
        self._stood_still = "flatline" in faults or "dropout" in faults
        self._after_capture = Flags.END_OF_CAPTURE in window.flags
        return SensorHealth(
            sensor_id=window.sensor_id,
            window_end_ns=window.end_ns,
            faults=tuple(faults),
            clip_fraction=clipped,
            flat_fraction=flat if self._stood_still else 0.0,
            bias=bias,
            gap_s=window.gap_s,
            detail="; ".join(faults.values()),
        )

    def export_state(self) -> State:
        """Everything that decides about coming windows."""
        return {
            "version": STATE_VERSION,
            "unit": self._unit,
            "learnt": self._learnt,
            "bias": self._bias,
            "ac": self._ac,
            "shifted": self._shifted,
            "shifted_bias": self._shifted_bias,
            "slips": self._slips,
            "after_capture": self._after_capture,
            "stood_still": self._stood_still,
            "wandered": self._wandered,
            "last": None if self._last is None else list(self._last),
        }

    def import_state(self, state: State) -> None:
        """Go on where `export_state` was called.

        Raises:
            ValueError: for a version this class does not know.
        """
        if state.get("version") != STATE_VERSION:
            got = state.get("version")
            raise ValueError(f"sensor health state must have version {STATE_VERSION}, got {got!r}")
        self._unit = str(state["unit"])
        self._learnt = int(state["learnt"])
        self._bias = float(state["bias"])
        self._ac = float(state["ac"])
        self._shifted = int(state["shifted"])
        self._shifted_bias = float(state["shifted_bias"])
        self._slips = int(state["slips"])
        self._after_capture = bool(state["after_capture"])
        self._stood_still = bool(state["stood_still"])
        self._wandered = bool(state["wandered"])
        last = state["last"]
        self._last = None if last is None else (int(last[0]), int(last[1]))

    def _check_samples(
        self, window: Window, shape: SignalShape | None, faults: Faults
    ) -> tuple[SignalShape | None, float]:
        """What the samples alone show: their shape (None if not finite) and the clipped share."""
        if shape is None:
            missing = count_non_finite(window.samples)
            faults["non_finite"] = (
                f"{missing} of {window.samples.size} samples are not numbers: "
                "check the gateway's conversion"
            )
            return None, 0.0
        stood_still = self._stood_still and not window.gap_s
        shape = with_runs(shape, window, self._dropout_s, stood_still=stood_still)
        largest = max(-shape.low, shape.high) * abs(window.scale)
        if window.encoding == "f32" and largest > MOST_VALUE:
            faults["out_of_range"] = (
                f"values beyond {MOST_VALUE:.0e} {window.unit}: check the gateway's conversion"
            )
            return None, 0.0
        self._check_repetition(shape, faults)
        clipped = self._check_clipping(window, shape, faults)
        if not faults:  # a dead or clipped signal has a wrong mean too: name the cause only
            self._check_slope(window, shape, faults)
        if not faults:
            self._check_bias(window, shape, faults)
        return shape, clipped

    def _check_repetition(self, shape: SignalShape, faults: Faults) -> None:
        if shape.codes == 2:
            faults["flatline"] = (
                f"signal has had only two values for {shape.duration_s:.2f} s: "
                "check cable and supply"
            )
        elif shape.run_s >= FLAT_SHARE * shape.duration_s:
            faults["flatline"] = (
                f"signal has been constant for {shape.run_s:.2f} s: check cable and supply"
            )
        elif shape.held > 0.0:
            held_ms = 1000.0 * shape.held * shape.duration_s
            faults["dropout"] = (
                f"signal stood still for {held_ms:.0f} ms in between: "
                "check plugs, cable and radio link"
            )

    def _check_clipping(self, window: Window, shape: SignalShape, faults: Faults) -> float:
        rail = FULL_SCALE[window.encoding]
        if self._full_scale is not None and window.scale != 0.0:
            rail = min(rail, self._full_scale / abs(window.scale))
        offset = window.offset / window.scale if window.scale != 0.0 else 0.0
        at_rail, flat_tops = clipped_share(
            window.samples, shape, rail, 0.0 if math.isinf(rail) else offset, self._clip_run_share
        )
        clipped = max(at_rail, flat_tops)
        if at_rail >= self._clip_share:
            faults["clipping"] = (
                f"{100 * at_rail:.1f} % of the samples are at full scale: "
                "lower the gain or check the bias voltage"
            )
        elif flat_tops >= self._clip_run_share and "flatline" not in faults:
            faults["clipping"] = (
                f"peaks are cut off flat ({100 * flat_tops:.1f} % of the samples): "
                "sensor or amplifier is saturated"
            )
        elif Flags.OVERLOAD in window.flags:
            faults["clipping"] = "the device reports an overload: lower the gain"
        return clipped

    def _full_scale_of(self, window: Window) -> float:
        """Full scale in the sensor's unit, infinite where nobody knows it."""
        return self._full_scale or FULL_SCALE[window.encoding] * abs(window.scale)

    def _check_slope(self, window: Window, shape: SignalShape, faults: Faults) -> None:
        """Power that piles up towards 0 Hz is the sensor's: no machine accelerates so slowly."""
        share = shape.slow_rms**2 / shape.ac_rms**2 if shape.ac_rms > 0.0 else 0.0
        steepest = SLOPE_RATIO_ON if self._wandered else SLOPE_RATIO
        if share < self._slow_share or self._slow_share >= 1.0 or shape.slope > steepest:
            return
        full_scale = self._full_scale_of(window)
        floor = 0.0 if math.isinf(full_scale) else self._slow_full_scale * full_scale
        if self._learnt:
            floor = max(floor, self._slow_ac * self._ac)
        else:
            floor = 4.0 * floor if floor else math.inf
        if shape.slow_rms * abs(window.scale) > floor:
            faults["ski_slope"] = (
                f"signal wanders slowly ({100 * share:.0f} % of its power below 9 Hz): "
                "check mounting, cable and overload, or let the sensor settle"
            )

    def _check_bias(self, window: Window, shape: SignalShape, faults: Faults) -> None:
        if self._learnt < MIN_LEARNT:
            return
        bias = shape.mean * window.scale + window.offset
        full_scale = self._full_scale_of(window)
        limit = self._bias_ac * max(self._ac, shape.fast_rms * abs(window.scale))
        limit = min(limit, self._bias_full_scale * full_scale)
        if not math.isinf(full_scale):
            limit = max(limit, self._bias_noise * full_scale)
        if abs(bias - self._bias) <= limit:
            self._shifted = 0
            return
        if not self._shifted or abs(bias - self._shifted_bias) > limit:
            self._shifted, self._shifted_bias = 0, bias
        self._shifted += 1
        self._shifted_bias += (bias - self._shifted_bias) / self._shifted
        if self._shifted > self._bias_relearn_windows:
            self._bias, self._shifted = self._shifted_bias, 0
            return
        faults["bias_shift"] = (
            f"mean has moved from {self._bias:.3g} to {bias:.3g} {window.unit}: "
            "check bias voltage, connector and mounting"
        )

    def _check_stream(self, window: Window, events: Sequence[StreamEvent], faults: Faults) -> None:
        """What the way of the samples shows: missing signal, wrong rates, a stepping clock."""
        gap_s = max([window.gap_s, *(e.amount_s for e in events if e.kind == "gap")])
        if gap_s > self._gap_tolerance_s and not self._after_capture:
            faults["gap"] = f"{gap_s:.2f} s of signal are missing: check network and gateway"
        self._check_rate(window, events, faults)
        step_s = max((e.amount_s for e in events if e.kind == "clock_step"), key=abs, default=0.0)
        if abs(step_s) > self._clock_tolerance_s:
            faults["clock_step"] = (
                f"the device's clock has jumped by {step_s:+.3f} s: check time synchronisation"
            )

    def _check_rate(self, window: Window, events: Sequence[StreamEvent], faults: Faults) -> None:
        rate, expected = window.sample_rate_hz, self._expected_rate_hz
        slip = self._slip(window, events)
        same_side = slip * self._slips >= 0.0
        if abs(slip) <= self._rate_tolerance:
            self._slips = 0
        else:
            self._slips = (self._slips if same_side else 0) + (1 if slip > 0.0 else -1)
        if expected is not None and abs(rate / expected - 1.0) > self._rate_tolerance:
            faults["rate_mismatch"] = (
                f"samples come at {rate:g} Hz, declared are {expected:g} Hz: "
                "check the sensor's settings"
            )
        elif abs(self._slips) >= SLIP_WINDOWS:
            faults["rate_mismatch"] = (
                f"samples come {100 * abs(slip):.1f} % {'slower' if slip > 0.0 else 'faster'} than "
                f"their declared rate of {rate:g} Hz: check the sensor's settings"
            )
        elif expected is None and any(e.kind == "rate_change" for e in events):
            faults["rate_mismatch"] = f"sample rate has changed to {rate:g} Hz: was this intended?"

    def _slip(self, window: Window, events: Sequence[StreamEvent]) -> float:
        """Time that passed beyond the samples since the last window, relative; 0 if unknowable."""
        if self._last is None or self._after_capture or self._last[0] != window.epoch:
            return 0.0
        passed_s = (window.start_ns - self._last[1]) / NS_PER_S
        if passed_s <= 0.0 or any(e.kind in ("clock_step", "rate_change") for e in events):
            return 0.0
        sign = {"gap": 1.0, "overlap": -1.0}
        slips = [sign[e.kind] * abs(e.amount_s) for e in events if e.kind in sign]
        if any(abs(slip) > self._gap_tolerance_s for slip in slips):
            return 0.0  # lost messages, not a wrong rate
        if slips:
            return sum(slips) / passed_s
        return window.gap_s / passed_s if window.gap_s <= self._gap_tolerance_s else 0.0

    def _learn(self, bias: float, ac: float) -> None:
        """Move the references towards one healthy window."""
        weight = max(1.0 / (self._learnt + 1), self._learning_rate)
        self._bias = self._bias + weight * (bias - self._bias) if self._learnt else bias
        nearest = min(max(ac, self._ac * (1.0 - AC_FALL)), self._ac * (1.0 + AC_RISE))
        self._ac = nearest if self._learnt and self._ac > 0.0 else ac
        self._learnt += 1
