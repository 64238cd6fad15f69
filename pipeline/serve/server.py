"""A store of cases and snapshots in; pages over HTTP for people, and the same as JSON, out.

Read-only: GET and HEAD, beside the one POST that logs a person in. Addresses name cases, machines
and sensors; nothing is a path, no file is opened. Answers are bounded: see `pipeline.serve.pages`.
"""

import asyncio
import json
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, generate_latest

from pipeline.serve import pages
from pipeline.serve.login import Login, LoginError
from pipeline.serve.store import Case, Pair, SnapshotStore
from pipeline.service_settings import Serve
from pipeline.streaming.endpoints import EndpointError, Judge, address_trouble, is_loopback
from pipeline.streaming.metrics import CONTENT_TYPE

log = logging.getLogger(__name__)

MAX_ID: Final = 512
MAX_LINE: Final = 4096
MAX_BODY: Final = 4096
AT_ONCE: Final = 2
MOST_WAITING: Final = 32
SETTINGS: Final = "ECHOWATCH_SERVE__"
HEADERS: Final = {
    "Server": "echowatch",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
OPEN: Final = ("/health", "/login")
"""Answered without a token."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Found = tuple[str, bytes]
"""Content type and body."""


class Unknown(LookupError):  # noqa: N818  (what is told to who asked)
    """Nothing is known by a name, in words."""


class SnapshotServer:
    """Serves a store.

    Args:
        settings: Address and token.
        store: What is shown.
        health: Whether the store is as the topics are.

    Raises:
        LoginError: for an address beyond this machine without a token, or a bad token.
        SecretError: for a token file that cannot be read.
    """

    def __init__(self, settings: Serve, store: SnapshotStore, health: Judge) -> None:
        self._settings = settings
        self._store = store
        self._health = health
        token = settings.token_text()
        if token is None and not is_loopback(settings.host):
            raise LoginError(
                f"serve.host {settings.host or '(all addresses)'} would show every machine to the "
                f"whole network: set {SETTINGS}TOKEN_FILE, or {SETTINGS}HOST=127.0.0.1"
            )
        self._login = Login(token, secure=settings.cert_file is not None)
        self._drawing = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self._registry = CollectorRegistry()
        self._pages = Counter(
            "echowatch_serve_pages_total", "Pages and records given", ["page"],
            registry=self._registry,
        )  # fmt: skip
        self._snapshots = Counter(
            "echowatch_serve_snapshots_total", "Pictures of windows shown in these",
            registry=self._registry,
        )  # fmt: skip
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._guarded])
        for path in ("/", "/case", "/case.json", "/sensor", "/sensor.json", "/health", "/metrics"):
            app.router.add_get(path, self._answer)
        app.router.add_post("/login", self._log_in)
        app.on_response_prepare.append(_add_headers)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=1.0, max_line_size=MAX_LINE, keepalive_timeout=30
        )

    async def start(self) -> int:
        """Listen.

        Returns:
            The port.

        Raises:
            EndpointError: for an address or certificate that cannot be used.
        """
        host, port = self._settings.host, self._settings.port
        context = self._tls()
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port, ssl_context=context).start()
        except OSError as error:
            await self._runner.cleanup()
            raise EndpointError(address_trouble(error, f"{host}:{port}", SETTINGS)) from error
        if context is None and not is_loopback(host):
            log.warning(
                "pages and token can be read on the network: give a certificate "
                "(%sCERT_FILE, %sKEY_FILE) or put a proxy with TLS before it", SETTINGS, SETTINGS
            )  # fmt: skip
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening; may be called again, or without a start."""
        await self._runner.cleanup()

    def _tls(self) -> ssl.SSLContext | None:
        if self._settings.cert_file is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self._settings.cert_file, self._settings.key_file)
        except (OSError, ssl.SSLError) as error:
            raise EndpointError(
                f"{SETTINGS}CERT_FILE and KEY_FILE cannot be used: {error}: PEM is expected"
            ) from error
        return context

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let in who may, and say everything that goes wrong in one way."""
        try:
            if not self._login.is_ours(request):
                return _said(request, 421, "Ask for localhost", "This server has no token set: "
                             "it answers under the names of its own machine only.")  # fmt: skip
            if request.path not in OPEN and not self._login.knows(request):
                return self._ask(request)
            return await handler(request)
        except Unknown as unknown:
            return _said(request, 404, "Not known", str(unknown))
        except web.HTTPException as error:
            answer = _said(request, error.status, error.reason, _WORDS.get(error.status, ""))
            kept = ("Allow", "Retry-After")
            answer.headers.update({k: v for k, v in error.headers.items() if k in kept})
            return answer
        except Exception:
            log.exception("%s cannot be answered", request.path)
            return _said(request, 500, "Our mistake", "This page cannot be made: see the log.")

    def _ask(self, request: web.Request) -> web.Response:
        """Ask for the token."""
        words = "Who may see this knows the access token: ask whoever runs echowatch."
        answer = _said(request, 401, "Access token", words, form=request.path_qs)
        answer.headers["WWW-Authenticate"] = 'Bearer realm="echowatch"'
        return answer

    async def _log_in(self, request: web.Request) -> web.StreamResponse:
        given = await request.post()
        token, onward = given.get("token"), given.get("next")
        onward = _onward(onward) if isinstance(onward, str) else "/"
        answer = web.Response(status=303, headers={"Location": onward})
        if isinstance(token, str) and await self._login.admit(token.strip(), answer):
            return answer
        words = "That is not the access token."
        return _said(request, 401, "Access token", words, form=onward)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        """Draw an answer in a thread, a few at a time."""
        if request.path == "/health":
            return self._judged()
        if request.path == "/metrics":
            told = generate_latest(self._registry)
            return web.Response(body=told, headers={"Content-Type": CONTENT_TYPE})
        if self._waiting >= MOST_WAITING:
            raise web.HTTPServiceUnavailable(headers={"Retry-After": "5"})
        query = _query(request)
        self._waiting += 1
        try:
            async with self._drawing:
                kind, body = await asyncio.to_thread(self._draw, request.path, query)
        finally:
            self._waiting -= 1
        self._pages.labels(request.path).inc()
        answer = web.Response(body=body, content_type=kind, charset="utf-8")
        answer.enable_compression()
        return answer

    def _judged(self) -> web.Response:
        verdict = self._health()
        said = {**verdict.facts, "ok": verdict.ok, "reasons": list(verdict.reasons)}
        return web.json_response(said, status=200 if verdict.ok else 503)

    def _draw(self, path: str, query: Mapping[str, str]) -> Found:
        """Make a page or record.

        Raises:
            Unknown: where nothing has the name.
            HTTPBadRequest: for a query that names nothing.
        """
        if path == "/":
            return _html(pages.index_page(self._store.cases()))
        if path.startswith("/case"):
            case = self._case(query)
            every = pages.sensors_of(case)
            shown = [self._shown(one, case) for one in every[: pages.MAX_SENSORS]]
            rest = every[pages.MAX_SENSORS :]
            if path == "/case":
                return _html(pages.case_page(case, shown, rest))
            return _json(pages.case_record(case, shown, rest))
        one, newest = self._sensor(query)
        if path == "/sensor":
            return _html(pages.sensor_page(one, newest))
        return _json(pages.sensor_record(one))

    def _case(self, query: Mapping[str, str]) -> Case:
        case_id, asset = query.get("id"), query.get("asset")
        if case_id is not None and asset is None:
            case = self._store.case(case_id)
            if case is None:
                raise Unknown(f"There is no case {case_id}, or it is too old to be kept.")
            return case
        if asset is not None and case_id is None:
            if not (cases := self._store.cases(asset)):
                raise Unknown(f"There has been no case of machine {asset} that is still kept.")
            return cases[0]
        raise web.HTTPBadRequest

    def _shown(self, evidence: Mapping[str, Any], case: Case) -> pages.Shown:
        sensor_id = evidence["sensor_id"]
        pair = self._pair(sensor_id, case["opened_ns"], case["closed_ns"])
        return pages.Shown(evidence, pair, first=sensor_id == case["first_out"])

    def _pair(self, sensor_id: str, since_ns: int = 0, until_ns: int | None = None) -> Pair:
        pair = self._store.pair(sensor_id, since_ns, until_ns)
        self._snapshots.inc(sum(one is not None for one in (pair.now, pair.healthy)))
        return pair

    def _sensor(self, query: Mapping[str, str]) -> tuple[pages.Shown, Case | None]:
        if (sensor_id := query.get("id")) is None:
            raise web.HTTPBadRequest
        pair = self._pair(sensor_id)
        one = pair.now or pair.healthy
        if one is None:
            raise Unknown(
                f"No picture of sensor {sensor_id} is kept: the first is taken when its health "
                "has been learnt, others when it departs from it."
            )
        evidence = {
            "sensor_id": sensor_id, "name": sensor_id, "current": "ok", "reason": "",
            "band_hz": [0.0, 0.0], "band_share": None,
        }  # fmt: skip
        for case in self._store.cases(one.facts["asset"]):
            for found in case["sensors"]:
                if found["sensor_id"] == sensor_id:
                    return pages.Shown(found, pair), case
        return pages.Shown(evidence, pair), None


_WORDS: Final = {
    400: "Name a case by /case?id=... or /case?asset=..., or a sensor by /sensor?id=...",
    404: "There is no such page: / lists the cases.",
    405: "Pages can be read only.",
    413: "That is too much.",
    429: "Too many are trying: wait a little.",
    503: "Too many pages are asked for at once: try again in a moment.",
}


def _query(request: web.Request) -> dict[str, str]:
    """The names that a request asks for; others are ignored.

    Raises:
        HTTPBadRequest: for one that is empty, too long or given twice.
    """
    found: dict[str, str] = {}
    for name in ("id", "asset"):
        values = request.query.getall(name, [])
        if len(values) > 1 or any(not 0 < len(value) <= MAX_ID for value in values):
            raise web.HTTPBadRequest
        if values:
            found[name] = values[0]
    return found


def _onward(target: str) -> str:
    """Where a login leads: a page of ours, never another site."""
    path, _, query = target.partition("?")
    known = ("/case", "/case.json", "/sensor", "/sensor.json")
    if path not in known or not target.isprintable():
        return "/"
    named = [pair.partition("=") for pair in query[:MAX_LINE].split("&")]
    kept = [f"{name}={value}" for name, _, value in named if name in ("id", "asset")]
    return f"{path}?{'&'.join(kept)}"


def _said(
    request: web.Request, status: int, title: str, words: str, *, form: str = ""
) -> web.Response:
    """One sentence, as JSON to who asks for JSON."""
    if request.path.endswith((".json", "/health")):
        return web.json_response({"ok": False, "error": f"{title}: {words}"}, status=status)
    text = pages.said_page(title, words, form=form)
    return web.Response(text=text, status=status, content_type="text/html")


def _html(text: str) -> Found:
    return "text/html", text.encode()


def _json(record: Mapping[str, Any]) -> Found:
    return "application/json", json.dumps(record).encode()


async def _add_headers(_: web.Request, answer: web.StreamResponse) -> None:
    answer.headers.update({**HEADERS, "Content-Security-Policy": pages.policy()})
