"""Headerless binary with a YAML sidecar in, recordings out.

`run.bin` is described by `run.bin.yaml` or `run.yaml`:

    dtype: int16            # int8 uint8 int16 int24 int32 float32 float64
    sample_rate_hz: 25600
    channels: 2             # a number, or a list of names; default 1
    endian: little          # little (default) | big
    layout: interleaved     # interleaved (default) | sequential (one channel after the other)
    start: 2024-05-01T12:00:00Z
    unit: g                 # one for all
    scale: 0.001            # value in unit = number x scale + offset
    offset: 0
    skip_bytes: 0           # header to skip
"""

import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from connectors.files.cut import encoding_of
from connectors.files.recording import (
    MAX_CHANNELS,
    MAX_RATE_HZ,
    Block,
    Channel,
    ReadError,
    ReadOptions,
    Recording,
)
from connectors.files.times import parse_time, to_ns

_WIDTHS = {
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "int24": 3,
    "int32": 4,
    "float32": 4,
    "float64": 8,
}
_KEYS = (
    "dtype",
    "sample_rate_hz",
    "channels",
    "endian",
    "layout",
    "start",
    "unit",
    "scale",
    "offset",
    "skip_bytes",
)
_MAX_SIDECAR_BYTES = 65_536


def sidecar_of(path: Path) -> Path | None:
    """The YAML file that describes a binary, if there is one."""
    for candidate in (path.with_name(path.name + ".yaml"), path.with_suffix(".yaml")):
        if candidate.is_file() and candidate != path:
            return candidate
    return None


def recordings(path: Path, _options: ReadOptions) -> list[Recording]:
    """The one recording of a binary, from its sidecar and its size."""
    facts = _Facts(path)
    size = path.stat().st_size - facts.skip_bytes
    frame_bytes = facts.width * len(facts.names)
    frames, rest = divmod(max(size, 0), frame_bytes)
    if not frames:
        raise ReadError(path, "holds no samples")
    wire = "i24" if facts.dtype == "int24" else encoding_of(np.dtype(facts.dtype))
    channels = tuple(Channel(n, wire, facts.unit, facts.scale, facts.offset) for n in facts.names)

    def blocks(n: int) -> Iterator[Block]:
        yield from facts.blocks(path, frames, n)
        if rest:
            raise ReadError(
                path,
                f"truncated: {rest} bytes are left after {frames} frames of {frame_bytes} bytes",
                "check dtype, channels and skip_bytes in the sidecar",
            )

    return [
        Recording(
            channels=channels,
            sample_rate_hz=facts.sample_rate_hz,
            start_ns=facts.start_ns,
            n_samples=frames,
            blocks=blocks,
            time_source="none" if facts.start_ns is None else "container",
        )
    ]


