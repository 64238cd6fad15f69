import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import soundfile as sf

from connectors.files import ReadOptions, describe, read
from file_cases import GOLDEN, IDS, NOON_NS, OPTIONS, OTHER, RAMP, N, values_of


@pytest.mark.parametrize(("file", "write", "names", "unit", "encoding", "scale"), GOLDEN, ids=IDS)
def test_format_gives_back_what_was_written(
    tmp_path: Path,
    file: str,
    write: Callable[[Path], None],
    names: tuple[str, str],
    unit: str,
    encoding: str,
    scale: float,
) -> None:
    write(tmp_path / file)
    chunks = list(read([tmp_path / file], options=OPTIONS))
    assert {c.sensor_id for c in chunks} == {f"run/{name}" for name in names}
    assert {(c.unit, c.encoding, c.scale) for c in chunks} == {(unit, encoding, scale)}
    assert {c.sample_rate_hz for c in chunks} == {1000.0}
    assert [c.start_ns for c in chunks] == sorted(c.start_ns for c in chunks)
    assert chunks[0].start_ns == NOON_NS
    assert max(c.samples.size for c in chunks) == 500
    np.testing.assert_array_equal(values_of(chunks, f"run/{names[0]}"), RAMP * scale)
    np.testing.assert_array_equal(values_of(chunks, f"run/{names[1]}"), OTHER * scale)


@pytest.mark.parametrize(("file", "write", "names", "unit", "encoding", "scale"), GOLDEN, ids=IDS)
def test_description_agrees_with_the_chunks(
    tmp_path: Path,
    file: str,
    write: Callable[[Path], None],
    names: tuple[str, str],
    unit: str,
    encoding: str,
    scale: float,
) -> None:
    write(tmp_path / file)
    described = describe(tmp_path / file, OPTIONS)
    assert [c.sensor_id for c in described.channels] == [f"run/{name}" for name in names]
    for channel in described.channels:
        assert (channel.unit, channel.encoding, channel.scale) == (unit, encoding, scale)
        assert channel.sample_rate_hz == 1000.0
        assert channel.n_samples in (N, None)
        assert channel.start_ns in (NOON_NS, None)


def test_cwru_variables_carry_g_and_an_announced_rate(tmp_path: Path) -> None:
    variables = {"X097_DE_time": RAMP[:, None] / 8, "X097_FE_time": OTHER[:, None], "X097RPM": 1796}
    scipy.io.savemat(tmp_path / "97.mat", variables)
    described = describe(tmp_path / "97.mat")
    assert [c.sensor_id for c in described.channels] == ["97/DE", "97/FE"]
    assert {(c.unit, c.sample_rate_hz) for c in described.channels} == {("g", 12_000.0)}
    assert any("12 kHz assumed" in note for note in described.notes)
    chunks = list(read([tmp_path / "97.mat"], options=ReadOptions(sample_rate_hz=48_000)))
    assert {c.sample_rate_hz for c in chunks} == {48_000.0}
    np.testing.assert_array_equal(values_of(chunks, "97/DE"), (RAMP / 8).astype(np.float32))


def test_broadcast_wave_time_is_the_start(tmp_path: Path) -> None:
    sf.write(tmp_path / "run.wav", RAMP, 1000)
    whole = (tmp_path / "run.wav").read_bytes()
    bext = bytes(320) + b"2024-05-01" + b"12:00:00" + struct.pack("<Q", 43_200_250) + bytes(256)
    chunk = b"bext" + struct.pack("<I", len(bext)) + bext
    body = whole[:12] + chunk + whole[12:]
    (tmp_path / "run.wav").write_bytes(body[:4] + struct.pack("<I", len(body) - 8) + body[8:])
    chunks = list(read([tmp_path / "run.wav"]))
    assert chunks[0].start_ns == NOON_NS + 250_000_000
    np.testing.assert_array_equal(values_of(chunks, "run"), RAMP / 2**15)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("stored", ["i1", "u2", "f4", "f8"])
@pytest.mark.parametrize("shape", [(90_000, 2), (2, 90_000), (180_000, 1)])
def test_matlab_variables_read_as_scipy_wrote_them(
    tmp_path: Path, shape: tuple[int, int], stored: str, *, compressed: bool
) -> None:
    data = np.random.default_rng(0).normal(0, 30, shape).astype(stored)
    path = tmp_path / "run.mat"
    scipy.io.savemat(path, {"x": data, "fs": 1000, "s": {"y": 1}}, do_compression=compressed)
    chunks = list(read([path]))
    expected = data.T if shape[0] > shape[1] else data
    for channel, wanted in enumerate(expected):
        name = "run" if len(expected) == 1 else f"run/ch{channel}"
        np.testing.assert_array_equal(values_of(chunks, name), wanted.astype(np.float32))


@pytest.mark.parametrize("file", ["big.wav", "big.bin", "big.npy"])
def test_memory_stays_small_while_a_large_file_is_read(tmp_path: Path, file: str) -> None:
    size = 200 * 2**20
    with (tmp_path / file).open("wb") as out:
        if file == "big.wav":
            sf.write(tmp_path / "head.wav", np.zeros(1, np.int16), 192_000)
            head = (tmp_path / "head.wav").read_bytes()[:44]
            out.write(head[:4] + struct.pack("<I", size - 8) + head[8:40])
            out.write(struct.pack("<I", size - 44))
        if file == "big.npy":
            shape = {"descr": "<i2", "fortran_order": False, "shape": ((size - 128) // 2,)}
            np.lib.format.write_array_header_1_0(out, shape)
        out.truncate(size)
    (tmp_path / "big.yaml").write_text("dtype: int16\nsample_rate_hz: 192000\n")
    tracemalloc.start()
    try:
        options = ReadOptions(sample_rate_hz=192_000)
        total = sum(c.samples.size for c in read([tmp_path / file], options=options))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == pytest.approx(size // 2, abs=100)
    assert peak < 20 * 2**20
