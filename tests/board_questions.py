"""Boards in, their questions as Grafana asks them out: answers, and which have none."""

import json
import time
import urllib.request
from contextlib import contextmanager

from board_cases import board_checks, panels
from pipeline.service_settings import Influx
from pipeline.services.influx_tasks import ROLLUPS, rollup_script
from service_grafana import GrafanaError
from service_influx import DIRECT

# Browsers round the interval of a panel to one of these.
STEPS_MS = [
    *(1000 * s for s in (1, 2, 5, 10, 15, 20, 30)),
    *(60_000 * m for m in (1, 2, 5, 10, 15, 20, 30)),
    *(3_600_000 * h for h in (1, 2, 3, 6, 12, 24)),
]


def post(influx, path, body, kind):
    headers = {"Authorization": f"Token {influx.token}", "Content-Type": kind}
    request = urllib.request.Request(influx.url + path, body.encode(), headers)  # noqa: S310
    with DIRECT.open(request, timeout=60) as answer:
        return answer.read()


@contextmanager
def hours_of(influx, bucket, from_ms, to_ms):
    """The bucket of hours beside a bucket, rolled up by the script of the task."""
    name = ROLLUPS[-1].bucket(bucket)
    made = influx.call("POST", "/api/v2/buckets", {"orgID": influx.org_id(), "name": name})
    start, stop = from_ms // 3_600_000 * 3600, to_ms // 3_600_000 * 3600 + 3600
    times = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)) for at in (start, stop)]
    script = rollup_script(Influx(bucket=bucket, org=influx.org), ROLLUPS[-1], *times)
    asked = json.dumps({"query": script})
    post(influx, f"/api/v2/query?org={influx.org}", asked, "application/json")
    yield name
    influx.call("DELETE", f"/api/v2/buckets/{made['id']}")


@contextmanager
def sources_of(grafana, influx, buckets):
    """Data sources of their own, uid -> bucket."""
    for uid, bucket in buckets.items():
        source = {
            "name": uid, "uid": uid, "type": "influxdb", "access": "proxy", "url": influx.url,
            "jsonData": {
                "dbName": bucket, "httpMode": "GET", "httpHeaderName1": "Authorization"
            },
            "secureJsonData": {"httpHeaderValue1": f"Token {influx.token}"},
        }  # fmt: skip
        grafana.call("POST", "/api/datasources", source)
    yield
    for uid in buckets:
        grafana.call("DELETE", f"/api/datasources/uid/{uid}")


class Asked:
    """The questions of boards, asked as Grafana asks them.

    Args:
        grafana: Whom to ask.
        sources: Of raw data and of hours.
        times: Begin and end, ms.
        asset: One machine.
        sensor: One of its sensors.
    """

    def __init__(self, grafana, sources, times, asset, sensor):
        self.grafana, self.sources, self.times = grafana, sources, times
        self.asset, self.sensor = asset, sensor

    def frames(self, name, one, target):
        """Data frames that a question of a panel gives.

        Raises:
            GrafanaError: where it is refused.
        """
        begin, end = self.times
        variables = dict.fromkeys(("plant", "area", "line", "asset", "sensor"), ".*")
        variables |= {"__from": str(begin), "__to": str(end)}
        if name == "asset":
            variables |= {"asset": self.asset}
        query = target["query"].replace("${sensor:raw}", self.sensor)
        points = one.get("maxDataPoints", 1000)
        raw, hours = self.sources
        asked = {
            **target,
            "query": query,
            "datasource": {"uid": hours if "longterm" in str(target["datasource"]) else raw},
            "maxDataPoints": points,
            "intervalMs": min(STEPS_MS, key=lambda step: abs(step - (end - begin) / points)),
        }
        return self.grafana.frames([asked], begin, end, variables)

    def values(self, name, one, target):
        """Values that a question of a panel gives.

        Raises:
            GrafanaError: where it is refused.
        """
        frames = self.frames(name, one, target)
        columns = [column for frame in frames for column in frame["data"]["values"][1:]]
        return [value for column in columns for value in column if value is not None]

    def unanswered(self, name, content):
        """Questions that are refused or give nothing."""
        found = []
        for one, target in board_checks.targets_of(content):
            where = f"{one['title']} {target['refId']}"
            try:
                if not self.values(name, one, target):
                    found.append(f"{where}: nothing")
            except GrafanaError as error:
                found.append(f"{where}: {error}")
        return found

    def empty(self, name, content):
        """Panels of raw data that show nothing and do not say that this is good."""
        return [
            one["title"]
            for one in panels(content)
            if "noValue" not in one["fieldConfig"]["defaults"]
            and one["datasource"]["uid"] != "${longterm}"
            and not any(self.values(name, one, target) for target in one["targets"])
        ]
