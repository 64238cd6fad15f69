"""A seed in; messages that no worker can use, of every kind, each with the reason it must get, out.

Reasons are those of docs/topics.md, given here by hand and never by the code that is under test.
"""

import json
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.alarm_messages import transition_to_json
from pipeline.messages import SensorChunk, Transition
from pipeline.orders import new_order, order_to_json
from pipeline.sensor_chunk_pb2 import SensorChunk as Message
from pipeline.wire import JSON, MAX_BYTES, encode, encode_json

AT_NS = 1_767_592_800_000_000_000
"""2026-01-05: within the simulated plant's time."""
HOUR_NS = 3_600_000_000_000
AS_JSON = {"content-type": JSON.encode()}


@dataclass(frozen=True)
class Poison:
    """One message that must become a dead letter.

    Attributes:
        kind: What is wrong with it.
        reason: What the dead letter must say.
        topic: signals, commands or transitions.
        misplaced: It must not lie in its sensor's partition.
    """

    kind: str
    reason: str
    value: bytes | None
    headers: dict = field(default_factory=dict)
    topic: str = "signals"
    key: bytes | None = b"poison"
    misplaced: bool = False


def chunk(sensor_id, number=0, **changes):
    """A chunk that would be taken; `number` makes it one of its own."""
    samples = (np.arange(64) + number).astype("<i2")
    made = SensorChunk(
        sensor_id, 25_600.0, AT_NS + number, samples, seq=number + 1, encoding="i16", unit="g"
    )
    return replace(made, **changes)


def protobuf(good, **changes):
    """A chunk as protobuf with fields that `encode` would refuse."""
    message = Message.FromString(encode(good))
    for name, value in changes.items():
        setattr(message, name, value)
    return message.SerializeToString()


def as_json(good, *without, **changes):
    """A chunk as JSON, less some fields, with others that `encode_json` would refuse."""
    record = json.loads(encode_json(good, as_list=True)) | changes
    return json.dumps({k: v for k, v in record.items() if k not in without}).encode()


def of_protobuf(good, rng, now_ns):
    """(kind, reason, value) of protobuf messages."""
    whole, name = encode(good), good.sensor_id
    amid = whole.index(good.samples.tobytes()) + int(rng.integers(good.samples.nbytes))
    yield "truncated", "not_protobuf", whole[:amid]
    yield "garbage", "not_protobuf", b"\x07" + rng.bytes(int(rng.integers(1, 3000)))
    yield "text", "not_protobuf", b"<html>503 Service Unavailable</html>"
    yield "id not utf-8", "not_protobuf", b"\x0a\x04\xff\xfe\xfd\xfc" + whole
    yield "id as number", "bad_sensor_id", b"\x08\x05" + whole[2 + len(name.encode()) :]
    yield "empty", "bad_encoding", b""
    yield "tombstone", "bad_encoding", None
    yield "encoding left out", "bad_encoding", protobuf(good, encoding=0)
    yield "encoding unknown", "bad_encoding", protobuf(good, encoding=77)
    yield "no samples", "no_samples", protobuf(good, samples=b"")
    yield "half a sample", "sample_bytes", protobuf(good, samples=b"\x01\x02\x03")
    for rate_hz in (0.0, -25_600.0, float("nan"), float("inf"), 99.0, 1e7):
        yield f"rate {rate_hz}", "bad_rate", protobuf(good, sample_rate_hz=rate_hz)
    for start_ns in (0, -1, 2**63 - 1, now_ns + 2 * HOUR_NS, 631_151_999_000_000_000):
        yield (
            f"start {start_ns - now_ns > 0} {start_ns > 0}",
            "bad_start",
            protobuf(good, start_ns=start_ns),
        )
    for scale in (0.0, float("nan"), float("inf")):
        yield f"scale {scale}", "bad_scale", protobuf(good, scale=scale)
    yield "offset nan", "bad_scale", protobuf(good, offset=float("nan"))
    yield "unit long", "bad_unit", protobuf(good, unit="g" * 33)
    yield "unit bell", "bad_unit", protobuf(good, unit="g\x07")
    for wrong in (
        "", "../../etc/passwd", "plant/../admin", "plant/./x", "/plant/x", "plant/x/", "plant//x",
        "plant\\x", "plant/x\n", "plant/x\x00", "live|plant/x", "plänt/x", "plant/\u0430ir",
        "a" * 201, "plant/x,sensor=y", "{}", "*", "%s%n", " plant/x",
    ):  # fmt: skip
        yield f"id {wrong[:20]!r}", "bad_sensor_id", protobuf(good, sensor_id=wrong)


