"""What a worker counts and times in; the text that Prometheus scrapes, and recent quantiles, out.

Each role of a worker has a `Metrics` of its own; `exposition` puts several on one page, told apart
by the label `role`. Base units are those of Prometheus (seconds, bytes); all is safe to use from
several threads. Nothing here is global, so tests and roles never see each other's numbers.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from threading import Lock
from typing import Final, get_args

import numpy as np
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import Metric

from pipeline.messages import NS_PER_S, StreamEventKind
from pipeline.wire import REASONS

DEAD_LETTER_REASONS: Final = (
    *REASONS,
    "unknown_sensor",
    "too_many_sensors",
    "wrong_partition",
    "bad_order",
    "order_refused",
    "encoder_failed",
    "influx_refused",
    "bad_transition",
)
"""Every reason that counts a dead letter; each is exported from the start, at 0."""
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
RECENT_VALUES: Final = 4096
RECENT_S: Final = 300.0
"""Quantiles are over this many values at most, none older than this."""
QUANTILES: Final = (("p50", 0.5), ("p99", 0.99))
SIZE_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
EMBED_BUCKETS: Final = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30,
)  # fmt: skip
DELAY_BUCKETS: Final = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600)

Clock = Callable[[], float]


class Timing:
    """One quantity observed again and again: a histogram, and quantiles of its recent values.

    Args:
        name: Full metric name.
        help_text: What is observed.
        buckets: Upper bounds of the histogram.
        registry: Where it and its quantiles are exported.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        help_text: str,
        buckets: Sequence[float],
        registry: CollectorRegistry,
        clock: Clock,
    ) -> None:
        self._histogram = Histogram(name, help_text, buckets=buckets, registry=registry)
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT_VALUES)
        self._clock = clock
        self._lock = Lock()
        for suffix, q in QUANTILES:
            gauge = Gauge(
                f"{name}_{suffix}", f"{help_text}: {suffix} of recent values", registry=registry
            )
            gauge.set_function(partial(self.quantile, q))

    def observe(self, value: float) -> None:
        """Count one value; one that is not finite is left out."""
        if not math.isfinite(value):
            return
        self._histogram.observe(value)
        with self._lock:
            self._recent.append((self._clock(), value))

    def quantile(self, q: float) -> float:
        """Quantile of the recent values (`RECENT_VALUES`, `RECENT_S`); NaN where there are none."""
        with self._lock:
            oldest = self._clock() - RECENT_S
            while self._recent and self._recent[0][0] < oldest:
                self._recent.popleft()
            values = [value for _, value in self._recent]
        return float(np.quantile(values, q)) if values else math.nan


class EventTime:
    """The newest event time, exported in seconds and as its distance from the clock.

    Both are NaN before the first. The distance is taken at each scrape, so that it grows while
    nothing happens.
    """

    def __init__(self, seconds: Gauge, lag: Gauge, wall: Clock) -> None:
        self._seconds = seconds
        self._newest_s = math.nan
        seconds.set(math.nan)
        lag.set_function(lambda: wall() - self._newest_s)

    def set(self, at_ns: int) -> None:
        """Take this time, ns since the epoch, for the newest."""
        self._newest_s = at_ns / NS_PER_S
        self._seconds.set(self._newest_s)


