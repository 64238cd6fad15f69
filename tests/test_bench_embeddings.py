import csv
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from pipeline.bench.catalogue import SETS
from pipeline.bench.degrade import CLEAN, degraded, one_level
from pipeline.bench.figures import Figure
from pipeline.bench.picture import draw
from pipeline.bench.recordings import Reading, read_corpus
from pipeline.bench.report import overall, summaries
from pipeline.bench.representations import (
    EQUAL_BANDS,
    LOG_BANDS,
    RMS_KURTOSIS,
    chosen,
    encoder,
    equal_bands,
    log_bands,
    pairs,
    rms_kurtosis,
)
from pipeline.bench.sets import Bench
from pipeline.bench.sets_simulated import HEALTHY, machine_of
from pipeline.cli import app

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def waves(count=4, n=4000, seed=0):
    return np.random.default_rng(seed).standard_normal((count, n)).astype(np.float32)


def test_every_representation_gives_numbers_per_window_alone():
    windows = waves(5, 3000)
    for one in (encoder("untrained:nano"), log_bands(), equal_bands(96), rms_kurtosis()):
        whole = one.embed(windows, 12000.0)
        assert whole.shape[0] == 5
        assert np.isfinite(whole).all()
        assert one.embed(windows[3:4], 12000.0)[0] == pytest.approx(whole[3], abs=2e-5), one.name


@pytest.mark.parametrize("rate_hz", [12000.0, 16000.0, 44100.0])
def test_equal_bands_are_as_many_numbers_as_the_encoder_gives(rate_hz):
    windows = waves(1, int(rate_hz))
    assert equal_bands(96).embed(windows, rate_hz).size == (
        encoder("untrained:nano").embed(windows, rate_hz).size
    )


def test_log_bands_follow_the_level_in_nepers():
    one, windows = log_bands(), waves(2)
    gap = one.embed(windows * np.float32(np.e), 8000.0) - one.embed(windows, 8000.0)
    assert gap[:, :, 0] == pytest.approx(1.0, abs=1e-4)
    assert gap[:, :, 1] == pytest.approx(0.0, abs=1e-4)


def test_silence_is_a_number():
    silent = np.zeros((1, 3000), np.float32)
    for one in (log_bands(), equal_bands(96), rms_kurtosis()):
        assert np.isfinite(one.embed(silent, 12000.0)).all()


def test_a_trained_model_brings_its_untrained_twin(tmp_path):
    from echo_model.echo import Echo

    Echo.from_pretrained("untrained:nano").save(tmp_path / "mine.safetensors")
    found = chosen([str(tmp_path / "mine.safetensors")])
    names = ["mine", "untrained nano", LOG_BANDS, EQUAL_BANDS, RMS_KURTOSIS]
    assert [one.name for one in found] == names
    assert [one.kind for one in found][:2] == ["trained", "untrained"]
    assert ("mine", "untrained nano") in pairs(found)
    assert ("mine", EQUAL_BANDS) in pairs(found)
    assert len(chosen(["untrained:nano", "untrained:nano"])) == 4


def test_two_models_of_one_name_are_told_apart(tmp_path):
    from echo_model.checkpoints import CONFIGS
    from echo_model.echo import Echo

    for seed in (1, 2):
        (tmp_path / str(seed) / "run").mkdir(parents=True)
        Echo(CONFIGS["nano"], seed=seed).save(tmp_path / str(seed) / "run/encoder.safetensors")
    found = chosen([str(tmp_path / str(seed) / "run/encoder.safetensors") for seed in (1, 2)])
    first, second = (one.name for one in found[:2])
    assert first != second
    assert first.startswith("run ")


def test_every_set_has_a_mean_over_sets_of_equal_weight():
    def figure(name, case, value):
        ends = value - 0.1, value + 0.1
        return Figure(name, case, "AUROC", "m", value, *ends, "", "task", 5, case == "mean")

    figures = [figure("x", "one", 0.2), figure("x", "two", 0.4), figure("x", "mean", 0.3)]
    figures.append(figure("y", "only", 0.9))
    assert [f.case for f in summaries(figures)] == ["mean", "only"]
    (mean,) = overall(figures)
    assert mean.value == pytest.approx(0.6)
    assert mean.high - mean.value == pytest.approx(0.1 / np.sqrt(2))


def test_figures_that_are_no_shares_are_drawn_without_a_mean(tmp_path):
    figures = [
        Figure("femto", case, "raised too early, lower", "m", value, value, value)
        for case, value in (("as shipped", 3.0), ("drift alone", 0.0))
    ]
    draw(tmp_path / "p.svg", figures, {"m": "trained"}, {"femto": "Bearings"}, "note")
    text = (tmp_path / "p.svg").read_text()
    assert "Bearings: raised too early (lower is better)" in text
    assert "mean of the sets" not in text


@pytest.fixture
def recorded(tmp_path):
    """Two states at two loads of a rig that is not CWRU, in its layout."""
    folder = tmp_path / "cwru_12k"
    folder.mkdir()
    rows = []
    for load in "02":
        for state, hz in (("normal", 300), ("outer", 2500), ("inner", 4400)):
            name = f"{state}_{load}.flac"
            rng = np.random.default_rng((hz, int(load)))
            tone = np.sin(2 * np.pi * hz * np.arange(60000) / 12000)
            wave = 0.1 * tone + 0.02 * rng.standard_normal(60000)
            soundfile.write(folder / name, np.stack([wave, wave], 1), 12000)
            rows += [
                {"file": name, "offset_frames": 0, "n_frames": 60000, "sensor": f"s{channel}",
                 "channel": channel, "sample_rate": 12000, "label": state, "scale": 2.0,
                 "load_hp": load, "fault_size_in": ""}
                for channel in (0, 1)
            ]  # fmt: skip
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path


