import csv
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from connectors.files import ReadOptions, read
from connectors.files.times import parse_time
from connectors.files.write import iso_time, write_recordings
from pipeline.messages import Encoding, Flags, SensorChunk
from pipeline.simulation.simulate import demo_plant

START_NS = 1_767_592_800_000_000_000
TYPES: dict[Encoding, tuple[type, int]] = {
    "i16": (np.int16, 2**15 - 1),
    "i24": (np.int32, 2**23 - 1),
    "i32": (np.int32, 2**31 - 1),
    "f32": (np.float32, 3),
}


def made(encoding: Encoding, *, start_ns: int = START_NS, seq: int = 0) -> SensorChunk:
    dtype, top = TYPES[encoding]
    samples = np.random.default_rng(seq).uniform(-top, top, 1000)
    samples[:2] = -top, top
    return SensorChunk(
        f"a/{encoding}", 25600.0, start_ns, samples.astype(dtype), seq=seq, encoding=encoding,
        scale=0.001, unit="g", flags=Flags.END_OF_CAPTURE,
    )  # fmt: skip


def by_sensor(chunks: Iterable[SensorChunk]) -> dict[str, list[SensorChunk]]:
    found: dict[str, list[SensorChunk]] = defaultdict(list)
    for chunk in chunks:
        found[chunk.sensor_id].append(chunk)
    return found


@pytest.mark.parametrize("container", ["flac", "wav"])
def test_what_was_written_is_read_back_exactly(container: str, tmp_path: Path) -> None:
    written = [
        made(encoding, start_ns=START_NS + i * 10**10 + 1001, seq=i)
        for i in range(3)
        for encoding in TYPES
    ]  # fmt: skip
    count = write_recordings(written, tmp_path / "set", container=container)  # type: ignore[arg-type]
    assert count == 12
    back = by_sensor(read([tmp_path / "set"], options=ReadOptions(chunk_s=1.0)))
    for sensor_id, chunks in by_sensor(written).items():
        for old, new in zip(chunks, back[sensor_id], strict=True):
            assert (new.start_ns, new.sample_rate_hz) == (old.start_ns, old.sample_rate_hz)
            assert (new.unit, new.flags) == (old.unit, old.flags)
            assert np.array_equal(new.samples * new.scale, old.samples * old.scale)


def test_a_simulated_plant_survives_the_disk(tmp_path: Path) -> None:
    plant = demo_plant(hours=0.05)
    assert write_recordings(plant.chunks(), tmp_path / "set") == 36
    back = list(read([tmp_path / "set"], options=ReadOptions(chunk_s=2.0)))
    for old, new in zip(plant.chunks(), back, strict=True):
        assert (new.sensor_id, new.start_ns, new.scale) == (old.sensor_id, old.start_ns, old.scale)
        assert (new.encoding, new.flags) == (old.encoding, old.flags)
        assert np.array_equal(new.samples, old.samples)


def test_a_changed_rate_begins_a_file_of_its_own(tmp_path: Path) -> None:
    slow = SensorChunk("a", 8000.0, START_NS + 10**9, np.zeros(8, np.int16), encoding="i16")
    fast = SensorChunk("a", 16000.0, START_NS, np.zeros(16, np.int16), encoding="i16")
    write_recordings([fast, slow, fast], tmp_path)
    with (tmp_path / "index.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["sample_rate"], row["offset_frames"]) for row in rows] == [
        ("16000", "0"), ("8000", "0"), ("16000", "16"),
    ]  # fmt: skip
    rates = {row["file"]: sf.info(tmp_path / row["file"]).samplerate for row in rows}
    assert sorted(rates.values()) == [8000, 16000]


def test_alike_names_keep_apart_and_stay_inside_the_folder(tmp_path: Path) -> None:
    names = ["a/b", "a_b", "../../x"]
    write_recordings(
        [SensorChunk(name, 8000.0, 0, np.zeros(8, np.float32)) for name in names], tmp_path / "set"
    )
    assert len(list((tmp_path / "set").glob("*.wav"))) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_non_finite_floats_survive(tmp_path: Path) -> None:
    samples = np.array([1.5, np.nan, np.inf, -np.inf], np.float32)
    write_recordings([SensorChunk("a", 8000.0, 0, samples)], tmp_path)
    (path,) = tmp_path.glob("*.wav")
    assert np.array_equal(sf.read(path, dtype="float32")[0], samples, equal_nan=True)


def test_a_set_is_never_overwritten(tmp_path: Path) -> None:
    write_recordings([made("i16")], tmp_path)
    with pytest.raises(FileExistsError, match="remove that set"):
        write_recordings([made("i16")], tmp_path)


def test_an_unknown_container_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="container must be flac or wav, got 'mp3'"):
        write_recordings([], tmp_path, container="mp3")  # type: ignore[arg-type]


@pytest.mark.parametrize("ns", [0, 1, 999, 1000, 1_500_000_000, START_NS + 39_062_500 + 1])
def test_times_are_exact(ns: int) -> None:
    assert parse_time(iso_time(ns)) == ns


def test_a_rate_that_is_no_whole_number_survives(tmp_path: Path) -> None:
    samples = np.arange(5000, dtype=np.int16)
    old = SensorChunk("a", 25641.025641, START_NS, samples, encoding="i16")
    write_recordings([old], tmp_path)
    back = list(read([tmp_path]))
    assert {chunk.sample_rate_hz for chunk in back} == {25641.025641}
    assert np.array_equal(np.concatenate([chunk.samples for chunk in back]), samples)
