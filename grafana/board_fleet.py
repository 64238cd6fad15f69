"""The board for the start of a shift: which machine is sick, and since when."""
# ruff: noqa: INP001  (scripts beside the JSON that they write, no package)

from typing import Final

import board_parts as parts
from board_frame import Row, board, choice, of_plant
from board_queries import (
    ASSET_NOW,
    EVERY,
    IN_RANGE,
    LAST_DAY,
    LEARNING,
    OPEN_CASES,
    RECENT,
    SCOPE,
    last,
    select,
)  # fmt: skip

ASSET_BOARD: Final = (
    "/d/echowatch-asset?${__url_time_range}&var-datasource=${datasource}&var-asset="
)

ABOUT_STATE: Final = {
    "alarm": "far beyond the baseline; stays until a person acknowledges it.",
    "alert": "clearly beyond it.",
    "advisory": "beyond the limit that a healthy machine crosses once in 10,000 windows.",
    "ok": "as it was when it was learnt.",
    "learning": "no baseline yet, so that drift is not watched so far.",
    "stopped": "stands still.",
    "unknown": "no sensor can be believed, or all are silent: neither good nor bad.",
}


def _counts() -> parts.Json:
    # Codes lie at most 6 apart, so that this is 1 for one state and 0 for every other: a state
    # that no machine is in gives 0 and keeps its place, where a WHERE would give nothing.
    targets = [
        parts.ask(
            select(
                "sum(hit) AS machines",
                select(f"1 - ceil(abs(worst - {code}) / 9) AS hit", ASSET_NOW),
            ).replace("- -", "+ "),
            word.capitalize(),
            ref="ABCDEFG"[number],
        )
        for number, (code, word, _) in enumerate(parts.STATES)
    ]
    return parts.panel(
        "stat",
        "Machines by state",
        "How many machines are in which state now, each by its worst sensor that can be believed. "
        + " ".join(f"{word.capitalize()}: {about}" for word, about in ABOUT_STATE.items()),
        targets,
        options=parts.stat_options(colour="background") | {"textMode": "value_and_name"},
        field={"decimals": 0},
        overrides=[
            parts.override(
                word.capitalize(), thresholds=parts.steps((None, "transparent"), (1, colour))
            )
            for _, word, colour in parts.STATES
        ],
    )


def _silent() -> parts.Json:
    newest = select(last("faults"), "sensor_health", RECENT, SCOPE, by="sensor")
    return parts.count_stat(
        "Silent",
        "Sensors that send nothing any more. Their machine is not watched by them: see the board "
        "Sensor health.",
        select("count(faults) AS sensors", newest, "faults =~ /silent/"),
        parts.PURPLE,
    )


def _load() -> parts.Json:
    return parts.panel(
        "stat",
        "Raised, 24 h",
        "Alarms and warnings that a sensor raised or escalated in the last 24 hours of the range. "
        "ISA-18.2: about 150 per operator and day are manageable, 300 the most.",
        [
            parts.ask(
                select(
                    "count(state) AS raised", "alarm", LAST_DAY, SCOPE,
                    "(action = 'raise' OR action = 'escalate')",
                )
            )
        ],
        options=parts.stat_options(),
        field={
            "thresholds": parts.steps((None, "text"), (150, parts.ORANGE), (300, parts.RED)),
            "decimals": 0,
        },
        empty="none",
    )  # fmt: skip


def _newest() -> parts.Json:
    return parts.panel(
        "stat",
        "Newest data",
        "When the newest window of any sensor ended. If this is long ago, everything else on this "
        "board is old: see the board Pipeline.",
        [parts.ask(select("last(ok) AS ok", "sensor_health", RECENT, SCOPE), table=True)],
        options=parts.stat_options()
        | {"reduceOptions": {"calcs": ["max"], "fields": "/^[Tt]ime$/", "values": False}},
        field={"unit": "dateTimeFromNow"},
    )


def _machines() -> parts.Json:
    return parts.panel(
        "stat",
        "Machines now, worst first",
        "Each machine in the colour of its worst sensor that can be believed, by the last part of "
        "its name. Click one for its board.",
        [parts.ask(select("worst, asset, asset AS machine", ASSET_NOW), table=True)],
        # Without sizes of ours words shrink with their tile, so that a phone cuts none off.
        options=parts.stat_options(colour="background", every=True)
        | {"textMode": "value_and_name"},
        field={
            "mappings": parts.STATE_WORDS,
            "links": [parts.link("Board of this machine", ASSET_BOARD + "${__data.fields.asset}")],
        },
        overrides=[
            # What a link takes from another column is its text: `asset` stays whole.
            parts.override("machine", mappings=parts.SHORTEST_ASSET),
            parts.override("worst", displayName="${__data.fields.machine.text}"),
        ],
        transform=[
            parts.BARE,
            parts.columns({name: name for name in ("worst", "machine", "asset")}),
            parts.by_worst("worst"),
        ],
    )


