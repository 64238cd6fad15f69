"""CSV and other tables of numbers as text in, recordings out.

Separator, decimal comma, header and time column are found in the first 64 kB; the rest is parsed
in blocks by pyarrow (NumPy where columns are padded with blanks). Units come from the header
where it says `name [unit]` or `name (unit)`, otherwise they stay `unknown`.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from connectors.files.recording import (
    MAX_CHANNELS,
    Block,
    Channel,
    ReadError,
    ReadOptions,
    Recording,
)
from connectors.files.timeline import cut_at_jumps, time_column, timeline_of, times_ns

HEAD_BYTES = 65_536
_BLOCK_BYTES = 1 << 20
_BLOCK_LINES = 16_384
# Larger tables are not counted beforehand: half a second each is enough to wait.
_COUNTED_BYTES = 256 * 2**20
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf)", re.IGNORECASE)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d+)?)?(Z|[+-]\d\d:?\d\d)?")
_UNIT = re.compile(r"^(.*?)\s*[\[(]\s*([^\])]+?)\s*[\])]$")


@dataclass(frozen=True, slots=True)
class Dialect:
    r"""How a table is written.

    Attributes:
        separator: `\t`, `;`, `,`, `|`, a blank (any number of blanks), or empty: one column.
        decimal: `.` or `,`.
        skip: Lines before the first row of numbers.
        names: One per column, from the header or `col0`, `col1`, ...
        encoding: Of the header.
        headed: Whether there is a header.
        moment: Column of dates, if one is.
    """

    separator: str
    decimal: str
    skip: int
    names: tuple[str, ...]
    encoding: str = "utf-8"
    headed: bool = False
    moment: int | None = None


def sniff(path: Path) -> Dialect | None:
    """The dialect of a table of numbers, None where the file is no such table."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if b"\0" in head:
        return None
    try:
        encoding, text = (
            "utf-8",
            head.decode("utf-8-sig", "strict" if len(head) < 4096 else "ignore"),
        )
    except UnicodeDecodeError:
        encoding, text = "latin-1", head.decode("latin-1")
    lines = text.splitlines()
    if len(head) == HEAD_BYTES:
        lines = lines[:-1]
    while lines and not lines[-1].strip():
        lines.pop()
    tail = lines[-min(20, max(1, len(lines) - 1)) :]
    for separator in ("\t", ";", ",", "|", " ", ""):
        for decimal in (".", ","):
            dialect = _try(lines, tail, separator, decimal, encoding)
            if dialect is not None:
                return dialect
    return None


def _try(
    lines: list[str], tail: list[str], separator: str, decimal: str, encoding: str
) -> Dialect | None:
    """The dialect if all but the last line (it may be cut) of the tail read as numbers so."""
    if separator == decimal or not tail:
        return None
    rows = [_split(line, separator) for line in tail]
    checked = rows[:-1] or rows
    width = len(checked[0])
    if (width < 2 and separator) or width > MAX_CHANNELS:
        return None
    if not all(len(row) == width and _numeric(row, decimal) for row in checked):
        return None
    if separator == "," and width == 2 and _is_decimal_comma(checked):
        return None
    first = next(
        i
        for i, line in enumerate(lines)
        if len(row := _split(line, separator)) == width and _numeric(row, decimal)
    )
    header = next((line for line in reversed(lines[:first]) if line.strip()), "")
    cells = [cell.strip(" \"'#%") for cell in _split(header.strip(), separator)]
    headed = len(cells) == width and any(cells)
    names = [c or f"col{i}" for i, c in enumerate(cells)] if headed else []
    names = names or [f"col{i}" for i in range(width)]
    moment = next((i for i, c in enumerate(checked[0]) if _MOMENT.fullmatch(c.strip('"'))), None)
    return Dialect(separator, decimal, first, tuple(_unique(names)), encoding, headed, moment)


def _split(line: str, separator: str) -> list[str]:
    if separator == " ":
        return line.split()
    return [cell.strip() for cell in line.split(separator)] if separator else [line.strip()]


