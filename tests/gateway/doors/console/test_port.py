"""The console's port: TLS, its bounds, the shared watch of the fleet, and the drain."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path

import aiohttp
import msgspec
import trustme

from gateway.config.gateway import GatewayConfig
from gateway.config.server import TlsConfig
from tests import serving
from tests.console_serving import ADMIN, OPERATOR, console_keys, serving_console, with_console
from tests.integration.processes.test_health import write_pair

SETTINGS = serving.config(remotes=[serving.remote("http://127.0.0.1:9")], keys=console_keys())


async def test_with_tls_for_clients_too_the_pages_reach_the_services(tmp_path: Path) -> None:
    authority = trustme.CA()
    write_pair(tmp_path, authority)
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    tls = TlsConfig(
        cert=str(tmp_path / "tls.crt"),
        key=str(tmp_path / "tls.key"),
        client_ca=str(tmp_path / "ca.crt"),
    )
    context = ssl.create_default_context()
    authority.configure_trust(context)
    authority.issue_cert("client").configure_cert(context)
    jar = aiohttp.CookieJar(unsafe=True)
    async with (
        serving_console(SETTINGS, ready=False, tls=tls) as served,
        aiohttp.ClientSession(
            served.url.replace("http://", "https://"),
            cookie_jar=jar,
            connector=aiohttp.TCPConnector(ssl=context),
        ) as session,
    ):
        fields = {"key": OPERATOR, "then": "/fleet"}
        async with session.post("/sign-in", data=fields, allow_redirects=False) as answer:
            assert answer.status in (200, 303)
            assert "Secure" in answer.headers["Set-Cookie"]
            assert answer.headers["Strict-Transport-Security"]
        async with session.get("/fleet") as answer:
            assert answer.status == 200
            assert "far" in await answer.text()


async def test_connections_beyond_the_bound_are_closed() -> None:
    async with serving_console(SETTINGS, ready=False, max_connections=2) as served:
        console = served.serving.gateway.front.console
        assert console is not None
        host, _, port = console.address.rpartition(":")
        opened = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
        await serving.until(lambda: console.listener.connections == 2)
        reader, writer = await asyncio.open_connection(host, int(port))
        with contextlib.suppress(ConnectionError):
            assert await reader.read(1) == b""
        for each in (writer, *(writer for _, writer in opened)):
            each.close()


async def test_the_watch_of_the_fleet_goes_on_when_the_key_that_began_it_is_revoked(
    tmp_path: Path,
) -> None:
    async with (
        serving_console(SETTINGS, ready=False) as served,
        served.reader(OPERATOR) as first,
    ):
        assert (await first.get("/fleet")).status == 200
        await served.serving.gateway.reload(with_console(_other_operator(SETTINGS)), tmp_path)
        assert (await first.get("/fleet")).path.startswith("/sign-in")
        async with served.reader(ADMIN) as second:
            watches = served.serving.gateway.watches
            await serving.until(lambda: watches.open_streams == 0)
            async with asyncio.timeout(serving.READY_S):
                while not watches.open_streams:  # the console hears of the end a moment later
                    shown = await second.get("/fleet")
                    assert (shown.status, shown.path) == (200, "/fleet")


def _other_operator(settings: GatewayConfig) -> GatewayConfig:
    """The operator's key is gone, and the admin is an operator."""
    [tenant] = settings.tenants
    by_id = {key.id: key for key in tenant.keys}
    admin = msgspec.structs.replace(by_id["admin"], role=by_id["op"].role)
    keys = tuple(key for key in tenant.keys if key.id not in ("op", "admin"))
    changed = msgspec.structs.replace(tenant, keys=(*keys, admin))
    return msgspec.structs.replace(settings, tenants=(changed,))


async def test_a_drain_ends_the_watch() -> None:
    async with serving_console(SETTINGS, ready=False) as served, served.reader(OPERATOR) as reader:
        assert (await reader.get("/fleet")).status == 200
        gateway = served.serving.gateway
        async with asyncio.timeout(serving.READY_S):
            await gateway.drain()
        assert gateway.watches.open_streams == 0
