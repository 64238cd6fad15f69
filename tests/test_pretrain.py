"""Laws of pre-training: what is computed, and that a run can be stopped anywhere."""

import csv
import json
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import safetensors.torch
import torch

from echo_model.echo import Echo
from echo_model.pretrain.collapse import collapse_signs, effective_rank
from echo_model.pretrain.config import OptimiserTable
from echo_model.pretrain.curves import draw_curves
from echo_model.pretrain.export import write_results
from echo_model.pretrain.objectives import Whitener, hide
from echo_model.pretrain.schedule import Schedule
from echo_model.pretrain.trainer import (
    STATE_FILE,
    Trainer,
    _Pace,
)
from pretrain_cases import RECORDED, TINY, recipe, recordings

OBJECTIVES = ("teacher-student", "mae")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(folder, *, until=None, data=None, **changes):
    trainer = Trainer(recipe(folder, **changes), data, folder / "run")
    trainer.start()
    trainer.run(until=until)
    return trainer


def log_rows(folder):
    text = (folder / "run" / "log.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def tensors(folder):
    return safetensors.torch.load_file(folder / "run" / STATE_FILE)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, objective):
    whole = trained(tmp_path / "whole", objective=objective)
    trained(tmp_path / "parts", objective=objective, until=3)  # in the middle of a repeated batch
    rest = Trainer(recipe(tmp_path / "parts", objective=objective), None, tmp_path / "parts/run")
    rest.resume()
    assert rest.step == 3
    rest.run()
    assert rest.step == whole.step == 6
    a, b = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert a.keys() == b.keys()
    assert any(name.endswith("exp_avg_sq") for name in a)
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_lines_of_the_log_beyond_the_stored_state_are_dropped_on_resume(tmp_path):
    trainer = trained(tmp_path, until=2)
    with (tmp_path / "run" / "log.csv").open("a", encoding="utf-8") as file:
        file.write("5,0,0,0,0,0,0,0,0,0,0,0\n")
    trainer.resume()
    trainer.run()
    rows = log_rows(tmp_path)
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]


def test_another_seed_gives_another_run(tmp_path):
    trained(tmp_path / "a", until=1)
    trained(tmp_path / "b", until=1, seed=4)
    a, b = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    name = "objective.student.patch_embed.proj.weight"
    assert not torch.equal(a[name], b[name])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_falls_and_nothing_collapses(tmp_path, objective):
    views = {"patches": [[3, 1.0]], "jitter_db": 0.0, "noise": 0.0, "gain_db": [0.0, 0.0]}
    changes = {"objective": objective, "steps": 100, "views": views}
    changes["optimiser"] = {"rate": 3e-3, "warmup_steps": 10}
    trained(tmp_path, **changes)
    rows = log_rows(tmp_path)
    table = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    assert table["loss"][-40:].mean() < 0.85 * table["loss"][:10].mean()
    # One batch of so few machines may hold a single clip: the mean tells.
    assert table["rank"][-40:].mean() > 1.5
    assert table["target_std"][-1] > 0.05


def test_a_run_under_another_recipe_is_not_resumed(tmp_path):
    trained(tmp_path, until=1)
    other = Trainer(recipe(tmp_path, seed=9), None, tmp_path / "run")
    with pytest.raises(ValueError, match="recipe it was started with"):
        other.resume()


def test_a_longer_run_may_be_asked_for_on_resume(tmp_path):
    trained(tmp_path, until=2)
    longer = Trainer(recipe(tmp_path, steps=8), None, tmp_path / "run")
    longer.resume()
    longer.run()
    assert longer.step == 8


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    trainer = trained(tmp_path, until=1)
    with pytest.raises(FileExistsError, match="add --resume"):
        trainer.start()


def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_stored(tmp_path):
    trainer = trained(tmp_path, until=1)
    before = (tmp_path / "run" / STATE_FILE).read_bytes()
    with torch.no_grad():
        trainer.objective.decoder.mask.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="must be finite, got nan at step"):
        trainer.run()
    assert (tmp_path / "run" / STATE_FILE).read_bytes() == before


def test_an_interrupted_step_is_stored(tmp_path):
    def interrupt(progress):
        if progress.step == 2:
            raise KeyboardInterrupt

    trainer = Trainer(recipe(tmp_path), None, tmp_path / "run")
    trainer.start()
    with pytest.raises(KeyboardInterrupt):
        trainer.run(show=interrupt)
    again = Trainer(recipe(tmp_path), None, tmp_path / "run")
    again.resume()
    assert again.step == 2


def test_every_layer_starts_differently():
    layers = Echo(recipe_sizes(), seed=1).encoder.blocks()
    first, second = (layer.self_attn.in_proj_weight for layer in layers[:2])
    assert not torch.equal(first, second)


def recipe_sizes():
    from echo_model.checkpoints import EchoConfig

    return EchoConfig(16, 2, 2)


@pytest.mark.parametrize(("patches", "kept"), [(1, 1), (3, 0), (8, 2), (16, 4)])
def test_a_student_sees_the_asked_number_of_patches_and_at_least_one(patches, kept):
    hidden = hide(5, patches, 4, kept, torch.Generator().manual_seed(1))
    assert hidden.kept.shape == (20, max(1, kept))
    assert (~hidden.masked).sum(1).tolist() == [max(1, kept)] * 20
    assert not hidden.masked.gather(1, hidden.kept).any()
    assert hidden.band.tolist() == list(range(5)) * 4


