"""The authorization code flow with PKCE: to the provider, and back with a code.

What ties the way back to the way there (state, nonce, code verifier) is in a sealed cookie of the
browser, so that any gateway with the same secret can take the way back.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import msgspec

from gateway.auth.oidc.fetching import ProviderFailed, Refused, fetched
from gateway.auth.oidc.id_token import InvalidToken, UnknownKey, verified_claims
from gateway.auth.oidc.provider import Endpoints, Provider
from gateway.auth.sealing import Seal
from gateway.config.server import OidcConfig

MOST_AT_ONCE = 16
"""Most exchanges of codes at once."""
MAX_CODE = 4096
RETURN_PATH = "/sign-in/return"


class SignInFailed(Exception):
    """Nobody is signed in. `text`: for the person; the exception's own text is for the log."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(reason)
        self.text = text


class _Flow(msgspec.Struct, frozen=True, array_like=True):
    """One way to the provider and back. `then`: page that follows."""

    state: str
    nonce: str
    verifier: str
    then: str


class OidcSignIn:
    """Signs people in with one provider. `clock`: seconds; `wall`: Unix seconds."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        oidc: OidcConfig,
        public_url: str,
        client_secret: str | None,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._http = http
        self._oidc = oidc
        self._public_url = public_url.rstrip("/")
        self._secret = client_secret
        self._wall = wall
        self._provider = Provider(http, oidc.issuer, oidc.timeout_s, clock)
        self._exchanges = 0

    async def begin(self, seal: Seal, then: str) -> tuple[str, str]:
        """Returns the address to send a browser to, and what its cookie must hold on the way back.
        `then`: page that follows. Raises ProviderFailed."""
        endpoints = await self._provider.endpoints()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        flow = _Flow(state, nonce, verifier, then)
        challenge = hashlib.sha256(flow.verifier.encode()).digest()
        asked = {
            "response_type": "code",
            "client_id": self._oidc.client_id,
            "redirect_uri": self._public_url + RETURN_PATH,
            "scope": " ".join(self._oidc.scopes),
            "state": flow.state,
            "nonce": flow.nonce,
            "code_challenge": base64.urlsafe_b64encode(challenge).decode().rstrip("="),
            "code_challenge_method": "S256",
        }
        return _with(endpoints.authorization, asked), seal.seal(msgspec.msgpack.encode(flow))

    async def finish(
        self, seal: Seal, cookie: str, answer: Mapping[str, str]
    ) -> tuple[dict[str, Any], str]:
        """Returns the claims about a person, and the page that follows. `cookie`: of `begin`.
        `answer`: the query that the provider sent the browser back with. Raises SignInFailed or
        ProviderFailed."""
        flow = _flow(seal, cookie)
        if not hmac.compare_digest(flow.state.encode(), answer.get("state", "").encode()):
            raise SignInFailed("This sign-in was not begun here. Begin again.", "wrong state")
        if self._exchanges >= MOST_AT_ONCE:
            text = "Many people sign in right now. Begin again in a moment."
            raise SignInFailed(text, f"{MOST_AT_ONCE} exchanges of codes at once")
        self._exchanges += 1
        try:
            endpoints = await self._provider.endpoints()
            self._check_answer(endpoints, answer)
            told = await self._tokens(endpoints, answer.get("code", ""), flow)
            claims = await self._claims(told, flow)
            return await self._with_userinfo(endpoints, told, claims), flow.then
        finally:
            self._exchanges -= 1

    async def end_url(self) -> str | None:
        """Returns where a browser ends its session at the provider; None: there is no such
        place."""
        try:
            endpoints = await self._provider.endpoints()
        except ProviderFailed:
            return None
        if endpoints.end_session is None:
            return None
        back = {
            "client_id": self._oidc.client_id,
            "post_logout_redirect_uri": f"{self._public_url}/sign-in",
        }
        return _with(endpoints.end_session, back)

    def _check_answer(self, endpoints: Endpoints, answer: Mapping[str, str]) -> None:
        issuer = answer.get("iss")
        if issuer != self._oidc.issuer and (issuer is not None or endpoints.names_issuer):
            text = "Another provider than ours answered. Begin again."
            raise SignInFailed(text, f"the answer is of issuer {str(issuer)[:200]!r}")
        if error := answer.get("error"):
            word = "".join(each for each in error[:100] if each.isprintable())
            text = f"The provider did not sign you in: {word}."
            raise SignInFailed(text, f"the provider answers {word}")
        if not 0 < len(answer.get("code", "")) <= MAX_CODE:
            raise SignInFailed("The provider gave no code. Begin again.", "no code, or a long one")

    async def _tokens(self, endpoints: Endpoints, code: str, flow: _Flow) -> dict[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._public_url + RETURN_PATH,
            "code_verifier": flow.verifier,
        }
        headers = {}
        if self._secret is None or endpoints.posts_secret:
            form["client_id"] = self._oidc.client_id
            if self._secret is not None:
                form["client_secret"] = self._secret
        else:
            pair = f"{quote(self._oidc.client_id, safe='')}:{quote(self._secret, safe='')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        try:
            return await fetched(
                self._http, endpoints.token, self._oidc.timeout_s, form=form, headers=headers
            )
        except Refused as error:
            if error.error != "invalid_grant":
                raise
            raise SignInFailed("This sign-in is over. Begin again.", str(error)) from None

    async def _claims(self, told: dict[str, Any], flow: _Flow) -> dict[str, Any]:
        token = told.get("id_token")
        try:
            if not isinstance(token, str):
                raise InvalidToken("there is none")
            try:
                return await self._verified(token, flow, unknown=False)
            except UnknownKey:
                return await self._verified(token, flow, unknown=True)
        except InvalidToken as error:
            text = "The provider's answer cannot be trusted. Begin again."
            raise SignInFailed(text, f"the ID token: {error}") from None

    async def _verified(self, token: str, flow: _Flow, *, unknown: bool) -> dict[str, Any]:
        keys = await self._provider.keys(unknown=unknown)
        return await asyncio.to_thread(
            verified_claims,
            token,
            keys,
            issuer=self._oidc.issuer,
            client_id=self._oidc.client_id,
            nonce=flow.nonce,
            now_unix_s=self._wall(),
        )

    async def _with_userinfo(
        self, endpoints: Endpoints, told: dict[str, Any], claims: dict[str, Any]
    ) -> dict[str, Any]:
        """The claims, with those that the provider tells at its UserInfo endpoint only."""
        token = told.get("access_token")
        if endpoints.userinfo is None or not isinstance(token, str) or not _is_token(token):
            return claims
        more = await fetched(
            self._http,
            endpoints.userinfo,
            self._oidc.timeout_s,
            headers={"Authorization": f"Bearer {token}"},
        )
        if more.get("sub") != claims["sub"]:
            text = "The provider's answer cannot be trusted. Begin again."
            raise SignInFailed(text, "UserInfo is about another sub")
        return more | claims


def _flow(seal: Seal, cookie: str) -> _Flow:
    content = seal.open(cookie)
    if content is None:
        text = "This sign-in was not begun in this browser, or too long ago. Begin again."
        raise SignInFailed(text, "no cookie of a sign-in, or an old one")
    return msgspec.msgpack.decode(content, type=_Flow)


def _is_token(text: str) -> bool:
    return text.isascii() and text.isprintable() and len(text) <= 16 << 10


def _with(url: str, query: Mapping[str, str]) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"
