from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.files import ReadError, ReadOptions, describe, discover, read
from connectors.files.cut import rechunk
from connectors.files.merge import Lane, merge
from connectors.files.recording import Jump
from connectors.files.snapshots import repair
from connectors.files.times import parse_time
from pipeline.messages import NS_PER_S, Flags, SensorChunk

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
Y2K_NS = 946_684_800 * NS_PER_S
RATE = 1000


def wav(path: Path, seconds: float = 1.0, value: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, np.full(round(seconds * RATE), value, np.int16), RATE)
    return path


def captures(chunks: Sequence[SensorChunk]) -> int:
    return sum(Flags.END_OF_CAPTURE in c.flags for c in chunks)


def test_files_of_one_sensor_go_on_from_name_to_name(tmp_path: Path) -> None:
    for second in (0, 1, 2):
        wav(tmp_path / f"pump_20240501_12000{second}.wav", value=second)
    chunks = list(read([tmp_path]))
    assert {c.sensor_id for c in chunks} == {"pump"}
    assert {c.epoch for c in chunks} == {0}
    assert all(a.end_ns == b.start_ns for a, b in pairwise(chunks))
    assert [c.seq for c in chunks] == list(range(6))
    assert captures(chunks) == 0


def test_files_apart_in_time_are_captures_the_last_one_too(tmp_path: Path) -> None:
    for minute in (0, 10, 20):
        wav(tmp_path / f"pump_20240501_12{minute:02d}00.wav")
    chunks = list(read([tmp_path]))
    assert captures(chunks) == 3
    assert {c.epoch for c in chunks} == {0}


def test_files_without_time_follow_each_other_in_epochs(tmp_path: Path) -> None:
    files = [wav(tmp_path / f"{name}.wav") for name in "abc"]
    chunks = list(read(files, options=ReadOptions(sensor="pump")))
    assert [(c.start_ns - Y2K_NS) / NS_PER_S for c in chunks] == [0, 0.5, 1, 1.5, 2, 2.5]
    assert [c.epoch for c in chunks] == [0, 0, 1, 1, 2, 2]


def test_period_places_files_without_time(tmp_path: Path) -> None:
    files = [wav(tmp_path / f"{name}.wav") for name in "ab"]
    options = ReadOptions(sensor="pump", period_s=600, start="2024-05-01T12:00:00Z", chunk_s=1)
    chunks = list(read(files, options=options))
    noon_ns = parse_time("2024-05-01T12:00:00Z")
    assert [c.start_ns - noon_ns for c in chunks] == [0, 600 * NS_PER_S]
    assert captures(chunks) == 2


def test_overlapping_files_of_a_sensor_are_told_and_never_interleaved(tmp_path: Path) -> None:
    wav(tmp_path / "pump_20240501_120000.wav", seconds=5, value=1)
    wav(tmp_path / "pump_20240501_120002.wav", seconds=5, value=2)
    problems: list[str] = []
    chunks = list(read([tmp_path], options=ReadOptions(on_problem=problems.append)))
    values = [int(c.samples[0]) for c in chunks]
    assert values == sorted(values)
    assert [c.epoch for c in chunks] == [v - 1 for v in values]
    assert len(problems) == 1
    assert "pump_20240501_120002.wav" in problems[0]


def test_sensors_merge_by_time_and_keep_their_own_order(tmp_path: Path) -> None:
    for sensor, rate in (("a", 1000), ("b", 8000), ("c", 777)):
        for second in (0, 2):
            path = tmp_path / f"{sensor}_20240501_12000{second}.wav"
            sf.write(path, np.zeros(2 * rate, np.int16), rate)
    chunks = list(read([tmp_path]))
    starts = [c.start_ns for c in chunks]
    assert starts == sorted(starts)
    assert Counter(c.sensor_id for c in chunks).keys() == {"a", "b", "c"}
    for sensor in "abc":
        mine = [c for c in chunks if c.sensor_id == sensor]
        assert [c.seq for c in mine] == list(range(len(mine)))