def test_a_whole_view_hides_nothing_and_still_teaches(tmp_path):
    trainer = Trainer(recipe(tmp_path, batch={"tokens": 60, "whole": 1.0}), None, tmp_path / "run")
    hidden = trainer._hidden(trainer._batch(0))
    assert not hidden.masked.any()
    losses = trainer.advance(_Pace())
    assert losses.patch == 0
    assert losses.band > 0


@pytest.mark.parametrize("full", [False, True])
def test_targets_hold_nothing_that_position_explains(full):
    generator = torch.Generator().manual_seed(0)
    whitener = Whitener(4, 3, full=full)
    weights = 5 * torch.randn(3, 4, generator=generator)
    mix = torch.tensor([[2.0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0.5, 1], [0, 0, 0, 0.5]])
    for _ in range(300):
        position = torch.randn(64, 3, generator=generator)
        content = torch.randn(64, 4, generator=generator) @ mix
        out = whitener(position @ weights + content + 7, position)
    together = torch.cat([position, out], 1).T.corrcoef()[:3, 3:]
    assert together.abs().max() < 0.35  # 64 rows: chance alone gives 0.25
    assert 0.65 < out.std(0).mean() < 1.25  # weak directions are damped where full
    off = out.T.corrcoef() - torch.eye(4)
    assert (off.abs().max() < 0.7) == full


def test_constant_channels_stay_finite():
    whitener = Whitener(3, 2, full=True)
    assert whitener(torch.ones(8, 3), torch.zeros(8, 2)).isfinite().all()


def test_rank_tells_a_line_from_a_cloud():
    cloud = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    assert effective_rank(cloud) > 7.5
    assert effective_rank(cloud[:, :1] * torch.ones(8)) == pytest.approx(1.0, abs=1e-6)


def test_collapse_is_told_in_words():
    healthy = {"target_std": 0.3, "prediction_std": 0.3, "rank": 6.0}
    assert not list(collapse_signs(healthy))
    assert "rank must stay above" in next(collapse_signs(healthy | {"rank": 1.01}))


def test_the_rate_warms_up_stays_and_decays_to_zero():
    schedule = Schedule(100, OptimiserTable(warmup_steps=10, decay_share=0.2))
    scales = [schedule.scale(step) for step in range(101)]
    assert scales[:10] == sorted(scales[:10])
    assert set(scales[10:81]) == {1.0}
    assert scales[80:] == sorted(scales[80:], reverse=True)
    assert scales[100] == 0.0


@pytest.mark.parametrize(("at", "left"), [(50, 10), (50, 500), (90, 5), (90, 200), (50, 0)])
def test_moving_the_end_never_makes_the_rate_jump(at, left):
    schedule = Schedule(100, OptimiserTable(warmup_steps=10, decay_share=0.2))
    before = schedule.scale(at)
    schedule.replan(at, left)
    assert schedule.steps == at + left
    assert left == 0 or schedule.scale(at) == pytest.approx(before)
    assert schedule.scale(schedule.steps) == 0.0
    again = Schedule(7, OptimiserTable(warmup_steps=10, decay_share=0.2))
    again.restore(schedule.export())
    assert [again.scale(s) for s in range(700)] == [schedule.scale(s) for s in range(700)]


def test_a_run_fits_itself_into_the_minutes_given(tmp_path, monkeypatch):
    monkeypatch.setattr("echo_model.pretrain.trainer.REPLAN_S", 0.0)
    trainer = Trainer(recipe(tmp_path, steps=1_000_000), None, tmp_path / "run")
    trainer.start()
    trainer.run(minutes=0.02)
    assert 1 < trainer.step < 1_000_000
    assert trainer.schedule.scale(trainer.step) == 0.0
    assert trainer.seconds < 30


def test_the_exported_encoder_loads_like_any_released_one(tmp_path):
    data = recordings(tmp_path / "data")
    trainer = trained(tmp_path, until=2, data=data, sources=[*TINY["sources"], RECORDED])
    encoder, card, picture = write_results(trainer.recipe, data, trainer.out, step=trainer.step)
    model = Echo.from_pretrained(encoder, num_heads=2, force_heads=True)
    wave = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    ours = trainer.objective.teacher.eval().extract_features_from_audio(wave, 8000)
    theirs = model.extract_features_from_audio(wave, 8000)
    assert torch.allclose(ours.utterance, theirs.utterance, atol=0.02)
    text = card.read_text(encoding="utf-8")
    assert model.sha256 in text
    for credit in ("Ada", "Bo & Co", "CC BY 4.0", "MIT", "2 steps"):
        assert credit in text
    assert "Cy" not in text  # the share-alike clip
    assert ET.parse(picture).getroot().tag.endswith("svg")  # noqa: S314  (we wrote it)
    with safetensors.safe_open(encoder, "pt") as file:
        assert list(file.metadata()) == ["echo"]  # one: the order of several is random
        about = json.loads(file.metadata()["echo"])
        assert (about["config"]["embed_dim"], about["steps"]) == (16, 2)
        assert file.get_tensor("cls_token").dtype == torch.float16


def test_curves_of_an_empty_log_are_a_picture_too(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("step,patch\n", encoding="utf-8")
    draw_curves(log, tmp_path / "c.svg", title="a < b")
    assert ET.parse(tmp_path / "c.svg").getroot().tag.endswith("svg")  # noqa: S314  (we wrote it)


def test_bf16_trains_as_well(tmp_path):
    trainer = trained(tmp_path, until=2, precision="bf16")
    assert all(p.isfinite().all() for p in trainer.objective.parameters())
    assert all(p.dtype == torch.float32 for p in trainer.objective.student.parameters())
