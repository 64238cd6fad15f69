"""Settings in, an InfluxDB that has what they mean out: buckets, roll-ups, removal, tokens.

Doing it twice changes nothing. What exists is changed where the settings say otherwise, but
nothing is made to keep its points for less time unless asked: they would be gone.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from connectors.influx_admin import InfluxAdmin
from connectors.influx_bucket import InfluxError
from pipeline.service_settings import Influx
from pipeline.services.influx_tasks import (
    DAY_S,
    REFERENCE,
    ROLLUPS,
    Rollup,
    Task,
    prune_secret,
    rollup_script,
    tasks,
)

NS: Final = 1_000_000_000
HOUR_S: Final = 3600
RAW_SHARD_S: Final = 7 * DAY_S
# A day of ten thousand sensors takes a while.
BACKFILL_TIMEOUT_S: Final = 3600.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A bucket as it should be."""

    name: str
    keep_s: int
    shard_s: int


def wanted_buckets(influx: Influx) -> tuple[Wanted, ...]:
    """What the settings need, the raw bucket first."""
    minutes, hours = ROLLUPS
    return (
        Wanted(influx.bucket, influx.keep_alarms_d * DAY_S, RAW_SHARD_S),
        _rolled(influx, minutes, influx.keep_1m_d),
        _rolled(influx, hours, influx.keep_1h_d),
    )


@contextmanager
def operator_of(influx: Influx) -> Iterator[InfluxAdmin]:
    """The operator's access, closed afterwards.

    Raises:
        InfluxError: where no operator's token is given, or the address cannot be used.
        ValueError: for a token file that cannot be read or is empty.
    """
    token = influx.admin_token_text()
    if not token:
        raise InfluxError(
            "no operator's token for InfluxDB: set ECHOWATCH_INFLUX__ADMIN_TOKEN_FILE or "
            "ECHOWATCH_INFLUX__ADMIN_TOKEN; a worker's token may not do this"
        )
    admin = InfluxAdmin(
        influx.url,
        token,
        influx.org,
        timeout_s=influx.timeout_s,
        ca_file=influx.ca_file,
        allow_plaintext=influx.allow_plaintext,
    )
    try:
        yield admin
    finally:
        admin.close()


def init(
    admin: InfluxAdmin, influx: Influx, say: Say, *, backfill_s: int | None, shorten: bool
) -> None:
    """Buckets, roll-ups, and the removal of what is old and was rolled up.

    Args:
        admin: The operator's access.
        influx: What is wanted.
        say: Told of all that was changed.
        backfill_s: Roll up again from here, Unix seconds. What a bucket holds before it has its
            first removal is rolled up in any case.
        shorten: Buckets may keep their points for less time than they do.

    Raises:
        InfluxError: where the server does not do it.
    """
    set_up(admin, influx, say)
    make_buckets(admin, influx, say, shorten=shorten)
    *rollups, removal = tasks(influx)
    for task in rollups:
        install(admin, task, say)
    if backfill_s is None and removal.name not in admin.tasks():
        backfill_s = oldest_s(admin, influx)
    if backfill_s is not None:
        for rollup in ROLLUPS:
            backfill(admin, influx, rollup, backfill_s, say)
    allow_removal(admin, influx, say)
    install(admin, removal, say)


def set_up(admin: InfluxAdmin, influx: Influx, say: Say) -> None:
    """Give a fresh server its operator, and any server the organisation.

    Raises:
        InfluxError: where a password is missing, or the token may not do it.
    """
    if admin.fresh():
        password = influx.admin_password_text()
        if not password:
            raise InfluxError(
                "this InfluxDB was never set up: give the user `admin` a password by "
                "ECHOWATCH_INFLUX__ADMIN_PASSWORD_FILE"
            )
        admin.set_up(influx.bucket, password)
        say(f"server: set up, organisation {influx.org}")
    elif not admin.has_org():
        admin.make_org()
        say(f"organisation {influx.org}: made")


def make_buckets(admin: InfluxAdmin, influx: Influx, say: Say, *, shorten: bool) -> None:
    """Make what is missing, change what differs.

    Raises:
        InfluxError: where a bucket would keep its points for less time; nothing is changed then.
    """
    found, wanted = admin.buckets(), wanted_buckets(influx)
    shorter = [
        f"{w.name} keeps {_days(found[w.name].keep_s)}, wanted {_days(w.keep_s)}"
        for w in wanted
        if w.name in found and _longer(found[w.name].keep_s, w.keep_s)
    ]
    if shorter and not shorten:
        raise InfluxError(
            f"{'; '.join(shorter)}: points would be deleted. Give --shorten if that is meant; "
            "nothing was changed"
        )
    for bucket in wanted:
        if bucket.name not in found:
            admin.make_bucket(bucket.name, bucket.keep_s, bucket.shard_s)
            say(f"bucket {bucket.name}: made, keeps {_days(bucket.keep_s)}")
        elif found[bucket.name].keep_s != bucket.keep_s:
            admin.keep(found[bucket.name], bucket.keep_s)
            was = _days(found[bucket.name].keep_s)
            say(f"bucket {bucket.name}: keeps {_days(bucket.keep_s)}, was {was}")