def test_file_is_opened_when_its_time_has_come(tmp_path: Path) -> None:
    files = [wav(tmp_path / f"p{i}_2024050{i}_120000.wav", seconds=2) for i in (1, 2, 3)]
    stream = read(files)
    next(stream)
    files[2].unlink()
    seen = []
    with pytest.raises(ReadError, match=files[2].name):
        seen += [chunk.sensor_id for chunk in stream]
    assert len(list(read(files[:2]))) == 8


def test_broken_file_in_a_mixed_folder_is_skipped_by_name(tmp_path: Path) -> None:
    wav(tmp_path / "good.wav")
    (tmp_path / "broken.wav").write_bytes(b"RIFFnonsense")
    (tmp_path / "README.md").write_text("read me")
    (tmp_path / "notes.txt").write_text("These are notes.\nNo numbers at all.\n")
    problems: list[str] = []
    options = ReadOptions(on_error="skip", on_problem=problems.append)
    assert {c.sensor_id for c in read([tmp_path], options=options)} == {"good"}
    assert any("broken.wav" in p for p in problems)
    assert any("README.md, notes.txt" in p for p in problems)
    with pytest.raises(ReadError, match=r"broken\.wav"):
        read([tmp_path])


def test_equal_names_in_two_folders_are_two_sensors(tmp_path: Path) -> None:
    wav(tmp_path / "pump1" / "de.wav")
    wav(tmp_path / "pump2" / "de.wav")
    assert [s.name for s in discover([tmp_path])] == ["pump1/de", "pump2/de"]
    assert {c.sensor_id for c in read([tmp_path])} == {"pump1/de", "pump2/de"}


def test_name_that_is_only_a_time_takes_the_folder_s(tmp_path: Path) -> None:
    wav(tmp_path / "pump7" / "2024-05-01T12-00-00.wav")
    assert {c.sensor_id for c in read([tmp_path / "pump7"])} == {"pump7"}
    assert {c.sensor_id for c in read([tmp_path])} == {"pump7"}


def test_sensor_ids_keep_to_the_charset(tmp_path: Path) -> None:
    wav(tmp_path / "Pumpe 1 (DE) ä.wav")
    assert {c.sensor_id for c in read([tmp_path])} == {"Pumpe_1_DE_a"}


def test_names_that_differ_stay_different_sensors(tmp_path: Path) -> None:
    names = ("M\u00fcller", "M\u00f6ller", "\u6cf5\u4e00", "\u6cf5\u4e8c")
    for name in names:
        wav(tmp_path / f"{name}.wav")
    assert len({c.sensor_id for c in read([tmp_path])}) == len(names)


def test_two_channels_never_become_one_sensor(tmp_path: Path) -> None:
    sf.write(tmp_path / "st.wav", np.zeros((100, 2), np.int16), RATE)
    with pytest.raises(ReadError, match=r"use \{channel\} in the sensor template"):
        read([tmp_path / "st.wav"], options=ReadOptions(sensor="pump"))
    mapped = ReadOptions(sensor={"ch0": "a", "ch1": "b"}, unit={"ch0": "g"}, scale={"ch0": 10.0})
    described = describe(tmp_path / "st.wav", mapped).channels
    assert [(c.sensor_id, c.unit, c.scale * 2**15) for c in described] == [
        ("a", "g", 10.0),
        ("b", "FS", 1.0),
    ]


def test_scale_without_unit_makes_the_unit_unknown(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav")
    assert describe(tmp_path / "a.wav", ReadOptions(scale=2.0)).channels[0].unit == "unknown"


def test_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="nowhere: no such file or folder"):
        read([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"chunk_s": 0}, "chunk_s must be positive"),
        ({"sample_rate_hz": -1}, "sample_rate_hz must lie in"),
        ({"period_s": -1}, "period_s must be >= 0"),
        ({"on_error": "ignore"}, "on_error must be"),
    ],
)
def test_wrong_option_is_refused(wrong: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ReadOptions(**wrong)  # type: ignore[arg-type]


def test_unknown_field_of_a_template_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"may use \{channel\}, \{stem\}, \{folder\}"):
        read([wav(tmp_path / "a.wav")], options=ReadOptions(sensor="{machine}"))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 17))
