"""HDF5 and MATLAB 7.3 files in, recordings out.

Attributes of a dataset, its groups and the file tell rate, unit, start and scale. Only what lies
in the file itself is read: links and datasets that point to other files are refused.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from connectors.files.recording import ReadError, ReadOptions, Recording
from connectors.files.variables import (
    Variable,
    frame_blocks,
    is_signal,
    recordings_of,
)

_MAX_OBJECTS = 4096
_MAX_DEPTH = 32
# What h5py raises on broken bytes.
_BROKEN = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)
# HDF5 decompresses whole chunks; a chunk beyond this is an attack or a mistake.
_MAX_CHUNK_BYTES = 64 * 2**20


def recordings(path: Path, options: ReadOptions) -> list[Recording]:
    """The datasets of the file that are signals."""
    variables: list[Variable] = []
    scalars: dict[str, Any] = {}
    try:
        with h5py.File(path, "r") as file:
            for name, dataset, facts in _walk(path, file, "", _attributes(file), set(), 0):
                _take(path, name, dataset, facts, variables, scalars)
    except ReadError:
        raise
    except _BROKEN as error:
        raise ReadError(path, f"not a readable HDF5 file ({error})") from error
    return recordings_of(path, variables, scalars, options)


def _walk(
    path: Path, group: h5py.Group, prefix: str, facts: dict[str, Any], seen: set[int], depth: int
) -> Iterator[tuple[str, h5py.Dataset, dict[str, Any]]]:
    if depth > _MAX_DEPTH:
        raise ReadError(path, f"groups nested deeper than {_MAX_DEPTH}")
    for key in group:
        link = group.get(key, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise ReadError(
                path, f"{prefix}{key} links to another file", "copy the data into this file"
            )
        if not isinstance(link, h5py.HardLink) or key == "#refs#":
            continue
        item = group[key]
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            continue
        seen.add(address)
        if len(seen) > _MAX_OBJECTS:
            raise ReadError(path, f"more than {_MAX_OBJECTS} objects")
        known = {**facts, **_attributes(item)}
        if isinstance(item, h5py.Group):
            yield from _walk(path, item, f"{prefix}{key}/", known, seen, depth + 1)
        elif isinstance(item, h5py.Dataset):
            yield f"{prefix}{key}", item, known


def _attributes(item: Any) -> dict[str, Any]:
    return {key: item.attrs[key] for key in list(item.attrs)[:256]}


def _take(
    path: Path,
    name: str,
    dataset: h5py.Dataset,
    facts: dict[str, Any],
    variables: list[Variable],
    scalars: dict[str, Any],
) -> None:
    shape = tuple(dataset.shape or ())
    if dataset.external or dataset.is_virtual:
        raise ReadError(path, f"{name} lies in other files", "copy the data into this file")
    if facts.get("MATLAB_class") == b"char":
        if dataset.size and dataset.size <= 256:
            codes = np.asarray(dataset[()]).reshape(-1)
            scalars[name.rsplit("/", 1)[-1]] = "".join(map(chr, codes.tolist()))
        return
    if dataset.size == 1:
        scalars[name.rsplit("/", 1)[-1]] = np.asarray(dataset[()]).reshape(-1)[0]
        return
    if not is_signal(shape, dataset.dtype):
        return
    chunk_bytes = int(np.prod(dataset.chunks or (0,))) * dataset.dtype.itemsize
    if chunk_bytes > _MAX_CHUNK_BYTES:
        raise ReadError(path, f"{name}: storage chunks of {chunk_bytes} bytes", "rechunk the file")
    squeezed = (max(shape),) if min(shape) == 1 else shape
    variables.append(
        Variable(name, squeezed, dataset.dtype, _slices(path, dataset.name, shape), facts)
    )


def _slices(path: Path, name: str, shape: tuple[int, ...]) -> Any:
    def slices(n: int) -> Iterator[NDArray[Any]]:
        across = len(shape) == 2 and shape[0] < shape[1]
        try:
            with h5py.File(path, "r") as file:
                dataset = file[name]

                def fetch(begin: int, end: int) -> NDArray[Any]:
                    return np.asarray(dataset[:, begin:end] if across else dataset[begin:end])

                yield from frame_blocks(shape, fetch)(n)
        except _BROKEN as error:
            raise ReadError(path, f"{name}: broken ({error})") from error

    return slices
