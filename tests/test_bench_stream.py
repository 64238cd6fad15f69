import csv
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import torch

from pipeline.bench import sets_stream
from pipeline.bench.lives import read_life
from pipeline.bench.representations import (
    LOG_BANDS,
    RMS_KURTOSIS,
    encoder,
    equal_bands,
    log_bands,
    rms_kurtosis,
)
from pipeline.bench.rigs import LEARNING, rig_of
from pipeline.bench.sets import Bench
from pipeline.bench.sets_stream import (
    BEARINGS,
    StreamSteps,
    ahead,
    femto,
    known,
    life_values,
    named,
    naming,
    raised,
    regime_values,
    speed,
)
from pipeline.bench.watching import Watch, settings, watchable

RATE_HZ = 25600
SNAPSHOT = 2560
torch.set_num_threads(1)


@cache
def learnt(representation=log_bands):
    """A machine that log bands (or others) have learnt."""
    return known(representation(), rig_of(0, 1))


def snapshots(folder, quiet, loud, gain):
    """A life of noise in two channels whose first gets louder and brighter at the end."""
    rng = np.random.default_rng(5)
    samples = 0.02 * rng.standard_normal(((quiet + loud) * SNAPSHOT, 2))
    hiss = np.diff(rng.standard_normal(loud * SNAPSHOT + 1))
    samples[quiet * SNAPSHOT :, 0] += 0.02 * gain * hiss
    folder.mkdir()
    soundfile.write(folder / "vibration.flac", samples, RATE_HZ, subtype="PCM_24")
    with (folder / "index.csv").open("w", newline="", encoding="utf-8") as text:
        table = csv.writer(text)
        table.writerow(["file", "offset_frames", "n_frames", "sensor", "channel", "start_time",
                        "sample_rate", "unit", "scale"])  # fmt: skip
        for i in range(quiet + loud):
            at = f"2010-12-01T{9 + i // 360:02d}:{i // 6 % 60:02d}:{i % 6}0.500000"
            for channel, sensor in enumerate(("b/x", "b/y")):
                table.writerow(["vibration.flac", i * SNAPSHOT, SNAPSHOT, sensor, channel, at,
                                RATE_HZ, "g", 100.0])  # fmt: skip
    return folder


def test_a_life_gives_each_sensor_its_channel_in_its_unit_and_time(tmp_path):
    life = read_life(snapshots(tmp_path / "b", 3, 1, 8.0))
    chunks = list(life.chunks("b/x"))
    assert life.sensors == ("b/x", "b/y")
    assert [chunk.samples.size for chunk in chunks] == [SNAPSHOT] * 4
    assert {b.start_ns - a.start_ns for a, b in pairwise(chunks)} == {10**10}
    assert chunks[0].start_ns == 1_291_194_000_500_000_000
    levels = [float(np.std(chunk.samples)) * chunk.scale for chunk in chunks]
    assert levels[0] == pytest.approx(2.0, rel=0.05)
    assert levels[3] > 4 * levels[0]
    assert np.std(list(life.chunks("b/y"))[3].samples) == pytest.approx(0.02, rel=0.05)


def test_what_stands_at_the_end_counts_from_where_it_was_raised_for_good():
    moments = [(at, rank) for at, rank in enumerate([0, 0, 1, 0, 0, 1, 1, 3, 3, 1, 3])]
    assert ahead(moments, 1) == pytest.approx(0.5)
    assert ahead(moments, 3) == 0.0
    assert ahead([*moments, (11, 3)], 3) == pytest.approx(1 / 11)
    assert ahead(moments[:5], 1) == 0.0


def test_only_raises_before_the_onset_are_too_early():
    moments = [(at, rank) for at, rank in enumerate([0, 1, 0, 3, 1, 0, 2, 2, 0, 1, 1])]
    assert raised(moments, until=0.61) == 3
    assert raised(moments, until=0.59) == 2
    assert raised(moments, until=1.0) == 4
    assert raised([(0, 0), (10, 0)], until=1.0) == 0


def test_a_bearing_that_gets_loud_alarms_and_not_before(tmp_path):
    life = read_life(snapshots(tmp_path / "b", 200, 40, 4.0))
    values = life_values(log_bands(), life, 200 / 240)
    for case in ("as shipped", "drift alone"):
        assert values[case, "raised too early, lower"] == 0
        assert 0.10 < values[case, "alarm, share of life ahead"] < 40 / 239
    quiet = read_life(snapshots(tmp_path / "quiet", 200, 40, 0.0))
    assert set(life_values(log_bands(), quiet, 1.0).values()) == {0.0}


