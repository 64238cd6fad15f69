"""Laws of the files of alert rules, contact points and policies."""

import re
from pathlib import Path

import pytest
import yaml

from alert_cases import ALERTING, loaded, rule_table, rules
from pipeline.point_schema import SCHEMA, STATUS_CODES

IN_FORCE, RULES, SEEN = rule_table.IN_FORCE, rule_table.RULES, rule_table.SEEN
ROOT = Path(__file__).resolve().parents[1]
RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
FILES = {file.name: file.read_text(encoding="utf-8") for file in ALERTING.glob("*.yaml")}
NAMES = [rule.name for rule in RULES]
# domain.md 4: the rules that a plant needs, each with its delay and its severity.
WANTED = {
    "DriftAlarm": ("0s", "critical"), "DriftAlert": ("10m", "warning"),
    "DriftAdvisory": ("30m", "info"), "IsoZoneC": ("30m", "warning"),
    "IsoZoneD": ("5m", "critical"), "SensorSilent": ("5m", "warning"),
    "AreaSilent": ("5m", "critical"), "SensorFault": ("15m", "warning"),
    "PipelineLag": ("5m", "critical"), "LatencyP99": ("10m", "warning"),
    "DroppedWindows": ("10m", "warning"), "DeadLetters": ("10m", "warning"),
    "WorkerDown": ("2m", "critical"), "InfluxWriteFail": ("2m", "critical"),
    "ScoreNaN": ("0s", "critical"), "ModelMismatch": ("0s", "critical"),
    "Watchdog": ("0s", "none"),
}  # fmt: skip


def load(name):
    return yaml.safe_load(FILES[name])


