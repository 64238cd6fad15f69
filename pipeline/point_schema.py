"""What the time series store holds: every measurement, its tags, its fields, and what they cost.

The single source of the schema: `pipeline.points` makes points of it, docs/influx.md lists it, a
test compares both. No name is a keyword of InfluxQL, so no query needs quotes around one. A tag has
few values and says what to group by; whatever varies from point to point is a field. A field never
changes its type: InfluxDB would refuse the point.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

from pipeline.messages import SensorStatus

FieldType = Literal["float", "int", "bool", "str"]

STATUS_CODES: Final[Mapping[SensorStatus, int]] = MappingProxyType(
    {"ok": 0, "advisory": 1, "alert": 2, "alarm": 3, "learning": -1, "stopped": -2, "unknown": -3}
)
"""Status -> number in the field `state`: severities rise from 0, pauses lie below."""

QUARANTINE: Final = "quarantine_"
"""Prefix of the measurements of sensors that the fleet file does not name."""


@dataclass(frozen=True, slots=True)
class FieldInfo:
    """A field of a measurement.

    Attributes:
        kind: Type of every value.
        unit: Empty where it has none.
        about: Plain words.
    """

    kind: FieldType
    unit: str
    about: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """A kind of point.

    Attributes:
        tags: Names, in alphabetical order; a point has all of them, empty where unknown.
        fields: Name -> what it holds; a point has at least one of them.
        about: Plain words.
    """

    tags: tuple[str, ...]
    fields: Mapping[str, FieldInfo]
    about: str


# Octave -> the 1/3-octaves it is the sum of, nominal Hz (IEC 61260-1). The lowest third measured is
# 31.5 Hz, so that the lowest octave lacks its 25 Hz part.
OCTAVES: Final[Mapping[str, tuple[float, ...]]] = MappingProxyType(
    {
        "oct_31": (31.5, 40.0),
        "oct_63": (50.0, 63.0, 80.0),
        "oct_125": (100.0, 125.0, 160.0),
        "oct_250": (200.0, 250.0, 315.0),
        "oct_500": (400.0, 500.0, 630.0),
        "oct_1k": (800.0, 1000.0, 1250.0),
        "oct_2k": (1600.0, 2000.0, 2500.0),
        "oct_4k": (3150.0, 4000.0, 5000.0),
        "oct_8k": (6300.0, 8000.0, 10_000.0),
        "oct_16k": (12_500.0, 16_000.0, 20_000.0),
    }
)


def _table(text: str) -> Mapping[str, FieldInfo]:
    """Fields from lines of `name | type | unit | words`."""
    fields: dict[str, FieldInfo] = {}
    for row in text.strip().splitlines():
        name, kind, unit, about = (part.strip() for part in row.split("|"))
        fields[name] = FieldInfo(_KINDS[kind], unit, about)
    return MappingProxyType(fields)


_KINDS: Final[Mapping[str, FieldType]] = {
    "float": "float", "int": "int", "bool": "bool", "str": "str"
}  # fmt: skip
_PLACE: Final = ("area", "asset", "line", "plant")
_SENSOR: Final = tuple(sorted((*_PLACE, "axis", "point", "sensor")))


def _with(*more: str) -> tuple[str, ...]:
    return tuple(sorted((*_SENSOR, *more)))


_FEATURES = _table("""
rms | float | sensor's unit | RMS of the window less its mean
peak | float | sensor's unit | largest deviation from the mean
crest | float | | peak / rms
kurtosis | float | | 3 for Gaussian noise
velocity_mm_s | float | mm/s | RMS velocity 10-1000 Hz; absent where it cannot be told
iso_zone | int | | ISO zone of it, 0 = A, 1 = B, 2 = C, 3 = D; only where the fleet file names the table and the machine runs
""")  # noqa: E501  (one field, one line)
_OCTAVE_FIELDS = {
    name: FieldInfo(
        "float",
        "dB re 1 unit",
        f"level of the {thirds[len(thirds) // 2] if len(thirds) == 3 else thirds[0]:g} Hz octave"
        + ("" if len(thirds) == 3 else " without its 25 Hz third"),
    )
    for name, thirds in OCTAVES.items()
}
_DRIFT = _table("""
score | float | healthy spreads | departure from the baseline, 0 typical of health; absent while learning
threshold | float | healthy spreads | score that the false-alarm budget allows a healthy window
distance | float | | cosine distance to the nearest healthy window, 0-2
level_ratio | float | | RMS / baseline RMS
ratio | float | | evidence / limit of the alarm severity; 1 = at its limit
ratio_advisory | float | | evidence / limit of the advisory severity
reason | str | | detector furthest over its limit: drift, level, adwin, ...
learning_pct | float | % | 100 = the baseline is complete and scores
baseline_n | int | windows | in the baseline
nearest_ns | int | ns | end of the nearest healthy window, 0 while learning
top_band_hz | float | Hz | low edge of the band with the largest share of the drift
top_share | float | | its share, 0-1
model_id | str | | full id of the model, with its hash
trained | int | | 0 = the encoder carries untrained weights
""")  # noqa: E501  (one field, one line)
_BAND = _table("""
share | float | | share of the drift in this band, 0-1; all bands of a window add up to 1
""")
_ALARM = _table("""
state | int | status code | status after the change
previous | int | status code | status before it
action | str | | raise, escalate, ease, return, ack, shelve, unshelve, learn, learnt, stop, start, sensor_bad or sensor_good
reason | str | | detector that decided, or the sensor's faults
evidence | float | | of that detector in the deciding window
threshold | float | | its limit
band_low_hz | float | Hz | low edge of the band with the largest share of the drift, 0 if none
band_high_hz | float | Hz | its high edge
band_share | float | | its share, 0-1
acked | bool | | a person has acknowledged the highest severity of the episode
latched | bool | | the condition has gone, the alarm waits for acknowledgement
shelved_until_ns | int | ns | 0 = not shelved
since_ns | int | ns | start of the condition
author | str | | person who said so, empty where the machine did it
why | str | | their words, or what the detector has to add
transition_id | str | | the same in every replay
""")  # noqa: E501  (one field, one line)
_HEALTH = _table("""
state | int | status code | status after this window
ok | int | | 1 = the sensor is believable, else 0; its mean is the availability
running | int | | 1 = the machine runs, else 0
faults | str | | names, comma separated; empty where healthy
detail | str | | the same in words; only where there is a fault
clip | float | | share of the samples at the limits of the sensor, 0-1
flat | float | | share of the samples that do not move, 0-1
bias | float | sensor's unit | mean of the window
gap_s | float | s | signal missing directly before this window
""")
_STREAM = _table("""
amount_s | float | s | length of the gap or overlap, lateness, or clock step (negative = back)
detail | str | | plain words
""")
_EVENT = _table("""
text | str | | what was said or done
author | str | | who said it
target | str | | sensor id that it was said of
order_id | str | | of the order, empty where there was none
refused | str | | why it was not obeyed; only where it was not
""")
_CASES = _table("""
case_id | str | | asset and opening time
open | bool | | whether a sensor's severity still stands
severity | int | status code | highest that the case has reached
current | int | status code | highest in force now
acked | bool | | every standing sensor is acknowledged
shelved | bool | | every standing sensor is shelved
sensors | int | | that have confirmed
sensor_ids | str | | the first of them, comma separated
first_out | str | | sensor that departed first
opened_ns | int | ns | time of the first raise
opened_s | float | s | the same since 1970, from which a query tells the age
closed_ns | int | ns | 0 = open
since_ns | int | ns | start of the earliest condition
reopened | int | | times that it was reopened
top_band_low_hz | float | Hz | band of the first sensor that stands, 0 if none
top_band_high_hz | float | Hz | its high edge
top_band | str | | the same in words
sentence | str | | what a technician reads
""")
_PIPELINE = _table("""
model_id | str | | full id of the model, with its hash; only where there is one
version | str | | of the program
messages | float | | messages read since the start
bytes | float | B | of their values
windows | float | | judged since the start
transitions | float | | alarm state changes sent
snapshots | float | | pictures of windows sent
dead_letters | float | | messages refused
stream_events | float | | gaps, duplicates and other disorders
skipped | float | | messages that the restored state had heard
nan_scores | float | | windows that the model gave no finite score for, though they were to have one
sink_points | float | | points that InfluxDB confirmed
sink_retries | float | | requests to InfluxDB that were repeated
sink_refused | float | | points that InfluxDB refused for good
checkpoints | float | | that Kafka confirmed
restored | float | | sensors whose state came from a checkpoint
messages_per_s | float | 1/s | since the point before
bytes_per_s | float | B/s | since the point before
windows_per_s | float | 1/s | since the point before
lag | float | messages | not yet acknowledged; per partition where those tags are set
lag_max | float | messages | of the worst partition
queue_messages | float | | read but not yet acknowledged
queue_bytes | float | B | of these
sink_pending_bytes | float | B | that wait for InfluxDB
checkpoint_age_s | float | s | since the last checkpoint
assigned_partitions | float | | that this worker holds
sensors | float | | whose state this worker holds
event_time_lag_s | float | s | clock less newest event time
last_event_s | float | s | newest event time, since 1970
batch_messages_p50 | float | | messages of a micro-batch
batch_messages_p99 | float | | messages of a micro-batch
batch_windows_p50 | float | | windows of a micro-batch
batch_windows_p99 | float | | windows of a micro-batch
embed_s_p50 | float | s | encoder, per micro-batch
embed_s_p99 | float | s | encoder, per micro-batch
received_to_stored_s_p50 | float | s | from a message's arrival to its results in InfluxDB
received_to_stored_s_p99 | float | s | from a message's arrival to its results in InfluxDB
sample_to_score_s_p50 | float | s | from a window's last sample to its score
sample_to_score_s_p99 | float | s | from a window's last sample to its score
""")

_OF_SENSORS: Final[Mapping[str, Measurement]] = {
    "vib_features": Measurement(
        _SENSOR, {**_FEATURES, **_OCTAVE_FIELDS}, "Indicators of each believable window."
    ),
    "drift": Measurement(
        _with("model"), _DRIFT, "How far each window of the running machine lies from its baseline."
    ),
    "drift_band": Measurement(
        _with("band", "model"), _BAND, "Where in frequency the drift of a scored window lies."
    ),
    "alarm": Measurement(_with("kind"), _ALARM, "Each visible change of a sensor's alarm state."),
    "sensor_health": Measurement(
        _SENSOR, _HEALTH, "Is the sensor believable? Each window, and each silence."
    ),
    "stream_event": Measurement(
        _with("kind"), _STREAM, "Gaps, duplicates, clock steps and other disorders of a stream."
    ),
}


def _quarantined(name: str, of: Measurement) -> Measurement:
    """The same for sensors that nobody named: one series, the sensor's id a field."""
    fields = {**of.fields, "sensor_id": FieldInfo("str", "", "id that it sends")}
    if "kind" in of.tags:
        fields["kind"] = FieldInfo("str", "", "as the tag of that name")
    return Measurement(("plant", "sensor"), fields, f"As {name}, of sensors nobody named.")


