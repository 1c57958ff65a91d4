"""Pictures of the console's pages of money, by a real Chromium from a real gateway.

Its ledger has a simulated quarter (January to March 2026: three tenants, two pools and a remote,
a price change, an outage, crashes) and invented requests of the last weeks.

    python -m benchmarks.pictures.money docs/img
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from pathlib import Path

import msgspec

from gateway.accounting.ledger.sqlite import SqliteDatabase
from gateway.config.gateway import GatewayConfig, KeyConfig, TenantConfig
from gateway.config.ledger import BudgetConfig
from gateway.config.resolve.api_keys import key_sha256
from gateway.server import RunningGateway
from scheduler.budgets.budget_window import Period
from scheduler.contract import PlacementKind, Usage
from tests import serving
from tests.console_serving import with_console
from tests.gateway.accounting.quarter import TENANTS, Quarter
from tests.gateway.accounting.test_quarter import run as run_quarter
from tests.integration.money.test_pool_cost import OPERATOR_KEY
from tests.integration.money.test_statement import config
from tests.ledgers import settled
from tests.scripted import GOOD, Scripted, listening
from tests.serving import chat_request, read_stream
from tests.stack.console.chromium import Tab, chromium

DAY_S = 86_400.0
DAYS = 61
LEDGER = "moegate-ledger.sqlite3"
PICTURES = {
    "console-statement": "/money/statement?in=2026-03&share=use",
    "console-month": "/money/month",
    "console-spend": "/money/spend?in=2026-Q1&by=week,tenant&figure=metered",
    "console-rates": "/money/rates?in=2026-Q1&per=week",
    "console-now": "/money/now",
    "console-models": "/money/models",
    "console-budgets": "/budgets",
    "console-prices": "/prices",
}
"""Name of the file, and path of the page."""


def main() -> None:
    """Draws."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default=",".join(PICTURES), help="names, with commas")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--dark", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(draw(arguments))


async def draw(arguments: argparse.Namespace) -> None:
    """Runs the gateway and the browser."""
    with tempfile.TemporaryDirectory(prefix="moegate-pictures-") as name:
        folder = Path(name)
        database = SqliteDatabase(folder / LEDGER)
        await run_quarter(Quarter(database, random.Random(3)))
        await database.close()
        script = Scripted(GOOD)
        async with listening(script):
            settings = with_console(settings_of(script.url, folder))
            async with serving.serving_in(folder, settings) as served, chromium() as browser:
                fill(served.gateway)
                await served.gateway.accounting.write_rows()
                for tenant in TENANTS:
                    # A request opens the tenant's budget with what its rows sum up to.
                    metadata = (("authorization", f"Bearer {tenant}"),)
                    await read_stream(served.stub.Generate(chat_request(), metadata=metadata))
                url = f"http://{served.gateway.front.console_address}"
                async with browser.tab() as tab:
                    await tab.size(arguments.width)
                    await tab.scheme("dark" if arguments.dark else "light")
                    await sign_in(tab, url)
                    for name in arguments.only.split(","):
                        await tab.open(url + PICTURES[name])
                        await tab.picture(arguments.folder / f"{name}.png")
                        print(arguments.folder / f"{name}.png")


def settings_of(url: str, folder: Path) -> GatewayConfig:
    """A gateway with the quarter's tenants and two budgets."""
    tenants = tuple(
        TenantConfig(name=name, keys=(KeyConfig(id=f"{name}-key", sha256=key_sha256(name)),))
        for name in TENANTS
    )
    settings = config(url, folder)
    return msgspec.structs.replace(
        settings,
        tenants=(*settings.tenants, *tenants),
        budgets=(
            BudgetConfig(tenant="search", period=Period.MONTH, cap_usd="600"),
            BudgetConfig(tenant="ads", period=Period.MONTH, cap_usd="300", hard=False),
        ),
    )


def fill(gateway: RunningGateway) -> None:
    """Invented requests of the last weeks: by day more than by night, on Sundays fewer."""
    chance = random.Random(5)
    now_s = time.time()
    for day in range(DAYS):
        sunday = time.gmtime(now_s - day * DAY_S).tm_wday == 6
        for number in range(12 if sunday else 40):
            tenant = chance.choice(["search", "search", "ads", "mail"])
            away = chance.random() < 0.2
            usage = Usage(
                prompt_tokens=chance.randint(500, 9000),
                completion_tokens=chance.randint(50, 900),
                cached_tokens=chance.randint(0, 400),
            )
            attempt = settled(
                f"{tenant}-key/{day}-{number}",
                charged=chance.randint(10**8, 2 * 10**9),
                key_id=f"{tenant}-key",
                tenant=tenant,
                model=chance.choice(["moe", "moe", "moe-small"]),
                ended_unix_s=now_s - 60.0 - day * DAY_S - number * 300.0,
            )
            attempt = msgspec.structs.replace(attempt, usage=usage)
            if away:
                attempt = msgspec.structs.replace(
                    attempt, placement="far", pool="", kind=PlacementKind.REMOTE
                )
            gateway.accounting.record_attempt(attempt)


async def sign_in(tab: Tab, url: str) -> None:
    """Signs in as the operator."""
    await tab.open(f"{url}/sign-in")
    await tab.run("document.querySelector('input[type=password]').focus()")
    await tab.write(OPERATOR_KEY)
    await tab.after_load(lambda: tab.press("Enter"))


if __name__ == "__main__":
    main()