def test_windows_lie_side_by_side_at_one_gain_per_sensor(recorded):
    reading = Reading(
        1.0, 3, lambda r: r["label"], lambda r: r["load_hp"], lambda r: r["file"]
    )  # fmt: skip
    corpus = read_corpus(recorded / "cwru_12k", reading)
    assert corpus.windows.shape == (36, 12000)
    raw, _ = soundfile.read(recorded / "cwru_12k" / "normal_0.flac", dtype="float32")
    ratio = corpus.windows[:3].reshape(-1)[1:9] / (2 * raw[1:9, 0])
    assert ratio == pytest.approx(ratio[0], rel=1e-5)
    assert np.log2(ratio[0]) == pytest.approx(round(np.log2(ratio[0])))
    assert corpus.recording[:7].tolist() == ["normal_0.flac"] * 6 + ["outer_0.flac"]


def run(*arguments):
    return CliRunner().invoke(app, ["bench", "embeddings", *map(str, arguments)])


def test_the_bench_tells_plain_tones_apart_and_writes_everything(recorded, tmp_path):
    out = tmp_path / "out"
    done = run("untrained:nano", "--data", recorded, "--sets", "cwru,gearbox", "--quick",
               "--distance", "task,whitened", "--out", out)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "gearbox left out: no gearbox_gfd" in done.output
    assert "untrained nano: cwru mean, balanced accuracy" in done.output
    rows = list(csv.DictReader((out / "embeddings.csv").read_text().splitlines()))
    mine = [r for r in rows if r["case"] == "1 s, clean" and r["distance"] == "task"]
    clean = {r["representation"]: float(r["value"]) for r in mine if not r["against"]}
    assert clean[LOG_BANDS] == clean["untrained nano"] == 1.0
    assert {r["distance"] for r in rows} == {"task", "whitened"}
    assert {int(r["units"]) for r in rows} == {6}
    about = json.loads((out / "embeddings.json").read_text())
    assert about["models"] == {"untrained nano": "echo-nano-untrained-s0"}
    assert len(about["figures"]) == len(rows)
    texts = [e.text for e in ET.parse(out / "embeddings.svg").iter() if e.tag.endswith("text")]  # noqa: S314  (our own file)
    assert "mean of the sets" in texts
    assert "1 s, pink -6 dB" in texts


@pytest.mark.parametrize(
    "arguments",
    [("nowhere.safetensors",), ("--sets", "cwru,nothing"), ("--distance", "manhattan"), ()],
)
def test_what_cannot_be_run_is_said_in_one_line(arguments, tmp_path):
    done = run(*arguments, "--data", tmp_path, *([] if arguments else ["--sets", "cwru"]))
    assert done.exit_code == 2
    errors = [line for line in done.output.splitlines() if "left out" not in line]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")


def test_a_folder_of_recordings_that_is_not_there_is_told_before_anything_runs(tmp_path):
    done = run("--data", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "nowhere" in done.output
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_told_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = run("untrained:nano", "--sets", "simulated", "--quick", "--out", tmp_path / "file")
    assert done.exit_code == 2
    assert "--out must be a folder that can be made" in done.output


def test_embeddings_are_computed_once_per_key():
    calls = []

    def windows():
        calls.append(1)
        return waves(2)

    bench = Bench((rms_kurtosis(),), None)
    first = bench.embedded("key", windows, 8000.0)
    assert bench.embedded("key", windows, 8000.0) is first
    assert len(calls) == 1


def test_simulated_faults_have_the_level_that_they_claim():
    machine = machine_of("motor", 0, 2)
    corpus = machine.corpus
    healthy = corpus.windows[corpus.recording == "healthy high "]
    for level_db in (0.0, -12.0):
        mine = corpus.recording == f"bearing_outer high {level_db:g} dB"
        grown_db = 20 * np.log10(corpus.windows[mine].std() / healthy.std())
        assert grown_db == pytest.approx(10 * np.log10(1 + 10 ** (level_db / 10)), abs=0.4)
    assert not (machine.level[corpus.label == HEALTHY] != "").any()
    again = machine_of("motor", 1, 2).corpus
    assert again.windows.shape != corpus.windows.shape or not np.allclose(
        again.windows, corpus.windows
    )


def test_without_level_windows_differ_in_shape_only():
    windows = waves(3)
    windows[2] = 0
    levelled = one_level(windows * np.float32(7))
    assert levelled[:2].std(1) == pytest.approx(0.1, rel=1e-4)
    assert levelled == pytest.approx(one_level(windows), abs=1e-6)
    assert not levelled[2].any()


def test_clean_windows_are_left_alone():
    clean = waves()
    assert np.array_equal(degraded(clean, CLEAN, 5), clean)
    assert not CLEAN.seeded


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data beside the project")
def test_loads_are_never_mixed_on_real_recordings():
    bench = Bench((rms_kurtosis(),), SHARED, seeds=1, quick=True)
    figures = list(SETS["cwru"].run(bench))
    assert {f.units for f in figures} == {20}
    clean = next(f for f in figures if f.case == "1 s, clean")
    assert 0.4 < clean.value < 0.9
    assert clean.low < clean.value < clean.high
