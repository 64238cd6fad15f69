"""Buckets, tasks and tokens of `echowatch influx init`, on a real InfluxDB."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr

import services
from connectors.influx import InfluxWriter
from connectors.influx_admin import InfluxAdmin
from connectors.influx_bucket import InfluxError
from influx_init_cases import DAY, HOUR, S, Store, points_of, rolled, stream
from pipeline.fleet import Fleet
from pipeline.messages import Processed
from pipeline.point_schema import SCHEMA, series_per_sensor
from pipeline.points import PointMaker
from pipeline.service_settings import Influx
from pipeline.services.influx_init import init, oldest_s, write_tokens
from pipeline.services.influx_status import MOST_SERIES, series_of, status
from pipeline.services.influx_tasks import (
    KEPT,
    ROLLUPS,
    fields_of,
    rolled_fields,
    rollup_series,
    tasks,
)
from point_cases import FLEET, SENSORS, case, change, scored
from service_influx import InfluxAccess, InfluxServer
from service_influx import InfluxError as Refused
from service_process import Server, accepts
from worker_cases import wait_for

ECHOWATCH = Path(sys.executable).with_name("echowatch")

pytestmark = pytest.mark.stack


@pytest.fixture
def store(influx):
    with closing(Store(influx)) as made:
        yield made


def assert_as_numpy(store, rollup, windows, sensor, before_ns):
    found = store.rows(
        f"_{rollup.unit}",
        "SELECT n, rms_mean, rms_max, rms_p95, rms_last FROM vib_features "  # noqa: S608
        f"WHERE sensor = '{sensor}'",
    )
    names = ("n", "rms_mean", "rms_max", "rms_p95", "rms_last")
    got = {row["time"]: tuple(row[name] for name in names) for row in found}
    # The unit that is still going on is rolled up when it is over.
    expected = {
        at: values
        for at, values in rolled(windows, sensor, rollup.unit_s).items()
        if at + rollup.unit_s * S <= before_ns
    }
    assert set(expected) <= set(got)
    for at, values in expected.items():
        np.testing.assert_allclose(got[at], values, rtol=1e-12)
    assert expected


def test_what_is_rolled_up_is_what_numpy_makes_of_the_windows(store):
    now = time.time_ns()
    windows = [w for k in range(2) for w in stream(f"s{k}", now - 5 * HOUR, 4.9, seed=k)]
    store.init()
    store.write(points_of(windows))
    store.roll()
    for rollup in ROLLUPS:
        for sensor in ("s0", "s1"):
            assert_as_numpy(store, rollup, windows, sensor, now)
    worst = store.rows("_1h", "SELECT max(state_max) AS worst FROM sensor_health")[0]["worst"]
    assert worst == max(w[3] for w in windows)
    assert store.rows("_1h", "SELECT count(share_p95) AS hours FROM drift_band")
    assert not store.rows("_1m", "SELECT * FROM drift_band")


def test_windows_that_come_late_are_rolled_up_by_the_next_run(store):
    now = time.time_ns()
    live = stream("s0", now - 4 * HOUR, 3.9, seed=1)
    buffered = stream("s1", now - 50 * HOUR, 49.0, seed=2, every_s=97.0)
    store.init()
    store.write(points_of(live) + points_of(buffered[::2]))
    store.roll()
    store.write(points_of(buffered[1::2]))  # the other half, up to two days late
    store.roll()
    for rollup in ROLLUPS:
        assert_as_numpy(store, rollup, buffered, "s1", now)
        assert_as_numpy(store, rollup, live, "s0", now)


def test_running_again_changes_nothing(store):
    now = time.time_ns()
    store.init()
    store.write(points_of(stream("s0", now - 4 * HOUR, 3.5, seed=3)))
    store.roll()
    query = "SELECT * FROM vib_features, drift, sensor_health"
    before = [store.rows(ending, query) for ending in ("_1m", "_1h")]
    store.roll()
    after = [store.rows(ending, query) for ending in ("_1m", "_1h")]
    assert all(before)
    assert after[1] == before[1]
    assert after[0][: len(before[0])] == before[0]


def test_much_that_lacks_needs_no_more_memory_than_an_hour_of_one_sensor(tmp_path):
    # At once a day of 5 sensors took 4 GB; the limit counts only a part of that.
    server = InfluxServer(tmp_path, variables={"INFLUXD_QUERY_MEMORY_BYTES": "2000000"})
    try:
        server.start()
        now = time.time_ns()
        windows = [w for k in range(3) for w in stream(f"s{k}", now - 13 * HOUR, 12.9, k, 60.0)]
        with closing(Store(server)) as store:
            store.init()
            store.write(points_of(windows))
            store.roll()
            for rollup in ROLLUPS:
                assert_as_numpy(store, rollup, windows, "s2", now)
            store.init(backfill_s=(now - 12 * HOUR) // S)
    finally:
        server.kill()


def test_what_is_later_than_that_waits_for_a_backfill(store):
    now = time.time_ns()
    windows = stream("s0", now - 40 * DAY, 30.0, seed=4, every_s=300.0)
    store.init()
    store.write(points_of(windows))
    store.roll()
    assert not store.rows("_1h", "SELECT n FROM vib_features")
    store.init(backfill_s=(now - 41 * DAY) // S)
    for rollup in ROLLUPS:
        assert_as_numpy(store, rollup, windows, "s0", now)


def test_the_first_init_rolls_up_history_before_it_removes_any(store):
    now = time.time_ns()
    windows = stream("s0", now - 60 * DAY, 20.0, seed=5, every_s=600.0)
    store.write(points_of(windows))
    said = store.init()
    assert said.index(f"task {store.bucket} removal: made") == len(said) - 1
    for rollup in ROLLUPS:
        assert_as_numpy(store, rollup, windows, "s0", now)
    store.run(" removal")
    assert oldest_s(store.admin, store.settings) is None
    assert_as_numpy(store, ROLLUPS[1], windows, "s0", now)


def test_removal_takes_whole_weeks_and_never_an_alarm(store):
    now = time.time_ns()
    store.init()
    ages = (800, 60, 38, 29, 1)
    maker = PointMaker(FLEET)
    for age in ages:
        at = now - age * DAY
        raised = change(SENSORS[0], at)
        store.write(maker.points(Processed((scored(SENSORS[0], at, changes=(raised,)),), (), ())))
        store.write([*maker.case_points(case())][:1])
    before = {m: len(store.rows("", f"SELECT * FROM {m}")) for m in (*KEPT, "drift")}  # noqa: S608
    store.run(" removal")
    assert len(store.rows("", "SELECT state FROM alarm")) == before["alarm"] == len(ages)
    assert len(store.rows("", "SELECT case_id FROM cases")) == before["cases"] > 0
    for measurement in ("drift", "vib_features", "sensor_health"):
        field = "ok" if measurement == "sensor_health" else next(iter(SCHEMA[measurement].fields))
        left = store.rows("", f"SELECT {field} FROM {measurement}")  # noqa: S608
        assert [round((now - row["time"]) / DAY) for row in left] == [29, 1], measurement


def test_init_twice_says_nothing_the_second_time(store):
    assert len(store.init()) >= 6
    assert store.init() == []
    found = store.admin.buckets()
    days = [found[f"{store.bucket}{e}"].keep_s // 86_400 for e in ("", "_1m", "_1h")]
    assert days == [0, 365, 3650]


def test_a_changed_definition_or_a_stopped_task_is_put_right(store):
    store.init()
    name = f"{store.bucket} removal"
    stopped = store.admin.tasks()[f"{store.bucket}_1m roll-up"]
    store.influx.call("PATCH", f"/api/v2/tasks/{stopped.id}", {"status": "inactive"})
    store.settings = store.settings.model_copy(update={"keep_raw_d": 90})
    states = {task.name: task.state for task in status(store.admin, store.settings).tasks}
    assert (states[name], states[f"{store.bucket}_1m roll-up"]) == ("changed", "stopped")
    assert sorted(store.init()) == [
        f"task {name}: changed", f"task {store.bucket}_1m roll-up: changed"
    ]  # fmt: skip
    assert "90d" in store.admin.tasks()[name].flux
    assert all(task.active for task in store.admin.tasks().values())


def test_a_bucket_keeps_its_points_unless_told_otherwise(store):
    store.init(keep_1m_d=800)
    with pytest.raises(InfluxError, match=r"keeps 800 days, wanted 365.*--shorten"):
        store.init(keep_1m_d=365, keep_1h_d=5000)
    assert store.admin.buckets()[f"{store.bucket}_1h"].keep_s == 3650 * 86_400
    store.init(shorten=True)
    kept = [store.admin.buckets()[f"{store.bucket}{e}"].keep_s // 86_400 for e in ("_1m", "_1h")]
    assert kept == [365, 5000]


def seen(access, bucket):
    """What a token can read of a bucket."""
    try:
        return access.query(bucket, "SELECT * FROM vib_features")
    except Refused:
        return []


def refused(access, method, path, body=None):
    """HTTP status and words of what a token may not do."""
    with pytest.raises(Refused) as caught:
        access.call(method, path, body)
    return str(caught.value)


def test_tokens_may_do_one_thing_each(store, tmp_path):
    store.init()
    folder = tmp_path / "tokens"
    write_tokens(store.admin, store.settings, folder, store.said.append, renew=False, revoke=False)
    files = {name: folder / f"influx_{name}_token" for name in ("writer", "reader")}
    assert {file.stat().st_mode & 0o777 for file in files.values()} == {0o600}
    url, org = store.influx.url, store.influx.org
    writer, reader = (InfluxAccess(url, org, files[n].read_text()) for n in ("writer", "reader"))
    now = time.time_ns()
    store.write(points_of([("s0", now - 2 * HOUR, 1.0, 0)]))
    store.roll()
    for bucket in (store.bucket, f"{store.bucket}_1m", f"{store.bucket}_1h"):
        sink = InfluxWriter(url, writer.token, org, bucket)
        if bucket == store.bucket:
            sink.check()
        else:
            with pytest.raises(InfluxError, match=r"may not write.*403"):
                sink.check()
        sink.close(0.1)
        assert reader.query(bucket, "SELECT * FROM vib_features")
        assert not seen(writer, bucket)
        with pytest.raises(InfluxError, match=r"may not write.*403"):
            InfluxWriter(url, reader.token, org, bucket).check()
    other = store.influx.new_bucket("other")
    assert not seen(reader, other)
    for access in (writer, reader):
        assert "40" in refused(access, "DELETE", f"/api/v2/buckets/{store.influx.bucket_id(other)}")


def test_tokens_stay_until_they_are_renewed_and_work_until_they_are_revoked(store, tmp_path):
    store.init()

    def tokens(*, renew=False, revoke=False):
        write_tokens(
            store.admin, store.settings, tmp_path, store.said.append, renew=renew, revoke=revoke
        )
        return (tmp_path / "influx_writer_token").read_text()

    (tmp_path / "influx_writer_token").touch(mode=0o600)
    file = (tmp_path / "influx_writer_token").stat().st_ino
    first = tokens()
    assert first
    assert tokens() == first
    second = tokens(renew=True)
    assert second != first
    assert (tmp_path / "influx_writer_token").stat().st_ino == file  # it may be mounted elsewhere
    about = f"echowatch writer of {store.bucket}"
    assert set(store.admin.tokens(about)) == {first, second}
    assert tokens(revoke=True) == second
    assert set(store.admin.tokens(about)) == {second}


def test_a_token_that_may_not_administer_is_told_so(store):
    weak = InfluxAdmin(store.influx.url, store.influx.new_token(store.bucket), store.influx.org)
    wrong = InfluxAdmin(store.influx.url, "nonsense", store.influx.org)
    for admin, words in ((weak, "operator's"), (wrong, "not known there")):
        with closing(admin), pytest.raises(InfluxError, match=words):
            init(admin, store.settings, store.said.append, backfill_s=None, shorten=False)


def test_series_are_those_that_the_schema_promises(store):
    now = time.time_ns()
    sensors = [f"mill/wet/pump{k}/de/h" for k in range(4)]
    store.init()
    windows = tuple(scored(name, now - 2 * HOUR) for name in sensors)
    store.write(PointMaker(Fleet(())).points(Processed(windows, (), ())))
    store.roll()
    usual = series_per_sensor(bands=8, stream_kinds=0).series - 1  # nobody has an alarm yet
    assert series_of(store.admin, store.bucket) == len(sensors) * usual
    ours = sum(series_of(store.admin, f"{store.bucket}_{r.unit}") for r in ROLLUPS)
    assert ours == len(sensors) * rollup_series(bands=8)


@pytest.mark.parametrize("sensors", [1_000, 10_000])
def test_a_plant_stays_within_the_budget_of_series(sensors):
    # Eleven bands (25.6 kHz), two models, all kinds of disorder; a machine for every third sensor.
    raw = series_per_sensor(bands=11, models=2).times(sensors).series
    machines = 7 * sensors // 3
    assert raw + machines + sensors * rollup_series(bands=11, models=2) < MOST_SERIES


def test_every_number_of_the_schema_is_rolled_up_or_left_out_by_name():
    for rollup in ROLLUPS:
        for name in rollup.measurements:
            numbers = {n for n, f in SCHEMA[name].fields.items() if f.kind in ("float", "int")}
            assert set(fields_of(name)) == numbers - {"nearest_ns"}
            assert len(set(rolled_fields(name))) == len(rolled_fields(name))


def test_no_task_shows_a_token():
    settings = Influx(admin_token="operator", token="writer")  # noqa: S106  (of nobody)
    assert not any("operator" in t.flux or "writer" in t.flux for t in tasks(settings))


def test_the_commands_do_it_and_tell(store, tmp_path):
    env = {
        **os.environ,
        "ECHOWATCH_INFLUX__URL": store.influx.url,
        "ECHOWATCH_INFLUX__BUCKET": store.bucket,
        "ECHOWATCH_INFLUX__ADMIN_TOKEN": store.influx.token,
    }

    def command(*arguments):
        done = [ECHOWATCH, "influx", *arguments]
        return subprocess.run(
            done, env=env, capture_output=True, text=True, timeout=120, check=False
        )

    before = command("status", "--json")
    assert before.returncode == 1
    assert "echowatch influx init" in json.loads(before.stdout)["problems"][0]
    made = command("init", "--tokens", str(tmp_path / "t"))
    assert made.returncode == 0, made.stderr
    assert store.influx.token not in made.stdout + made.stderr
    assert "as it should be" in command("init", "--tokens", str(tmp_path / "t")).stderr
    after = command("status")
    assert after.returncode == 0, after.stderr
    assert "of 1,000,000" in after.stdout
    assert command("init", "--revoke").returncode == 2
    del env["ECHOWATCH_INFLUX__ADMIN_TOKEN"]
    assert "ECHOWATCH_INFLUX__ADMIN_TOKEN_FILE" in command("status").stderr


class FreshTls(InfluxServer):
    """A server that was never set up, with a certificate of an authority of our own."""

    def command(self):
        return [*super().command(), "--tls-cert", "influx.pem", "--tls-key", "influx.pem"]

    def ready(self):
        return accepts(self.port)

    def start(self):
        certified(self.folder)
        self.variables = {"SSL_CERT_FILE": str(self.folder / "ca.pem")}
        self.url = self.url.replace("http:", "https:")
        Server.start(self)


def certified(folder):
    """An authority (`ca.pem`) and a server's key and certificate (`influx.pem`)."""
    parts = [
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ours -keyout ca.key -out ca.pem",
        "req -newkey rsa:2048 -nodes -subj /CN=influxdb -keyout key.pem -out request.pem",
        "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -days 2 -extfile names -out cert.pem",
    ]
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n", encoding="utf-8")
    for part in parts:
        subprocess.run(["openssl", *part.split()], cwd=folder, check=True, capture_output=True)  # noqa: S607
    texts = [(folder / name).read_text(encoding="utf-8") for name in ("key.pem", "cert.pem")]
    (folder / "influx.pem").write_text("".join(texts), encoding="utf-8")


@pytest.mark.stack
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl for certificates")
def test_a_fresh_server_with_tls_is_set_up_and_can_ask_itself_to_remove():
    with services.started(FreshTls) as server:
        secure = {"url": server.url, "ca_file": server.folder / "ca.pem"}
        settings = Influx(**secure, org="works", bucket="b", admin_token=server.token)
        admin = InfluxAdmin(server.url, server.token, "works", ca_file=secure["ca_file"])
        said = []
        with closing(admin), pytest.raises(InfluxError, match="ADMIN_PASSWORD_FILE"):
            init(admin, settings, said.append, backfill_s=None, shorten=False)
        settings = settings.model_copy(update={"admin_password": SecretStr("long enough")})
        init(admin, settings, said.append, backfill_s=None, shorten=False)
        assert said[0] == "server: set up, organisation works"
        (task,) = [t for name, t in admin.tasks().items() if name == "b removal"]
        admin._call("POST", f"/api/v2/tasks/{task.id}/runs", {})
        done = wait_for(lambda: admin.tasks()["b removal"].last, "the removal")
        assert (done, admin.tasks()["b removal"].why) == ("success", "")
