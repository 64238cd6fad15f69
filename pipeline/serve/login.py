"""Requests in; whether they may see what is served, out.

A program shows the token as `Authorization: Bearer ...`. A person types it once: the browser keeps
a signed cookie that names its end, not the token. The token is never taken from an address: those
are kept in histories, logs and boards. Where no token is set, only this machine is served, and only
under its own names, so that no page of another site can have a browser ask for it.
"""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Final

from aiohttp import web

from pipeline.streaming.endpoints import is_loopback

COOKIE: Final = "echowatch"
SESSION_S: Final = 7 * 86_400
MIN_TOKEN: Final = 16
WRONG_S: Final = 1.0
MOST_TRYING: Final = 8
SCHEME: Final = "Bearer "


class LoginError(ValueError):
    """A token that cannot protect anything, in words."""


class Login:
    """Decides who may see.

    Args:
        token: None = everybody on this machine.
        secure: Whether pages go by https.
        clock: Unix seconds.

    Raises:
        LoginError: for a short token, or one that no header can carry.
    """

    def __init__(
        self, token: str | None, *, secure: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        if token is not None and (len(token) < MIN_TOKEN or not token.isascii()):
            raise LoginError(
                f"serve.token must have at least {MIN_TOKEN} ASCII characters, got {len(token)}: "
                "make one with `openssl rand -hex 24`"
            )
        self.needed = token is not None
        self._token = (token or "").encode()
        self._key = hashlib.sha256(b"echowatch serve session " + self._token).digest()
        self._secure = secure
        self._clock = clock
        self._trying = asyncio.Lock()
        self._tries = 0

    def knows(self, request: web.Request) -> bool:
        """Whether a request may be answered."""
        if not self.needed:
            return True
        given = request.headers.get("Authorization", "")
        if given.startswith(SCHEME):
            return self._is_token(given[len(SCHEME) :])
        return self._is_session(request.cookies.get(COOKIE, ""))

    def is_ours(self, request: web.Request) -> bool:
        """Whether a request without a token was meant for this machine, by its own name."""
        if self.needed:
            return True
        host = request.headers.get("Host", "").rpartition("@")[2]
        name = host.partition("]")[0].strip("[") if host[:1] == "[" else host.partition(":")[0]
        return is_loopback(name)

    async def admit(self, token: str, answer: web.Response) -> bool:
        """Let a person in who knows the token; a wrong one takes a second, one after the other.

        Raises:
            HTTPTooManyRequests: too many are trying.
        """
        if self._tries >= MOST_TRYING:
            raise web.HTTPTooManyRequests(headers={"Retry-After": "10"})
        self._tries += 1
        try:
            async with self._trying:
                if not self.needed or not self._is_token(token):
                    await asyncio.sleep(WRONG_S)
                    return False
        finally:
            self._tries -= 1
        until = str(round(self._clock()) + SESSION_S)
        answer.set_cookie(
            COOKIE,
            f"{until}.{self._signed(until)}",
            max_age=SESSION_S,
            httponly=True,
            secure=self._secure,
            samesite="Lax",  # a link on a board leads here from another site
        )
        return True

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(errors="replace"), self._token)

    def _is_session(self, given: str) -> bool:
        until, _, signature = given.partition(".")
        if not hmac.compare_digest(
            signature.encode(errors="replace"), self._signed(until).encode()
        ):
            return False
        return until.isdecimal() and int(until) > self._clock()

    def _signed(self, until: str) -> str:
        return hmac.new(self._key, until.encode(errors="replace"), hashlib.sha256).hexdigest()
