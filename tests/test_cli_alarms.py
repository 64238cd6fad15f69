"""What a person at the terminal sees of alarms."""

import json
import os
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient

from pipeline.cli import main
from test_operator import finished_run
from worker_cases import ECHOWATCH, wait_for

ALARMS = "ECHOWATCH_KAFKA__ALARMS"


def call(*arguments):
    """Exit code of a command line, run in this process."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code or 0


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty current folder and no settings from outside."""
    for name in [name for name in os.environ if name.startswith("ECHOWATCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def broker(kafka, monkeypatch):
    """Environment with a topic of cases that nobody has made yet."""
    monkeypatch.setenv("ECHOWATCH_KAFKA__BOOTSTRAP", kafka.bootstrap)
    monkeypatch.setenv(ALARMS, f"t{uuid.uuid4().hex[:10]}.alarms")
    return kafka.bootstrap


def case(name, current="alarm", state="open", **more):
    sensor = {"sensor_id": f"{name}/de", "shelved_until_ns": more.get("until_ns", 0)}
    return {
        "version": 1, "case_id": f"{name}|5", "asset": name, "state": state, "current": current,
        "opened_ns": time.time_ns() - 3 * 3600 * 10**9, "acked": more.get("acked", False),
        "shelved": "until_ns" in more, "sentence": f"what is wrong with {name}",
        "sensors": [sensor],
    }  # fmt: skip


def write(bootstrap, *values):
    """Make the topic of cases where it is missing, and write records."""
    topic = os.environ[ALARMS]
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    if topic not in admin.list_topics():
        admin.create_topics({topic: {"num_partitions": 2, "replication_factor": 1}})
        admin.wait_for_topics([topic])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for value in values:
        key = value["case_id"].encode() if isinstance(value, dict) else b"?"
        data = json.dumps(value).encode() if isinstance(value, dict) else value
        producer.send(topic, key=key, value=data).get(30)
    producer.close()


def test_a_stored_run_takes_words_for_several_targets(place, capsys):
    finished_run(place / "out", until=None).close()
    assert call("alarms", "ack", "out", "p/pump/de", "p/pump/nde", "--by", "eva") == 0
    out = capsys.readouterr().out
    assert "p/pump/de: ack by eva, now ok" in out
    assert "p/pump/nde: ack by eva, now ok" in out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("rebaseline out x --by e --why w", 2, "echowatch run ... --fresh"),
        ("maintenance out x --by e --why w", 2, "only the live plant (kafka) takes this"),
        ("list out --watch 1", 2, "a folder does not change"),
        ("shelve kafka x --by e", 2, "Missing option '--why'"),
        ("ack kafka x", 2, "Missing option '--by'"),
    ],
)
def test_what_a_folder_cannot_do_is_told(capsys, arguments, code, said):
    assert call("alarms", *arguments.split()) == code
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize("verb", [["list"], ["ack"]])
def test_without_a_topic_of_cases_the_remedy_is_named(broker, capsys, verb):  # noqa: ARG001
    rest = [] if verb == ["list"] else ["x", "--by", "eva"]
    assert call("alarms", *verb, "kafka", *rest) == 1
    assert "no worker has written" in (said := capsys.readouterr().err)
    assert "echowatch topics create" in said


def test_a_folder_of_that_name_is_not_hidden(broker, capsys):  # noqa: ARG001
    Path("kafka").mkdir()
    call("alarms", "list", "kafka")
    assert "the folder of that name is ./kafka" in capsys.readouterr().err
    assert call("alarms", "list", "./kafka") == 1
    assert "holds no echowatch.sqlite" in capsys.readouterr().err


def test_the_list_has_the_newest_of_every_open_case_worst_first(broker, capsys):
    until_ns = 1_700_000_000_000_000_000
    write(
        broker,
        case("p/a", "ok"),
        case("p/b", "alert"),
        case("p/c", acked=True, until_ns=until_ns),
        case("p/d", "ok", "closed"),
        case("p/e", state="superseded"),
        case("p/f", current="unheard of"),
        b"no case",
        b"[1]",
        {"case_id": "p/g|5", "version": 2},
        case("p/a", "advisory"),
    )
    assert call("alarms", "list", "kafka") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[::2] == [
        "ALARM    p/c|5  3 h, acknowledged, shelved until 2023-11-14 22:13Z",
        "ALERT    p/b|5  3 h",
        "ADVISORY p/a|5  3 h",
    ]
    assert lines[1] == "         what is wrong with p/c"
    assert call("alarms", "list", "kafka", "--all", "--json") == 0
    assert [c["asset"] for c in json.loads(capsys.readouterr().out)] == ["p/c", "p/b", "p/a", "p/d"]


def test_an_order_that_nobody_would_take_is_refused_before_it_is_sent(broker, capsys):
    write(broker, case("p/a"))
    assert (
        call("alarms", "shelve", "kafka", "p/a", "--by", "e", "--why", "w", "--hours", "200") == 1
    )
    assert "must last > 0 s and <= 604800 s" in capsys.readouterr().err


def test_watching_tells_changes_until_it_is_interrupted(broker, place):
    write(broker, case("p/a", "alert"))
    log = place / "seen"
    with log.open("w") as out:
        watching = subprocess.Popen(
            [ECHOWATCH, "alarms", "list", "kafka", "--watch", "0.5"], stdout=out, env=os.environ
        )
    try:
        wait_for(lambda: "ALERT    p/a|5" in log.read_text(), "the first case", 60)
        write(broker, case("p/a", "alarm"))
        wait_for(lambda: "ALARM    p/a|5" in log.read_text(), "the change", 60)
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 130
        assert log.read_text().count("p/a|5") == 2
    finally:
        watching.kill()
        watching.wait()