def test_chunks_do_not_depend_on_the_reader_s_blocks(lengths: list[int], n: int) -> None:
    total = sum(lengths)
    data = np.arange(total)[:, None]
    blocks = np.split(data, np.cumsum(lengths)[:-1]) if lengths else []
    cut = [b for b in rechunk(blocks, n) if not isinstance(b, Jump)]
    assert [len(b) for b in cut] == [n] * (total // n) + ([total % n] if total % n else [])
    assert not cut or np.array_equal(np.concatenate(cut), data)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=8).map(sorted), max_size=6))
def test_merge_sorts_and_loses_nothing(lanes: list[list[int]]) -> None:
    def chunk(lane: int, at: int) -> SensorChunk:
        return SensorChunk(str(lane), 1.0, at, np.zeros(1, np.float32))

    opened = [
        Lane(starts[0], lambda i=i, starts=starts: iter([chunk(i, s) for s in starts]))  # type: ignore[misc]
        for i, starts in enumerate(lanes)
    ]
    merged = [(c.start_ns, c.sensor_id) for c in merge(opened)]
    assert [start for start, _ in merged] == sorted(s for lane in lanes for s in lane)
    assert Counter(merged) == Counter((s, str(i)) for i, lane in enumerate(lanes) for s in lane)


def index_set(folder: Path, rows: Sequence[str], extra: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    ramp = np.arange(4000)
    sf.write(folder / "a.flac", np.stack([ramp, -ramp], 1).astype(np.int32) << 8, RATE, "PCM_24")
    head = (
        "file,offset_frames,n_frames,sensor,channel,start_time,time_source,sample_rate,unit,scale"
    )
    (folder / "index.csv").write_text("\n".join([head + extra, *rows]) + "\n")
    return folder


def test_indexed_segments_become_captures_with_exact_values(tmp_path: Path) -> None:
    rows = [
        f"a.flac,{1000 * i},1000,p/{'xy'[c]},{c},2024-05-01T12:0{i}:00,real,1000,g,8.0"
        for i in range(3)
        for c in range(2)
    ]
    chunks = list(read([index_set(tmp_path, rows)]))
    assert captures([c for c in chunks if c.sensor_id == "p/y"]) == 3
    y = np.concatenate([c.samples * c.scale for c in chunks if c.sensor_id == "p/y"])
    np.testing.assert_array_equal(y, -np.arange(3000) * 8.0 / 2**23)
    assert {(c.unit, c.encoding, c.epoch) for c in chunks} == {("g", "i24", 0)}


def test_index_never_leads_out_of_its_folder(tmp_path: Path) -> None:
    wav(tmp_path / "secret.wav")
    for file in ("../secret.wav", str(tmp_path / "secret.wav")):
        rows = [f"{file},0,10,p,0,2024-05-01T12:00:00,real,1000,g,1"]
        with pytest.raises(ReadError, match="lies outside the folder"):
            read([index_set(tmp_path / "set", rows)])


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("a.flac,0,9999,p,0,2024-05-01T12:00:00,real,1000,g,1", "the index asks for frames up to"),
        ("a.flac,0,10,p,7,2024-05-01T12:00:00,real,1000,g,1", "of channel 7"),
        ("a.flac,0,10,p,0,2024-05-01T12:00:00,real,500,g,1", "the index says 500.0 Hz"),
        ("a.flac,0,ten,p,0,2024-05-01T12:00:00,real,1000,g,1", "row 2: invalid literal"),
        ("a.flac,0,10,p,0,noon,real,1000,g,1", "row 2: time must be ISO-8601"),
        ("a.flac,0,10,p,0,2024-05-01T12:00:00,real,1000,g,nan", "row 2: scale"),
        ("b.flac,0,10,p,0,2024-05-01T12:00:00,real,1000,g,1", "b.flac: not a readable audio"),
    ],
)
def test_wrong_index_row_is_named(tmp_path: Path, row: str, complaint: str) -> None:
    with pytest.raises(ReadError, match=complaint):
        list(read([index_set(tmp_path, [row])]))


