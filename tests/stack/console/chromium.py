"""A real Chromium without a screen, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.stack.install import apt_install

START_S = 90.0
ANSWER_S = 60.0
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-default-apps", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--remote-debugging-port=0", "--no-default-browser-check", "--no-proxy-server"),
)
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "Escape": 27}
"""Virtual key codes."""


def install() -> str:
    """Returns the path of Debian's Chromium, which it installs if it is not there."""
    found = shutil.which("chromium")
    if found is None:
        apt_install("chromium")
        found = shutil.which("chromium")
    assert found is not None
    return found


@dataclass
class Tab:
    """A page. `requested`: addresses that it loaded; `complaints`: errors of its console, of its
    scripts and of its security policy."""

    socket: aiohttp.ClientWebSocketResponse
    requested: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    _numbers: Any = field(default_factory=lambda: itertools.count(1))
    _answers: dict[int, asyncio.Future[Any]] = field(default_factory=dict)
    _loaded: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self) -> None:
        """Reads what the browser tells, until it closes the page."""
        async for message in self.socket:
            told = message.json()
            if "id" in told:
                answer = self._answers.pop(told["id"])
                if not answer.done():
                    answer.set_result(told)
                continue
            self._event(told["method"], told["params"])
        for answer in self._answers.values():
            answer.cancel()

    def _event(self, name: str, told: dict[str, Any]) -> None:
        match name:
            case "Page.loadEventFired":
                self._loaded.set()
            case "Network.requestWillBeSent":
                self.requested.append(told["request"]["url"])
            case "Log.entryAdded" if told["entry"]["level"] == "error":
                self.complaints.append(told["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(told["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                self.complaints.append(str(told["args"]))

    async def send(self, method: str, **given: object) -> Any:
        """Sends a command and returns its result."""
        number = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        await self.socket.send_json({"id": number, "method": method, "params": given})
        async with asyncio.timeout(ANSWER_S):
            told = await answer
        assert "error" not in told, (method, told)
        return told["result"]

    async def open(self, url: str) -> None:
        """Loads a page."""
        await self.after_load(lambda: self.send("Page.navigate", url=url))

    async def after_load(self, act: Callable[[], Awaitable[object]]) -> None:
        """Does something that loads a page, and waits for that."""
        self._loaded.clear()
        await act()
        async with asyncio.timeout(ANSWER_S):
            await self._loaded.wait()

    async def run(self, script: str) -> Any:
        """Returns the value of an expression of JavaScript."""
        told = await self._evaluated(script)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def until(self, script: str) -> None:
        """Waits until an expression is true. One that fails is not: a page that loads has no body
        yet."""
        told: Any = None
        try:
            async with asyncio.timeout(ANSWER_S):
                while True:
                    told = await self._evaluated(script)
                    if "exceptionDetails" not in told and told["result"].get("value"):
                        return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"never true: {script}: {told}") from None

    async def _evaluated(self, script: str) -> Any:
        return await self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )

    async def size(self, width: int, height: int = 900, *, scale: float = 1.0) -> None:
        """Gives the page a size in CSS pixels."""
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )

    async def scheme(self, name: str) -> None:
        """Asks for light or dark colours."""
        feature = {"name": "prefers-color-scheme", "value": name}
        await self.send("Emulation.setEmulatedMedia", features=[feature])

    async def press(self, key: str) -> None:
        """Presses a key."""
        code = KEYS[key]
        text = {"Enter": "\r", " ": " "}.get(key)
        shown: dict[str, object] = {"key": key, "windowsVirtualKeyCode": code}
        down = shown | ({"text": text} if text else {})
        await self.send("Input.dispatchKeyEvent", type="keyDown", **down)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **shown)

    async def write(self, text: str) -> None:
        """Writes text where the focus is."""
        await self.send("Input.insertText", text=text)

    async def picture(self, path: Path, *, whole: bool = True) -> None:
        """Saves a picture of the page as PNG; `whole`: also what is below its first screen."""
        told = await self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(told["data"]))


@dataclass(frozen=True)
class Chromium:
    """A running browser."""

    port: int
    session: aiohttp.ClientSession

    @contextlib.asynccontextmanager
    async def tab(self) -> AsyncIterator[Tab]:
        """A new page, without cookies."""
        base = f"http://127.0.0.1:{self.port}/json"
        async with self.session.put(f"{base}/new?about:blank") as answer:
            page = await answer.json(content_type=None)
        async with self.session.ws_connect(
            page["webSocketDebuggerUrl"], max_msg_size=0, heartbeat=None
        ) as socket:
            tab = Tab(socket)
            listening = asyncio.create_task(tab.listen())
            for domain in ("Page", "Network", "Runtime", "Log", "DOM"):
                await tab.send(f"{domain}.enable")
            await tab.send("Network.clearBrowserCookies")
            try:
                yield tab
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
        async with self.session.get(f"{base}/close/{page['id']}"):
            pass


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Chromium]:
    """Runs a browser with a new profile."""
    path = install()
    with tempfile.TemporaryDirectory(prefix="moegate-chromium-") as folder:
        process = await asyncio.create_subprocess_exec(
            path, *FLAGS, f"--user-data-dir={folder}", "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            port_file = Path(folder) / "DevToolsActivePort"
            async with asyncio.timeout(START_S):
                while not (port_file.exists() and port_file.read_text().count("\n")):
                    assert process.returncode is None, "Chromium has ended"
                    await asyncio.sleep(0.05)
            async with aiohttp.ClientSession() as session:
                yield Chromium(int(port_file.read_text().split()[0]), session)
        finally:
            # Its whole group: it has many processes, which this test started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            await asyncio.sleep(0)
