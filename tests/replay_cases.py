"""A broker -> topics of a test's own and what lies on them, for the tests of the replay."""

import uuid
from contextlib import closing
from pathlib import Path

import numpy as np
import soundfile as sf
from kafka.admin import KafkaAdminClient

from connectors.files import ReadOptions, read
from connectors.kafka_access import Access
from connectors.kafka_tail import TopicView
from pipeline.messages import NS_PER_S, SensorChunk

RATE_HZ = 8000
NOON_NS = 1_714_564_800 * 10**9
# Their partitions differ where there are three.
MACHINES = ("pump", "fan", "mill", "crane")


def access_to(kafka):
    return Access((kafka.bootstrap,), allow_plaintext=True)


def new_topic(kafka, partitions=3, **config):
    name = f"replay-{uuid.uuid4().hex[:10]}"
    with closing(KafkaAdminClient(**access_to(kafka).options())) as admin:
        spec = {"num_partitions": partitions, "replication_factor": 1, "configs": config}
        admin.create_topics({name: spec})
        admin.wait_for_topics([name])
    return name


def stored(kafka, topic):
    """(partition, chunk) of all that a topic holds, in order within each partition."""
    with closing(TopicView(access_to(kafka), topic)) as view:
        spans = view.spans()
        begin = {p: span.begin for p, span in spans.items()}
        end = {p: span.end for p, span in spans.items()}
        return [(partition, chunk) for partition, _, chunk in view.chunks(begin, end)]


def key(chunk: SensorChunk):
    """All of a chunk, comparable bit by bit."""
    return (
        chunk.sensor_id, chunk.epoch, chunk.seq, chunk.start_ns, chunk.sample_rate_hz,
        chunk.encoding, chunk.samples.dtype.str, chunk.samples.tobytes(), chunk.scale,
        chunk.offset, chunk.unit, int(chunk.flags),
    )  # fmt: skip


def by_sensor(chunks):
    """Sensor -> its chunks in order."""
    found: dict[str, list] = {}
    for chunk in chunks:
        found.setdefault(chunk.sensor_id, []).append(key(chunk))
    return found


def recordings(folder: Path, seconds=10.0, machines=MACHINES):
    """One 16-bit WAV per machine, beginning half a second after one another from noon on."""
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(machines):
        samples = np.random.default_rng(number).integers(-9999, 9999, round(RATE_HZ * seconds))
        stamp = f"20240501_12000{number // 2}.{5 * (number % 2)}"
        sf.write(folder / f"{name}_{stamp}.wav", samples.astype(np.int16), RATE_HZ)
    return folder


def expected(folder, **options):
    return list(read([folder], options=ReadOptions(**options)))


def chunk(number, sensor="s", step_ns=NS_PER_S // 2, **more):
    samples = np.full(50, number, np.int16)
    return SensorChunk(
        sensor, 100.0, NOON_NS + number * step_ns, samples, seq=number, encoding="i16", **more
    )