def sections():
    """Heading -> text of the page."""
    parts = re.split(r"^## (\w+)\n", RUNBOOKS, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_file_is_what_the_table_says_and_names_only_what_the_schema_has():
    assert list(rules.problems()) == []


def test_every_rule_that_a_plant_needs_is_there_with_its_delay_and_severity():
    found = {rule["title"]: (rule["for"], rule["labels"]["severity"]) for rule in loaded()}
    assert found == WANTED | {"AlarmUnseen": ("1h", "critical")}


@pytest.mark.parametrize("rule", loaded(), ids=lambda rule: rule["title"])
def test_a_rule_says_who_must_know_what_and_what_to_do(rule):
    labels, words = rule["labels"], rule["annotations"]
    assert labels["owner"] in ("maintenance", "instruments", "platform")
    assert labels["scope"] in ("machine", "sensor", "pipeline", "heartbeat")
    assert words["summary"]
    assert words["description"]
    assert words["runbook_url"] == f"docs/runbooks.md#{rule['title'].lower()}"
    assert rule["uid"] == f"echowatch-{rule['title'].lower()}"


def test_every_rule_has_its_section_and_every_section_its_rule():
    assert list(sections()) == NAMES
    for text in sections().values():
        for part in ("**Means:**", "**Check:**", "**Do:**"):
            assert part in text


def test_the_page_states_each_rules_delay_and_severity():
    rows = re.findall(r"^\| \[(\w+)\]\(#(\w+)\) \| (\w+) \| ([^|]*?) \|", RUNBOOKS, re.MULTILINE)
    stated = {name: (delay, severity) for name, _, severity, delay in rows}
    known = {rule.name: (rule.lasts.replace("0s", "at once"), rule.severity) for rule in RULES}
    assert stated == known
    assert all(anchor == name.lower() for name, anchor, *_ in rows)


def test_what_cannot_be_asked_leaves_a_rule_as_it_was_but_for_those_that_tell_of_it():
    states = {rule["title"]: (rule["noDataState"], rule["execErrState"]) for rule in loaded()}
    keep = "${ECHOWATCH_GRAFANA_KEEP}"
    for rule in RULES:
        empty, error = states[rule.name]
        assert error == ("Alerting" if rule.name == "InfluxWriteFail" else keep)
        if rule.scope == "pipeline":
            assert empty == ("Alerting" if rule.name == "WorkerDown" else "OK")
        else:
            assert empty == keep


def test_machine_rules_follow_the_state_that_the_stream_computed():
    codes = {"DriftAlarm": "alarm", "DriftAlert": "alert", "DriftAdvisory": "advisory"}
    for rule in RULES:
        if rule.scope == "machine":
            asked = " ".join(rule.asks.values())
            assert not re.search(r"\b(score|threshold|evidence|rms|ratio)\b", asked)
            assert ("$shelved == 0" in rule.fires) != rule.name.startswith("IsoZone")
        if rule.name in codes:
            assert f"$state == {STATUS_CODES[codes[rule.name]]} " in rule.fires
            assert IN_FORCE in rule.asks["state"]
            assert "90d" in rule.asks["state"]


def test_every_query_of_a_machine_or_sensor_groups_by_its_place():
    for rule in RULES:
        if rule.scope in ("machine", "sensor") and rule.name != "AreaSilent":
            for query in rule.asks.values():
                assert query.endswith("GROUP BY plant, area, line, asset, sensor"), rule.name


def test_no_query_asks_for_another_bucket_or_without_a_bound():
    for rule in loaded():
        for node in rule["data"]:
            if node["datasourceUid"] != "__expr__":
                assert node["datasourceUid"] == "echowatch-influx"
                query = node["model"]["query"]
                assert query.count(" time > now() - ") >= 1
                assert all(name in SCHEMA for name in re.findall(r"FROM (\w+)", query))
    assert rules.seconds(SEEN) <= 30 * 86_400


def test_a_query_that_names_what_is_not_written_is_told():
    assert rules.unknown_names("SELECT last(state) FROM alarm GROUP BY sensor") == []
    wrong = "SELECT last(stat) AS x FROM alarm WHERE time > now() - 90d GROUP BY machine"
    assert rules.unknown_names(wrong) == ["alarm has no machine", "alarm has no stat"]
    assert rules.unknown_names("SELECT last(ok) FROM health") == [
        "no measurement health", "health has no ok"
    ]  # fmt: skip


def test_a_machines_alerts_make_one_message_and_what_falls_silent_together_one_of_its_area():
    (root,) = load("policies.yaml")["policies"]
    machine, silent = (
        next(route for route in root["routes"] if [key, "=", value] in route["object_matchers"])
        for key, value in (("scope", "machine"), ("scope", "sensor"))
    )
    assert machine["group_by"] == ["plant", "asset"]
    assert all("group_by" not in route for route in machine["routes"])
    assert silent["group_by"] == ["plant", "area"]


def test_every_route_leads_to_a_contact_point():
    known = {point["name"] for point in load("contact_points.yaml")["contactPoints"]}
    assert set(re.findall(r"receiver: (\S+)", FILES["policies.yaml"])) <= known


def test_addresses_come_from_the_environment_and_no_secret_is_in_a_file():
    for point in load("contact_points.yaml")["contactPoints"]:
        for receiver in point["receivers"]:
            settings = receiver["settings"]
            address = settings.get("url") or settings.get("addresses")
            assert re.fullmatch(r"\$\{ECHOWATCH_GRAFANA_[A-Z_]+\}", address)
            assert not {"password", "authorization_credentials", "username"} & set(settings)
    for text in FILES.values():
        assert not re.search(r"(?i)password:|token:|https?://", text)


def test_templates_use_only_variables_of_templates():
    # Where Grafana looks for variables of the environment, $name would be taken for one.
    for name in ("contact_points.yaml", "policies.yaml", "rules.yaml"):
        used = set(re.findall(r"\$\{?(\w+)", FILES[name]))
        math = {name for rule in RULES for name in rule.asks}
        assert {u for u in used if not u.startswith("ECHOWATCH_GRAFANA_")} <= math, name
