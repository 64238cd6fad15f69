"""The boards on a real Grafana: every question is answered, nothing on them is broken."""

import copy
import re
import time

import pytest

from board_cases import NAMES, board, panel, panels
from board_questions import Asked, hours_of, post, sources_of
from pipeline.point_schema import SCHEMA

pytestmark = pytest.mark.stack

S, DAY_MS = 1_000_000_000, 86_400_000
RAW, HOURS = "echowatch-influx", "echowatch-influx-1h"
PLACE = "plant=mill,area=wet_end,line=one,asset=mill/wet_end/pump3"
EVENTS = ("ack", "shelve", "maintenance", "rebaseline", "model")
VALUES = {"float": "1.5", "int": "1i", "bool": "true", "str": '"words"'}


def line(measurement, tags, at_ns, **values):
    """Line protocol of one point with every field; `values` where it matters."""
    fields = {name: VALUES[info.kind] for name, info in SCHEMA[measurement].fields.items()}
    written = ",".join(f"{name}={value}" for name, value in (fields | values).items())
    return f"{measurement},{tags} {written} {at_ns}"


def everything(now_ns):
    """Points such that no question of any board may go unanswered: nothing goes well here."""
    out = []
    for ago_s in range(60, 0, -10):
        at = now_ns - ago_s * S
        state = f"{ago_s // 10 % 3 + 1}i"
        for point, faults in (("de", "silent"), ("nde", "clipping")):
            tags = f"{PLACE},sensor=mill/wet_end/pump3/{point},point={point},axis=h"
            health = {"ok": "0i", "faults": f'"{faults}"', "state": state}
            out.append(line("sensor_health", tags, at, **health))
            out += [line(name, tags, at) for name in ("vib_features",)]
            out.append(line("drift", f"{tags},model=nano", at))
            out.append(line("drift_band", f"{tags},model=nano,band=001280", at))
            out.append(line("stream_event", f"{tags},kind=gap", at))
            shelved = f"{now_ns + 3600 * S}i"
            out.append(
                line("alarm", f"{tags},kind=drift", at, action='"raise"', state=state,
                     shelved_until_ns=shelved)
            )  # fmt: skip
        opened = f"{at / S - 3 * 86_400}"
        out.append(line("cases", PLACE, at, opened_s=opened, acked="false", shelved="false"))
        out += [line("event", f"{PLACE},type={kind}", at) for kind in EVENTS]
        out.append(line("pipeline", "host=h1,role=signals", at, dead_letters=f"{60 - ago_s}"))
        out.append(line("pipeline", "host=h1,role=cases", at))
        out.append(line("pipeline", "host=h1,role=signals,topic=t,partition=0", at))
    at = now_ns - 40 * DAY_MS * 10**6
    out.append(line("cases", PLACE.replace("pump3", "pump9"), at, open="true"))
    for days in (1, 2):
        at = now_ns - days * DAY_MS * 10**6
        out.append(line("pipeline", "host=h1,role=signals", at, dead_letters="0", sink_refused="0"))
    return "\n".join(out)


