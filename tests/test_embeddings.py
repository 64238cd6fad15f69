import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import torch

from connectors.embeddings import EmbeddingsFile
from connectors.files import ReadError, ReadOptions, read
from echo_model.echo import Echo
from echo_model.engine import EchoEngine
from pipeline.assembly import build_monitor
from pipeline.cli import main
from pipeline.fleet import Fleet
from pipeline.settings import load

RATE_HZ = 8000
SETTINGS = load({}, profile="short")


class Recorder:
    """The encoder, keeping what the monitor has asked and got."""

    def __init__(self, engine):
        self.engine, self.model_id, self.trained = engine, engine.model_id, engine.trained
        self.gains, self.vectors = [], []

    def embed(self, samples, rates, gains):
        found = self.engine.embed(samples, rates, gains)
        self.gains += gains
        self.vectors += found
        return found

    def band_edges_hz(self, rate):
        return self.engine.band_edges_hz(rate)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sensor that is loud and one that is faint, the faint one flat at first."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("recordings")
    x = np.random.default_rng(0).normal(0, 1, (RATE_HZ * 3, 2)) * (0.2, 0.003)
    x[: RATE_HZ // 2, 1] = 0.0
    sf.write(folder / "pump.wav", x, RATE_HZ, subtype="FLOAT")
    return folder


def test_vectors_and_gains_are_those_of_the_monitor(folder, tmp_path):
    recorder = Recorder(EchoEngine(Echo.from_pretrained("nano")))
    monitor = build_monitor(SETTINGS, Fleet(), recorder)
    for chunk in read([folder]):
        monitor.process([chunk])
    monitor.flush()
    out = tmp_path / "new" / "pump.parquet"
    with pytest.raises(SystemExit) as ended:
        main(["embed", str(folder), "-o", str(out), "--profile", "short"])
    assert not ended.value.code
    table = pq.read_table(out)
    assert table.schema.metadata[b"model_id"].decode() == recorder.model_id
    rows = table.to_pylist()
    gains = {row["sensor_id"]: row["gain"] for row in rows}
    assert gains == {"pump/ch0": 0.5, "pump/ch1": 32.0}
    assert sorted(row["gain"] for row in rows) == sorted(recorder.gains)
    mine = sorted([row["gain"], *row["embedding"]] for row in rows)
    theirs = sorted(
        [gain, *vector.reshape(-1)]
        for gain, vector in zip(recorder.gains, recorder.vectors, strict=True)
    )
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_window_of_a_sensor_that_lies_is_left_out_and_counted(folder, tmp_path, capsys):
    out = tmp_path / "pump.parquet"
    with pytest.raises(SystemExit):
        main(["embed", str(folder), "-o", str(out), "--profile", "short"])
    rows = pq.read_table(out).to_pylist()
    per_sensor = {
        name: [r for r in rows if r["sensor_id"] == name] for name in ("pump/ch0", "pump/ch1")
    }
    missing = len(per_sensor["pump/ch0"]) - len(per_sensor["pump/ch1"])
    assert missing > 0
    assert f"{len(rows)} windows in {out}, {missing} left out" in capsys.readouterr().err


def test_a_failed_run_leaves_the_file_that_was_there(tmp_path):
    out = tmp_path / "old.parquet"
    out.write_bytes(b"old")
    with pytest.raises(ReadError), EmbeddingsFile(out, "nano", trained=False):
        list(read([tmp_path / "missing.wav"], options=ReadOptions()))
    assert out.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["old.parquet"]
