"""State values in, bytes out, and back: versioned, without pickle.

A state is a nest of dicts, lists, JSON scalars and NumPy arrays. Arrays travel as safetensors, the
rest as JSON in its metadata, so that nothing in a state record can execute.
"""

import json
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

FORMAT = 1


class StateError(ValueError):
    """Bytes that are no state record of a known format."""


def pack(state: dict[str, Any]) -> bytes:
    """Serialise a state.

    Raises:
        StateError: for a value that is neither JSON nor an array.

    >>> import numpy as np
    >>> unpack(pack({"version": 1, "bank": np.zeros(2)}))["bank"]
    array([0., 0.])
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}

    def strip(value: Any, path: str) -> Any:
        if isinstance(value, np.ndarray):
            arrays[path] = np.ascontiguousarray(value)
            return {"__array__": path}
        if isinstance(value, dict):
            return {str(key): strip(item, f"{path}.{key}") for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [strip(item, f"{path}.{i}") for i, item in enumerate(value)]
        if isinstance(value, np.generic):
            return value.item()
        if value is None or isinstance(value, str | int | float | bool):
            return value
        raise StateError(f"a state holds JSON values and arrays only, got {type(value)} at {path}")

    text = json.dumps({"format": FORMAT, "state": strip(state, "")})
    arrays["__json__"] = np.frombuffer(text.encode(), dtype=np.uint8)
    return save_tensors(arrays)


def unpack(data: bytes) -> dict[str, Any]:
    """Read back what `pack` wrote.

    Raises:
        StateError: for damaged bytes or a format this version does not know.
    """
    try:
        arrays = load_tensors(data)
        record = json.loads(arrays.pop("__json__").tobytes())
    except (SafetensorError, KeyError, ValueError) as error:
        raise StateError(f"not a state record: {error}") from error
    if record.get("format") != FORMAT:
        raise StateError(f"state format must be {FORMAT}, got {record.get('format')!r}")

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            if set(value) == {"__array__"}:
                return arrays[value["__array__"]]
            return {key: fill(item) for key, item in value.items()}
        return [fill(item) for item in value] if isinstance(value, list) else value

    state: dict[str, Any] = fill(record["state"])
    return state
