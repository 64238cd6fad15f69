"""The records that travel between stages: chunks, windows and results.

Times are integer nanoseconds since the Unix epoch (UTC), rates are Hz, samples stay the ADC numbers
they were received as: value in `unit` = sample x scale + offset. Validation happens once, where
bytes or files come in (`pipeline.wire`, `connectors.files`); these records are trusted.
"""

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int16] | NDArray[np.int32] | NDArray[np.float32]
Encoding = Literal["i16", "i24", "i32", "f32"]

NS_PER_S = 1_000_000_000

# Largest magnitude that each encoding can carry; f32 has no ADC limit of its own.
FULL_SCALE: dict[Encoding, float] = {
    "i16": 2.0**15 - 1,
    "i24": 2.0**23 - 1,
    "i32": 2.0**31 - 1,
    "f32": float("inf"),
}


BandEdges = tuple[tuple[float, float], ...]
"""((low, high), ...) in Hz, one per band."""


class Flags(IntFlag):
    """What the device said about a chunk."""

    NONE = 0
    OVERLOAD = 1
    CLOCK_UNSYNCED = 2
    END_OF_CAPTURE = 4


class Severity(IntEnum):
    """How far a machine has left its baseline; higher is worse."""

    OK = 0
    ADVISORY = 1
    ALERT = 2
    ALARM = 3


@dataclass(frozen=True, slots=True)
class SensorChunk:
    """Consecutive samples of one channel of one sensor, as received.

    Attributes:
        sensor_id: Stable name, e.g. `plant/area/asset/point` (see `pipeline.wire` for the charset).
        sample_rate_hz: Exact rate, > 0 and <= 1 MHz.
        start_ns: UTC time of the first sample.
        samples: (N,) int16, int32 or float32, ADC numbers; i24 is carried as int32 by value.
        seq: Message counter of the device.
        epoch: Changes when the device restarts; windows never span two epochs.
        encoding: Encoding on the wire; fixes the ADC's full scale.
        scale: Unit per ADC step.
        offset: Value of ADC zero, in `unit`.
        unit: `g`, `m/s2`, `mm/s`, `Pa`, `FS`, ... or `unknown`, which is never guessed.
        flags: What the device said about this chunk.
    """

    sensor_id: str
    sample_rate_hz: float
    start_ns: int
    samples: Samples
    seq: int = 0
    epoch: int = 0
    encoding: Encoding = "f32"
    scale: float = 1.0
    offset: float = 0.0
    unit: str = "unknown"
    flags: Flags = Flags.NONE

    @property
    def end_ns(self) -> int:
        """Time one sample period after the last sample."""
        return self.start_ns + round(self.samples.size * NS_PER_S / self.sample_rate_hz)


@dataclass(frozen=True, slots=True)
class Window:
    """A gapless stretch of one sensor's signal, the unit of all that follows.

    Attributes:
        start_index: Sample index of the first sample in its (sensor, epoch); grid aligned.
        samples: (N,) ADC numbers as received.
        flags: Union of the flags of the chunks it was cut from.
        gap_s: Length of the gap directly before this window, 0 where there is none.

    The other attributes are those of `SensorChunk`.
    """

    sensor_id: str
    sample_rate_hz: float
    start_ns: int
    start_index: int
    samples: Samples
    epoch: int = 0
    encoding: Encoding = "f32"
    scale: float = 1.0
    offset: float = 0.0
    unit: str = "unknown"
    flags: Flags = Flags.NONE
    gap_s: float = 0.0

    @property
    def end_ns(self) -> int:
        """Time one sample period after the last sample."""
        return self.start_ns + round(self.samples.size * NS_PER_S / self.sample_rate_hz)

    def values(self) -> NDArray[np.float32]:
        """The signal in its unit: (N,) float32."""
        scaled = self.samples.astype(np.float32) * np.float32(self.scale)
        return scaled if self.offset == 0.0 else scaled + np.float32(self.offset)


