"""A simulated plant of 60 sensors in; an InfluxDB bucket with six hours of it, ending now, out.

All of it went through a real Kafka and a real worker, which goes on running until the session ends.
Its story, and which machine ends how, is `pipeline.simulated_story`.
"""

import itertools
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from connectors.kafka_producer import ChunkProducer
from pipeline import live_alarms
from pipeline.fleet import Fleet, parse_fleet
from pipeline.messages import NS_PER_S
from pipeline.orders import new_order
from pipeline.simulated_fleet import fleet_yaml
from pipeline.simulated_life import Life
from pipeline.simulated_story import PLANT, SAYINGS
from worker_cases import Plant, WorkerProcess, wait_for

HISTORY_S = 6 * 3600.0
EVERY_S = 150.0
# Of 144 captures; the story is quiet for 51.
LEARNT_WINDOWS = 45
# The worker writes its own points every 10 s.
PIPELINE_S = 25.0


@dataclass
class BoardPlant:
    """What boards and rules are tested on.

    Attributes:
        bucket: Of the shared InfluxDB.
        start_ns, end_ns: All points lie between them.
        fleet: All sensors; `fleet_file` is where the worker reads them.
        plant: Topics and settings.
        worker: Still running.
    """

    bucket: str
    start_ns: int
    end_ns: int
    fleet: Fleet
    fleet_file: Path
    plant: Plant
    worker: WorkerProcess


@contextmanager
def watched(kafka, influx, folder: Path) -> Iterator[BoardPlant]:
    """Takes about a minute and a half on two cores."""
    fleet_file = folder / "fleet.yaml"
    fleet_file.write_text(fleet_yaml(), encoding="utf-8")
    settings = {
        "ECHOWATCH_WORKER__FLEET": str(fleet_file),
        # After its end nobody speaks any more: that must not make all sensors silent.
        "ECHOWATCH_WORKER__LIVE_S": "0",
        # Two captures do not tell the usual pause yet.
        "ECHOWATCH_WINDOWS__MIN_SILENCE_S": "400",
        "ECHOWATCH_LEARNING__MIN_WINDOWS": str(LEARNT_WINDOWS),
    }
    plant = Plant(kafka, influx, folder, settings=settings)
    try:
        worker = plant.start()
        began = time.monotonic()
        wait_for(worker.ready, "the worker")
        life = Life(0, time.time_ns() - round(HISTORY_S * NS_PER_S), HISTORY_S, EVERY_S)
        fleet = parse_fleet(fleet_yaml(), str(fleet_file))
        _live(life, plant, fleet)
        time.sleep(max(0.0, began + PIPELINE_S - time.monotonic()))
        yield BoardPlant(
            plant.bucket, life.start_ns, time.time_ns(), fleet, fleet_file, plant, worker
        )
    finally:
        plant.close()


def _live(life: Life, plant: Plant, fleet: Fleet) -> None:
    """Send the history, and what people say at their moments; until now, and all is worked off."""
    since_ns = life.start_ns
    for at, said in itertools.groupby(SAYINGS, key=lambda saying: saying.at):
        _send(life, plant, since_ns, life.at_ns(at))
        since_ns = life.at_ns(at)
        orders = [
            new_order(info.sensor_id, s.action, by=s.by, why=s.why, at_ns=since_ns)
            for s in said
            for info in fleet.sensors_of(f"{PLANT}/{s.machine}")
        ]
        with live_alarms.asking(plant.access, plant.conf.kafka, orders) as asked:
            live_alarms.wait(asked, 30.0)
    _send(life, plant, since_ns, None)


def _send(life: Life, plant: Plant, since_ns: int, until_ns: int | None) -> None:
    topic = plant.conf.kafka.signals[0]
    with closing(ChunkProducer(plant.access, topic, acked=lambda *_: None)) as producer:
        for number, chunk in enumerate(life.chunks(since_ns, until_ns)):
            if chunk.end_ns > time.time_ns():
                break
            producer.send(number, chunk)
        assert producer.flush(60)
    plant.finish()
