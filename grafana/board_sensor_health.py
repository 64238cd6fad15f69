"""The board of the instrument people: which sensor lies or is silent; no machine alarm is here."""
# ruff: noqa: INP001  (scripts beside the JSON that they write, no package)

from typing import Final

import board_parts as parts
from board_frame import Row, board, of_plant
from board_queries import BEFORE, EVERY, IN_RANGE, OF_SENSORS, RECENT, last, select

TEAL: Final = "#2B6A73"
BELIEF: Final = parts.words(((0, "cannot be believed", parts.PURPLE), (1, "believable", TEAL)))
SENSOR_PICTURE: Final = "${snapshots}/sensor?id="

NEWEST: Final = select(
    last("ok", "faults", "detail"), "sensor_health", RECENT, OF_SENSORS, by="asset, sensor"
)

# A silence is one point where it begins: what was known last holds on until the next one, and what
# was known before the range until the first one in it.
_KNOWN: Final = select("last(ok) AS good", "sensor_health", IN_RANGE, OF_SENSORS,
                       by=f"{EVERY}, asset, sensor", fill="previous")  # fmt: skip
_WAS: Final = select(last("ok"), "sensor_health", BEFORE, OF_SENSORS, by="asset, sensor")
# Counted, for of several sources InfluxDB sums just what the first one has, too.
_STEPS: Final = select(
    "sum(good) AS good, count(good) AS steps, count(was) AS was, count(bad) AS bad",
    (_KNOWN, select("ok AS was", _WAS), select("ok AS bad", _WAS, "ok = 0")),
    by="asset, sensor", fill="0",
)  # fmt: skip
_AHEAD: Final = "((${__to} - ${__from}) / $__interval_ms - steps)"
# By sensor to the outside: InfluxDB sums wrongly what was filled in a query within a query that
# does not group by it, too. What was well and is not heard at all is not known to be so.
AVAILABLE: Final = select(
    f"(good + (was - bad) * {_AHEAD}) / (steps + was * {_AHEAD}) AS availability",
    _STEPS, "(steps > 0 OR bad > 0)", by="asset, sensor",
)  # fmt: skip
# In each step the newest window counts.
STEPS: Final = 300
TO_ROWS: Final[parts.Json] = {
    "id": "reduce", "options": {"mode": "seriesToRows", "reducers": ["lastNotNull"]}
}  # fmt: skip


def _link_to_picture() -> parts.Json:
    return parts.link(
        "Newest signal of this sensor", SENSOR_PICTURE + "${__value.raw}", new_tab=True
    )


def _availability() -> parts.Json:
    return parts.panel(
        "stat",
        "Availability",
        "Share of the time of this range in which a sensor could be believed, neither faulty nor "
        "silent; mean of all sensors. A new one counts from its first window on.",
        [parts.ask(AVAILABLE, "$tag_sensor")],
        options=parts.stat_options()
        | {"reduceOptions": {"calcs": ["mean"], "fields": "", "values": False}},
        field={"unit": "percentunit", "decimals": 1},
        transform=[TO_ROWS],
        maxDataPoints=STEPS,
    )


def _available() -> parts.Json:
    shown = {"Field": "Sensor", "Last *": "Available"}
    return parts.panel(
        "table",
        "Available, worst first",
        "Share of the time of this range in which each sensor could be believed: neither faulty "
        "nor silent.",
        [parts.ask(AVAILABLE, "$tag_sensor")],
        options={"showHeader": True, "cellHeight": "sm", "footer": {"show": False}},
        overrides=[
            parts.override("Sensor", mappings=parts.SHORT_SENSOR, links=[_link_to_picture()]),
            parts.override(
                "Available", unit="percentunit", min=0, max=1, decimals=1, custom__width=130,
                custom__cellOptions={"type": "gauge", "mode": "basic"},
                color={"mode": "fixed", "fixedColor": TEAL},
            ),
        ],
        transform=[TO_ROWS, parts.columns(shown), parts.by_worst("Available", down=False)],
        maxDataPoints=STEPS,
    )  # fmt: skip


def _now(title: str, about: str, condition: str, colour: str = parts.PURPLE) -> parts.Json:
    newest = select(last("ok", "faults"), "sensor_health", RECENT, OF_SENSORS, by="sensor")
    return parts.count_stat(title, about, select("count(ok) AS sensors", newest, condition), colour)


