import uuid
from contextlib import closing

import numpy as np
import pytest
from aiokafka.partitioner import murmur2
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import KafkaConsumer, TopicPartition

from connectors.kafka_access import Access, KafkaTrouble
from connectors.kafka_producer import ChunkProducer, DeliveryError
from connectors.kafka_records import partition_of
from connectors.kafka_tail import Span, TopicError, TopicView
from pipeline.messages import Flags, SensorChunk
from pipeline.wire import BadChunk, encode
from replay_cases import NOON_NS, access_to, key, new_topic, stored

ENCODINGS = {"i16": np.int16, "i24": np.int32, "i32": np.int32, "f32": np.float32}


def chunk(number, sensors=5, samples=100):
    encoding = list(ENCODINGS)[number % 4]
    return SensorChunk(
        sensor_id=f"plant/machine{number % sensors}/de",
        sample_rate_hz=1000.0 + number % 3 / 7,
        start_ns=NOON_NS + number * 10**8,
        samples=(np.arange(samples) * 37 + number - 999).astype(ENCODINGS[encoding]),
        seq=number // sensors,
        epoch=number % 2,
        encoding=encoding,
        scale=0.1 + number,
        offset=float(number),
        unit="m/s2",
        flags=Flags.END_OF_CAPTURE if number % 7 == 0 else Flags.NONE,
    )


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1, max_size=60), st.integers(1, 100))
def test_a_sensor_lies_where_the_stream_engine_would_put_it(name, partitions):
    theirs = (murmur2(name.encode()) & 0x7FFFFFFF) % partitions
    assert partition_of(name.encode(), partitions) == theirs


def test_every_chunk_arrives_bit_by_bit_in_order_and_in_its_sensors_partition(kafka):
    topic, receipts = new_topic(kafka), []
    chunks = [chunk(number) for number in range(300)]
    with closing(ChunkProducer(access_to(kafka), topic, acked=lambda *r: receipts.append(r))) as p:
        assert p.partitions == 3
        for number, one in enumerate(chunks):
            p.send(number, one)
        assert p.flush(30)
        assert p.inflight == 0
    found = stored(kafka, topic)
    for name in {one.sensor_id for one in chunks}:
        got = [key(c) for _, c in found if c.sensor_id == name]
        assert got == [key(c) for c in chunks if c.sensor_id == name]
    assert all(partition == partition_of(c.sensor_id.encode(), 3) for partition, c in found)
    assert sorted(number for number, _, _ in receipts) == list(range(300))
    for partition in range(3):
        mine = [(n, offset) for n, where, offset in receipts if where == partition]
        assert [offset for _, offset in mine] == list(range(len(mine)))
        assert sorted(mine) == mine


def test_a_message_has_the_sensor_as_key_and_says_its_format(kafka):
    topic = new_topic(kafka, partitions=1)
    with closing(ChunkProducer(access_to(kafka), topic, acked=lambda *_: None)) as producer:
        producer.send(0, chunk(3))
        assert producer.flush(30)
    with closing(KafkaConsumer(**access_to(kafka).options())) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        consumer.seek_to_beginning()
        message = next(consumer)
    assert message.key == b"plant/machine3/de"
    assert message.headers == [("content-type", b"application/x-protobuf")]
    assert message.value == encode(chunk(3))
    assert message.timestamp > 1_700_000_000_000  # when it was sent, not when it was measured


def test_an_outage_holds_back_only_so_much_and_loses_doubles_and_reorders_nothing(kafka_own):
    topic, receipts = new_topic(kafka_own), []
    access = access_to(kafka_own)
    made = ChunkProducer(
        access, topic, acked=lambda *r: receipts.append(r), max_inflight_bytes=10_000_000,
        max_inflight=40,
    )  # fmt: skip
    other, size = new_topic(kafka_own), len(encode(chunk(1, samples=1000)))
    narrow = ChunkProducer(access, other, acked=lambda *_: None, max_inflight_bytes=3 * size)
    with closing(made) as producer, closing(narrow):
        producer.send(0, chunk(0))
        assert producer.flush(30)
        kafka_own.kill()
        while narrow.has_room():
            narrow.send(0, chunk(1, samples=1000))
        assert narrow.inflight == 3
        for number in range(1, 41):
            producer.send(number, chunk(number))
        assert not producer.has_room(0.2)
        assert producer.inflight == 40
        assert producer.silence_s() > 0.1
        kafka_own.start()
        assert producer.flush(60)
        assert producer.has_room()
        assert producer.silence_s() == 0.0
    assert sorted(number for number, _, _ in receipts) == list(range(41))
    found = [c for _, c in stored(kafka_own, topic)]
    for name in {c.sensor_id for c in found}:
        assert [key(c) for c in found if c.sensor_id == name] == [
            key(chunk(n)) for n in range(41) if chunk(n).sensor_id == name
        ]


def test_a_chunk_that_breaks_the_contract_is_refused_before_it_counts(kafka):
    topic = new_topic(kafka, partitions=1)
    with closing(ChunkProducer(access_to(kafka), topic, acked=lambda *_: None)) as producer:
        with pytest.raises(BadChunk, match="bad_rate"):
            producer.send(0, SensorChunk("s", 1.0, NOON_NS, np.zeros(5, np.float32)))
        assert producer.inflight == 0


def test_a_message_that_the_broker_refuses_ends_the_sending(kafka):
    topic = new_topic(kafka, partitions=1, **{"max.message.bytes": "2000"})
    with closing(ChunkProducer(access_to(kafka), topic, acked=lambda *_: None)) as producer:
        producer.send(7, chunk(0, samples=2000))
        with pytest.raises(DeliveryError, match=r"refuses chunk 7 of plant/machine0/de"):
            producer.flush(30)
        with pytest.raises(DeliveryError):
            producer.send(8, chunk(0))


def test_a_missing_topic_and_a_missing_broker_are_told_in_words(kafka):
    missing = f"missing-{uuid.uuid4().hex[:8]}"
    with pytest.raises(TopicError, match=f"no topic {missing}.*topics create"):
        TopicView(access_to(kafka), missing)
    with pytest.raises(KafkaTrouble, match="cannot be reached"):
        TopicView(Access(("127.0.0.1:1",)), "any", patience_s=1.0)


def test_a_view_counts_what_a_group_has_still_to_read(kafka):
    topic, group = new_topic(kafka), f"g-{uuid.uuid4().hex[:8]}"
    access = access_to(kafka)
    with closing(ChunkProducer(access, topic, acked=lambda *_: None)) as producer:
        for number in range(50):
            producer.send(number, chunk(number))
        assert producer.flush(30)
    read = partition_of(b"plant/machine0/de", 3)
    with closing(TopicView(access, topic)) as view:
        assert view.settled() == view.spans()
        behind = view.spans()[read].end
        assert view.spans()[read] == Span(0, behind)
        assert view.lag(group) == 50
        options = {"group_id": group, "enable_auto_commit": False}
        with closing(KafkaConsumer(**access.options(), **options)) as consumer:
            consumer.assign([TopicPartition(topic, read)])
            consumer.seek(TopicPartition(topic, read), behind)
            consumer.commit()
        assert view.lag(group) == 50 - behind
