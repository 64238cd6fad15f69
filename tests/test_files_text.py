from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.files import ReadError, ReadOptions, describe, read
from connectors.files.text import sniff
from connectors.files.times import parse_time, time_in_name
from pipeline.messages import NS_PER_S, Flags

NOON_NS = 1_714_564_800 * NS_PER_S
X = np.arange(-40, 40) / 8


def table(path: Path, lines: list[str], header: str = "") -> Path:
    path.write_text("\n".join([*([header] if header else []), *lines]) + "\n")
    return path


def samples_of(path: Path, options: ReadOptions, sensor: str) -> np.ndarray:
    return np.concatenate(
        [c.samples for c in read([path], options=options) if c.sensor_id == sensor]
    )


@pytest.mark.parametrize("separator", ["\t", ";", ",", "|", "   "])
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("header", [True, False])
def test_separator_and_decimal_comma_are_found(
    tmp_path: Path, separator: str, decimal: str, *, header: bool
) -> None:
    if separator == decimal:
        return  # not a table that anyone could read
    lines = [separator.join([f"{x:.3f}", f"{-x:.3f}", "7.5"]).replace(".", decimal) for x in X]
    names = separator.join(["a", "b", "c"]) if header else ""
    path = table(tmp_path / "t.csv", lines, names)
    options = ReadOptions(sample_rate_hz=1000)
    names_read = ("a", "b", "c") if header else ("col0", "col1", "col2")
    if not header:  # an even ramp without a name is a column of times, unless it is mapped
        options = ReadOptions(sample_rate_hz=1000, columns={"col0": "col0"})
    for name, expected in zip(names_read, (X, -X, np.full(80, 7.5)), strict=True):
        np.testing.assert_array_equal(samples_of(path, options, f"t/{name}"), expected)


def test_one_column_with_decimal_commas_is_one_channel(tmp_path: Path) -> None:
    path = table(tmp_path / "t.txt", [f"{x:.3f}".replace(".", ",") for x in X])
    np.testing.assert_array_equal(samples_of(path, ReadOptions(sample_rate_hz=1000), "t"), X)


@pytest.mark.parametrize(
    ("column", "start_ns", "source"),
    [
        ([f"2024-05-01T12:00:{i / 125:06.3f}Z" for i in range(80)], NOON_NS, "columns"),
        ([f"2024-05-01 12:00:{i / 125:06.3f}" for i in range(80)], NOON_NS, "columns"),
        ([f"{1714564800 + i / 125:.3f}" for i in range(80)], NOON_NS, "columns"),
        ([str(1714564800000 + i * 8) for i in range(80)], NOON_NS, "columns"),
        ([str((1714564800000 + i * 8) * 10**6) for i in range(80)], NOON_NS, "columns"),
        ([f"{i / 125:.3f}" for i in range(80)], None, "none"),
    ],
    ids=["iso", "iso blank", "epoch s", "epoch ms", "epoch ns", "seconds"],
)
def test_time_column_gives_rate_and_start(
    tmp_path: Path, column: list[str], start_ns: int | None, source: str
) -> None:
    lines = [f"{t};{x}" for t, x in zip(column, X, strict=True)]
    path = table(tmp_path / "t.csv", lines, "timestamp;acc")
    (channel,) = describe(path).channels
    assert (channel.sensor_id, channel.sample_rate_hz) == ("t", 125.0)
    assert (channel.start_ns, channel.time_source) == (start_ns, source)
    np.testing.assert_array_equal(samples_of(path, ReadOptions(), "t"), X)


