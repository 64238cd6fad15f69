"""What a reader of a file format hands over: facts about channels and a door to their samples.

A reader opens one file, reads its header and returns `Recording`s. Cutting into chunks
(`connectors.files.cut`), order over files (`chains`), names (`open`) are the same for all formats.
Value in `unit` = number in the file x `scale` + `offset`.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from numpy.typing import NDArray

from pipeline.messages import Encoding, Flags

MAX_CHANNELS = 4096
# Below it the 10 ms hop of the models would hold less than one sample.
MIN_RATE_HZ = 100.0
MAX_RATE_HZ = 1e6

Named = str | Mapping[str, str]
T = TypeVar("T", str, float)


def _ignore(_problem: str) -> None:
    """Drop a problem: the default where the caller does not listen."""


class ReadError(ValueError):
    """A file that cannot be read: its name, what is wrong, and the remedy."""

    def __init__(self, path: Path, wrong: str, remedy: str = "") -> None:
        self.path = path
        super().__init__(f"{path}: {wrong}" + (f"; {remedy}" if remedy else ""))


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What the files do not say, and what to do with those that are broken.

    Attributes:
        sample_rate_hz: Rate where the file holds none; a rate in the file wins.
        unit: Unit of the values, for all channels or per channel name; replaces the file's.
        scale: Unit per number in the file, likewise. Alone it makes the unit `unknown`.
        start: Time of the first file without a time (ISO-8601, UTC if without zone, or ns since
            the epoch); also the date of formats that hold only the time of day.
        period_s: Files without a time start this far apart; without it one after the other.
        sensor: Sensor id, or template with `{stem}`, `{folder}`, `{channel}`, or a mapping of
            channel name -> sensor id.
        columns: Column or variable name -> role (`time`, `skip`) or channel name, for tables.
        chunk_s: Length of a chunk in seconds.
        time_pattern: `strptime` pattern of the time in the file names, where not recognised.
        on_error: `stop` raises at the first broken file, `skip` reports it and goes on.
        on_problem: Called with one line for each thing worth knowing (broken file, repaired clock).
    """

    sample_rate_hz: float | None = None
    unit: Named | None = None
    scale: float | Mapping[str, float] | None = None
    start: str | int | None = None
    period_s: float | None = None
    sensor: Named | None = None
    columns: Mapping[str, str] | None = None
    chunk_s: float = 0.5
    time_pattern: str | None = None
    on_error: Literal["stop", "skip"] = "stop"
    on_problem: Callable[[str], None] = _ignore

    def __post_init__(self) -> None:
        """Reject what no file could satisfy."""
        if not 0.0 < self.chunk_s < float("inf"):
            raise ValueError(f"chunk_s must be positive and finite, got {self.chunk_s} s")
        if self.sample_rate_hz is not None and not 0.0 < self.sample_rate_hz <= MAX_RATE_HZ:
            raise ValueError(
                f"sample_rate_hz must lie in 0-{MAX_RATE_HZ:.0f} Hz, got {self.sample_rate_hz}"
            )
        if self.period_s is not None and not 0.0 <= self.period_s < float("inf"):
            raise ValueError(f"period_s must be >= 0 and finite, got {self.period_s} s")
        if self.on_error not in ("stop", "skip"):
            raise ValueError(f"on_error must be 'stop' or 'skip', got {self.on_error!r}")


@dataclass(frozen=True, slots=True)
class Channel:
    """One column of a recording.

    Attributes:
        name: As the file calls it, or its number.
        sensor_id: Stable name; a reader leaves it empty unless the file itself states it.
        scale, offset: Value in `unit` = number in the block x scale + offset.
    """

    name: str
    encoding: Encoding = "f32"
    unit: str = "unknown"
    scale: float = 1.0
    offset: float = 0.0
    sensor_id: str = ""


@dataclass(frozen=True, slots=True)
class Jump:
    """Stands between two blocks: the samples that follow do not continue those before.

    Attributes:
        start_ns: Time of the next frame; None where only the distance is known. A step back
            begins a new epoch, a step forward ends a capture.
        new_recording: Another recording begins, whatever the times say.
        channels: Where scale, unit or encoding change with it.
        ahead_ns: How far the next frame lies from where it should, where `start_ns` is None.
        flags: Of the samples that follow, where the file states them; else captures are told by
            the jumps between them.
        stated_epochs: The file states its epochs, so that a step back alone is what the sensor's
            clock did, to be judged as such, and begins none.
    """

    start_ns: int | None
    new_recording: bool = False
    channels: tuple[Channel, ...] = ()
    ahead_ns: int = 0
    flags: Flags | None = None
    stated_epochs: bool = False


