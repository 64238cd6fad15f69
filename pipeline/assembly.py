"""Settings, fleet and encoder in; a ready Monitor out."""

from functools import partial

from pipeline.alarms import AlarmLogic
from pipeline.baseline import Baseline
from pipeline.drift import Evidence
from pipeline.fleet import Fleet, SensorInfo
from pipeline.health import SensorHealthCheck
from pipeline.messages import Severity
from pipeline.monitor import Encoder, Monitor
from pipeline.persistence import SeverityRule
from pipeline.running import RunningGate
from pipeline.sensor import SensorMonitor
from pipeline.settings import Delays, Settings, SettingsError, Windows
from pipeline.windows import Windower

# Below 200 rpm the shaft itself lies where a drifting sensor's floor would: no ski-slope check.
SLOW_SHAFT_HZ = 200 / 60
SKI_SLOPE_SHARE = 0.6


def build_monitor(settings: Settings, fleet: Fleet, encoder: Encoder) -> Monitor:
    """A monitor whose sensors are made as the fleet and the settings say.

    Raises:
        SettingsError: for numbers that do not go together; at once, not at the first chunk.
    """

    def make(sensor_id: str) -> SensorMonitor:
        return build_sensor(fleet.sensor(sensor_id), settings, encoder)

    try:
        make("settings/check")
    except ValueError as error:
        raise SettingsError(f"settings: {error}") from error
    return Monitor(encoder, make)


def build_sensor(info: SensorInfo, settings: Settings, encoder: Encoder) -> SensorMonitor:
    """One sensor as the settings and its entry of the fleet file say."""
    windows, learning, detection = settings.windows, settings.learning, settings.detection
    return SensorMonitor(
        info.sensor_id,
        info.asset,
        windower=build_windower(info.sensor_id, windows),
        health=SensorHealthCheck(
            expected_rate_hz=info.expected_rate_hz,
            full_scale=info.full_scale,
            slow_share=_slow_share(info),
        ),
        alarms=AlarmLogic(info.sensor_id, info.asset, rules=rules(settings.delays)),
        gate=partial(RunningGate, _running_above(info)),
        baseline=partial(
            Baseline,
            min_windows=learning.min_windows,
            min_span_s=learning.min_span_s,
            patience=learning.patience,
            bank_size=learning.bank_size,
            budget_windows=learning.budget_windows,
        ),
        evidence=partial(
            Evidence,
            detectors=detection.detectors,
            alert_factor=detection.alert_factor,
            alarm_factor=detection.alarm_factor,
            level_alarm=detection.level_alarm,
        ),
        model_id=encoder.model_id,
        trained=encoder.trained,
        min_silence_s=windows.min_silence_s,
        first_silence_s=windows.first_silence_s,
    )


def build_windower(sensor_id: str, windows: Windows) -> Windower:
    """A windower for one sensor."""
    return Windower(
        sensor_id,
        k=windows.patches,
        stride_s=windows.stride_s,
        duty_cycle_s=windows.duty_cycle_s,
        jitter_s=windows.jitter_s,
        drift_ppm=windows.drift_ppm,
        reorder_chunks=windows.reorder_chunks,
    )


def rules(delays: Delays) -> dict[Severity, SeverityRule]:
    """The same delays for all severities; only an alarm latches."""
    return {
        severity: SeverityRule(
            on_windows=delays.on_windows,
            of_windows=delays.of_windows,
            on_delay_s=delays.on_delay_s,
            off_windows=delays.off_windows,
            off_delay_s=delays.off_delay_s,
            deadband=delays.deadband,
            latch=delays.latch and severity is Severity.ALARM,
        )
        for severity in (Severity.ADVISORY, Severity.ALERT, Severity.ALARM)
    }


def _running_above(info: SensorInfo) -> float | None:
    if info.running == "auto":
        return None
    return 0.0 if info.running == "always" else info.running


def _slow_share(info: SensorInfo) -> float:
    slow = info.speed_hz is not None and info.speed_hz < SLOW_SHAFT_HZ
    return 1.0 if slow else SKI_SLOPE_SHARE
