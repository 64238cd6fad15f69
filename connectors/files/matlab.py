"""MATLAB 5 files (`save -v6` or `-v7`) in, recordings out, block by block.

Read by ourselves: scipy loads whole variables and crashes the process on some broken files.
Layout after MathWorks, "MAT-File Format", R2019b. Real numeric matrices and short texts are read;
structs, cells and complex numbers are not.
"""

import math
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from connectors.files.recording import ReadError, ReadOptions, Recording
from connectors.files.variables import BLOCK_VALUES, Variable, is_signal, recordings_of

_HEADER_BYTES = 128
_MATRIX, _COMPRESSED, _CHAR, _COMPLEX = 14, 15, 4, 0x0800
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
_STORED |= {12: "i8", 13: "u8", 16: "u1", 17: "u2"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4"}
_CLASSES |= {14: "i8", 15: "u8"}
_MAX_VARIABLES = 4096
# Columns lie one after the other, so that each needs its own pass over a compressed variable.
_MAX_COLUMNS = 256
_MAX_FACT_BYTES = 4096
_PIECE_BYTES = 65_536
Order = Literal["<", ">"]


@dataclass(frozen=True, slots=True)
class _Matrix:
    """Where the numbers of one variable lie."""

    name: str
    shape: tuple[int, ...]
    kind: int
    stored: np.dtype[Any]
    begin: int
    length: int
    compressed: bool
    skip: int


class _Bytes:
    """An element's bytes in order, inflated where they are compressed."""

    def __init__(self, file: IO[bytes], begin: int, length: int, *, compressed: bool) -> None:
        self._file, self._left, self.position = file, length, 0
        self._inflate = zlib.decompressobj() if compressed else None
        self._ready = b""
        file.seek(begin)

    def read(self, n: int) -> bytes:
        """The next `n` bytes, fewer at the end."""
        parts, wanted = [], n
        while wanted > 0 and (piece := self._piece(wanted)):
            parts.append(piece)
            wanted -= len(piece)
        self.position += n - wanted
        return b"".join(parts)

    def skip(self, n: int) -> None:
        """Pass over `n` bytes."""
        while n > 0 and (piece := self.read(min(n, _PIECE_BYTES))):
            n -= len(piece)

    def _piece(self, most: int) -> bytes:
        if self._inflate is None:
            piece = self._file.read(min(most, self._left))
            self._left -= len(piece)
            return piece
        while not self._inflate.eof:
            if not self._ready:
                self._ready = self._file.read(min(_PIECE_BYTES, self._left))
                self._left -= len(self._ready)
            piece = self._inflate.decompress(self._ready, most)
            stuck = not self._ready and not piece
            self._ready = self._inflate.unconsumed_tail
            if piece or stuck:
                return piece
        return b""


def recordings(path: Path, options: ReadOptions) -> list[Recording]:
    """The numeric variables of the file."""
    variables: list[Variable] = []
    scalars: dict[str, Any] = {}
    with path.open("rb") as file:
        order = _order(path, file.read(_HEADER_BYTES))
        try:
            for matrix in _matrices(path, file, order):
                _take(path, file, matrix, variables, scalars)
        except (zlib.error, UnicodeDecodeError) as error:
            raise ReadError(path, f"broken variable ({error})") from error
    return recordings_of(path, variables, scalars, options)


def _order(path: Path, header: bytes) -> Order:
    if len(header) < _HEADER_BYTES or header[126:] not in (b"IM", b"MI"):
        raise ReadError(path, "not a MATLAB 5 file", "save it with -v7 or -v7.3")
    return "<" if header[126:] == b"IM" else ">"


def _matrices(path: Path, file: IO[bytes], order: Order) -> Iterator[_Matrix]:
    size, begin = path.stat().st_size, _HEADER_BYTES
    for _ in range(_MAX_VARIABLES):
        file.seek(begin)
        tag = file.read(8)
        if not tag:
            return
        kind, length = _tag(path, tag, order)
        begin += 8
        if begin + length > size:
            raise ReadError(path, f"truncated: {begin + length - size} bytes are missing")
        if kind in (_MATRIX, _COMPRESSED):
            matrix = _matrix(path, file, order, begin, length, compressed=kind == _COMPRESSED)
            if matrix is not None:
                yield matrix
        begin += length  # of a matrix: padded already


def _tag(path: Path, raw: bytes, order: Order) -> tuple[int, int]:
    if len(raw) < 8:
        raise ReadError(path, "truncated within a tag")
    kind, length = (int(x) for x in np.frombuffer(raw, f"{order}u4"))
    return kind, length


def _element(path: Path, source: _Bytes, order: Order) -> tuple[int, bytes]:
    """A short element (flags, axes, name), which must fit its bound."""
    kind, length, body = _element_head(path, source, order)
    if body is None:
        if length > _MAX_FACT_BYTES:
            raise ReadError(path, f"header of a variable of {length} bytes")
        body = source.read(-(-length // 8) * 8)[:length]
    return kind, body


def _element_head(path: Path, source: _Bytes, order: Order) -> tuple[int, int, bytes | None]:
    """Type, length, and the data where they are so short that they lie in the tag itself."""
    raw = source.read(8)
    kind, length = _tag(path, raw, order)
    if kind >> 16:
        return kind & 0xFFFF, kind >> 16, raw[4 : 4 + min(kind >> 16, 4)]
    return kind, length, None


def _matrix(
    path: Path, file: IO[bytes], order: Order, begin: int, length: int, *, compressed: bool
) -> _Matrix | None:
    source = _Bytes(file, begin, length, compressed=compressed)
    if compressed and _tag(path, source.read(8), order)[0] != _MATRIX:
        return None
    _, flags = _element(path, source, order)
    word = int(np.frombuffer(flags[:4].ljust(4, b"\0"), f"{order}u4")[0])
    kind = word & 0xFF
    if word & _COMPLEX or (kind not in _CLASSES and kind != _CHAR):
        return None
    _, axes = _element(path, source, order)
    shape = tuple(int(x) for x in np.frombuffer(axes[: len(axes) // 4 * 4], f"{order}i4"))
    name = _element(path, source, order)[1].decode("latin-1")
    if len(shape) != 2 or min(shape) < 1:
        return None
    stored, n_bytes, inline = _element_head(path, source, order)
    if stored not in _STORED:
        raise ReadError(path, f"{name}: numbers of unknown type {stored}")
    dtype = np.dtype(f"{order}{_STORED[stored]}")
    if kind != _CHAR and n_bytes != math.prod(shape) * dtype.itemsize:
        raise ReadError(path, f"{name}: {n_bytes} bytes for {shape} numbers of {dtype}")
    skip = source.position - (4 if inline is not None else 0)
    return _Matrix(name, shape, kind, dtype, begin, length, compressed, skip)


def _open(file: IO[bytes], matrix: _Matrix, first: int = 0) -> _Bytes:
    """The numbers of a variable from number `first` on."""
    ahead = matrix.skip + first * matrix.stored.itemsize
    if not matrix.compressed:
        return _Bytes(file, matrix.begin + ahead, matrix.length - ahead, compressed=False)
    source = _Bytes(file, matrix.begin, matrix.length, compressed=True)
    source.skip(ahead)
    return source


def _take(
    path: Path,
    file: IO[bytes],
    matrix: _Matrix,
    variables: list[Variable],
    scalars: dict[str, Any],
) -> None:
    count = math.prod(matrix.shape)
    if matrix.kind == _CHAR or count == 1:
        if count <= _MAX_FACT_BYTES:
            raw = _open(file, matrix).read(count * matrix.stored.itemsize)
            numbers = np.frombuffer(
                raw[: len(raw) // matrix.stored.itemsize * matrix.stored.itemsize], matrix.stored
            )
            text = matrix.kind == _CHAR
            scalars[matrix.name] = "".join(map(chr, numbers.tolist())) if text else numbers
        return
    shape = (max(matrix.shape),) if min(matrix.shape) == 1 else matrix.shape
    dtype = np.dtype(_CLASSES[matrix.kind])
    if is_signal(shape, dtype):
        variables.append(Variable(matrix.name, shape, dtype, lambda n: _slices(path, matrix, n)))


def _slices(path: Path, matrix: _Matrix, n: int) -> Iterator[NDArray[Any]]:
    """(n, C) blocks. MATLAB stores columns: rows are frames in C streams, columns frames in one."""
    rows, columns = matrix.shape
    frames, width = max(rows, columns), min(rows, columns)
    streams, per_frame = (columns, 1) if rows >= columns else (1, rows)
    if streams > _MAX_COLUMNS:
        raise ReadError(path, f"{matrix.name}: {streams} columns, at most {_MAX_COLUMNS}")
    dtype, at_once = np.dtype(_CLASSES[matrix.kind]), max(n, BLOCK_VALUES // width)
    with ExitStack() as stack:
        sources = [
            _open(stack.enter_context(path.open("rb")), matrix, column * rows)
            for column in range(streams)
        ]
        for begin in range(0, frames, at_once):
            wanted = min(at_once, frames - begin) * per_frame * matrix.stored.itemsize
            try:
                parts = [source.read(wanted) for source in sources]
            except zlib.error as error:
                raise ReadError(path, f"{matrix.name}: broken ({error})") from error
            if any(len(part) < wanted for part in parts):
                raise ReadError(path, f"{matrix.name}: truncated at frame {begin}")
            blocks = [np.frombuffer(p, matrix.stored).reshape(-1, per_frame) for p in parts]
            yield np.concatenate(blocks, axis=1).astype(dtype)
