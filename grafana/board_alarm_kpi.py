"""The board for plant managers: is the alarm system itself in order?"""
# ruff: noqa: INP001  (scripts beside the JSON that they write, no package)

from typing import Final

import board_parts as parts
from board_fleet import ASSET_BOARD
from board_frame import Row, board, of_plant
from board_queries import ASSET_NOW, IN_RANGE, OPEN_CASES, SCOPE, STANDING, last, select

RAISED: Final = "(action = 'raise' OR action = 'escalate')"
# ISA-18.2-2016 clause 16 and EEMUA 191, per operator: target and most manageable.
PER_DAY, PER_DAY_MOST = 150, 300
PER_10_MIN = 10
FLOOD_SHARE, STALE = 0.01, 5
# A vibration programme has one reliability engineer per plant: our budget of new cases.
CASES_PER_WEEK = 5
DAY_MS = 86_400_000
WEEK_MS = 7 * DAY_MS


def _stat(
    title: str, about: str, what: str, source: str | tuple[str, ...], *where: str, **field: object
) -> parts.Json:  # fmt: skip
    empty = str(field.pop("empty", "0"))
    return parts.panel(
        "stat", title, about, [parts.ask(select(what, source, *where))],
        options=parts.stat_options(), field={"decimals": 0, **field}, empty=empty,
    )  # fmt: skip


def _per_day() -> parts.Json:
    # Not the mean of time(1d): a range of one day touches two, which would halve it.
    return _stat(
        "Raised per day",
        f"Warnings and alarms raised or escalated in this range, per day. ISA-18.2: {PER_DAY} per "
        f"operator and day are the target, {PER_DAY_MOST} the most that can be managed.",
        f"count(state) * {DAY_MS} / (${{__to}} - ${{__from}}) AS raised",
        "alarm", IN_RANGE, SCOPE, RAISED,
        thresholds=parts.steps((None, "text"), (PER_DAY, parts.ORANGE), (PER_DAY_MOST, parts.RED)),
        decimals=1,
    )  # fmt: skip


def _cases_per_week() -> parts.Json:
    # What a late transition merged into another case was never closed, and is none.
    closed = select("case_id, opened_s", "cases", IN_RANGE, SCOPE, "open = false")
    standing = select("case_id, opened_s", OPEN_CASES, "open = true")
    return _stat(
        "Cases / week",
        f"Cases opened in this range, per week. Our budget is {CASES_PER_WEEK} per engineer and "
        "week for every 100 machines.",
        f"count(distinct(case_id)) * {WEEK_MS} / (${{__to}} - ${{__from}}) AS cases",
        (closed, standing), "opened_s * 1000 >= ${__from}",
        decimals=1,
    )  # fmt: skip


def _flood() -> parts.Json:
    spans = select("count(state) AS raised", "alarm", IN_RANGE, SCOPE, RAISED, by="time(10m)",
                   fill="0")  # fmt: skip
    # 1 where more than 10 were raised, else 0: x / (|x| + 1) lies between -1 and 1.
    over = f"(raised - {PER_10_MIN})"
    flood = select(f"ceil({over} / (abs{over} + 1)) AS flood", spans)
    return _stat(
        "Time in flood",
        f"Share of the 10-minute periods with more than {PER_10_MIN} raised. Target of ISA-18.2: "
        "below 1 %.",
        "mean(flood) AS flood",
        flood,
        unit="percentunit",
        decimals=2,
        thresholds=parts.steps((None, "text"), (FLOOD_SHARE, parts.RED)),
        empty="0 %",
    )


def _stale() -> parts.Json:
    return _stat(
        "Stale",
        "Machines whose case has been open for more than a day and that nobody shelved. Target of "
        f"ISA-18.2: fewer than {STALE}.",
        "count(current) AS stale",
        OPEN_CASES,
        "open = true AND shelved = false AND opened_s * 1000 < ${__to} - 86400000",
        thresholds=parts.steps((None, "text"), (STALE, parts.ORANGE)),
    )


