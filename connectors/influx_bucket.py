"""One write request to InfluxDB 2 in, why it was not stored out.

The one place that knows influxdb-client and how InfluxDB words its refusals.
"""

import json
import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.rest import ApiException
from influxdb_client.service.write_service import WriteService
from urllib3.exceptions import HTTPError

LONGEST_RETRY_AFTER_S = 60.0
# A bad line of 65 kB comes back whole in the server's message.
LONGEST_WORDS = 500

BUSY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


class InfluxError(RuntimeError):
    """InfluxDB cannot be used as configured, in words."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request did not store all of its points.

    Attributes:
        status: Of HTTP, 0 where no answer came.
        why: In words.
        of_data: The points are at fault, or their number: sending the same again is no use.
        dropped: Points that the server says it set aside; it stored the others.
        tls: The connection could not be secured.
        retry_after_s: Wait the server asks for.
    """

    status: int
    why: str
    of_data: bool = False
    dropped: int = 0
    tls: bool = False
    retry_after_s: float | None = None


class InfluxBucket:
    """One bucket, as far as writing goes; safe to use from several threads.

    Args:
        url: `http://` or `https://` address.
        token: May write the bucket; never shown.
        org: Organisation.
        bucket: Bucket.
        timeout_s: Patience with one request.
        ca_file: Certificates (PEM) the server must chain to, else the system's.
        allow_plaintext: Permit http to other machines.

    Raises:
        InfluxError: for an address, token or file that cannot be used.
    """

    def __init__(
        self,
        url: str,
        token: str,
        org: str,
        bucket: str,
        *,
        timeout_s: float,
        ca_file: Path | None,
        allow_plaintext: bool,
    ) -> None:
        self._url, self._token, self._org, self._bucket = url, token, org, bucket
        context = secured(url, ca_file, allow_plaintext=allow_plaintext)
        if not token or " " in token or not token.isascii() or not token.isprintable():
            raise InfluxError(
                "the token must be printable ASCII without spaces: check influx.token or its file"
            )
        self._client: Any = InfluxDBClient(
            url, token, org=org, timeout=int(timeout_s * 1000), retries=False, ssl_context=context
        )

    def __repr__(self) -> str:
        return f"bucket {self._bucket!r} of {self._org!r} at {self._url}"

    def check(self) -> str | None:
        """Ask whether the server would take points; stores nothing.

        Returns:
            Words where it cannot be asked now, None where it would.

        Raises:
            InfluxError: where waiting would not help.
        """
        fault = self.write(b"")
        if fault is None:
            return None
        remedies = {
            HTTPStatus.UNAUTHORIZED: "does not know the token: check influx.token",
            HTTPStatus.FORBIDDEN: f"the token may not write bucket {self._bucket!r}: allow it to",
            HTTPStatus.NOT_FOUND: f"no organisation {self._org!r} with a bucket {self._bucket!r}: "
            "create it or check influx.org and influx.bucket",
        }
        if fault.tls:
            remedy = "the connection is not secure: check influx.url and influx.ca_file"
        elif fault.status in remedies:
            remedy = remedies[HTTPStatus(fault.status)]
        elif 0 < fault.status < HTTPStatus.INTERNAL_SERVER_ERROR and fault.status not in BUSY:
            remedy = "does not answer like InfluxDB 2: check influx.url"
        else:
            return fault.why
        raise InfluxError(f"InfluxDB at {self._url}: {remedy} ({fault.why})")

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def write(self, body: bytes, timeout_s: float | None = None) -> Fault | None:
        """Send lines once.

        Args:
            body: Lines of the line protocol, times in ns.
            timeout_s: Patience, where other than usual.

        Returns:
            None where all is stored.
        """
        patience = {} if timeout_s is None else {"_request_timeout": timeout_s * 1000}
        service: Any = WriteService
        try:
            _, status, _ = service(self._client.api_client).post_write_with_http_info(
                self._org, self._bucket, body, precision="ns", **patience
            )
        except ApiException as error:
            return self._fault(error)
        except (HTTPError, OSError, UnicodeError) as error:
            return Fault(0, self._words(f"{type(error).__name__}: {error}"))
        if status != HTTPStatus.NO_CONTENT:
            return Fault(status, f"answered {status} where 204 is expected")
        return None

    def _fault(self, error: Any) -> Fault:
        status = int(error.status or 0)
        if not status:
            return Fault(0, self._words(str(error.reason)), tls=True)
        told, headers = _told(error.body), error.headers or {}
        # A proxy may answer 400 too; that must not cost a point.
        of_data = status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or (
            status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY) and told is not None
        )
        dropped = re.findall(r"dropped=(\d+)", told or "")
        return Fault(
            status,
            self._words(f"{status} {told or error.reason}"),
            of_data=of_data,
            dropped=int(dropped[-1]) if dropped else 0,
            retry_after_s=_wait_s(headers.get("Retry-After")),
        )

    def _words(self, text: str) -> str:
        return " ".join(text.replace(self._token, "***").split())[:LONGEST_WORDS]


def secured(url: str, ca_file: Path | None, *, allow_plaintext: bool) -> ssl.SSLContext | None:
    """How to speak to a server; None = unencrypted, to this machine or where that is allowed.

    Raises:
        InfluxError: for an address or file that cannot be used.
    """
    try:
        parts = urlsplit(url)
        host, known = parts.hostname, parts.port is None or parts.port > 0
    except ValueError:
        host, known = None, False
    if not host or not known or parts.scheme not in ("http", "https") or parts.username:
        raise InfluxError(
            "influx.url must be http:// or https:// with a host and without user and password"
        )
    if parts.scheme == "http":
        if not allow_plaintext and not _on_this_machine(host):
            raise InfluxError(
                f"http to {host} would show the token to the network: use https, or allow it with "
                "ECHOWATCH_INFLUX__ALLOW_PLAINTEXT=true"
            )
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise InfluxError(
            f"influx.ca_file {ca_file} cannot be used: {error}: PEM is expected"
        ) from error


def _on_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _told(body: object) -> str | None:
    """Message of InfluxDB's own error record, None for any other text."""
    try:
        record = json.loads(str(body))
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    if "code" in record:  # InfluxDB 2
        return str(record.get("message", record["code"]))
    return str(record["error"]) if "error" in record else None  # InfluxDB 3


def _wait_s(text: str | None) -> float | None:
    """Retry-After, in seconds or as a date."""
    if text is None:
        return None
    try:
        wait_s = float(text)
    except ValueError:
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return None
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        wait_s = (at - datetime.now(UTC)).total_seconds()
    return min(max(0.0, wait_s), LONGEST_RETRY_AFTER_S)
