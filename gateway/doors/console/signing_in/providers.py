"""The provider of the configuration in force, which a reload may change."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

import aiohttp

from gateway.auth.oidc.sign_in import OidcSignIn
from gateway.config.server import OidcConfig
from gateway.doors.entry.active_settings import ActiveSettings

MOST_CONNECTIONS = 16


class Providers:
    """Has one `OidcSignIn` for as long as its settings stay. `clock`: seconds."""

    def __init__(
        self, http: aiohttp.ClientSession, active: ActiveSettings, clock: Callable[[], float]
    ) -> None:
        self._http = http
        self._active = active
        self._clock = clock
        self._made: tuple[tuple[OidcConfig, str, str | None], OidcSignIn] | None = None

    @property
    def now(self) -> OidcSignIn | None:
        """The provider in force; None: there is none."""
        console = self._active.config.console
        if console.oidc is None or console.public_url is None:
            return None
        settings = (console.oidc, console.public_url, self._active.authenticator.client_secret)
        if self._made is None or self._made[0] != settings:
            self._made = settings, OidcSignIn(self._http, *settings, self._clock)
        return self._made[1]

    async def end_url(self) -> str | None:
        """Returns where a browser ends its session at the provider; None: there is no such
        place."""
        now = self.now
        return None if now is None else await now.end_url()


@contextlib.asynccontextmanager
async def provider_connections(
    active: ActiveSettings, clock: Callable[[], float]
) -> AsyncIterator[Providers]:
    """Has connections to the provider. Leaving the context closes them."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=MOST_CONNECTIONS),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,  # what is small on the way may be large after it
    ) as http:
        yield Providers(http, active, clock)
