"""A simulated plant of 60 sensors in; an InfluxDB bucket with six hours of it, ending now, out.

All of it went through a real Kafka and a real worker, which goes on running until the session ends.
Its story, and which machine ends how, is `pipeline.simulation.story`.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.fleet import Fleet, load_fleet
from pipeline.simulation.fleet import fleet_yaml
from worker_cases import Plant, WorkerProcess, wait_for

HISTORY, EVERY_S = "6h", "150"
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
        record = folder / "simulate.json"
        done = plant.run(
            *("simulate", "--to", "kafka", "--history", HISTORY, "--every", EVERY_S),
            *("--resume", str(record), "--json"),
            deadline_s=900,
        )
        assert done.returncode == 0, done.stderr
        plant.finish()
        time.sleep(max(0.0, began + PIPELINE_S - time.monotonic()))
        start_ns = json.loads(done.stdout)["start_ns"]
        fleet = load_fleet(fleet_file)
        yield BoardPlant(plant.bucket, start_ns, time.time_ns(), fleet, fleet_file, plant, worker)
    finally:
        plant.close()