def _disorders() -> parts.Json:
    return parts.panel(
        "stat",
        "Stream disorders",
        "Gaps, duplicates, late or overlapping data, clock steps and changes of rate or format in "
        "this range.",
        [parts.ask(select("count(detail) AS disorders", "stream_event", IN_RANGE, OF_SENSORS))],
        options=parts.stat_options(),
        field={"decimals": 0},
        empty="none",
    )


def _lost() -> parts.Json:
    return parts.panel(
        "stat",
        "Signal lost",
        "Time that is missing in front of windows, all sensors together.",
        [parts.ask(select("sum(gap_s) AS lost", "sensor_health", IN_RANGE, OF_SENSORS))],
        options=parts.stat_options(),
        field={"unit": "s", "decimals": 0},
    )


def _broken() -> parts.Json:
    shown = {"sensor": "Sensor", "faults": "Fault", "detail": "In words"}
    return parts.rows(
        "Cannot be believed now",
        "Sensors whose newest window shows a fault, or which are silent. Their machines show "
        "unknown, never ok and never an alarm.",
        [parts.ask(select("sensor, faults, detail", NEWEST, "ok = 0"), table=True)],
        [parts.columns(shown), parts.by_worst("Fault", down=False)],
        overrides=[
            parts.override(
                "Sensor", mappings=parts.SHORT_SENSOR, links=[_link_to_picture()], custom__width=230
            ),
            parts.override("Fault", custom__width=130, custom__cellOptions={"type": "color-text"},
                     color={"mode": "fixed", "fixedColor": "#CA95E5"}),
        ],
        empty="Every sensor is believable",
    )  # fmt: skip


def _silent() -> parts.Json:
    heard = select("last(bias) AS bias", "sensor_health", RECENT, OF_SENSORS, "faults !~ /silent/",
                   by="sensor")  # fmt: skip
    shown = {"sensor": "Sensor", "Time": "Last window"}
    return parts.rows(
        "Last heard, longest ago first",
        "When the newest window of each sensor ended. Silent sensors lead.",
        [parts.ask(select("sensor, bias", heard), table=True)],
        [
            parts.columns(shown, keep_time=True, drop=("bias",)),
            parts.by_worst("Last window", down=False),
        ],
        overrides=[
            parts.override(
                "Sensor", mappings=parts.SHORT_SENSOR, links=[_link_to_picture()], custom__width=230
            ),
            parts.override("Last window", unit="dateTimeFromNow", custom__align="left"),
        ],
    )


def _worst() -> parts.Json:
    measured = select(
        "mean(ok) AS believable, count(ok) AS windows, sum(gap_s) AS lost, mean(clip) AS clip, "
        "mean(flat) AS flat, spread(bias) AS bias, mean(running) AS running",
        "sensor_health", IN_RANGE, OF_SENSORS, by="asset, sensor",
    )  # fmt: skip
    shown = {
        "sensor": "Sensor",
        "believable": "Believable",
        "windows": "Windows",
        "lost": "Lost",
        "clip": "Clipped",
        "flat": "Flat",
        "bias": "Bias moved",
        "running": "Ran",
    }
    return parts.rows(
        "Windows of this range, worst first",
        "Believable: share of the sensor's windows that could be believed; a silent one has none. "
        "Lost: time missing in front of windows. Clipped, flat: share of all samples at the limits "
        "of the sensor, or that do not move. Bias moved: largest less smallest mean of a window, "
        "in the sensor's unit. Ran: share of its windows in which the machine ran.",
        [parts.ask(select(", ".join(shown), measured), table=True)],
        [parts.columns(shown), parts.by_worst("Believable", down=False)],
        overrides=[
            parts.override(
                "Sensor", mappings=parts.SHORT_SENSOR, links=[_link_to_picture()], custom__width=190
            ),
            parts.override("Believable", unit="percentunit", decimals=1, custom__width=95),
            parts.override("Windows", decimals=0, custom__width=85),
            parts.override("Lost", unit="s", decimals=0, custom__width=75),
            parts.override("Clipped", unit="percentunit", decimals=1, custom__width=80),
            parts.override("Flat", unit="percentunit", decimals=1, custom__width=70),
            parts.override("Bias moved", unit="short", decimals=3, custom__width=105),
            parts.override("Ran", unit="percentunit", decimals=0),
        ],
    )  # fmt: skip


