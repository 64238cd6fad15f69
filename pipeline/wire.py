"""Bytes in, a trusted `SensorChunk` out, and back.

The contract is `sensor_chunk.proto`; `application/json` is its twin for slow, simple sensors. All
that can be wrong with a message is checked here, once, and has one error with a machine-readable
reason. No clock is read: who wants to refuse timestamps from the future passes `now_ns`. NaN and
infinity among f32 samples pass: they are what a broken sensor sends, and the sensor's health has to
say so where people look, not a dead letter.
"""

import json
import math
import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import Any, Final, Literal, get_args

import numpy as np
from google.protobuf.message import DecodeError

from pipeline import sensor_chunk_pb2 as pb
from pipeline.messages import NS_PER_S, Encoding, Flags, Samples, SensorChunk

MAX_BYTES: Final = 900_000
"""Largest message, below the 1 MB default of Kafka brokers."""
MIN_RATE_HZ: Final = 100.0
"""Below this a hop of 10 ms holds no sample, so that no window can be formed."""
MAX_RATE_HZ: Final = 1e6
EARLIEST_NS: Final = 631_152_000 * NS_PER_S
"""1990-01-01: older timestamps are clocks that were never set."""
LATEST_NS: Final = 7_258_118_400 * NS_PER_S
"""2200-01-01: the bound where the caller gives no `now_ns`."""
MAX_AHEAD_NS: Final = 3600 * NS_PER_S
"""How far a sensor's clock may run ahead of `now_ns`."""
MAX_ID_LENGTH: Final = 200
MAX_UNIT_LENGTH: Final = 32

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"

Reason = Literal[
    "too_large",  # more than MAX_BYTES
    "bad_content_type",  # neither protobuf nor JSON
    "not_protobuf",  # the parser refused the bytes
    "not_json",  # no JSON object
    "bad_field",  # a JSON field is missing or has the wrong type; a counter is out of range
    "bad_sensor_id",  # charset, slashes or length
    "bad_rate",  # not finite, or outside MIN_RATE_HZ..MAX_RATE_HZ
    "bad_start",  # before 1990, or in the future
    "bad_encoding",  # unknown or unspecified, or not the encoding of these samples
    "no_samples",  # empty
    "sample_bytes",  # no whole number of samples
    "sample_range",  # a number does not fit the encoding
    "bad_scale",  # scale 0 or not finite, or offset not finite
    "bad_unit",  # too long or not printable
]
"""Every reason a message can be refused for; a label of metrics and of dead letters."""
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)

_ID = re.compile(r"[A-Za-z0-9._:-]+(/[A-Za-z0-9._:-]+)*")
_ENCODINGS: Final[dict[int, Encoding]] = {
    pb.ENCODING_I16: "i16",
    pb.ENCODING_I24: "i24",
    pb.ENCODING_I32: "i32",
    pb.ENCODING_F32: "f32",
}
_NUMBERS: Final = {encoding: number for number, encoding in _ENCODINGS.items()}
_WIRE_DTYPE: Final[dict[Encoding, str]] = {"i16": "<i2", "i24": "<i4", "i32": "<i4", "f32": "<f4"}
_WIDTH: Final[dict[Encoding, int]] = {"i16": 2, "i24": 3, "i32": 4, "f32": 4}
_REQUIRED: Final = object()


