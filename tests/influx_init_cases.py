"""A bucket with its roll-ups on a real InfluxDB, and windows whose roll-ups NumPy knows."""

import numpy as np

from connectors.influx import InfluxWriter
from connectors.influx_admin import InfluxAdmin
from pipeline.messages import Point
from pipeline.service_settings import Influx
from pipeline.services.influx_init import init
from service_influx import InfluxError as Refused
from worker_cases import wait_for

S = 1_000_000_000
HOUR, DAY = 3600 * S, 86_400 * S
TAGS = (("area", "wet"), ("asset", "mill/wet/pump3"), ("plant", "mill"))


class Store:
    """A bucket of the shared InfluxDB with its roll-ups."""

    def __init__(self, influx, **more):
        self.influx = influx
        self.bucket = influx.new_bucket("init")
        self.settings = Influx(
            url=influx.url, org=influx.org, bucket=self.bucket, admin_token=influx.token, **more
        )
        self.admin = InfluxAdmin(influx.url, influx.token, influx.org)
        self.said = []

    def init(self, *, backfill_s=None, shorten=False, **changed):
        self.settings = self.settings.model_copy(update=changed)
        self.said = []
        init(self.admin, self.settings, self.said.append, backfill_s=backfill_s, shorten=shorten)
        return self.said

    def write(self, points):
        writer = InfluxWriter(self.influx.url, self.influx.token, self.influx.org, self.bucket)
        writer.start()
        ticket = writer.put(points)
        assert writer.wait(ticket, 60.0), writer.stats.last_error
        assert writer.stats.refused == 0, writer.stats.last_error
        writer.close(5.0)

    def run(self, *endings):
        """Run tasks now, beside their times."""
        for ending in endings:
            runs = f"/api/v2/tasks/{self.admin.tasks()[self.bucket + ending].id}/runs"
            run = self.influx.call("POST", runs, {})["id"]
            ended = wait_for(lambda: self.ended(f"{runs}/{run}"), f"the task {ending}")  # noqa: B023
            assert ended["status"] == "success", ended

    def ended(self, path):
        """A run that is over; None before."""
        try:
            found = self.influx.call("GET", path)
        except Refused:  # for a moment it is neither among those under way nor in the log
            return None
        return None if found["status"] in ("scheduled", "started") else found

    def roll(self):
        self.run("_1m roll-up", "_1h roll-up")

    def rows(self, ending, influxql):
        return self.influx.query(f"{self.bucket}{ending}", influxql)

    def close(self):
        for task in self.admin.tasks().values():
            if self.bucket in task.flux:
                self.influx.call("DELETE", f"/api/v2/tasks/{task.id}")
        for name, found in self.admin.buckets().items():
            if name.startswith(f"{self.bucket}_"):
                self.influx.call("DELETE", f"/api/v2/buckets/{found.id}")
        self.admin.close()


def window(sensor, at_ns, value, state=0):
    """The points of a window that the roll-ups look at, with few fields."""
    tags = (*TAGS, ("sensor", sensor))
    model = (*TAGS, ("model", "m"), ("sensor", sensor))
    return [
        Point("vib_features", tags, {"rms": value, "kurtosis": 3.0 * value}, at_ns),
        Point("sensor_health", tags, {"ok": 1, "state": state, "clip": value}, at_ns),
        Point("drift", model, {"baseline_n": 200, "score": value, "reason": "drift"}, at_ns),
        Point("drift_band", (*model[:3], ("band", "001280"), *model[3:]), {"share": value}, at_ns),
    ]


def stream(sensor, start_ns, hours, seed, every_s=17.0):
    """Irregular windows: [(time, value, state)]."""
    rng = np.random.default_rng(seed)
    count = int(hours * 3600 / every_s)
    steps = rng.uniform(0.5, 1.5, count) * every_s
    times = start_ns + (np.cumsum(steps) * S).astype(np.int64)
    values, states = rng.gamma(2.0, 1.0, count), rng.integers(-3, 4, count)
    return [
        (sensor, int(t), float(v), int(z)) for t, v, z in zip(times, values, states, strict=True)
    ]


def points_of(windows):
    return [
        point for sensor, at, value, state in windows for point in window(sensor, at, value, state)
    ]


def rolled(windows, sensor, unit_s):
    """Start of unit -> (n, mean, max, p95, last) as NumPy has them."""
    groups = {}
    for name, at, value, _ in sorted(windows, key=lambda w: w[1]):
        if name == sensor:
            groups.setdefault(at // (unit_s * S) * unit_s * S, []).append(value)
    return {
        at: (len(v), np.mean(v), np.max(v), np.percentile(v, 95), v[-1]) for at, v in groups.items()
    }
