import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from connectors.files import ReadError, ReadOptions, describe, read
from file_cases import GOLDEN, IDS, NOON, OPTIONS, RAMP, N, csv, hdf5, tdms, values_of, wav16


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


def test_missing_tdms_library_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tdms(tmp_path / "run.tdms")
    monkeypatch.setitem(__import__("sys").modules, "nptdms", None)
    with pytest.raises(ReadError, match=r'pip install "echowatch\[tdms\]"'):
        describe(tmp_path / "run.tdms")