def _numeric(row: list[str], decimal: str) -> bool:
    """Whether all cells are numbers, empty, or one of them a date and time; not all empty."""
    cells = [cell.strip('"') for cell in row if cell]
    texts = [
        c for c in cells if not _NUMBER.fullmatch(c.replace(decimal, ".") if decimal == "," else c)
    ]
    return bool(cells) and len(texts) <= 1 and all(_MOMENT.fullmatch(t) for t in texts)


def _is_decimal_comma(rows: list[list[str]]) -> bool:
    """`0,05` in one column rather than `0` and `05` in two: the second part is zero padded."""
    whole = all("." not in cell and "e" not in cell.lower() for row in rows for cell in row)
    return whole and any(re.fullmatch(r"0\d+", row[1]) for row in rows)


def _unique(names: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return unique


def recordings(path: Path, options: ReadOptions) -> list[Recording]:
    """The one recording of a table, from its first block."""
    dialect = sniff(path)
    if dialect is None:
        raise ReadError(
            path,
            "no table of numbers in its first 64 kB",
            "separators known: tab ; , | blank; decimals: . ,",
        )
    roles, notes = options.columns or {}, list[str]()
    time_name = time_column(dialect.names, roles)
    if time_name is None and dialect.moment is not None:
        time_name = dialect.names[dialect.moment]
    names = [n for n in dialect.names if n != time_name and roles.get(n) != "skip"]
    if not dialect.headed:
        notes.append("no header: columns are numbered")
        if time_name is None and len(names) > 1 and names[0] not in roles:
            time_name = _ramp(path, dialect, names, notes)
    columns = {n: roles.get(n, n) for n in names if n != time_name}
    if not columns:
        raise ReadError(path, "has a time column but no column of samples")
    head = next(_rows(path, dialect, time_name, list(columns)), None)
    if head is None or not len(head[1]):
        raise ReadError(path, "holds no samples")
    return [_recording(path, dialect, time_name, columns, head, options, tuple(notes))]


def _ramp(path: Path, dialect: Dialect, names: list[str], notes: list[str]) -> str | None:
    """The first column where it rises evenly, as no signal does: row numbers or seconds."""
    head = next(_rows(path, dialect, names[0], names[1:]), (None, None))[0]
    step = None if head is None else _even_step(head)
    if step is None:
        return None
    meaning = "row numbers, not read" if step == 1.0 else "time in seconds"
    notes.append(f"column {names[0]!r} rises evenly by {step:g}: taken as {meaning}")
    if step == 1.0:
        del names[0]
        return None
    return names[0]


def _even_step(column: NDArray[Any]) -> float | None:
    """Step of a column that rises by the same amount from row to row, as no signal does."""
    steps = np.diff(column.astype(np.float64))
    if len(steps) < 7 or not (steps > 0).all():
        return None
    mean = float(steps.mean())
    return mean if np.abs(steps - mean).max() < 0.2 * mean else None


def _recording(
    path: Path,
    dialect: Dialect,
    time_name: str | None,
    columns: dict[str, str],
    head: tuple[NDArray[Any] | None, NDArray[Any]],
    options: ReadOptions,
    notes: tuple[str, ...],
) -> Recording:
    channels = tuple(_channel(name) for name in columns.values())
    wanted, n_rows = list(columns), _count_rows(path, dialect.skip)
    if time_name is None:

        def plain(_n: int) -> Iterator[Block]:
            return (values for _, values in _rows(path, dialect, None, wanted))

        return Recording(channels, None, None, n_rows, plain, notes=notes)
    times, dates = times_ns(_known(head[0]), time_name)
    timeline = timeline_of(times, dates=dates, stated_hz=options.sample_rate_hz)
    if timeline is None:
        raise ReadError(path, f"column {time_name!r} tells no rate", "pass --rate")

    def timed(_n: int) -> Iterator[Block]:
        rows = _rows(path, dialect, time_name, wanted)
        pairs = ((times_ns(_known(t), time_name)[0], values) for t, values in rows)
        return cut_at_jumps(pairs, timeline)

    source = "columns" if timeline.start_ns is not None else "none"
    return Recording(
        channels, timeline.rate_hz, timeline.start_ns, n_rows, timed, source, notes=notes
    )


def _count_rows(path: Path, skip: int) -> int | None:
    """Lines after the header, blank ones at the end left out; None for a very large table."""
    if path.stat().st_size > _COUNTED_BYTES:
        return None
    lines, tail = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            lines += block.count(b"\n")
            tail = (tail + block)[-HEAD_BYTES:]
    blank = tail[len(tail.rstrip()) :].count(b"\n")
    return max(0, lines + 1 - blank - skip)


def _known(times: NDArray[Any] | None) -> NDArray[Any]:
    if times is None:
        raise TypeError("rows were read without their time column")
    return times


def _channel(name: str) -> Channel:
    match = _UNIT.match(name)
    label, unit = (match[1], match[2]) if match and match[1] else (name, "unknown")
    unit = unit.replace("s^2", "s2").replace("s²", "s2").replace("s**2", "s2")
    return Channel(label, "f32", unit)


def _rows(
    path: Path, dialect: Dialect, time_name: str | None, columns: list[str]
) -> Iterator[tuple[NDArray[Any] | None, NDArray[Any]]]:
    """Blocks of (times or None, (N, C) float32)."""
    if dialect.separator == " ":
        yield from _blank_separated(path, dialect, time_name, columns)
        return
    try:
        with _open_csv(path, dialect, time_name) as reader:
            for batch in reader:
                yield _batch(path, batch, time_name, columns)
    except pa.ArrowInvalid as error:
        raise ReadError(path, f"broken row: {str(error).strip()}", "mend or cut the row") from error


def _open_csv(path: Path, dialect: Dialect, time_name: str | None) -> pacsv.CSVStreamingReader:
    types = {name: pa.float64() for name in dialect.names if name != time_name}
    return pacsv.open_csv(
        path,
        read_options=pacsv.ReadOptions(
            use_threads=False,
            block_size=_BLOCK_BYTES,
            skip_rows=dialect.skip,
            column_names=list(dialect.names),
            encoding=dialect.encoding,
        ),
        # A separator that cannot occur makes one column.
        parse_options=pacsv.ParseOptions(delimiter=dialect.separator or "\x1f"),
        convert_options=pacsv.ConvertOptions(
            column_types=types,
            decimal_point=dialect.decimal,
            strings_can_be_null=True,
            null_values=["", "NaN", "nan", "NA", "null"],
        ),
    )


def _batch(
    path: Path, batch: pa.RecordBatch, time_name: str | None, columns: list[str]
) -> tuple[NDArray[Any] | None, NDArray[Any]]:
    values = np.empty((batch.num_rows, len(columns)), np.float32)
    for i, name in enumerate(columns):
        values[:, i] = batch.column(name).to_numpy(zero_copy_only=False)
    if time_name is None:
        return None, values
    column = batch.column(time_name)
    if column.null_count:
        raise ReadError(path, f"column {time_name!r} has empty cells", "fill or drop the rows")
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("ns")).to_numpy(zero_copy_only=False), values
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise ReadError(
            path,
            f"column {time_name!r} is no ISO-8601 time, epoch or number of seconds: {column[0]}",
            "map it to 'skip' and pass --rate and --start",
        )
    return column.to_numpy(zero_copy_only=False), values


def _blank_separated(
    path: Path, dialect: Dialect, time_name: str | None, columns: list[str]
) -> Iterator[tuple[NDArray[Any] | None, NDArray[Any]]]:
    order = [dialect.names.index(name) for name in columns]
    with path.open(encoding=dialect.encoding) as file:
        lines = itertools.islice(file, dialect.skip, None)
        while block := list(itertools.islice(lines, _BLOCK_LINES)):
            if dialect.decimal == ",":
                block = [line.replace(",", ".") for line in block]
            try:
                table = np.loadtxt(block, ndmin=2, comments=None)
            except ValueError as error:
                raise ReadError(path, f"broken row: {error}", "mend or cut the row") from error
            if not len(table):
                return
            if table.shape[1] != len(dialect.names):
                raise ReadError(path, f"{table.shape[1]} columns after {len(dialect.names)}")
            times = None if time_name is None else table[:, dialect.names.index(time_name)]
            yield times, table[:, order].astype(np.float32)