SCHEMA: Final[Mapping[str, Measurement]] = MappingProxyType(
    {
        **_OF_SENSORS,
        "cases": Measurement(_PLACE, _CASES, "Each change of a machine's case."),
        "event": Measurement(
            tuple(sorted((*_PLACE, "type"))), _EVENT, "What people said or did, for annotations."
        ),
        "pipeline": Measurement(
            ("host", "partition", "role", "topic"), _PIPELINE, "How the workers fare."
        ),
        **{
            f"{QUARANTINE}{name}": _quarantined(name, of)
            for name, of in _OF_SENSORS.items()
            if name != "drift_band"
        },
    }
)
"""Measurement -> its tags and fields."""

STREAM_KINDS: Final = 8


@dataclass(frozen=True, slots=True)
class Cost:
    """What sensors cost the store.

    Attributes:
        series: Sets of measurement and tags: what InfluxDB 2 indexes and limits.
        keys: Series times fields: what its files hold columns of.
        points: Per scored window.
    """

    series: int
    keys: int
    points: int

    def times(self, sensors: int) -> "Cost":
        """Of so many sensors.

        >>> series_per_sensor(bands=8).times(10_000).series
        200000
        """
        return replace(self, series=self.series * sensors, keys=self.keys * sensors)


def series_per_sensor(*, bands: int = 8, stream_kinds: int = STREAM_KINDS, models: int = 1) -> Cost:
    """Most that one sensor of the fleet can cost.

    Args:
        bands: Of the encoder at the sensor's rate: about rate / 2560 Hz.
        stream_kinds: Kinds of stream events that it has ever had; a good sensor has none.
        models: Models that have ever scored it.
    """
    series = keys = points = 0
    for name, of in _OF_SENSORS.items():
        count = models if "model" in of.tags else 1
        count *= bands if "band" in of.tags else 1
        count *= stream_kinds if name == "stream_event" else 1
        series += count
        keys += count * len(of.fields)
        if name in ("vib_features", "drift", "drift_band", "sensor_health"):
            points += bands if "band" in of.tags else 1
    return Cost(series, keys, points)
