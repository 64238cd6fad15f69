"""What a report shows, as plain records: a run, its sensors, its cases."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.messages import SensorStatus, Spectrum, SpectrumKind, Transition, Trend


@dataclass(frozen=True, slots=True)
class SensorReport:
    """What is shown of one sensor.

    Attributes:
        asset: Id of its machine.
        name: For people; may be any text.
        status: At the end of the run.
        running_share: Share of the windows in which the machine ran, 0-1.
        spectra: Newest spectrum of each kind.
        event_counts: Kind of stream event -> how often.
        notes: What a person should know about the baseline.
        iso_zone: `A` to `D` with its edition, or empty where no verdict is possible.
        iso_limits: Limits A/B, B/C, C/D in mm/s; empty where no verdict is possible.
        asset_name: Of the machine, for people; its id where empty.
    """

    sensor_id: str
    asset: str
    name: str
    unit: str
    sample_rate_hz: float
    status: SensorStatus
    running_share: float
    trend: Trend
    spectra: Mapping[SpectrumKind, Spectrum] = field(default_factory=dict)
    transitions: tuple[Transition, ...] = ()
    event_counts: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    iso_zone: str = ""
    iso_limits: tuple[float, ...] = ()
    asset_name: str = ""

    @property
    def machine(self) -> str:
        """The machine as people call it."""
        return self.asset_name or self.asset


@dataclass(frozen=True, slots=True)
class CaseReport:
    """What is shown of one case.

    Attributes:
        severity: Highest that it reached: `advisory`, `alert` or `alarm`.
        current: Severity at the end of the run; `ok` where the condition has gone.
        closed_ns: None while it is open.
        sentence: What happened, in plain words.
        sensors: Ids of the sensors that saw it.
        asset_name: Of the machine, for people; its id where empty.
    """

    case_id: str
    asset: str
    severity: str
    current: str
    opened_ns: int
    closed_ns: int | None
    acked: bool
    sentence: str
    sensors: tuple[str, ...]
    asset_name: str = ""


@dataclass(frozen=True, slots=True)
class RunReport:
    """What is shown of a run.

    Attributes:
        title: Plant or file name.
        created: When the report was made, as text.
        first_ns, last_ns: Event time that the run covers; ages are told at `last_ns`.
        trained: False where the encoder carries untrained weights.
        profile: Name of the settings profile.
        thresholds: The limits in plain words, one line each.
        alert_factor, alarm_factor: Alert and alarm limit of the score, in advisory limits.
        level_alarm: RMS / baseline RMS that is an alarm; inf = off.
    """

    title: str
    created: str
    first_ns: int
    last_ns: int
    model_id: str
    trained: bool
    profile: str
    thresholds: tuple[str, ...]
    sensors: tuple[SensorReport, ...]
    cases: tuple[CaseReport, ...] = ()
    alert_factor: float = 1.5
    alarm_factor: float = 2.0
    level_alarm: float = 2.0
