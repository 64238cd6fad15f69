"""An InfluxDB in; what differs from the settings, how its tasks fare and what it indexes out."""

from dataclasses import dataclass
from typing import Final, Literal

from connectors.influx_admin import InfluxAdmin, InstalledTask
from pipeline.service_settings import Influx
from pipeline.services.influx_init import wanted_buckets
from pipeline.services.influx_tasks import Task, tasks

MOST_SERIES: Final = 1_000_000
"""Series that one InfluxDB 2 should hold at most, all buckets together."""

TaskState = Literal["ok", "waiting", "missing", "changed", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class BucketRow:
    """A bucket; `keep_s` None = it is missing, `wanted_s` None = it is none of ours."""

    name: str
    keep_s: int | None
    wanted_s: int | None
    series: int


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task; `waiting` has not run yet, `changed` is not what this version would install."""

    name: str
    state: TaskState
    last_at: str
    why: str


@dataclass(frozen=True, slots=True)
class Status:
    """All that `echowatch influx status` tells.

    Attributes:
        buckets: Ours first.
        tasks: Of ours.
    """

    buckets: tuple[BucketRow, ...]
    tasks: tuple[TaskRow, ...]

    @property
    def series(self) -> int:
        """Of all buckets."""
        return sum(bucket.series for bucket in self.buckets)

    @property
    def problems(self) -> list[str]:
        """What a person should do something about."""
        found = [
            f"bucket {b.name} {'is missing' if b.keep_s is None else 'keeps another time'}: "
            "run `echowatch influx init`"
            for b in self.buckets
            if b.wanted_s is not None and b.keep_s != b.wanted_s
        ]
        for task in self.tasks:
            if task.state in ("missing", "changed", "stopped"):
                found.append(f"task {task.name} is {task.state}: run `echowatch influx init`")
            elif task.state == "failed":
                found.append(f"task {task.name} failed: {task.why}")
        if self.series > MOST_SERIES:
            found.append(
                f"{self.series:,} series are more than {MOST_SERIES:,}: look for sensor ids or "
                "models that change all the time, or use a second server"
            )
        return found


def status(admin: InfluxAdmin, influx: Influx) -> Status:
    """Look; changes nothing.

    Raises:
        InfluxError: where the server cannot be asked.
    """
    found, wanted = admin.buckets(), wanted_buckets(influx)
    ours = {bucket.name for bucket in wanted}
    rows = [
        BucketRow(
            w.name,
            found[w.name].keep_s if w.name in found else None,
            w.keep_s,
            series_of(admin, w.name) if w.name in found else 0,
        )
        for w in wanted
    ]
    rows += [
        BucketRow(name, bucket.keep_s, None, series_of(admin, name))
        for name, bucket in sorted(found.items())
        if name not in ours
    ]
    installed = admin.tasks()
    return Status(tuple(rows), tuple(_task(t, installed.get(t.name)) for t in tasks(influx)))


def series_of(admin: InfluxAdmin, bucket: str) -> int:
    """Series that a bucket's index holds: sets of measurement and tags."""
    return sum(row["count"] for row in admin.query(bucket, "SHOW SERIES EXACT CARDINALITY"))


def _task(wanted: Task, found: InstalledTask | None) -> TaskRow:
    state: TaskState = "ok"
    if found is None:
        return TaskRow(wanted.name, "missing", "", "")
    if found.flux != wanted.flux:
        state = "changed"
    elif not found.active:
        state = "stopped"
    elif found.last != "success":
        state = "failed" if found.last else "waiting"
    return TaskRow(wanted.name, state, found.last_at if found.last else "", found.why)
