"""What must hold on real recordings and the simulated plant; see benchmarks/recordings.py."""

from pathlib import Path

import numpy as np
import pytest
import recordings
import torch

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def folder(name):
    path = DATA / name
    if not path.is_dir():
        pytest.skip(f"recordings {name} are not beside the project")
    return path


@pytest.fixture(scope="module")
def engine():
    torch.set_num_threads(1)
    return recordings.encoder()


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "onset"), [("femto_bearing1_1", 0.689), ("femto_bearing1_2", 0.952)]
)
def test_a_bearing_alarms_between_onset_and_end_and_not_before(engine, name, onset):
    found = recordings.life(folder(name), engine)
    assert found["onset"] == pytest.approx(onset, abs=0.002)
    alarm = found["rows"]["alarm"]
    assert alarm.valid
    assert alarm.after > 0.8
    assert alarm.before <= 0.02
    assert alarm.episodes <= 1


@pytest.fixture(scope="module")
def gearbox(engine):
    return recordings.labelled(folder("gearbox_gfd"), engine, "healthy")


@pytest.fixture(scope="module")
def cwru(engine):
    return recordings.labelled(folder("cwru_12k"), engine, "normal")


def worst_by_load(rows):
    found = {}
    for row in rows:
        found.setdefault(row["condition"], set()).update(row["faults"].values())
    assert len(found) == 5
    return found


@pytest.mark.shared
def test_a_broken_tooth_alerts_at_every_load_and_a_healthy_gearbox_never(gearbox):
    for load, worst in worst_by_load(gearbox).items():
        assert worst & {"alert", "alarm"}, load
    assert {row["held_out"] for row in gearbox} == {"ok"}


@pytest.mark.shared
def test_a_broken_tooth_alarms_at_every_load(gearbox):
    for load, worst in worst_by_load(gearbox).items():
        assert "alarm" in worst, load


@pytest.mark.shared
def test_every_cwru_fault_alerts_and_the_other_half_of_the_normals_never(cwru):
    assert {row["held_out"] for row in cwru} == {"ok"}
    assert [len(row["faults"]) for row in cwru] == [9] * 4
    assert {worst for row in cwru for worst in row["faults"].values()} <= {"alert", "alarm"}


@pytest.mark.shared
def test_every_cwru_fault_alarms(cwru):
    assert [list(row["faults"].values()) for row in cwru] == [["alarm"] * 9] * 4


def test_a_simulated_plant_alarms_where_it_is_ill_and_nowhere_else(engine):
    found = recordings.plant(engine)
    assert len(found["machine"]) == 4
    assert all(fault["alarm"] and fault["right_band"] for fault in found["machine"])
    assert len(found["sensor"]) == 8
    assert all(1 <= fault["windows"] <= 3 for fault in found["sensor"])
    assert found["healthy_sensors"] >= 12
    assert found["false"] == {}


def test_standing_counts_episodes_before_onset_only():
    on = [False] * 10 + [True] * 2 + [False] * 3 + [True] + [False] * 4 + [True] * 10
    found = recordings.standing(np.array(on), learnt=5, onset=20)
    assert (found.episodes, found.before) == (2, pytest.approx(3 / 15))
    assert found.after == 1.0
    assert not found.valid
