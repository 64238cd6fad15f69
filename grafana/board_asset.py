"""The board of one machine: what changed, since when, in which band, and what people did."""
# ruff: noqa: INP001  (scripts beside the JSON that they write, no package)

from typing import Final

from board_asset_sensors import bands, octaves, score
from board_frame import (
    PER_HOUR,
    RAW,
    Row,
    board,
    constant,
    machine_annotations,
    tag_variable,
)
from board_parts import (
    LONG_TERM,
    RED,
    SHORT_SENSOR,
    STATE_WORDS,
    UNSCORED,
    YES_NO,
    ZONE_WORDS,
    Json,
    ask,
    by_worst,
    columns,
    heading,
    lines,
    override,
    panel,
    rows,
    stat_options,
    states_over_time,
    steps,
)
from board_queries import (
    EVERY,
    IN_RANGE,
    OF_ASSET,
    OF_ASSET_SENSORS,
    RECENT,
    STANDING,
    last,
    select,
)

POINT: Final = "$tag_point $tag_axis"
BY_POINT: Final = f"{EVERY}, sensor, point, axis"


def _state() -> Json:
    newest = select(last("state"), "sensor_health", RECENT, OF_ASSET, by="sensor")
    return panel(
        "stat",
        "State now",
        "Worst state of the sensors of this machine that can be believed.",
        [ask(select("max(state) AS state", newest))],
        options=stat_options(colour="background"),
        field={"mappings": STATE_WORDS},
    )


def _furthest() -> Json:
    newest = select(last("ratio"), "drift", RECENT, OF_ASSET, by="sensor")
    return panel(
        "stat",
        "Of its limit",
        "Evidence / limit of the worst sensor in the newest window: 100 % is the limit at which an "
        "alarm is due if it lasts.",
        [ask(select("max(ratio) AS ratio", newest))],
        options=stat_options(),
        field={"unit": "percentunit", "decimals": 0, "thresholds": steps((None, "text"), (1, RED))},
        empty="learning",
    )


def _case() -> Json:
    fields = last("open", "current", "acked", "opened_s", "top_band", "sentence")
    newest = select(fields, "cases", STANDING, OF_ASSET, by="asset")
    shown = {
        "current": "State",
        "opened": "Since",
        "top_band": "Band",
        "sentence": "What departs",
        "acked": "Ack",
    }
    return rows(
        "Open case",
        "What all sensors of this machine say together, in one sentence.",
        [
            ask(
                select(
                    "current, opened_s * 1000 AS opened, top_band, sentence, acked",
                    newest,
                    "open = true",
                ),
                table=True,
            )
        ],
        [columns(shown)],
        overrides=[
            override(
                "State",
                mappings=STATE_WORDS,
                custom__cellOptions={"type": "color-background", "mode": "basic"},
                custom__width=80,
                custom__align="left",
            ),
            override("Since", unit="dateTimeFromNow", custom__width=120, custom__align="left"),
            override("Band", custom__width=100),
            override("Ack", mappings=YES_NO, custom__width=55),
        ],
        empty="No open case",
    )


def _states() -> Json:
    return states_over_time(
        "Sensors over time",
        "State of each sensor. Grey: the machine stands; blue: it is being learnt; purple: the "
        "sensor cannot be believed or is silent.",
        [
            ask(
                select(
                    "max(state) AS state", "sensor_health", IN_RANGE, OF_ASSET_SENSORS, by=BY_POINT
                ),
                POINT,
            )
        ],
        maxDataPoints=400,
    )


def _ratio() -> Json:
    return lines(
        "How far from the alarm limit",
        "Evidence / limit of each sensor, by whatever detector is furthest: 100 % is the limit at "
        "which an alarm is due if it lasts. Comparable between sensors and machines.",
        [
            ask(
                select("max(ratio) AS ratio", "drift", IN_RANGE, OF_ASSET_SENSORS, by=BY_POINT),
                POINT,
            )
        ],
        unit="percentunit",
        custom={"lineWidth": 2, "thresholdsStyle": {"mode": "dashed"}},
        field={"thresholds": steps((None, "transparent"), (1, RED)), "min": 0},
        empty=UNSCORED,
    )


def _velocity() -> Json:
    return lines(
        "Velocity RMS, 10-1000 Hz",
        "What ISO 20816 and 10816 judge. Absent where the unit is unknown or a window is too "
        "short for it.",
        [
            ask(
                select(
                    "mean(velocity_mm_s) AS velocity",
                    "vib_features",
                    IN_RANGE,
                    OF_ASSET_SENSORS,
                    by=BY_POINT,
                ),
                POINT,
            )
        ],
        unit="suffix:mm/s",
        custom={"lineWidth": 2},
        field={"min": 0, "decimals": 1},
        empty="No velocity: unit unknown, or windows too short",
    )


def _zones() -> Json:
    newest = select(
        last("iso_zone"), "vib_features", IN_RANGE, OF_ASSET_SENSORS, by="sensor, point, axis"
    )
    return panel(
        "stat",
        "ISO zone now",
        "Zone of the velocity in the table that the fleet file names for this machine: A as new, "
        "B fit for service, C not for long, D damages it.",
        [ask(newest, POINT)],
        options=stat_options(colour="background") | {"textMode": "value_and_name"},
        field={"mappings": ZONE_WORDS, "thresholds": steps((None, "transparent"))},
        empty="no zone",
    )


