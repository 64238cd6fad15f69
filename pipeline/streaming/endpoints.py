"""What a worker knows of itself in; /live, /ready and /metrics over HTTP out.

Plain HTTP without a login, for orchestrators and Prometheus: it tells nothing secret and changes
nothing, and it is bound to this machine unless the settings say otherwise.
"""

import errno
import json
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from aiohttp import web

from pipeline.streaming.metrics import Metrics, exposition

log = logging.getLogger(__name__)

HOST_SETTING = "ECHOWATCH_WORKER__HOST"
HEADERS = {
    "Server": "echowatch",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}
INDEX = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>echowatch worker</title>
<h1>echowatch worker</h1>
<ul>
<li><a href="/live">/live</a>: must this process be restarted?</li>
<li><a href="/ready">/ready</a>: does it work on its share of the sensors?</li>
<li><a href="/metrics">/metrics</a>: numbers for Prometheus</li>
</ul>
</html>
"""


class EndpointError(RuntimeError):
    """The address of the endpoints cannot be used, in words."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether all is well.

    Attributes:
        reasons: Why not, for people; empty where `ok`.
        facts: What it was judged by; shown beside the verdict.
    """

    ok: bool
    reasons: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


Judge = Callable[[], Verdict]


class Endpoints:
    """The HTTP side of one worker.

    Args:
        host: Address to listen on; anything beyond loopback is allowed, with a warning.
        port: 0 = any free port.
        live: Whether the process must go on; called for each request, must be quick.
        ready: Whether it does its work.
        metrics: One per role.

    Raises:
        ValueError: for two metrics of one role, which would be the same series.
    """

    def __init__(
        self, host: str, port: int, *, live: Judge, ready: Judge, metrics: Sequence[Metrics]
    ) -> None:
        roles = [each.role for each in metrics]
        if len(set(roles)) < len(roles):
            raise ValueError(f"each role needs one Metrics, got {', '.join(roles)}")
        self._host, self._port = host, port
        self._metrics = tuple(metrics)
        app = web.Application()
        app.router.add_get("/", _index)
        app.router.add_get("/live", _judged(live))
        app.router.add_get("/ready", _judged(ready))
        app.router.add_get("/metrics", self._scrape)
        app.on_response_prepare.append(_add_headers)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    async def start(self) -> int:
        """Listen.

        Returns:
            The port.

        Raises:
            EndpointError: for an address that is taken, not ours or unknown.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            address = f"{self._host}:{self._port}"
            raise EndpointError(address_trouble(error, address, "ECHOWATCH_WORKER__")) from error
        if not is_loopback(self._host):
            log.warning(
                "/live, /ready and /metrics answer the whole network on %s, without a login; "
                "%s=127.0.0.1 keeps them on this machine",
                self._host or "all addresses",
                HOST_SETTING,
            )
        port: int = self._runner.addresses[0][1]
        return port

    async def stop(self) -> None:
        """Stop listening; may be called again, or without a start."""
        await self._runner.cleanup()

    async def _scrape(self, _: web.Request) -> web.Response:
        body, content_type = exposition(self._metrics)
        return web.Response(body=body, headers={"Content-Type": content_type})


def address_trouble(error: OSError, address: str, prefix: str) -> str:
    """Why an address cannot be listened on, in words.

    Args:
        error: What the system said.
        address: host:port.
        prefix: Of the settings that give them.
    """
    if error.errno == errno.EADDRINUSE:
        return (
            f"{address} is taken by another program (another one of ours?): set {prefix}PORT to "
            "a free port, or to 0 for no endpoints"
        )
    if error.errno == errno.EACCES:
        return f"{address} is not allowed to us: set {prefix}PORT to 1024 or more"
    return f"{address} is no address of this machine ({error}): set {prefix}HOST"


async def _index(_: web.Request) -> web.Response:
    return web.Response(text=INDEX, content_type="text/html")


def _judged(judge: Judge) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        verdict = judge()
        said = {**verdict.facts, "ok": verdict.ok, "reasons": list(verdict.reasons)}
        text = json.dumps(_plain(said), allow_nan=False)
        return web.json_response(text=text, status=200 if verdict.ok else 503)

    return answer


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


def _plain(value: Any) -> Any:
    """The value as JSON knows it; a number that is none becomes null."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if isinstance(value, str | bool | int | None) else str(value)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