def of_json(good):
    """(kind, reason, value) of JSON messages."""
    yield "json cut", "not_json", as_json(good)[:-7]
    yield "json is protobuf", "not_json", encode(good)
    yield "json not utf-8", "not_json", as_json(good).replace(b"plant", b"pl\xe4nt")
    yield "json list", "not_json", b"[" + as_json(good) + b"]"
    yield "json null", "not_json", b"null"
    yield "json empty", "not_json", b""
    yield "json tombstone", "not_json", None
    yield "json deep", "not_json", b"[" * 100_000
    yield "json no id", "bad_field", as_json(good, "sensor_id")
    yield "json no rate", "bad_field", as_json(good, "sample_rate_hz")
    yield "json no start", "bad_field", as_json(good, "start_ns")
    yield "json no samples", "bad_field", as_json(good, "samples")
    yield "json rate as text", "bad_field", as_json(good, sample_rate_hz="fast")
    yield "json start as float", "bad_field", as_json(good, start_ns=1.5e18)
    yield "json seq negative", "bad_field", as_json(good, seq=-1)
    yield "json seq beyond 64 bit", "bad_field", as_json(good, seq=2**64)
    yield "json flags negative", "bad_field", as_json(good, flags=-1)
    yield "json samples of words", "bad_field", as_json(good, samples=["1", "2"])
    yield "json rate nan", "bad_rate", as_json(good, sample_rate_hz=float("nan"))
    yield "json encoding unknown", "bad_encoding", as_json(good, encoding="i12")
    yield "json sample too large", "sample_range", as_json(good, samples=[1, 40_000])
    yield "json base64 broken", "sample_bytes", as_json(good, samples="AA*=")
    yield "json base64 odd", "sample_bytes", as_json(good, samples="AAEC")
    yield "json no sample", "no_samples", as_json(good, samples=[])
    yield "json scale 0", "bad_scale", as_json(good, scale=0)
    yield "json unit list", "bad_field", as_json(good, unit=["g"])
    yield "json id with dots", "bad_sensor_id", as_json(good, sensor_id="plant/../x")
    yield "json start 1970", "bad_start", as_json(good, start_ns=0)


def of_orders(known, number):
    """(kind, value) of what is no order."""
    good = json.loads(order_to_json(new_order(known, "ack", by="eva", at_ns=AT_NS + number)))

    def order(*without, **changes):
        record = good | {"order_id": None} | changes
        kept = {k: v for k, v in record.items() if k not in without and v is not None}
        return json.dumps(kept).encode()

    yield "order no json", f"ack {known}".encode()
    yield "order not utf-8", b"\xff\xfe" + order()
    yield "order list", b"[]"
    yield "order version", order(version=2)
    yield "order unknown action", order(action="explode")
    yield "order unknown sensor", order(sensor_id="plant/nowhere/at/all")
    yield "order sensor path", order(sensor_id="../../x")
    yield "order nobody", order("by")
    yield "order blank name", order(by="  ")
    yield "order no why", order(action="rebaseline")
    yield "order no time", order("at_ns")
    yield "order shelve for ever", order(action="shelve", why="x", shelve_s=1e9)
    yield "order wrong id", order(order_id="0" * 16)
    yield "order huge", order(why="x" * 10_000)


def of_transitions(known, number):
    """(kind, value) of what is no transition."""
    good = json.loads(
        transition_to_json(
            Transition(
                transition_id=f"{known}|{number}|alarm|raise",
                sensor_id=known,
                asset="plant/poisoned",
                at_ns=AT_NS + number,
                since_ns=AT_NS,
                before="ok",
                after="alarm",
                action="raise",
                acked=False,
                latched=False,
                shelved_until_ns=0,
                reason="drift",
                value=9.0,
                limit=1.0,
                band_hz=(0.0, 0.0),
                band_share=0.0,
                by="",
                why="",
            )
        )
    )

    def transition(*without, **changes):
        return json.dumps({k: v for k, v in (good | changes).items() if k not in without}).encode()

    yield "transition no json", b"alarm!"
    yield "transition empty", b""
    yield "transition tombstone", None
    yield "transition version", transition(version=99)
    for name in ("transition_id", "sensor_id", "asset", "at_ns", "before", "after", "action"):
        yield f"transition no {name}", transition(name)
    yield "transition unknown status", transition(after="broken")
    yield "transition unknown action", transition(action="explode")
    yield "transition value as text", transition(value="much")
    yield "transition band of one", transition(band_hz=[1.0])


def one_of_each(known, number, now_ns):
    """One message of every kind but the large ones.

    Args:
        known: Sensor that the workers watch.
        number: Makes the messages differ from those of another round.
        now_ns: Present time.
    """
    rng = np.random.default_rng(number)
    good = chunk(known, number)
    text = {"content-type": b"text/csv"}
    yield Poison("content type", "bad_content_type", encode(good), text)
    strange = {"content-type": rng.bytes(40)}
    yield Poison("content type of bytes", "bad_content_type", encode(good), strange)
    unknown = encode(chunk(f"plant/unknown/{number}/de", number))
    yield Poison("unknown sensor", "unknown_sensor", unknown, key=None)
    other = as_json(chunk(f"plant/other/{number}/de", number))
    yield Poison("json unknown sensor", "unknown_sensor", other, AS_JSON, key=b"\xff\x00")
    yield Poison("wrong partition", "wrong_partition", encode(good), misplaced=True)
    for kind, reason, value in of_protobuf(good, rng, now_ns):
        yield Poison(kind, reason, value)
    for kind, reason, value in of_json(good):
        yield Poison(kind, reason, value, AS_JSON)
    for kind, value in of_orders(known, number):
        yield Poison(kind, "bad_order", value, topic="commands")
    for kind, value in of_transitions(known, number):
        yield Poison(kind, "bad_transition", value, topic="transitions")


def large(number):
    """Messages beyond what a chunk may have, within what the broker takes."""
    body = bytes([number % 256]) * (MAX_BYTES + 1)
    yield Poison("large", "too_large", body)
    yield Poison("json large", "too_large", b'"' + body + b'"', AS_JSON)