Block = NDArray[Any] | Jump


@dataclass(frozen=True, slots=True)
class Recording:
    """Channels that were sampled together.

    Attributes:
        sample_rate_hz: None where the file does not say.
        start_ns: Time of the first frame, None where the file does not say.
        n_samples: Per channel; None where only reading tells.
        blocks: Given the wanted number of frames, yields (n, C) arrays of any n, in order, with a
            `Jump` where the signal is interrupted.
        time_source: Where `start_ns` comes from, in plain words.
        end_ns: Time after the last frame where gaps make it differ from n / rate.
        n_captures: Stretches without a gap.
        labels: (label, stretches) as the set states them.
        notes: What a person should know about this file.
        full_scale: ADC steps that are 1.0 to `ReadOptions.scale`.
    """

    channels: tuple[Channel, ...]
    sample_rate_hz: float | None
    start_ns: int | None
    n_samples: int | None
    blocks: Callable[[int], Iterator[Block]]
    time_source: str = "none"
    end_ns: int | None = None
    n_captures: int = 1
    labels: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    full_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class ChannelInfo:
    """One line of a description; `start_ns` and `n_samples` are those of the first recording.

    Attributes:
        scale: Unit per sample as carried in the chunks.
        n_samples: None where only reading the whole file tells.
        time_source: `container`, `columns`, `file name`, `option`, or `none`.
    """

    sensor_id: str
    name: str
    sample_rate_hz: float | None
    unit: str
    scale: float
    encoding: Encoding
    n_samples: int | None
    start_ns: int | None
    time_source: str


@dataclass(frozen=True, slots=True)
class Description:
    """What a file or folder holds, from its headers.

    Attributes:
        duration_s: From the first sample to the last, gaps included (for a folder without a layout
            the sum over its files); None where only reading tells.
        n_captures: Stretches without a gap.
        labels: (label, stretches) as the set states them; never used for reading.
        notes: What is missing, assumed or repaired.
    """

    path: Path
    kind: str
    channels: tuple[ChannelInfo, ...]
    duration_s: float | None
    n_captures: int = 1
    labels: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()


def sensor_name(template: Named | None, default: str, **parts: str) -> str:
    """Sensor id from a mapping by channel name, a template, or the default, in the allowed charset.

    >>> sensor_name(None, "pump 1 (DE)")
    'pump_1_DE'
    """
    if isinstance(template, Mapping):
        name = template.get(parts["channel"], default)
    elif template:
        try:
            name = template.format(**parts)
        except (KeyError, IndexError, AttributeError, ValueError) as error:
            known = ", ".join(f"{{{part}}}" for part in parts)
            raise ValueError(f"sensor template may use {known}, got {template!r}") from error
    else:
        name = default
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    clean = re.sub(r"[^A-Za-z0-9._/:-]+", "_", plain)
    clean = re.sub(r"/{2,}", "/", clean).strip("_/")
    lost = any(not unicodedata.normalize("NFKD", c).encode("ascii", "ignore") for c in name)
    if not lost:
        return clean or "unnamed"
    # Two names must not become one sensor because their letters have no ASCII form.
    return f"{clean or 'sensor'}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def with_options(channel: Channel, options: ReadOptions, full_scale: float = 1.0) -> Channel:
    """The channel with the unit and scale that the options state for it."""
    unit, scale = _pick(options.unit, channel.name), _pick(options.scale, channel.name)
    if scale is not None:
        # The file's own unit is that of its own scale, so it goes with it.
        channel = replace(channel, scale=scale / full_scale, unit="unknown")
    return channel if unit is None else replace(channel, unit=unit)


def _pick(option: T | Mapping[str, T] | None, name: str) -> T | None:
    return option.get(name) if isinstance(option, Mapping) else option


def guarded(blocks: Iterator[Block], options: ReadOptions) -> Iterator[Block]:
    """The blocks of one file among many: a broken file ends here, or stops the run, by option."""
    try:
        yield from blocks
    except ReadError as error:
        report(error, options)


def report(error: ReadError, options: ReadOptions) -> None:
    """A broken file stops the run, or is told to the listener, by option."""
    if options.on_error == "stop":
        raise error
    options.on_problem(str(error))
