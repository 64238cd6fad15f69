"""`echowatch replay` on a real broker."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from connectors.kafka_producer import ChunkProducer
from connectors.kafka_records import partition_of
from connectors.kafka_tail import TopicView
from pipeline.cli import main
from pipeline.messages import NS_PER_S
from pipeline.replay.record import Sent
from pipeline.replay.stream import ChunkStream, Selection
from pipeline.wire import encode
from replay_cases import (
    MACHINES,
    NOON_NS,
    RATE_HZ,
    access_to,
    by_sensor,
    chunk,
    expected,
    new_topic,
    recordings,
    stored,
)

DEADLINE_S = 60.0


def call(*arguments):
    """Exit code of a command line, run in this process."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code or 0


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty current folder and no settings from outside."""
    for name in [name for name in os.environ if name.startswith("ECHOWATCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def broker(kafka, place, monkeypatch):  # noqa: ARG001  (the settings must go first)
    """The shared broker, and settings that name it."""
    monkeypatch.setenv("ECHOWATCH_KAFKA__BOOTSTRAP", kafka.bootstrap)
    monkeypatch.setenv("ECHOWATCH_KAFKA__ALLOW_PLAINTEXT", "true")
    return kafka


def fast(*more):
    return ("--speed", "max", "--max-lag", 0, *more)


def record_of(folder=Path()):
    (path,) = Path(folder).glob("replay-*.json")
    return path, json.loads(path.read_text())


def test_a_topic_gets_exactly_the_chunks_of_the_recordings(broker, place):
    topic = new_topic(broker)
    assert call("replay", recordings(place / "logs"), "--topic", topic, *fast()) == 0
    found, chunks = stored(broker, topic), expected(place / "logs")
    assert by_sensor(c for _, c in found) == by_sensor(chunks)
    assert {p for p, c in found if c.sensor_id == "pump"} == {partition_of(b"pump", 3)}
    _, record = record_of()
    assert record["status"] == "finished"
    assert record["totals"] == {
        "chunks": len(chunks),
        "samples": sum(c.samples.size for c in chunks),
        "bytes": sum(len(encode(c)) for c in chunks),
    }
    assert record["sensors"]["fan"]["first_ns"] == NOON_NS + NS_PER_S // 2


def test_a_dry_run_tells_what_would_be_sent_and_sends_nothing(broker, place, capsys):
    topic = new_topic(broker)
    logs = recordings(place / "logs", seconds=3)
    assert call("replay", logs, "--topic", topic, "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    chunks = expected(logs)
    assert plan["totals"]["chunks"] == len(chunks)
    assert {name: t["partition"] for name, t in plan["sensors"].items()} == {
        name: partition_of(name.encode(), 3) for name in MACHINES
    }
    assert plan["sensors"]["mill"]["rate_hz"] == RATE_HZ
    assert stored(broker, topic) == []
    assert list(place.glob("replay-*")) == []
    assert call("replay", logs, "--topic", topic, "--dry-run", "--loop", 3) == 0
    assert "pump" in (said := capsys.readouterr().out)
    assert "3 times" in said


def test_all_options_of_time_and_names_meet_on_the_topic(broker, place):
    topic, logs = new_topic(broker), recordings(place / "logs", seconds=4)
    (place / "map.yaml").write_text("pump: press/de\n")
    options = ["--from", "2024-05-01T12:00:01Z", "--until", "2024-05-01T12:00:03Z", "--loop", 2]
    options += ["--shift", 3600, "--map", "map.yaml", "--prefix", "line2/"]
    assert call("replay", logs, "--topic", topic, *fast(*options)) == 0
    found = by_sensor(c for _, c in stored(broker, topic))
    assert set(found) == {"line2/press/de", "line2/fan", "line2/mill", "line2/crane"}
    pump = found["line2/press/de"]
    assert [(epoch, start_ns) for _, epoch, _, start_ns, *_ in pump] == [
        (lap, NOON_NS + (3601 + 2 * lap) * NS_PER_S + n * NS_PER_S // 2)
        for lap in range(2)
        for n in range(4)
    ]


def test_a_finished_replay_is_repeated_only_when_asked_to(broker, place, capsys):
    topic, logs = new_topic(broker), recordings(place / "logs", seconds=2)
    command = ("replay", logs, "--topic", topic, *fast())
    assert call(*command) == 0
    once = len(stored(broker, topic))
    assert call(*command) == 1
    assert "was finished at" in capsys.readouterr().err
    assert len(stored(broker, topic)) == once
    assert call(*command, "--again") == 0
    assert len(stored(broker, topic)) == 2 * once


def test_an_interrupted_replay_goes_on_only_as_the_same_one(broker, place, capsys):
    topic, logs = new_topic(broker), recordings(place / "logs", seconds=2)
    assert call("replay", logs, "--topic", topic, *fast("--resume", "r.json")) == 0
    text = json.loads(Path("r.json").read_text())
    Path("r.json").write_text(json.dumps({**text, "status": "interrupted"}))
    more = ("--topic", topic, "--resume", "r.json")
    assert call("replay", logs, *more, *fast("--prefix", "x")) == 1
    assert "belongs to another replay (prefix" in capsys.readouterr().err
    sf.write(logs / "fan_20240501_130000.wav", np.zeros(RATE_HZ, np.int16), RATE_HZ)
    assert call("replay", logs, *more, *fast()) == 1
    assert "recordings have changed" in capsys.readouterr().err
    (logs / "fan_20240501_130000.wav").unlink()
    Path("r.json").write_text(json.dumps({**text, "status": "running", "partitions": 2}))
    assert call("replay", logs, *more, *fast()) == 1
    assert "had 2 partitions and has 3 now" in capsys.readouterr().err
    offsets = {partition: offset + 50 for partition, offset in text["offsets"].items()}
    Path("r.json").write_text(json.dumps({**text, "status": "running", "offsets": offsets}))
    assert call("replay", logs, *more, *fast()) == 1
    assert "was made anew" in capsys.readouterr().err


def wrong_uses(topic, logs):
    yield 2, ["--speed", "0"], "above 0, or max"
    yield 2, ["--speed", "quick"], "above 0, or max"
    yield 2, ["--loop", "0"], "from 1 on, or forever"
    yield 2, ["--shift", "soon"], "or now"
    yield 2, ["--from", "yesterday"], "ISO-8601"
    yield 2, ["--to", "paper"], "kafka"
    yield 1, ["--from", "2030-01-01", *fast()], "within --from and --until"
    yield 1, ["--map", "absent.yaml"], "No such file"
    yield 1, ["--topic", "never-made", *fast()], "topics create"
    yield 1, ["--resume", "absent/r.json", *fast()], "cannot be made"
    del topic, logs


def test_what_a_person_can_mend_is_one_clear_line(broker, place, capsys):
    topic, logs = new_topic(broker), recordings(place / "logs", seconds=1)
    for code, arguments, said in wrong_uses(topic, logs):
        assert call("replay", logs, "--topic", topic, *arguments) == code, arguments
        shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
        assert said in shown, arguments
        assert "Traceback" not in shown


def test_chunks_that_break_the_contract_end_the_replay_or_are_left_out(broker, place, capsys):
    topic, logs = new_topic(broker), place / "logs"
    logs.mkdir()
    # A clock that was never set: the contract refuses times before 1990.
    sf.write(logs / "old_19850501_120000.wav", np.ones(RATE_HZ, np.int16), RATE_HZ)
    sf.write(logs / "new_20240501_120000.wav", np.ones(RATE_HZ, np.int16), RATE_HZ)
    command = ("replay", logs, "--topic", topic, *fast())
    assert call(*command) == 1
    assert "old at 1985-05-01T12:00:00.000000 cannot be sent: bad_start" in capsys.readouterr().err
    assert call(*command, "--on-error", "skip") == 0
    assert "2 left out" in capsys.readouterr().err
    assert set(by_sensor(c for _, c in stored(broker, topic))) == {"new"}


def test_nothing_is_sent_that_workers_would_refuse_as_future(broker, place, capsys, monkeypatch):
    topic, logs = new_topic(broker), recordings(place / "logs", seconds=4)
    command = ("replay", logs, "--topic", topic, *fast("--shift", "now"))
    monkeypatch.setenv("ECHOWATCH_WORKER__FUTURE_S", "2")
    assert call(*command) == 1
    assert "ECHOWATCH_WORKER__FUTURE_S" in capsys.readouterr().err
    ends_ns = [c.end_ns for _, c in stored(broker, topic)]
    assert max(ends_ns) <= time.time_ns() + 2 * NS_PER_S
    assert record_of()[1]["status"] == "interrupted"
    # As when the command is given again later: it goes on with the rest.
    monkeypatch.setenv("ECHOWATCH_WORKER__FUTURE_S", "60")
    assert call(*command) == 0
    sent = by_sensor(c for _, c in stored(broker, topic))
    assert {name: len(chunks) for name, chunks in sent.items()} == {
        name: len(chunks) for name, chunks in by_sensor(expected(logs)).items()
    }


def test_two_replays_of_one_record_do_not_mix(broker, place, capsys):
    from pipeline.replay.replay import _alone

    topic, logs = new_topic(broker), recordings(place / "logs", seconds=1)
    with _alone(Path("r.json")):
        assert call("replay", logs, "--topic", topic, *fast("--resume", "r.json")) == 1
    assert "in use by another replay" in capsys.readouterr().err


class Running:
    """The command line in a process of its own."""

    def __init__(self, *arguments):
        line = [sys.executable, "-c", "from pipeline.cli import main; main()", "replay"]
        self.process = subprocess.Popen(
            line + [str(argument) for argument in arguments],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        )

    def end(self, number=None):
        """(exit code, what it said)."""
        if number is not None:
            self.process.send_signal(number)
        said = self.process.communicate(timeout=DEADLINE_S)[1].decode()
        return self.process.returncode, said


def wait_for(view, messages, running):
    """Until a topic holds so many messages."""
    until = time.monotonic() + DEADLINE_S
    while sum(span.end - span.begin for span in view.spans().values()) < messages:
        assert running.process.poll() is None, running.end()
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_replay_that_is_killed_again_and_again_leaves_no_gap_and_no_double(broker, place):
    topic, logs = new_topic(broker), recordings(place / "logs", seconds=60)
    chunks = expected(logs)
    command = (logs, "--topic", topic, "--max-lag", 0, "--loop", 2, "--shift", "now")
    with closing(TopicView(access_to(broker), topic)) as view:
        for fraction in (0.1, 0.35, 0.6, 0.8):
            running = Running(*command, "--speed", 20)
            wait_for(view, round(fraction * 2 * len(chunks)), running)
            assert running.end(signal.SIGKILL)[0] == -signal.SIGKILL
    _, killed = record_of()
    assert killed["status"] == "running"
    code, said = Running(*command, "--speed", "max").end()
    assert code == 0, said
    _, record = record_of()
    shift_ns = record["shift_ns"]
    assert (record["sessions"], record["status"]) == (5, "finished")
    assert record["totals"]["chunks"] == 2 * len(chunks)
    whole = ChunkStream(lambda: iter(chunks), Selection(laps=2), shift_ns=shift_ns)
    assert by_sensor(c for _, c in stored(broker, topic)) == by_sensor(c for _, c in whole)
    undisturbed = Sent({})
    for number, one in whole:
        undisturbed.add(number, one, encode(one))
        undisturbed.stored(number, 0, number)
    for name, tally in undisturbed.tallies.items():
        assert record["sensors"][name]["sha256"] == tally.sha256


def test_ctrl_c_keeps_what_was_sent_and_says_how_to_go_on(broker, place):
    topic, logs = new_topic(broker), recordings(place / "logs", seconds=20)
    command = (logs, "--topic", topic, "--max-lag", 0)
    with closing(TopicView(access_to(broker), topic)) as view:
        running = Running(*command, "--speed", 5)
        wait_for(view, 20, running)
        code, said = running.end(signal.SIGINT)
        assert code == 130
        assert "the same command goes on" in said
        _, record = record_of()
        assert record["status"] == "interrupted"
        # All that was sent is acknowledged, and known to be.
        assert record["count"] == sum(span.end for span in view.spans().values())
    assert call("replay", *command, "--speed", "max") == 0
    assert by_sensor(c for _, c in stored(broker, topic)) == by_sensor(expected(logs))


def test_workers_that_do_not_read_hold_a_replay_at_the_limit(broker, place):
    topic, logs = new_topic(broker), recordings(place / "logs", seconds=20)
    with closing(TopicView(access_to(broker), topic)) as view:
        running = Running(logs, "--topic", topic, "--speed", "max", "--max-lag", 40)
        wait_for(view, 40, running)
        code, said = running.end(signal.SIGTERM)
        assert code == 130, said
        assert sum(span.end for span in view.spans().values()) == 40


def test_a_broker_that_goes_away_and_comes_back_costs_nothing_but_time(
    kafka_own, place, monkeypatch
):
    monkeypatch.setenv("ECHOWATCH_KAFKA__BOOTSTRAP", kafka_own.bootstrap)
    topic, logs = new_topic(kafka_own), recordings(place / "logs", seconds=20)
    with closing(TopicView(access_to(kafka_own), topic)) as view:
        running = Running(logs, "--topic", topic, "--speed", 5)
        wait_for(view, 30, running)
    kafka_own.kill()
    kafka_own.start()
    code, said = running.end()
    assert code == 0, said
    assert by_sensor(c for _, c in stored(kafka_own, topic)) == by_sensor(expected(logs))


def test_foreign_messages_on_the_topic_are_no_chunks_of_ours(broker, place):
    topic, logs = new_topic(broker), recordings(place / "logs", seconds=3)
    with closing(ChunkProducer(access_to(broker), topic, acked=lambda *_: None)) as other:
        for number in range(30):
            other.send(number, chunk(number, sensor="other"))
        other.send(31, chunk(0), payload=b"no chunk at all")
        assert other.flush(30)
    assert call("replay", logs, "--topic", topic, *fast("--resume", "r.json")) == 0
    # As if it had been killed before the record knew of anything that was sent.
    text = json.loads(Path("r.json").read_text())
    begun = {**text, "status": "running", "count": 0, "sensors": {}}
    begun["offsets"] = dict.fromkeys(text["offsets"], 0)
    Path("r.json").write_text(json.dumps(begun))
    assert call("replay", logs, "--topic", topic, *fast("--resume", "r.json")) == 0
    found = by_sensor(c for _, c in stored(broker, topic) if c.sensor_id != "other")
    assert found == by_sensor(expected(logs))
    assert json.loads(Path("r.json").read_text())["sensors"] == text["sensors"]


def test_options_of_reading_reach_the_readers(broker, place):
    topic = new_topic(broker)
    np.save(place / "bare.npy", np.arange(4000, dtype=np.int16))
    given = ["--rate", 1000, "--unit", "g", "--scale", 0.5, "--start", "2024-05-01T12:00:00Z"]
    assert call("replay", "bare.npy", "--topic", topic, *fast(*given)) == 0
    chunks = expected(
        place / "bare.npy", sample_rate_hz=1000, unit="g", scale=0.5, start="2024-05-01T12:00:00Z"
    )
    assert by_sensor(c for _, c in stored(broker, topic)) == by_sensor(chunks)
