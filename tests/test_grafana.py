"""The project's Grafana: data sources from files, panels of boards asked and looked at."""

import json
import time
import urllib.error
import urllib.request

import pytest

import services
from service_grafana import GivenGrafana, GrafanaError
from service_influx import DIRECT

pytestmark = pytest.mark.stack

HOUR_MS = 3_600_000
SCORES = "SELECT mean(score) FROM drift WHERE $timeFilter GROUP BY time(1m), sensor fill(none)"


def panel(number, query, kind="timeseries"):
    return {
        "id": number,
        "title": f"panel {number}",
        "type": kind,
        "gridPos": {"x": 0, "y": 8 * number, "w": 24, "h": 8},
        "datasource": {"type": "influxdb", "uid": "echowatch-influx"},
        "targets": [
            {"refId": "A", "rawQuery": True, "query": query, "resultFormat": "time_series"}
        ],
    }


@pytest.fixture(scope="module")
def shown(influx, tmp_path_factory):
    """A Grafana over 5 minutes of three sensors, with one board of good and broken panels."""
    bucket, now = influx.new_bucket("shown"), time.time_ns()
    lines = "\n".join(f"drift,sensor=s{n % 3} score={n} {now - n * 10**9}" for n in range(300))
    url = f"{influx.url}/api/v2/write?org={influx.org}&bucket={bucket}"
    headers = {"Authorization": f"Token {influx.token}"}
    with DIRECT.open(urllib.request.Request(url, lines.encode(), headers), timeout=20):  # noqa: S310
        pass
    panels = [panel(0, SCORES), panel(1, SCORES), panel(9, "SELECT score FROM nothing")]
    panels += [panel(10, "SELECT"), panel(11, SCORES, "no-such-plugin")]
    board = {"uid": "tried", "title": "tried", "schemaVersion": 38, "panels": panels}
    folder = tmp_path_factory.mktemp("boards")
    (folder / "tried.json").write_text(
        json.dumps(board | {"time": {"from": "now-1h", "to": "now"}})
    )
    with services.grafana(influx, bucket, DASHBOARDS=str(folder)) as server:
        yield server


def asked(server, query, variables=None):
    now = time.time_ns() // 10**6
    return server.query("echowatch-influx", query, now - HOUR_MS, now, variables)


def test_a_panel_query_through_grafana_gives_the_rows_of_influx(shown):
    query = "SELECT count(score) FROM drift WHERE sensor =~ /^${sensor:regex}$/ GROUP BY sensor"
    rows = asked(shown, query, {"sensor": ["s0", "s1"]})
    assert {row["sensor"] for row in rows} == {"s0", "s1"}
    assert {row["value"] for row in rows} == {100}


def test_a_query_that_influx_refuses_is_an_error(shown):
    with pytest.raises(GrafanaError, match=r"500.*plugin"):
        asked(shown, "SELECT")


def test_health_of_the_data_source_is_well(shown):
    assert shown.call("GET", "/api/datasources/uid/echowatch-influx/health")["status"] == "OK"


def test_a_picture_names_every_broken_panel_and_no_other(shown, tmp_path):
    file = tmp_path / "tried.png"
    seen = shown.screenshot("/d/tried?kiosk", 1000, 0, file)
    assert seen["panels"] == 5
    assert {title for title, _ in seen["broken"]} == {"panel 9", "panel 10", "panel 11", "page"}
    assert file.read_bytes().startswith(b"\x89PNG")


def test_nobody_sees_anything_without_a_login(shown):
    with pytest.raises(urllib.error.HTTPError, match="401"):
        DIRECT.open(f"{shown.url}/api/dashboards/uid/tried", timeout=20)


def test_no_secret_is_told_by_the_data_sources(shown, influx):
    told = json.dumps(shown.call("GET", "/api/datasources/uid/echowatch-influx"))
    assert influx.token not in told
    assert "echowatch-influx" in told


def test_every_variable_of_the_provisioning_is_given(shown):
    files = list(shown.provisioning.rglob("*.yaml"))
    named = {
        word.partition("}")[0]
        for file in files
        for word in file.read_text("utf-8").split("${ECHOWATCH_GRAFANA_")[1:]
    }
    assert named <= shown.variables.keys()


def test_a_given_grafana_gets_sources_and_boards_and_keeps_none(shown, influx, tmp_path):
    nothing = {"GF_PATHS_PROVISIONING": str(tmp_path)}
    bucket = shown.variables["INFLUX_BUCKET"]
    with services.grafana(influx, bucket, **nothing) as own:
        given = GivenGrafana(own.url, own.admin, influx.url, bucket, influx.token)
        assert asked(given, "SELECT count(score) FROM drift")[0]["value"] == 300
        assert own.call("GET", "/api/search?type=dash-db")
        given.close()
        assert own.call("GET", "/api/datasources") == []
        assert own.call("GET", "/api/search?type=dash-db") == []
