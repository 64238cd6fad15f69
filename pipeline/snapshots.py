"""A judged window in, the message that keeps its samples for people out, and back.

The message is one line of JSON (`SNAPSHOT_FIELDS`, a public contract, docs/topics.md), a line
feed, and the samples as little endian int16: value in `unit` = sample x scale + offset. Samples
that the sensor sent as int16 travel as they are, others are rounded to 1/65,534 of their range.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.json_fields import INT64
from pipeline.messages import Window, WindowResult
from pipeline.pins import PLACES

VERSION: Final = 1
MAX_SAMPLES: Final = 65_536
"""Of a longer window the last so many are kept: 2.56 s at 25.6 kHz, 131 kB."""
MAX_BYTES: Final = 2 * MAX_SAMPLES + 8192
STEPS: Final = 65_534  # -32767 ... 32767

SNAPSHOT_FIELDS: Final = {
    "version": "1",
    "sensor_id": "sensor",
    "asset": "its machine",
    "kind": "healthy or now",
    "place": "`kind|n`; another message of the same sensor and place replaces this one",
    "start_ns": "time of the first sample that is kept, ns since 1970 UTC",
    "end_ns": "end of the window",
    "sample_rate_hz": "exact rate",
    "unit": "unit of the values, or unknown",
    "scale": "value per step of a sample",
    "offset": "value of sample 0",
    "samples": "samples that follow, at most 65,536",
    "of_samples": "samples of the window; where these are more, its last ones were kept",
    "status": "of the sensor after this window",
    "model_id": "encoder that judged it",
    "reason": "detector that is furthest over its limit",
    "score": "calibrated distance to the baseline",
    "limit": "limit of the score",
    "level_ratio": "RMS over that of the baseline",
    "rms": "of the whole window less its mean, in unit; null = unknown, as all below",
    "peak": "likewise",
    "crest": "peak / rms",
    "kurtosis": "3 for Gaussian noise",
    "velocity_mm_s": "RMS velocity 10-1000 Hz",
}
"""Fields of the first line of a message of the topic of snapshots."""
NUMBERS: Final = ("start_ns", "end_ns", "sample_rate_hz", "scale", "offset")
TEXTS: Final = ("sensor_id", "asset", "kind", "place", "unit", "status", "model_id", "reason")
FIGURES: Final = (
    "score", "limit", "level_ratio", "rms", "peak", "crest", "kurtosis", "velocity_mm_s"
)  # fmt: skip


class BadSnapshot(ValueError):  # noqa: N818  (as the other messages' refusals are named)
    """A message that is no snapshot of this version, in words."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The samples of one window, and what was said of it.

    Attributes:
        facts: By the names of `SNAPSHOT_FIELDS`; numbers of `FIGURES` may be None.
        samples: (N,) int16.
    """

    facts: Mapping[str, Any]
    samples: NDArray[np.int16]

    def values(self) -> NDArray[np.float32]:
        """The signal in its unit: (N,) float32."""
        scale, offset = float(self.facts["scale"]), float(self.facts["offset"])
        return (self.samples.astype(np.float64) * scale + offset).astype(np.float32)


def key_of(result: WindowResult) -> bytes:
    """Key of a pinned window's message."""
    return f"{result.sensor_id}|{result.pin}".encode()


def keys_of(sensor_id: str, kind: str) -> list[bytes]:
    """Every key that messages of this kind can have.

    >>> keys_of("mill/pump", "healthy")
    [b'mill/pump|healthy|0', b'mill/pump|healthy|1']
    """
    return [f"{sensor_id}|{kind}|{number}".encode() for number in range(PLACES[kind])]


