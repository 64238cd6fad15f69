"""Named arrays and scalars in, recordings out: what NPZ, MAT and HDF5 files have in common.

Scalars beside the arrays tell rate (`fs`, `sample_rate`, ...), unit and start; an array of times
as long as the others tells rate and start too. Of two axes the longer one is time. Variables
`X097_DE_time` are those of the CWRU bearing data centre: unit g, 12 kHz unless an option says 48.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectors.files.cut import encoding_of, rechunk
from connectors.files.recording import (
    MAX_CHANNELS,
    Block,
    Channel,
    Jump,
    ReadError,
    ReadOptions,
    Recording,
)
from connectors.files.timeline import cut_at_jumps, time_column, timeline_of, times_ns
from connectors.files.times import parse_time

# Rows of an array that are fetched at once, for one channel.
BLOCK_VALUES = 65_536

_RATES = (
    "sample_rate_hz",
    "sample_rate",
    "samplerate",
    "sampling_rate",
    "sampling_frequency",
    "fs",
    "fs_hz",
    "sr",
    "rate",
    "rate_hz",
)
_UNITS = ("unit", "units", "unit_string")
_STARTS = ("start", "start_time", "t0", "start_ns", "timestamp", "date")
_SCALES = ("scale",)
_CWRU = re.compile(r"^X(\d+)_?(DE|FE|BA)_time$")
_CWRU_RPM = re.compile(r"^X\d+_?RPM$")
CWRU_RATE_HZ = 12_000.0


@dataclass(frozen=True, slots=True)
class Variable:
    """One array of a file.

    Attributes:
        shape: One or two axes.
        slices: Given a number of frames, yields (n, C) blocks, time first.
        facts: What the file says about this array alone.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    slices: Callable[[int], Iterator[NDArray[Any]]]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """Length along time."""
        return max(self.shape)

    @property
    def width(self) -> int:
        """Channels."""
        return 1 if len(self.shape) == 1 else min(self.shape)


