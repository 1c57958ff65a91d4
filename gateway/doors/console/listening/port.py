"""The console's port: its pages behind one listener, and the way to the gateway's own services."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from gateway.doors.console.assets import Assets
from gateway.doors.console.calls import calls_over, local_address, local_channel
from gateway.doors.console.door import ConsoleDoor
from gateway.doors.console.fleet import FleetWatch
from gateway.doors.console.pages import PAGES
from gateway.doors.console.rendering import Rendering
from gateway.doors.console.routes import Routes
from gateway.doors.console.signing_in.cookies import Cookies
from gateway.doors.console.signing_in.failures import FailedSignIns
from gateway.doors.console.signing_in.key_pages import key_pages
from gateway.doors.console.signing_in.provider_pages import provider_pages
from gateway.doors.console.signing_in.providers import provider_connections
from gateway.doors.console.visits import Services
from gateway.doors.entry.active_settings import ActiveSettings
from gateway.doors.entry.calls_in_progress import CallsInProgress
from gateway.doors.entry.certificates import Certificates
from gateway.doors.http.listening.listener import HttpListener


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleParts:
    """The parts of the gateway that the console is put together from.

    Attributes:
        server: the gateway's gRPC server, before its start.
        shares_port: other fronts of the same gateway listen on the same port.
    """

    active: ActiveSettings
    server: grpc.aio.Server
    in_progress: CallsInProgress
    certificates: Certificates | None
    clock: Callable[[], float]
    shares_port: bool = False


@dataclass(frozen=True, slots=True)
class ConsolePort:
    """A console that accepts requests. `address`: host:port with the bound port."""

    address: str
    listener: HttpListener


@contextlib.asynccontextmanager
async def console_port(parts: ConsoleParts) -> AsyncIterator[ConsolePort | None]:
    """Serves the console; yields None if `server.console_listen` is absent. Leaving the context
    closes all connections. Raises OSError if it cannot listen."""
    config = parts.active.config.server
    if config.console_listen is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="moegate-console-") as folder:
        local = local_address(Path(folder))
        parts.server.add_insecure_port(local)
        async with (
            local_channel(local) as channel,
            provider_connections(parts.active, parts.clock) as providers,
        ):
            calls = calls_over(channel)
            fleet = FleetWatch(calls, parts.clock)
            services = Services(
                active=parts.active,
                calls=calls,
                fleet=fleet,
                is_https=parts.certificates is not None,
            )
            cookies = Cookies(parts.active, speaks_tls=services.is_https)
            failed = FailedSignIns(parts.clock)
            signing_in = [
                *key_pages(cookies, failed, providers),
                *provider_pages(cookies, failed, providers),
            ]
            routes = Routes([*PAGES, *signing_in])
            assets = Assets()
            rendering = Rendering(routes.pages, assets, parts.clock)
            door = ConsoleDoor(routes, services, cookies, rendering, assets, parts.in_progress)
            listener = HttpListener(door, config, parts.clock)
            tls = None if parts.certificates is None else parts.certificates.following_context()
            address = await listener.start(
                config.console_listen,
                tls,
                field="server.console_listen",
                shares_port=parts.shares_port,
            )
            sweeping = asyncio.create_task(listener.run(), name="moegate-console-connections")
            try:
                yield ConsolePort(address, listener)
            finally:
                await listener.stop()
                sweeping.cancel()
                await asyncio.gather(sweeping, return_exceptions=True)
                await fleet.close()
