"""Panels of one sensor of a machine, repeated for each that is chosen."""
# ruff: noqa: INP001  (scripts beside the JSON that they write, no package)

from typing import Final

from board_parts import ORANGE, RED, Json, ask, heat, lines, override
from board_queries import EVERY, IN_RANGE, select

OF_SENSOR: Final = "sensor = '${sensor:raw}'"
OCTAVES: Final = {
    "oct_31": "31.5", "oct_63": "63", "oct_125": "125", "oct_250": "250", "oct_500": "500",
    "oct_1k": "1000", "oct_2k": "2000", "oct_4k": "4000", "oct_8k": "8000", "oct_16k": "16000",
}  # fmt: skip
"""Field -> centre in Hz: rows named by numbers are put in their order."""


def score() -> Json:
    """Its score and the limit of it."""
    return lines(
        "Drift and its limit",
        "Departure from the baseline in healthy spreads; 0 is typical of health. The dashed limit "
        "is the score that the false-alarm budget allows a healthy window of this sensor.",
        [
            ask(
                select(
                    "max(score) AS drift, max(threshold) AS threshold",
                    "drift",
                    IN_RANGE,
                    OF_SENSOR,
                    by=EVERY,
                ),
                "$col",
            )
        ],
        custom={"lineWidth": 1, "fillOpacity": 12},
        overrides=[
            override(
                "threshold",
                displayName="limit",
                color={"mode": "fixed", "fixedColor": RED},
                custom__lineStyle={"fill": "dash", "dash": [8, 6]},
                custom__fillOpacity=0,
                custom__lineWidth=2,
            ),
            override("drift", color={"mode": "fixed", "fixedColor": ORANGE}),
        ],
        empty="No score: the baseline is being learnt",
    )


def bands() -> Json:
    """In which bands it departs."""
    return heat(
        "Where the drift lies",
        "Share of the drift in each band of 1.28 kHz. While the machine is healthy it wanders; "
        "during a fault it shows in which band to look.",
        [
            ask(
                select(
                    "mean(share) AS share", "drift_band", IN_RANGE, OF_SENSOR, by=f"{EVERY}, band"
                ),
                "$tag_band",
            )
        ],
        scale={"min": 0},
        unit="hertz",
        maxDataPoints=80,
        names_px=64,
        legend=False,
        empty="No score: the baseline is being learnt",
    )


def octaves() -> Json:
    """Its spectrum over time."""
    return heat(
        "Octave levels",
        "Level of each octave, dB re 1 unit of the sensor: a spectrum over time.",
        # One query each: an octave that this sensor does not reach gives no row at all.
        [
            ask(
                select(f"mean({name}) AS level", "vib_features", IN_RANGE, OF_SENSOR, by=EVERY),
                title,
                ref="ABCDEFGHIJ"[number],
            )
            for number, (name, title) in enumerate(OCTAVES.items())
        ],
        maxDataPoints=80,
        names_px=64,
        legend=False,
        unit="hertz",
        scale={"mode": "scheme", "scheme": "Viridis", "steps": 64},
    )
