"""The worker on a real Kafka and InfluxDB: what holds while nothing goes wrong."""

import asyncio
import contextlib
import math
import time
from pathlib import Path

import pytest

from connectors.files import read
from embedded_truth import truth
from pipeline.fleet import Fleet, parse_fleet
from pipeline.messages import Point
from pipeline.settings import load
from pipeline.simulation import simulate
from pipeline.streaming.worker import Worker
from worker_cases import Plant, wait_for

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


@pytest.mark.parametrize(("keep_s", "grows"), [(600.0, True), (0.0, False)])
def test_our_own_numbers_are_kept_for_a_store_that_is_away_only_so_long(monkeypatch, keep_s, grows):
    monkeypatch.setattr("pipeline.streaming.worker.REPORT_S", 0.01)
    monkeypatch.setattr("pipeline.streaming.worker.KEEP_S", keep_s)
    away = {"ECHOWATCH_INFLUX__URL": "http://127.0.0.1:1", "ECHOWATCH_INFLUX__TOKEN": "none"}
    worker = Worker(load({**away, "ECHOWATCH_WORKER__ROLE": "cases"}), Fleet(), None)
    (sink,) = (runner.sink for runner in worker.runners)
    sink.start()
    sink.put([Point("pipeline", (("role", "cases"),), {"lag": 0.0}, time.time_ns())])
    wait_for(lambda: sink.stats.failing_since is not None, "the store to be missed", every_s=0.01)
    held = sink.pending_bytes

    async def report():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(worker._report(), 0.5)

    asyncio.run(report())
    assert (sink.pending_bytes > held) == grows
    sink.close(0.0)
