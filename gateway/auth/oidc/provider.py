"""What a provider publishes: its discovery document and its keys, both kept for a while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from gateway.auth.oidc.fetching import ProviderFailed, fetched
from gateway.auth.oidc.id_token import Key, public_keys

log = logging.getLogger(__name__)

KEPT_S = 3600.0
"""Age at which document and keys are asked for again."""
AGAIN_S = 5.0
"""Shortest time between two requests for the document after a failure, and for keys that were not
among those known: tokens of strangers cannot cause more."""
MAX_URL = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Addresses of a provider; None: it tells none. `posts_secret`: the client's secret is wanted
    in the form, not in a header. `names_issuer`: every answer tells the issuer (RFC 9207)."""

    authorization: str
    token: str
    jwks: str
    userinfo: str | None
    end_session: str | None
    posts_secret: bool
    names_issuer: bool


class Provider:
    """A provider by its issuer. Of several that ask at once, one request is made."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        issuer: str,
        timeout_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._http = http
        self._issuer = issuer
        self._timeout_s = timeout_s
        self._clock = clock
        self._lock = asyncio.Lock()
        self._endpoints: tuple[float, Endpoints] | None = None
        self._failed: tuple[float, str] | None = None
        self._keys: tuple[float, list[Key]] | None = None

    async def endpoints(self) -> Endpoints:
        """Returns the addresses. Raises ProviderFailed."""
        async with self._lock:
            return await self._found_endpoints()

    async def keys(self, *, unknown: bool = False) -> list[Key]:
        """Returns the keys. `unknown`: a token names one that is not among them. Raises
        ProviderFailed."""
        async with self._lock:
            longest_s = AGAIN_S if unknown else KEPT_S
            if self._keys is None or self._keys[0] + longest_s < self._clock():
                endpoints = await self._found_endpoints()
                document = await fetched(self._http, endpoints.jwks, self._timeout_s)
                keys = public_keys(document)
                if not keys:
                    raise ProviderFailed("its JWKS has no key that can be used")
                self._keys = (self._clock(), keys)
            return self._keys[1]

    async def _found_endpoints(self) -> Endpoints:
        now = self._clock()
        if self._endpoints is not None and now < self._endpoints[0] + KEPT_S:
            return self._endpoints[1]
        if self._failed is not None and now < self._failed[0] + AGAIN_S:
            raise ProviderFailed(self._failed[1])
        url = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
        try:
            found = _endpoints(await fetched(self._http, url, self._timeout_s), self._issuer)
        except ProviderFailed as error:
            self._failed = (self._clock(), str(error))
            if self._endpoints is not None:
                log.warning("the old discovery document is used: %s", error)
                return self._endpoints[1]
            raise
        self._endpoints = (self._clock(), found)
        return found


def _endpoints(document: dict[str, Any], issuer: str) -> Endpoints:
    if document.get("issuer") != issuer:
        told = str(document.get("issuer"))[:200]
        raise ProviderFailed(f"the issuer calls itself {told!r}, not {issuer!r}")

    def url(name: str) -> str | None:
        """An address, at least as safe as that of the issuer."""
        told = document.get(name)
        if not isinstance(told, str) or len(told) > MAX_URL:
            return None
        schemes = ("https://",) if issuer.startswith("https://") else ("https://", "http://")
        return told if told.startswith(schemes) and told.isascii() and told.isprintable() else None

    authorization, token, jwks = (
        url(name) for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")
    )
    if authorization is None or token is None or jwks is None:
        raise ProviderFailed("its discovery document lacks an endpoint that sign-in needs")
    methods = document.get("token_endpoint_auth_methods_supported")
    basic = not isinstance(methods, list) or "client_secret_basic" in methods
    return Endpoints(
        authorization=authorization,
        token=token,
        jwks=jwks,
        userinfo=url("userinfo_endpoint"),
        end_session=url("end_session_endpoint"),
        posts_secret=not basic,
        names_issuer=document.get("authorization_response_iss_parameter_supported") is True,
    )
