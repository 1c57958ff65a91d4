"""A real gateway with a console on loopback, and browsers without a screen that read its pages."""

from __future__ import annotations

import contextlib
import html
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from gateway.config.gateway import GatewayConfig, KeyConfig, KeyRole
from gateway.config.resolve.api_keys import key_sha256
from tests import serving
from tests.serving import Serving

OPERATOR, ADMIN, CALLER = "mg-operator-key", "mg-admin-key", "mg-caller-key"
"""Keys of `console_keys`, by the role of their holder."""


def console_keys() -> list[KeyConfig]:
    """A key of each role."""
    roles = {
        OPERATOR: ("op", KeyRole.OPERATOR),
        ADMIN: ("admin", KeyRole.TENANT_ADMIN),
        CALLER: ("caller", KeyRole.CALLER),
    }
    return [
        KeyConfig(id=name, sha256=key_sha256(key), role=role) for key, (name, role) in roles.items()
    ]


@dataclass(frozen=True, slots=True)
class Shown:
    """An answer of the console."""

    status: int
    text: str
    headers: Any
    path: str

    @property
    def words(self) -> str:
        """What a reader sees of it, with single spaces."""
        bare = re.sub(r"<(script|style)\b.*?</\1>|<[^>]+>", " ", self.text, flags=re.S)
        return " ".join(html.unescape(bare).split())

    @property
    def csrf(self) -> str:
        """Token of its forms."""
        found = re.search(r'name="csrf" value="([0-9a-f]+)"', self.text)
        assert found is not None, self.text
        return found[1]


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody at the console, with cookies."""

    url: str
    session: aiohttp.ClientSession

    async def get(self, path: str, *, follow: bool = True, **headers: str) -> Shown:
        """Loads a page. `headers`: with _ for -."""
        shown = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.get(
            self.url + path, headers=shown, allow_redirects=follow
        ) as answer:
            return await _shown(answer)

    async def post(
        self, path: str, fields: dict[str, str], *, origin: str | None = None, follow: bool = True
    ) -> Shown:
        """Sends a form, as a page of the console does. `origin`: of another page."""
        headers = {"Origin": self.url if origin is None else origin}
        async with self.session.post(
            self.url + path, data=fields, headers=headers, allow_redirects=follow
        ) as answer:
            return await _shown(answer)

    async def sign_in(self, key: str, then: str = "/") -> Shown:
        """Signs in with a key, and follows to the page."""
        return await self.post("/sign-in", {"key": key, "then": then})


async def _shown(answer: aiohttp.ClientResponse) -> Shown:
    return Shown(answer.status, await answer.text(), answer.headers, answer.url.raw_path_qs)


@dataclass(frozen=True, slots=True)
class ServingConsole:
    """A gateway with a console."""

    serving: Serving
    url: str

    @contextlib.asynccontextmanager
    async def reader(self, key: str = "") -> AsyncIterator[Reader]:
        """Somebody at the console, signed in with the key."""
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar) as session:
            reader = Reader(self.url, session)
            if key:
                shown = await reader.sign_in(key)
                assert shown.status == 200, shown.words
            yield reader


def with_console(settings: GatewayConfig, **server: Any) -> GatewayConfig:
    """The configuration with a console; `server`: further fields of its `server` part."""
    changed = msgspec.structs.replace(
        settings.server, **({"console_listen": "127.0.0.1:0"} | server)
    )
    return msgspec.structs.replace(settings, server=changed)


@contextlib.asynccontextmanager
async def serving_console(
    settings: GatewayConfig, *, ready: bool = True, **server: Any
) -> AsyncIterator[ServingConsole]:
    """Runs a gateway with a console."""
    async with serving.serving(with_console(settings, **server), ready=ready) as served:
        address = served.gateway.front.console_address
        assert address is not None
        yield ServingConsole(served, f"http://{address}")