class BadChunk(ValueError):  # noqa: N818  (the name is the contract: it is what dead letters hold)
    """A message or chunk that breaks the contract.

    Attributes:
        reason: One of `REASONS`.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason


def decode(
    data: bytes,
    *,
    content_type: str = PROTOBUF,
    now_ns: int | None = None,
    earliest_ns: int = EARLIEST_NS,
    ahead_ns: int = MAX_AHEAD_NS,
) -> SensorChunk:
    """Parse and check one message.

    Args:
        data: The message value; its samples are viewed, not copied, where the encoding allows.
        content_type: `application/x-protobuf` or `application/json`, parameters ignored.
        now_ns: Present time; with it chunks that end later than `now_ns + ahead_ns` are refused.
        earliest_ns: Start times before this are refused.
        ahead_ns: Allowed lead of a sensor's clock, nanoseconds.

    Raises:
        BadChunk: for anything that breaks the contract, and nothing else.
    """
    if len(data) > MAX_BYTES:
        raise BadChunk("too_large", f"a message has at most {MAX_BYTES} bytes, got {len(data)}")
    kind = content_type.partition(";")[0].strip().lower()
    if kind in {PROTOBUF, "application/protobuf"}:
        chunk = _from_protobuf(data)
    elif kind == JSON:
        chunk = _from_json(data)
    else:
        raise BadChunk("bad_content_type", f"known are {PROTOBUF} and {JSON}, got {kind[:80]!r}")
    latest_ns = LATEST_NS if now_ns is None else now_ns + ahead_ns
    return validate(chunk, earliest_ns=earliest_ns, latest_ns=latest_ns)


def decode_json(
    data: bytes,
    *,
    now_ns: int | None = None,
    earliest_ns: int = EARLIEST_NS,
    ahead_ns: int = MAX_AHEAD_NS,
) -> SensorChunk:
    """Parse and check one message of the JSON twin; arguments and errors as in `decode`."""
    return decode(
        data, content_type=JSON, now_ns=now_ns, earliest_ns=earliest_ns, ahead_ns=ahead_ns
    )


def encode(chunk: SensorChunk) -> bytes:
    """Serialise a chunk as protobuf.

    Raises:
        BadChunk: where the chunk breaks the contract.
    """
    validate(chunk)
    message = pb.SensorChunk(
        sensor_id=chunk.sensor_id,
        sample_rate_hz=chunk.sample_rate_hz,
        start_ns=chunk.start_ns,
        seq=chunk.seq,
        epoch=chunk.epoch,
        encoding=_NUMBERS[chunk.encoding],  # type: ignore[arg-type]  # the stub wants the enum
        samples=_sample_bytes(chunk.samples, chunk.encoding),
        scale=chunk.scale,
        offset=chunk.offset,
        unit=chunk.unit,
        flags=int(chunk.flags),
    )
    return _within_size(message.SerializeToString())


def encode_json(chunk: SensorChunk, *, as_list: bool = False) -> bytes:
    """Serialise a chunk as JSON, samples as base64 or, for people to read, as a list.

    Raises:
        BadChunk: where the chunk breaks the contract.
    """
    validate(chunk)
    raw = _sample_bytes(chunk.samples, chunk.encoding)
    record = {
        "sensor_id": chunk.sensor_id,
        "sample_rate_hz": chunk.sample_rate_hz,
        "start_ns": chunk.start_ns,
        "seq": chunk.seq,
        "epoch": chunk.epoch,
        "encoding": chunk.encoding,
        "samples": chunk.samples.tolist() if as_list else b64encode(raw).decode(),
        "scale": chunk.scale,
        "offset": chunk.offset,
        "unit": chunk.unit,
        "flags": int(chunk.flags),
    }
    return _within_size(json.dumps(record).encode())


def validate(
    chunk: SensorChunk, *, earliest_ns: int = EARLIEST_NS, latest_ns: int = LATEST_NS
) -> SensorChunk:
    """Check a chunk that did not come over the wire, such as one read from a file.

    Args:
        chunk: Returned as it is.
        earliest_ns: First allowed start time.
        latest_ns: Last allowed end time.

    Raises:
        BadChunk: where the chunk breaks the contract.
    """
    _check_identity(chunk)
    rate_hz = chunk.sample_rate_hz
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:  # also false for nan
        raise BadChunk(
            "bad_rate", f"rate must be {MIN_RATE_HZ:.0f} Hz to {MAX_RATE_HZ:.0f} Hz, got {rate_hz}"
        )
    _check_samples(chunk)
    if chunk.start_ns < earliest_ns or chunk.end_ns > latest_ns:
        raise BadChunk(
            "bad_start",
            f"a chunk lies within {earliest_ns}..{latest_ns} ns since 1970, "
            f"got {chunk.start_ns}: check the sensor's clock",
        )
    if not (math.isfinite(chunk.scale) and math.isfinite(chunk.offset)) or chunk.scale == 0.0:
        raise BadChunk(
            "bad_scale",
            f"scale must be finite and not 0, offset finite, got {chunk.scale}, {chunk.offset}",
        )
    return chunk


def _check_identity(chunk: SensorChunk) -> None:
    name, unit = chunk.sensor_id, chunk.unit
    parts = name.split("/")
    if len(name) > MAX_ID_LENGTH or not _ID.fullmatch(name) or "." in parts or ".." in parts:
        raise BadChunk(
            "bad_sensor_id",
            f"1 to {MAX_ID_LENGTH} of A-Z a-z 0-9 . _ : - in parts joined by single slashes, "
            f"no part `.` or `..`, got {name[: MAX_ID_LENGTH + 1]!r}",
        )
    if not unit or len(unit) > MAX_UNIT_LENGTH or not unit.isprintable():
        raise BadChunk(
            "bad_unit",
            f"a unit has 1 to {MAX_UNIT_LENGTH} printable characters, "
            f"got {unit[: MAX_UNIT_LENGTH + 1]!r}",
        )
    for field, value, bits in (
        ("seq", chunk.seq, 64),
        ("epoch", chunk.epoch, 64),
        ("flags", int(chunk.flags), 32),
    ):
        if not 0 <= value < 1 << bits:
            raise BadChunk("bad_field", f"{field} must be an unsigned {bits} bit integer")


def _check_samples(chunk: SensorChunk) -> None:
    samples, encoding = chunk.samples, chunk.encoding
    if encoding not in _WIDTH:
        raise BadChunk("bad_encoding", f"known are {', '.join(_WIDTH)}, got {encoding!r}")
    if samples.ndim != 1 or samples.dtype != np.dtype(_WIRE_DTYPE[encoding]):
        raise BadChunk(
            "bad_encoding",
            f"{encoding} samples are (N,) {np.dtype(_WIRE_DTYPE[encoding])}, "
            f"got {samples.shape} {samples.dtype}",
        )
    if not samples.size:
        raise BadChunk("no_samples", "a chunk has at least one sample")
    if encoding == "i24" and not -(2**23) <= samples.min() <= samples.max() < 2**23:
        raise BadChunk("sample_range", "i24 samples lie within -2^23..2^23-1")


def _within_size(data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        raise BadChunk(
            "too_large",
            f"a message has at most {MAX_BYTES} bytes, got {len(data)}: send shorter chunks",
        )
    return data


def _from_protobuf(data: bytes) -> SensorChunk:
    message = pb.SensorChunk()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise BadChunk("not_protobuf", "no echowatch.v1.SensorChunk") from error
    encoding = _ENCODINGS.get(message.encoding)
    if encoding is None:
        raise BadChunk("bad_encoding", f"Encoding must be 1 to 4, got {int(message.encoding)}")
    return SensorChunk(
        sensor_id=message.sensor_id,
        sample_rate_hz=message.sample_rate_hz,
        start_ns=message.start_ns,
        samples=_samples(message.samples, encoding),
        seq=message.seq,
        epoch=message.epoch,
        encoding=encoding,
        scale=message.scale if message.HasField("scale") else 1.0,
        offset=message.offset,
        unit=message.unit or "unknown",
        flags=Flags(message.flags),
    )


def _samples(raw: bytes, encoding: Encoding) -> Samples:
    """Little-endian bytes -> (N,) ADC numbers; a view of `raw` but for i24."""
    if len(raw) % _WIDTH[encoding]:
        raise BadChunk(
            "sample_bytes", f"{encoding} takes {_WIDTH[encoding]} bytes each, got {len(raw)} bytes"
        )
    if encoding != "i24":
        stored: Samples = np.frombuffer(raw, dtype=_WIRE_DTYPE[encoding])
        return stored
    wide = np.empty((len(raw) // 3, 4), dtype=np.uint8)
    wide[:, 1:] = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 3)
    left_justified: np.ndarray[Any, np.dtype[np.int32]] = wide.view("<i4").ravel()
    left_justified >>= 8  # arithmetic shift: brings the sign down and drops the filling
    return left_justified


def _sample_bytes(samples: Samples, encoding: Encoding) -> bytes:
    """(N,) ADC numbers -> little-endian bytes."""
    raw = np.ascontiguousarray(samples, dtype=_WIRE_DTYPE[encoding])
    if encoding == "i24":
        return raw.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    return raw.tobytes()


def _from_json(data: bytes) -> SensorChunk:
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:  # bad UTF-8 is a ValueError too
        raise BadChunk("not_json", "the message is no JSON") from error
    if not isinstance(record, dict):
        raise BadChunk("not_json", f"a message is an object, got {type(record).__name__}")
    encoding = record.get("encoding", "f32" if isinstance(record.get("samples"), list) else None)
    if not isinstance(encoding, str) or encoding not in _WIDTH:
        raise BadChunk("bad_encoding", f"known are {', '.join(_WIDTH)}, got {str(encoding)[:80]!r}")
    return SensorChunk(
        sensor_id=_text(record, "sensor_id", _REQUIRED),
        sample_rate_hz=_number(record, "sample_rate_hz", _REQUIRED),
        start_ns=_integer(record, "start_ns", _REQUIRED),
        samples=_json_samples(record.get("samples"), encoding),
        seq=_integer(record, "seq", 0),
        epoch=_integer(record, "epoch", 0),
        encoding=encoding,
        scale=_number(record, "scale", 1.0),
        offset=_number(record, "offset", 0.0),
        unit=_text(record, "unit", "unknown") or "unknown",
        flags=_flags(_integer(record, "flags", 0)),
    )


def _flags(value: int) -> Flags:
    """Flags this version does not know are kept; a negative number is none at all."""
    if not 0 <= value < 2**32:
        raise BadChunk("bad_field", f"flags must lie in 0 .. 2^32 - 1, got {value}")
    return Flags(value)


def _json_samples(value: object, encoding: Encoding) -> Samples:
    if isinstance(value, str):
        try:
            return _samples(b64decode(value, validate=True), encoding)
        except (Base64Error, ValueError) as error:
            if isinstance(error, BadChunk):
                raise
            raise BadChunk("sample_bytes", "samples are no base64") from error
    allowed = (int, float) if encoding == "f32" else (int,)
    if not isinstance(value, list) or not all(type(item) in allowed for item in value):
        raise BadChunk("bad_field", f"samples: base64, or a list of numbers that are {encoding}")
    if encoding == "f32":
        try:
            exact = np.array(value, dtype=np.float64)
        except OverflowError as error:
            raise BadChunk("sample_range", "a sample does not fit f32") from error
        if np.any(np.isfinite(exact) & (np.abs(exact) > np.finfo(np.float32).max)):
            raise BadChunk("sample_range", "a sample does not fit f32")
        return exact.astype(np.float32)
    half = 1 << 8 * _WIDTH[encoding] - 1
    if value and not -half <= min(value) <= max(value) < half:
        raise BadChunk("sample_range", f"{encoding} samples lie within {-half}..{half - 1}")
    return np.array(value, dtype=_WIRE_DTYPE[encoding])


def _field(record: dict[str, Any], name: str, default: object) -> Any:
    value = record.get(name, default)
    if value is _REQUIRED:
        raise BadChunk("bad_field", f"{name} is missing")
    return value


def _text(record: dict[str, Any], name: str, default: object) -> str:
    value = _field(record, name, default)
    if not isinstance(value, str):
        raise BadChunk("bad_field", f"{name} must be a string")
    return value


def _number(record: dict[str, Any], name: str, default: object) -> float:
    value = _field(record, name, default)
    if type(value) not in {int, float}:
        raise BadChunk("bad_field", f"{name} must be a number")
    try:
        return float(value)
    except OverflowError as error:
        raise BadChunk("bad_field", f"{name} must be a number that a double can hold") from error


def _integer(record: dict[str, Any], name: str, default: object) -> int:
    value = _field(record, name, default)
    # A double holds no exact nanoseconds: JSON producers may send 64 bit integers as strings.
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}", value, re.ASCII):
        return int(value)
    if type(value) is not int:
        raise BadChunk("bad_field", f"{name} must be an integer, as number or string")
    return value