def test_time_column_in_milliseconds_says_so_in_its_name(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", [f"{i * 125},{x}" for i, x in enumerate(X)], "time [ms],acc")
    assert describe(path).channels[0].sample_rate_hz == 8.0


def test_coarse_clock_counts_as_regular(tmp_path: Path) -> None:
    lines = [f"{1714564800000 + i * 1000 // 25600},{i % 7}" for i in range(51_200)]
    path = table(tmp_path / "t.csv", lines, "time,acc")
    chunks = list(read([path]))
    assert {c.sample_rate_hz for c in chunks} == {25_600.0}
    assert {c.epoch for c in chunks} == {0}
    assert all(a.end_ns == b.start_ns for a, b in pairwise(chunks))


def test_gap_in_the_times_ends_a_capture_and_keeps_the_epoch(tmp_path: Path) -> None:
    times = [i / 125 for i in range(40)] + [100 + i / 125 for i in range(40)]
    lines = [f"{1714564800 + t:.3f},{x}" for t, x in zip(times, X, strict=True)]
    chunks = list(read([table(tmp_path / "t.csv", lines, "time,acc")]))
    captures = [c for c in chunks if Flags.END_OF_CAPTURE in c.flags]
    assert [c.end_ns - NOON_NS for c in captures] == [320_000_000, 100_320_000_000]
    assert {c.epoch for c in chunks} == {0}
    assert sum(c.samples.size for c in chunks) == 80


def test_step_back_begins_an_epoch_and_is_reported(tmp_path: Path) -> None:
    times = [100 + i / 125 for i in range(40)] + [i / 125 for i in range(40)]
    lines = [f"{1714564800 + t:.3f},{x}" for t, x in zip(times, X, strict=True)]
    problems: list[str] = []
    options = ReadOptions(on_problem=problems.append)
    chunks = list(read([table(tmp_path / "t.csv", lines, "time,acc")], options=options))
    np.testing.assert_array_equal(
        np.concatenate([c.samples for c in chunks if c.epoch == 0]), X[:40]
    )
    np.testing.assert_array_equal(
        np.concatenate([c.samples for c in chunks if c.epoch == 1]), X[40:]
    )
    assert len(problems) == 1
    assert "steps back" in problems[0]


def test_columns_can_be_named_skipped_and_timed(tmp_path: Path) -> None:
    lines = [f"{i},{i / 8:.3f},{x}" for i, x in enumerate(X)]
    path = table(tmp_path / "t.csv", lines, "n,zeitpunkt,acc")
    columns = {"n": "skip", "zeitpunkt": "time", "acc": "de"}
    options = ReadOptions(columns=columns, sensor="plant/{stem}/{channel}", unit="g", scale=0.5)
    (channel,) = describe(path, options).channels
    assert (channel.sensor_id, channel.unit, channel.scale) == ("plant/t/de", "g", 0.5)
    assert channel.sample_rate_hz == 8.0


def test_row_numbers_without_a_name_are_no_signal(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", [f"{i} {x}" for i, x in enumerate(X)])
    described = describe(path, ReadOptions(sample_rate_hz=8))
    assert [c.name for c in described.channels] == ["col1"]
    assert any("row numbers" in note for note in described.notes)


def test_preamble_before_the_header_is_skipped(tmp_path: Path) -> None:
    lines = ["# logger 7", "site: north", "", "a;b", *[f"{x};{x}" for x in X]]
    path = table(tmp_path / "t.csv", lines)
    np.testing.assert_array_equal(samples_of(path, ReadOptions(sample_rate_hz=100), "t/a"), X)


def test_prose_is_no_table(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", ["All of this, and more,", "is prose."])
    with pytest.raises(ReadError, match=r"t\.csv: no table of numbers"):
        describe(path)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_break_the_sniffer(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(raw)
    sniff(path)


@pytest.mark.parametrize(
    ("name", "iso", "rest"),
    [
        ("2003.10.22.12.06.24", "2003-10-22T12:06:24", ""),
        ("pump1_2024-05-01T12-00-00Z", "2024-05-01T12:00:00", "pump1"),
        ("20240501_120000_pump1", "2024-05-01T12:00:00", "pump1"),
        ("a_20240501120000.250_b", "2024-05-01T12:00:00.25", "a_b"),
        ("x-1714564800", "2024-05-01T12:00:00", "x"),
        ("x-1714564800000", "2024-05-01T12:00:00", "x"),
    ],
)
def test_time_in_a_file_name_is_found(name: str, iso: str, rest: str) -> None:
    assert time_in_name(name) == (parse_time(iso), rest)


@pytest.mark.parametrize(
    "name", ["acc_00001", "run", "20241301_120000", "1-116765-A", "9999999999", "2024-05-01"]
)
def test_number_that_is_no_time_is_left_alone(name: str) -> None:
    assert time_in_name(name) is None


def test_pattern_reads_a_time_of_one_s_own(tmp_path: Path) -> None:
    path = table(tmp_path / "p1 01-05-24 12h00.csv", [str(x) for x in X], "acc")
    options = ReadOptions(time_pattern="%d-%m-%y %Hh%M", sample_rate_hz=1)
    (channel,) = describe(path, options).channels
    assert (channel.sensor_id, channel.start_ns) == ("p1", NOON_NS)
    assert channel.time_source == "file name"


@settings(max_examples=100, deadline=None)
@given(st.datetimes())
def test_iso_time_keeps_its_microseconds(moment: object) -> None:
    assert parse_time(f"{moment}Z".replace(" ", "T")) % 1000 == 0


def test_wrong_time_says_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="time must be ISO-8601"):
        parse_time("yesterday")


def test_a_rate_below_100_hz_is_shown_but_not_read(tmp_path: Path) -> None:
    path = table(tmp_path / "slow.csv", [f"{i / 8:.3f},{x}" for i, x in enumerate(X)], "time,temp")
    assert any("at least 100 Hz" in note for note in describe(path).notes)
    with pytest.raises(ReadError, match=r"sample rate 8 Hz, a signal needs at least 100 Hz"):
        read([path])
    problems: list[str] = []
    options = ReadOptions(on_error="skip", on_problem=problems.append)
    assert not list(read([path], options=options))
    assert "at least 100 Hz" in problems[0]
