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


@pytest.mark.shared
def test_a_broken_tooth_alarms_at_every_load_and_a_healthy_gearbox_never(engine):
    rows = recordings.labelled(folder("gearbox_gfd"), engine, "healthy")
    loads = {row["condition"] for row in rows}
    assert len(loads) == 5
    for load in loads:
        at_load = [row for row in rows if row["condition"] == load]
        assert any("alarm" in row["faults"].values() for row in at_load), load
        assert {row["held_out"] for row in at_load} == {"ok"}


@pytest.mark.shared
def test_every_cwru_fault_alarms_and_the_other_half_of_the_normals_never(engine):
    rows = recordings.labelled(folder("cwru_12k"), engine, "normal")
    assert {row["held_out"] for row in rows} == {"ok"}
    assert [list(row["faults"].values()) for row in rows] == [["alarm"] * 9] * 4


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