def _unacknowledged() -> parts.Json:
    return _stat(
        "Unacked",
        "Open cases that nobody has acknowledged.",
        "count(current) AS cases",
        OPEN_CASES,
        "open = true AND acked = false",
    )


SHELVED: Final = select(
    last("shelved_until_ns", "author", "why", "state"), "alarm", STANDING, SCOPE, by="asset, sensor"
)


def _shelved_count() -> parts.Json:
    return _stat(
        "Shelved",
        "Sensors whose alarms are shelved now.",
        "count(state) AS shelved",
        SHELVED,
        "shelved_until_ns > ${__to}000000",
    )


def _machines() -> parts.Json:
    return _stat(
        "Machines",
        "Machines that have sent anything in the 30 days before the end of this range.",
        "count(worst) AS machines",
        ASSET_NOW,
        empty="none",
    )


def _top_share() -> parts.Json:
    each = select("count(state) AS raised", "alarm", IN_RANGE, SCOPE, RAISED, by="asset")
    return _stat(
        "Top machine",
        "The most that one machine raised in this range: a bad actor drowns the others.",
        "max(raised) AS raised",
        each,
    )


def _by_day() -> parts.Json:
    targets = [
        parts.ask(
            select(
                "count(state) AS raised", "alarm", IN_RANGE, SCOPE, RAISED, f"state = {code}",
                by="time(1d)", fill="0",
            ),
            word,
            ref="ABC"[number],
        )
        for number, (code, word, _) in enumerate(parts.STATES[:3])
    ]  # fmt: skip
    return parts.lines(
        "Raised per day, by severity",
        "Raised or escalated to this severity. EEMUA 191 wants about 5 % high, 15 % middle, 80 % "
        "low.",
        targets,
        custom={
            "drawStyle": "bars", "fillOpacity": 90, "lineWidth": 0,
            "stacking": {"mode": "normal", "group": "A"},
        },
        field={"decimals": 0, "min": 0},
        overrides=[
            parts.override(word, color={"mode": "fixed", "fixedColor": colour})
            for _, word, colour in parts.STATES[:3]
        ],
        empty="Nothing was raised in this range",
    )  # fmt: skip


def _rate() -> parts.Json:
    return parts.lines(
        "Raised per 10 minutes",
        f"More than {PER_10_MIN} are a flood: nobody can judge them one by one.",
        [
            parts.ask(
                select(
                    "count(state) AS raised", "alarm", IN_RANGE, SCOPE, RAISED, by="time(10m)",
                    fill="0",
                ),
                "raised",
            )
        ],
        legend="hidden",
        custom={
            "drawStyle": "bars", "fillOpacity": 80, "lineWidth": 0,
            "thresholdsStyle": {"mode": "dashed"},
        },
        field={
            "decimals": 0, "min": 0, "color": {"mode": "fixed", "fixedColor": parts.QUIET},
            "thresholds": parts.steps((None, "text"), (PER_10_MIN, parts.RED)),
        },
        empty="Nothing was raised in this range",
    )  # fmt: skip


def _bad_actors() -> parts.Json:
    each = select("count(state) AS raised", "alarm", IN_RANGE, SCOPE, RAISED, by="area, asset")
    shown = {"asset": "Machine", "raised": "Raised"}
    return parts.rows(
        "Bad actors, top 20",
        "Machines that raised most in this range. Repair them, or correct what they are compared "
        "with.",
        [parts.ask(select("raised, asset", each), table=True)],
        [
            parts.columns(shown), parts.by_worst("Raised"),
            {"id": "limit", "options": {"limitField": 20}},
        ],
        overrides=[
            parts.override(
                "Machine",
                mappings=parts.SHORT_ASSET,
                links=[parts.link("Board of this machine", ASSET_BOARD + "${__value.raw}")],
                custom__width=200,
            ),
            parts.override(
                "Raised", decimals=0, custom__cellOptions={"type": "gauge", "mode": "basic"},
                color={"mode": "fixed", "fixedColor": parts.ORANGE}, min=0,
            ),
        ],
        empty="Nothing was raised in this range",
    )  # fmt: skip