def test_the_drift_alone_does_not_know_the_rule_about_the_level(tmp_path):
    life = read_life(snapshots(tmp_path / "b", 200, 40, 4.0))
    blind = replace(log_bands(), embed=lambda x, _: np.ones((len(x), 32, 2), np.float32))
    values = life_values(blind, life, 200 / 240)
    assert values["as shipped", "alarm, share of life ahead"] > 0.1
    assert values["drift alone", "advisory, share of life ahead"] == 0


def test_a_fork_forgets_what_it_heard_and_knows_what_was_learnt():
    machine = learnt()
    first = machine.after(4, level_db=0.0)
    again = machine.after(4, level_db=0.0)
    assert [r.drift.score for r in first] == [r.drift.score for r in again]
    assert [r.drift.learning_pct for r in first] == [100.0] * 4


def test_a_machine_is_the_same_for_everyone_and_another_for_another_seed():
    one, same, other = (rig_of(seed, 2) for seed in (1, 1, 2))
    take = [next(rig.captures(5, 1)).samples for rig in (one, same, other)]
    assert np.array_equal(take[0], take[1])
    assert not np.array_equal(take[0], take[2])


@pytest.mark.parametrize("level_db", [0.0, -12.0])
def test_a_fault_has_the_level_that_was_asked_for(level_db):
    rig = rig_of(3, 0)
    healthy = np.array([chunk.samples for chunk in rig.captures(0, 12)])
    faulty = np.array([chunk.samples for chunk in rig.captures(0, 12, level_db=level_db)])
    found = 20 * np.log10((faulty - healthy).std() / rig.rms)
    assert found == pytest.approx(level_db, abs=1.0)


def test_a_fault_is_seen_and_a_healthy_machine_is_not():
    values = regime_values(learnt())
    assert values["healthy, as learnt", "windows over the advisory limit, lower"] == 0
    assert values["healthy, as learnt", "advisory raised, lower"] == 0
    # 0.2 to 0.4, by how the processor rounds.
    assert values["fault -6 dB, as learnt", "windows over the advisory limit"] > 0.1
    assert values["fault -6 dB, other speed", "advisory raised"] > 0.5
    assert 0.5 < values["fault -6 dB, other speed", "AUROC, healthy at that speed"] <= 1


def test_a_strong_fault_is_named_and_one_that_is_hardly_there_is_not():
    machine = learnt()
    assert [named(machine, fault, 0.0) for fault in range(2)] == [1.0, 1.0]
    assert [named(machine, fault, -60.0) < 0.7 for fault in range(2)] == [True, True]


def test_bands_of_other_numbers_are_those_that_were_measured():
    watch = Watch(log_bands())
    rig = rig_of(0, 1)
    result = watch.hear(rig.captures(0, 2))[-1]
    edges = result.drift.band_edges_hz
    assert len(edges) == log_bands().embed(np.ones((1, 8000), np.float32), rig.rate_hz).shape[1]
    assert edges[0][0] == pytest.approx(80.0)
    assert edges[-1][1] == pytest.approx(rig.rate_hz / 2, rel=0.02)


def test_only_numbers_with_known_bands_are_watched():
    everything = [encoder("untrained:nano"), log_bands(), equal_bands(96), rms_kurtosis()]
    assert [r.name for r in watchable(everything)] == ["untrained nano", LOG_BANDS, RMS_KURTOSIS]
    assert not settings().delays.latch


def test_every_set_gives_figures_and_the_steps_it_promised(tmp_path, monkeypatch):
    monkeypatch.setattr(sets_stream, "QUICK_RIGS", 1)
    for name in BEARINGS:
        snapshots(tmp_path / name, 160, 8, 4.0)
    for run, steps in (
        (femto, StreamSteps(recorded=True)),
        (speed, StreamSteps()),
        (naming, StreamSteps(simple=False)),
    ):
        noted = []
        bench = Bench((log_bands(), rms_kurtosis()), tmp_path, seeds=1, quick=True,
                      advance=noted.append)  # fmt: skip
        figures = list(run(bench))
        assert len(noted) == steps(bench)
        assert {figure.set for figure in figures} == {run.__name__}
        names = {LOG_BANDS} if run is naming else {LOG_BANDS, RMS_KURTOSIS}
        assert {figure.representation for figure in figures} == names
        assert all(np.isfinite(figure.value) for figure in figures)


def test_learning_takes_no_more_captures_than_there_are():
    assert settings().learning.patience * settings().learning.min_windows <= LEARNING
