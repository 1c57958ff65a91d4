"""The cookie of a session: over TLS it has a name that no neighbouring host can set."""

from __future__ import annotations

import msgspec
import pytest

from gateway.auth.sessions import PREFIX
from gateway.config.server import ConsoleConfig
from tests import serving
from tests.console_serving import OPERATOR, console_keys, serving_console

SETTINGS = serving.config(remotes=[serving.remote("http://127.0.0.1:9")], keys=console_keys())


@pytest.mark.parametrize(
    ("public_url", "name", "secure"),
    [
        (None, "moegate_session", False),
        ("http://console.example", "moegate_session", False),
        ("https://console.example", "__Host-moegate_session", True),
    ],
)
async def test_the_cookie_is_as_safe_as_the_connection(
    public_url: str | None, name: str, secure: bool
) -> None:
    console = ConsoleConfig(public_url=public_url, session_s=600.0)
    settings = msgspec.structs.replace(SETTINGS, console=console)
    async with serving_console(settings, ready=False) as served, served.reader() as reader:
        shown = await reader.post("/sign-in", {"key": OPERATOR}, follow=False)
        parts = shown.headers["Set-Cookie"].split("; ")
        assert parts[0].startswith(f"{name}={PREFIX}")
        assert {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=600"} <= set(parts)
        assert ("Secure" in parts) == secure
        assert not any(part.startswith("Domain") for part in parts)


@pytest.mark.parametrize("cookie", [OPERATOR, f"{PREFIX}x", PREFIX, "", "x" * 4000])
async def test_what_is_no_session_signs_nobody_in(cookie: str) -> None:
    async with serving_console(SETTINGS, ready=False) as served, served.reader() as reader:
        reader.session.cookie_jar.clear()
        shown = await reader.get("/models", Cookie=f"moegate_session={cookie}")
        assert shown.path.startswith("/sign-in")


async def test_a_token_of_a_session_begins_no_other_one() -> None:
    async with serving_console(SETTINGS, ready=False) as served, served.reader() as reader:
        shown = await reader.post("/sign-in", {"key": OPERATOR}, follow=False)
        token = shown.headers["Set-Cookie"].partition(";")[0].partition("=")[2].strip('"')
        async with served.reader() as other:
            assert (await other.sign_in(token)).status == 401
            assert (await other.get("/models", Cookie=f"moegate_session={token}")).path == "/models"


async def test_each_sign_in_has_a_session_of_its_own() -> None:
    async with serving_console(SETTINGS, ready=False) as served:
        tokens = set()
        for _ in range(2):
            async with served.reader() as reader:
                reader.session.cookie_jar.update_cookies({"moegate_session": f"{PREFIX}planted"})
                shown = await reader.post("/sign-in", {"key": OPERATOR}, follow=False)
                tokens.add(shown.headers["Set-Cookie"].partition(";")[0])
        assert len(tokens) == 2
        assert "planted" not in str(tokens)