class Metrics:
    """The numbers of one role of one worker.

    Counters are used as `metrics.windows.inc(n)`, or `metrics.messages.labels(topic).inc()`; gauges
    as `metrics.sensors.set(n)` or, computed at each scrape, `gauge.set_function(f)`; timings as
    `metrics.embed_s.observe(seconds)`; the newest event time as `metrics.last_event_ns.set(ns)`,
    from which its lag follows. Names and meanings: docs/metrics.md.

    Args:
        role: signals or cases; becomes the label `role`.
        clock: Monotonic seconds, for recent quantiles and rates.
        wall: Seconds since the epoch, to compare with event time.

    Attributes:
        registry: What is exported, without the label `role`.
        version, model: As `identify` was told.
    """

    def __init__(
        self, role: str, *, clock: Clock = time.monotonic, wall: Clock = time.time
    ) -> None:
        self.role = role
        self.version = self.model = ""
        self.registry = CollectorRegistry()
        self._clock = clock
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._timings: dict[str, Timing] = {}
        self._counted: tuple[float, dict[str, float]] = (clock(), {})
        self._init_counters()
        self._init_gauges()
        self.last_event_ns = EventTime(
            self._gauges["last_event_s"], self._gauges["event_time_lag_s"], wall
        )
        self._init_timings()

    def _init_counters(self) -> None:
        count = self._counter
        self.messages = count("messages", "messages", "Messages read", "topic")
        self.bytes = count("bytes", "bytes", "Bytes of message values read", "topic")
        self.windows = count("windows", "windows", "Windows scored")
        self.transitions = count("transitions", "transitions", "Alarm state changes sent")
        self.dead_letters = count("dead_letters", "dead_letters", "Messages refused", "reason")
        self.stream_events = count(
            "stream_events", "stream_events", "Disorders of sensors' streams", "kind"
        )
        self.skipped = count(
            "skipped", "skipped_messages", "Messages that the restored state had seen already"
        )
        self.sink_points = count("sink_points", "sink_points", "Points that InfluxDB confirmed")
        self.sink_retries = count(
            "sink_retries", "sink_retries", "Requests to InfluxDB that were repeated"
        )
        self.sink_refused = count(
            "sink_refused", "sink_refused_points", "Points that InfluxDB refused for good"
        )
        self.checkpoints = count("checkpoints", "checkpoints", "Checkpoints that Kafka confirmed")
        self.restored = count(
            "restored", "restored_sensors", "Sensors whose state came from a checkpoint"
        )
        self.nan_scores = count(
            "nan_scores", "nan_scores", "Windows that the model gave no finite score for"
        )
        self.snapshots = count("snapshots", "snapshots", "Pictures of windows sent for people")
        for reason in DEAD_LETTER_REASONS:
            self.dead_letters.labels(reason)
        for kind in get_args(StreamEventKind):
            self.stream_events.labels(kind)

    def _init_gauges(self) -> None:
        gauge = self._gauge
        self.lag = gauge(
            "lag",
            "lag_messages",
            "Messages of a partition after the last acknowledged",
            "topic",
            "partition",
        )
        self.queue_messages = gauge(
            "queue_messages", "queue_messages", "Messages read but not yet acknowledged"
        )
        self.queue_bytes = gauge("queue_bytes", "queue_bytes", "Bytes of these messages")
        self.sink_pending_bytes = gauge(
            "sink_pending_bytes", "sink_pending_bytes", "Bytes that wait for InfluxDB"
        )
        self.checkpoint_age_s = gauge(
            "checkpoint_age_s", "checkpoint_age_seconds", "Time since the last checkpoint"
        )
        self.assigned_partitions = gauge(
            "assigned_partitions", "assigned_partitions", "Partitions that this worker holds"
        )
        self.sensors = gauge("sensors", "sensors", "Sensors whose state this worker holds")
        gauge("event_time_lag_s", "event_time_lag_seconds", "Clock less newest event time scored")
        gauge(
            "last_event_s", "last_event_timestamp_seconds", "Newest event time scored, since 1970"
        )
        self.checkpoint_age_s.set(math.nan)
        self.worker = Info("echowatch_worker", "Who works here", registry=self.registry)

    def _init_timings(self) -> None:
        timing = self._timing
        self.batch_messages = timing(
            "batch_messages", "batch_messages", "Messages of a micro-batch", SIZE_BUCKETS
        )
        self.batch_windows = timing(
            "batch_windows", "batch_windows", "Windows of a micro-batch", SIZE_BUCKETS
        )
        self.embed_s = timing(
            "embed_s", "embed_seconds", "Time of the encoder for a micro-batch", EMBED_BUCKETS
        )
        self.received_to_stored_s = timing(
            "received_to_stored_s",
            "received_to_stored_seconds",
            "From a message's arrival to its results in InfluxDB",
            DELAY_BUCKETS,
        )
        self.sample_to_score_s = timing(
            "sample_to_score_s",
            "sample_to_score_seconds",
            "From a window's last sample to its score",
            DELAY_BUCKETS,
        )

    def _counter(self, key: str, name: str, help_text: str, *labels: str) -> Counter:
        made = Counter(f"echowatch_{name}_total", help_text, labels, registry=self.registry)
        self._counters[key] = made
        return made

    def _gauge(self, key: str, name: str, help_text: str, *labels: str) -> Gauge:
        made = Gauge(f"echowatch_{name}", help_text, labels, registry=self.registry)
        self._gauges[key] = made
        return made

    def _timing(self, key: str, name: str, help_text: str, buckets: Sequence[float]) -> Timing:
        made = Timing(f"echowatch_{name}", help_text, buckets, self.registry, self._clock)
        self._timings[key] = made
        return made

    def identify(self, *, version: str, model: str, host: str) -> None:
        """Say who this worker is; exported as labels of `echowatch_worker_info`.

        Args:
            version: Of the program.
            model: Its full id; empty where no model is loaded.
            host: Name of the machine.
        """
        self.version, self.model = version, model
        self.worker.info({"version": version, "model": model, "host": host})

    def watch_encoder(self, pid: int) -> None:
        """Export memory and processor time of the process that embeds, as `encoder_process_*`."""
        ProcessCollector(namespace="encoder", pid=lambda: pid, registry=self.registry)

    def forget_partitions(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Export these (topic, partition) no more: another worker holds them now."""
        for topic, partition in partitions:
            self.lag.remove(topic, str(partition))

    def quantile(self, name: str, q: float) -> float:
        """Quantile of the recent values of a timing, NaN where there are none.

        Args:
            name: Attribute, e.g. `embed_s`.
            q: 0 to 1.

        Raises:
            ValueError: for an unknown name.
        """
        if name not in self._timings:
            raise ValueError(f"timing must be one of {', '.join(self._timings)}, got {name!r}")
        return self._timings[name].quantile(q)

    def snapshot(self) -> dict[str, float]:
        """All numbers by attribute name, for a store that wants plain fields.

        Counters are sums over topics; those with a bounded label are also given as `name_label`
        (`dead_letters_bad_rate`). `lag` is a sum, `lag_max` the worst partition's. `..._per_s` are
        rates since the snapshot before. What is not a number yet is left out.
        """
        found = {
            key: math.fsum(_values(counter).values()) for key, counter in self._counters.items()
        }
        found |= self._rates(found)
        for key in ("dead_letters", "stream_events"):
            found |= {f"{key}_{label}": v for (label,), v in _values(self._counters[key]).items()}
        for key, gauge in self._gauges.items():
            found[key] = math.fsum(_values(gauge).values())
        found["lag_max"] = max(_values(self.lag).values(), default=0.0)
        for key, timing in self._timings.items():
            found |= {f"{key}_{suffix}": timing.quantile(q) for suffix, q in QUANTILES}
        return {key: value for key, value in found.items() if math.isfinite(value)}

    def _rates(self, counts: dict[str, float]) -> dict[str, float]:
        now = self._clock()
        (then, before), self._counted = self._counted, (now, counts)
        keys = ("messages", "bytes", "windows")
        if now <= then:
            return {}
        return {f"{k}_per_s": (counts[k] - before.get(k, 0.0)) / (now - then) for k in keys}

    def text(self) -> tuple[bytes, str]:
        """The page for Prometheus, and its content type."""
        return exposition([self])


def exposition(metrics: Sequence[Metrics]) -> tuple[bytes, str]:
    """One page for Prometheus of several roles, and of the process; and its content type."""
    return generate_latest(_Joined(metrics)), CONTENT_TYPE


class _Joined(CollectorRegistry):
    """Registries of several roles as one: each family once, its samples told apart by role."""

    def __init__(self, metrics: Sequence[Metrics]) -> None:
        super().__init__()
        ProcessCollector(registry=self)
        self._of_roles = metrics

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for metrics in self._of_roles:
            for found in metrics.registry.collect():
                family = families.setdefault(
                    found.name, Metric(found.name, found.documentation, found.type)
                )
                for sample in found.samples:
                    # When a series began to count says nothing that the process's start does not.
                    if not sample.name.endswith("_created"):
                        labels = {**sample.labels, "role": metrics.role}
                        family.add_sample(sample.name, labels, sample.value)
        yield from families.values()
        yield from super().collect()


def _values(metric: Counter | Gauge) -> dict[tuple[str, ...], float]:
    """Label values -> value."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in metric.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
