"""The alert rules of echowatch: what each asks the store, when it fires, what it tells people.

The stream judges machines and sensors; a rule only tells who must know (docs/runbooks.md). Each
query asks for the LAST state, however long ago it was written: `alarm` has a point only where
something changes. Every query gives a row per known series, also where nothing is wrong, so that a
rule resolves because things are well again and not because a series went missing.
"""

# ruff: noqa: INP001, S608  (a part of rules.py; queries are made of nobody's input)

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

PLACE = "plant, area, line, asset, sensor"
KEPT = "90d"
"""How far back the last change of an alarm state may lie."""
SEEN = "30d"
"""How far back a sensor may have been heard last; the bucket of all windows keeps no more."""
WINDOW = "6h"
"""How far back the last window of a sensor that sends seldom may lie."""

# A machine that stands, a sensor that is not believable and a learning that nobody asked for pause
# an alarm and do not end it; the fold of cases counts in the same way.
IN_FORCE = "(state >= 0 OR (action = 'learn' AND author != ''))"


@dataclass(frozen=True)
class Rule:
    """One alert rule of Grafana.

    Attributes:
        name: Also the name of its alerts, and its section in docs/runbooks.md.
        group: Rules of a group are judged together.
        asks: Name -> InfluxQL that gives one number per series, all with the same tags.
        fires: Math of Grafana over these names; 0 = no.
        lasts: How long that must hold before anybody is told.
        severity, owner, scope: Labels; policies.yaml routes by them.
        summary: One line, in Grafana's words for labels and values.
        tells: More lines.
        links: Annotation -> address.
        empty: State where no series is known at all; "" = as it was, where Grafana can keep it.
        error: State where the store cannot be asked, likewise.
    """

    name: str
    group: str
    asks: Mapping[str, str]
    fires: str
    lasts: str
    severity: Literal["critical", "warning", "info", "none"]
    owner: Literal["maintenance", "instruments", "platform"]
    scope: Literal["machine", "sensor", "pipeline", "heartbeat"]
    summary: str
    tells: str
    links: Mapping[str, str] = field(default_factory=dict)
    empty: Literal["", "OK", "Alerting"] = ""
    error: Literal["", "Alerting"] = ""


def _last(what: str, where: str = "", by: str = PLACE) -> str:
    """The newest value of each series of alarms."""
    more = f" AND {where}" if where else ""
    return f"SELECT last({what}) FROM alarm WHERE time > now() - {KEPT}{more} GROUP BY {by}"


def _either(first: str, second: str, how: str, by: str = PLACE) -> str:
    """The larger (or smaller) of what two queries call x, for each series that one of them has."""
    return f"SELECT {how}(x) FROM ({first}), ({second}) GROUP BY {by}"


def _of(measurement: str, what: str, since: str, by: str = PLACE, where: str = "") -> str:
    more = f" AND {where}" if where else ""
    return f"SELECT {what} AS x FROM {measurement} WHERE time > now() - {since}{more} GROUP BY {by}"


def _workers(what: str, since: str, by: str = "host, role", where: str = "") -> str:
    """Numbers of workers; those of single partitions stand in points of their own."""
    return _of("pipeline", what, since, by, f"topic = ''{where}")


def _grown(counter: str, since: str, by: str = "role") -> str:
    """How far a counter has grown; the restart of a worker, from which it counts anew, is none.

    Without a tag it is one alert of all, the same that a failing query raises.
    """
    steps = _workers(f"non_negative_difference({counter})", since)
    return f"SELECT sum(x) FROM ({steps})" + (f" GROUP BY {by}" if by else "")


def _unknown(reason: str) -> str:
    """1 where a sensor is not believable for such a reason, else 0.

    Asked of `alarm`, which has few points: of 20 sensors with 50,000 windows each the newest window
    took 240 ms to find. What people say in between changes nothing of that.
    """
    newest = (
        "SELECT last(state) AS state, last(reason) AS reason FROM alarm "
        f"WHERE time > now() - {KEPT} AND action !~ /ack|shelve/ GROUP BY {PLACE}"
    )
    now = f"SELECT state + 4 AS x FROM ({newest}) WHERE state = -3 AND {reason} GROUP BY {PLACE}"
    return _either(_of("alarm", "last(state) * 0", KEPT), now, "max")


