"""Folders of one text file per capture in (PRONOSTIA / FEMTO, IMS), recordings out.

PRONOSTIA: `acc_NNNNN.csv`, columns hour, minute, second, microsecond, horizontal and vertical
acceleration in g, 25.6 kHz (Nectoux et al. 2012); the files hold no date. IMS: file name = time,
one column per channel, 20 kHz, g (Lee et al., IMS Bearing Data, NASA prognostics repository).
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from connectors.files.recording import (
    Block,
    Channel,
    Jump,
    ReadError,
    ReadOptions,
    Recording,
    guarded,
    report,
)
from connectors.files.times import DEFAULT_START_NS, format_time, parse_time, time_in_name
from pipeline.messages import NS_PER_S

FEMTO_RATE_HZ = 25_600.0
IMS_RATE_HZ = 20_000.0
_FEMTO_NAME = re.compile(r"acc_\d{5}\.csv")
_IMS_NAME = re.compile(r"\d{4}(\.\d\d){5}")
_DAY_NS = 86_400 * NS_PER_S
# A capture is a megabyte or so; anything far beyond is no capture.
_MAX_FILE_BYTES = 64 * 2**20


def is_femto(folder: Path) -> bool:
    """Whether the folder holds `acc_NNNNN.csv` files."""
    return any(_FEMTO_NAME.fullmatch(entry.name) for entry in folder.iterdir())


def is_ims(folder: Path) -> bool:
    """Whether all files of the folder are named like `2003.10.22.12.06.24`."""
    names = [e.name for e in folder.iterdir() if not e.name.startswith(".") and e.is_file()]
    return bool(names) and all(_IMS_NAME.fullmatch(name) for name in names)


def femto(folder: Path, options: ReadOptions) -> list[Recording]:
    """Both accelerometers of a PRONOSTIA folder; each file is a capture."""
    files = sorted(e for e in folder.iterdir() if _FEMTO_NAME.fullmatch(e.name))
    clocks: list[tuple[Path, int]] = []
    for file in files:
        try:
            clocks.append((file, _clock_ns(file)))
        except ReadError as error:
            report(error, options)
    if not clocks:
        raise ReadError(folder, "no readable acc_NNNNN.csv")
    times, repaired = repair(_unrolled([ns for _, ns in clocks]))
    midnight_ns = _midnight_ns(options)
    captures = [(file, midnight_ns + ns) for (file, _), ns in zip(clocks, times, strict=True)]
    notes = ["times of day from the files, date from --start (else 2000-01-01)"]
    notes += [
        f"{captures[i][0].name}: clock stepped back, repaired to {format_time(captures[i][1])}"
        for i in repaired
    ]
    columns = ("horizontal_acc", "vertical_acc")
    return [_recording(captures, columns, FEMTO_RATE_HZ, options, "columns", notes, repaired)]


def ims(folder: Path, options: ReadOptions) -> list[Recording]:
    """All channels of an IMS folder; each file is a capture."""
    captures = []
    for file in sorted(e for e in folder.iterdir() if _IMS_NAME.fullmatch(e.name)):
        timed = time_in_name(file.name)
        if timed is None:
            report(ReadError(file, "its name is no date"), options)
        else:
            captures.append((file, timed[0]))
    if not captures:
        raise ReadError(folder, "no file named like 2003.10.22.12.06.24")
    width = len(_first_line(captures[0][0]).split("\t"))
    columns = tuple(f"ch{i + 1}" for i in range(width))
    rate = options.sample_rate_hz or IMS_RATE_HZ
    notes = [f"IMS layout: {rate:g} Hz and g are those of the published set"]
    return [_recording(captures, columns, rate, options, "file name", notes, [])]


def _recording(
    captures: list[tuple[Path, int]],
    columns: tuple[str, ...],
    rate: float,
    options: ReadOptions,
    time_source: str,
    notes: list[str],
    repaired: list[int],
) -> Recording:
    def blocks(_n: int) -> Iterator[Block]:
        for i, (file, start_ns) in enumerate(captures):
            if i in told:
                options.on_problem(
                    f"{file}: clock stepped back, repaired to {format_time(start_ns)}"
                )
            yield from guarded(_capture(file, start_ns, len(columns)), options)

    told = set(repaired)
    return Recording(
        channels=tuple(Channel(name, "f32", "g") for name in columns),
        sample_rate_hz=rate,
        start_ns=captures[0][1],
        n_samples=None,
        blocks=blocks,
        time_source=time_source,
        end_ns=max(ns for _, ns in captures),
        n_captures=len(captures),
        notes=tuple(notes),
    )


def _capture(file: Path, start_ns: int, width: int) -> Iterator[Block]:
    values = _numbers(file)
    if values.shape[1] < width:
        raise ReadError(file, f"{values.shape[1]} columns, needs at least {width}")
    yield Jump(start_ns)
    yield values[:, -width:]


def _numbers(file: Path) -> NDArray[Any]:
    if file.stat().st_size > _MAX_FILE_BYTES:
        raise ReadError(file, f"larger than {_MAX_FILE_BYTES} bytes, no capture")
    separator = _separator(_first_line(file))
    try:
        table = pacsv.read_csv(
            file,
            pacsv.ReadOptions(use_threads=False, autogenerate_column_names=True),
            pacsv.ParseOptions(delimiter=separator),
        )
        return np.stack([c.to_numpy().astype(np.float32) for c in table.columns], axis=1)
    except (pa.ArrowException, ValueError) as error:
        raise ReadError(file, f"broken row: {str(error).strip()}") from error


def _first_line(file: Path) -> str:
    with file.open("rb") as handle:
        line = handle.readline(65_536).decode("ascii", "replace").strip()
    if not line:
        raise ReadError(file, "holds no samples")
    return line


def _separator(line: str) -> str:
    return next((s for s in ("\t", ";", ",") if s in line), ",")


def _clock_ns(file: Path) -> int:
    """Time of day of the first row: hour, minute, second, microsecond."""
    line = _first_line(file)
    cells = line.split(_separator(line))
    try:
        hour, minute, second, micro = (float(cell) for cell in cells[:4])
    except ValueError as error:
        raise ReadError(file, f"first row is no clock and samples: {line[:60]!r}") from error
    if len(cells) < 6 or not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 61):
        raise ReadError(file, f"first row is no clock and samples: {line[:60]!r}")
    return round(((hour * 60 + minute) * 60 + second) * NS_PER_S) + round(micro * 1000)


def _midnight_ns(options: ReadOptions) -> int:
    start_ns = DEFAULT_START_NS if options.start is None else parse_time(options.start)
    return start_ns // _DAY_NS * _DAY_NS


def _unrolled(clocks: list[int]) -> list[int]:
    """Times of day as times since the first midnight: a step back by half a day is a new day."""
    days, unrolled = 0, list[int]()
    for i, clock in enumerate(clocks):
        if i and clock - clocks[i - 1] < -_DAY_NS // 2:
            days += 1
        unrolled.append(clock + days * _DAY_NS)
    return unrolled


def repair(times: list[int]) -> tuple[list[int], list[int]]:
    """Times with short steps back interpolated from their neighbours, and which ones those are.

    Only where time resumes as if nothing had been: a clock that stays back is left alone, so that
    it begins a new epoch.

    >>> repair([0, 10, 3, 4, 40, 50])
    ([0, 10, 20, 30, 40, 50], [2, 3])
    """
    fixed, repaired = list(times), list[int]()
    steps = [b - a for a, b in pairwise(times) if b > a]
    usual = median(steps) if steps else 0
    i = 1
    while i < len(fixed):
        if fixed[i] > fixed[i - 1]:
            i += 1
            continue
        resumes = next((j for j in range(i, len(fixed)) if fixed[j] > fixed[i - 1]), None)
        if resumes is None:
            break
        step = (fixed[resumes] - fixed[i - 1]) / (resumes - i + 1)
        if not 0.5 * usual <= step <= 2 * usual:
            i += 1
            continue
        for k in range(i, resumes):
            fixed[k] = fixed[i - 1] + round(step * (k - i + 1))
            repaired.append(k)
        i = resumes
    return fixed, repaired