def femto(folder: Path, clocks: Sequence[tuple[int, int, int]], separator: str = ",") -> Path:
    folder.mkdir()
    for i, (hour, minute, second) in enumerate(clocks):
        cells = ((hour, minute, second, 65664 + k * 39, i + k / 8, -i) for k in range(16))
        lines = [separator.join(map(str, row)) for row in cells]
        (folder / f"acc_{i + 1:05d}.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("separator", [",", ";"])
def test_femto_folder_is_one_capture_per_file(tmp_path: Path, separator: str) -> None:
    clocks = [(23, 59, 40), (23, 59, 50), (0, 0, 0), (0, 0, 10)]
    options = ReadOptions(start="2010-12-01T09:00:00")
    chunks = list(read([femto(tmp_path / "B1_1", clocks, separator)], options=options))
    mine = [c for c in chunks if c.sensor_id == "B1_1/horizontal_acc"]
    first_ns = parse_time("2010-12-01T23:59:40.065664")
    assert [c.start_ns - first_ns for c in mine] == [i * 10 * NS_PER_S for i in range(4)]
    assert captures(mine) == 4
    assert {(c.unit, c.sample_rate_hz, c.epoch) for c in chunks} == {("g", 25_600.0, 0)}
    np.testing.assert_array_equal(mine[2].samples, 2 + np.arange(16) / 8)
    assert {c.sensor_id for c in chunks} == {"B1_1/horizontal_acc", "B1_1/vertical_acc"}


def test_femto_clock_that_steps_back_and_resumes_is_repaired(tmp_path: Path) -> None:
    clocks = [(15, 0, 0), (15, 0, 10), (9, 38, 46), (9, 38, 46), (15, 0, 40), (15, 0, 50)]
    problems: list[str] = []
    options = ReadOptions(on_problem=problems.append)
    chunks = list(read([femto(tmp_path / "B", clocks)], options=options))
    mine = [c for c in chunks if c.sensor_id == "B/vertical_acc"]
    steps = [b.start_ns - a.start_ns for a, b in pairwise(mine)]
    assert steps == [10 * NS_PER_S] * 5
    assert {c.epoch for c in mine} == {0}
    assert ["acc_00003.csv" in problems[0], "acc_00004.csv" in problems[1]] == [True, True]
    assert len(problems) == 2


def test_femto_clock_that_stays_back_begins_an_epoch(tmp_path: Path) -> None:
    clocks = [(15, 0, 0), (15, 0, 10), (9, 0, 0), (9, 0, 10)]
    problems: list[str] = []
    options = ReadOptions(on_problem=problems.append)
    chunks = list(read([femto(tmp_path / "B", clocks)], options=options))
    assert [c.epoch for c in chunks if c.sensor_id == "B/vertical_acc"] == [0, 0, 1, 1]
    assert len(problems) == 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 1000), max_size=30))
def test_sound_clock_is_never_repaired(steps: list[int]) -> None:
    times = np.cumsum(steps).tolist()
    assert repair(times) == (times, [])


def test_broken_femto_file_is_skipped_alone(tmp_path: Path) -> None:
    folder = femto(tmp_path / "B", [(9, 0, 0), (9, 0, 10), (9, 0, 20)])
    (folder / "acc_00002.csv").write_text("9,0,10,65664,1.0,2.0\n9,0,10,oops\n")
    with pytest.raises(ReadError, match=r"acc_00002\.csv"):
        list(read([folder]))
    problems: list[str] = []
    options = ReadOptions(on_error="skip", on_problem=problems.append)
    chunks = list(read([folder], options=options))
    assert captures([c for c in chunks if c.sensor_id == "B/vertical_acc"]) == 2
    assert any("acc_00002.csv" in p for p in problems)