_SILENT = _unknown("reason =~ /silent/")
_SILENT_X = _SILENT.replace("SELECT max(x) FROM", "SELECT max(x) AS x FROM", 1)
_HEARD = _of("sensor_health", "last(ok)", SEEN)

_EVIDENCE = {
    "shelved": _last("shelved_until_ns"),
    "low": _last("band_low_hz", IN_FORCE),
    "high": _last("band_high_hz", IN_FORCE),
    # s; 0 where the alarm was raised longer ago. One empty query makes a rule blind to all others.
    "since": _either(
        _of("alarm", "last(state) * 0", KEPT),
        _of(
            "alarm",
            "last(since_ns) / 1000000000",
            KEPT,
            where="(action = 'raise' OR action = 'escalate')",
        ),
        "max",
    ),
}
_STATE = {"state": _last("state", IN_FORCE), **_EVIDENCE}
_UNSEEN = {
    "unseen": _either(
        _of("alarm", "last(state) * 0", KEPT),
        "SELECT state AS x FROM (SELECT last(state) AS state, last(acked) AS acked FROM alarm "
        f"WHERE time > now() - {KEPT} AND {IN_FORCE} GROUP BY {PLACE}) "
        f"WHERE acked = false GROUP BY {PLACE}",
        "max",
    ),
    **_EVIDENCE,
}
# Not whether it is shelved: a sensor that learns has no alarm state, and nothing else tells then of
# a machine that was bad from the start.
_ISO = {
    # For 5 minutes on end below the limit before it resolves; sensors that send seldom: the last.
    "zone": _either(
        _of("vib_features", "last(iso_zone)", WINDOW),
        _of("vib_features", "max(iso_zone)", "5m"),
        "max",
    ),
    # Of the newest window that can be believed: a silent sensor ends nothing.
    "running": _of("sensor_health", "last(running)", WINDOW, where="ok = 1"),
    "velocity": _of("vib_features", "last(velocity_mm_s)", WINDOW),
}

_BOARD = "{{ externalURL }}d/echowatch-"
_PLACED = "var-plant={{ .Labels.plant }}&var-area={{ .Labels.area }}&var-asset={{ .Labels.asset }}"
MACHINE_LINKS = {"board_url": f"{_BOARD}asset?{_PLACED}"}
SENSOR_LINKS = {"board_url": f"{_BOARD}sensor-health?{_PLACED}"}
PIPELINE_LINKS = {"board_url": f"{_BOARD}pipeline"}


_WHOLE, _TENTHS = 'printf "%.0f"', 'printf "%.1f"'


def _value(name: str, style: str) -> str:
    """A number of the rule, in Grafana's words; nothing where the series has none."""
    return f"{{{{ with .Values.{name} }}}}{{{{ {style} .Value }}}}{{{{ end }}}}"


_BAND = (
    "{{ if .Values.high }}{{ if gt .Values.high.Value 0.0 }}"
    'in the band {{ printf "%.0f" .Values.low.Value }} to {{ printf "%.0f" .Values.high.Value }} Hz'
    "{{ else }}in no single band{{ end }}{{ end }}"
)
_SINCE = (
    "{{ with .Values.since }}{{ if gt .Value 0.0 }}"
    "Since {{ humanizeTimestamp .Value }}. {{ end }}{{ end }}"
)
_WHERE = "{{ .Labels.asset }}: sensor {{ .Labels.sensor }}"


def _drift(name: str, code: int, lasts: str, severity: Literal["critical", "warning", "info"],
           words: str, do: str) -> Rule:  # fmt: skip
    return Rule(
        name,
        "machines",
        _STATE,
        f"$state == {code} && $shelved == 0",
        lasts,
        severity,
        "maintenance",
        "machine",
        f"{_WHERE} is {words}",
        f"{_SINCE}It departs most {_BAND}. {do}",
        MACHINE_LINKS,
    )


