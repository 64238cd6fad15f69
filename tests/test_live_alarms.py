"""What people say to a running plant, on a real Kafka and InfluxDB."""

import json
import signal
import threading

import numpy as np
import pytest

from pipeline.fleet import Fleet, parse_fleet
from pipeline.messages import Flags, SensorChunk
from pipeline.services.live_alarms import LiveError, resolve
from worker_cases import Plant, wait_for

pytestmark = pytest.mark.long

T0_NS = 1_700_000_000_000_000_000
EVERY_NS = 10_000_000_000
LEARNING = 32
LOUD_FROM, LOUD_TO = 40, 50
MILL = [f"mill/pump{n}/de" for n in range(1, 8)]
NEVER_HEARD = "mill/fan/de"
FLEET = """
version: 1
plants:
  - id: mill
    areas:
      - id: hall
        lines:
          - id: one
            assets:
              - {id: fan, points: [{id: de, sensors: [{id: mill/fan/de}]}]}
"""


def captures(sensors, first, last, level):
    """Captures of 1 s of noise, one per 10 s."""
    rng = np.random.default_rng(first)
    for k in range(first, last):
        for sensor_id in sensors:
            samples = rng.normal(0.0, level, 8000).astype(np.float32)
            at_ns = T0_NS + k * EVERY_NS
            yield SensorChunk(
                sensor_id, 8000.0, at_ns, samples, seq=k, unit="g", flags=Flags.END_OF_CAPTURE
            )


def break_down(plant, sensors):
    """Let sensors learn a level, then alarm at six times that."""
    plant.send(captures(sensors, 0, LOUD_FROM, 0.1))
    plant.send(captures(sensors, LOUD_FROM, LOUD_TO, 0.6))


SETTINGS = {"ECHOWATCH_LEARNING__MIN_WINDOWS": str(LEARNING), "ECHOWATCH_WORKER__DRAIN_S": "3"}


@pytest.fixture(scope="module")
def mill(kafka, influx, tmp_path_factory):
    """Seven pumps in alarm, one worker."""
    plant = Plant(kafka, influx, tmp_path_factory.mktemp("mill"), settings=SETTINGS)
    plant.start()
    break_down(plant, MILL)
    plant.finish()
    yield plant
    plant.close()


@pytest.fixture
def plant(kafka, influx, tmp_path):
    made = Plant(kafka, influx, tmp_path, settings=SETTINGS)
    yield made
    made.close()


def case_of(plant, asset):
    found = [case for case in plant.cases() if case["asset"] == asset]
    assert len(found) == 1
    return found[0]


def settled(plant, asset, condition):
    """The case of an asset once it is as it should be."""
    return wait_for(
        lambda: (case := case_of(plant, asset)) and condition(case) and case, "the case"
    )


def said_by(plant, person):
    return [t for t in plant.transitions().values() if t.by == person]


def events(plant, person):
    return [row for row in plant.points("event") if row["author"] == person]


def test_the_list_shows_open_cases_worst_first_and_says_what_was_said(mill):
    done = mill.run("alarms", "list", "kafka", "--json")
    assert done.returncode == 0, done.stderr
    cases = {case["asset"]: case for case in json.loads(done.stdout)}
    assert set(cases) == {sensor_id.rpartition("/")[0] for sensor_id in MILL}
    shown = mill.run("alarms", "list", "kafka").stdout
    assert f"ALARM    {cases['mill/pump1']['case_id']}" in shown
    assert cases["mill/pump1"]["sentence"] in shown


def test_an_acknowledgement_is_obeyed_answered_and_recorded(mill):
    done = mill.run("alarms", "ack", "kafka", MILL[0], "--by", "eva", "--why", "seen, greased")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{MILL[0]}: ack by eva, now alarm (acknowledged)\n"
    (change,) = said_by(mill, "eva")
    assert (change.action, change.why, change.acked) == ("ack", "seen, greased", True)
    assert settled(mill, "mill/pump1", lambda case: case["acked"])["state"] == "open"
    (event,) = events(mill, "eva")
    assert (event["type"], event["target"], event["text"]) == ("ack", MILL[0], "seen, greased")
    again = mill.run("alarms", "ack", "kafka", MILL[0], "--by", "eva")
    assert again.stdout == f"{MILL[0]}: ack by eva, nothing to change\n"
    assert again.returncode == 0


def test_a_shelving_lasts_in_event_time_and_can_be_ended_once(mill):
    arguments = ("--by", "kim", "--why", "rebuild", "--hours", "2")
    done = mill.run("alarms", "shelve", "kafka", "mill/pump2", *arguments)
    # 2 h after the last capture, years ago.
    assert done.stdout == f"{MILL[1]}: shelve by kim, now alarm (shelved until 2023-11-15 00:21Z)\n"
    case = settled(mill, "mill/pump2", lambda case: case["shelved"])
    assert "shelved until 2023-11-15" in mill.run("alarms", "list", "kafka").stdout
    ended = mill.run("alarms", "unshelve", "kafka", case["case_id"], "--by", "kim")
    assert ended.stdout == f"{MILL[1]}: unshelve by kim, now alarm\n"
    settled(mill, "mill/pump2", lambda case: not case["shelved"])
    refused = mill.run("alarms", "unshelve", "kafka", MILL[1], "--by", "kim")
    assert refused.returncode == 1
    assert "unshelve was refused" in refused.stderr
    assert "is not shelved" in refused.stderr
    assert "order_refused" in {letter["reason"].decode() for letter in mill.letters()}
    assert any("is not shelved" in (row.get("refused") or "") for row in events(mill, "kim"))