class _Facts:
    """A sidecar, checked."""

    def __init__(self, path: Path) -> None:
        sidecar = sidecar_of(path)
        if sidecar is None:
            raise ReadError(
                path,
                "raw samples without a description",
                f"add {path.name}.yaml with dtype and sample_rate_hz",
            )
        self._sidecar, self._values = sidecar, _load(sidecar)
        unknown = sorted(set(self._values) - set(_KEYS))
        if unknown:
            raise ReadError(sidecar, f"unknown keys {unknown}", f"known: {', '.join(_KEYS)}")
        self.dtype = self._one_of("dtype", tuple(_WIDTHS), None)
        self.width = _WIDTHS[self.dtype]
        self.endian = self._one_of("endian", ("little", "big"), "little")
        self.layout = self._one_of("layout", ("interleaved", "sequential"), "interleaved")
        rate = self._number("sample_rate_hz", None)
        self.sample_rate_hz = self._within("sample_rate_hz", rate, 0.0, MAX_RATE_HZ)
        self.scale, self.offset = self._number("scale", 1.0), self._number("offset", 0.0)
        skip = self._within("skip_bytes", self._number("skip_bytes", 0.0), -1.0, 2.0**40)
        self.skip_bytes = int(skip)
        self.unit = str(self._values.get("unit") or "unknown")
        self.names, self.start_ns = self._names(), self._start_ns()

    def blocks(self, path: Path, frames: int, n: int) -> Iterator[NDArray[Any]]:
        """(n, C) blocks, read by seeking; nothing stays mapped."""
        width, count = self.width, len(self.names)
        with path.open("rb") as file:
            for begin in range(0, frames, n):
                wanted = min(n, frames - begin)
                if self.layout == "interleaved":
                    file.seek(self.skip_bytes + begin * width * count)
                    yield self._numbers(file.read(wanted * width * count)).reshape(-1, count)
                    continue
                block = []
                for channel in range(count):
                    file.seek(self.skip_bytes + (channel * frames + begin) * width)
                    block.append(self._numbers(file.read(wanted * width)))
                yield np.stack(block, axis=1)

    def _numbers(self, raw: bytes) -> NDArray[Any]:
        order: Literal["<", ">"] = "<" if self.endian == "little" else ">"
        if self.dtype != "int24":
            return np.frombuffer(raw, np.dtype(self.dtype).newbyteorder(order))
        octets = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        padded = np.zeros((len(octets), 4), np.uint8)
        # The value sits in the upper three bytes, so that the shift back keeps its sign.
        padded[:, 1:] = octets if order == "<" else octets[:, ::-1]
        return padded.view("<i4")[:, 0] >> 8

    def _one_of(self, key: str, allowed: tuple[str, ...], default: str | None) -> str:
        value = self._values.get(key, default)
        if value not in allowed:
            raise ReadError(
                self._sidecar, f"{key} must be one of {', '.join(allowed)}, got {value}"
            )
        return str(value)

    def _number(self, key: str, default: float | None) -> float:
        value = self._values.get(key, default)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise ReadError(self._sidecar, f"{key} must be a finite number, got {value!r}")
        return float(value)

    def _within(self, key: str, value: float, above: float, most: float) -> float:
        if not above < value <= most:
            raise ReadError(
                self._sidecar, f"{key} must lie above {above:g}, at most {most:g}, got {value:g}"
            )
        return value

    def _names(self) -> tuple[str, ...]:
        given = self._values.get("channels", 1)
        if isinstance(given, list) and given and len(given) == len(set(map(str, given))):
            names = tuple(map(str, given))
        elif isinstance(given, int) and not isinstance(given, bool) and given > 0:
            names = tuple(f"ch{i}" for i in range(min(given, MAX_CHANNELS + 1)))
        else:
            raise ReadError(
                self._sidecar, f"channels must be a number > 0 or a list of names, got {given!r}"
            )
        if len(names) > MAX_CHANNELS:
            raise ReadError(self._sidecar, f"channels: at most {MAX_CHANNELS}, got {len(names)}")
        return names

    def _start_ns(self) -> int | None:
        given = self._values.get("start")
        try:
            if given is None:
                return None
            return to_ns(given) if isinstance(given, datetime) else parse_time(given)
        except (ValueError, TypeError) as error:
            raise ReadError(self._sidecar, f"start: {error}") from error


def _load(sidecar: Path) -> dict[str, Any]:
    if sidecar.stat().st_size > _MAX_SIDECAR_BYTES:
        raise ReadError(sidecar, f"larger than {_MAX_SIDECAR_BYTES} bytes")
    try:
        values = yaml.safe_load(sidecar.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ReadError(sidecar, f"not YAML ({error})") from error
    if not isinstance(values, dict):
        raise ReadError(sidecar, f"must hold keys and values, got {type(values).__name__}")
    for key, value in values.items():
        # Nested values have no meaning here, and YAML aliases can make them explode in print.
        cells = value if isinstance(value, list) else [value]
        if any(isinstance(cell, list | dict | tuple | set) for cell in (key, *cells)):
            raise ReadError(sidecar, f"{str(key)[:80]}: nested values are not allowed")
    return values
