"""The console's pages of money in a real Chromium, on a ledger with a simulated quarter."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.accounting.ledger.sqlite import SqliteDatabase
from moegate.v1 import admin_pb2, admin_pb2_grpc
from tests import serving
from tests.console_serving import ServingConsole, with_console
from tests.gateway.accounting.quarter import Quarter
from tests.gateway.accounting.test_quarter import run as run_quarter
from tests.integration.money.test_pool_cost import OPERATOR, OPERATOR_KEY
from tests.integration.money.test_statement import config
from tests.scripted import GOOD, Scripted, listening
from tests.stack.console.chromium import Chromium, Tab, chromium
from tests.stack.console.test_console import check, installed_axe, sign_in

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATHS = (
    "/money/now",
    "/money/statement?in=2026-Q1&per=month&share=use&by=tenant,kind",
    "/money/spend?in=2026-Q1&by=week,tenant&figure=metered",
    "/money/rates?in=2026-Q1&per=week",
    "/money/models?in=2026-Q1",
)
SHOWN = "getComputedStyle(document.querySelector('.chart-{}')).display !== 'none'"


@dataclass(frozen=True)
class Rig:
    """A gateway on the ledger, a browser, and axe's script."""

    served: ServingConsole
    browser: Chromium
    axe: str


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="rig")
async def _rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    axe = await asyncio.to_thread(installed_axe)
    folder: Path = tmp_path_factory.mktemp("money")
    database = SqliteDatabase(folder / "moegate-ledger.sqlite3")
    await run_quarter(Quarter(database, random.Random(3)))
    await database.close()
    script = Scripted(GOOD)
    async with listening(script):
        settings = with_console(config(script.url, folder))
        async with serving.serving_in(folder, settings) as running, chromium() as browser:
            url = f"http://{running.gateway.front.console_address}"
            yield Rig(ServingConsole(running, url), browser, axe)


async def opened(tab: Tab, rig: Rig, path: str) -> str:
    """Loads a page; returns what a reader sees."""
    await tab.open(rig.served.url + path)
    return str(await tab.run("document.body.innerText"))


async def test_pages_with_figures_are_accessible_wide_and_narrow(rig: Rig) -> None:
    async with rig.browser.tab() as tab:
        await tab.size(1280)
        await sign_in(tab, rig.served.url, OPERATOR_KEY)
        for path in PATHS:
            await opened(tab, rig, path)
            # Figures of charts are judged, too.
            await tab.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
            await check(tab, rig.axe, path)
            await tab.size(1280)
        assert tab.complaints == []


async def test_a_chart_is_the_picture_that_fits_the_screen(rig: Rig) -> None:
    async with rig.browser.tab() as tab:
        await sign_in(tab, rig.served.url, OPERATOR_KEY)
        for width, shown, hidden in ((1280, "wide", "narrow"), (400, "narrow", "wide")):
            await tab.size(width)
            await opened(tab, rig, "/money/statement?in=2026-03")
            assert await tab.run(SHOWN.format(shown))
            assert not await tab.run(SHOWN.format(hidden))
            smallest = await tab.run(
                f"Math.min(...[...document.querySelectorAll('.chart-{shown} text')]"
                ".map(t => t.getBoundingClientRect().height))"
            )
            assert smallest >= 10, "texts stay legible"
            colour = f"getComputedStyle(document.querySelector('.chart-{shown} .series-0')).fill"
            light = await tab.run(colour)
            await tab.scheme("dark")
            assert await tab.run(colour) != light
            await tab.scheme("light")


async def test_the_question_about_march_is_answered_by_the_form(rig: Rig) -> None:
    async with rig.browser.tab() as tab:
        await tab.size(1280)
        await sign_in(tab, rig.served.url, OPERATOR_KEY)
        await opened(tab, rig, "/money/statement")
        await tab.run("document.querySelector('#in').select()")
        await tab.run("document.querySelector('#in').focus()")
        await tab.write("2026-03")
        await tab.run("document.querySelector('#share').value = 'use'")
        await tab.run("document.querySelector('#in').focus()")
        await tab.after_load(lambda: tab.press("Enter"))
        told = await tab.run("document.body.innerText")
        assert "2026-03-01 00:00 to 2026-04-01 00:00" in told
        assert "It closes" in told
        names = await tab.run(
            "[...document.querySelectorAll('section table')[0].querySelectorAll('tbody th')]"
            ".map(th => th.innerText)"
        )
        assert sorted(names[:-1]) == ["ads", "mail", "search"]
        assert await tab.run("document.querySelector('#share').value") == "use"


async def budgets(rig: Rig) -> list[tuple[str, int]]:
    stub = admin_pb2_grpc.AdminServiceStub(rig.served.serving.channel)
    answer = await stub.ListBudgets(admin_pb2.ListBudgetsRequest(), metadata=OPERATOR)
    return [(each.scope.tenant, each.cap_nano_usd) for each in answer.budgets]


async def test_a_budget_is_set_and_deleted_by_keyboard(rig: Rig) -> None:
    async with rig.browser.tab() as tab:
        await tab.size(400)
        await sign_in(tab, rig.served.url, OPERATOR_KEY)
        await opened(tab, rig, "/budgets")
        for name, text in (("tenant", "team"), ("cap", "12.50")):
            await tab.run(f"document.querySelector('#{name}').focus()")
            await tab.write(text)
        await tab.after_load(lambda: tab.press("Enter"))
        told = await tab.run("document.body.innerText")
        assert "Set this budget?" in told
        assert "$12.50 each month" in told
        await check(tab, rig.axe, "confirmation")
        assert await budgets(rig) == []
        await tab.run("document.querySelector('main button').focus()")
        await tab.after_load(lambda: tab.press("Enter"))
        assert "The budget is set" in await tab.run("document.body.innerText")
        assert await budgets(rig) == [("team", 12_500_000_000)]
        await check(tab, rig.axe, "/budgets")
        await tab.run("document.querySelector('tbody a').focus()")
        await tab.after_load(lambda: tab.press("Enter"))
        assert "Delete this budget?" in await tab.run("document.body.innerText")
        await check(tab, rig.axe, "/budgets/delete")
        await tab.run("document.querySelector('main button').focus()")
        await tab.after_load(lambda: tab.press("Enter"))
        assert "The budget is deleted" in await tab.run("document.body.innerText")
        assert await budgets(rig) == []
