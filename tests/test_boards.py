"""Laws of the boards' files; whether their panels show anything is for test_boards_live."""

import json
import re
import subprocess
import sys

import pytest

from board_cases import (
    FOLDER,
    GRAFANA,
    NAMES,
    board,
    board_checks,
    board_parts,
    boards,
    changed,
    panel,
    panels,
    problems,
)
from pipeline.point_schema import SCHEMA, STATUS_CODES

UIDS = {
    "fleet": "echowatch-fleet",
    "asset": "echowatch-asset",
    "sensor_health": "echowatch-sensor-health",
    "pipeline": "echowatch-pipeline",
    "alarm_kpi": "echowatch-alarm-kpi",
}
CHAIN = ["plant", "area", "line", "asset", "sensor"]


def queries(content):
    return [query for _, query, _ in board_checks.queries_of(content)]


def test_files_are_what_the_generator_writes(tmp_path):
    boards.write(tmp_path, boards.SNAPSHOTS)
    for name in NAMES:
        written = (tmp_path / f"{name}.json").read_bytes()
        assert written == (FOLDER / f"{name}.json").read_bytes(), name


def test_there_is_no_other_board():
    assert {file.stem for file in FOLDER.glob("*.json")} == set(NAMES) == set(UIDS)


@pytest.mark.parametrize("name", NAMES)
def test_a_board_has_no_problem(name):
    assert problems(name, board(name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_uids_are_fixed(name):
    assert board(name)["uid"] == UIDS[name]


def test_the_command_line_finds_an_edited_file(tmp_path):
    command = [sys.executable, GRAFANA / "boards.py", "check", "--to", tmp_path]
    boards.write(tmp_path, boards.SNAPSHOTS)
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    file = tmp_path / "fleet.json"
    file.write_text(file.read_text("utf-8").replace("Open cases", "Cases"), encoding="utf-8")
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "fleet.json is not what this would write" in done.stderr


def test_the_address_of_pictures_is_that_of_the_command_line(tmp_path):
    boards.write(tmp_path, "https://watch.example")
    content = json.loads((tmp_path / "fleet.json").read_text("utf-8"))
    (found,) = [v for v in content["templating"]["list"] if v["name"] == "snapshots"]
    assert (found["query"], found["hide"]) == ("https://watch.example", 2)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("SELECT last(okay) AS ok FROM sensor_health", "sensor_health has no okay"),
        ("SELECT score FROM drifts", "no measurement drifts"),
        ("SELECT score FROM drift GROUP BY kind", "drift has no kind"),
        ("SELECT median(score) AS m FROM drift", "drift has no median"),
        ("SELECT x FROM (SELECT score AS y FROM drift)", "drift has no x"),
        ("SHOW TAG VALUES FROM drift WITH KEY = kind", "drift has no kind"),
        ("SELECT score_max FROM drift", "drift has no score_max"),
    ],
)
def test_a_name_that_no_worker_writes_is_found(query, found):
    def broken(content):
        content["panels"][0]["targets"][0]["query"] = query

    (problem,) = problems("fleet", changed("fleet", broken))
    assert found in problem


def test_a_rollup_has_the_fields_of_the_schema_with_endings():
    assert board_checks.unknown_names("SELECT score_max FROM drift", rolled=True) == []
    assert board_checks.unknown_names("SELECT score FROM drift", rolled=True) != []


BREAKS = {
    "the same number": lambda b: b["panels"][1].update(id=b["panels"][0]["id"]),
    "no core panel type": lambda b: b["panels"][0].update(type="graph"),
    "no description": lambda b: b["panels"][0].update(description="  "),
    "asks nothing": lambda b: b["panels"][0].update(targets=[]),
    "overlap": lambda b: b["panels"][1].update(gridPos=b["panels"][0]["gridPos"]),
    "wider than the board": lambda b: b["panels"][-1]["gridPos"].update(x=20),
    "none of the variables": lambda b: b["panels"][0].update(datasource={"uid": "my-influx"}),
    "no variable sensor": lambda b: b["panels"][0]["targets"][0].update(query="${sensor:raw}"),
    "which is no board": lambda b: b["panels"][0].update(links=[{"url": "/d/elsewhere"}]),
    "uid must be": lambda b: b.update(uid="abc"),
}


@pytest.mark.parametrize("found", BREAKS)
def test_a_broken_board_is_found(found):
    assert any(found in problem for problem in problems("fleet", changed("fleet", BREAKS[found])))


@pytest.mark.parametrize("name", NAMES)
def test_data_come_from_the_source_that_was_chosen(name):
    for one in panels(board(name)):
        for target in one["targets"]:
            assert target["datasource"]["uid"] in ("${datasource}", "${longterm}")
            assert target["rawQuery"]


