"""Laws of the wire format: what is read is what was sent, and nothing else comes in."""

import json
import random
from base64 import b64encode
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import sensor_chunk_pb2 as pb
from pipeline import wire
from pipeline.messages import FULL_SCALE, Encoding, Flags, SensorChunk
from pipeline.wire import BadChunk

ENCODINGS: tuple[Encoding, ...] = ("i16", "i24", "i32", "f32")
DTYPES = {"i16": np.int16, "i24": np.int32, "i32": np.int32, "f32": np.float32}
NOW_NS = 1_750_000_000 * 10**9


def make(encoding: Encoding = "i16", n: int = 7, **changes: object) -> SensorChunk:
    noise = np.random.default_rng(n).uniform(-1.0, 1.0, n)
    top = 1.0 if encoding == "f32" else FULL_SCALE[encoding]
    chunk = SensorChunk(
        sensor_id="plant/hall-2/pump.7:de_x",
        sample_rate_hz=97656.25,
        start_ns=NOW_NS,
        samples=(noise * top).astype(DTYPES[encoding]),
        seq=5,
        epoch=2,
        encoding=encoding,
        scale=-0.25,
        offset=1.5,
        unit="m/s²",
        flags=Flags.OVERLOAD | Flags.END_OF_CAPTURE,
    )
    return replace(chunk, **changes)  # type: ignore[arg-type]


def same(one: SensorChunk, two: SensorChunk) -> bool:
    return (
        all(
            getattr(one, field.name) == getattr(two, field.name)
            for field in fields(SensorChunk)
            if field.name != "samples"
        )
        and one.samples.dtype == two.samples.dtype
        and one.samples.tobytes() == two.samples.tobytes()
    )


def reason_of(data: bytes, **options: object) -> str:
    with pytest.raises(BadChunk) as caught:
        wire.decode(data, **options)  # type: ignore[arg-type]
    assert caught.value.reason in wire.REASONS
    return caught.value.reason


def bounds(encoding: Encoding) -> st.SearchStrategy[object]:
    if encoding == "f32":
        return st.floats(width=32, allow_nan=False, allow_infinity=False)
    top = int(FULL_SCALE[encoding])
    return st.integers(-top - 1, top)


@st.composite
def chunks(draw: st.DrawFn) -> SensorChunk:
    encoding = draw(st.sampled_from(ENCODINGS))
    numbers = draw(st.lists(bounds(encoding), min_size=1, max_size=20))
    return SensorChunk(
        sensor_id="/".join(
            draw(
                st.lists(
                    st.from_regex(r"[A-Za-z0-9_:-]{1,9}", fullmatch=True), min_size=1, max_size=4
                )
            )
        ),
        sample_rate_hz=draw(st.floats(wire.MIN_RATE_HZ, wire.MAX_RATE_HZ)),
        start_ns=draw(st.integers(wire.EARLIEST_NS, wire.LATEST_NS - 10**10)),
        samples=np.array(numbers, dtype=DTYPES[encoding]),
        seq=draw(st.integers(0, 2**64 - 1)),
        epoch=draw(st.integers(0, 2**64 - 1)),
        encoding=encoding,
        scale=draw(st.floats(allow_nan=False, allow_infinity=False).filter(bool)),
        offset=draw(st.floats(allow_nan=False, allow_infinity=False)),
        unit=draw(st.sampled_from(["g", "m/s²", "µm", "unknown"])),
        flags=Flags(draw(st.integers(0, 2**32 - 1))),
    )


@settings(max_examples=150, deadline=None)
@given(chunks())
def test_what_is_read_is_what_was_sent(chunk: SensorChunk) -> None:
    assert same(wire.decode(wire.encode(chunk)), chunk)
    assert same(wire.decode_json(wire.encode_json(chunk)), chunk)
    assert same(wire.decode_json(wire.encode_json(chunk, as_list=True)), chunk)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_extremes_of_every_encoding_survive(encoding: Encoding) -> None:
    top = 3.4e38 if encoding == "f32" else FULL_SCALE[encoding]
    numbers = np.array([-top, -1, 0, 1, top]).astype(DTYPES[encoding])
    if encoding != "f32":
        numbers[0] -= 1
    chunk = make(encoding, samples=numbers)
    assert same(wire.decode(wire.encode(chunk)), chunk)
    assert same(wire.decode_json(wire.encode_json(chunk)), chunk)


def test_bytes_on_the_wire_are_little_endian_and_packed() -> None:
    chunk = make("i24", samples=np.array([1, -2, 0x123456], dtype=np.int32))
    message = pb.SensorChunk.FromString(wire.encode(chunk))
    assert message.samples == bytes.fromhex("010000 feffff 563412")


@pytest.mark.parametrize("encoding", ["i16", "i32", "f32"])
def test_samples_are_viewed_not_copied(encoding: Encoding) -> None:
    assert not wire.decode(wire.encode(make(encoding))).samples.flags.owndata


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_truncation_gives_a_chunk_or_the_named_error(encoding: Encoding) -> None:
    for data, kind in (
        (wire.encode(make(encoding)), wire.PROTOBUF),
        (wire.encode_json(make(encoding)), wire.JSON),
        (wire.encode_json(make(encoding), as_list=True), wire.JSON),
    ):
        for length in range(len(data)):
            check_total(data[:length], kind)


