"""A page of Grafana in, what a person sees out: a picture, and what is broken in it.

Headless Chromium, spoken to by its DevTools protocol.
"""

import asyncio
import base64
import itertools
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import aiohttp

from service_influx import DIRECT
from service_process import MissingError, Server

NAMES = ("chromium", "chromium-browser", "google-chrome")
LOAD_S = 60.0
QUIET_S = 0.8
# Panels load when they come into sight: a window taller than any board shows all of them.
TALL_PX = 6000
# Title and trouble of each broken panel, and the height of all of them. Grafana 10 to 13.
LOOK = """
(() => {
  const broken = [];
  const panels = [...document.querySelectorAll('section[data-testid^="data-testid Panel header"], '
    + 'section[aria-label$=" panel"], div[data-testid^="data-testid Panel header"]')];
  for (const panel of panels) {
    const title = (panel.querySelector('h2, h6')?.innerText || panel.getAttribute('data-testid')
      || '').replace('data-testid Panel header ', '').trim();
    const text = panel.innerText;
    const error = panel.querySelector('[data-testid="data-testid Panel status error"], '
      + '[aria-label="Panel status"], [data-testid*="Panel header error"]');
    if (error) broken.push([title, 'error']);
    if (/(^|\\n)No data( in response)?(\\n|$)/.test(text)) broken.push([title, 'No data']);
    if (/plugin not found|Error loading/i.test(text)) broken.push([title, 'plugin']);
  }
  for (const alert of document.querySelectorAll('[data-testid="data-testid Alert error"]'))
    broken.push(['page', alert.innerText]);
  const items = [...document.querySelectorAll('.react-grid-item, section')];
  const bottom = Math.max(0, ...items.map((i) => i.getBoundingClientRect().bottom));
  const busy = document.querySelectorAll('[aria-label="Panel loading bar"], .panel-loading, '
    + '[data-testid="data-testid Panel loading bar"], .preloader').length;
  return {panels: panels.length, broken, bottom: Math.ceil(bottom), busy};
})()
"""


def chromium() -> str:
    """The browser to run.

    Raises:
        MissingError: without one.
    """
    for name in filter(None, (os.environ.get("TEST_CHROMIUM"), *NAMES)):
        if found := shutil.which(name):
            return found
    raise MissingError("Chromium: needs chromium on the PATH, or its path in TEST_CHROMIUM")


class Chromium(Server):
    """One headless browser, which opens pages one after the other."""

    def __init__(self, folder: Path) -> None:
        super().__init__("Chromium", folder)
        self.binary = chromium()

    def command(self) -> list[str]:
        """What to run."""
        return [
            *(self.binary, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking"),
            *("--hide-scrollbars", "--force-color-profile=srgb", "--mute-audio", "--lang=en-US"),
            *("--no-proxy-server", f"--remote-debugging-port={self.port}"),
            *(f"--user-data-dir={self.folder / 'profile'}", "about:blank"),
        ]

    def ready(self) -> bool:
        """Whether it takes orders."""
        try:
            return bool(self._pages())
        except OSError:
            return False

    def _pages(self) -> list[dict[str, Any]]:
        with DIRECT.open(f"http://127.0.0.1:{self.port}/json/list", timeout=5) as answer:
            found = json.loads(answer.read())
        return [page for page in found if page["type"] == "page"]

    def look(
        self, url: str, cookie: tuple[str, str], width: int, height: int, file: Path | None
    ) -> dict[str, Any]:
        """Open a page, wait until it rests, look at it, and keep the picture.

        Args:
            url: Of the page.
            cookie: Name and value of the session's.
            width: Of the window, pixels.
            height: Likewise; 0 = as tall as the board.
            file: PNG to write; None = none.

        Returns:
            `panels`: their number; `broken`: pairs of title and trouble; `bottom`: height of the
            board, pixels.
        """
        address = self._pages()[0]["webSocketDebuggerUrl"]
        seen, picture = asyncio.run(_look(address, url, cookie, width, height))
        if file is not None:
            file.write_bytes(picture)
        return seen


class _Tab:
    """One tab: orders and their answers, and what is still loading."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.loading: set[str] = set()
        self.changed = time.monotonic()

    async def listen(self) -> None:
        async for message in self._socket:
            said = json.loads(message.data)
            if (number := said.get("id")) in self._answers:
                self._answers.pop(number).set_result(said)
            elif said.get("method") == "Network.requestWillBeSent":
                self._note(said, started=True)
            elif said.get("method") in ("Network.loadingFinished", "Network.loadingFailed"):
                self._note(said, started=False)

    def _note(self, said: dict[str, Any], *, started: bool) -> None:
        request = said["params"]["requestId"]
        # The live channel stays open for ever.
        if started and not said["params"]["request"]["url"].startswith(("ws:", "wss:", "data:")):
            self.loading.add(request)
        elif not started:
            self.loading.discard(request)
        self.changed = time.monotonic()

    async def order(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        said = await asyncio.wait_for(self._answers[number], LOAD_S)
        if "error" in said:
            raise RuntimeError(f"Chromium: {method}: {said['error']['message']}")
        result: dict[str, Any] = said["result"]
        return result

    async def evaluate(self, script: str) -> Any:
        said = await self.order("Runtime.evaluate", expression=script, returnByValue=True)
        return said["result"].get("value")

    async def rested(self) -> dict[str, Any]:
        """What is seen once nothing loads any more: panels, the same twice."""
        until = time.monotonic() + LOAD_S
        before: dict[str, Any] = {}
        while time.monotonic() < until:
            await asyncio.sleep(0.1)
            if self.loading or time.monotonic() - self.changed < QUIET_S:
                continue
            seen: dict[str, Any] = await self.evaluate(LOOK)
            if seen == before and seen["panels"] and not seen["busy"] and not self.loading:
                return seen
            before = seen
        raise RuntimeError(f"page still loads after {LOAD_S:.0f} s: {before}")


async def _look(
    address: str, url: str, cookie: tuple[str, str], width: int, height: int
) -> tuple[dict[str, Any], bytes]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(address, max_msg_size=0) as socket,
    ):
        tab = _Tab(socket)
        listening = asyncio.create_task(tab.listen())
        try:
            await tab.order("Network.enable")
            name, value = cookie
            await tab.order("Network.setCookie", name=name, value=value, url=url)
            await _sized(tab, width, height or TALL_PX)
            await tab.order("Page.navigate", url=url)
            seen = await tab.rested()
            if not height:
                await _sized(tab, width, max(seen["bottom"] + 16, 300))
                seen = await tab.rested() | {"bottom": seen["bottom"]}
            shot = await tab.order("Page.captureScreenshot", format="png")
            await tab.order("Page.navigate", url="about:blank")
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    return seen, base64.b64decode(shot["data"])


async def _sized(tab: _Tab, width: int, height: int) -> None:
    await tab.order(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=height,
        deviceScaleFactor=1,
        mobile=width < 600,
    )