@pytest.mark.parametrize("name", NAMES)
def test_queries_are_bounded_in_time(name):
    for one in panels(board(name)):
        for target in one["targets"]:
            assert re.search(r"\$timeFilter|\$\{__to\}ms - \d+[dm]\b", target["query"])


@pytest.mark.parametrize("name", NAMES)
def test_queries_are_influxql_that_influxdb_3_knows(name):
    for query in queries(board(name)):
        assert "|>" not in query
        assert not re.search(r"\b(top|bottom|sample|cumulative_sum|holt_winters)\(|now\(\)", query)


@pytest.mark.parametrize("name", NAMES)
def test_variables_narrow_one_another(name):
    listed = {v["name"]: v for v in board(name)["templating"]["list"]}
    assert next(iter(listed)) == "datasource"
    chain = [tag for tag in CHAIN if tag in listed]
    assert chain == CHAIN[: len(chain)]
    for number, tag in enumerate(chain[1:], start=1):
        assert f"${{{chain[number - 1]}:" in listed[tag]["query"]
    for tag in set(chain) - ({"asset"} if name == "asset" else set()):
        assert (listed[tag]["multi"], listed[tag]["includeAll"], listed[tag]["allValue"]) == (
            True, True, ".*",
        )  # fmt: skip


def test_every_status_has_its_own_word_and_colour():
    assert {word: code for code, word, _ in board_parts.STATES} == dict(STATUS_CODES)
    colours = [colour for _, _, colour in board_parts.STATES]
    assert len(set(colours)) == len(colours)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_looks_the_same_everywhere(name):
    text = json.dumps(board(name))
    colours = {word: colour for _, word, colour in board_parts.STATES}
    for word, colour in re.findall(r'\{"text": "(\w+)", "index": \d, "color": "([^"]+)"', text):
        assert colours.get(word, colour) == colour


def test_limits_of_machines_come_from_the_data():
    drift = panel(board("asset"), "Drift and its limit")
    assert "max(threshold) AS threshold" in drift["targets"][0]["query"]
    assert drift["fieldConfig"]["defaults"]["thresholds"]["steps"][1:] == []


def test_a_row_of_the_fleet_leads_to_its_machine_at_the_same_time():
    text = json.dumps(board("fleet"))
    assert "/d/echowatch-asset?${__url_time_range}&var-datasource=${datasource}&var-asset=" in text
    assert "${snapshots}/case?asset=" in text
    assert all(link["keepTime"] for link in board("fleet")["links"])


@pytest.mark.parametrize("name", NAMES)
def test_sensors_of_a_machine_are_put_together_over_steps_in_which_all_of_them_send(name):
    for one in panels(board(name)):
        if any("time($__interval), asset fill" in target["query"] for target in one["targets"]):
            assert one.get("interval") == "${step}", one["title"]


def test_a_shift_sees_which_cases_are_acknowledged_and_which_are_shelved():
    cases = panel(board("fleet"), "Open cases, worst first")
    (shown,) = (t["options"] for t in cases["transformations"] if t["id"] == "organize")
    assert {"acked", "shelved"} <= set(shown["renameByName"])


@pytest.mark.parametrize("name", NAMES)
def test_a_link_never_takes_a_shortened_name(name):
    for one in panels(board(name)):
        config = one["fieldConfig"]
        taken = re.findall(r'"url": "[^"]*\$\{__data\.fields\.(\w+)', json.dumps(config))
        shortened = {
            override["matcher"]["options"]
            for override in config["overrides"]
            if any(entry["id"] == "mappings" for entry in override["properties"])
        }
        assert not shortened & set(taken), one["title"]


def test_marks_of_a_machine_are_queried_from_the_store():
    marks = {
        mark["name"]: mark["target"]["query"] for mark in board("asset")["annotations"]["list"]
    }
    assert len([query for query in marks.values() if " FROM alarm " in query]) == 3
    said = {re.search(r"type = '(\w+)'", query)[1] for query in marks.values() if "type =" in query}
    assert said == {"ack", "shelve", "maintenance", "rebaseline", "model"}
    assert "type" in SCHEMA["event"].tags


def test_an_engineer_of_sensors_sees_no_alarm():
    for query in queries(board("sensor_health")):
        assert " FROM alarm" not in query
        assert " FROM cases" not in query
        assert "state" not in query


def test_words_on_tiles_shrink_with_their_tile_so_that_a_phone_cuts_none_off():
    tiles = panel(board("fleet"), "Machines now, worst first")
    assert "text" not in tiles["options"]
    named = {o["matcher"]["options"]: o["properties"] for o in tiles["fieldConfig"]["overrides"]}
    pattern = named["machine"][0]["value"][0]["options"]["pattern"]
    assert re.match(pattern, "mill/machine_hall/press/drive1")[1] == "drive1"
