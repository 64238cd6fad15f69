"""A folder -> one recording in each file format, for the readers' tests."""

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

from connectors.files import ReadOptions
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