def _shape() -> Json:
    return lines(
        "Kurtosis",
        "3 for noise; impacts of a damaged bearing or tooth raise it, heavy damage lowers it "
        "again.",
        [
            ask(
                select(
                    "max(kurtosis) AS kurtosis",
                    "vib_features",
                    IN_RANGE,
                    OF_ASSET_SENSORS,
                    by=BY_POINT,
                ),
                POINT,
            )
        ],
        field={"decimals": 1},
    )


def _level() -> Json:
    return lines(
        "Level against the baseline",
        "RMS of each window / RMS of the baseline: 1 is as it was learnt.",
        [
            ask(
                select(
                    "mean(level_ratio) AS level", "drift", IN_RANGE, OF_ASSET_SENSORS, by=BY_POINT
                ),
                POINT,
            )
        ],
        empty=UNSCORED,
    )


def _transitions() -> Json:
    shown = {
        "Time": "When",
        "sensor": "Sensor",
        "state": "State",
        "action": "Change",
        "reason": "By",
        "evidence": "Evidence",
        "threshold": "Limit",
        "author": "Who",
        "why": "Words",
    }
    return rows(
        "What the alarms did, newest first",
        "Each visible change of a sensor's alarm state: which detector decided, how far it was, "
        "and who acknowledged or shelved it.",
        [ask(select(", ".join(list(shown)[1:]), "alarm", IN_RANGE, OF_ASSET), table=True)],
        [columns(shown, keep_time=True), by_worst("When")],
        overrides=[
            override("When", custom__width=170),
            override("Sensor", mappings=SHORT_SENSOR, custom__width=190),
            override(
                "State",
                mappings=STATE_WORDS,
                custom__cellOptions={"type": "color-text"},
                custom__width=90,
                custom__align="left",
            ),
            override("Change", custom__width=100),
            override("By", custom__width=100),
            override("Evidence", decimals=2, custom__width=80),
            override("Limit", decimals=2, custom__width=70),
            override("Who", custom__width=80),
        ],
        empty="Nothing changed in this range",
    )


def _said() -> Json:
    shown = {"Time": "When", "type": "What", "text": "Words", "author": "Who"}
    return rows(
        "What people said and did",
        "Maintenance, acknowledgements, shelving, baselines learnt anew, models changed.",
        [ask(select("type, text, author", "event", IN_RANGE, OF_ASSET), table=True)],
        [columns(shown, keep_time=True), by_worst("When")],
        overrides=[
            override("When", custom__width=170),
            override("What", custom__width=110),
            override("Who", custom__width=80),
        ],
        empty="Nobody said anything in this range",
    )


def _long_term() -> list[Json]:
    by = f"{EVERY}, sensor, point, axis"
    return [
        lines(
            "Largest drift of each hour",
            "From the rollup of 1 hour, which is kept for 10 years: look at months.",
            [
                ask(
                    select("max(score_max) AS drift", "drift", IN_RANGE, OF_ASSET_SENSORS, by=by),
                    POINT,
                    of=LONG_TERM,
                )
            ],
        ),
        lines(
            "Velocity RMS, mean of each hour",
            "From the rollup of 1 hour, which is kept for 10 years: look at months.",
            [
                ask(
                    select(
                        "mean(velocity_mm_s_mean) AS velocity",
                        "vib_features",
                        IN_RANGE,
                        OF_ASSET_SENSORS,
                        by=by,
                    ),
                    POINT,
                    of=LONG_TERM,
                )
            ],
            unit="suffix:mm/s",
        ),
    ]


def asset(snapshots: str) -> Json:
    """The board.

    Args:
        snapshots: Address of `echowatch serve`, as the browser sees it.
    """
    drift, velocity = _long_term()
    layout: list[Row] = [
        (4, [(3, _state()), (3, _furthest()), (18, _case())]),
        (6, [(24, _states())]),
        (8, [(12, _ratio()), (9, _velocity()), (3, _zones())]),
        (6, [(12, _level()), (12, _shape())]),
        (1, [(24, heading("$sensor", repeat="sensor"))]),
        (8, [(8, score()), (8, bands()), (8, octaves())]),
        (1, [(24, heading("What happened"))]),
        (8, [(15, _transitions()), (9, _said())]),
        (1, [(24, heading("Months: values of each hour", collapsed=True))]),
        (8, [(12, drift), (12, velocity)]),
    ]
    link = {
        "type": "link", "title": "Waveform and spectrum, now and healthy", "icon": "external link",
        "url": "${snapshots}/case?asset=${asset}", "targetBlank": True, "includeVars": False,
        "keepTime": False, "asDropdown": False, "tags": [], "tooltip": "",
    }  # fmt: skip
    chain = [tag_variable(name) for name in ("plant", "area", "line")]
    return board(
        "asset",
        "One machine: is it real, what changed, in which band, since when, and what was done?",
        layout,
        [
            RAW,
            PER_HOUR,
            *chain,
            tag_variable("asset", one=True),
            tag_variable("sensor", within="asset"),
            constant("snapshots", snapshots),
        ],
        annotations=machine_annotations(),
        links=[link],
    )