def test_learning_anew_ends_the_alarm_and_takes_the_new_level_for_healthy(mill):
    arguments = ("--by", "ola", "--why", "new bearing", "--rebaseline")
    done = mill.run("alarms", "maintenance", "kafka", MILL[2], *arguments)
    assert done.returncode == 0, done.stderr
    assert f"{MILL[2]}: maintenance by ola, noted\n" in done.stdout
    assert f"{MILL[2]}: rebaseline by ola, now learning\n" in done.stdout
    settled(mill, "mill/pump3", lambda case: case["state"] == "closed")
    mill.send(captures([MILL[2]], LOUD_TO, LOUD_TO + 2 * LEARNING, 0.6))
    mill.finish()
    changes = sorted(
        (t for t in mill.transitions().values() if t.sensor_id == MILL[2]), key=lambda t: t.at_ns
    )
    assert [(t.action, t.after) for t in changes][-2:] == [("learn", "learning"), ("learnt", "ok")]
    notes = {row["type"]: row["text"] for row in events(mill, "ola")}
    assert notes == {"maintenance": "new bearing", "rebaseline": "new bearing"}


def test_who_asks_for_a_sensor_that_was_never_heard_is_told(mill, tmp_path):
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(FLEET, encoding="utf-8")
    done = mill.run("alarms", "ack", "kafka", NEVER_HEARD, "--by", "una", "--fleet", str(fleet))
    assert done.returncode == 1
    assert "ack was refused" in done.stderr
    assert "has not been heard" in done.stderr
    letters = [letter for letter in mill.letters() if letter["reason"] == b"bad_order"]
    assert any(NEVER_HEARD in letter["detail"].decode() for letter in letters)


def test_what_nothing_knows_is_refused_before_anything_is_sent(mill):
    before = mill.ends(mill.conf.kafka.commands)
    done = mill.run("alarms", "ack", "kafka", "mill/pump11/de", "--by", "eva")
    assert done.returncode == 1
    assert "'mill/pump11/de' is no case, asset or sensor that is known" in done.stderr
    assert "did you mean mill/pump1/de" in done.stderr
    assert mill.ends(mill.conf.kafka.commands) == before


def test_without_workers_an_order_waits_and_is_obeyed_once_by_those_that_come(plant):
    worker = plant.start()
    break_down(plant, MILL[:1])
    plant.finish()
    assert worker.end() == 0
    done = plant.run("alarms", "ack", "kafka", MILL[0], "--by", "eva")
    assert done.returncode == 4
    assert "no worker is running: the order is stored" in done.stderr
    plant.start()
    settled(plant, "mill/pump1", lambda case: case["acked"])
    assert len(said_by(plant, "eva")) == 1


def test_kills_neither_lose_an_order_nor_have_it_obeyed_twice(plant):
    plant.start()
    break_down(plant, MILL[:1])
    plant.finish()
    k, asked = LOUD_TO, []
    for delay_s in (0.25, 0.6):
        # Signals go on, so that an order obeyed again would act at another time.
        plant.send(captures(MILL[:1], k, k + 30, 0.6))
        name = f"nr{k}"
        asked.append(name)
        killer = threading.Timer(delay_s, plant.workers[-1].end, (signal.SIGKILL,))
        arguments = ("shelve", "kafka", MILL[0], "--by", name, "--why", name, "--wait", "0")
        assert plant.run("alarms", *arguments).returncode == 0
        killer.start()
        killer.join()
        k += 30
        plant.start()
        plant.send(captures(MILL[:1], k, k + 10, 0.6))
        k += 10
    plant.finish()
    for name in asked:
        wait_for(lambda: said_by(plant, name), f"the order of {name}")  # noqa: B023
        assert len(said_by(plant, name)) == 1
    plant.finish()
    texts = [row["text"] for row in plant.points("event")]
    assert sorted(texts) == sorted(asked)


CASES = [
    {
        "case_id": "plant/pump|5",
        "asset": "plant/pump",
        "sensors": [{"sensor_id": "plant/pump/de"}, {"sensor_id": "plant/pump/nde"}],
    },
]


@pytest.mark.parametrize(
    ("target", "fleet", "found"),
    [
        ("plant/pump|5", Fleet(), ["plant/pump/de", "plant/pump/nde"]),
        ("plant/pump", Fleet(), ["plant/pump/de", "plant/pump/nde"]),
        ("plant/pump/nde", Fleet(), ["plant/pump/nde"]),
        (NEVER_HEARD, parse_fleet(FLEET), [NEVER_HEARD]),
    ],
)
def test_a_target_is_a_case_an_asset_or_a_sensor(target, fleet, found):
    assert resolve(target, CASES, fleet) == found


@pytest.mark.parametrize(
    ("cases", "said"),
    [(CASES, "did you mean plant/pump/de"), ([], "there has been no case yet; name a sensor")],
)
def test_an_unknown_target_names_the_near_ones(cases, said):
    with pytest.raises(LiveError, match=said):
        resolve("plant/pumpe/de", cases, Fleet())