def _chattering() -> parts.Json:
    days = select("count(state) AS raised", "alarm", IN_RANGE, SCOPE, "action = 'raise'",
                  by="time(1d), asset, sensor")  # fmt: skip
    most = select("max(raised) AS most", days, by="asset, sensor")
    shown = {"sensor": "Sensor", "most": "On its worst day"}
    return parts.rows(
        "Chattering",
        "Sensors that raised at least 3 times within one day: their limit, their delay or their "
        "baseline is wrong. The target is none.",
        [parts.ask(select("most, sensor", most, "most >= 3"), table=True)],
        [parts.columns(shown), parts.by_worst("On its worst day")],
        overrides=[
            parts.override("Sensor", mappings=parts.SHORT_SENSOR),
            parts.override("On its worst day", decimals=0, custom__width=140),
        ],
        empty="None chatters",
    )


def _standing() -> parts.Json:
    shown = {
        "current": "State", "asset": "Machine", "opened": "Since", "acked": "Ack",
        "shelved": "Shelved", "sentence": "What departs",
    }  # fmt: skip
    return parts.rows(
        "Standing longest",
        "Open cases, the oldest first: what stands for weeks is either forgotten or no alarm.",
        [
            parts.ask(
                select(
                    "current, asset, opened_s * 1000 AS opened, acked, shelved, sentence",
                    OPEN_CASES,
                    "open = true",
                ),
                table=True,
            )
        ],
        [parts.columns(shown), parts.by_worst("Since", down=False)],
        overrides=[
            parts.override(
                "State", mappings=parts.STATE_WORDS, custom__width=90, custom__align="left",
                custom__cellOptions={"type": "color-background", "mode": "basic"},
            ),
            parts.override(
                "Machine",
                mappings=parts.SHORT_ASSET,
                links=[parts.link("Board of this machine", ASSET_BOARD + "${__value.raw}")],
                custom__width=190,
            ),
            parts.override(
                "Since", unit="dateTimeFromNow", custom__width=120, custom__align="left"
            ),
            parts.override("Ack", mappings=parts.YES_NO, custom__width=60),
            parts.override("Shelved", mappings=parts.YES_NO, custom__width=80),
        ],
        empty="No open case",
    )  # fmt: skip


def _shelved() -> parts.Json:
    shown = {"sensor": "Sensor", "until": "Until", "author": "By", "why": "Why"}
    return parts.rows(
        "Shelved now",
        "Nobody is notified of these until then; a shelving ends by itself after a week at most.",
        [
            parts.ask(
                select(
                    "sensor, shelved_until_ns / 1000000 AS until, author, why",
                    SHELVED,
                    "shelved_until_ns > ${__to}000000",
                ),
                table=True,
            )
        ],
        [parts.columns(shown), parts.by_worst("Until", down=False)],
        overrides=[
            parts.override("Sensor", mappings=parts.SHORT_SENSOR, custom__width=190),
            parts.override("Until", unit="dateTimeAsIso", custom__width=160, custom__align="left"),
            parts.override("By", custom__width=80),
        ],
        empty="Nothing is shelved",
    )


def alarm_kpi(snapshots: str) -> parts.Json:
    """The board.

    Args:
        snapshots: Address of `echowatch serve`, as the browser sees it.
    """
    layout: list[Row] = [
        (
            4,
            [
                (3, _per_day()),
                (3, _cases_per_week()),
                (3, _flood()),
                (3, _top_share()),
                (3, _stale()),
                (3, _unacknowledged()),
                (3, _shelved_count()),
                (3, _machines()),
            ],
        ),
        (8, [(12, _by_day()), (12, _rate())]),
        (9, [(9, _bad_actors()), (7, _chattering()), (8, _shelved())]),
        (8, [(24, _standing())]),
    ]
    return board(
        "alarm_kpi",
        "Is the alarm system in order: load, floods, chatter, what stands and what is shelved? "
        "For plant managers; ISA-18.2 wants at least 30 days of data for a verdict.",
        layout,
        of_plant(snapshots),
        since="now-7d",
        refresh="5m",
    )
