"""The board of those who run the platform: do data flow, and fast enough?"""
# ruff: noqa: INP001  (scripts beside the JSON that they write, no package)

from typing import Final

from board_frame import RAW, Row, board
from board_parts import (
    ORANGE,
    Json,
    ask,
    by_worst,
    columns,
    lines,
    override,
    panel,
    rows,
    stat_options,
    steps,
)
from board_queries import EVERY, IN_RANGE, last, select

# Points of partitions have a topic, points of workers none.
OF_WORKERS: Final = "topic = ''"
WORKER: Final = "$tag_host $tag_role"
BY_WORKER: Final = f"{EVERY}, host, role"
NEWEST: Final = "time <= ${__to}ms AND time > ${__to}ms - 10m"


def _now(title: str, about: str, what: str, source: str, empty: str, **field: object) -> Json:
    return panel(
        "stat", title, about, [ask(select(what, source))],
        options=stat_options(), field=field, empty=empty,
    )  # fmt: skip


def _workers_now(*fields: str) -> str:
    return select(last(*fields), "pipeline", NEWEST, OF_WORKERS, by="host, role")


def _stats() -> list[tuple[int, Json]]:
    warn = steps((None, "text"), (1, ORANGE))
    told = select(
        "spread(dead_letters) AS refused, spread(sink_refused) AS lost, "
        "spread(nan_scores) AS nans",
        "pipeline", IN_RANGE, OF_WORKERS, by="host, role",
    )  # fmt: skip
    return [
        (3, _now("Workers", "Workers that told anything in the last 10 minutes; each may have "
                 "several roles.", "count(messages) AS workers",
                 select(last("messages"), "pipeline", NEWEST, OF_WORKERS, by="host"),
                 empty="none", decimals=0)),
        (3, _now("Windows/s", "Judged by all workers together.",
                 "sum(windows_per_s) AS windows", _workers_now("windows_per_s"),
                 empty="none", decimals=1)),
        (3, _now("Lag", "Messages that are not acknowledged yet, all partitions together.",
                 "sum(lag) AS lag", _workers_now("lag"), empty="unknown", decimals=0)),
        (3, _now("Behind by", "Clock less the newest event time, slowest worker.",
                 "max(event_time_lag_s) AS behind", _workers_now("event_time_lag_s"),
                 empty="unknown", unit="s", decimals=1)),
        (3, _now("Latency p99", "From a window's last sample to its score, slowest "
                 "worker.", "max(sample_to_score_s_p99) AS latency",
                 _workers_now("sample_to_score_s_p99"), empty="unknown", unit="s", decimals=1)),
        (3, _now("Refused", "Dead letters in this range: see their topic for the reason.",
                 "sum(refused) AS refused", told, empty="0", decimals=0, thresholds=warn)),
        (3, _now("Points lost", "That InfluxDB refused for good in this range.",
                 "sum(lost) AS lost", told, empty="0", decimals=0, thresholds=warn)),
        (3, _now("NaN scores", "Windows that the model gave no finite score for in this "
                 "range.", "sum(nans) AS nans", told, empty="0", decimals=0, thresholds=warn)),
    ]  # fmt: skip


def _over_time(
    title: str, about: str, *fields: tuple[str, str], unit: str = "none", what: str = "mean",
    by: str = BY_WORKER, alias: str = "", **more: object,
) -> Json:  # fmt: skip
    targets = [
        ask(
            select(f"{what}({name}) AS {name}", "pipeline", IN_RANGE, OF_WORKERS, by=by),
            alias or f"{WORKER} {words}".strip(),
            ref="ABCD"[number],
        )
        for number, (name, words) in enumerate(fields)
    ]
    drawn = {"min": 0, **({"decimals": more["decimals"]} if "decimals" in more else {})}
    return lines(
        title, about, targets, unit=unit, field=drawn, custom={"lineWidth": 1}, maxDataPoints=240
    )


def _grown(title: str, about: str, *fields: tuple[str, str]) -> Json:
    """How counters that start at 0 with each worker have grown."""
    targets = [
        ask(
            select(
                f"non_negative_difference(max({name})) AS {name}", "pipeline", IN_RANGE,
                OF_WORKERS, by=BY_WORKER,
            ),
            f"{WORKER} {words}".strip(),
            ref="ABCD"[number],
        )
        for number, (name, words) in enumerate(fields)
    ]  # fmt: skip
    return lines(
        title, about, targets,
        field={"min": 0, "decimals": 0},
        custom={"drawStyle": "bars", "fillOpacity": 70, "lineWidth": 0},
        maxDataPoints=120,
        empty="Nothing yet: counters need two points",
    )  # fmt: skip


