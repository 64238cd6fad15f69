"""A real Kafka, InfluxDB and worker processes in; what they made of a stream out."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from connectors.kafka_access import Access
from connectors.kafka_producer import ChunkProducer
from pipeline.alarm_messages import transition_from_json
from pipeline.services.topics import group_of, specs
from pipeline.settings import load
from service_process import free_port

ECHOWATCH = Path(sys.executable).with_name("echowatch")
DEADLINE_S = 120.0
LOG_LINES = 40


def wait_for(condition, what, deadline_s=DEADLINE_S, every_s=0.2):
    """What `condition` gives once it gives something."""
    until = time.monotonic() + deadline_s
    while True:
        if found := condition():
            return found
        if time.monotonic() > until:
            pytest.fail(f"waited {deadline_s:.0f} s for {what}")
        time.sleep(every_s)


@dataclass
class WorkerProcess:
    """One `echowatch worker`."""

    process: subprocess.Popen
    log: Path
    port: int

    @property
    def text(self):
        return self.log.read_text(encoding="utf-8")

    def get(self, path):
        """(status, body) of an endpoint; (0, '') while there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def ready(self):
        if self.process.poll() is not None:
            pytest.fail(f"worker ended with {self.process.returncode}:\n{self.text[-3000:]}")
        return self.get("/ready")[0] == 200

    def metric(self, name, **labels):
        """Sum of the samples of a metric that have these labels."""
        total = 0.0
        for line in self.get("/metrics")[1].splitlines():
            head, _, value = line.rpartition(" ")
            wanted = all(f'{key}="{label}"' in head for key, label in labels.items())
            if head.partition("{")[0] == name and wanted:
                total += float(value)
        return total

    def end(self, how=signal.SIGTERM, patience_s=30.0):
        """Send a signal and wait; give the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(patience_s)

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)


@dataclass
class Plant:
    """Topics, a bucket and workers of one test.

    Attributes:
        settings: Environment of the workers, beside the addresses.
    """

    kafka: object
    influx: object
    folder: Path
    partitions: int = 4
    settings: dict = field(default_factory=dict)
    workers: list = field(default_factory=list)

    def __post_init__(self):
        self.name = f"t{uuid.uuid4().hex[:10]}"
        self.bucket = self.influx.new_bucket(self.name)
        token = self.folder / f"{self.name}.token"
        token.write_text(self.influx.token, encoding="utf-8")
        kafka = {
            "BOOTSTRAP": self.kafka.bootstrap,
            "GROUP": self.name,
            "PARTITIONS": str(self.partitions),
        }
        names = ("SIGNALS", "TRANSITIONS", "ALARMS", "COMMANDS", "SNAPSHOTS", "DEAD_LETTERS")
        for topic in names:
            kafka[topic] = f"{self.name}.{topic.lower()}"
        self.environment = {f"ECHOWATCH_KAFKA__{k}": v for k, v in kafka.items()}
        self.environment |= {
            "ECHOWATCH_INFLUX__URL": self.influx.url,
            "ECHOWATCH_INFLUX__ORG": self.influx.org,
            "ECHOWATCH_INFLUX__BUCKET": self.bucket,
            "ECHOWATCH_INFLUX__TOKEN_FILE": str(token),
            "ECHOWATCH_WORKER__CHECKPOINT_S": "1",
            "ECHOWATCH_PROFILE": "accelerated",
            **self.settings,
        }
        self.conf = load(self.environment)
        self.access = Access((self.kafka.bootstrap,))
        self.admin = KafkaAdminClient(
            bootstrap_servers=self.kafka.bootstrap, reconnect_backoff_max_ms=1000
        )
        self.admin.create_topics({
            spec.name: {
                "num_partitions": spec.partitions,
                "replication_factor": 1,
                "configs": dict(spec.config),
            }
            for spec in specs(self.conf.kafka)
        })  # fmt: skip

    def start(self, *arguments, role="all", script=None, **environment):
        """Start a worker, or a script that ends up as one; give it at once."""
        port = free_port()
        log = self.folder / f"{self.name}-{len(self.workers)}.log"
        program = [ECHOWATCH] if script is None else [sys.executable, script]
        command = [*program, "worker", "--role", role, "--port", str(port), *arguments]
        with log.open("w", encoding="utf-8") as out:
            process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment, **environment},
            )
        self.workers.append(WorkerProcess(process, log, port))
        return self.workers[-1]

    def run(self, *arguments, deadline_s=DEADLINE_S):
        """Run a command of the command line; give its finished process."""
        return subprocess.run(
            [ECHOWATCH, *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )

    def send(self, chunks):
        """Send chunks as fast as Kafka takes them; give their number."""
        topic, number = self.conf.kafka.signals[0], 0
        with closing(ChunkProducer(self.access, topic, acked=lambda *_: None)) as producer:
            for number, chunk in enumerate(chunks, start=1):
                producer.send(number, chunk)
            assert producer.flush(60)
        return number

    def committed(self, role, topic):
        group = group_of(self.conf.kafka, role)
        try:
            found = self.admin.list_group_offsets(group)[group]
        except KafkaError:  # no coordinator yet, or the broker is away
            return {}
        return {p.partition: o.offset for p, o in found.items() if p.topic == topic}

    def ends(self, topic):
        with closing(KafkaConsumer(bootstrap_servers=self.kafka.bootstrap)) as consumer:
            numbers = consumer.partitions_for_topic(topic) or ()
            found = consumer.end_offsets([TopicPartition(topic, n) for n in numbers])
        return {p.partition: end for p, end in found.items() if end}

    def done(self, role, topic):
        """Whether everything in a topic is acknowledged."""
        return self.committed(role, topic) == self.ends(topic)

    def finish(self, deadline_s=DEADLINE_S):
        """Wait until all signals and then all transitions are acknowledged."""
        signals, transitions = self.conf.kafka.signals[0], self.conf.kafka.transitions
        for role, topic in (("signals", signals), ("cases", transitions)):
            wait_for(lambda: self.done(role, topic), f"all of {topic}", deadline_s)  # noqa: B023

    def records(self, topic):
        """All records of a topic, in order of partition and offset."""
        found = []
        with closing(KafkaConsumer(bootstrap_servers=self.kafka.bootstrap)) as consumer:
            for number, end in self.ends(topic).items():
                partition = TopicPartition(topic, number)
                consumer.assign([partition])
                consumer.seek_to_beginning(partition)
                while consumer.position(partition) < end:
                    for records in consumer.poll(1000).values():
                        found += records
        return found

    def transitions(self):
        """Every transition sent, without repeats, by id."""
        records = self.records(self.conf.kafka.transitions)
        return {t.transition_id: t for t in (transition_from_json(r.value) for r in records)}

    def cases(self):
        """The newest record of every case that was not withdrawn."""
        newest = {r.key: json.loads(r.value) for r in self.records(self.conf.kafka.alarms)}
        return sorted(
            (case for case in newest.values() if not case.get("superseded_by")),
            key=lambda case: case["case_id"],
        )

    def letters(self):
        """Headers of every dead letter."""
        return [dict(r.headers) for r in self.records(self.conf.kafka.dead_letters)]

    def points(self, measurement):
        """All points of a measurement."""
        return self.influx.query(self.bucket, f'select * from "{measurement}"')  # noqa: S608

    def close(self):
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.thaw()
                worker.process.kill()
            worker.process.wait()
            # Shown where the test has failed: what went on in there is not to be seen otherwise.
            lines = "\n".join(line[:300] for line in worker.text.splitlines()[-LOG_LINES:])
            print(f"{worker.log.name}, ended with {worker.process.returncode}:\n{lines}")  # noqa: T201
        self.admin.close()
