"""NPY, NPZ and MATLAB 5 files in, recordings out; nothing is ever unpickled.

NPY is memory mapped, NPZ members are streamed out of the archive. scipy can only load a MATLAB 5
variable as a whole, one at a time; the 2 GB limit of that format bounds it.
"""

import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import scipy.io
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


def npy(path: Path, options: ReadOptions) -> list[Recording]:
    """The array of an NPY file."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
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
    except (zipfile.BadZipFile, ValueError, EOFError, zlib.error, NotImplementedError) as error:
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
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ReadError(path, f"{member}: broken ({error})") from error


def mat5(path: Path, options: ReadOptions) -> list[Recording]:
    """The variables of a MATLAB 4 or 5 file."""
    variables: list[Variable] = []
    scalars: dict[str, Any] = {}
    for name, shape, kind in _whosmat(path):
        if kind == "char" and math.prod(shape) <= _SMALL_BYTES:
            scalars[name] = "".join(np.asarray(_load(path, name)).reshape(-1).tolist())
        elif kind in _MAT_KINDS and math.prod(shape) == 1:
            scalars[name] = _load(path, name)
        elif kind in _MAT_KINDS and len(shape) == 2 and math.prod(shape) > 1:
            squeezed = (max(shape),) if min(shape) == 1 else shape
            # What the numbers are stored as is known only once they are loaded: float is safe.
            dtype = np.dtype(_MAT_KINDS[kind])
            variables.append(
                Variable(name, squeezed, dtype, _mat_slices(path, name, squeezed, dtype))
            )
    return recordings_of(path, variables, scalars, options)


_MAT_KINDS = {
    "double": "float64",
    "single": "float32",
    "int8": "int8",
    "uint8": "uint8",
    "int16": "int16",
    "uint16": "uint16",
    "int32": "int32",
    "uint32": "uint32",
    "int64": "int64",
    "uint64": "uint64",
}


def _mat_slices(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    def slices(n: int) -> Iterator[NDArray[Any]]:
        array = np.asarray(_load(path, name)).reshape(shape).astype(dtype, copy=False)

        def fetch(begin: int, end: int) -> NDArray[Any]:
            across = array.ndim == 2 and shape[0] < shape[1]
            return array[:, begin:end] if across else array[begin:end]

        return frame_blocks(shape, fetch)(n)

    return slices


def _whosmat(path: Path) -> list[tuple[str, tuple[int, ...], str]]:
    try:
        return list(scipy.io.whosmat(path))
    except Exception as error:  # scipy raises what its parser stumbles over
        raise ReadError(path, f"not a readable MATLAB 5 file ({error})") from error


def _load(path: Path, name: str) -> Any:
    try:
        return scipy.io.loadmat(path, variable_names=[name])[name]
    except Exception as error:  # scipy raises what its parser stumbles over
        raise ReadError(path, f"variable {name} is broken ({error})") from error
