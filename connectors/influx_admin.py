"""What an operator asks of InfluxDB 2 in, its answer out: buckets, tasks, tokens, queries.

The one place that knows the paths of its HTTP interface; used by commands of people, by no worker.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
from urllib3.exceptions import HTTPError

from connectors.influx_bucket import InfluxError, secured

LONGEST_WORDS = 500
MOST_LISTED = 100
FLUX = "/api/v2/query"  # answers by tables, all others by JSON


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket as it is.

    Attributes:
        id: InfluxDB's own name for it.
        keep_s: Seconds that points are kept, 0 = for ever.
    """

    id: str
    keep_s: int


@dataclass(frozen=True, slots=True)
class InstalledTask:
    """A task as it is.

    Attributes:
        id: InfluxDB's own name for it.
        flux: Its script.
        active: Whether it runs by itself.
        last: Status of its last finished run: success, failed, canceled, or empty.
        last_at: Time up to which it has run, RFC 3339, or empty.
        why: What the last run failed of, or empty.
    """

    id: str
    flux: str
    active: bool
    last: str
    last_at: str
    why: str


class InfluxAdmin:
    """One organisation of a server, with its operator's token.

    Args:
        url: `http://` or `https://` address.
        token: The operator's; never shown.
        org: Organisation.
        timeout_s: Patience with one request.
        ca_file: Certificates (PEM) the server must chain to, else the system's.
        allow_plaintext: Permit http to other machines.

    Raises:
        InfluxError: for an address or file that cannot be used.
    """

    def __init__(
        self,
        url: str,
        token: str,
        org: str,
        *,
        timeout_s: float = 10.0,
        ca_file: Path | None = None,
        allow_plaintext: bool = False,
    ) -> None:
        context = secured(url, ca_file, allow_plaintext=allow_plaintext)
        self._url, self._token, self._org = url.rstrip("/"), token, org
        self._timeout_s = timeout_s
        self._pool = urllib3.PoolManager(ssl_context=context, retries=False)
        self._org_id = ""

    def __repr__(self) -> str:
        return f"InfluxAdmin({self._org!r} at {self._url})"

    def close(self) -> None:
        """Close its connections."""
        self._pool.clear()

    def fresh(self) -> bool:
        """Whether the server was never set up."""
        return bool(self._call("GET", "/api/v2/setup")["allowed"])

    def set_up(self, bucket: str, password: str) -> None:
        """Give a fresh server its user `admin`, organisation, first bucket and operator's token."""
        wanted = {
            "username": "admin",
            "password": password,
            "org": self._org,
            "bucket": bucket,
            "token": self._token,
            "retentionPeriodSeconds": 0,
        }
        self._call("POST", "/api/v2/setup", wanted)

    def has_org(self) -> bool:
        """Whether the organisation exists, as far as the token may know."""
        try:
            found = self._call("GET", "/api/v2/orgs", org=self._org)["orgs"]
        except InfluxError as error:
            if HTTPStatus.NOT_FOUND.phrase.lower() in str(error).lower():
                return False
            raise
        self._org_id = found[0]["id"] if found else ""
        return bool(found)

    def make_org(self) -> None:
        """Make the organisation."""
        self._org_id = self._call("POST", "/api/v2/orgs", {"name": self._org})["id"]

    def buckets(self) -> dict[str, Bucket]:
        """Name -> bucket of every bucket that people made."""
        rows = self._pages("/api/v2/buckets", "buckets")
        return {
            row["name"]: Bucket(
                row["id"], next((rule["everySeconds"] for rule in row["retentionRules"]), 0)
            )
            for row in rows
            if row["type"] == "user"
        }

    def make_bucket(self, name: str, keep_s: int, shard_s: int) -> None:
        """Make a bucket.

        Args:
            name: Its name.
            keep_s: Seconds that points are kept, 0 = for ever.
            shard_s: Seconds of one group of files.
        """
        rule = {"type": "expire", "everySeconds": keep_s, "shardGroupDurationSeconds": shard_s}
        wanted = {"orgID": self._org_of(), "name": name, "retentionRules": [rule]}
        self._call("POST", "/api/v2/buckets", wanted)

    def keep(self, bucket: Bucket, keep_s: int) -> None:
        """Change for how long a bucket keeps its points."""
        rules = [{"type": "expire", "everySeconds": keep_s}]
        self._call("PATCH", f"/api/v2/buckets/{bucket.id}", {"retentionRules": rules})

    def tasks(self) -> dict[str, InstalledTask]:
        """Name -> task of every task of the organisation."""
        found: dict[str, InstalledTask] = {}
        after: dict[str, Any] = {}
        while True:
            rows = self._call(
                "GET", "/api/v2/tasks", orgID=self._org_of(), limit=MOST_LISTED, **after
            )["tasks"]
            for row in rows:
                found[row["name"]] = InstalledTask(
                    row["id"],
                    row["flux"],
                    row["status"] == "active",
                    row.get("lastRunStatus", ""),
                    row.get("latestCompleted", ""),
                    row.get("lastRunError", ""),
                )
            if len(rows) < MOST_LISTED:
                return found
            after = {"after": rows[-1]["id"]}

    def make_task(self, flux: str) -> None:
        """Install a task; its script has its name and times."""
        self._call("POST", "/api/v2/tasks", {"orgID": self._org_of(), "flux": flux})

    def change_task(self, task: InstalledTask, flux: str) -> None:
        """Give a task another script, and let it run."""
        self._call("PATCH", f"/api/v2/tasks/{task.id}", {"flux": flux, "status": "active"})

    def secrets(self) -> list[str]:
        """Names of the secrets that the organisation's scripts may use."""
        path = f"/api/v2/orgs/{self._org_of()}/secrets"
        return [str(name) for name in self._call("GET", path).get("secrets") or ()]

    def set_secret(self, name: str, value: str) -> None:
        """Let the organisation's scripts use a secret."""
        self._call("PATCH", f"/api/v2/orgs/{self._org_of()}/secrets", {name: value})

    def tokens(self, about: str) -> dict[str, str]:
        """Token -> id of every active one with this description, the newest last."""
        rows = self._call("GET", "/api/v2/authorizations", orgID=self._org_of())["authorizations"]
        ours = [r for r in rows if r["description"] == about and r["status"] == "active"]
        return {r["token"]: r["id"] for r in sorted(ours, key=lambda r: str(r["createdAt"]))}

    def make_token(
        self, about: str, *, read: tuple[Bucket, ...] = (), write: tuple[Bucket, ...] = ()
    ) -> str:
        """A token that may do this and nothing else; the server chooses its text."""
        permissions = [
            {
                "action": action,
                "resource": {"type": "buckets", "id": bucket.id, "orgID": self._org_of()},
            }
            for action, buckets in (("read", read), ("write", write))
            for bucket in buckets
        ]
        wanted = {"orgID": self._org_of(), "description": about, "permissions": permissions}
        return str(self._call("POST", "/api/v2/authorizations", wanted)["token"])

    def remove_token(self, identifier: str) -> None:
        """Make a token worthless."""
        self._call("DELETE", f"/api/v2/authorizations/{identifier}")

    def flux(self, script: str, timeout_s: float) -> None:
        """Run a script for what it stores."""
        body = {"query": script, "type": "flux"}
        self._call("POST", FLUX, body, timeout_s=timeout_s, org=self._org)

    def query(self, bucket: str, influxql: str) -> list[dict[str, Any]]:
        """Rows of an InfluxQL query by name, times in ns."""
        answer = self._call("GET", "/query", db=bucket, q=influxql, epoch="ns")
        rows: list[dict[str, Any]] = []
        for result in answer["results"]:
            if "error" in result:
                raise InfluxError(f"{influxql}: {result['error']}")
            for series in result.get("series", ()):
                tags = series.get("tags", {})
                rows += [
                    tags | dict(zip(series["columns"], values, strict=True))
                    for values in series.get("values", ())
                ]
        return rows

    def _org_of(self) -> str:
        if not self._org_id and not self.has_org():
            raise InfluxError(
                f"no organisation {self._org!r} at {self._url}: check influx.org, or make it "
                "with `echowatch influx init`"
            )
        return self._org_id

    def _pages(self, path: str, what: str) -> list[Mapping[str, Any]]:
        """All rows of a list that comes in pages."""
        rows: list[Mapping[str, Any]] = []
        while True:
            page = self._call(
                "GET", path, orgID=self._org_of(), limit=MOST_LISTED, offset=len(rows)
            )[what]
            rows += page
            if len(page) < MOST_LISTED:
                return rows

    def _call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        timeout_s: float | None = None,
        **asked: str | int,
    ) -> Any:
        """Answer of one request, as JSON where it is JSON."""
        url = self._url + path + ("?" + urlencode(asked) if asked else "")
        headers = {"Authorization": f"Token {self._token}", "Content-Type": "application/json"}
        try:
            answer = self._pool.request(
                method,
                url,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                timeout=timeout_s or self._timeout_s,
                redirect=False,
            )
        except (HTTPError, OSError) as error:
            raise InfluxError(
                f"InfluxDB at {self._url} cannot be reached: {self._words(str(error))}"
            ) from error
        text = answer.data.decode(errors="replace")
        if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
            raise self._refusal(method, path, answer.status, text)
        if path == FLUX:
            return text
        try:
            return json.loads(text) if text.strip() else {}
        except ValueError:
            raise InfluxError(
                f"{self._url} does not answer {path} as InfluxDB 2 does: check influx.url "
                f"({self._words(text)})"
            ) from None

    def _refusal(self, method: str, path: str, status: int, text: str) -> InfluxError:
        try:
            told = json.loads(text)
            words = str(told.get("message") or told.get("error") or text)
        except (ValueError, AttributeError):
            words = text
        remedies: dict[int, str] = {  # by number: a proxy's status may have no name
            HTTPStatus.UNAUTHORIZED: ": the operator's token is not known there: check "
            "influx.admin_token",
            HTTPStatus.FORBIDDEN: ": the token may not do that: the operator's is needed, "
            "influx.admin_token",
        }
        return InfluxError(
            f"InfluxDB at {self._url} refused {method} {path}{remedies.get(status, '')} "
            f"({status} {self._words(words)})"
        )

    def _words(self, text: str) -> str:
        return " ".join(text.replace(self._token, "***").split())[:LONGEST_WORDS]
