"""Signing in to the console with a real provider in a real Chromium.

The console is at localhost and the provider at 127.0.0.1: two sites for a browser, so that it obeys
SameSite between them.
"""

from __future__ import annotations

import socket
from pathlib import Path

from tests.console_serving import serving_console
from tests.integration.access.test_signing_in import with_provider
from tests.oidc_provider import serving_provider
from tests.stack.console.chromium import Tab, chromium


def free_port() -> int:
    """A port that was free a moment ago: the provider must know the console's before it starts."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


async def click(tab: Tab, selector: str) -> None:
    await tab.until(f"document.querySelector({selector!r}) !== null")
    await tab.run(f"setTimeout(() => document.querySelector({selector!r}).click())")


async def sign_in_at_provider(tab: Tab, login: str) -> None:
    """What a person does on the provider's own pages."""
    await tab.until("document.querySelector('input[name=login]') !== null")
    await tab.run(f"document.querySelector('input[name=login]').value = {login!r}")
    await tab.run("document.querySelector('input[name=password]').value = 'any'")
    await click(tab, "button.login-submit")
    await tab.until("document.querySelector('input[name=prompt][value=consent]') !== null")
    await click(tab, "button.login-submit")


async def test_a_person_signs_in_with_the_provider_and_out(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://localhost:{port}"
    async with serving_provider(public_url=url) as provider:
        settings = with_provider(provider.issuer, tmp_path, public_url=url)
        async with (
            serving_console(settings, ready=False, console_listen=f"127.0.0.1:{port}"),
            chromium() as browser,
            browser.tab() as tab,
        ):
            await tab.open(f"{url}/models?a=1")
            await tab.until("location.pathname === '/sign-in'")
            await click(tab, "#provider")
            await sign_in_at_provider(tab, "ann")
            await tab.until("location.pathname === '/models' && location.search === '?a=1'")
            await tab.until("document.body.innerText.includes('ann@example.com')")
            # No script can read the session, nor can a page of another site use it.
            assert await tab.run("document.cookie") == ""
            assert not [text for text in tab.complaints if "Security Policy" in text]
            await tab.open(provider.issuer)
            await tab.run(f"location.href = {url + '/models'!r}")
            await tab.until("location.pathname === '/sign-in'")
            await tab.open(f"{url}/models")
            await tab.until("document.body.innerText.includes('ann@example.com')")
            await click(tab, "form[action='/sign-out'] button")
            await tab.until(f"location.origin === {provider.issuer!r}")
            await click(tab, "button[name=logout]")
            await tab.until(f"location.href === {url + '/sign-in'!r}")
            await tab.open(f"{url}/models")
            await tab.until("location.pathname === '/sign-in'")
            assert not [text for text in tab.complaints if "Security Policy" in text]


async def test_whom_no_rule_fits_is_told_so(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://localhost:{port}"
    async with serving_provider(public_url=url) as provider:
        settings = with_provider(provider.issuer, tmp_path, public_url=url)
        async with (
            serving_console(settings, ready=False, console_listen=f"127.0.0.1:{port}"),
            chromium() as browser,
            browser.tab() as tab,
        ):
            await tab.open(f"{url}/sign-in")
            await click(tab, "#provider")
            await sign_in_at_provider(tab, "eve")
            await tab.until("document.querySelector('#fault') !== null")
            told = await tab.run("document.querySelector('#fault').innerText")
            assert told.startswith("You are eve, and no rule of this gateway lets you in.")
            await tab.open(f"{url}/models")
            await tab.until("location.pathname === '/sign-in'")
