"""Laws of what pre-training hears: sources, views, simulated machines, recipes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from echo_model import features
from echo_model.pretrain.config import dump_recipe, load_recipe, shipped_recipe
from echo_model.pretrain.simulated import CLIP_SAMPLES, FULL_SCALE, Clip, machine
from echo_model.pretrain.sources import (
    ClipCache,
    Mixture,
    Recordings,
    SimulatedMachines,
    indexed,
)
from echo_model.pretrain.views import DECIBEL, Cutter, Views
from pretrain_cases import TINY, recipe, recipe_file, recordings

SHARED = Path(__file__).resolve().parents[2] / "shared"
PLAIN = Views(
    patches=((3, 1.0),),
    ragged=0.0,
    short_band=0.0,
    gain_db=(0.0, 0.0),
    tilt_db=0.0,
    jitter_db=0.0,
    noise=0.0,
)


class OneClip:
    """A source of one clip."""

    def __init__(self, clip):
        self.clip = clip

    def draw(self, *_):
        return self.clip


def noise_clip(rate, seconds=0.6):
    samples = np.random.default_rng(0).standard_normal(int(rate * seconds)) * 0.1 * FULL_SCALE
    return Clip(samples.astype(np.int16), float(rate))


def cutter(clip, views, tokens=40):
    return Cutter(Mixture([(OneClip(clip), 1.0)], 5), views, tokens, 16, 32, 16)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_simulated_machine_is_a_loud_clip_at_some_rate(seed):
    clip = machine(np.random.Generator(np.random.SFC64(seed)))
    assert clip.samples.dtype == np.int16
    assert 1000 <= clip.rate_hz <= 100_000
    assert 0.88 * FULL_SCALE < np.abs(clip.samples.astype(int)).max() <= FULL_SCALE
    assert 0.9 * clip.rate_hz < len(clip.samples) <= CLIP_SAMPLES
    assert np.count_nonzero(clip.samples) > 0.01 * len(clip.samples)


def test_a_seed_names_one_machine():
    one, same, other = (machine(np.random.Generator(np.random.SFC64(s))) for s in (1, 1, 2))
    assert np.array_equal(one.samples, same.samples)
    assert not np.array_equal(one.samples[:900], other.samples[:900])


def test_what_a_step_hears_does_not_depend_on_the_steps_before(tmp_path):
    data = recordings(tmp_path)

    def fresh():
        cache = ClipCache(1 << 20)
        sources = [
            (SimulatedMachines(1, 4, 1.0), 1.0),
            (Recordings(indexed(data / "clips", (), ""), cache), 1.0),
        ]
        return Cutter(Mixture(sources, 1), Views(), 60, 16, 32, 16)

    walked, jumped = fresh(), fresh()
    for step in range(5):
        walked.batch(step)
    a, b = walked.batch(5), jumped.batch(5)
    for name in ("clean", "noisy", "codes", "clip"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_every_step_hears_something_else():
    source = cutter(noise_clip(8000, 2), PLAIN)
    assert not torch.equal(source.batch(0).clean, source.batch(1).clean)


@pytest.mark.parametrize("rate", [8000, 12345, 44100, 97656])
def test_patches_are_what_inference_would_make_of_these_bins(rate):
    clip = noise_clip(rate)
    n_fft, hop = features.frame_sizes(rate)
    n = n_fft + 47 * hop
    exact = Clip(clip.samples[:n], clip.rate_hz)  # only one place to cut at
    batch = cutter(exact, PLAIN).batch(0)
    wave = torch.from_numpy(exact.samples.astype(np.float32) / (FULL_SCALE + 1))
    spec = features.log_spectrogram(wave[None], rate)[0]
    starts = range(spec.shape[0] - 31)
    windows = torch.stack([spec[lo : lo + 32] for lo in starts])
    patches = features.to_patches(windows, 16)
    codes = features.frequency_code(tuple((lo, lo + 32) for lo in starts), n_fft, 16)
    for patch, code in zip(batch.clean, batch.codes, strict=True):
        at = int((codes - code).abs().sum(1).argmin())
        assert torch.allclose(patch, patches[at], atol=2e-4)
    assert torch.equal(batch.clean, batch.noisy)


@pytest.mark.parametrize("rate", [100, 500, 2000])
def test_signals_of_fewer_than_32_bins_take_part(rate):
    batch = cutter(noise_clip(rate, 20), Views(patches=((3, 1.0),))).batch(0)
    n_bins = features.frame_sizes(rate)[0] // 2 + 1
    rows = batch.clean.view(-1, 3, 32, 16)
    assert (rows[:, :, : 32 - n_bins] == 0).all()
    assert (rows[:, :, 32 - n_bins :] != 0).any()
    assert batch.clean.isfinite().all()


def test_a_clip_that_is_too_short_is_repeated():
    batch = cutter(noise_clip(8000, 0.1), PLAIN).batch(0)
    assert batch.clean.shape[1:] == (3, 512)


def test_gain_moves_both_views_by_its_decibels():
    plain = cutter(noise_clip(8000), PLAIN).batch(0)
    moved = cutter(noise_clip(8000), replace(PLAIN, gain_db=(20.0, 20.0))).batch(0)
    assert torch.allclose(moved.clean - plain.clean, torch.tensor(20 * DECIBEL), atol=1e-4)
    assert torch.equal(moved.clean, moved.noisy)


def test_a_tilt_is_a_straight_line_over_the_whole_spectrum():
    plain = cutter(noise_clip(8000), PLAIN).batch(0)
    tilted = cutter(noise_clip(8000), replace(PLAIN, tilt_db=60.0)).batch(0)
    moved = (tilted.clean - plain.clean).view(-1, 3, 32, 16) / DECIBEL
    slope = moved.diff(dim=2)  # dB per bin
    assert slope.flatten(1).std(1).max() < 0.01  # one line per clip
    assert slope.abs().mean() > 0.01
    codes = [features.frequency_code(((lo, lo + 32),), 200, 16)[0] for lo in range(101 - 31)]
    starts = (torch.stack(codes) - plain.codes[:, None]).abs().sum(2).argmin(1)
    middle = 0.5 * 101 - starts  # the row where nothing moves
    at_first = moved[:, 0, 0, 0]
    assert torch.allclose(at_first, -middle * slope.flatten(1).mean(1), atol=0.05)


def test_a_short_top_band_is_filled_up_below_as_at_inference():
    clip = noise_clip(12000)
    n_fft, hop = features.frame_sizes(12000)
    exact = Clip(clip.samples[: n_fft + 47 * hop], clip.rate_hz)
    batch = cutter(exact, replace(PLAIN, short_band=1.0)).batch(0)
    wave = torch.from_numpy(exact.samples.astype(np.float32) / (FULL_SCALE + 1))
    spec = features.log_spectrogram(wave[None], 12000)
    bins = features.band_bins(spec.shape[1], 32)
    last = features.to_patches(features.split_bands(spec, bins, 32)[0, -1], 16)
    assert torch.allclose(batch.clean[0], last, atol=2e-4)
    assert torch.equal(batch.codes[0], features.frequency_code(bins[-1:], n_fft, 16)[0])


def test_noise_is_the_students_alone_and_as_strong_as_asked():
    clean = cutter(noise_clip(8000), PLAIN).batch(0)
    loud = replace(PLAIN, noise=1.0, snr_db=(-20.0, -20.0))
    noisy = cutter(noise_clip(8000), loud).batch(0)
    assert torch.equal(clean.clean, noisy.clean)
    lift = (noisy.noisy - noisy.clean).mean() / DECIBEL
    assert 5 < lift < 30  # 20 dB, spread unevenly over the bands by the noise's colour


def test_a_batch_holds_the_tokens_asked_for():
    for patches in (1, 6):
        views = Views(patches=((patches, 1.0),), ragged=0.0)
        batch = cutter(noise_clip(8000, 2), views, tokens=140).batch(0)
        assert batch.clean.shape == (140 // (patches + 1), patches, 512)
        assert batch.noisy.shape == batch.clean.shape


def test_decoded_clips_stay_within_the_memory_given(tmp_path):
    found = indexed(recordings(tmp_path) / "clips", (), "")
    cache = ClipCache(30_000)  # bytes: one clip of 8000 samples, not two of any
    for item in [*found, *found]:
        cache.read(item.path)
        assert cache.held_bytes <= 30_000


def test_only_included_files_are_drawn(tmp_path):
    found = indexed(recordings(tmp_path) / "clips", ("open/",), "")
    assert sorted(item.path.name for item in found) == ["a.flac", "b.wav"]
    assert {item.licence for item in found} == {"CC BY 4.0", "MIT"}
    with pytest.raises(ValueError, match="at least one file"):
        indexed(tmp_path / "clips", ("nothing/",), "")
    with pytest.raises(FileNotFoundError, match=r"folder with index\.csv"):
        indexed(tmp_path / "elsewhere", (), "")


def test_the_shipped_recipe_never_hears_test_data():
    path = shipped_recipe("nano")
    text = path.read_text(encoding="utf-8").lower()
    assert not any(name in text for name in ("cwru", "femto", "gearbox", "by-sa"))
    shipped = load_recipe(path)
    assert all(source.licence for source in shipped.sources)
    open_clips = next(source for source in shipped.sources if source.name == "open")
    assert open_clips.include == ("open/",)


def test_a_recipe_survives_being_written(tmp_path):
    shipped = load_recipe(shipped_recipe("nano"))
    (tmp_path / "copy.yaml").write_text(dump_recipe(shipped), encoding="utf-8")
    assert load_recipe(tmp_path / "copy.yaml") == shipped


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stepz": 3}, "stepz is unknown.*did you mean 'steps'"),
        ({"steps": "many"}, "steps must be a whole number, got 'many'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"objective": "gan"}, "objective must be teacher-student or mae, got 'gan'"),
        ({"precision": "fp8"}, "precision must be fp32 or bf16, got 'fp8'"),
        ({"batch": {"keep": [0.5]}}, "batch.keep must hold 2 values"),
        ({"batch": {"keep": [0.5, 0.2]}}, "batch.keep must be two shares"),
        ({"batch": {"whole": 2}}, "batch.whole must lie in 0..1, got 2"),
        ({"batch": 3}, "batch must be a table"),
        ({"optimiser": {"rate": "fast"}}, "optimiser.rate must be a number, got 'fast'"),
        ({"model": {"name": "huge"}}, r"model.name must be one of .*'nano'.*got 'huge'"),
        ({"sources": []}, "sources must hold at least one"),
        ({"sources": [{"name": "x"}]}, r"sources\[0\] must name \['kind', 'weight', 'licence'\]"),
        ({"sources": [TINY["sources"][0] | {"kind": "web"}]}, "kind must be recordings or"),
        ({"sources": [TINY["sources"][0] | {"weight": 0}]}, "weight must be positive.*use: false"),
        ({"views": {"bands": [5, 2]}}, "views.bands must be"),
        ({"views": {"patches": []}}, "views.patches must"),
    ],
)
def test_a_mistake_in_a_recipe_is_named_with_its_remedy(tmp_path, changes, told):
    with pytest.raises(ValueError, match=told):
        recipe(tmp_path, **changes)


def test_a_number_written_as_1e_3_is_a_number(tmp_path):
    path = recipe_file(tmp_path)
    path.write_text(path.read_text() + "\n", encoding="utf-8")
    table = yaml.safe_load(path.read_text()) | {"optimiser": {"rate": "1e-3"}}
    path.write_text(yaml.safe_dump(table), encoding="utf-8")
    assert load_recipe(path).optimiser.rate == 1e-3


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", ""])
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.yaml"):
        load_recipe(path)


@pytest.mark.shared
def test_the_shipped_recipe_finds_all_its_data():
    if not (SHARED / "pretrain" / "index.csv").is_file():
        pytest.skip("shared/pretrain (openly licensed clips) is not beside this checkout")
    for source in load_recipe(shipped_recipe("nano")).sources:
        if source.kind == "recordings":
            found = indexed(SHARED / source.path, source.include, source.licence)
            assert len(found) > 100
            assert not any("by-sa" in str(item.path) or "BY-SA" in item.licence for item in found)
