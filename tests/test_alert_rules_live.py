"""Every alert rule on a real Grafana: faults of a plant in, messages at a webhook out."""

import re
import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from types import SimpleNamespace

import pytest
from kafka import KafkaProducer

import services
from alert_cases import (
    CALM,
    CLIPPED,
    FLEET,
    PLANT,
    QUIET,
    SICK,
    SICK_TO,
    WELL_TO,
    Reports,
    captures,
    hasty,
    is_gone,
    listening,
    loaded,
    moved,
)
from connectors.influx import InfluxWriter
from pipeline.fleet import Fleet, SensorInfo
from pipeline.points import PointMaker
from service_grafana import GRAFANA, GrafanaServer
from service_influx import InfluxServer
from worker_cases import Plant

pytestmark = pytest.mark.stack

S = 1_000_000_000
DAY = 86_400 * S
SNAPSHOTS, RUNBOOKS = "https://plant.example/look", "https://plant.example/runbooks"
SETTINGS = {"ECHOWATCH_LEARNING__MIN_WINDOWS": "32", "ECHOWATCH_WORKER__DRAIN_S": "3"}
NAMES = [rule["title"] for rule in loaded()]
MACHINE = [rule["title"] for rule in loaded() if rule["labels"]["scope"] == "machine"]
PAGE = (GRAFANA.parent / "docs" / "runbooks.md").read_text(encoding="utf-8")
COMMANDS = sorted({
    line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
})  # fmt: skip
ROLL = "mill/wet/roll"
ROLLS = [f"{ROLL}/p{n:02d}/h" for n in range(20)]
# Sensors of a machine that only points tell of.
PRESS = {
    name: f"mill/wet/press/{name}/h"
    for name in ("advisory", "acked", "shelved", "stopped", "aged", "back", "relearnt")
}
FOUND = Fleet((
    *PLANT.sensors,
    *(SensorInfo(name, ROLL, "mill", "wet", "", name.split("/")[3], "h") for name in ROLLS),
    *(SensorInfo(name, "mill/wet/press", "mill", "wet") for name in PRESS.values()),
))  # fmt: skip


def history(now_ns):
    """How the alarms of machines stand that the worker does not watch."""

    def press(name, ago_s, after, action="raise", **more):
        at_ns = now_ns - round(ago_s * S)
        return moved(PRESS[name], "mill/wet/press", at_ns, after, action, **more)

    return [
        *(moved(name, ROLL, now_ns - 60 * S, "alert") for name in ROLLS),
        press("advisory", 60, "advisory"),
        press("acked", 900, "alarm"),
        press("acked", 600, "alarm", "ack", acked=True, by="eva"),
        press("shelved", 900, "alarm"),
        press("shelved", 600, "alarm", "shelve", shelved_until_ns=now_ns + 3600 * S, by="eva"),
        press("stopped", 900, "alarm"),
        press("stopped", 600, "stopped", "stop", before="alarm"),
        press("aged", 60 * 86_400, "alarm"),
        press("back", 60 * 86_400, "alarm"),
        press("back", 59 * 86_400, "ok", "return", before="alarm"),
        press("relearnt", 900, "alarm"),
        press("relearnt", 600, "learning", "learn", before="alarm", by="eva"),
    ]


def calm(now_ns):
    """The same, all well again."""
    return [
        *(moved(name, ROLL, now_ns, "ok", "return", before="alert") for name in ROLLS),
        *(
            moved(name, "mill/wet/press", now_ns, "ok", "return", before="alarm")
            for name in PRESS.values()
        ),
    ]


def said(plant, line):
    """A command of the page on the plant; an order waits for its answer on a busy machine, too."""
    _, *words = shlex.split(line)
    return plant.run(*words, *(["--wait", "60"] if "--by" in words else []))


def poison(plant):
    """Messages that are none."""
    with closing(KafkaProducer(bootstrap_servers=plant.kafka.bootstrap)) as producer:
        for number in range(10):
            producer.send(plant.conf.kafka.signals[0], key=b"gw7", value=b"junk %d" % number)
        producer.flush(30)


@contextmanager
def writing(influx, bucket):
    """A writer as the worker has one."""
    writer = InfluxWriter(influx.url, influx.token, influx.org, bucket)
    writer.start()
    yield writer
    writer.close(2.0)


