"""A machine departs on a real Kafka: what `echowatch serve` shows of it."""

import json
import os
import re
import signal
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from connectors.kafka import Topic, create
from connectors.kafka_access import Access
from connectors.kafka_records import Record, send
from pipeline.messages import NS_PER_S, Flags, SensorChunk
from pipeline.serve.feed import Feed
from pipeline.serve.store import SnapshotStore
from pipeline.service_settings import Kafka
from pipeline.services.topics import specs
from pipeline.snapshots import snapshot_from_bytes
from serve_cases import DE, RATE, T0, TOKEN, message
from serve_cases import signal as turning
from service_process import free_port
from worker_cases import ECHOWATCH, Plant, wait_for

pytestmark = pytest.mark.stack

ASSET = "mill/wet_end/pump3"
SENSOR = f"{ASSET}/de"
LEARN, HEALTHY, SICK = 32, 60, 20
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class ServeProcess:
    """One `echowatch serve`."""

    process: subprocess.Popen
    log: Path
    port: int

    def get(self, path, token=TOKEN):
        """(status, text) of a page; (0, '') while there is none."""
        given = {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=given)
        try:
            with DIRECT.open(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def plant(kafka, influx, tmp_path):
    made = Plant(kafka, influx, tmp_path)
    yield made
    made.close()


@pytest.fixture
def serve(plant, tmp_path):
    secret = tmp_path / "serve.token"
    secret.write_text(TOKEN, encoding="utf-8")
    port, log = free_port(), tmp_path / "serve.log"
    environment = {"ECHOWATCH_SERVE__TOKEN_FILE": str(secret)}
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            [ECHOWATCH, "serve", "--port", str(port)],
            env={**os.environ, **plant.environment, **environment},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    made = ServeProcess(process, log, port)
    yield made
    if process.poll() is None:
        process.kill()
    process.wait()


def captures():
    for k in range(HEALTHY + SICK):
        yield SensorChunk(
            SENSOR, RATE, T0 + 10 * k * NS_PER_S, turning(worn=k >= HEALTHY, seed=k), seq=k,
            encoding="i16", scale=0.0005, unit="g", flags=Flags.END_OF_CAPTURE,
        )  # fmt: skip


def test_a_departure_is_on_its_page_beside_the_health_that_was_learnt(plant, serve):
    plant.environment["ECHOWATCH_LEARNING__MIN_WINDOWS"] = str(LEARN)
    worker = plant.start()
    plant.send(captures())
    plant.finish()
    (case,) = plant.cases()
    kept = {r.key: snapshot_from_bytes(r.value) for r in plant.records(plant.conf.kafka.snapshots)}
    assert {key.rpartition(b"|")[0] for key in kept} == {
        f"{SENSOR}|{kind}".encode() for kind in ("healthy", "now")
    }

    def shown():
        status, text = serve.get(f"/case.json?asset={ASSET}")
        return json.loads(text) if status == 200 and '"now": {' in text else None

    found = wait_for(shown, "the case on its page", 60)
    assert found["case"]["case_id"] == case["case_id"]
    (sensor,) = found["sensors"]
    assert sensor["now"]["end_ns"] >= case["opened_ns"] > sensor["healthy"]["end_ns"]
    assert sensor["now"]["peak"] > 2 * sensor["healthy"]["peak"]
    for place in (
        kept[f"{SENSOR}|{sensor[kind]['place']}".encode()] for kind in ("now", "healthy")
    ):
        assert place.samples.size == RATE
    _, page = serve.get(f"/case?id={case['case_id']}")
    for kind in ("now", "healthy"):
        assert len(re.findall(rf'class="(?:line|body) {kind}"', page)) == 3
    assert serve.get("/case?id=nobody")[0] == 404
    assert serve.get("/", token="x" * 20)[0] == 401
    status, text = serve.get("/health")
    assert (status, json.loads(text)["ok"]) == (200, True)
    assert serve.end() == 0
    assert TOKEN not in serve.log.read_text(encoding="utf-8")
    assert worker.end() == 0


def test_pages_go_on_where_kafka_was_away(kafka_own, monkeypatch):
    monkeypatch.setattr("pipeline.serve.feed.ASK_S", 0.5)
    monkeypatch.setattr("pipeline.serve.feed.AGAIN_S", 0.2)
    access, topics = Access((kafka_own.bootstrap,)), Kafka(partitions=1)
    store = SnapshotStore(10e6)
    feed = Feed(access, topics, store)
    feed.start()
    try:
        wait_for(lambda: "topics create" in str(feed.verdict().reasons), "the missing topics")
        create(access, [Topic(s.name, 1, 1, s.config) for s in specs(topics)])
        key, value = message(at_s=100.0)
        send(access, topics.snapshots, [Record(0, -1, key, value)])
        wait_for(lambda: feed.verdict().ok and store.pair(DE).now, "the first picture")
        kafka_own.stop()
        wait_for(lambda: not feed.verdict().ok, "the loss to be noticed")
        assert store.pair(DE).now is not None
        kafka_own.start()
        send(access, topics.snapshots, [Record(0, -1, key, None)])
        wait_for(lambda: feed.verdict().ok and store.pair(DE).now is None, "the deletion")
    finally:
        feed.stop()
