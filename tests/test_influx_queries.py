"""Every query and script of docs/influx.md, on a real InfluxDB that holds what a worker writes."""

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.influx import InfluxWriter
from pipeline.cases import CaseBook
from pipeline.fleet import Fleet, SensorInfo
from pipeline.messages import Processed, SensorHealth, StreamEvent, WindowResult
from pipeline.orders import new_order
from pipeline.points import PointMaker
from point_cases import change, scored

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "influx.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
SENSOR, DUMB, STRANGER = "mill/wet_end/pump3/de/h", "mill/wet_end/pump3/nde/h", "gw9/typo"
WINDOWS = 30
S = 1_000_000_000
FLEET = Fleet(
    tuple(
        SensorInfo(name, "mill/wet_end/pump3", "mill", "wet_end", "", name.split("/")[3], "h")
        for name in (SENSOR, DUMB)
    )
)


def history(now_ns):
    """Half an hour: one sensor alarms, one breaks, one is a stranger."""
    times = [now_ns - (WINDOWS - i) * 60 * S for i in range(WINDOWS)]
    raised = replace(change(SENSOR, times[-3]), asset="mill/wet_end/pump3")
    windows = [scored(SENSOR, at) for at in times]
    windows[-3] = replace(windows[-3], status="alarm", transitions=(raised,))
    windows += [replace(w, status="alarm") for w in windows[-2:]]
    windows += [scored(DUMB, at) for at in times[:-1]]
    silent = SensorHealth(DUMB, times[-1], ("silent",), gap_s=300.0, detail="no data")
    windows.append(
        WindowResult(DUMB, "a", times[-1], times[-1], "unknown", running=False, health=silent)
    )
    windows += [scored(STRANGER, at) for at in times[-2:]]
    events = [StreamEvent(SENSOR, times[4], "gap", 0.5, "0.5 s missing")]
    return Processed(tuple(windows), tuple(events), ()), raised


def points(now_ns):
    maker = PointMaker(FLEET)
    done, raised = history(now_ns)
    said = new_order(SENSOR, "maintenance", by="eva", why="greased", at_ns=now_ns)
    made = maker.points(done, quarantined=lambda name: name not in FLEET)
    made += [p for case in CaseBook().add(raised) for p in maker.case_points(case)]
    made.append(maker.order_point(said))
    lags = {("sensors.signals", n): 4.0 + n for n in range(2)}
    return made + maker.pipeline_points("h1", "signals", {"lag": 9.0}, at_ns=now_ns, lags=lags)


@pytest.fixture(scope="module")
def filled(influx):
    bucket = influx.new_bucket("schema")
    writer = InfluxWriter(influx.url, influx.token, influx.org, bucket)
    writer.start()
    now_ns = time.time_ns()
    for _ in range(2):  # what is written again replaces itself
        ticket = writer.put(points(now_ns))
        assert writer.wait(ticket, 30.0), writer.stats.last_error
    assert writer.stats.refused == 0, writer.stats.last_error
    writer.close(5.0)
    return influx, bucket


def query(filled, words):
    influx, bucket = filled
    (found,) = [text for text in QUERIES if words in text]
    return influx.query(bucket, found)


@pytest.mark.parametrize("text", QUERIES, ids=range(len(QUERIES)))
def test_every_query_of_the_page_gives_rows(filled, text):
    influx, bucket = filled
    rows = influx.query(bucket, text)
    assert rows
    assert all(any(value is not None for value in row.values()) for row in rows)


def test_the_newest_status_is_that_of_the_last_window(filled):
    rows = query(filled, "last(state)")
    assert {row["sensor"]: row["state"] for row in rows} == {SENSOR: 3, DUMB: -3}


def test_an_open_case_is_told_in_words(filled):
    (row,) = query(filled, "FROM cases")
    assert (row["asset"], row["severity"], row["acked"]) == ("mill/wet_end/pump3", 3, False)
    assert "6.4-7.7 kHz band departs" in row["sentence"]


def test_availability_counts_windows_that_can_be_believed(filled):
    percent = {row["sensor"]: row["percent"] for row in query(filled, "mean(ok)")}
    assert percent[SENSOR] == 100.0
    assert percent[DUMB] == pytest.approx(100.0 * (WINDOWS - 1) / WINDOWS)


def test_only_the_sensor_that_lies_is_listed(filled):
    (row,) = query(filled, "WHERE ok = 0")
    assert (row["sensor"], row["faults"]) == (DUMB, "silent")


def test_writing_twice_leaves_one_point_each(filled):
    influx, bucket = filled
    found = influx.query(bucket, "SELECT count(ok) FROM sensor_health GROUP BY sensor")
    assert {row["sensor"]: row["count"] for row in found} == {SENSOR: WINDOWS, DUMB: WINDOWS}
    assert [row["times"] for row in query(filled, "FROM stream_event")] == [1]


def test_bands_come_in_order_of_frequency(filled):
    bands = [row["band"] for row in query(filled, "FROM drift_band")]
    assert sorted(set(bands)) == [f"{1280 * k:06d}" for k in range(8)]


def test_a_stranger_is_named_without_a_series_of_its_own(filled):
    assert [row["sensor_id"] for row in query(filled, "distinct(sensor_id)")] == [STRANGER]
    influx, bucket = filled
    names = influx.query(bucket, "SHOW TAG VALUES WITH KEY = sensor")
    assert {row["value"] for row in names} == {SENSOR, DUMB, "unknown"}
