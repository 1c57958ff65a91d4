"""A real gateway with an HTTP port on loopback, for tests of HTTP doors."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from gateway.config.gateway import GatewayConfig
from gateway.server import RunningGateway
from scheduler.metering.settlement import Sink
from tests import serving
from tests.serving import KEY, Serving

BEARER = {"Authorization": f"Bearer {KEY}"}


@dataclass(frozen=True, slots=True)
class ServingHttp:
    """A gateway with an HTTP client that has the key."""

    serving: Serving
    session: aiohttp.ClientSession

    @property
    def gateway(self) -> RunningGateway:
        """The gateway."""
        return self.serving.gateway

    @property
    def url(self) -> str:
        """Address of the HTTP port."""
        http = self.gateway.front.http
        assert http is not None
        return f"http://{http.address}"

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """Posts JSON. Returns the status and the JSON of the answer."""
        shown = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.post(self.url + path, json=body, headers=shown) as response:
            return response.status, await response.json()


def with_http(settings: GatewayConfig, **server: Any) -> GatewayConfig:
    """The configuration with an HTTP port; `server`: further fields of its `server` part."""
    listen = settings.server.http_listen or "127.0.0.1:0"
    changed = msgspec.structs.replace(settings.server, **({"http_listen": listen} | server))
    return msgspec.structs.replace(settings, server=changed)


@contextlib.asynccontextmanager
async def serving_http(
    settings: GatewayConfig, *, ready: bool = True, sinks: tuple[Sink, ...] = (), **server: Any
) -> AsyncIterator[ServingHttp]:
    """Runs a gateway with an HTTP port, and a client."""
    async with (
        serving.serving(with_http(settings, **server), ready=ready, sinks=sinks) as served,
        aiohttp.ClientSession(headers=BEARER) as session,
    ):
        yield ServingHttp(served, session)