_ZONE = (
    f"Velocity {_value('velocity', _TENTHS)} mm/s RMS in the band 10 to 1000 Hz. "
    "It is judged by the limits that the fleet file names."
)

RULES: tuple[Rule, ...] = (
    _drift(
        "DriftAlarm", 3, "0s", "critical", "in ALARM: far beyond its baseline",
        "Look at the case, go to the machine, acknowledge.",
    ),
    _drift(
        "DriftAlert", 2, "10m", "warning", "in ALERT: clearly beyond its baseline",
        "Look at the case and plan an inspection.",
    ),
    _drift(
        "DriftAdvisory", 1, "30m", "info", "at ADVISORY: a little beyond its baseline",
        "Look at the case with the next round.",
    ),
    Rule(
        "AlarmUnseen", "machines", _UNSEEN, "$unseen == 3 && $shelved == 0", "1h",
        "critical", "maintenance", "machine",
        f"{_WHERE} is in ALARM and nobody has acknowledged it",
        f"{_SINCE}It departs most {_BAND}. This comes again until somebody says that it was seen.",
        MACHINE_LINKS,
    ),
    Rule(
        "IsoZoneC", "machines", _ISO, "$zone >= 2 && $running == 1", "30m",
        "warning", "maintenance", "machine",
        f"{_WHERE} is in ISO zone C: not for long-term operation",
        _ZONE, MACHINE_LINKS,
    ),
    Rule(
        "IsoZoneD", "machines", _ISO, "$zone >= 3 && $running == 1", "5m",
        "critical", "maintenance", "machine",
        f"{_WHERE} is in ISO zone D: severe enough to cause damage",
        _ZONE, MACHINE_LINKS,
    ),
    Rule(
        "SensorSilent", "sensors", {"silent": _SILENT}, "$silent == 1", "5m",
        "warning", "instruments", "sensor",
        f"{_WHERE} is silent",
        "It has sent nothing for three of its usual intervals, at least 5 minutes. Nobody watches "
        "this point of the machine: see sensor, cable and gateway.",
        SENSOR_LINKS,
    ),
    Rule(
        "AreaSilent", "sensors",
        {
            "silent": f"SELECT sum(x) FROM ({_SILENT_X}) GROUP BY plant, area",
            "heard": f"SELECT count(x) FROM ({_HEARD}) GROUP BY plant, area",
        },
        "$silent > 0.2 * $heard && $silent > 1", "5m", "critical", "instruments", "sensor",
        "{{ .Labels.plant }}/{{ .Labels.area }}: "
        f"{_value('silent', _WHOLE)} sensors are silent",
        f"Of {_value('heard', _WHOLE)} that were heard in the last 30 days: look for one cause, "
        "a gateway, a switch or its power.",
        {"board_url": f"{_BOARD}sensor-health?var-plant={{{{ .Labels.plant }}}}"
                      "&var-area={{ .Labels.area }}"},
    ),
    Rule(
        "SensorFault", "sensors", {"fault": _unknown("reason !~ /silent/")}, "$fault == 1",
        "15m", "warning", "instruments", "sensor",
        f"{_WHERE} cannot be believed",
        "It clips, does not move, breaks off or lies in its mean: its page shows which. Nobody "
        "judges the machine meanwhile.",
        SENSOR_LINKS,
    ),
    Rule(
        "PipelineLag", "pipeline",
        {
            "lag": f"SELECT sum(x) FROM ({_workers('last(lag)', '1m')}) GROUP BY role",
            "rate": "SELECT sum(x) FROM "
                    f"({_workers('mean(messages_per_s)', '5m')}) GROUP BY role",
        },
        "$lag > 60 * $rate && $lag > 0", "5m", "critical", "platform", "pipeline",
        "{{ .Labels.role }}: more than a minute of messages waits",
        f"{_value('lag', _WHOLE)} messages wait, "
        f"{_value('rate', _TENTHS)} per second are done: alarms come late.",
        PIPELINE_LINKS, empty="OK",
    ),
    Rule(
        "LatencyP99", "pipeline",
        {
            # Older than a day: a recording that is being replayed, and no delay.
            "p99": "SELECT max(x) FROM "
                   f"({_workers('last(sample_to_score_s_p99)', '1m')}) "
                   "WHERE x < 86400 GROUP BY host, role",
        },
        "$p99 > 30", "10m", "warning", "platform", "pipeline",
        "{{ .Labels.host }}: a signal waits "
        f"{_value('p99', _WHOLE)} s for its score",
        "One window in a hundred waits longer than that.",
        PIPELINE_LINKS, empty="OK",
    ),
    Rule(
        "DroppedWindows", "pipeline",
        {"refused": _grown("dead_letters", "15m"), "messages": _grown("messages", "15m")},
        "$refused > 0.001 * $messages && $refused > 0", "10m",
        "warning", "platform", "pipeline",
        "{{ .Labels.role }}: more than 0.1 % of the messages are refused",
        f"{_value('refused', _WHOLE)} of "
        f"{_value('messages', _WHOLE)} in 15 minutes.",
        PIPELINE_LINKS, empty="OK",
    ),
    Rule(
        "DeadLetters", "pipeline", {"refused": _grown("dead_letters", "5m")}, "$refused > 0",
        "10m", "warning", "platform", "pipeline",
        "{{ .Labels.role }}: messages go on being refused",
        f"{_value('refused', _WHOLE)} in 5 minutes went to the dead letters.",
        PIPELINE_LINKS, empty="OK",
    ),
    Rule(
        "WorkerDown", "pipeline",
        {
            "reports": _either(
                _workers("last(messages) * 0", "1d"),
                _workers("count(messages)", "30s"),
                "max", "host, role",
            ),
        },
        "$reports == 0", "2m", "critical", "platform", "pipeline",
        "{{ if .Labels.host }}{{ .Labels.host }} ({{ .Labels.role }}){{ else }}No worker{{ end }} "
        "reports no more",
        "A worker reports every 10 s. Others take its partitions within a minute, if there are "
        "others.",
        PIPELINE_LINKS, empty="Alerting",
    ),
    Rule(
        "InfluxWriteFail", "pipeline",
        # One alert with that of the query that fails, so that the end of an outage is told as one.
        {"retries": _grown("sink_retries", "1m", ""), "refused": _grown("sink_refused", "5m", "")},
        "$retries > 0 || $refused > 0", "2m", "critical", "platform", "pipeline",
        "InfluxDB does not take what it is given, or does not answer",
        "In Kafka nothing is lost meanwhile, but boards stand still, and no other rule can fire.",
        PIPELINE_LINKS, empty="OK", error="Alerting",
    ),
    Rule(
        "ScoreNaN", "pipeline", {"lost": _grown("nan_scores", "10m", "host")}, "$lost > 0",
        "0s", "critical", "platform", "pipeline",
        "{{ .Labels.host }}: the model gives no score",
        f"For {_value('lost', _WHOLE)} windows in 10 minutes: their sensors are "
        "unknown, whatever the machines do.",
        PIPELINE_LINKS, empty="OK",
    ),
    Rule(
        "ModelMismatch", "pipeline",
        {
            "models": "SELECT count(m) FROM (SELECT distinct(m) AS m FROM "
                      "(SELECT last(model_id) AS m FROM pipeline WHERE topic = '' AND "
                      "role = 'signals' AND time > now() - 1m GROUP BY host))",
        },
        "$models > 1", "0s", "critical", "platform", "pipeline",
        "The workers score with different models",
        f"{_value('models', _WHOLE)} models: a baseline belongs to one.",
        PIPELINE_LINKS, empty="OK",
    ),
    Rule(
        "Watchdog", "watchdog", {}, "1 == 1", "0s", "none", "platform", "heartbeat",
        "Grafana judges its alert rules",
        "This always fires. Whoever receives it calls for help when it stays away.",
    ),
)  # fmt: skip
"""All of them, in the order of docs/runbooks.md."""
