"""An influxd binary in, a real InfluxDB 2 on loopback out, with an organisation and a token."""

import json
import lzma
import os
import platform
import secrets
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

from service_influx_build import build, buildable
from service_process import (
    MissingError,
    Server,
    cache,
    made_once,
    say,
    services_folder,
)

VERSION = "2.7.12"
# Loopback is never behind a proxy, whatever the environment says.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def influxd() -> Path:
    """The server's binary: of the services folder, built or unpacked earlier, of this machine.

    CI builds it where the compilers are; a person is told how, as that takes minutes.

    Raises:
        MissingError: where none is to be had.
    """
    folder = services_folder()
    if (folder / "influxd").is_file():
        return folder / "influxd"
    kept = cache() / f"influxd-{VERSION}"
    packed = folder / f"influxd-{VERSION}-linux-amd64.xz"
    if kept.exists():
        return kept
    if packed.exists() and (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        return made_once(kept, lambda binary: _unpack(packed, binary))
    if (found := shutil.which("influxd")) and "InfluxDB v2" in _version(found):
        return Path(found).resolve()
    if os.environ.get("CI") and buildable():
        return built()
    raise MissingError(
        f"InfluxDB: needs influxd 2 on the PATH or in {folder} (SERVICES_DIR), "
        "`python tests/services.py build-influx` (minutes, once), or the address of a server in "
        "TEST_INFLUX_URL, TEST_INFLUX_TOKEN and TEST_INFLUX_ORG"
    )


def built() -> Path:
    """The binary, built from its published sources if it was not before.

    Raises:
        MissingError: where it cannot be built.
    """
    return made_once(cache() / f"influxd-{VERSION}", lambda binary: build(VERSION, binary))


def _version(binary: str) -> str:
    """What it says it is: influxd 1 has the same name."""
    return subprocess.run([binary, "version"], capture_output=True, text=True, check=False).stdout


def _unpack(packed: Path, binary: Path) -> None:
    say(f"unpacking {packed.name}, once ...")
    with lzma.open(packed) as source, binary.open("wb") as target:
        shutil.copyfileobj(source, target)
    binary.chmod(0o755)


class InfluxError(Exception):
    """InfluxDB refused; the text has its status and its words."""


def asked_json(
    method: str, url: str, path: str, who: str, body: object, refusal: type[Exception]
) -> Any:
    """Answer (JSON) of one request to a server of this machine.

    Args:
        method: Of HTTP.
        url: Of the server.
        path: Below it.
        who: Header of authorization.
        body: To send as JSON; None = nothing.
        refusal: Raised for an answer other than 2xx, with its status and words.
    """
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": who, "Content-Type": "application/json"}
    request = urllib.request.Request(url + path, data, headers, method=method)  # noqa: S310
    try:
        with DIRECT.open(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        with closing(error):
            said = error.read().decode(errors="replace").strip()
        raise refusal(f"{method} {path}: {error.code} {said}") from None


class InfluxAccess:
    """An InfluxDB, its operator's hands: buckets, tokens, queries.

    Args:
        url: Its address.
        org: Organisation.
        token: May do everything in it.
    """

    def __init__(self, url: str, org: str, token: str) -> None:
        self.url = url.rstrip("/")
        self.org = org
        self.token = token
        self._buckets: dict[str, str] = {}

    def new_bucket(self, name: str, retention_s: int = 0) -> str:
        """Name of a new, empty bucket: `name` and something that no other has.

        Args:
            name: What it is for.
            retention_s: Age at which points vanish, s, at least 3600; 0 keeps them for ever.
        """
        bucket = f"{name}-{secrets.token_hex(4)}"
        rules = [{"type": "expire", "everySeconds": retention_s}] if retention_s else []
        wanted = {"orgID": self.org_id(), "name": bucket, "retentionRules": rules}
        self._buckets[bucket] = self.call("POST", "/api/v2/buckets", wanted)["id"]
        return bucket

    def remove_buckets(self) -> None:
        """Remove what `new_bucket` made."""
        while self._buckets:
            _, identifier = self._buckets.popitem()
            self.call("DELETE", f"/api/v2/buckets/{identifier}")

    def new_token(self, bucket: str, *, read: bool = True, write: bool = True) -> str:
        """A token that may read or write this bucket and nothing else."""
        org = self.org_id()
        resource = {"type": "buckets", "id": self.bucket_id(bucket), "orgID": org}
        actions = [name for name, allowed in (("read", read), ("write", write)) if allowed]
        permissions = [{"action": action, "resource": resource} for action in actions]
        wanted = {"orgID": org, "description": bucket, "permissions": permissions}
        token: str = self.call("POST", "/api/v2/authorizations", wanted)["token"]
        return token

    def query(self, bucket: str, influxql: str) -> list[dict[str, Any]]:
        """Rows of an InfluxQL query: tags (of GROUP BY) and columns by name, time in ns."""
        asked = urllib.parse.urlencode({"db": bucket, "q": influxql, "epoch": "ns"})
        rows: list[dict[str, Any]] = []
        for result in self.call("GET", f"/query?{asked}")["results"]:
            if "error" in result:
                raise InfluxError(f"{influxql}: {result['error']}")
            for series in result.get("series", ()):
                tags, columns = series.get("tags", {}), series["columns"]
                rows += [
                    tags | dict(zip(columns, values, strict=True))
                    for values in series.get("values", ())
                ]
        return rows

    def org_id(self) -> str:
        """The organisation's identifier."""
        asked = urllib.parse.urlencode({"org": self.org})
        found: str = self.call("GET", f"/api/v2/orgs?{asked}")["orgs"][0]["id"]
        return found

    def bucket_id(self, bucket: str) -> str:
        """A bucket's identifier."""
        if bucket not in self._buckets:
            asked = urllib.parse.urlencode({"org": self.org, "name": bucket})
            found: str = self.call("GET", f"/api/v2/buckets?{asked}")["buckets"][0]["id"]
            return found
        return self._buckets[bucket]

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Answer (JSON) of one request, with the operator's token.

        Raises:
            InfluxError: for an answer other than 2xx.
        """
        return asked_json(method, self.url, path, f"Token {self.token}", body, InfluxError)


class InfluxServer(Server, InfluxAccess):
    """One server with the organisation `echowatch`.

    Args:
        folder: Its data and its log; what is there from an earlier run is kept.
        port: Where it listens; a free one where None.
        variables: Settings of influxd (INFLUXD_...).
    """

    def __init__(
        self, folder: Path, port: int | None = None, variables: dict[str, str] | None = None
    ) -> None:
        Server.__init__(self, "InfluxDB", folder, port)
        self.token_file = self.folder / "token"
        self.binary = influxd()
        self.variables = variables or {}
        InfluxAccess.__init__(self, f"http://127.0.0.1:{self.port}", "echowatch", self._secret())

    def command(self) -> list[str]:
        """What to run."""
        return [
            str(self.binary),
            *("--bolt-path", "influxd.bolt", "--sqlite-path", "influxd.sqlite"),
            *("--engine-path", "engine", "--http-bind-address", f"127.0.0.1:{self.port}"),
            *("--reporting-disabled", "--log-level", "warn"),
        ]

    def environment(self) -> dict[str, str]:
        """Variables beside those of this process."""
        return self.variables

    def ready(self) -> bool:
        """Whether it says that it is healthy."""
        try:
            return bool(self.call("GET", "/health")["status"] == "pass")
        except (OSError, InfluxError):
            return False

    def start(self) -> None:
        """Start it, wait until it serves, and set it up if its data are new."""
        super().start()
        if self.call("GET", "/api/v2/setup")["allowed"]:
            asked = {
                "username": "echowatch",
                "password": secrets.token_urlsafe(16),
                "org": self.org,
                "bucket": "echowatch",
                "token": self.token,
                "retentionPeriodSeconds": 0,
            }
            self.call("POST", "/api/v2/setup", asked)

    def _secret(self) -> str:
        """The operator's token, in a file that only its owner reads."""
        if not self.token_file.exists():
            handle = os.open(self.token_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123  (a descriptor)
                file.write(secrets.token_urlsafe(32))
        return self.token_file.read_text(encoding="utf-8")
