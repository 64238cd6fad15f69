"""TDMS files of LabVIEW in, recordings out; needs the extra `tdms`.

Waveform properties tell rate (`wf_increment`), start (`wf_start_time`, UTC) and unit
(`unit_string`). Scalings that the file defines are applied by npTDMS.
"""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from connectors.files.cut import encoding_of
from connectors.files.recording import Block, Channel, ReadError, ReadOptions, Recording
from connectors.files.variables import BLOCK_VALUES
from pipeline.messages import NS_PER_S

_YEAR_1980 = np.datetime64("1980-01-01T00:00:00", "ns")  # LabVIEW writes 1904 for "no time"


def recordings(path: Path, _options: ReadOptions) -> list[Recording]:
    """One recording per channel that holds numbers."""
    nptdms = _nptdms(path)
    try:
        with path.open("rb") as stream, nptdms.TdmsFile.open(stream) as file:
            channels = [channel for group in file.groups() for channel in group.channels()]
            found = [_recording(path, c, nptdms) for c in channels if _is_signal(c)]
    except ReadError:
        raise
    except Exception as error:  # npTDMS raises what its parser stumbles over
        raise ReadError(path, f"not a readable TDMS file ({error})") from error
    if not found:
        raise ReadError(path, "holds no channel of samples")
    return found


def _nptdms(path: Path) -> ModuleType:
    try:
        import nptdms  # noqa: PLC0415  (an optional extra)
    except ImportError as error:
        raise ReadError(
            path, "TDMS needs npTDMS", 'install it: pip install "echowatch[tdms]"'
        ) from error
    module: ModuleType = nptdms
    return module


def _is_signal(channel: Any) -> bool:
    return len(channel) > 0 and channel.dtype is not None and channel.dtype.kind in "fiu"


def _recording(path: Path, channel: Any, nptdms: ModuleType) -> Recording:
    facts, group, name, frames = channel.properties, channel.group_name, channel.name, len(channel)
    increment = facts.get("wf_increment")
    rate = None
    if increment is not None:
        if not 0.0 < float(increment) < float("inf"):
            raise ReadError(path, f"{group}/{name}: wf_increment must be > 0, got {increment}")
        rate = 1.0 / float(increment)
        # 1/25600 s is no exact double: the whole number of hertz is what was set.
        rate = float(round(rate)) if rate > 1 and abs(rate / round(rate) - 1) < 1e-9 else rate
    start_ns = _start_ns(facts)

    def blocks(n: int) -> Iterator[Block]:
        at_once = max(n, BLOCK_VALUES)
        try:
            with path.open("rb") as stream, nptdms.TdmsFile.open(stream) as file:
                source = file[group][name]
                for begin in range(0, frames, at_once):
                    wanted = min(at_once, frames - begin)
                    data = np.asarray(source.read_data(offset=begin, length=wanted))
                    if len(data) < wanted:
                        raise ReadError(path, f"{group}/{name}: truncated at frame {begin}")  # noqa: TRY301  (beside what npTDMS raises)
                    yield data[:, None]
                if file.file_status.incomplete_final_segment:
                    raise ReadError(path, f"{group}/{name}: truncated after {frames} frames")  # noqa: TRY301  (beside what npTDMS raises)
        except ReadError:
            raise
        except Exception as error:  # npTDMS raises what its parser stumbles over
            raise ReadError(path, f"{group}/{name}: broken ({error})") from error

    unit = str(facts.get("unit_string") or "unknown")
    return Recording(
        channels=(Channel(f"{group}/{name}", encoding_of(channel.dtype), unit),),
        sample_rate_hz=rate,
        start_ns=start_ns,
        n_samples=frames,
        blocks=blocks,
        time_source="none" if start_ns is None else "container",
    )


def _start_ns(facts: Any) -> int | None:
    start = facts.get("wf_start_time")
    if not isinstance(start, np.datetime64) or start < _YEAR_1980:
        return None
    offset_ns = round(float(facts.get("wf_start_offset", 0.0)) * NS_PER_S)
    return int(start.astype("datetime64[ns]").astype(np.int64)) + offset_ns
