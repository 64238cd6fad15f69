import threading
import time
import uuid

import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import KafkaConsumer, TopicPartition

from connectors import kafka as admin
from connectors.kafka import Span, Topic
from connectors.kafka_access import Access, KafkaTrouble
from connectors.kafka_records import Record, first_times, partition_of, read_topic, send

DEADLINE_S = 30.0


@pytest.fixture
def access(kafka):
    return Access((kafka.bootstrap,))


def unique(word="topic"):
    return f"{word}-{uuid.uuid4().hex[:12]}"


def new_topic(access, partitions=3, **config):
    name = unique()
    settings = {key.replace("_", "."): value for key, value in config.items()}
    admin.create(access, [Topic(name, partitions, 1, settings)])
    return name


def record(key, value=b"", partition=None, at_ms=None):
    return Record(partition, -1, key, value, at_ms)


class Member:
    """A consumer that joins a group and stays until it is told to go."""

    def __init__(self, kafka, group, topic):
        self._leave = threading.Event()
        self.joined = threading.Event()
        self._thread = threading.Thread(target=self._stay, args=(kafka.bootstrap, group, topic))
        self._thread.start()

    def _stay(self, bootstrap, group, topic):
        consumer = KafkaConsumer(
            topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest"
        )
        while not self._leave.is_set():
            consumer.poll(timeout_ms=100)
            if consumer.assignment():
                self.joined.set()
        consumer.close()

    def __enter__(self):
        assert self.joined.wait(DEADLINE_S)
        return self

    def __exit__(self, *_):
        self._leave.set()
        self._thread.join(DEADLINE_S)


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=80), st.integers(1, 100))
def test_a_key_lies_where_the_stream_engine_would_put_it(key, partitions):
    every = list(range(partitions))
    assert partition_of(key, partitions) == DefaultPartitioner()(key, every, every)


def test_a_topic_is_made_once_and_described_as_it_was_made(access):
    name = unique()
    wanted = Topic(name, 3, 1, {"retention.ms": "123456", "cleanup.policy": "compact"})
    admin.create(access, [wanted])
    admin.create(access, [Topic(name, 7, 1, {})])  # is left as it is
    found = admin.topics(access, [name])
    assert list(found) == [name]
    assert (found[name].partitions, found[name].replication) == (3, 1)
    assert wanted.config.items() <= found[name].config.items()
    assert name in admin.topics(access)
    assert "__consumer_offsets" not in admin.topics(access)


def test_more_copies_than_brokers_are_refused_in_words(access):
    with pytest.raises(KafkaTrouble, match="only 1 broker"):
        admin.create(access, [Topic(unique(), 1, 3, {})])
    assert admin.brokers(access) == 1


def test_settings_change_and_those_not_named_stay(access):
    name = new_topic(access, retention_ms="1000000", segment_ms="500000")
    admin.configure(access, {name: {"retention.ms": "2000000"}})
    config = admin.topics(access, [name])[name].config
    assert (config["retention.ms"], config["segment.ms"]) == ("2000000", "500000")
    with pytest.raises(KafkaTrouble, match=f"{name}.*Invalid value"):
        admin.configure(access, {name: {"retention.ms": "soon"}})


def test_a_topic_grows(access):
    name = new_topic(access, 2)
    admin.grow(access, {name: 5})
    assert admin.topics(access, [name])[name].partitions == 5


def test_what_is_sent_is_read_back_in_order_and_in_its_partition(access):
    name = new_topic(access)
    sent = [record(f"k{i % 50}".encode(), f"v{i}".encode(), at_ms=10**12 + i) for i in range(2500)]
    assert send(access, name, sent) == 2500
    found = list(read_topic(access, name))
    assert len(found) == 2500
    for key in {one.key for one in sent}:
        mine = [one for one in found if one.key == key]
        assert [one.value for one in mine] == [one.value for one in sent if one.key == key]
        assert {one.partition for one in mine} == {partition_of(key, 3)}
    assert {(one.value, one.timestamp_ms) for one in found} == {
        (one.value, one.timestamp_ms) for one in sent
    }


def test_a_record_goes_to_the_partition_it_names_and_a_tombstone_is_one(access):
    name = new_topic(access)
    send(access, name, [record(b"k", b"v", partition=p) for p in (2, 0)] + [record(b"k", None, 1)])
    found = {one.partition: one.value for one in read_topic(access, name)}
    assert found == {0: b"v", 1: None, 2: b"v"}


def test_a_state_of_sixteen_megabytes_travels(access):
    name = new_topic(access, 1, max_message_bytes=str(16 << 20))
    value = bytes(16 << 20)[:-1000]
    send(access, name, [record(b"k", value)])
    assert [len(one.value) for one in read_topic(access, name)] == [len(value)]


