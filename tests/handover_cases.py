"""What tests of workers that come and go share: a stream sent by and by, times, reasons."""

import itertools
import json
import time

from embedded_truth import truth
from pipeline.settings import load
from pipeline.simulation import simulate
from test_worker import assert_same

SLACK = 3.0
SENSORS = 8
ROUND = SENSORS


class Stream:
    """The signals of some sensors, sent by and by."""

    def __init__(self, plant):
        self._plant = plant
        self._left = simulate.plant(4, sensors=SENSORS, hours=1.0, every_s=10.0).chunks()
        self.sent = []

    def send(self, rounds=1):
        """A chunk of every sensor, so many times."""
        batch = list(itertools.islice(self._left, rounds * ROUND))
        self.sent += batch
        self._plant.send(batch)

    def assert_arrived(self):
        """All of it, and as if nothing had happened."""
        self._plant.finish()
        assert_same(self._plant, truth(self.sent, load(self._plant.environment)))


def since(began_s, what):
    took_s = time.monotonic() - began_s
    print(f"{what}: {took_s:.1f} s")  # noqa: T201  (a measured figure)
    return took_s


def partitions(worker, role="signals"):
    status, body = worker.get("/ready")
    return json.loads(body).get(role, {}).get("partitions", 0) if status == 200 else 0


def one_line_of(process, log):
    """The error that a process ended with: exit code 1, one line, no traceback."""
    assert process.wait(240) == 1, log.read_text()
    text = log.read_text()
    assert "Traceback" not in text
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, text
    return errors[0]
