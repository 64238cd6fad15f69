import urllib.error
import urllib.request
import uuid

from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient

from service_influx import DIRECT


def topic_with(bootstrap, *values):
    topic = f"kept-{uuid.uuid4().hex[:8]}"
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}})
    admin.close()
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for value in values:
        producer.send(topic, value).get(timeout=20)
    producer.close()
    return topic


def read(bootstrap, topic, count):
    consumer = KafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    try:
        return [next(consumer).value for _ in range(count)]
    finally:
        consumer.close()


def test_a_broker_comes_back_on_its_port_with_its_data(kafka_own):
    topic = topic_with(kafka_own.bootstrap, b"one", b"two")
    kafka_own.stop()
    kafka_own.start()
    assert read(kafka_own.bootstrap, topic, 2) == [b"one", b"two"]
    kafka_own.kill()
    kafka_own.start()
    assert read(kafka_own.bootstrap, topic, 2) == [b"one", b"two"]


def write(influx, bucket, lines, token=None):
    asked = f"{influx.url}/api/v2/write?org={influx.org}&bucket={bucket}"
    headers = {"Authorization": f"Token {token or influx.token}"}
    request = urllib.request.Request(asked, lines.encode(), headers)  # noqa: S310  (loopback)
    try:
        with DIRECT.open(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_influx_keeps_what_it_acknowledged_over_a_kill(influx_own):
    bucket = influx_own.new_bucket("kept")
    lines = "\n".join(f"score,sensor=a value={i} {1 + i}" for i in range(5000))
    assert write(influx_own, bucket, lines) == 204
    influx_own.kill()
    influx_own.start()
    rows = influx_own.query(bucket, "SELECT value FROM score GROUP BY sensor")
    assert [row["value"] for row in rows] == list(range(5000))
    assert rows[0] == {"sensor": "a", "time": 1, "value": 0}
    influx_own.stop()
    influx_own.start()
    assert influx_own.query(bucket, "SELECT count(value) FROM score")[0]["count"] == 5000


def test_a_token_opens_its_own_bucket_in_its_own_direction_only(influx):
    bucket, other = influx.new_bucket("mine"), influx.new_bucket("other")
    writer = influx.new_token(bucket, read=False)
    assert write(influx, bucket, "a b=1 1", writer) == 204
    assert write(influx, other, "a b=1 1", writer) in (403, 404)
    assert write(influx, bucket, "a b=1 1", influx.new_token(bucket, write=False)) == 403
