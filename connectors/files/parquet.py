"""Parquet files in, recordings out: long columns, or a list of samples per row.

Long: one row per sample, a column of times, the other columns are channels. Lists: one row per
stretch with its start time, samples in a list column, optionally rate, unit and scale columns.
A column `sensor` (or `sensor_id`) splits either into sensors. Key-value metadata of the file and
of its columns tells rate, unit and start where there are no such columns.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from connectors.files.cut import encoding_of
from connectors.files.recording import (
    MAX_CHANNELS,
    Block,
    Channel,
    Jump,
    ReadError,
    ReadOptions,
    Recording,
)
from connectors.files.timeline import (
    Timeline,
    cut_at_jumps,
    time_column,
    timeline_of,
    times_ns,
)
from connectors.files.times import parse_time

_SENSOR = ("sensor", "sensor_id")
_RATE = ("sample_rate_hz", "sample_rate", "fs", "rate")
_PER_ROW = (*_SENSOR, *_RATE, "unit", "scale", "offset", "seq", "epoch")
_BATCH_ROWS = 65_536
_BATCH_LISTS = 32
# What pyarrow raises on broken bytes.
_BROKEN = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, AttributeError)
_MAX_FOOTER_BYTES = 64 * 2**20
Rows = Iterator[pa.RecordBatch]


def recordings(path: Path, options: ReadOptions) -> list[Recording]:
    """One recording per sensor of the file."""
    try:
        with pq.ParquetFile(path, thrift_string_size_limit=_MAX_FOOTER_BYTES) as file:
            return _Table(path, file, options).recordings()
    except _BROKEN as error:
        if isinstance(error, ReadError):
            raise
        raise ReadError(path, f"not a readable Parquet file ({error})") from error


class _Table:
    """A Parquet file's columns by role."""

    def __init__(self, path: Path, file: pq.ParquetFile, options: ReadOptions) -> None:
        self._path, self._options, self._file = path, options, file
        self._schema = file.schema_arrow
        names = self._schema.names
        self._facts = _metadata(self._schema.metadata)
        roles = options.columns or {}
        self._time = time_column(names, roles)
        self._sensor = next((n for n in names if n in _SENSOR), None)
        free = [n for n in names if n != self._time and roles.get(n) != "skip"]
        self._lists = [n for n in free if _is_list(self._schema.field(n).type)]
        self._values = self._lists or [
            n for n in free if n not in _PER_ROW and _is_number(self._schema.field(n).type)
        ]
        self._roles = roles
        if not self._values or len(self._values) > MAX_CHANNELS:
            raise ReadError(
                path,
                f"{len(self._values)} columns of samples, needs 1 to {MAX_CHANNELS}; "
                f"columns: {', '.join(names[:20])}",
                "map them with --columns",
            )
        if not file.metadata.num_rows:
            raise ReadError(path, "holds no samples")

    def recordings(self) -> list[Recording]:
        """One per sensor."""
        return [self._recording(sensor) for sensor in self._sensors()]

    def _sensors(self) -> Sequence[str | None]:
        if self._sensor is None:
            return [None]
        seen: dict[str, None] = {}
        for batch in self._file.iter_batches(
            _BATCH_ROWS, columns=[self._sensor], use_threads=False
        ):
            seen |= dict.fromkeys(map(str, pc.unique(batch.column(0)).to_pylist()))
            if len(seen) > MAX_CHANNELS:
                raise ReadError(self._path, f"more than {MAX_CHANNELS} sensors")
        return list(seen)

    def _recording(self, sensor: str | None) -> Recording:
        batches = _batches(self._file, self._wanted(), self._sensor, sensor, self._rows())
        head = next(batches, None)
        if head is None:
            raise ReadError(self._path, "holds no samples")
        rate = self._stated(head, _RATE) or self._options.sample_rate_hz
        times = self._times(head)
        timeline = None if times is None else self._timeline(times, rate)
        start = self._facts.get("start") or self._facts.get("start_time")
        start_ns = timeline.start_ns if timeline else parse_time(start) if start else None
        path, wanted, rows = self._path, self._wanted(), self._rows()

        def blocks(_n: int) -> Iterator[Block]:
            try:
                with pq.ParquetFile(path, thrift_string_size_limit=_MAX_FOOTER_BYTES) as file:
                    batches = _batches(file, wanted, self._sensor, sensor, rows)
                    yield from (
                        self._lists_of(batches) if self._lists else self._long(batches, timeline)
                    )
            except _BROKEN as error:
                if isinstance(error, ReadError):
                    raise
                raise ReadError(path, f"broken ({error})") from error

        return Recording(
            channels=tuple(self._channel(name, head, sensor) for name in self._values),
            sample_rate_hz=timeline.rate_hz if timeline else rate,
            start_ns=start_ns,
            n_samples=None if self._lists or sensor else self._file.metadata.num_rows,
            blocks=blocks,
            time_source=("columns" if timeline else "container") if start_ns else "none",
        )

    def _wanted(self) -> list[str]:
        per_row = [n for n in _PER_ROW if n in self._schema.names]
        return [*self._values, *per_row, *([self._time] if self._time else [])]

    def _rows(self) -> int:
        return _BATCH_LISTS if self._lists else _BATCH_ROWS

    def _timeline(
        self, times: tuple[NDArray[np.int64], bool], rate: float | None
    ) -> Timeline | None:
        stamps, dates = times
        if not self._lists:
            found = timeline_of(stamps, dates=dates, stated_hz=rate)
        elif rate is not None:
            found = Timeline(rate, int(stamps[0]) if dates else None, 0)
        else:
            return None
        if found is None:
            raise ReadError(self._path, f"column {self._time!r} tells no rate", "pass --rate")
        return found

    def _times(self, batch: pa.RecordBatch) -> tuple[NDArray[np.int64], bool] | None:
        if self._time is None:
            return None
        column = batch.column(self._time)
        if column.null_count:
            raise ReadError(self._path, f"column {self._time!r} has empty cells")
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("ns"))
        elif pa.types.is_string(column.type):
            return np.array([parse_time(t) for t in column.to_pylist()], np.int64), True
        return times_ns(column.to_numpy(zero_copy_only=False), self._time)

    def _long(self, batches: Rows, timeline: Timeline | None) -> Iterator[Block]:
        pairs = ((self._times(batch), self._columns(batch)) for batch in batches)
        if timeline is None:
            return (values for _, values in pairs)
        return cut_at_jumps(((t[0], values) for t, values in pairs if t is not None), timeline)

    def _columns(self, batch: pa.RecordBatch) -> NDArray[Any]:
        columns = [batch.column(n).to_numpy(zero_copy_only=False) for n in self._values]
        return np.stack(columns, axis=1)

    def _lists_of(self, batches: Rows) -> Iterator[Block]:
        for batch in batches:
            times = self._times(batch)
            columns = [batch.column(name) for name in self._values]
            for row in range(batch.num_rows):
                cells = [c[row].values.to_numpy(zero_copy_only=False) for c in columns]
                if len({len(cell) for cell in cells}) > 1:
                    raise ReadError(self._path, "lists of one row differ in length")
                if times is not None and times[1]:
                    yield Jump(int(times[0][row]))
                yield np.stack(cells, axis=1)

    def _stated(self, head: pa.RecordBatch, names: Sequence[str]) -> float | None:
        name = next((n for n in names if n in self._schema.names), None)
        if name is not None:
            distinct = pc.unique(head.column(name)).to_pylist()
            if len(distinct) > 1:
                raise ReadError(
                    self._path, f"column {name!r} changes within a sensor: {distinct[:5]}"
                )
            return float(distinct[0])
        fact = next((self._facts[n] for n in names if n in self._facts), None)
        try:
            return None if fact is None else float(fact)
        except ValueError as error:
            raise ReadError(self._path, f"metadata {names[0]}: {error}") from error

    def _channel(self, name: str, head: pa.RecordBatch, sensor: str | None) -> Channel:
        field = self._schema.field(name)
        facts = {**self._facts, **_metadata(field.metadata)}
        kind = field.type.value_type if self._lists else field.type
        unit = facts.get("unit", "unknown")
        if "unit" in self._schema.names:
            unit = str(head.column("unit")[0].as_py() or "unknown")
        label = self._roles.get(name, name)
        if sensor is not None:
            label = sensor if len(self._values) == 1 else f"{sensor}/{label}"
        return Channel(
            label,
            encoding_of(np.dtype(kind.to_pandas_dtype())),
            unit,
            self._stated(head, ("scale",)) or 1.0,
            self._stated(head, ("offset",)) or 0.0,
        )


def _batches(
    file: pq.ParquetFile, columns: list[str], by: str | None, sensor: str | None, rows: int
) -> Rows:
    for batch in file.iter_batches(rows, columns=columns, use_threads=False):
        kept = batch if by is None else batch.filter(pc.equal(batch.column(by), sensor))
        if kept.num_rows:
            yield kept


def _metadata(raw: dict[bytes, bytes] | None) -> dict[str, str]:
    return {
        k.decode("utf-8", "replace"): v.decode("utf-8", "replace")
        for k, v in (raw or {}).items()
        if len(v) < 256
    }


def _is_list(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return (lists or pa.types.is_fixed_size_list(kind)) and _is_number(kind.value_type)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
