import csv
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.messages import NS_PER_S, SensorChunk
from pipeline.windows import Output, Windower, window_samples
from window_cases import END, START_NS, kinds, run, windows

SHARED = Path(__file__).resolve().parents[2] / "shared"


def recording(folder: str, sensor: str) -> list[dict[str, str]]:
    path = SHARED / "data" / folder / "index.csv"
    if not path.exists():
        pytest.skip(f"recordings are not here: shared/data/{folder}")
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["sensor"] == sensor]


@pytest.mark.shared
def test_each_snapshot_of_a_run_to_failure_is_one_window() -> None:
    rows = recording("femto_bearing1_1", "femto/bearing1_1/horizontal_acc")
    signal, rate_hz = soundfile.read(
        SHARED / "data" / "femto_bearing1_1" / rows[0]["file"], dtype="int32", always_2d=True
    )
    windower = Windower("s")
    outputs: Output = []
    for seq, row in enumerate(rows):
        begin, n = int(row["offset_frames"]), int(row["n_frames"])
        begun = datetime.fromisoformat(row["start_time"]).replace(tzinfo=UTC)
        start_ns = round(begun.timestamp() * 1e6) * 1000
        samples = np.ascontiguousarray(signal[begin : begin + n, int(row["channel"])])
        outputs += windower.push(
            SensorChunk("s", float(rate_hz), start_ns, samples, seq, 0, "i32", flags=END)
        )
    outputs += windower.flush()
    assert kinds(outputs) == []
    assert len(windows(outputs)) == len(rows) == 1402
    assert {w.samples.size for w in windows(outputs)} == {2560}


@pytest.mark.shared
def test_a_continuous_recording_gives_all_windows_of_its_grid() -> None:
    row = recording("cwru_12k", "cwru/drive_end_acc")[0]
    path = SHARED / "data" / "cwru_12k" / row["file"]
    signal, rate_hz = soundfile.read(path, dtype="int32", always_2d=True)
    mono = np.ascontiguousarray(signal[:, 0])
    chunks = [
        SensorChunk(
            "s",
            float(rate_hz),
            START_NS + round(at * NS_PER_S / rate_hz),
            mono[at : at + 3000],
            turn,
            0,
            "i32",
        )
        for turn, at in enumerate(range(0, mono.size, 3000))
    ]
    outputs = run(Windower("s"), chunks)
    length = window_samples(float(rate_hz))
    first = -(START_NS * rate_hz // NS_PER_S) % length
    assert kinds(outputs) == []
    assert len(windows(outputs)) == (mono.size - first) // length
    joined = np.concatenate([w.samples for w in windows(outputs)])
    assert np.array_equal(joined, mono[first : first + joined.size])
