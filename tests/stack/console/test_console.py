"""The console in a real Chromium: every page, as every role, wide and narrow, light and dark.

axe-core, the engine of most accessibility checkers, judges each page; npm installs it.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.doors.console.pages import PAGES
from moegate.v1 import batch_pb2, batch_pb2_grpc
from tests import serving
from tests.console_serving import (
    ADMIN,
    CALLER,
    OPERATOR,
    ServingConsole,
    console_keys,
    serving_console,
)
from tests.scripted import GOOD, Scripted, listening
from tests.serving import chat_request, read_stream
from tests.stack.console.chromium import Chromium, Tab, chromium

pytestmark = pytest.mark.asyncio(loop_scope="module")

AXE = Path(__file__).parent / "axe"
WIDTHS, SCHEMES = (1280, 400), ("light", "dark")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
ROLES = {OPERATOR: "operator", ADMIN: "tenant_admin", CALLER: "caller"}
NAMED = sorted({page.path for page in PAGES if page.method == "GET" and "{" not in page.path})
NEEDS = {page.path: {role.value for role in page.roles} for page in PAGES if page.method == "GET"}
"""Roles that may see a page."""


@dataclass(frozen=True)
class Rig:
    """A gateway with some traffic, a browser, and axe's script."""

    served: ServingConsole
    browser: Chromium
    axe: str
    batch_path: str


def installed_axe() -> str:
    """The script of axe-core, as its lock file pins it."""
    subprocess.run(
        ("npm", "ci", "--no-audit", "--no-fund"), cwd=AXE, check=True, capture_output=True,
        timeout=300,
    )  # fmt: skip
    return (AXE / "node_modules/axe-core/axe.min.js").read_text()


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="rig")
async def _rig() -> AsyncIterator[Rig]:
    axe = await asyncio.to_thread(installed_axe)
    engine, far = Scripted(GOOD), Scripted(GOOD)
    async with listening(engine), listening(far):
        settings = serving.config(
            pools=[serving.pool([engine.url])],
            remotes=[serving.remote(far.url)],
            keys=console_keys(),
        )
        async with serving_console(settings) as served, chromium() as browser:
            for key in (OPERATOR, ADMIN, CALLER):
                metadata = (("authorization", f"Bearer {key}"),)
                await read_stream(served.serving.stub.Generate(chat_request(), metadata=metadata))
            stub = batch_pb2_grpc.BatchServiceStub(served.serving.channel)
            item = batch_pb2.SubmitBatchRequest(item_id="one", request=chat_request())
            batch = (await stub.SubmitBatch(iter([item]), metadata=metadata)).batch
            yield Rig(served, browser, axe, f"/batches/{batch.batch_id}")


async def sign_in(tab: Tab, url: str, key: str) -> None:
    """Signs in by keyboard, as a person does."""
    await tab.open(f"{url}/sign-in")
    await tab.run("document.querySelector('input[type=password]').focus()")
    await tab.write(key)
    await tab.after_load(lambda: tab.press("Enter"))
    await tab.until("location.pathname !== '/sign-in'")


async def judged(tab: Tab, axe: str) -> list[str]:
    """What axe finds wrong: rule and element."""
    await tab.run(axe + ";0")
    found: list[Any] = await tab.run(
        f"axe.run(document, {{runOnly: {RULES}}}).then(r => r.violations.flatMap("
        "v => v.nodes.map(n => v.id + ': ' + n.html.slice(0, 200) + ' ' + n.failureSummary)))"
    )
    return found


