"""A real OpenID Connect provider on loopback, and somebody who signs in there with a browser."""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import aiohttp
import pytest

FOLDER = Path(__file__).parent / "oidc"
START_S = 60.0
PUBLIC_URL = "http://console.example"
"""The console as browsers and the provider know it. Tests stand for the proxy between."""
CLIENT_ID, CLIENT_SECRET = "moegate", "not-so-secret"
ACCOUNTS: dict[str, dict[str, Any]] = {
    "ann": {
        "email": "ann@example.com",
        "email_verified": True,
        "groups": ["staff", "platform"],
    },
    "bob": {"email": "bob@example.com", "email_verified": True, "groups": ["team-a"]},
    "eve": {"email": "ann@example.com", "email_verified": False, "groups": ["visitors"]},
}
"""What the provider tells about people, by their login. Eve claims the address of Ann."""


@dataclass(frozen=True, slots=True)
class ServingProvider:
    """A provider that accepts requests."""

    issuer: str
    process: asyncio.subprocess.Process

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.issuer.rpartition(":")[2])

    async def stop(self) -> None:
        """Ends it."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@contextlib.asynccontextmanager
async def serving_provider(
    *, port: int = 0, public_url: str = PUBLIC_URL, **client: Any
) -> AsyncIterator[ServingProvider]:
    """Runs a provider that knows the people of ACCOUNTS and one client, the gateway. It makes its
    keys at each start. `client`: further metadata of the client; None: it has none of this name."""
    if not (FOLDER / "node_modules/.ready").exists():
        pytest.fail("the provider is not installed: make tests/oidc/node_modules/.ready")
    known = {
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "redirect_uris": [f"{public_url}/sign-in/return"],
        "post_logout_redirect_uris": [f"{public_url}/sign-in"],
    }
    metadata = {name: value for name, value in (known | client).items() if value is not None}
    said = {"port": port, "accounts": ACCOUNTS, "clients": [metadata]}
    process = await asyncio.create_subprocess_exec(
        "node",
        "provider.mjs",
        json.dumps(said),
        cwd=FOLDER,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_S):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("ready "), line
        serving = ServingProvider(f"http://127.0.0.1:{int(line.split()[1])}", process)
        yield serving
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def signed_in_at_provider(url: str, login: str) -> str:
    """Follows to the pages of the provider, signs in and agrees, as a person does. Returns the
    address that the provider sends the browser back to."""
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as browser:
        method, form = "GET", None
        for _ in range(10):
            async with browser.request(method, url, data=form, allow_redirects=False) as answer:
                text = await answer.text()
                if "Location" in answer.headers:
                    url = urljoin(url, answer.headers["Location"])
                    if url.startswith(PUBLIC_URL):
                        return url
                    method, form = "GET", None
                    continue
            action = re.search(r'<form[^>]* action="([^"]+)"', text)
            prompt = re.search(r'name="prompt" value="(\w+)"', text)
            assert action is not None, text
            assert prompt is not None, text
            url, method = html.unescape(action[1]), "POST"
            form = {"prompt": prompt[1], "login": login, "password": "any"}
    raise AssertionError("the provider does not send the browser back")
