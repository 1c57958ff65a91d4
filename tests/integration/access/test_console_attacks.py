"""Attacks on the console: what callers and addresses say is text on every page, and tenants see
nothing of each other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import quote

import msgspec

from gateway.config.gateway import KeyConfig, KeyRole, TenantConfig
from gateway.config.resolve.api_keys import key_sha256
from gateway.doors.console.pages import PAGES
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

TAGS = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
OTHER_ADMIN, OTHER = "mg-other-admin", "hidden-rival"
QUERIES = (
    *("id", "key_id", "span", "order", "page", "min_usd", "tenant", "key", "model", "by", "per"),
    *("share", "weight", "figure", "at", "from", "to", "in", "done", "after", "period", "label"),
    *("end_user", "then", "format", "state", "placement"),
)
SHOWN_S = 60.0
SEEN = [page for page in PAGES if page.method == "GET" and "{" not in page.path]


@contextlib.asynccontextmanager
async def attacked() -> AsyncIterator[ServingConsole]:
    """A console after requests with hostile texts, of two tenants."""
    engine = Scripted(GOOD)
    async with listening(engine):
        settings = serving.config(pools=[serving.pool([engine.url])], keys=console_keys())
        key = KeyConfig(
            id=f"{OTHER}-key", sha256=key_sha256(OTHER_ADMIN), role=KeyRole.TENANT_ADMIN
        )
        rival = TenantConfig(name=OTHER, keys=(key,))
        settings = msgspec.structs.replace(settings, tenants=(*settings.tenants, rival))
        async with serving_console(settings) as served:
            for key_of, name in ((CALLER, TAGS), (OTHER_ADMIN, f"{OTHER}-person")):
                request = chat_request(TAGS, end_user=name, labels={"team": name})
                metadata = (("authorization", f"Bearer {key_of}"),)
                await read_stream(served.serving.stub.Generate(request, metadata=metadata))
            yield served


async def until_holds(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits until the ledger has the requests."""
    async with asyncio.timeout(SHOWN_S):
        while not await condition():
            await asyncio.sleep(0.1)


async def test_what_callers_say_is_text_on_every_page() -> None:
    async with attacked() as served, served.reader(OPERATOR) as reader:

        async def shown() -> bool:
            return TAGS in (await reader.get("/money/spend?by=end_user")).words

        await until_holds(shown)
        paths = [
            *(page.path for page in SEEN),
            *(f"/money/spend?by={group}" for group in ("end_user", "label:team")),
            *("/requests?span=hour", "/requests?span=day&end_user=" + quote(TAGS)),
        ]
        for path in paths:
            text = (await reader.get(path)).text
            assert "<script>alert" not in text, path
            assert "<img src=x" not in text, path


async def test_what_addresses_say_is_text_on_every_page() -> None:
    async with attacked() as served, served.reader(OPERATOR) as reader:
        for path in [*(page.path for page in SEEN), "/nowhere", "/sign-in", f"/{quote(TAGS)}"]:
            query = "&".join(f"{name}={quote(TAGS)}" for name in QUERIES)
            for address in (f"{path}?{query}", *(f"{path}?{n}={quote(TAGS)}" for n in QUERIES)):
                shown = await reader.get(address)
                assert shown.status < 500, address
                assert "<script>alert" not in shown.text, address
                assert "<img src=x" not in shown.text, address


async def test_a_tenants_people_see_nothing_of_another_one() -> None:
    async with attacked() as served, served.reader(OPERATOR) as operator:

        async def shown() -> bool:
            return OTHER in (await operator.get("/money/spend?by=tenant")).words

        await until_holds(shown)
        for key in (ADMIN, CALLER):
            async with served.reader(key) as reader:
                for page in SEEN:
                    for query in ("", "?by=tenant", f"?tenant={OTHER}", f"?key={OTHER}-key"):
                        # The operator looks first: what is kept must not be shown to others.
                        await operator.get(page.path + query)
                        shown_to = await reader.get(page.path + query)
                        assert f"{OTHER}-person" not in shown_to.text, (key, page.path, query)
                        if OTHER not in query:
                            assert OTHER not in shown_to.text, (key, page.path, query)