def check_total(data: bytes, kind: str) -> str:
    try:
        chunk = wire.decode(data, content_type=kind, now_ns=NOW_NS)
    except BadChunk as refusal:
        error = refusal
    else:
        assert chunk.samples.size > 0
        assert chunk.end_ns > chunk.start_ns
        return "chunk"
    assert error.reason in wire.REASONS
    assert len(str(error)) < 600
    return error.reason


def mutate(data: bytes, dice: random.Random) -> bytes:
    raw = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(raw))
        match dice.randrange(4):
            case 0:
                raw[at] ^= 1 << dice.randrange(8)
            case 1:
                raw[at] = dice.randrange(256)
            case 2:
                raw[at:at] = dice.randbytes(dice.randint(1, 9))
            case _:
                del raw[at : at + dice.randint(1, 9)]
        if not raw:
            return b""
    return bytes(raw)


def test_ten_thousand_mutations_give_a_chunk_or_the_named_error() -> None:
    dice = random.Random(7)  # noqa: S311  (a test wants the same dice every time)
    seeds = [
        (write(make(encoding, n=12)), kind)
        for encoding in ENCODINGS
        for write, kind in (
            (wire.encode, wire.PROTOBUF),
            (wire.encode_json, wire.JSON),
            (lambda chunk: wire.encode_json(chunk, as_list=True), wire.JSON),
        )
    ]
    outcomes = set()
    for turn in range(10_000):
        data, kind = seeds[turn % len(seeds)]
        outcomes.add(check_total(mutate(data, dice), kind))
    assert {"chunk", "not_protobuf", "not_json", "bad_encoding", "sample_bytes"} <= outcomes


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([field.name for field in fields(SensorChunk)]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=8)
        | st.lists(st.none() | st.integers() | st.floats() | st.lists(st.none()), max_size=3),
        max_size=4,
    )
)
def test_any_json_value_in_any_field_gives_a_chunk_or_the_named_error(
    changes: dict[str, object],
) -> None:
    record = json.loads(wire.encode_json(make())) | changes
    check_total(json.dumps(record).encode(), wire.JSON)


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("bad_sensor_id", {"sensor_id": ""}),
        ("bad_sensor_id", {"sensor_id": "/a"}),
        ("bad_sensor_id", {"sensor_id": "a/"}),
        ("bad_sensor_id", {"sensor_id": "a//b"}),
        ("bad_sensor_id", {"sensor_id": "a/../b"}),
        ("bad_sensor_id", {"sensor_id": ".."}),
        ("bad_sensor_id", {"sensor_id": "a b"}),
        ("bad_sensor_id", {"sensor_id": "a\n"}),
        ("bad_sensor_id", {"sensor_id": "pümpe"}),
        ("bad_sensor_id", {"sensor_id": "a" * 201}),
        ("bad_rate", {"sample_rate_hz": 0.0}),
        ("bad_rate", {"sample_rate_hz": -1.0}),
        ("bad_rate", {"sample_rate_hz": 1e-300}),
        ("bad_rate", {"sample_rate_hz": float("nan")}),
        ("bad_rate", {"sample_rate_hz": float("inf")}),
        ("bad_rate", {"sample_rate_hz": 1_000_001.0}),
        ("bad_start", {"start_ns": 0}),
        ("bad_start", {"start_ns": -(2**63)}),
        ("bad_start", {"start_ns": 2**63 - 1}),
        ("bad_encoding", {"encoding": pb.ENCODING_UNSPECIFIED}),
        ("bad_encoding", {"encoding": 99}),
        ("no_samples", {"samples": b""}),
        ("sample_bytes", {"samples": b"abc"}),
        ("sample_bytes", {"samples": b"abcd", "encoding": pb.ENCODING_I24}),
        ("bad_scale", {"scale": 0.0}),
        ("bad_scale", {"scale": float("inf")}),
        ("bad_scale", {"offset": float("nan")}),
        ("bad_unit", {"unit": "u" * 33}),
        ("bad_unit", {"unit": "g\n"}),
    ],
)
def test_each_breach_has_its_reason(reason: str, change: dict[str, object]) -> None:
    message = pb.SensorChunk.FromString(wire.encode(make()))
    for name, value in change.items():
        setattr(message, name, value)
    assert reason_of(message.SerializeToString()) == reason


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("not_json", b""),
        ("not_json", b"\xff\xfe"),
        ("not_json", b"[" * 100_000),
        ("not_json", b"[]"),
        ("not_json", b"1" * 10_000),
        ("bad_encoding", b"{}"),
        ("bad_encoding", b'{"encoding": "i8"}'),
        ("bad_field", b'{"encoding": "i16"}'),
    ],
)
def test_json_that_is_no_chunk_has_its_reason(reason: str, text: bytes) -> None:
    assert reason_of(text, content_type=wire.JSON) == reason


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("bad_field", {"start_ns": 1.5e18}),
        ("bad_field", {"seq": -1}),
        ("bad_field", {"seq": 2**64}),
        ("bad_field", {"flags": True}),
        ("bad_field", {"scale": "1"}),
        ("bad_field", {"sample_rate_hz": 10**400}),
        ("bad_field", {"samples": [1, 2.5]}),
        ("bad_field", {"samples": [1, None]}),
        ("sample_range", {"samples": [32768]}),
        ("sample_range", {"samples": [2**23], "encoding": "i24"}),
        ("sample_range", {"samples": [1e39], "encoding": "f32"}),
        ("sample_range", {"samples": [10**400], "encoding": "f32"}),
        ("sample_bytes", {"samples": "no base64!"}),
        ("sample_bytes", {"samples": b64encode(b"abc").decode()}),
        ("no_samples", {"samples": []}),
    ],
)
def test_each_breach_of_the_json_twin_has_its_reason(
    reason: str, change: dict[str, object]
) -> None:
    record = json.loads(wire.encode_json(make())) | change
    assert reason_of(json.dumps(record).encode(), content_type=wire.JSON) == reason


