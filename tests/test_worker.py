"""The worker on a real Kafka and InfluxDB: what holds while nothing goes wrong."""

import math
from pathlib import Path

import pytest

from connectors.files import read
from embedded_truth import truth
from pipeline import simulate
from pipeline.fleet import parse_fleet
from pipeline.settings import load
from worker_cases import Plant

FEMTO = Path(__file__).resolve().parents[2] / "shared" / "data" / "femto_bearing1_2"
TOLERANCE = 1e-4


@pytest.fixture
def plant(kafka, influx, tmp_path):
    made = Plant(kafka, influx, tmp_path)
    yield made
    made.close()


def same_score(stored, window):
    score = None if window.drift is None else window.drift.score
    if score is None or math.isnan(score):
        return stored is None
    return stored is not None and abs(stored - score) <= TOLERANCE


def assert_same(plant, expected):
    """What Kafka and InfluxDB hold is what the core made of the same chunks."""
    windows, transitions, cases = expected
    stored = {(row["sensor"], row["time"]) for row in plant.points("sensor_health")}
    assert stored == set(windows)
    scores = {(row["sensor"], row["time"]): row.get("score") for row in plant.points("drift")}
    wrong = [
        (key, scores.get(key), window.drift)
        for key, window in windows.items()
        if not same_score(scores.get(key), window)
    ]
    assert not wrong, wrong[:3]
    assert set(plant.transitions()) == set(transitions)
    found = {(c["case_id"], c["severity"], c["closed_ns"]) for c in plant.cases()}
    assert found == {
        (c.case_id, c.severity.name.lower(), c.closed_ns) for c in cases if not c.superseded_by
    }


@pytest.mark.shared
def test_a_life_gives_what_the_embedded_run_gives(plant):
    if not FEMTO.is_dir():
        pytest.skip("recordings femto_bearing1_2 are not beside the project")
    expected = truth(read([FEMTO]), plant.conf)
    plant.start()
    plant.send(read([FEMTO]))
    plant.finish()
    assert any(t.after == "alarm" for t in expected[1].values())
    assert_same(plant, expected)


def test_a_plant_gives_what_the_embedded_run_gives(plant, tmp_path):
    plant.environment["ECHOWATCH_LEARNING__MIN_WINDOWS"] = "32"
    simulated = simulate.plant(3, sensors=12, hours=0.3, every_s=10.0)
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(simulated.fleet_yaml, encoding="utf-8")
    worker = plant.start("--fleet", str(fleet))
    expected = truth(simulated.chunks(), load(plant.environment), parse_fleet(simulated.fleet_yaml))
    plant.send(simulated.chunks())
    plant.finish()
    assert_same(plant, expected)
    assert worker.end() == 0
    told = [row for row in plant.points("pipeline") if row.get("partition")]
    read = {(row["topic"], row["partition"]) for row in told if row["lag"] is not None}
    signals = plant.conf.kafka.signals[0]
    assert {(signals, str(number)) for number in range(plant.partitions)} <= read
