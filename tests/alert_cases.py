"""Alert rules made hasty, somebody who listens, and what happens in a plant, for their tests."""

import json
import re
import shutil
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import numpy as np
import yaml

from pipeline.fleet import parse_fleet
from pipeline.messages import NS_PER_S, Flags, SensorChunk
from pipeline.points import PointMaker
from point_cases import change
from service_grafana import GRAFANA

sys.path.insert(0, str(GRAFANA))

import rule_table
import rules

__all__ = ["rule_table", "rules"]

ALERTING = GRAFANA / "provisioning" / "alerting"
EVERY_S = 10.0
SICK_FROM, QUIET_FROM, SICK_TO, WELL_TO = 36, 20, 46, 66
SICK, CLIPPED = "mill/wet/pump/de/h", "mill/wet/pump/nde/h"
QUIET = ("mill/dry/fan/de/h", "mill/dry/fan/nde/h")
CALM = "mill/dry/blower/de/h"
FLEET = """
version: 1
plants:
  - id: mill
    iso: {standard: 10816-3, group: 2, mounting: rigid}
    areas:
      - id: wet
        assets:
          - {id: pump, points: [{id: de, sensors: [{axis: h}]}, {id: nde, sensors: [{axis: h}]}]}
          - {id: roll, points: [{id: p, sensors: [{axis: h}]}]}
      - id: dry
        assets:
          - {id: fan, points: [{id: de, sensors: [{axis: h}]}, {id: nde, sensors: [{axis: h}]}]}
          - {id: blower, points: [{id: de, sensors: [{axis: h}]}]}
"""
PLANT = parse_fleet(FLEET)
# What a query looks back, so that what is over is over soon; the worker reports every 10 s. Signals
# are 30 hours old: then nothing but they themselves tells the time, and they do not count as late.
BACK = {"15m": "40s", "10m": "40s", "5m": "40s", "1m": "25s", "6h": "36h"}


def hasty(folder):
    """A copy of the provisioning whose rules wait for nothing; it is judged every 10 s.

    The rules, what they ask and whom they tell are as they are; only delays, and how far a query
    looks back, are others.
    """
    made = Path(shutil.copytree(GRAFANA / "provisioning", folder / "hasty"))
    text = (made / "alerting" / "rules.yaml").read_text(encoding="utf-8")
    text = re.sub(r"^( +for|  interval): .*", _soon, text, flags=re.MULTILINE)
    text = re.sub(r"now\(\) - (\w+)", lambda m: f"now() - {BACK.get(m[1], m[1])}", text)
    (made / "alerting" / "rules.yaml").write_text(text, encoding="utf-8")
    policies = (made / "alerting" / "policies.yaml").read_text(encoding="utf-8")
    policies = re.sub(r"group_wait: .*", "group_wait: 2s", policies)
    policies = re.sub(r"group_interval: .*", "group_interval: 5s", policies)
    (made / "alerting" / "policies.yaml").write_text(policies, encoding="utf-8")
    return made


def _soon(found):
    return f"{found[1]}: {'10s' if 'interval' in found[1] else '0s'}"


def loaded():
    """Every rule of the file, as Grafana reads it."""
    document = yaml.safe_load((ALERTING / "rules.yaml").read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def is_gone(alert):
    """Whether an alert is resolved only because its data are gone."""
    return alert["annotations"].get("grafana_state_reason") == "MissingSeries"


class Listener:
    """What a webhook on loopback has been told.

    Attributes:
        url: Its address.
        heard: Payloads, in order.
    """

    def __init__(self, server):
        self.url = f"http://127.0.0.1:{server.server_port}/hook"
        self.heard = server.heard

    def messages(self, rule, status):
        """(message, alert) for each alert of a rule that was told in this state."""
        return [
            (told["message"], alert)
            for told in list(self.heard)
            for alert in told["alerts"]
            if (alert["labels"]["alertname"], alert["status"]) == (rule, status)
        ]

    def told(self, status):
        """Names of the rules that were told in this state, and not because data are gone."""
        return {
            alert["labels"]["alertname"]
            for told in list(self.heard)
            for alert in told["alerts"]
            if alert["status"] == status and not is_gone(alert)
        }


class _Hook(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append(json.loads(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def listening():
    """A webhook that takes everything."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hook)
    server.heard = []
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield Listener(server)
    server.shutdown()
    thread.join()
    server.server_close()


def captures(start_s, first, last):
    """A second of signal per 10 s: a machine is sick, a sensor clips, two fall silent for a while.

    Levels make the sick machine's velocity 0.8 mm/s (zone A) when well and 9 mm/s (D) when sick.
    """
    rng = np.random.default_rng(first)
    for k in range(first, last):
        at_ns = round((start_s + k * EVERY_S) * NS_PER_S)
        wrong = SICK_FROM <= k < SICK_TO
        for sensor in (SICK, CLIPPED, CALM, *QUIET):
            if sensor in QUIET and QUIET_FROM <= k < SICK_TO:
                continue
            level = 1.2 if sensor == SICK and wrong else 0.1
            samples = rng.normal(0.0, level, 8800).astype(np.float32)
            if sensor == CLIPPED and wrong:
                samples = np.clip(samples, -0.08, 0.08)
            yield SensorChunk(
                sensor, 8000.0, at_ns, samples, seq=k, unit="g", flags=Flags.END_OF_CAPTURE
            )


def moved(sensor, asset, at_ns, after, action="raise", **more):
    """A transition of one sensor of a machine."""
    return replace(change(sensor, at_ns, after, action, **more), asset=asset)


class Reports:
    """Numbers of a worker that is not there, written every 4 s until the end of the block.

    Args:
        writer: To the store.

    Attributes:
        well: Whether that worker is.
    """

    HOST = "edge-9:8620"

    def __init__(self, writer):
        self.well = False
        self._writer = writer
        self._points = PointMaker(PLANT)
        self._messages = self._lost = 0.0
        self._ended = Event()
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    def _run(self):
        while not self._ended.wait(4.0):
            self._write(time.time_ns(), well=self.well)

    def _write(self, at_ns, *, well):
        self._messages += 100.0
        self._lost += 0.0 if well else 3.0
        numbers = {
            "messages": self._messages, "messages_per_s": 10.0, "dead_letters": 0.0,
            "lag": 0.0 if well else 5000.0, "nan_scores": self._lost,
            "sample_to_score_s_p99": 2.0 if well else 45.0,
        }  # fmt: skip
        points = self._points.pipeline_points(
            self.HOST, "signals", numbers, at_ns=at_ns,
            model_id="" if well else "echo-tiny-of-somebody-else",
        )  # fmt: skip
        self._writer.put(points)
