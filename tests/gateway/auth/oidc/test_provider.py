"""What a provider publishes: bounds on it, what is kept, and providers that misbehave."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from joserfc.jwk import ECKey

from gateway.auth.oidc.fetching import MAX_BYTES, ProviderFailed, fetched
from gateway.auth.oidc.provider import AGAIN_S, KEPT_S, Provider
from tests.misbehaving import on_a_port


@dataclass
class Misbehaving:
    """A provider that answers what tests want, and counts what it is asked for."""

    url: str = ""
    document: dict[str, Any] = field(default_factory=dict)
    keys: list[Any] = field(default_factory=list)
    answers: dict[str, web.Response] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    now_s: float = 1000.0

    def clock(self) -> float:
        return self.now_s

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if request.path in self.answers:
            return self.answers.pop(request.path)
        if request.path == "/large":
            return await self._large(request)
        if request.path == "/keys":
            return web.json_response({"keys": self.keys})
        assert request.path == "/.well-known/openid-configuration"
        return web.json_response(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/auth",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/keys",
            }
            | self.document
        )

    async def _large(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:  # until the reader has enough
                await response.write(b" " * 65_536)
        return response

    def put_key(self, kid: str) -> None:
        self.keys = [ECKey.generate_key("P-256", {"kid": kid}).as_dict(private=False)]


@contextlib.asynccontextmanager
async def misbehaving() -> AsyncIterator[tuple[Misbehaving, Provider]]:
    scripted = Misbehaving()
    scripted.put_key("first")
    app = web.Application()
    app.router.add_get("/{path:.*}", scripted.answer)
    async with on_a_port(app) as scripted.url, aiohttp.ClientSession() as http:
        yield scripted, Provider(http, scripted.url, 30.0, scripted.clock)


async def test_document_and_keys_are_asked_for_once_an_hour() -> None:
    async with misbehaving() as (scripted, provider):
        for _ in range(3):
            endpoints = await provider.endpoints()
            assert [key.kid for key in await provider.keys()] == ["first"]
        assert endpoints.token == f"{scripted.url}/token"
        assert len(scripted.asked) == 2
        scripted.now_s += KEPT_S + 1
        await provider.keys()
        assert len(scripted.asked) == 4


async def test_a_new_key_is_looked_for_and_strangers_cannot_make_many_requests() -> None:
    async with misbehaving() as (scripted, provider):
        await provider.keys()
        scripted.put_key("second")
        for _ in range(5):
            assert [key.kid for key in await provider.keys(unknown=True)] == ["first"]
        scripted.now_s += AGAIN_S + 1
        for _ in range(5):
            assert [key.kid for key in await provider.keys(unknown=True)] == ["second"]
        assert scripted.asked.count("/keys") == 2


async def test_a_provider_that_fails_is_asked_again_after_a_while() -> None:
    async with misbehaving() as (scripted, provider):
        path = "/.well-known/openid-configuration"
        scripted.answers[path] = web.Response(status=500)
        for _ in range(3):
            with pytest.raises(ProviderFailed, match="status 500"):
                await provider.endpoints()
        assert scripted.asked == [path]
        scripted.now_s += AGAIN_S
        await provider.endpoints()


async def test_an_old_document_serves_while_the_provider_fails() -> None:
    async with misbehaving() as (scripted, provider):
        before = await provider.endpoints()
        scripted.now_s += KEPT_S
        scripted.answers["/.well-known/openid-configuration"] = web.Response(status=503)
        assert await provider.endpoints() == before


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ({"issuer": "https://evil.example"}, "calls itself"),
        ({"issuer": None}, "calls itself"),
        ({"jwks_uri": None}, "lacks an endpoint"),
        ({"token_endpoint": "file:///etc/passwd"}, "lacks an endpoint"),
        ({"token_endpoint": ["http://127.0.0.1/"]}, "lacks an endpoint"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "lacks an endpoint"),
        ({"authorization_endpoint": "http://a/\r\nSet-Cookie: a=b"}, "lacks an endpoint"),
        ({"authorization_endpoint": "http://a/" + "a" * 3000}, "lacks an endpoint"),
    ],
)
async def test_a_document_of_another_provider_or_without_what_is_needed_is_refused(
    document: dict[str, Any], fault: str
) -> None:
    async with misbehaving() as (scripted, provider):
        scripted.document = document
        with pytest.raises(ProviderFailed, match=fault):
            await provider.endpoints()


async def test_what_is_no_address_of_a_page_is_left_out() -> None:
    async with misbehaving() as (scripted, provider):
        scripted.document = {"end_session_endpoint": "javascript:alert(1)", "userinfo_endpoint": 1}
        endpoints = await provider.endpoints()
        assert (endpoints.end_session, endpoints.userinfo) == (None, None)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (web.Response(status=302, headers={"Location": "/keys"}), "status 302"),
        (web.Response(body=b"[]"), "no JSON object"),
        (web.Response(body=b"{"), "no JSON object"),
        (web.Response(body=b'{"a":' + b"[" * 100_000), "no JSON object"),
        (web.Response(body=b"\xff\xfe"), "no JSON object"),
        (web.Response(body=b" " * (MAX_BYTES + 1) + b"{}"), "more than"),
    ],
)
async def test_other_answers_are_refused(answer: web.Response, fault: str) -> None:
    async with misbehaving() as (scripted, provider):
        scripted.answers["/.well-known/openid-configuration"] = answer
        with pytest.raises(ProviderFailed, match=fault):
            await provider.endpoints()
        assert "/keys" not in scripted.asked


async def test_an_endless_answer_is_given_up() -> None:
    async with misbehaving() as (scripted, _), aiohttp.ClientSession() as http:
        with pytest.raises(ProviderFailed, match="more than"):
            await fetched(http, f"{scripted.url}/large", 60.0)


async def test_keys_that_cannot_be_used_are_told() -> None:
    async with misbehaving() as (scripted, provider):
        scripted.keys = [{"kty": "oct", "k": "c2VjcmV0"}]
        with pytest.raises(ProviderFailed, match="no key that can be used"):
            await provider.keys()


async def test_a_provider_that_is_not_there_fails() -> None:
    async with aiohttp.ClientSession() as http:
        provider = Provider(http, "http://127.0.0.1:9", 10.0, lambda: 0.0)
        with pytest.raises(ProviderFailed):
            await provider.endpoints()
