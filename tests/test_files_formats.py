import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import soundfile as sf
from nptdms import ChannelObject, TdmsWriter

from connectors.files import ReadError, ReadOptions, describe, read
from pipeline.messages import NS_PER_S, SensorChunk

NOON = "2024-05-01T12:00:00Z"
NOON_NS = 1_714_564_800 * NS_PER_S
N = 3000
RAMP = (np.arange(N) * 7 % 2001 - 1000).astype(np.int16)
OTHER = -RAMP // 2


def values_of(chunks: list[SensorChunk], sensor: str) -> np.ndarray:
    mine = [c for c in chunks if c.sensor_id == sensor]
    assert [c.seq for c in mine] == list(range(len(mine)))
    for before, after in pairwise(mine):
        assert before.end_ns == pytest.approx(after.start_ns, abs=1)
    return np.concatenate([c.samples * c.scale + c.offset for c in mine])


def wav16(path: Path) -> None:
    sf.write(path, np.stack([RAMP, OTHER], 1), 1000, subtype="PCM_16")


def wav24(path: Path) -> None:
    sf.write(path, np.stack([RAMP, OTHER], 1).astype(np.int32) << 8, 1000, subtype="PCM_24")


def flac(path: Path) -> None:
    sf.write(path, np.stack([RAMP, OTHER], 1), 1000, format="FLAC")


def npy(path: Path) -> None:
    np.save(path, np.stack([RAMP, OTHER]))


def npz(path: Path) -> None:
    np.savez_compressed(path, de=RAMP, fe=OTHER, fs=1000, unit="g", start_time=NOON)


def mat(path: Path) -> None:
    scipy.io.savemat(
        path, {"de": RAMP[:, None], "fe": OTHER, "fs": 1000.0, "unit": "g", "start": NOON}
    )


def hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["start_time"] = NOON
        group = file.create_group("acc")
        group.attrs["fs"] = 1000.0
        for name, data in (("de", RAMP), ("fe", OTHER)):
            group.create_dataset(name, data=data, chunks=(500,)).attrs["unit"] = "g"