StreamEventKind = Literal[
    "gap",
    "overlap",
    "late",
    "duplicate",
    "clock_step",
    "rate_change",
    "format_change",
    "epoch_change",
]


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """Something happened to a sensor's stream that no window may hide.

    Attributes:
        at_ns: Event time of the first sample concerned.
        amount_s: Length of the gap, overlap or late chunk in seconds; a clock step is negative
            where the clock went back.
        detail: Plain words, e.g. `25600 Hz -> 12800 Hz`.
    """

    sensor_id: str
    at_ns: int
    kind: StreamEventKind
    amount_s: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Features:
    """Classical indicators of one window.

    Attributes:
        rms: Of the signal less its mean, in the sensor's unit; likewise `peak`.
        crest: peak / rms.
        kurtosis: Pearson's (3 for Gaussian noise).
        velocity_mm_s: RMS velocity 10-1000 Hz; None unless acceleration, known unit and >= 1 s of
            contiguous signal.
        octaves_db: ((centre_hz, level_db), ...) 1/3-octave levels, dB re 1 unit.
    """

    sensor_id: str
    window_start_ns: int
    window_end_ns: int
    sample_rate_hz: float
    rms: float
    peak: float
    crest: float
    kurtosis: float
    velocity_mm_s: float | None
    octaves_db: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class SensorHealth:
    """Is the sensor itself believable in this window?

    Attributes:
        faults: Names of what is wrong (`flatline`, `clipping`, `dropout`, `bias_shift`,
            `non_finite`, `rate_mismatch`, `clock_step`, ...); empty means healthy.
        clip_fraction, flat_fraction: Share of the samples concerned, 0-1.
        bias: Mean of the window, in the sensor's unit.
        gap_s: Signal missing directly before this window.
        detail: Plain words for a person, empty when healthy.
    """

    sensor_id: str
    window_end_ns: int
    faults: tuple[str, ...] = ()
    clip_fraction: float = 0.0
    flat_fraction: float = 0.0
    bias: float = 0.0
    gap_s: float = 0.0
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether the window may be scored and learnt."""
        return not self.faults


@dataclass(frozen=True, slots=True)
class DriftScore:
    """How far one window's embedding lies from its sensor's healthy baseline.

    Attributes:
        distance: Cosine distance to the nearest healthy window, 0-2; nan while learning.
        score: Calibrated z of log whitened distance: 0 typical of health, about 1 per healthy
            spread.
        limit: Score that the false-alarm budget allows a healthy window, from its own tail.
        level_ratio: RMS / baseline RMS; nan while learning.
        ratios: Severity name -> evidence / limit; >= 1 means over that severity's limit.
        reason: Detector that is furthest over its limit (`drift`, `level`, `adwin`, ...).
        learning_pct: 0-100; 100 means the baseline is frozen and scoring.
        baseline_n: Windows in the bank.
        band_edges_hz: ((low, high), ...) of the encoder's K bands.
        band_shares: (K,) share of the drift per band, sums to 1; empty while learning.
        nearest_ns: End time of the nearest healthy window in the bank, 0 while learning.
        trained: False where the encoder carries untrained weights.
    """

    sensor_id: str
    window_end_ns: int
    model_id: str
    distance: float
    score: float
    limit: float
    level_ratio: float
    ratios: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    learning_pct: float = 0.0
    baseline_n: int = 0
    band_edges_hz: tuple[tuple[float, float], ...] = ()
    band_shares: tuple[float, ...] = ()
    nearest_ns: int = 0
    trained: bool = False


SpectrumKind = Literal["healthy", "alarm", "latest"]


@dataclass(frozen=True, slots=True)
class Spectrum:
    """An amplitude spectrum worth keeping: of health, of an alarm, of the newest window.

    Attributes:
        freq_hz: (F,) float32.
        amplitude: (F,) float32, in the sensor's unit.
    """

    sensor_id: str
    at_ns: int
    kind: SpectrumKind
    freq_hz: NDArray[np.float32]
    amplitude: NDArray[np.float32]


SensorStatus = Literal["learning", "ok", "stopped", "unknown", "advisory", "alert", "alarm"]


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of one sensor's alarm state.

    Attributes:
        transition_id: `sensor|window_end_ns|status|action`; the same in every replay.
        at_ns: Event time (end of the deciding window, or of the command).
        since_ns: Start of the condition: end of the first window of the run that decided it.
        before, after: Status before and after. `unknown` = sensor not believable.
        action: What changed: `raise`, `escalate`, `ease`, `return`, `ack`, `shelve`, `unshelve`,
            `learn`, `learnt`, `stop`, `start`, `sensor_bad`, `sensor_good`.
        acked: Whether a person has acknowledged the highest severity of this episode.
        latched: Condition has gone but the alarm waits for acknowledgement.
        shelved_until_ns: 0 = not shelved; while shelved nobody is notified.
        reason: Detector that decided (`drift`, `level`, ...) or the sensor faults.
        value, limit: Evidence and limit of `reason` in the deciding window.
        band_hz: (low, high) of the band with the largest share of the drift, (0, 0) if none.
        band_share: Its share, 0-1.
        by, why: Person and words of a command.
    """

    transition_id: str
    sensor_id: str
    asset: str
    at_ns: int
    since_ns: int
    before: SensorStatus
    after: SensorStatus
    action: str
    acked: bool = False
    latched: bool = False
    shelved_until_ns: int = 0
    reason: str = ""
    value: float = 0.0
    limit: float = 0.0
    band_hz: tuple[float, float] = (0.0, 0.0)
    band_share: float = 0.0
    by: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class WindowResult:
    """All that one window gave, in processing order.

    Attributes:
        status: The sensor's status after this window.
        running: Whether the machine ran (running gate).
        drift: None where the window was neither learnt nor scored.
        pin: Place at which its samples are to be kept for people, see `pipeline.pins`, or empty.
        window: The window itself where `pin` names a place.
    """

    sensor_id: str
    asset: str
    window_start_ns: int
    window_end_ns: int
    status: SensorStatus
    running: bool
    health: SensorHealth
    features: Features | None = None
    drift: DriftScore | None = None
    transitions: tuple[Transition, ...] = ()
    pin: str = ""
    window: Window | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Processed:
    """What one micro-batch gave, each list in stream order."""

    windows: tuple[WindowResult, ...]
    events: tuple[StreamEvent, ...]
    spectra: tuple[Spectrum, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a time series: what a store of metrics keeps.

    Attributes:
        measurement: Name of the series' kind.
        tags: ((name, value), ...) in order of name; bounded in number, see `pipeline.points`.
        fields: Name -> value; at least one.
        at_ns: Event time. Another point of the same tags and time replaces its fields.
    """

    measurement: str
    tags: tuple[tuple[str, str], ...]
    fields: dict[str, float | int | str | bool]
    at_ns: int


@dataclass(frozen=True, slots=True)
class Trend:
    """One sensor's windows over time, as columns; each array is (n,) unless said otherwise.

    Attributes:
        end_ns: int64, increasing.
        status: (n,) str, see `SensorStatus`.
        faults: (n,) str, comma separated names, empty where healthy.
        ratio: Largest evidence / limit of the alarm severity.
        learning_pct: 0-100.
        band_edges_hz: K pairs.
        band_shares: (n, K) float32, nan where nothing was scored.
        octaves_hz: (O,) centres.
        octaves_db: (n, O) float32, nan where unknown.

    The other columns are float64, nan where unknown, named as in `Features` and `DriftScore`.
    """

    sensor_id: str
    end_ns: NDArray[np.int64]
    status: NDArray[np.str_]
    faults: NDArray[np.str_]
    rms: NDArray[np.float64]
    peak: NDArray[np.float64]
    crest: NDArray[np.float64]
    kurtosis: NDArray[np.float64]
    velocity_mm_s: NDArray[np.float64]
    score: NDArray[np.float64]
    limit: NDArray[np.float64]
    level_ratio: NDArray[np.float64]
    ratio: NDArray[np.float64]
    learning_pct: NDArray[np.float64]
    band_edges_hz: BandEdges
    band_shares: NDArray[np.float32]
    octaves_hz: NDArray[np.float64]
    octaves_db: NDArray[np.float32]


State = dict[str, Any]
"""One versioned value: JSON scalars, lists, dicts and NumPy arrays; see `pipeline.state`."""
