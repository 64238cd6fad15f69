import csv
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from typer.testing import CliRunner

from pipeline.bench.catalogue import SETS
from pipeline.bench.degrade import CASES, CLEAN, Case, degraded, one_level
from pipeline.bench.figures import Figure, Subject, figures_of
from pipeline.bench.neighbours import DISTANCES, area, band_z, cosine, euclid, vote, whitened
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
from pipeline.bench.scoring import Split, areas, votes_right
from pipeline.bench.sets import Bench
from pipeline.bench.sets_simulated import HEALTHY, machine_of
from pipeline.cli import app

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
RNG = np.random.default_rng(3)
SUBJECT = Subject("s", "c", "balanced accuracy", "task")
SMALL = st.floats(-3, 3, width=32)


def waves(count=4, n=4000, seed=0):
    return np.random.default_rng(seed).standard_normal((count, n)).astype(np.float32)


def points(rows, bands=3, size=4, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, bands, size)).astype(np.float32)


@given(arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 9)), elements=SMALL))
@settings(max_examples=25, deadline=None)
def test_a_figure_lies_in_its_interval_and_between_the_scores(scores):
    figure = figures_of(SUBJECT, {"a": scores})[0]
    assert scores.min() - 1e-9 <= figure.low <= figure.high <= scores.max() + 1e-9
    assert figure.value == pytest.approx(scores.mean())


def test_differences_are_paired():
    noisy = RNG.standard_normal((3, 12))
    plain, shifted, difference = figures_of(
        SUBJECT, {"a": noisy + 0.1, "b": noisy}, [("a", "b"), ("a", "not there")]
    )
    assert plain.high - plain.low > 0.5
    assert (difference.representation, difference.against) == ("a", "b")
    for value in (difference.value, difference.low, difference.high):
        assert value == pytest.approx(0.1)
    assert shifted.against == ""


def test_intervals_shrink_with_recordings_not_with_seeds_that_agree():
    units = RNG.standard_normal(200)
    wide, narrow = (figures_of(SUBJECT, {"a": units[None, :n]})[0] for n in (20, 200))
    assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)
    again = figures_of(SUBJECT, {"a": np.repeat(units[None, :20], 8, axis=0)})[0]
    assert again.high - again.low == pytest.approx(wide.high - wide.low, rel=0.25)


def test_intervals_hold_the_truth_as_often_as_they_say():
    hits, widths = 0, []
    for seed in range(60):
        figure = figures_of(SUBJECT, {"a": np.random.default_rng(seed).random((1, 40))})[0]
        hits += figure.low <= 0.5 <= figure.high
        widths.append(figure.high - figure.low)
    assert 50 <= hits <= 60
    # The normal law: 2 x 1.96 standard deviations of a mean of 40 uniform numbers.
    assert np.mean(widths) == pytest.approx(2 * 1.96 / np.sqrt(12 * 40), rel=0.08)


def test_one_recording_has_no_interval():
    figure = figures_of(SUBJECT, {"a": [[0.5], [0.7]]})[0]
    assert np.isnan(figure.low)
    assert np.isnan(figure.high)


def test_weights_make_classes_equal():
    figure = figures_of(SUBJECT, {"a": [[1.0, 0.0, 0.0]]}, weights=[0.5, 0.25, 0.25])[0]
    assert figure.value == pytest.approx(0.5)


def test_scores_of_other_recordings_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        figures_of(SUBJECT, {"a": [[1.0, 2.0]], "b": [[1.0]]})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_noise_has_the_level_that_its_case_names(case):
    clean = waves()
    case = Case(case.name, case.snr_db, case.colour)
    noise = degraded(clean, case, 1) - clean
    if case.snr_db is None:
        assert not noise.any()
        return
    snr_db = 20 * np.log10(clean.std(1) / noise.std(1))
    assert snr_db == pytest.approx(case.snr_db, abs=1e-3)
    power = np.abs(np.fft.rfft(noise)) ** 2
    low, high = power[:, 20:200].mean(), power[:, 1000:1900].mean()
    assert (low / high > 5) == (case.colour == "pink")


def test_gains_stay_within_their_range_and_differ():
    clean = waves(64)
    gain_db = 20 * np.log10(degraded(clean, Case("gain", gain_db=10.0), 0).std(1) / clean.std(1))
    assert -10.001 <= gain_db.min() < -5 < 5 < gain_db.max() <= 10.001


def test_noise_depends_on_the_seed_and_the_place_alone():
    clean, case = waves(6), CASES[1]
    assert np.array_equal(degraded(clean, case, 1), degraded(clean, case, 1))
    assert np.array_equal(degraded(clean, case, 1)[:3], degraded(clean[:3], case, 1))
    assert not np.array_equal(degraded(clean, case, 1), degraded(clean, case, 2))