def test_smallest_json_chunk_needs_no_more_than_who_when_how_fast_and_what() -> None:
    record = {"sensor_id": "a", "sample_rate_hz": 100, "start_ns": str(NOW_NS), "samples": [1, 2.5]}
    chunk = wire.decode(json.dumps(record).encode(), content_type="Application/JSON; charset=utf-8")
    assert (chunk.encoding, chunk.unit, chunk.scale, chunk.offset) == ("f32", "unknown", 1.0, 0.0)
    assert (chunk.start_ns, chunk.samples.tolist()) == (NOW_NS, [1.0, 2.5])


def test_an_absent_scale_is_one_and_an_absent_unit_is_unknown() -> None:
    message = pb.SensorChunk(
        sensor_id="a", sample_rate_hz=100, start_ns=NOW_NS, encoding=pb.ENCODING_I16, samples=b"ab"
    )
    chunk = wire.decode(message.SerializeToString())
    assert (chunk.scale, chunk.offset, chunk.unit) == (1.0, 0.0, "unknown")


def test_fields_of_later_versions_and_unknown_flags_are_tolerated() -> None:
    later = wire.encode(make(flags=Flags(1 << 31 | 1))) + b"\xfa\x3e\x03abc"  # field 1007
    assert wire.decode(later).flags == 1 << 31 | 1
    record = json.loads(wire.encode_json(make())) | {"site": "north"}
    assert same(wire.decode_json(json.dumps(record).encode()), make())


def test_size_is_refused_before_anything_is_parsed() -> None:
    assert reason_of(bytes(wire.MAX_BYTES + 1)) == "too_large"
    with pytest.raises(BadChunk, match="send shorter chunks"):
        wire.encode(make(n=wire.MAX_BYTES // 2))
    wire.encode(make(n=wire.MAX_BYTES // 2 - 100))


def test_unknown_content_type_names_the_known_ones() -> None:
    with pytest.raises(BadChunk, match=r"application/json.*text/plain"):
        wire.decode(b"", content_type="text/plain")


def test_the_future_is_bounded_only_where_the_caller_tells_the_time() -> None:
    data = wire.encode(make(start_ns=NOW_NS + 2 * wire.MAX_AHEAD_NS))
    assert reason_of(data, now_ns=NOW_NS) == "bad_start"
    assert wire.decode(data).start_ns > NOW_NS
    assert wire.decode(data, now_ns=NOW_NS, ahead_ns=3 * wire.MAX_AHEAD_NS).start_ns > NOW_NS
    assert reason_of(data, earliest_ns=wire.LATEST_NS) == "bad_start"


def test_a_chunk_of_another_dtype_or_shape_is_refused() -> None:
    for samples in (np.zeros(3), np.zeros((2, 2), np.int16), np.zeros(3, np.int32)):
        with pytest.raises(BadChunk) as caught:
            wire.validate(make("i16", samples=samples))
        assert caught.value.reason == "bad_encoding"
    with pytest.raises(BadChunk) as caught:
        wire.encode(make("i24", samples=np.array([2**23], dtype=np.int32)))
    assert caught.value.reason == "sample_range"


def test_validate_hands_the_same_chunk_on() -> None:
    chunk = make()
    assert wire.validate(chunk) is chunk


@pytest.mark.parametrize("flags", [-1, 2**40])
def test_json_flags_out_of_range_are_refused(flags):
    record = {**json.loads(wire.encode_json(make())), "flags": flags}
    with pytest.raises(BadChunk) as caught:
        wire.decode_json(json.dumps(record).encode())
    assert caught.value.reason == "bad_field"


def test_samples_that_are_no_numbers_pass_for_the_health_check_to_name():
    samples = np.array([1.0, np.nan, -np.inf], np.float32)
    chunk = SensorChunk("s", 1000.0, 1_700_000_000 * 10**9, samples)
    for decoded in (
        wire.decode(wire.encode(chunk)),
        wire.decode_json(wire.encode_json(chunk)),
    ):
        np.testing.assert_array_equal(decoded.samples, samples)