@contextmanager
def scene(kafka, folder):
    """A worker, its store, a Grafana with hasty rules, and somebody who listens."""
    with services.started(InfluxServer) as influx, listening() as listener:
        fleet = folder / "fleet.yaml"
        fleet.write_text(FLEET, encoding="utf-8")
        plant = Plant(kafka, influx, folder, settings=SETTINGS)
        plant.environment["ECHOWATCH_WORKER__FLEET"] = str(fleet)
        variables = {
            "WEBHOOK_URL": listener.url, "SNAPSHOT_URL": SNAPSHOTS, "RUNBOOK_URL": RUNBOOKS,
            "KEEP": "OK",
        }  # fmt: skip

        def server(place):
            made = GrafanaServer(
                place, influx.url, plant.bucket, influx.token, alerting=True, variables=variables
            )
            made.provisioning = hasty(folder)
            return made

        plant.start()
        try:
            with (
                services.started(server) as grafana,
                writing(influx, plant.bucket) as writer,
                Reports(writer) as reports,
            ):
                yield SimpleNamespace(
                    influx=influx, plant=plant, grafana=grafana, listener=listener, writer=writer,
                    reports=reports,
                )  # fmt: skip
        finally:
            plant.close()


def until(scene, missing, deadline_s=150.0):
    """Wait until nothing is missing."""
    end_s = time.monotonic() + deadline_s
    while left := missing():
        if time.monotonic() > end_s:
            rules = {one["name"]: one for one in scene.grafana.rules()}
            judged = {name: (rules[name]["health"], rules[name]["state"]) for name in left}
            pytest.fail(f"waited {deadline_s:.0f} s for {judged}")
        time.sleep(1.0)


def states(scene, rule):
    """Sensor -> state of its alert."""
    (found,) = [one for one in scene.grafana.rules() if one["name"] == rule]
    return {alert["labels"].get("sensor"): alert["state"] for alert in found["alerts"] or ()}


@pytest.fixture(scope="module")
def story(kafka, tmp_path_factory):
    """Everything goes wrong, is told, is put right, and is told again."""
    with scene(kafka, tmp_path_factory.mktemp("alerts")) as found:
        _break(found)
        found.states = {name: states(found, name) for name in ("DriftAlarm", "AlarmUnseen")}
        _mend(found)
        _outage(found)
        yield found


def _break(found):
    plant, worker = found.plant, found.plant.workers[0]
    found.start_s = time.time() - 30 * 3600
    other = found.influx.new_bucket("replay")
    with writing(found.influx, other) as writer:
        raised = moved("mill/old/mixer/p/h", "mill/old/mixer", time.time_ns(), "alarm")
        assert writer.wait(writer.put(PointMaker(FOUND).transition_points([raised])), 30.0)
    found.writer.put(PointMaker(FOUND).transition_points(history(time.time_ns())))
    plant.send(captures(found.start_s, 0, SICK_TO))
    refused = {"DroppedWindows", "DeadLetters"}
    until(found, lambda: poison(plant) or refused - found.listener.told("firing"))
    plant.finish()
    worker.end()
    until(found, lambda: set(NAMES) - {"InfluxWriteFail"} - found.listener.told("firing"))


def _mend(found):
    plant, before = found.plant, found.plant.workers[0]
    plant.start("--port", str(before.port))
    found.reports.well = True
    found.writer.put(PointMaker(FOUND).transition_points(calm(time.time_ns())))
    plant.send(captures(found.start_s, SICK_TO, WELL_TO))
    plant.finish()
    done = plant.run("alarms", "ack", "kafka", SICK, "--by", "eva", "--wait", "60")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in COMMANDS if line.startswith("echowatch")]
    ended = set(NAMES) - {"InfluxWriteFail", "Watchdog"}
    with ThreadPoolExecutor(2) as pool:  # meanwhile rules resolve
        done = pool.map(lambda line: said(plant, line), lines)
        until(found, lambda: ended - found.listener.told("resolved"))
        found.said = dict(zip(lines, done, strict=True))


def _outage(found):
    found.influx.stop()
    until(found, lambda: {"InfluxWriteFail"} - found.listener.told("firing"))
    found.influx.start()
    until(found, lambda: {"InfluxWriteFail"} - found.listener.told("resolved"))


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_fires_by_its_fault_and_says_where_to_look_and_what_to_do(story, name):
    message, alert = story.listener.messages(name, "firing")[0]
    assert f"{RUNBOOKS}#{name.lower()}" in message
    assert alert["annotations"]["summary"] in message
    assert alert["annotations"]["runbook_url"].endswith(f"#{name.lower()}")
    assert "{{" not in message
    assert "<no value>" not in message


@pytest.mark.parametrize("name", [name for name in NAMES if name != "Watchdog"])
def test_a_rule_resolves_when_its_fault_is_over_and_not_because_data_are_gone(story, name):
    told = story.listener.messages(name, "resolved")
    ends = [text for text, alert in told if not is_gone(alert)]
    assert any("RESOLVED at" in text and f"{RUNBOOKS}#{name.lower()}" in text for text in ends)