@pytest.fixture(scope="module")
def worst(grafana, influx):
    """A bucket in which everything goes wrong, asked through data sources of its own."""
    now = time.time_ns()
    bucket = influx.new_bucket("worst")
    post(influx, f"/api/v2/write?org={influx.org}&bucket={bucket}", everything(now), "text/plain")
    times = (now // 10**6 - 7 * DAY_MS, now // 10**6)
    with hours_of(influx, bucket, times[1] - 120_000, times[1]) as hours:
        buckets = {"worst": bucket, "worst-1h": hours}
        with sources_of(grafana, influx, buckets):
            asset = "mill/wet_end/pump3"
            yield Asked(grafana, list(buckets), times, asset, f"{asset}/de")


@pytest.fixture(scope="module")
def plant(grafana, influx, board_plant):
    """The simulated plant; its machine whose case changed last."""
    bucket = board_plant.bucket
    times = (board_plant.start_ns // 10**6 - 600_000, time.time_ns() // 10**6)
    cases = influx.query(bucket, "SELECT last(open) AS open, first_out FROM cases GROUP BY asset")
    newest = max((case for case in cases if case["open"]), key=lambda case: case["time"])
    return Asked(grafana, (RAW, HOURS), times, newest["asset"], newest["first_out"])


@pytest.mark.parametrize("name", NAMES)
def test_every_question_is_answered_where_everything_goes_wrong(worst, name):
    assert worst.unanswered(name, board(name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_shows_something_of_the_plant_or_says_why_not(plant, name):
    assert plant.empty(name, board(name)) == []


def number(asked, name, title):
    """The one number of a panel."""
    one = panel(board(name), title)
    (target,) = one["targets"]
    (found,) = asked.values(name, one, target)
    return found


@pytest.mark.parametrize("days", [1, 7])
def test_what_is_raised_per_day_does_not_depend_on_where_midnight_lies(worst, days):
    begin, end = worst.times[1] - days * DAY_MS, worst.times[1]
    asked = Asked(worst.grafana, worst.sources, (begin, end), worst.asset, worst.sensor)
    assert number(asked, "alarm_kpi", "Raised per day") == pytest.approx(12 / days)


@pytest.mark.parametrize(
    ("name", "title"), [("fleet", "Open cases, worst first"), ("alarm_kpi", "Standing longest")]
)
def test_a_case_that_has_stood_for_forty_days_is_still_listed(worst, name, title):
    one = panel(board(name), title)
    listed = [value for target in one["targets"] for value in worst.values(name, one, target)]
    assert "mill/wet_end/pump9" in listed


def test_a_worker_of_two_roles_is_one_worker(worst):
    assert number(worst, "pipeline", "Workers") == 1


@pytest.mark.parametrize("name", NAMES)
def test_variables_and_marks_have_values(worst, name):
    content = board(name)
    begin, end = worst.times
    chosen = {"plant": ".*", "area": ".*", "line": ".*", "asset": ".*"}
    chosen |= {"asset": worst.asset} if name == "asset" else {}
    asked = [v["query"] for v in content["templating"]["list"] if v["type"] == "query"]
    asked += [mark["target"]["query"] for mark in content["annotations"]["list"]]
    for query in asked:
        assert worst.grafana.query(worst.sources[0], query, begin, end, chosen), query


@pytest.mark.parametrize("broken", ["SELECT nothing FROM drift", "SELECT max(ratio FROM drift"])
def test_a_broken_question_is_found(worst, broken):
    content = copy.deepcopy(board("fleet"))
    panel(content, "How far from the alarm limit")["targets"][0]["query"] = broken
    (found,) = worst.unanswered("fleet", content)
    assert found.startswith("How far from the alarm limit A: ")


def looked(plant, path, width, expected, file=None):
    """What Chromium sees, once all panels are there."""
    begin, end = plant.times
    address = f"{path}?kiosk&from={begin}&to={end}&var-asset={plant.asset}"
    if "asset" not in path:
        address = address.partition("&var-asset")[0]
    for _ in range(3):
        seen = plant.grafana.screenshot(address, width, 0, file)
        if seen["panels"] >= expected:
            break
    return seen


@pytest.mark.parametrize(("name", "width"), [*((name, 1600) for name in NAMES), ("fleet", 390)])
def test_nothing_on_a_board_is_broken(plant, name, width, tmp_path):
    content = board(name)
    expected = sum(one["type"] != "row" for one in content["panels"])
    file = tmp_path / "board.png"
    seen = looked(plant, f"/d/{content['uid']}", width, expected, file)
    assert seen["broken"] == []
    assert seen["panels"] >= expected
    assert file.stat().st_size > 20_000


def test_a_broken_panel_is_seen(plant):
    content = board("fleet") | {"uid": "broken", "title": "Broken", "id": None}
    title = "How far from the alarm limit"
    asked = panel(content, title)["targets"][0]
    asked["query"] = re.sub(r"max\(ratio\)", "max(ratios)", asked["query"])
    plant.grafana.call("POST", "/api/dashboards/db", {"dashboard": content, "overwrite": True})
    try:
        seen = looked(plant, "/d/broken", 1600, len(panels(content)))
    finally:
        plant.grafana.call("DELETE", "/api/dashboards/uid/broken")
    assert {name for name, _ in seen["broken"]} == {title}
