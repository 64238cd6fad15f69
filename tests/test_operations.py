"""Every command of docs/operations.md, in its order, on a real Kafka, InfluxDB and workers.

`docker compose` is played by a script that does with the real services what compose would.
"""

import http.server
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.simulation import simulate
from service_influx import InfluxServer
from service_process import MissingError
from worker_cases import DEADLINE_S, Plant, wait_for

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^## (.*?)\n|```sh\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
DOCKER = f"""#!{sys.executable}
import sys, urllib.request
asked = urllib.request.Request("PLACE", " ".join(sys.argv[1:]).encode())
print(urllib.request.urlopen(asked, timeout=300).read().decode())
"""


class Compose:
    """Services of a test under compose's commands."""

    def __init__(self, plant, influx, fleet):
        self.plant, self.influx, self.fleet = plant, influx, fleet
        self.workers = []
        self.seen = []

    def do(self, words):
        """What `docker WORDS` means."""
        self.seen.append(words)
        verb, *rest = words.removeprefix("compose ").split()
        service = rest[-1]
        if service == "influxdb":
            {"stop": self.influx.stop, "start": self.influx.start}[verb]()
        elif verb == "up":
            wanted = next((int(w[7:]) for w in rest if w.startswith("worker=")), 1)
            self.scale(0 if "--force-recreate" in rest else len(self.workers))
            self.scale(wanted)
        else:
            assert service == "worker", words
            self.scale(0)
            if verb in ("start", "restart"):
                self.scale(1)
            else:
                assert verb == "stop", words

    def scale(self, wanted):
        while len(self.workers) > wanted:
            assert self.workers.pop(0).end() == 0
        while len(self.workers) < wanted:
            worker = self.plant.start("--fleet", str(self.fleet))
            self.workers.append(worker)
            wait_for(worker.ready, "the worker")


@pytest.fixture
def compose(kafka, tmp_path):
    try:
        influx = InfluxServer(tmp_path / "data" / "influxdb")
    except MissingError as missing:
        pytest.skip(str(missing))
    simulated = simulate.plant(3, sensors=2, hours=0.2, every_s=10.0, faults=False)
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(simulated.fleet_yaml, encoding="utf-8")
    plant = None
    try:
        influx.start()
        settings = {"ECHOWATCH_LEARNING__MIN_WINDOWS": "32"}
        plant = Plant(kafka, influx, tmp_path, settings=settings)
        token = tmp_path / "admin.token"
        token.write_text(influx.token, encoding="utf-8")
        plant.environment["ECHOWATCH_INFLUX__ADMIN_TOKEN_FILE"] = str(token)
        plant.environment["ECHOWATCH_WORKER__FLEET"] = str(fleet)
        made = plant.run("influx", "init", "--tokens", str(tmp_path / "docker" / "secrets"))
        assert made.returncode == 0, made.stderr
        # Workers have the token that a worker has.
        plant.environment["ECHOWATCH_INFLUX__TOKEN_FILE"] = str(
            tmp_path / "docker" / "secrets" / "influx_writer_token"
        )
        made = Compose(plant, influx, fleet)
        made.scale(1)
        plant.send(simulated.chunks())
        plant.finish()
        yield made
    finally:
        if plant is not None:
            plant.close()
        influx.kill()


def serve(compose):
    """An address that obeys `docker`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            words = self.rfile.read(int(self.headers["Content-Length"])).decode()
            try:
                compose.do(words)
            except BaseException as error:  # noqa: BLE001  (the shell must learn of it)
                self.send_response(500)
                self.end_headers()
                self.wfile.write(repr(error).encode())
                return
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def heard_all(plant):
    """Whether the workers are at the end of the signals, read again and again."""
    topic = plant.conf.kafka.signals[0]
    committed = plant.committed("signals", topic)
    return all(committed.get(partition) == end for partition, end in plant.ends(topic).items())


def learnt(plant):
    """Sensor -> its highest share of learning in InfluxDB, %."""
    rows = plant.influx.query(
        plant.bucket, "SELECT last(learning_pct) AS pct FROM drift GROUP BY sensor"
    )
    return {row["sensor"]: row["pct"] for row in rows}


@pytest.mark.stack
def test_every_command_of_the_page_does_what_it_says(compose, tmp_path):
    plant = compose.plant
    assert set(learnt(plant).values()) == {100.0}
    server = serve(compose)
    place = f"http://127.0.0.1:{server.server_port}/"
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    docker = bin_folder / "docker"
    docker.write_text(DOCKER.replace("PLACE", place), encoding="utf-8")
    docker.chmod(0o755)
    path = f"{bin_folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {
        **os.environ, **plant.environment, "PATH": path, "STACK_DATA": str(tmp_path / "data"),
        "no_proxy": "127.0.0.1",
    }  # fmt: skip
    script = "set -euo pipefail\n"
    for title, block in BLOCKS:
        script += f"echo '### {title}'\n" if title else f"set -x\n{block}set +x\n"
    done = subprocess.run(
        ["bash", "-c", script],  # noqa: S607  (of this machine)
        cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=8 * DEADLINE_S, check=False,
    )  # fmt: skip
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert len(compose.workers) == 1
    wait_for(lambda: heard_all(plant), "all signals")
    # What came with the backup, was imported, and was read again twice: one point per window.
    counts = plant.influx.query(plant.bucket, "SELECT count(ok) AS n FROM sensor_health")
    assert counts[0]["n"] > 100
    assert {row["type"] for row in plant.points("event")} >= {"rebaseline", "maintenance"}
    files = sorted(p.name for p in tmp_path.iterdir())
    assert {"baselines.gz", "influxdb.tgz"} <= set(files)


def test_the_page_has_commands_for_every_day_two_task():
    titles = {title for title, _ in BLOCKS if title}
    assert titles >= {
        "How much it takes", "Back up", "Restore", "Add sensors",
        "Upgrade, restart, move a worker", "Read signals again", "After a repair", "Renew secrets",
    }  # fmt: skip