def snapshot_to_bytes(result: WindowResult) -> bytes:
    """The message of a pinned window.

    Args:
        result: With `pin` and `window`; scored, as pinned windows are.
    """
    window, drift, found = result.window, result.drift, result.features
    assert window is not None  # noqa: S101  (narrowing: who pins gives the window)
    assert drift is not None  # noqa: S101  (likewise: it was scored)
    kept = window.samples[-MAX_SAMPLES:]
    samples, scale, offset = _as_int16(window, kept)
    skipped = window.samples.size - kept.size
    figures = {name: getattr(drift, name) for name in ("score", "limit", "level_ratio")}
    names = ("rms", "peak", "crest", "kurtosis", "velocity_mm_s")
    figures |= {name: getattr(found, name, None) for name in names}
    head = {
        "version": VERSION,
        "sensor_id": result.sensor_id,
        "asset": result.asset,
        "kind": result.pin.partition("|")[0],
        "place": result.pin,
        "start_ns": window.start_ns + round(skipped * 1e9 / window.sample_rate_hz),
        "end_ns": window.end_ns,
        "sample_rate_hz": window.sample_rate_hz,
        "unit": window.unit,
        "scale": scale,
        "offset": offset,
        "samples": kept.size,
        "of_samples": window.samples.size,
        "status": result.status,
        "model_id": drift.model_id,
        "reason": drift.reason,
        **{name: _finite(value) for name, value in figures.items()},
    }
    return json.dumps(head, allow_nan=False).encode() + b"\n" + samples.tobytes()


def _finite(value: float | None) -> float | None:
    return None if value is None or not isfinite(value) else float(value)


def _as_int16(window: Window, kept: NDArray[Any]) -> tuple[NDArray[np.int16], float, float]:
    """Samples, scale and offset."""
    if kept.dtype == np.int16:
        return kept.astype("<i2"), float(window.scale), float(window.offset)
    exact = kept.astype(np.float64)
    low, high = float(exact.min()), float(exact.max())
    step, middle = (high - low) / STEPS or 1.0, (high + low) / 2.0
    steps = np.rint((exact - middle) / step).astype("<i2")
    return steps, step * float(window.scale), middle * float(window.scale) + float(window.offset)


def snapshot_from_bytes(data: bytes) -> Snapshot:
    """Read back what `snapshot_to_bytes` wrote.

    Raises:
        BadSnapshot: for anything else, in words.
    """
    if len(data) > MAX_BYTES:
        raise BadSnapshot(f"a snapshot has at most {MAX_BYTES} bytes, got {len(data)}")
    line, _, body = data.partition(b"\n")
    try:
        facts = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadSnapshot(f"the first line is no JSON: {error}") from error
    if not isinstance(facts, dict) or facts.get("version") != VERSION:
        raise BadSnapshot(f"a snapshot must be of version {VERSION}")
    for name in TEXTS:
        if not is_text(facts.get(name)):
            raise BadSnapshot(f"{name} must be text, got {facts.get(name)!r:.50}")
    for name in (*NUMBERS, *FIGURES):
        _check_number(name, facts.get(name))
    kind, _, number = facts["place"].partition("|")
    known = kind == facts["kind"] and kind in PLACES
    if not known or number not in map(str, range(PLACES[kind])):
        raise BadSnapshot(f"place must be one of {PLACES}, got {facts['place']!r:.50}")
    count, of = facts.get("samples"), facts.get("of_samples")
    if type(count) is not int or type(of) is not int or not 2 <= count <= of:
        raise BadSnapshot(f"samples and of_samples must be counts from 2, got {count!r:.20}")
    if len(body) != 2 * count:
        raise BadSnapshot(f"{count} samples need {2 * count} bytes, got {len(body)}")
    return Snapshot(facts, np.frombuffer(body, "<i2").astype(np.int16))


def _check_number(name: str, value: object) -> None:
    if value is None and name in FIGURES:
        return
    if not is_finite(value) or (name == "sample_rate_hz" and not value > 0):  # type: ignore[operator]
        raise BadSnapshot(f"{name} must be a number, got {value!r:.50}")
    if name.endswith("_ns") and (type(value) is not int or value not in INT64):
        raise BadSnapshot(f"{name} must be an integer of 64 bits, got {value!r:.50}")


def is_text(value: object) -> bool:
    r"""Whether it is text that has a place in UTF-8: JSON can spell halves of characters.

    >>> is_text("Pump 3"), is_text("\ud800"), is_text(3)
    (True, False, False)
    """
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_finite(value: object) -> bool:
    """Whether it is a number that floats have, too: JSON has integers of any length.

    >>> is_finite(2.5), is_finite(10**400), is_finite(float("nan")), is_finite(True)
    (True, False, False, False)
    """
    try:
        return isinstance(value, int | float) and type(value) is not bool and isfinite(value)
    except OverflowError:
        return False