def test_the_end_of_an_outage_of_the_store_is_told_as_one(story):
    told = story.listener.messages("InfluxWriteFail", "resolved")
    assert told
    assert not [text for text, alert in told if is_gone(alert)]


@pytest.mark.parametrize("name", MACHINE)
def test_what_is_said_of_a_machine_names_asset_sensor_band_and_case(story, name):
    for status in ("firing", "resolved"):
        message, alert = story.listener.messages(name, status)[0]
        labels = alert["labels"]
        assert alert["annotations"]["summary"].startswith(
            f"{labels['asset']}: sensor {labels['sensor']} is "
        )
        assert " Hz" in alert["annotations"]["description"]
        assert f"{SNAPSHOTS}/case?asset={labels['asset']}" in message
        assert f"{SNAPSHOTS}/sensor?id={labels['sensor']}" in message


def test_a_machine_fault_is_told_of_the_sensor_that_felt_it(story):
    told = {
        alert["labels"]["sensor"] for _, alert in story.listener.messages("DriftAlarm", "firing")
    }
    assert SICK in told
    assert not told & {CLIPPED, CALM, *QUIET}
    for name in ("IsoZoneC", "IsoZoneD"):
        zone = {alert["labels"]["sensor"] for _, alert in story.listener.messages(name, "firing")}
        assert zone == {SICK}


def test_twenty_sensors_of_a_machine_make_one_message(story):
    told = [
        payload
        for payload in story.listener.heard
        if payload["groupLabels"].get("asset") == ROLL and payload["status"] == "firing"
    ]
    assert len(told) == 1
    assert {alert["labels"]["sensor"] for alert in told[0]["alerts"]} == set(ROLLS)


def test_sensors_that_fall_silent_together_are_one_message_of_their_area(story):
    told = [
        (payload["groupLabels"], alert["labels"]["sensor"])
        for payload in story.listener.heard
        for alert in payload["alerts"]
        if (alert["labels"]["alertname"], alert["status"]) == ("SensorSilent", "firing")
    ]
    assert {sensor for _, sensor in told} == set(QUIET)
    assert all(group == {"plant": "mill", "area": "dry"} for group, _ in told)
    (_, alert), *_ = story.listener.messages("AreaSilent", "firing")
    assert alert["labels"]["severity"] == "critical"
    assert "2 sensors are silent" in alert["annotations"]["summary"]


def test_a_clipped_sensor_is_a_fault_of_the_sensor_and_not_of_the_machine(story):
    told = {
        alert["labels"]["sensor"] for _, alert in story.listener.messages("SensorFault", "firing")
    }
    assert told == {CLIPPED}


def test_the_last_state_counts_however_old_and_pauses_end_nothing(story):
    found = story.states["DriftAlarm"]
    assert found[PRESS["aged"]] == "Alerting"
    assert found[PRESS["stopped"]] == "Alerting"
    assert found[PRESS["back"]] == "Normal"
    assert found[PRESS["relearnt"]] == "Normal"


def test_an_acknowledged_alarm_stands_and_nobody_is_reminded(story):
    assert story.states["DriftAlarm"][PRESS["acked"]] == "Alerting"
    assert story.states["AlarmUnseen"][PRESS["acked"]] == "Normal"
    assert story.states["AlarmUnseen"][PRESS["aged"]] == "Alerting"


def test_a_shelved_alarm_tells_nobody(story):
    for name in ("DriftAlarm", "AlarmUnseen"):
        assert story.states[name][PRESS["shelved"]] == "Normal"
    assert not any(
        alert["labels"].get("sensor") == PRESS["shelved"]
        for payload in story.listener.heard
        for alert in payload["alerts"]
    )


def test_what_is_replayed_into_another_bucket_tells_nobody(story):
    assert not any(
        alert["labels"].get("area") == "old"
        for payload in story.listener.heard
        for alert in payload["alerts"]
    )


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("echowatch")])
def test_a_command_of_the_page_does_what_it_says(story, line):
    done = story.said[line]
    # 1: something is missing or differs, which these say in words.
    allowed = (0, 1) if line in ("echowatch influx status", "echowatch topics check") else (0,)
    assert done.returncode in allowed, done.stderr
    assert done.stdout or done.stderr
    assert "Traceback" not in done.stderr


def test_a_recording_that_is_replayed_is_not_late(story):
    hosts = {
        alert["labels"]["host"] for _, alert in story.listener.messages("LatencyP99", "firing")
    }
    assert hosts == {Reports.HOST}


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("curl")])
def test_an_address_of_the_page_answers(story, line):
    (path,) = re.fullmatch(r"curl -s http://127\.0\.0\.1:8620(/\w+)", line).groups()
    status, text = story.plant.workers[0].get(path)  # the second one has its port
    assert status in (200, 503)
    assert text