def test_a_record_that_is_too_large_is_refused_in_words(access):
    name = new_topic(access, 1, max_message_bytes="1000")
    with pytest.raises(KafkaTrouble, match="TooLarge"):
        send(access, name, [record(b"k", bytes(5000))])


def test_reading_ends_where_the_topic_ended_when_it_began(access):
    name = new_topic(access, 1)
    values = [bytes(3000) + b"%d" % i for i in range(1500)]  # more than is fetched at once
    send(access, name, [record(b"k", value) for value in values])
    reading = read_topic(access, name)
    first = next(reading)
    send(access, name, [record(b"k", b"later")])
    assert [first.value, *(one.value for one in reading)] == values


def test_an_empty_topic_ends_at_once(access):
    assert list(read_topic(access, new_topic(access))) == []


def test_a_topic_that_is_not_there_is_named_with_its_remedy(access):
    for ask in (
        lambda: admin.spans(access, ["none-such"]),
        lambda: admin.offsets_at(access, ["none-such"], 0),
        lambda: next(read_topic(access, "none-such")),
    ):
        with pytest.raises(KafkaTrouble, match=r"no such topic \(none-such\).*topics create"):
            ask()


def test_sending_to_a_topic_that_is_not_there_ends_in_words(access):
    for partition in (None, 0):
        with pytest.raises(KafkaTrouble, match=r"Kafka at 127\.0\.0\.1"):
            send(access, "none-such", [record(b"k", b"v", partition)], timeout_s=1.0)


def test_spans_and_times_are_those_of_the_records(access):
    name = new_topic(access, 2)
    send(access, name, [record(b"k", b"v", 0, 1000 * i) for i in range(1, 6)])
    assert admin.spans(access, [name]) == {(name, 0): Span(0, 5), (name, 1): Span(0, 0)}
    assert admin.offsets_at(access, [name], 2500) == {(name, 0): 2, (name, 1): None}
    assert admin.offsets_at(access, [name], 3000) == {(name, 0): 2, (name, 1): None}
    assert admin.offsets_at(access, [name], 5001) == {(name, 0): None, (name, 1): None}
    assert first_times(access, {(name, 0): 3}) == {(name, 0): 4000}


def test_an_unknown_group_is_dead_and_one_with_offsets_is_empty(access):
    name, topic = unique("group"), new_topic(access)
    assert not admin.group(access, name).exists
    admin.commit(access, name, {(topic, 0): 0, (topic, 2): 0})
    found = admin.group(access, name)
    assert (found.exists, found.state, found.members) == (True, "Empty", 0)
    assert found.committed == {(topic, 0): 0, (topic, 2): 0}


def test_offsets_of_a_live_group_are_refused(kafka, access):
    topic, group = new_topic(access), unique("group")
    with Member(kafka, group, topic):
        found = admin.group(access, group)
        assert (found.state, found.members) == ("Stable", 1)
        with pytest.raises(KafkaTrouble, match=r"3 of 3 offsets.*is a worker running"):
            admin.commit(access, group, {(topic, partition): 0 for partition in range(3)})


def test_a_broker_that_is_away_is_said_so_in_time():
    started = time.monotonic()
    with pytest.raises(KafkaTrouble, match=r"127\.0\.0\.1:1 cannot be reached: connection refused"):
        admin.topics(Access(("127.0.0.1:1",)), timeout_s=1.0)
    assert time.monotonic() - started < 5.0


def test_no_thread_and_no_client_is_left_behind(access):
    before = threading.active_count()
    name = new_topic(access)
    send(access, name, [record(b"k", b"v")])
    assert len(list(read_topic(access, name))) == 1
    with pytest.raises(KafkaTrouble):
        admin.topics(Access(("127.0.0.1:1",)), timeout_s=0.5)
    deadline = time.monotonic() + DEADLINE_S
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() == before


def test_reading_a_topic_whose_broker_goes_away_ends_in_words(kafka_own):
    access = Access((kafka_own.bootstrap,))
    name = new_topic(access, 1)
    send(access, name, [record(b"k", bytes(100_000)) for _ in range(100)])
    reading = read_topic(access, name, timeout_s=2.0)
    next(reading)
    kafka_own.kill()
    with pytest.raises(KafkaTrouble):
        list(reading)


def test_consumers_that_only_look_leave_offsets_alone(kafka, access):
    topic, group = new_topic(access, 1), unique("group")
    send(access, topic, [record(b"k", b"v")] * 3)
    admin.commit(access, group, {(topic, 0): 1})
    list(read_topic(access, topic))
    first_times(access, {(topic, 0): 1})
    assert admin.group(access, group).committed == {(topic, 0): 1}
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=group)
    at = TopicPartition(topic, 0)
    consumer.assign([at])
    assert consumer.position(at) == 1
    consumer.close()