@pytest.mark.parametrize("width", [4, 8])
def test_ims_folder_is_one_capture_per_file(tmp_path: Path, width: int) -> None:
    folder = tmp_path / "1st_test"
    folder.mkdir()
    data = np.round(np.random.default_rng(0).normal(0, 0.1, (200, width)), 3)
    for minute in (6, 16, 26):
        name = folder / f"2003.10.22.12.{minute:02d}.24"
        name.write_text("\n".join("\t".join(f"{x:.3f}" for x in row) for row in data) + "\n")
    chunks = list(read([folder]))
    mine = [c for c in chunks if c.sensor_id == f"1st_test/ch{width}"]
    assert mine[0].start_ns == parse_time("2003-10-22T12:06:24")
    assert captures(mine) == len(mine) == 3
    assert {(c.unit, c.sample_rate_hz) for c in chunks} == {("g", 20_000.0)}
    np.testing.assert_array_equal(mine[0].samples, data[:, -1].astype(np.float32))


def shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"recordings {name} are not beside the project (shared/data/{name})")
    return folder


@pytest.mark.shared
def test_femto_bearing_gives_all_its_captures() -> None:
    problems: list[str] = []
    options = ReadOptions(on_problem=problems.append)
    chunks = list(read([shared("femto_bearing1_1")], options=options))
    for axis in ("horizontal_acc", "vertical_acc"):
        mine = [c for c in chunks if c.sensor_id == f"femto/bearing1_1/{axis}"]
        assert captures(mine) == len(mine) == 1402
        assert {c.samples.size for c in mine} == {2560}
        assert {b.start_ns - a.start_ns for a, b in pairwise(mine)} <= {20 * NS_PER_S}
    # Two rows of the index (one snapshot, two channels) carry a repaired time.
    assert len(problems) == 1
    assert "15:32:59.065664" in problems[0]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "sensors", "files", "unit"),
    [("cwru_12k", 2, 20, "g"), ("gearbox_gfd", 4, 10, "raw"), ("esc10", 1, 184, "FS")],
)
def test_set_of_recordings_gives_values_as_its_index_says(
    name: str, sensors: int, files: int, unit: str
) -> None:
    import csv

    folder = shared(name)
    with (folder / "index.csv").open(newline="") as file:
        rows = {(r["sensor"], parse_time(r["start_time"])): r for r in csv.DictReader(file)}
    chunks = read([folder], options=ReadOptions(chunk_s=2.0))
    totals: Counter[str] = Counter()
    epochs: dict[str, set[int]] = {}
    checked = 0
    for chunk in chunks:
        totals[chunk.sensor_id] += chunk.samples.size
        epochs.setdefault(chunk.sensor_id, set()).add(chunk.epoch)
        assert chunk.unit == unit
        row = rows.get((chunk.sensor_id, chunk.start_ns))
        if row is not None and checked < 40:
            values, _ = sf.read(folder / row["file"], frames=chunk.samples.size, always_2d=True)
            expected = values[:, int(row["channel"])] * float(row["scale"])
            np.testing.assert_allclose(chunk.samples * chunk.scale, expected, rtol=1e-6, atol=1e-9)
            checked += 1
    assert checked == min(40, len(rows))
    assert {len(e) for e in epochs.values()} == {files}
    wanted: Counter[str] = Counter()
    for row in rows.values():
        wanted[row["sensor"]] += int(row["n_frames"])
    assert totals == wanted
    assert len(totals) == sensors


@pytest.mark.shared
def test_folder_of_all_sets_reads_as_one_stream() -> None:
    options = ReadOptions(on_error="stop")
    shared("cwru_12k")
    kinds = {s.path.name: s.kind for s in discover([SHARED], options) if s.kind == "index-set"}
    assert len(kinds) == 5
