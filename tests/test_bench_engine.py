"""The table of this machine: its limit has the engine's products, its figures their units."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
import typer

from echo_model.checkpoints import CONFIGS, EchoConfig
from echo_model.echo import Echo
from echo_model.engine import EchoEngine
from pipeline.bench import engine as bench
from pipeline.cli import main
from pipeline.cli.bench_engine import seconds

CONFIG = EchoConfig(48, 3, 3)
ENGINE = EchoEngine(Echo(CONFIG, seed=5).eval())


def limit(shape, count):
    return bench.Limit(CONFIG, ENGINE, shape, count)


@pytest.mark.parametrize("name", ["nano", "tiny", "small"])
def test_products_are_those_of_the_network(name):
    config, patches, bands = CONFIGS[name], 7 * 224, 224
    flops = sum(2 * a * b * c for a, b, c in bench.products(config, patches, bands))
    dim, rows = config.embed_dim, patches + bands
    whole = 2 * (512 * dim * patches + config.depth * 12 * dim * dim * rows)
    saved = 2 * 10 * dim * dim * (rows - bands)  # of the last layer, beyond CLS rows
    assert flops == whole - saved


@pytest.mark.parametrize("count", [1, 40, 64, 150])
def test_the_limits_calls_hold_every_token(count):
    shape = bench.window_shape(ENGINE, CONFIG, 16000.0, 1.0)
    assert shape == (7, (7,))
    per_call = 1 + 4 * 2 + 5
    work = limit(shape, count)._work
    assert len(work) % per_call == 0
    patches = [x.shape[0] for _, x in work[::per_call]]
    assert sum(patches) == count * 7 * 7
    assert max(p + p // 7 for p in patches) <= ENGINE.max_tokens


def test_long_windows_are_cut_into_clips():
    assert bench.window_shape(ENGINE, CONFIG, 1000.0, 25.0) == (1, (125, 32))
    assert limit((1, (125, 32)), 3)._work
    with pytest.raises(ValueError, match=r"25 ms, got 0\.01 s"):
        bench.window_shape(ENGINE, CONFIG, 1000.0, 0.01)


def test_turns_alternate_and_the_first_only_warms_up():
    order = []
    taken = bench.alternate(
        [lambda: order.append("a"), lambda: order.append("b")], 0.0, torch.device("cpu")
    )
    assert order == ["a", "b"] * (len(taken[0]) + 1)
    assert len(taken[0]) == bench.MIN_REPEATS


def test_windows_are_as_a_converter_gives_them():
    made = bench.windows(8000.0, 0.5, 3)
    assert [(w.dtype, w.shape) for w in made] == [(np.dtype(np.int16), (4000,))] * 3


def test_sensors_follow_from_windows_and_interval():
    step = bench.Step("x", Echo(CONFIG).eval(), ENGINE, 1000.0)
    cell = bench.measure(
        ENGINE, CONFIG, model=step.model, sample_rate_hz=1000.0, window_s=0.5, interval_s=10.0,
        budget_s=0.0,
    )  # fmt: skip
    assert cell.sensors == int(cell.cores * 10.0 * cell.windows_per_s)
    assert cell.limit_share == pytest.approx(cell.windows_per_s / cell.limit_per_s)
    assert 0 < cell.spectrum_share < 1
    assert set(asdict(cell)) >= {"model", "precision", "device"}


def test_the_command_prints_its_table_and_writes_json(tmp_path, capsys):
    path = tmp_path / "bench.json"
    line = "bench engine --models nano --rates 1000 --precision fp32 --window 200ms --interval 2s"
    with pytest.raises(SystemExit) as ended:
        main([*line.split(), "--json", str(path)])
    assert not ended.value.code
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    for word in ("nano", "1000", "fp32", "sensors at 2s", "Encoder alone"):
        assert word in out
    found = json.loads(path.read_text())
    assert [cell["model"] for cell in found["cells"]] == ["nano"]
    assert found["machine"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("--models", "nemo", "nemo"),
        ("--rates", "50", ">= 100 Hz"),
        ("--precision", "int8", "int8"),
        ("--device", "meta", "cpu or cuda"),
        ("--window", "10ms", "25 ms"),
    ],
)
def test_what_cannot_be_measured_is_named(option, value, text, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "engine", "--models", "nano", "--rates", "1000", option, value])
    assert ended.value.code == 1
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "value"), [("10s", 10.0), ("100ms", 0.1), ("1min", 60.0), ("2", 2.0), ("1.5 h", 5400)]
)
def test_spans_are_read(text, value):
    assert seconds("--interval", text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "0s", "-1s", "1 day", "s"])
def test_other_spans_are_refused(text):
    with pytest.raises(typer.BadParameter, match="such as 10s"):
        seconds("--interval", text)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", ""])
def test_a_device_of_no_known_name_is_refused_in_words(device):
    with pytest.raises(ValueError, match="device must be cpu or cuda"):
        bench.plan(["nano"], [16000.0], device=device)


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path, capsys):
    for place in (tmp_path, tmp_path / "absent" / "x.json"):
        wanted = ["bench", "engine", "--models", "nano", "--rates", "16000", "--json", str(place)]
        with pytest.raises(SystemExit):
            main(wanted)
        told = capsys.readouterr().err
        assert "--json must be a file in a folder that is there" in told
        assert "nano 16000 Hz" not in told