def _over_the_time() -> parts.Json:
    return parts.states_over_time(
        "When which sensor could be believed",
        "Purple from the moment that a sensor shows a fault or counts as silent, until its next "
        "good window. Choose an area or a machine where there are too many rows.",
        [
            parts.ask(
                select("min(ok) AS ok", "sensor_health", IN_RANGE, OF_SENSORS,
                       by=f"{EVERY}, sensor"),
                "$tag_sensor",
            )
        ],
        BELIEF,
        transform=[parts.short_names(parts.LAST_THREE)],
        maxDataPoints=240,
    )  # fmt: skip


def _over_time(title: str, about: str, field: str, what: str, unit: str, **more: str) -> parts.Json:
    condition = more.get("condition", "")
    where = [IN_RANGE, OF_SENSORS, *([condition] if condition else [])]
    return parts.lines(
        title,
        about,
        [
            parts.ask(
                select(f"{what}({field}) AS {field}", "sensor_health", *where,
                       by=f"{EVERY}, sensor"),
                "$tag_sensor",
            )
        ],
        unit=unit,
        legend="hidden",
        custom={"lineWidth": 2, "showPoints": more.get("points", "never"), "pointSize": 4},
        transform=[parts.short_names(parts.LAST_THREE)],
        maxDataPoints=300,
        empty=more.get("empty", ""),
    )  # fmt: skip


def _kinds() -> parts.Json:
    return parts.lines(
        "Stream disorders by kind",
        "Gaps, duplicates, late or overlapping data, clock steps, changes of rate or format.",
        [
            parts.ask(
                select(
                    "count(detail) AS times", "stream_event", IN_RANGE, OF_SENSORS,
                    by=f"{EVERY}, kind",
                ),
                "$tag_kind",
            )
        ],
        custom={
            "drawStyle": "bars", "fillOpacity": 80, "lineWidth": 0,
            "stacking": {"mode": "normal", "group": "A"},
        },
        field={"decimals": 0, "min": 0},
        maxDataPoints=96,
        empty="No disorder in this range",
    )  # fmt: skip


def _newest_disorders() -> parts.Json:
    shown = {
        "Time": "When", "sensor": "Sensor", "kind": "Kind", "amount_s": "By", "detail": "In words"
    }  # fmt: skip
    return parts.rows(
        "Disorders, newest first",
        "A clock step counts back where it is negative.",
        [
            parts.ask(
                select("sensor, kind, amount_s, detail", "stream_event", IN_RANGE, OF_SENSORS)
                + " ORDER BY time DESC LIMIT 200",
                table=True,
            )
        ],
        [parts.columns(shown, keep_time=True)],
        overrides=[
            parts.override("When", custom__width=170),
            parts.override("Sensor", mappings=parts.SHORT_SENSOR, custom__width=190),
            parts.override("Kind", custom__width=100),
            parts.override("By", unit="s", custom__width=80),
        ],
        empty="No disorder in this range",
    )


def _numbers() -> list[tuple[int, parts.Json]]:
    return [
        (4, _now("Not believable now", "Sensors whose newest window shows a fault, or "
                 "which are silent.", "ok = 0")),
        (4, _now("Silent now", "Sensors that send nothing any more.",
                 "faults =~ /silent/")),
        (4, _now("Sensors", "All that have sent anything in the 30 days before the end "
                 "of this range.", "ok >= 0", "transparent")),
        (4, _availability()),
        (4, _lost()),
        (4, _disorders()),
    ]  # fmt: skip


def sensor_health(snapshots: str) -> parts.Json:
    """The board.

    Args:
        snapshots: Address of `echowatch serve`, as the browser sees it.
    """
    layout: list[Row] = [
        (3, _numbers()),
        (8, [(15, _broken()), (9, _silent())]),
        (10, [(7, _available()), (11, _worst()), (6, [
            (5, _over_time("Clipped", "Share of the samples of a window at the limits of the "
                           "sensor; only where there are any.", "clip", "max", "percentunit",
                           condition="clip > 0", points="always", empty="No sample was clipped")),
            (5, _over_time("Flat", "Share of the samples that do not move; only where there are "
                           "any.", "flat", "max", "percentunit", condition="flat > 0",
                           points="always", empty="No sample was flat")),
        ])]),
        (8, [(8, _over_time("Bias", "Mean of the windows in the sensor's unit: a sensor that "
                            "drifts or loses its supply leaves the others.", "bias", "mean",
                            "short")),
             (7, _kinds()), (9, _newest_disorders())]),
        (26, [(24, _over_the_time())]),
    ]  # fmt: skip
    return board(
        "sensor_health",
        "Which sensor lies or is silent? For the instrument team; machine alarms are elsewhere.",
        layout,
        of_plant(snapshots, sensors=True),
    )
