"""Signing in to the console with a real provider (node-oidc-provider), and attacks on it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from http.cookies import Morsel, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
import pytest
from yarl import URL

from gateway.auth.oidc import provider as provider_module
from gateway.config.gateway import GatewayConfig, KeyRole
from gateway.config.server import ConsoleConfig, OidcConfig, SignInRuleConfig
from gateway.config.values import SecretConfig
from tests import serving
from tests.console_serving import (
    OPERATOR,
    Reader,
    ServingConsole,
    Shown,
    console_keys,
    serving_console,
)
from tests.oidc_provider import (
    CLIENT_ID,
    CLIENT_SECRET,
    PUBLIC_URL,
    ServingProvider,
    serving_provider,
    signed_in_at_provider,
)

SETTINGS = serving.config(remotes=[serving.remote("http://127.0.0.1:9")], keys=console_keys())
TENANT = SETTINGS.tenants[0].name
RULES = (
    SignInRuleConfig(value="platform", role=KeyRole.OPERATOR, tenant=TENANT),
    SignInRuleConfig(value="team-a", key_id="admin"),
)


def with_provider(
    issuer: str, folder: Path, *, public_url: str = PUBLIC_URL, **changed: Any
) -> GatewayConfig:
    """A configuration with a console whose people sign in with the provider."""
    secret = folder / "client-secret"
    secret.write_text(CLIENT_SECRET)
    oidc: dict[str, Any] = {
        "issuer": issuer,
        "client_id": CLIENT_ID,
        "client_secret": SecretConfig(file=str(secret)),
        "scopes": ("openid", "email", "groups"),
        "rules": RULES,
        "name": "the company",
    }
    console = ConsoleConfig(public_url=public_url, oidc=OidcConfig(**(oidc | changed)))
    return msgspec.structs.replace(SETTINGS, console=console)


@dataclass(frozen=True, slots=True)
class Both:
    """A console and its provider."""

    console: ServingConsole
    provider: ServingProvider


@contextlib.asynccontextmanager
async def both(folder: Path, **client: Any) -> AsyncIterator[Both]:
    is_public = "token_endpoint_auth_method" in client
    changed: dict[str, Any] = {"client_secret": None} if is_public else {}
    async with serving_provider(**client) as provider:
        settings = with_provider(provider.issuer, folder, **changed)
        async with serving_console(settings, ready=False) as console:
            yield Both(console, provider)


async def begun(reader: Reader, then: str = "/models") -> str:
    """Begins to sign in; returns where the browser is sent to."""
    shown = await reader.get(f"/sign-in/provider?then={then}", follow=False)
    assert shown.status == 303, shown.words
    return str(shown.headers["Location"])


async def returned(reader: Reader, url: str) -> Shown:
    """Comes back from the provider, by way of the proxy."""
    assert url.startswith(f"{PUBLIC_URL}/sign-in/return?")
    return await reader.get(url.removeprefix(PUBLIC_URL), follow=False)


async def signed_in(reader: Reader, login: str, then: str = "/models") -> Shown:
    return await returned(reader, await signed_in_at_provider(await begun(reader, then), login))


def changed_query(url: str, **values: str | None) -> str:
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query)) | values
    kept = {name: value for name, value in query.items() if value is not None}
    return urlunsplit(parts._replace(query=urlencode(kept)))


def session_cookie(shown: Shown) -> Morsel[str] | None:
    cookies = SimpleCookie()
    for line in shown.headers.getall("Set-Cookie", []):
        cookies.load(line)
    found = cookies.get("moegate_session")
    return found if found is not None and found.value else None


async def test_a_person_signs_in_comes_to_the_page_and_signs_out(tmp_path: Path) -> None:
    async with both(tmp_path) as up, up.console.reader() as reader:
        offered = await reader.get("/sign-in?then=/models")
        assert "Sign in with the company" in offered.words
        shown = await signed_in(reader, "ann")
        assert shown.status == 200, shown.words
        # Not a redirect, which would not carry a cookie that is for this site only.
        assert 'content="0; url=/models"' in shown.text
        cookie = session_cookie(shown)
        assert cookie is not None
        assert (cookie["samesite"], bool(cookie["httponly"])) == ("Strict", True)
        page = await reader.get("/models")
        assert "ann@example.com" in page.words
        assert "operator" in page.words
        assert (await reader.get("/fleet")).status != 403
        left = await reader.post("/sign-out", {"csrf": page.csrf}, follow=False)
        end = re.search(r'content="0; url=([^"]+)"', left.text)
        assert end is not None
        assert end[1].startswith(f"{up.provider.issuer}/session/end?client_id=moegate")
        assert (await reader.get("/models")).path.startswith("/sign-in")


async def test_a_rule_can_give_the_rights_of_a_key(tmp_path: Path) -> None:
    async with both(tmp_path) as up, up.console.reader() as reader:
        assert (await signed_in(reader, "bob")).status == 200
        page = await reader.get("/models")
        assert "tenant admin" in page.words
        assert (await reader.get("/fleet")).status == 403


async def test_whom_no_rule_fits_is_told_so_and_has_no_session(tmp_path: Path) -> None:
    async with both(tmp_path) as up, up.console.reader() as reader:
        shown = await signed_in(reader, "eve")
        assert shown.status == 403
        # Her address is not verified, so that she is not called by it.
        assert "You are eve, and no rule of this gateway lets you in." in shown.words
        assert session_cookie(shown) is None
        assert (await reader.get("/models")).path.startswith("/sign-in")


async def test_a_public_client_signs_in_with_pkce_alone(tmp_path: Path) -> None:
    public = {"token_endpoint_auth_method": "none", "client_secret": None}
    algorithm = {"id_token_signed_response_alg": "ES256"}
    async with both(tmp_path, **public, **algorithm) as up, up.console.reader() as reader:
        assert (await signed_in(reader, "ann")).status == 200


async def test_a_code_serves_once(tmp_path: Path) -> None:
    async with both(tmp_path) as up, up.console.reader() as reader:
        url = await signed_in_at_provider(await begun(reader), "ann")
        kept = {cookie.key: cookie.value for cookie in reader.session.cookie_jar}
        assert (await returned(reader, url)).status == 200
        again = await returned(reader, url)
        assert again.status == 401
        assert "was not begun in this browser" in again.words
        # Somebody who kept the cookie finds that the provider takes the code once.
        reader.session.cookie_jar.clear()
        reader.session.cookie_jar.update_cookies(kept, URL(reader.url))
        replayed = await returned(reader, url)
        assert replayed.status == 401
        assert "This sign-in is over" in replayed.words
        assert session_cookie(replayed) is None


Change = Callable[[str], str]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda url: changed_query(url, state="x" * 43), "not begun here"),
        (lambda url: changed_query(url, state=None), "not begun here"),
        (lambda url: changed_query(url, state="é"), "not begun here"),
        (lambda url: changed_query(url, iss="https://evil.example"), "Another provider"),
        (lambda url: changed_query(url, iss=None), "Another provider"),
        (lambda url: changed_query(url, code="guessed"), "This sign-in is over"),
        (lambda url: changed_query(url, code=None), "no code"),
        (lambda url: changed_query(url, code="x" * 5000), "no code"),
        (lambda url: changed_query(url, error="access_denied<b>"), "access_denied<b>"),
    ],
)
async def test_a_changed_answer_signs_nobody_in(tmp_path: Path, change: Change, said: str) -> None:
    async with both(tmp_path) as up, up.console.reader() as reader:
        shown = await returned(
            reader, change(await signed_in_at_provider(await begun(reader), "ann"))
        )
        assert shown.status == 401
        assert said in shown.words
        assert "<b>" not in shown.text
        assert session_cookie(shown) is None
        assert (await reader.get("/models")).path.startswith("/sign-in")


async def test_an_answer_to_another_browser_signs_nobody_in(tmp_path: Path) -> None:
    async with both(tmp_path) as up, up.console.reader() as eve, up.console.reader() as ann:
        url = await signed_in_at_provider(await begun(eve), "bob")
        without = await returned(ann, url)
        assert without.status == 401
        await begun(ann)
        with_another = await returned(ann, url)
        assert (with_another.status, session_cookie(with_another)) == (401, None)


async def test_a_code_of_another_sign_in_does_not_fit_its_verifier_and_nonce(
    tmp_path: Path,
) -> None:
    async with both(tmp_path) as up, up.console.reader() as eve, up.console.reader() as ann:
        injected = await signed_in_at_provider(await begun(eve), "bob")
        code = parse_qs(urlsplit(injected).query)["code"][0]
        own = await signed_in_at_provider(await begun(ann), "ann")
        shown = await returned(ann, changed_query(own, code=code))
        assert (shown.status, session_cookie(shown)) == (401, None)


@pytest.mark.parametrize("then", ["https://evil.example", "//evil.example", "/%09/evil.example"])
async def test_the_way_back_leads_to_no_other_site(tmp_path: Path, then: str) -> None:
    async with both(tmp_path) as up, up.console.reader() as reader:
        shown = await signed_in(reader, "ann", then)
        assert 'content="0; url=/"' in shown.text
        assert "evil" not in shown.text


async def test_without_the_provider_people_sign_in_with_a_key(tmp_path: Path) -> None:
    async with both(tmp_path) as up, up.console.reader() as reader:
        await up.provider.stop()
        shown = await reader.get("/sign-in/provider?then=/models")
        assert shown.status == 503
        assert "The company cannot be used now" in shown.words
        assert (await reader.sign_in(OPERATOR, "/models")).path == "/models"


async def test_new_keys_of_the_provider_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_module, "AGAIN_S", 0.0)
    async with both(tmp_path) as up, up.console.reader() as reader:
        assert (await signed_in(reader, "ann")).status == 200
        await up.provider.stop()
        async with serving_provider(port=up.provider.port):
            assert (await signed_in(reader, "ann")).status == 200


async def test_keys_are_guessed_slowly(tmp_path: Path) -> None:
    async with both(tmp_path) as up, up.console.reader() as reader:
        statuses = [(await reader.sign_in(f"mg-guess-{number}")).status for number in range(11)]
        assert statuses == [401] * 10 + [429]
        assert (await reader.sign_in(OPERATOR)).status == 429


async def test_a_session_ends_with_its_rule_at_a_reload(tmp_path: Path) -> None:
    async with both(tmp_path) as up, up.console.reader() as reader:
        assert (await signed_in(reader, "ann")).status == 200
        cookie = {each.key: each.value for each in reader.session.cookie_jar}["moegate_session"]
        metadata = (("authorization", f"Bearer {cookie}"),)
        active = up.console.serving.gateway.active
        assert active.authenticator.authenticate(metadata).subject == "ann@example.com"
        settings = with_provider(up.provider.issuer, tmp_path, rules=RULES[1:])
        server = active.config.server
        await up.console.serving.gateway.reload(
            msgspec.structs.replace(settings, server=server), tmp_path
        )
        assert (await reader.get("/models")).path.startswith("/sign-in")