def _partitions() -> Json:
    return lines(
        "Lag of each partition",
        "Messages not yet acknowledged. One partition that grows alone has one sensor or one "
        "worker too many; all that grow want another worker.",
        [
            ask(
                select(
                    "max(lag) AS lag", "pipeline", IN_RANGE, "topic != ''",
                    by=f"{EVERY}, topic, partition",
                ),
                "$tag_topic $tag_partition",
            )
        ],
        legend="hidden",
        field={"min": 0, "decimals": 0},
        empty="No partition has told its lag",
    )  # fmt: skip


def _table(title: str, about: str, shown: dict[str, str], **overrides: Json) -> Json:
    fields = [name for name in shown if name not in ("host", "role")]
    newest = select(last(*fields), "pipeline", NEWEST, OF_WORKERS, by="host, role")
    return rows(
        title,
        about,
        [ask(select(", ".join(shown), newest), table=True)],
        [columns(shown), by_worst("Host", down=False)],
        overrides=[override(name, **properties) for name, properties in overrides.items()],
        empty="No worker has told anything in the last 10 minutes",
    )


def _workers() -> Json:
    return _table(
        "Workers now",
        "What each worker holds, how much waits for it, and how much a crash would do again.",
        {
            "host": "Host", "role": "Role", "sensors": "Sensors",
            "assigned_partitions": "Partitions", "lag": "Lag",
            "checkpoint_age_s": "Checkpoint",
        },
        Role={"custom__width": 90},
        Sensors={"decimals": 0, "custom__width": 90},
        Partitions={"decimals": 0, "custom__width": 100},
        Lag={"decimals": 0, "custom__width": 90},
        Checkpoint={"unit": "s", "decimals": 1, "custom__width": 110},
    )  # fmt: skip


def _models() -> Json:
    return _table(
        "Versions and models now",
        "Different ones at the same time are an update that has stopped half way.",
        {"host": "Host", "role": "Role", "version": "Version", "model_id": "Model"},
        Role={"custom__width": 90},
        Version={"custom__width": 90},
    )


def _latencies() -> list[tuple[int, Json]]:
    return [
        (8, _over_time("Sample to score", "From a window's last sample to its score: what a "
                       "person waits for. Half of the windows, and the slowest 1 %.",
                       ("sample_to_score_s_p50", "p50"), ("sample_to_score_s_p99", "p99"),
                       unit="s", what="max")),
        (8, _over_time("Received to stored", "From a message's arrival at the worker to its "
                       "results in InfluxDB.", ("received_to_stored_s_p50", "p50"),
                       ("received_to_stored_s_p99", "p99"), unit="s", what="max")),
        (8, _over_time("Encoder per batch", "Time of the model per micro-batch.",
                       ("embed_s_p50", "p50"), ("embed_s_p99", "p99"), unit="s",
                       what="max")),
    ]  # fmt: skip


def pipeline(_: str) -> Json:
    """The board."""
    layout: list[Row] = [
        (3, _stats()),
        (6, [(13, _workers()), (11, _models())]),
        (8, [
            (8, _over_time("Messages per second", "Read from Kafka by each worker.",
                           ("messages_per_s", ""))),
            (8, _over_time("Windows per second", "Judged by each worker.",
                           ("windows_per_s", ""))),
            (8, _partitions()),
        ]),
        (8, _latencies()),
        (8, [
            (8, _over_time("Windows per batch", "All that waits is one batch: it grows with the "
                           "load.", ("batch_windows_p50", "p50"), ("batch_windows_p99", "p99"),
                           what="max")),
            (8, _over_time("Read but not acknowledged", "Messages in hand. At its limit the "
                           "worker stops reading.", ("queue_messages", ""), what="max")),
            (8, _over_time("Waiting for InfluxDB", "Size of the points that are not stored yet.",
                           ("sink_pending_bytes", ""), unit="bytes", what="max")),
        ]),
        (8, [
            (8, _grown("Set aside", "Messages refused (dead letters), and disorders of streams.",
                       ("dead_letters", "dead letters"), ("stream_events", "disorders"))),
            (8, _grown("Trouble with InfluxDB", "Requests repeated, points refused for good.",
                       ("sink_retries", "repeated"), ("sink_refused", "refused"))),
            (8, _over_time("Age of the checkpoint", "What a crash would have to do again.",
                           ("checkpoint_age_s", ""), unit="s", what="max")),
        ]),
    ]  # fmt: skip
    return board(
        "pipeline",
        "Do data flow, fast enough, and is anything lost? For those who run the platform.",
        layout,
        [RAW],
        since="now-6h",
    )