def _cases() -> parts.Json:
    shown = {
        "current": "State",
        "machine": "Machine",
        "opened": "Since",
        "top_band": "Band",
        "sentence": "What departs",
        "sensors": "Sensors",
        "acked": "Ack",
        "shelved": "Shelved",
        "asset": "Picture",
    }
    return parts.rows(
        "Open cases, worst first",
        "One case per machine: everything that its sensors say, in one sentence. The picture shows "
        "waveform and spectrum, now and healthy.",
        [
            parts.ask(
                select(
                    "current, asset, asset AS machine, opened_s * 1000 AS opened, top_band, "
                    "sentence, sensors, acked, shelved",
                    OPEN_CASES,
                    "open = true",
                ),
                table=True,
            )
        ],
        [parts.columns(shown), parts.by_worst("Since"), parts.by_worst("State")],
        overrides=_case_columns(),
        empty="No open case",
    )


def _case_columns() -> list[parts.Json]:
    return [
        parts.override(
            "State",
            mappings=parts.STATE_WORDS,
            custom__cellOptions={"type": "color-background", "mode": "basic"},
            custom__width=90,
            custom__align="left",
        ),
        parts.override(
            "Machine",
            mappings=parts.SHORT_ASSET,
            links=[parts.link("Board of this machine", ASSET_BOARD + "${__value.raw}")],
            custom__width=190,
        ),
        parts.override("Since", unit="dateTimeFromNow", custom__width=130, custom__align="left"),
        parts.override("Band", custom__width=110),
        parts.override("Sensors", custom__width=75, decimals=0),
        parts.override("Ack", mappings=parts.YES_NO, custom__width=60),
        parts.override("Shelved", mappings=parts.YES_NO, custom__width=80),
        parts.override(
            "Picture",
            mappings=[
                {
                    "type": "regex",
                    "options": {"pattern": ".+", "result": {"text": "open", "index": 0}},
                }
            ],
            links=[
                parts.link(
                    "Waveform and spectrum, now and healthy",
                    "${snapshots}/case?asset=${__value.raw}",
                    new_tab=True,
                )
            ],
            custom__width=75,
        ),
    ]


# The worst of several sensors is that of all only where each has sent within a step: in shorter
# ones a machine in alarm looks as if it went to ok and back with every sensor that is ok.
STEP: Final = choice(
    "step",
    "Step",
    "Shortest step over time. Take one in which every sensor sends.",
    ("1m", "5m", "15m", "1h", "6h"),
    "5m",
)


def _timeline() -> parts.Json:
    return parts.states_over_time(
        "Machines over time",
        "The worst state of the sensors of each machine. Grey stands still, blue learns, purple "
        "cannot be believed.",
        [
            parts.ask(
                select(
                    "max(state) AS state", "sensor_health", IN_RANGE, SCOPE, by=f"{EVERY}, asset"
                ),
                "$tag_asset",
            )
        ],
        transform=[parts.short_names(parts.LAST_TWO)],
        maxDataPoints=240,
        interval="${step}",
    )


def _drift() -> parts.Json:
    by = f"{EVERY}, asset"
    scored = select("max(ratio) AS ratio", "drift", IN_RANGE, SCOPE, by=by)
    # A machine that learns has a row of its own, though nothing to show in it.
    learns = select("0 * max(learning_pct) AS ratio", "drift", IN_RANGE, SCOPE, LEARNING, by=by)
    return parts.heat(
        "How far from the alarm limit",
        "Evidence / limit of the worst sensor of each machine: 1 is the limit at which an alarm is "
        "due if it lasts. Empty where a machine stands or learns.",
        [
            parts.ask(
                select("max(ratio) AS ratio", (scored, learns), IN_RANGE, by=by),
                "$tag_asset",
            )
        ],
        transform=[parts.short_names(parts.LAST_TWO)],
        maxDataPoints=96,
        interval="${step}",
        downwards=True,
        scale={"min": 0, "max": 1.5},
    )


def fleet(snapshots: str) -> parts.Json:
    """The board.

    Args:
        snapshots: Address of `echowatch serve`, as the browser sees it.
    """
    # On a phone everything stands in this order: numbers, cases, machines.
    layout: list[Row] = [
        (3, [(15, _counts()), (3, _silent()), (3, _load()), (3, _newest())]),
        (8, [(24, _cases())]),
        (8, [(24, _machines())]),
        (15, [(12, _timeline()), (12, _drift())]),
    ]
    return board(
        "fleet",
        "Start of the shift: which machine is sick, since when, and can it wait?",
        layout,
        of_plant(snapshots, STEP),
    )