@given(st.integers(0, 99), st.sampled_from(sorted(DISTANCES)))
@settings(max_examples=40, deadline=None)
def test_what_is_in_the_bank_is_its_own_nearest(seed, name):
    bank = points(9, seed=seed)
    found = DISTANCES[name](bank, bank[::-1])
    assert found.shape == (9, 9)
    assert found.argmin(1).tolist() == list(range(9))[::-1]
    assert (found >= -1e-9).all()


def test_distances_are_what_their_formulas_say():
    bank, queries = points(30, seed=1), points(5, seed=2)
    a, b = queries.reshape(5, -1).astype(float), bank.reshape(30, -1).astype(float)
    gap = a[:, None] - b[None]
    assert euclid(bank, queries) == pytest.approx(np.sqrt((gap**2).sum(2)))
    norms = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    assert cosine(bank, queries) == pytest.approx(1 - a @ b.T / norms)
    covariance = np.cov(b.T)
    shrunk = 0.9 * covariance + 0.1 * np.trace(covariance) / 12 * np.eye(12)
    inverse = np.linalg.inv(shrunk)
    expected = np.sqrt(np.einsum("qbi,ij,qbj->qb", gap, inverse, gap))
    assert whitened(bank, queries) == pytest.approx(expected)


def test_whitening_works_with_fewer_windows_than_numbers():
    bank, queries = points(5, seed=1), points(4, seed=2)
    b = bank.reshape(5, -1).astype(float)
    shrunk = 0.9 * np.cov(b.T) + 0.1 * np.trace(np.cov(b.T)) / 12 * np.eye(12)
    gap = queries.reshape(4, 1, -1) - b[None]
    expected = np.sqrt(np.einsum("qbi,ij,qbj->qb", gap, np.linalg.inv(shrunk), gap))
    assert whitened(bank, queries) == pytest.approx(expected)


def test_band_z_does_not_care_how_loud_a_band_is():
    bank, queries = points(30, seed=1), points(5, seed=2)
    scale = np.array([1.0, 5.0, 0.2], np.float32)[:, None]
    louder = band_z(bank * scale, queries * scale)
    assert louder == pytest.approx(band_z(bank, queries), rel=1e-4)
    assert not np.allclose(euclid(bank * scale, queries * scale), euclid(bank, queries))


def test_the_majority_wins_and_the_nearest_breaks_ties():
    labels = np.array(["a", "b", "b", "c", "c", "a"])
    distances = np.array([[0, 1, 2, 3, 4, 9], [5, 3, 4, 1, 2, 9]], float)
    assert vote(distances, labels).tolist() == ["b", "c"]
    assert vote(distances[:, :3], labels[:3]).tolist() == ["b", "b"]


@given(st.integers(0, 99), st.integers(1, 30), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_the_area_is_the_share_of_pairs_in_the_right_order(seed, normals, others):
    rng = np.random.default_rng(seed)
    normal, anomalous = rng.integers(0, 9, normals).astype(float), rng.integers(2, 12, others)
    gap = anomalous[:, None] - normal[None]
    pairs_right = ((gap > 0) + 0.5 * (gap == 0)).mean()
    assert area(normal, anomalous.astype(float)) == pytest.approx(pairs_right)
    assert area(normal, normal) == pytest.approx(0.5)


def test_the_partial_area_looks_at_the_highest_normals_only():
    normal = np.arange(20.0)
    assert area(normal, np.array([25.0]), 0.1) == pytest.approx(1.0)
    assert area(normal, np.array([17.5]), 0.1) == pytest.approx(area(normal, normal[:1], 0.1))
    # Above one of the two normals that count: 1 / 20 found, 0.005 by chance, 0.1 at best.
    expected = 0.5 * (1 + (0.05 - 0.005) / (0.1 - 0.005))
    assert area(normal, np.array([18.5]), 0.1) == pytest.approx(expected)


def test_areas_of_recordings_average_to_the_area_of_all():
    rng = np.random.default_rng(0)
    normal, anomalous = rng.normal(0, 1, 30), rng.normal(1, 1, 40)
    parts = [area(normal, part, 0.1) for part in anomalous.reshape(4, 10)]
    assert np.mean(parts) == pytest.approx(area(normal, anomalous, 0.1))


def test_a_recording_on_both_sides_is_refused():
    recording = np.array(["r1", "r1", "r2", "r3"])
    leak = Split(np.array([True, False, True, False]), np.array([False, True, False, True]))
    label = np.array(["a", "a", "b", "b"])
    with pytest.raises(ValueError, match="r1"):
        votes_right(points(4), label, recording, [leak], euclid)
    with pytest.raises(ValueError, match="r1"):
        areas(points(4), label == "a", recording, [leak], euclid)


def test_votes_count_per_recording_over_all_banks():
    recording = np.array(["x", "y", "z", "z"])
    label = np.array(["a", "b", "a", "b"])
    embedded = np.array([0.0, 1.0, 0.1, 0.2], np.float32)[:, None, None]
    known = np.array([True, True, False, False])
    right = votes_right(embedded, label, recording, [Split(known, ~known)] * 2, euclid)
    assert right.tolist() == [0.5]


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
