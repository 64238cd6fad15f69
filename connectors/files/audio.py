"""WAV, FLAC, AIFF and OGG in, recordings of ADC integers (or floats) out.

Numbers are carried as the file holds them: 16 bit as int16, 24 bit as int32 by value, so that
full scale +-1 = 2^15 or 2^23 steps and clipping stays visible. Unit is `FS` until an option says
what full scale means.
"""

import os
import struct
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from connectors.files.recording import MAX_CHANNELS, Channel, ReadError, ReadOptions, Recording
from connectors.files.times import to_ns
from pipeline.messages import NS_PER_S, Encoding

_INT16 = {"PCM_16", "PCM_S8", "PCM_U8", "ULAW", "ALAW"}
_STREAMED = (0, 0xFFFFFFFF)  # data sizes of a WAV whose writer never came back to close it
_MAX_RIFF_CHUNKS = 256


def encoding_of_subtype(subtype: str) -> tuple[Encoding, float]:
    """Encoding of a libsndfile subtype and the number of ADC steps that is full scale."""
    if subtype in _INT16:
        return "i16", 2.0**15
    if subtype == "PCM_24":
        return "i24", 2.0**23
    if subtype == "PCM_32":
        return "i32", 2.0**31
    return "f32", 1.0


def open_sound(path: Path) -> sf.SoundFile:
    """A sound file opened for reading; libsndfile's complaint becomes a `ReadError`."""
    try:
        sound = sf.SoundFile(path)
    except (sf.SoundFileError, OSError) as error:
        raise ReadError(path, f"not a readable audio file ({error})", "check the file") from error
    if sound.channels > MAX_CHANNELS:
        sound.close()
        raise ReadError(path, f"{sound.channels} channels, at most {MAX_CHANNELS} are read")
    return sound


def read_frames(sound: sf.SoundFile, n: int) -> NDArray[Any]:
    """The next `n` frames as (n, C) int16, int32 (24 bit: by value) or float32."""
    encoding, _ = encoding_of_subtype(sound.subtype)
    dtype = {"i16": "int16", "f32": "float32"}.get(encoding, "int32")
    try:
        block: NDArray[Any] = sound.read(n, dtype=dtype, always_2d=True)
    except sf.SoundFileError as error:
        raise ReadError(Path(sound.name), f"broken at frame {sound.tell()} ({error})") from error
    # soundfile left-justifies 24-bit samples in 32 bits
    return np.right_shift(block, 8) if encoding == "i24" else block


def recordings(path: Path, _options: ReadOptions) -> list[Recording]:
    """The one recording of a sound file, from its header."""
    with open_sound(path) as sound:
        encoding, full_scale = encoding_of_subtype(sound.subtype)
        rate, frames, width = sound.samplerate, sound.frames, sound.channels
    promised, start_ns = _riff_facts(path, rate)
    if not frames:
        raise ReadError(path, "holds no samples")
    channels = tuple(Channel(f"ch{i}", encoding, "FS", 1.0 / full_scale) for i in range(width))
    missing = promised is not None and promised > frames

    def blocks(n: int) -> Iterator[NDArray[Any]]:
        done = 0
        with open_sound(path) as sound:
            while len(block := read_frames(sound, n)):
                done += len(block)
                yield block
        wanted = promised if missing and promised is not None else frames
        if done < wanted:
            raise ReadError(path, f"truncated: header promises {wanted} frames, got {done}")

    return [
        Recording(
            channels=channels,
            sample_rate_hz=float(rate),
            start_ns=start_ns,
            n_samples=frames,
            blocks=blocks,
            time_source="none" if start_ns is None else "container",
            notes=(f"truncated: header promises {promised} frames, file has {frames}",)
            if missing
            else (),
            full_scale=full_scale,
        )
    ]


def _riff_facts(path: Path, rate: int) -> tuple[int | None, int | None]:
    """Frames that a WAV header promises, and the time in its broadcast (`bext`) chunk."""
    promised, start_ns, frame_bytes = None, None, 0
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return None, None
        for _ in range(_MAX_RIFF_CHUNKS):
            if len(header := file.read(8)) < 8:
                break
            name, length = struct.unpack("<4sI", header)
            begin = file.tell()
            if name == b"fmt ":
                frame_bytes = int.from_bytes(file.read(14)[12:14], "little")
            elif name == b"bext":
                start_ns = _bext_start(file.read(346), rate)
            elif name == b"data":
                cut = begin + length > size and length not in _STREAMED
                promised = length // frame_bytes if cut and frame_bytes else None
                break
            file.seek(begin + length + length % 2, os.SEEK_SET)
    return promised, start_ns


def _bext_start(body: bytes, rate: int) -> int | None:
    """EBU Tech 3285: date, time, and the sample count since midnight, which is the exact one."""
    if len(body) < 346:
        return None
    try:
        date = datetime.fromisoformat(body[320:330].decode("ascii").replace(":", "-"))
        clock = datetime.strptime(body[330:338].decode("ascii").replace("-", ":"), "%H:%M:%S")  # noqa: DTZ007  (naive means UTC here)
    except ValueError:
        return None
    midnight_ns = to_ns(date)
    of_day_ns = (clock.hour * 3600 + clock.minute * 60 + clock.second) * NS_PER_S
    exact_ns = round(int.from_bytes(body[338:346], "little") * NS_PER_S / rate)
    within = 0 <= exact_ns - of_day_ns < 2 * NS_PER_S
    return midnight_ns + (exact_ns if within else of_day_ns)
