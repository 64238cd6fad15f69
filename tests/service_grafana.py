"""A Grafana binary in, a real Grafana on loopback out, with the project's provisioning."""

import json
import os
import platform
import re
import secrets
import shutil
import subprocess
import tarfile
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from service_chromium import Chromium
from service_influx import DIRECT, asked_json
from service_process import MissingError, Server, cache, made_once, say, services_folder

VERSION = "10.0.0-pre"
PROJECT = Path(__file__).resolve().parents[1]
GRAFANA = PROJECT / "grafana"
# Nobody listens at the port of discarding: what is sent there is lost, and says so at once.
NOWHERE = "http://127.0.0.1:9"
VARIABLES = {
    "DASHBOARDS": str(GRAFANA / "dashboards"),
    "WEBHOOK_URL": NOWHERE,
    "EMAIL": "nobody@localhost",
    "SNAPSHOT_URL": "http://127.0.0.1:8630",
    "RUNBOOK_URL": "docs/runbooks.md",
}
# Grafana 10 makes its organisation twice at once at its first start, and may lose to itself.
RACE = "UNIQUE constraint failed: org.id"
Variables = Mapping[str, str | Sequence[str]]


def grafana_home() -> Path:
    """Home of Grafana (bin, conf, public): of the services folder, unpacked once, of this machine.

    Raises:
        MissingError: where none is to be had.
    """
    folder = services_folder()
    for home in (folder / "grafana", Path("/usr/share/grafana")):
        if (home / "bin" / "grafana").is_file():
            return home
    kept = cache() / f"grafana-{VERSION}"
    packed = folder / f"grafana-{VERSION}-linux-amd64.tar.xz"
    if kept.exists():
        return kept
    if packed.exists() and (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        return made_once(kept, lambda home: _unpack(packed, home))
    raise MissingError(
        f"Grafana: needs grafana/ (bin, conf, public) in {folder} (SERVICES_DIR), an installed one "
        "in /usr/share/grafana, or the address of a server in TEST_GRAFANA_URL and its "
        "administrator in TEST_GRAFANA_USER and TEST_GRAFANA_PASSWORD"
    )


def _unpack(packed: Path, home: Path) -> None:
    say(f"unpacking {packed.name}, once ...")
    with tarfile.open(packed) as archive:
        archive.extractall(home, filter="data")
    (inner,) = home.iterdir()
    for part in inner.iterdir():
        part.rename(home / part.name)
    inner.rmdir()


def keep(home: Path) -> str:
    """What alert rules are told to do while the store does not answer; KeepLast came with 10.4."""
    asked = [str(home / "bin" / "grafana"), "-v"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+)\.(\d+)", said)
    return "KeepLast" if found and (int(found[1]), int(found[2])) >= (10, 4) else "OK"


class GrafanaError(Exception):
    """Grafana refused; the text has its status and its words."""


class GrafanaAccess:
    """A Grafana, its administrator's hands.

    Args:
        url: Its address.
        admin: User and password.
    """

    def __init__(self, url: str, admin: tuple[str, str]) -> None:
        self.url = url.rstrip("/")
        self.admin = admin
        self._closing = ExitStack()
        self._browser: Chromium | None = None

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Answer (JSON) of one request, as the administrator.

        Raises:
            GrafanaError: for an answer other than 2xx.
        """
        login = b64encode(":".join(self.admin).encode()).decode()
        return asked_json(method, self.url, path, f"Basic {login}", body, GrafanaError)

    def query(
        self,
        uid: str,
        influxql: str,
        from_ms: int,
        to_ms: int,
        variables: Variables | None = None,
    ) -> list[dict[str, Any]]:
        """Rows of one InfluxQL query, as a panel of tables sees them.

        Args:
            uid: Of the data source.
            influxql: With $timeFilter, $__interval and variables of boards.
            from_ms: Begin, ms since 1970.
            to_ms: End, likewise.
            variables: Of boards; a sequence becomes `(a|b)`, as Grafana does.

        Raises:
            GrafanaError: where Grafana or InfluxDB refuses it.
        """
        asked = {"query": influxql, "rawQuery": True, "resultFormat": "table"}
        frames = self.frames([asked | {"datasource": {"uid": uid}}], from_ms, to_ms, variables)
        return [row for frame in frames for row in rows_of(frame)]

    def frames(
        self,
        targets: Sequence[Mapping[str, Any]],
        from_ms: int,
        to_ms: int,
        variables: Variables | None = None,
    ) -> list[dict[str, Any]]:
        """Data frames (Grafana's JSON) of the targets of a panel, each with its `refId`.

        Raises:
            GrafanaError: where one of them fails.
        """
        queries = [
            {
                "refId": chr(ord("A") + number),
                "intervalMs": max(1000, (to_ms - from_ms) // 1000),
                "maxDataPoints": 1000,
                **target,
                "query": interpolated(str(target.get("query", "")), variables or {}),
            }
            for number, target in enumerate(targets)
        ]
        asked = {"queries": queries, "from": str(from_ms), "to": str(to_ms)}
        frames: list[dict[str, Any]] = []
        for ref, result in self.call("POST", "/api/ds/query", asked)["results"].items():
            if "error" in result:
                raise GrafanaError(f"query {ref}: {result['error']}")
            frames += [{"refId": ref, **frame} for frame in result.get("frames", ())]
        return frames

    def reload_alerting(self) -> None:
        """Read the files of alert rules, contact points and policies again."""
        self.call("POST", "/api/admin/provisioning/alerting/reload")

    def rules(self) -> list[dict[str, Any]]:
        """Each alert rule with its `name`, `state`, `health`, `alerts` and `group`."""
        found = self.call("GET", "/api/prometheus/grafana/api/v1/rules")["data"]["groups"]
        return [rule | {"group": group["name"]} for group in found for rule in group["rules"]]

    def session(self) -> tuple[str, str]:
        """Name and value of the cookie of a fresh login."""
        body = json.dumps(dict(zip(("user", "password"), self.admin, strict=True))).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/login", body, headers)  # noqa: S310
        with DIRECT.open(request, timeout=30) as answer:
            for cookie in answer.headers.get_all("Set-Cookie") or ():
                name, _, rest = cookie.partition("=")
                if name.endswith("session"):
                    return name, rest.partition(";")[0]
        raise GrafanaError("a login gave no session")

    def screenshot(
        self, path: str, width: int = 1600, height: int = 0, file: Path | None = None
    ) -> dict[str, Any]:
        """Look at a page in headless Chromium, logged in as the administrator.

        Args:
            path: Of the page, such as /d/echowatch-fleet?kiosk&from=...
            width: Of the window, pixels.
            height: Likewise; 0 = as tall as the board.
            file: PNG to write; None = none.

        Returns:
            `panels`: their number, `broken`: pairs of title and trouble, `bottom`: height, pixels.

        Raises:
            MissingError: without Chromium.
        """
        if self._browser is None:
            # Its helpers write a moment longer than it lives.
            made = TemporaryDirectory(prefix="echowatch-", ignore_cleanup_errors=True)
            self._browser = Chromium(Path(self._closing.enter_context(made)))
            self._closing.callback(self._browser.stop)
        self._browser.start()
        return self._browser.look(self.url + path, self.session(), width, height, file)

    def close(self) -> None:
        """End the browser."""
        self._browser = None
        self._closing.close()


def rows_of(frame: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of a data frame: labels, and columns by name."""
    fields, values = frame["schema"]["fields"], frame["data"]["values"]
    labels = {key: word for field in fields for key, word in (field.get("labels") or {}).items()}
    names = [field["name"] for field in fields]
    return [labels | dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def interpolated(influxql: str, variables: Variables) -> str:
    """A query with the variables of a board replaced as the browser does for InfluxQL.

    >>> interpolated("sensor =~ /^${sensor:regex}$/ and plant = '$plant'",
    ...              {"sensor": ["a", "b"], "plant": "mill"})
    "sensor =~ /^(a|b)$/ and plant = 'mill'"
    """
    for name, value in variables.items():
        text = value if isinstance(value, str) else f"({'|'.join(value)})"
        spelt = re.compile(rf"\$\{{{name}(:\w+)?\}}|\[\[{name}\]\]|\${name}\b")
        influxql = spelt.sub(lambda _: text, influxql)  # noqa: B023  (called at once)
    return influxql


class GrafanaServer(Server, GrafanaAccess):
    """One server with the data sources, the boards and (if asked for) the alert rules.

    Args:
        folder: Its data and its log; what is there from an earlier run is kept.
        influx_url: Address of InfluxDB.
        bucket: Of the results.
        token: May read the bucket.
        port: Where it listens; a free one where None.
        alerting: Whether it evaluates the project's alert rules.
        variables: ECHOWATCH_GRAFANA_..., without that prefix, and GF_...
    """

    def __init__(
        self,
        folder: Path,
        influx_url: str,
        bucket: str,
        token: str,
        port: int | None = None,
        *,
        alerting: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        Server.__init__(self, "Grafana", folder, port)
        self.home = grafana_home()
        self.provisioning = GRAFANA / "provisioning"
        self.alerting = alerting
        password = _kept(self.folder / "admin_password", secrets.token_urlsafe(16))
        GrafanaAccess.__init__(self, f"http://127.0.0.1:{self.port}", ("admin", password))
        _kept(self.folder / "reader_token", token, anew=True)
        _kept(self.folder / "secret_key", secrets.token_hex(32))
        self.variables = {
            **VARIABLES,
            "KEEP": keep(self.home),
            "INFLUX_URL": influx_url,
            "INFLUX_BUCKET": bucket,
            "INFLUX_TOKEN": f"$__file{{{self.folder / 'reader_token'}}}",
            **(variables or {}),
        }

    def command(self) -> list[str]:
        """What to run."""
        binary = self.home / "bin" / "grafana"
        config = GRAFANA / "grafana.ini"
        return [str(binary), "server", "--homepath", str(self.home), "--config", str(config)]

    def environment(self) -> dict[str, str]:
        """Addresses, paths, secrets; alerts are judged as often as Grafana can."""
        own = {
            "GF_SERVER_HTTP_PORT": str(self.port),
            "GF_SERVER_ROOT_URL": f"{self.url}/",
            "GF_PATHS_DATA": str(self.folder / "data"),
            "GF_PATHS_LOGS": str(self.folder / "logs"),
            "GF_PATHS_PLUGINS": str(self.folder / "plugins"),
            "GF_PATHS_PROVISIONING": str(self._provisioned()),
            "GF_SECURITY_ADMIN_PASSWORD": f"$__file{{{self.folder / 'admin_password'}}}",
            "GF_SECURITY_SECRET_KEY": f"$__file{{{self.folder / 'secret_key'}}}",
            "GF_UNIFIED_ALERTING_MIN_INTERVAL": "10s",
            "GF_UNIFIED_ALERTING_ALERTMANAGER_CONFIG_POLL_INTERVAL": "5s",
        }
        given = {
            name if name.startswith("GF_") else f"ECHOWATCH_GRAFANA_{name}": value
            for name, value in self.variables.items()
        }
        return own | given

    def _provisioned(self) -> Path:
        """Folder that leads to the files of the project, alert rules only if asked for."""
        folder = self.folder / "provisioning"
        shutil.rmtree(folder, ignore_errors=True)
        for part in ("datasources", "dashboards", "alerting", "notifiers", "plugins"):
            own = folder / part
            if (self.provisioning / part).is_dir() and (part != "alerting" or self.alerting):
                folder.mkdir(parents=True, exist_ok=True)
                own.symlink_to(self.provisioning / part, target_is_directory=True)
            else:
                own.mkdir(parents=True)
        return folder

    def ready(self) -> bool:
        """Whether it says that its database is well."""
        try:
            return bool(self.call("GET", "/api/health")["database"] == "ok")
        except (OSError, GrafanaError):
            return False

    def start(self) -> None:
        """Start it and wait until it serves; once more where it stumbled over itself."""
        try:
            super().start()
        except RuntimeError:
            if RACE not in self.log_text():
                raise
            super().start()

    def stop(self) -> None:
        """End browser and server in order."""
        self.close()
        super().stop()

    def kill(self) -> None:
        """End both at once."""
        self.close()
        super().kill()


class GivenGrafana(GrafanaAccess):
    """A person's own Grafana: our data sources and boards are put into it, and removed at the end.

    Args:
        url, admin: Its address; user and password.
        influx_url: Address of InfluxDB, as Grafana sees it.
        bucket: Of the results.
        token: May read the bucket.
    """

    def __init__(
        self, url: str, admin: tuple[str, str], influx_url: str, bucket: str, token: str
    ) -> None:
        super().__init__(url, admin)
        for unit in ("", "1m", "1h"):
            self._source(unit, influx_url, bucket, token)
        for file in sorted((GRAFANA / "dashboards").glob("*.json")):
            board = json.loads(file.read_text(encoding="utf-8"))
            self.call("POST", "/api/dashboards/db", {"dashboard": board, "overwrite": False})
            self._closing.callback(self.call, "DELETE", f"/api/dashboards/uid/{board['uid']}")

    def _source(self, unit: str, influx_url: str, bucket: str, token: str) -> None:
        uid = f"echowatch-influx-{unit}".rstrip("-")
        source = {
            "name": uid,
            "uid": uid,
            "type": "influxdb",
            "access": "proxy",
            "url": influx_url,
            "jsonData": {
                "dbName": f"{bucket}_{unit}".rstrip("_"),
                "httpMode": "GET",
                "httpHeaderName1": "Authorization",
            },
            "secureJsonData": {"httpHeaderValue1": f"Token {token}"},
        }
        self.call("POST", "/api/datasources", source)
        self._closing.callback(self.call, "DELETE", f"/api/datasources/uid/{uid}")


def _kept(file: Path, text: str, *, anew: bool = False) -> str:
    """What is in the file, which only its owner reads; `text` if it is new, or to be anew."""
    if anew:
        file.unlink(missing_ok=True)
    if not file.exists():
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "w", encoding="utf-8") as opened:  # noqa: PTH123  (a descriptor)
            opened.write(text)
    return file.read_text(encoding="utf-8")
