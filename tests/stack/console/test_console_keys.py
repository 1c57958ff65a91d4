"""Keys, tenants and the audit log in a real Chromium: a key is made by its form, and every page of
them fits and is accessible."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from moegate.v1 import admin_pb2, admin_pb2_grpc
from tests import serving
from tests.console_serving import OPERATOR, ServingConsole, console_keys, serving_console
from tests.stack.console.chromium import Chromium, chromium
from tests.stack.console.test_console import check, installed_axe, sign_in

pytestmark = pytest.mark.asyncio(loop_scope="module")
Rig = tuple[ServingConsole, Chromium, str]


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="rig")
async def _rig() -> AsyncIterator[Rig]:
    axe = await asyncio.to_thread(installed_axe)
    settings = serving.config(keys=console_keys())
    async with serving_console(settings, ready=False) as served, chromium() as browser:
        yield served, browser, axe


async def test_a_key_is_made_and_its_pages_fit(rig: Rig) -> None:
    served, browser, axe = rig
    boss = (("authorization", f"Bearer {OPERATOR}"),)
    admin = admin_pb2_grpc.AdminServiceStub(served.serving.channel)
    tenant = admin_pb2.Tenant(name="lab", weight=2.0, rpcs=10)
    await admin.SetTenant(admin_pb2.SetTenantRequest(tenant=tenant), metadata=boss)
    async with browser.tab() as tab:
        await sign_in(tab, served.url, OPERATOR)
        await tab.open(f"{served.url}/keys")
        await tab.run("document.querySelector('#key_id').focus()")
        await tab.write("browser-bot")
        await tab.after_load(lambda: tab.press("Enter"))
        secret = await tab.run("document.querySelector('code.secret').innerText")
        assert secret.startswith("mg-")
        await check(tab, axe, "the secret")
        authenticator = served.serving.gateway.active.authenticator
        assert authenticator.authenticate((("x-api-key", secret),)).key_id == "browser-bot"
        for path in (
            *("/keys", "/keys/browser-bot", "/keys/browser-bot/revoke", "/keys/caller"),
            *("/tenants", "/tenants/lab/delete", "/audit"),
        ):
            await tab.open(served.url + path)
            assert secret not in await tab.run("document.documentElement.outerHTML")
            await check(tab, axe, path)
        await tab.open(f"{served.url}/keys/browser-bot/revoke")
        await tab.after_load(lambda: tab.run("document.querySelector('button.danger').click()"))
        assert "The key is revoked." in await tab.run("document.body.innerText")
        assert authenticator is not served.serving.gateway.active.authenticator
        assert served.serving.gateway.active.authenticator.caller_of("browser-bot") is None
        assert tab.complaints == []