def is_signal(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether an array can be a signal: real numbers, one or two axes, more than one value."""
    return dtype.kind in "fiuM" and len(shape) in (1, 2) and math.prod(shape) > 1


def frame_blocks(
    shape: tuple[int, ...], fetch: Callable[[int, int], NDArray[Any]]
) -> Callable[[int], Iterator[NDArray[Any]]]:
    """Slices of a random-access array; `fetch(begin, end)` cuts along the longer axis."""
    frames, width = max(shape), 1 if len(shape) == 1 else min(shape)
    step = max(1, BLOCK_VALUES // width)

    def slices(n: int) -> Iterator[NDArray[Any]]:
        at_once = max(n, step // max(n, 1) * n)
        for begin in range(0, frames, at_once):
            block = fetch(begin, min(begin + at_once, frames))
            if block.ndim == 1:
                yield block[:, None]
            else:
                yield block.T if shape[0] < shape[1] else block

    return slices


def recordings_of(
    path: Path,
    variables: list[Variable],
    scalars: Mapping[str, Any],
    options: ReadOptions,
) -> list[Recording]:
    """One recording per array that is a signal.

    Raises:
        ReadError: No such array, or more channels than `MAX_CHANNELS`.
    """
    roles = options.columns or {}
    time_name = time_column([v.name for v in variables], roles)
    time = next((v for v in variables if v.name == time_name and v.width == 1), None)
    signals = [v for v in variables if v is not time and roles.get(v.name) != "skip"]
    signals = [v for v in signals if v.dtype.kind != "M"]
    if not signals:
        raise ReadError(path, "holds no array of samples")
    alone = len(signals) == 1
    return [_recording(path, v, time, scalars, options, alone=alone) for v in signals]


def _recording(
    path: Path,
    variable: Variable,
    time: Variable | None,
    scalars: Mapping[str, Any],
    options: ReadOptions,
    *,
    alone: bool,
) -> Recording:
    if variable.width > MAX_CHANNELS:
        raise ReadError(
            path, f"{variable.name}: shape {variable.shape}, at most {MAX_CHANNELS} channels"
        )
    facts = {**scalars, **variable.facts}
    cwru = _CWRU.match(variable.name)
    name = (options.columns or {}).get(variable.name) or (cwru[2] if cwru else variable.name)
    notes = [f"{k}: {v}" for k, v in scalars.items() if _CWRU_RPM.match(k)]
    if len(variable.shape) == 2 and variable.width > 1:
        notes.append(f"{variable.name}: {variable.frames} frames x {variable.width} channels")
    rate = _number(path, facts, _RATES)
    if cwru and rate is None and options.sample_rate_hz is None:
        rate = CWRU_RATE_HZ
        notes.append("CWRU: 12 kHz assumed, the file does not say; pass --rate 48000 if it is")
    made = Recording(
        channels=tuple(
            _channels(path, variable, name, facts, alone=alone, unit="g" if cwru else "unknown")
        ),
        sample_rate_hz=rate,
        start_ns=(start_ns := _start_ns(path, facts)),
        n_samples=variable.frames,
        blocks=lambda n: iter(variable.slices(n)),
        time_source="none" if start_ns is None else "container",
        notes=tuple(notes),
    )
    if time is not None and time.frames == variable.frames:
        return _timed(path, made, variable, time, options)
    return made


def _channels(
    path: Path, variable: Variable, name: str, facts: Mapping[str, Any], *, alone: bool, unit: str
) -> Iterator[Channel]:
    encoding = encoding_of(variable.dtype)
    unit = str(_first(facts, _UNITS) or unit)
    scale = _number(path, facts, _SCALES) or 1.0
    for i in range(variable.width):
        label = f"ch{i}" if alone else f"{name}/ch{i}"
        yield Channel(label if variable.width > 1 else name, encoding, unit, scale)


def _timed(
    path: Path, made: Recording, variable: Variable, time: Variable, options: ReadOptions
) -> Recording:
    head = next(time.slices(BLOCK_VALUES))[:, 0]
    times, dates = times_ns(head, time.name)
    stated_hz = made.sample_rate_hz or options.sample_rate_hz
    timeline = timeline_of(times, dates=dates, stated_hz=stated_hz)
    if timeline is None:
        raise ReadError(path, f"{time.name!r} tells no rate", "pass --rate")

    def blocks(n: int) -> Iterator[Block]:
        # Cut alike, because the blocks of a narrow array are longer than those of a wide one.
        pairs = zip(rechunk(time.slices(n), n), rechunk(variable.slices(n), n), strict=True)
        return cut_at_jumps(
            (
                (times_ns(t[:, 0], time.name)[0], v)
                for t, v in pairs
                if not isinstance(t, Jump) and not isinstance(v, Jump)
            ),
            timeline,
        )

    start_ns = made.start_ns if timeline.start_ns is None else timeline.start_ns
    return Recording(
        made.channels,
        timeline.rate_hz,
        start_ns,
        made.n_samples,
        blocks,
        "columns" if timeline.start_ns is not None else made.time_source,
        notes=made.notes,
    )


def text_of(value: Any) -> str | None:
    """A string that may hide in bytes or in arrays of one, else None."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


def _first(facts: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    lower = {key.lower(): value for key, value in facts.items()}
    value = next((lower[name] for name in names if name in lower), None)
    text = text_of(value)
    return value if text is None else text


def _number(path: Path, facts: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    value = _first(facts, names)
    if value is None:
        return None
    try:
        number = float(np.asarray(value).reshape(-1)[0])
    except (ValueError, TypeError, IndexError) as error:
        raise ReadError(path, f"{names[0]}: no number ({value!r})") from error
    if not 0.0 < abs(number) < float("inf"):
        raise ReadError(path, f"{names[0]}: must be finite and not 0, got {number}")
    return number


def _start_ns(path: Path, facts: Mapping[str, Any]) -> int | None:
    value = _first(facts, _STARTS)
    if value is None:
        return None
    if isinstance(value, str):
        try:
            return parse_time(value)
        except ValueError as error:
            raise ReadError(path, str(error)) from error
    array = np.asarray(value).reshape(-1)
    if array.dtype.kind not in "fiuM" or not array.size:
        return None
    times, dates = times_ns(array[:1], "start")
    return int(times[0]) if dates else None