def install(admin: InfluxAdmin, task: Task, say: Say) -> None:
    """Have InfluxDB run a task as it is defined here."""
    found = admin.tasks().get(task.name)
    if found is None:
        admin.make_task(task.flux)
        say(f"task {task.name}: made")
    elif found.flux != task.flux or not found.active:
        admin.change_task(found, task.flux)
        say(f"task {task.name}: changed")


def backfill(admin: InfluxAdmin, influx: Influx, rollup: Rollup, start_s: int, say: Say) -> int:
    """Roll up what the raw bucket holds from a time until now, day by day.

    Args:
        admin: The operator's access.
        influx: Names and retentions.
        rollup: Which one.
        start_s: Unix seconds; points before are left as they are.
        say: Told of each day.

    Returns:
        Days that were worked on.
    """
    now_s = int(datetime.now(UTC).timestamp())
    name = rollup.bucket(influx.bucket)
    keep_s = next(wanted.keep_s for wanted in wanted_buckets(influx) if wanted.name == name)
    # A part of a unit would replace the whole.
    start_s = start_s // HOUR_S * HOUR_S
    if keep_s:
        start_s = max(start_s, -(-(now_s - keep_s) // HOUR_S) * HOUR_S)
    stop_s = now_s // rollup.unit_s * rollup.unit_s
    days = 0
    while start_s < stop_s:
        until_s = min((start_s // rollup.piece_s + 1) * rollup.piece_s, stop_s)
        admin.flux(rollup_script(influx, rollup, _utc(start_s), _utc(until_s)), BACKFILL_TIMEOUT_S)
        say(f"bucket {name}: {_utc(start_s)} to {_utc(until_s)} rolled up")
        start_s, days = until_s, days + 1
    return days


def oldest_s(admin: InfluxAdmin, influx: Influx) -> int | None:
    """Unix seconds of the oldest point that can be rolled up; None where there is none."""
    found = [
        row["time"]
        for measurement, field in REFERENCE.items()
        for row in admin.query(influx.bucket, f"SELECT first({field}) FROM {measurement}")  # noqa: S608  (names of our own)
    ]
    return min(found) // NS if found else None


def allow_removal(admin: InfluxAdmin, influx: Influx, say: Say) -> None:
    """Give the task that removes old points a token, which only scripts of InfluxDB read."""
    about, name = f"echowatch removal of {influx.bucket}", prune_secret(influx)
    if admin.tokens(about) and name in admin.secrets():
        return
    old = admin.tokens(about)
    admin.set_secret(name, admin.make_token(about, write=(admin.buckets()[influx.bucket],)))
    for identifier in old.values():
        admin.remove_token(identifier)
    say(f"secret {name}: made")


def write_tokens(
    admin: InfluxAdmin, influx: Influx, folder: Path, say: Say, *, renew: bool, revoke: bool
) -> None:
    """Have a token for the workers and one for Grafana in files that only their owner reads.

    A file whose token is known to the server stays as it is.

    Args:
        admin: The operator's access.
        influx: Names of buckets.
        folder: Of `influx_writer_token` and `influx_reader_token`.
        say: Told of what was done.
        renew: Make new tokens in any case; the old ones work until they are revoked.
        revoke: Afterwards make all of these tokens worthless that are not in the files.
    """
    buckets = admin.buckets()
    raw = buckets[influx.bucket]
    all_three = tuple(buckets[wanted.name] for wanted in wanted_buckets(influx))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, read, write in (("writer", (), (raw,)), ("reader", all_three, ())):
        about, file = f"echowatch {name} of {influx.bucket}", folder / f"influx_{name}_token"
        held = file.read_text(encoding="utf-8").strip() if file.exists() else ""
        if renew or held not in admin.tokens(about):
            held = admin.make_token(about, read=read, write=write)
            _write_secret(file, held)
            say(f"token {name}: made, in {file}")
        if revoke:
            for token, identifier in admin.tokens(about).items():
                if token != held:
                    admin.remove_token(identifier)
                    say(f"token {name}: an older one revoked")


def _write_secret(file: Path, text: str) -> None:
    """Into the file that is there, as it may be mounted elsewhere, or a new one, for its owner."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(handle, "w", encoding="utf-8") as stream:  # noqa: PTH123  (a descriptor)
        os.fchmod(stream.fileno(), 0o600)
        stream.write(text)


def _rolled(influx: Influx, rollup: Rollup, days: int) -> Wanted:
    return Wanted(rollup.bucket(influx.bucket), days * DAY_S, rollup.shard_s)


def _longer(one_s: int, other_s: int) -> bool:
    """Whether a retention is longer than another; 0 = for ever."""
    return other_s != 0 and (one_s == 0 or one_s > other_s)


def _days(seconds: int) -> str:
    return f"{seconds / DAY_S:g} days" if seconds else "for ever"


def _utc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