async def check(tab: Tab, axe: str, where: str) -> None:
    """The page that is open fits both widths and schemes, and axe finds nothing wrong."""
    for width in WIDTHS:
        await tab.size(width)
        wide = await tab.run("[document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1], (where, wide)
        for scheme in SCHEMES:
            await tab.scheme(scheme)
            assert await judged(tab, axe) == [], (where, width, scheme)
    assert await tab.run("document.querySelectorAll('h1').length") == 1, where
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = await tab.run(ground)
    await tab.scheme("light")
    assert await tab.run(ground) != dark, where


@pytest.mark.parametrize("key", [OPERATOR, ADMIN, CALLER], ids=ROLES.get)
async def test_every_page_as_every_role(rig: Rig, key: str) -> None:
    url = rig.served.url
    async with rig.browser.tab() as tab:
        await tab.size(WIDTHS[0])
        await tab.open(f"{url}/sign-in")
        await check(tab, rig.axe, "/sign-in")
        await sign_in(tab, url, key)
        paths = [path for path in NAMED if path != "/requests/one"]
        for path in [*paths, rig.batch_path, "/requests/one?id=nothing", "/nowhere"]:
            denied = ROLES[key] not in NEEDS.get(path, set(ROLES.values()))
            await tab.open(url + path)
            told = await tab.run("document.body.innerText")
            assert ("Your role may not see this" in told) == denied, (path, told)
            await check(tab, rig.axe, path)
            offered = await tab.run(
                "[...document.querySelectorAll('nav.side a')].map(a => a.pathname)"
            )
            assert offered, path
            for other in offered:
                assert ROLES[key] in NEEDS[other], other
        hosts = {address.split("/")[2] for address in tab.requested if "://" in address}
        assert hosts == {url.removeprefix("http://")}
        # Pages that are denied or missing have such a status, which Chromium tells as well.
        faults = [text for text in tab.complaints if "Failed to load resource" not in text]
        assert faults == []


async def test_a_request_is_found_from_the_list(rig: Rig) -> None:
    async with rig.browser.tab() as tab:
        await sign_in(tab, rig.served.url, OPERATOR)
        async with asyncio.timeout(serving.READY_S):
            while True:
                await tab.open(f"{rig.served.url}/requests?order=tokens")
                if await tab.run("!!document.querySelector('tbody th a')"):
                    break
        await tab.after_load(lambda: tab.run("document.querySelector('tbody th a').click()"))
        told = await tab.run("document.body.innerText")
        assert "Why it ran where it did" in told
        assert "taken" in told
        await check(tab, rig.axe, "/requests/one")
        assert tab.complaints == []


async def test_the_keyboard_reaches_everything_in_order_and_shows_where_it_is(rig: Rig) -> None:
    async with rig.browser.tab() as tab:
        await sign_in(tab, rig.served.url, OPERATOR)
        await tab.open(f"{rig.served.url}/fleet")
        reached = []
        for _ in range(60):
            await tab.press("Tab")
            where = await tab.run(
                "(() => { const e = document.activeElement, s = getComputedStyle(e);"
                " return [e.tagName, (e.getAttribute('aria-label') || e.innerText || '').trim(),"
                " s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2]; })()"
            )
            if where[0] == "BODY":
                break
            assert where[2], f"no visible focus: {where}"
            reached.append(where[1])
        assert reached[:3] == ["Skip to the content", "moegate", "Sign out"]
        links = await tab.run("[...document.querySelectorAll('nav.side a')].map(a => a.innerText)")
        assert reached[3 : 3 + len(links)] == links
        assert "Pause" in reached
        assert "Groups of own" in reached
        # The first link leads past the navigation.
        await tab.open(f"{rig.served.url}/fleet")
        await tab.press("Tab")
        await tab.press("Enter")
        await tab.until("document.activeElement.id === 'main'")


async def test_live_parts_refresh_pause_and_say_when_they_cannot(rig: Rig) -> None:
    async with rig.browser.tab() as tab:
        await sign_in(tab, rig.served.url, OPERATOR)
        await tab.open(f"{rig.served.url}/fleet")
        status = "document.querySelector('[role=status]').innerText"
        await tab.until(f"{status}.includes('in service')")
        # It changes in place, so that focus and scrolling stay.
        await tab.run("document.querySelector('[data-live] h2').lang = 'en'")
        before = len(tab.requested)
        async with asyncio.timeout(serving.READY_S):
            while len(tab.requested) < before + 2:
                await asyncio.sleep(0.05)
        await tab.until("!document.querySelector('[data-live] h2').hasAttribute('lang')")
        await tab.run("document.querySelector('[data-live-pause]').focus()")
        await tab.press("Enter")
        await tab.until("document.activeElement.innerText === 'Go on'")
        await tab.send("Network.setBlockedURLs", urls=["*/fleet*"])
        await tab.press("Enter")
        await tab.until(f"{status}.startsWith('Not refreshed')")
        await tab.send("Network.setBlockedURLs", urls=[])
        await tab.until(f"{status}.includes('in service')")


async def test_pages_work_without_script(rig: Rig) -> None:
    async with rig.browser.tab() as tab:
        await tab.send("Emulation.setScriptExecutionDisabled", value=True)
        await tab.open(f"{rig.served.url}/sign-in")
        # What the test itself runs is no script of the page.
        await tab.run("document.querySelector('input[type=password]').focus()")
        await tab.write(OPERATOR)
        await tab.after_load(lambda: tab.press("Enter"))
        await tab.until("location.pathname === '/fleet'")
        told = await tab.run("document.body.innerText")
        assert "load it again" in told
        assert "Pause" not in told
        await tab.after_load(lambda: tab.run("document.querySelector('.who button').click()"))
        await tab.until("location.pathname === '/sign-in'")
