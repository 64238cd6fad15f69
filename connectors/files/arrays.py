"""NPY and NPZ files in, recordings out; nothing is ever unpickled.

NPY is memory mapped, NPZ members are streamed out of the archive.
"""

import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from connectors.files.recording import ReadError, ReadOptions, Recording
from connectors.files.variables import (
    BLOCK_VALUES,
    Variable,
    frame_blocks,
    is_signal,
    recordings_of,
)

_MAX_HEADER_BYTES = 10_000
_MAX_MEMBERS = 4096
_SMALL_BYTES = 4096
# What numpy and zipfile raise on broken bytes.
_BROKEN = (
    zipfile.BadZipFile,
    ValueError,
    EOFError,
    OSError,
    zlib.error,
    RuntimeError,
    SyntaxError,
    TokenError,
)


def npy(path: Path, options: ReadOptions) -> list[Recording]:
    """The array of an NPY file."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError, TokenError) as error:
        raise ReadError(path, f"not a readable NPY file ({error})") from error
    shape, dtype = array.shape, array.dtype
    del array  # opened again for reading, so that a folder of files does not stay mapped
    if not is_signal(shape, dtype):
        raise ReadError(path, f"array of {dtype} {shape}, needs real numbers in 1 or 2 axes")

    def fetch(begin: int, end: int) -> NDArray[Any]:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        cut = (
            mapped[:, begin:end] if mapped.ndim == 2 and shape[0] < shape[1] else mapped[begin:end]
        )
        return np.array(cut)

    variable = Variable("data", shape, dtype, frame_blocks(shape, fetch))
    return recordings_of(path, [variable], {}, options)


def npz(path: Path, options: ReadOptions) -> list[Recording]:
    """The arrays of an NPZ file; its scalars tell rate, unit and start."""
    variables: list[Variable] = []
    scalars: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > _MAX_MEMBERS:
                raise ReadError(path, f"{len(members)} members, at most {_MAX_MEMBERS}")
            for member in members:
                if not member.filename.endswith(".npy"):
                    continue
                with archive.open(member) as file:
                    _take(path, member.filename, file, variables, scalars)
    except _BROKEN as error:
        if isinstance(error, ReadError):
            raise
        raise ReadError(path, f"not a readable NPZ file ({error})") from error
    return recordings_of(path, variables, scalars, options)


def _take(
    path: Path,
    member: str,
    file: IO[bytes],
    variables: list[Variable],
    scalars: dict[str, Any],
) -> None:
    shape, fortran, dtype = _header(file)
    name = member.removesuffix(".npy")
    if dtype.hasobject:
        raise ReadError(path, f"{name}: pickled objects are not read", "save numbers only")
    if math.prod(shape) == 1 and dtype.itemsize <= _SMALL_BYTES:
        scalars[name] = np.frombuffer(file.read(dtype.itemsize), dtype)
    elif is_signal(shape, dtype):
        variables.append(
            Variable(
                name,
                shape,
                dtype,
                lambda n: _stream(path, member, shape, dtype, n, fortran=fortran),
            )
        )


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_2_0
    if version == (1, 0):
        read = np.lib.format.read_array_header_1_0
    shape, fortran, dtype = read(file, max_header_size=_MAX_HEADER_BYTES)
    return shape, fortran, dtype


def _stream(
    path: Path, member: str, shape: tuple[int, ...], dtype: np.dtype[Any], n: int, *, fortran: bool
) -> Iterator[NDArray[Any]]:
    """(n, C) blocks of one member, decompressed as they are needed."""
    frames, width = max(shape), 1 if len(shape) == 1 else min(shape)
    if width > 1 and (shape[0] < shape[1]) != fortran:
        raise ReadError(
            path, f"{member}: channels lie one after the other", "save it as (samples, channels)"
        )
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            _header(file)
            at_once = max(n, BLOCK_VALUES // width)
            for begin in range(0, frames, at_once):
                wanted = min(at_once, frames - begin) * width * dtype.itemsize
                raw = file.read(wanted)
                if len(raw) < wanted:
                    raise ReadError(path, f"{member}: truncated at frame {begin}")
                yield np.frombuffer(raw, dtype).reshape(-1, width)
    except _BROKEN as error:
        if isinstance(error, ReadError):
            raise
        raise ReadError(path, f"{member}: broken ({error})") from error