def mat73(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, data in (("de", RAMP), ("fe", OTHER)):
            file[name] = data[None, :].astype(np.float64)
            file[name].attrs["MATLAB_class"] = np.bytes_("double")
        file["fs"] = np.array([[1000.0]])
        file["unit"] = np.array([[ord("g")]], np.uint16)
        file["unit"].attrs["MATLAB_class"] = np.bytes_("char")
        file["start"] = np.array([[float(NOON_NS // NS_PER_S)]])
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: test".ljust(124) + b"\0\2IM")


def parquet(path: Path) -> None:
    times = pa.array(NOON_NS + np.arange(N) * 1_000_000, pa.timestamp("ns", "UTC"))
    fields = [pa.field(n, pa.int16(), metadata={"unit": "g"}) for n in ("de", "fe")]
    schema = pa.schema([pa.field("time", times.type), *fields])
    table = pa.table([times, pa.array(RAMP), pa.array(OTHER)], schema=schema)
    pq.write_table(table, path, row_group_size=700)


def parquet_lists(path: Path) -> None:
    starts = NOON_NS + np.repeat(np.arange(3), 2) * NS_PER_S
    rows = [x for i in range(0, N, 1000) for x in (RAMP[i : i + 1000], OTHER[i : i + 1000])]
    table = {
        "start": pa.array(starts, pa.timestamp("ns")),
        "sensor": ["de", "fe"] * 3,
        "sample_rate_hz": [1000.0] * 6,
        "unit": ["g"] * 6,
        "samples": pa.array(rows, pa.list_(pa.int16())),
    }
    pq.write_table(pa.table(table), path)


def tdms(path: Path) -> None:
    facts = {"wf_increment": 1e-3, "wf_start_time": np.datetime64(NOON[:-1]), "unit_string": "g"}
    with TdmsWriter(path) as writer:
        for begin in range(0, N, 1000):
            cut = slice(begin, begin + 1000)
            writer.write_segment(
                [
                    ChannelObject("acc", "de", RAMP[cut], facts),
                    ChannelObject("acc", "fe", OTHER[cut], facts),
                ]
            )


def raw(path: Path) -> None:
    np.stack([RAMP, OTHER], 1).astype(">i2").tofile(path)
    path.with_name(path.name + ".yaml").write_text(
        "dtype: int16\nendian: big\nchannels: [de, fe]\nsample_rate_hz: 1000\nunit: g\n"
        f"start: {NOON}\n"
    )


def raw24(path: Path) -> None:
    columns = [
        np.ascontiguousarray(x, "<i4").view(np.uint8).reshape(-1, 4)[:, :3] for x in (RAMP, OTHER)
    ]
    path.write_bytes(b"HEAD" + b"".join(c.tobytes() for c in columns))
    path.with_suffix(".yaml").write_text(
        "dtype: int24\nlayout: sequential\nchannels: [de, fe]\nsample_rate_hz: 1000\nunit: g\n"
        f"skip_bytes: 4\nstart: {NOON}\n"
    )


def csv(path: Path) -> None:
    moments = np.datetime64(NOON[:-1], "ms") + np.arange(N)
    rows = (f"{t},{a},{b}" for t, a, b in zip(moments, RAMP, OTHER, strict=True))
    path.write_text("time,de [g],fe [g]\n" + "\n".join(rows) + "\n")


def csv_german(path: Path) -> None:
    rows = (f"{t / 1000:.3f};{a}.0;{b}.0" for t, a, b in zip(range(N), RAMP, OTHER, strict=True))
    path.write_text("Zeit;de (g);fe (g)\n" + "\n".join(rows).replace(".", ",") + "\n", "latin-1")


GOLDEN: list[tuple[str, Callable[[Path], None], tuple[str, str], str, str, float]] = [
    ("run.wav", wav16, ("ch0", "ch1"), "FS", "i16", 2.0**-15),
    ("run.wav", wav24, ("ch0", "ch1"), "FS", "i24", 2.0**-23),
    ("run.flac", flac, ("ch0", "ch1"), "FS", "i16", 2.0**-15),
    ("run.npy", npy, ("ch0", "ch1"), "unknown", "i16", 1.0),
    ("run.npz", npz, ("de", "fe"), "g", "i16", 1.0),
    ("run.mat", mat, ("de", "fe"), "g", "i16", 1.0),
    ("run.h5", hdf5, ("acc/de", "acc/fe"), "g", "i16", 1.0),
    ("run.mat", mat73, ("de", "fe"), "g", "f32", 1.0),
    ("run.parquet", parquet, ("de", "fe"), "g", "i16", 1.0),
    ("run.parquet", parquet_lists, ("de", "fe"), "g", "i16", 1.0),
    ("run.tdms", tdms, ("acc/de", "acc/fe"), "g", "i16", 1.0),
    ("run.bin", raw, ("de", "fe"), "g", "i16", 1.0),
    ("run.bin", raw24, ("de", "fe"), "g", "i24", 1.0),
    ("run.csv", csv, ("de", "fe"), "g", "f32", 1.0),
    ("run.csv", csv_german, ("de", "fe"), "g", "f32", 1.0),
]
IDS = [write.__name__ for _, write, *_ in GOLDEN]
# What the container cannot hold comes from the options, for all formats alike.
OPTIONS = ReadOptions(sample_rate_hz=1000.0, start=NOON)


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


@pytest.mark.parametrize("cut", [0, 20, 0.5, 0.9], ids=["empty", "20 bytes", "half", "90 %"])
@pytest.mark.parametrize(
    ("file", "write"), [g[:2] for g in GOLDEN if "csv" not in g[0]], ids=IDS[:-2]
)
def test_truncated_file_is_named_and_skipped_or_stops(
    tmp_path: Path, file: str, write: Callable[[Path], None], cut: float
) -> None:
    write(tmp_path / file)
    whole = (tmp_path / file).read_bytes()
    kept = round(cut * len(whole)) if isinstance(cut, float) else cut
    (tmp_path / file).write_bytes(whole[: kept | 1 if kept else 0])
    with pytest.raises(ReadError, match=file):
        list(read([tmp_path / file], options=OPTIONS))
    problems: list[str] = []
    options = ReadOptions(
        sample_rate_hz=1000.0, on_error="skip", on_problem=problems.append, start=NOON
    )
    good = tmp_path / "good.wav"
    wav16(good)
    chunks = list(read([tmp_path / file, good], options=options))
    assert values_of(chunks, "good/ch0").size == N
    assert any(file in problem for problem in problems)


@pytest.mark.parametrize(("file", "write"), [g[:2] for g in GOLDEN], ids=IDS)
def test_flipped_bytes_give_data_or_a_named_error_and_nothing_else(
    tmp_path: Path, file: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / file)
    whole = np.frombuffer((tmp_path / file).read_bytes(), np.uint8)
    rng = np.random.default_rng(7)
    broken = 0
    for _ in range(25):
        bad = whole.copy()
        bad[rng.integers(0, min(bad.size, 1500), 5)] = rng.integers(0, 256, 5)
        (tmp_path / file).write_bytes(bad.tobytes())
        try:
            list(read([tmp_path / file], options=OPTIONS))
        except ReadError as error:
            assert file in str(error)  # noqa: PT017  (both outcomes are right)
            broken += 1
    assert broken or file.endswith((".bin", ".wav"))


def test_cut_row_of_a_table_is_named(tmp_path: Path) -> None:
    csv(tmp_path / "run.csv")
    whole = (tmp_path / "run.csv").read_text()
    (tmp_path / "run.csv").write_text(whole[: whole.rindex(",")])
    with pytest.raises(ReadError, match=r"run\.csv: broken row"):
        list(read([tmp_path / "run.csv"]))


def test_numbers_with_a_word_among_them_are_named(tmp_path: Path) -> None:
    (tmp_path / "run.csv").write_text("a,b\n" + "1,2\n" * 5000 + "1,oops\n" + "1,2\n" * 5000)
    with pytest.raises(ReadError, match=r"run\.csv: broken row.*oops"):
        list(read([tmp_path / "run.csv"], options=OPTIONS))


@pytest.mark.parametrize("file", ["x.npy", "x.npz"])
def test_pickled_objects_are_refused(tmp_path: Path, file: str) -> None:
    objects = np.array([{"a": 1}, None], dtype=object)
    if file == "x.npy":
        np.save(tmp_path / file, objects, allow_pickle=True)
    else:
        np.savez(tmp_path / file, a=objects)
    with pytest.raises(ReadError, match=file):
        list(read([tmp_path / file], options=OPTIONS))


def test_external_links_of_hdf5_are_refused(tmp_path: Path) -> None:
    hdf5(tmp_path / "other.h5")
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["acc"] = h5py.ExternalLink("other.h5", "/acc/de")
    with pytest.raises(ReadError, match="another file"):
        describe(tmp_path / "linked.h5")
    with h5py.File(tmp_path / "stored.h5", "w") as file:
        file.create_dataset("acc", (100,), "<i2", external=[("/etc/hostname", 0, 200)])
    with pytest.raises(ReadError, match="other files"):
        describe(tmp_path / "stored.h5")


def test_header_that_promises_more_than_memory_is_refused(tmp_path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }"
    body = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    (tmp_path / "x.npy").write_bytes(body)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", body)
    for file in ("x.npy", "x.npz"):
        with pytest.raises(ReadError, match=file):
            list(read([tmp_path / file], options=OPTIONS))


@pytest.mark.parametrize(
    ("sidecar", "complaint"),
    [
        ("dtype: int12\nsample_rate_hz: 1", "dtype must be one of int8, .* got int12"),
        ("dtype: int16", "sample_rate_hz must be a finite number, got None"),
        ("dtype: int16\nsample_rate_hz: -5", "sample_rate_hz must lie above 0, .* got -5"),
        ("dtype: int16\nsample_rate_hz: 1\nchanels: 2", "unknown keys .*chanels"),
        ("dtype: int16\nsample_rate_hz: 1\nchannels: 0", "channels must be a number > 0"),
        ("dtype: int16\nsample_rate_hz: 1\nstart: noon", "start: time must be ISO-8601"),
        ("a: &a [1,1]\nb: &b [*a,*a]", "b: nested values"),
        ("[1, 2", "not YAML"),
    ],
)
def test_sidecar_error_says_what_is_allowed(tmp_path: Path, sidecar: str, complaint: str) -> None:
    (tmp_path / "run.bin").write_bytes(bytes(100))
    (tmp_path / "run.yaml").write_text(sidecar)
    with pytest.raises(ReadError, match=rf"run\.yaml: {complaint}"):
        describe(tmp_path / "run.bin")


def test_raw_file_without_sidecar_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "run.bin").write_bytes(bytes(100))
    with pytest.raises(ReadError, match=r"add run\.bin\.yaml"):
        describe(tmp_path / "run.bin")


def test_missing_rate_says_how_to_pass_it(tmp_path: Path) -> None:
    np.save(tmp_path / "run.npy", RAMP)
    assert "rate unknown: pass --rate" in describe(tmp_path / "run.npy").notes
    with pytest.raises(ReadError, match=r"run\.npy: rate unknown; pass --rate"):
        read([tmp_path / "run.npy"])


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


def test_missing_tdms_library_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tdms(tmp_path / "run.tdms")
    monkeypatch.setitem(__import__("sys").modules, "nptdms", None)
    with pytest.raises(ReadError, match=r'pip install "echowatch\[tdms\]"'):
        describe(tmp_path / "run.tdms")


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
