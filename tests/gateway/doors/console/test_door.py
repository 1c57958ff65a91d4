"""The console's door: who may see what, what a form needs, and the headers of every answer."""

from __future__ import annotations

import contextlib
import re

import pytest

from tests import serving
from tests.console_serving import (
    ADMIN,
    CALLER,
    OPERATOR,
    ServingConsole,
    console_keys,
    serving_console,
)

UNREACHED = serving.remote("http://127.0.0.1:9")
SETTINGS = serving.config(remotes=[UNREACHED], keys=console_keys())


def console() -> contextlib.AbstractAsyncContextManager[ServingConsole]:
    return serving_console(SETTINGS, ready=False)


async def test_every_answer_lets_the_browser_load_and_send_nothing_else() -> None:
    async with console() as served, served.reader(OPERATOR) as reader:
        for path in ("/fleet", "/nowhere", "/static/console.css", "/static/no.css", "/sign-in"):
            shown = await reader.get(path)
            policy = shown.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert shown.headers["X-Content-Type-Options"] == "nosniff"
            assert shown.headers["Referrer-Policy"] == "same-origin"
        assert (await reader.get("/fleet")).headers["Cache-Control"] == "no-store"


async def test_browsers_keep_static_files_of_the_version_that_they_asked_for_only() -> None:
    async with console() as served, served.reader() as reader:
        found = re.search(
            r'href="(/static/console\.css\?v=[0-9a-f]+)"', (await reader.get("/")).text
        )
        assert found is not None
        assert "immutable" in (await reader.get(found[1])).headers["Cache-Control"]
        # A gateway of another version made the page, as during an upgrade.
        other = await reader.get("/static/console.css?v=000000000000")
        assert (other.status, other.headers["Cache-Control"]) == (200, "no-store")


async def test_a_reader_signs_in_and_comes_back_to_the_page() -> None:
    async with console() as served, served.reader() as reader:
        asked = await reader.get("/models?x=1&y=2")
        assert asked.path.startswith("/sign-in?then=")
        assert "Sign in" in asked.words
        wrong = await reader.sign_in("mg-nobody")
        assert wrong.status == 401
        assert "not known" in wrong.words
        shown = await reader.sign_in(OPERATOR, "/models?x=1&y=2")
        assert shown.path == "/models?x=1&y=2"
        assert "op of team, operator" in shown.words
        assert OPERATOR not in shown.text
        left = await reader.post("/sign-out", {"csrf": shown.csrf})
        assert left.path == "/sign-in"
        assert (await reader.get("/models")).path.startswith("/sign-in")


@pytest.mark.parametrize("then", ["//evil.example", "/\\evil.example", "https://evil.example"])
async def test_signing_in_leads_to_no_other_site(then: str) -> None:
    async with console() as served, served.reader() as reader:
        shown = await reader.post("/sign-in", {"key": OPERATOR, "then": then}, follow=False)
        assert (shown.status, shown.headers["Location"]) == (303, "/")


async def test_the_cookie_is_for_this_site_and_no_script() -> None:
    async with console() as served, served.reader() as reader:
        shown = await reader.post("/sign-in", {"key": OPERATOR}, follow=False)
        cookie = shown.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert OPERATOR not in cookie


@pytest.mark.parametrize(("key", "first"), [(OPERATOR, "/fleet"), (ADMIN, "/models")])
async def test_the_first_page_is_that_of_the_role(key: str, first: str) -> None:
    async with console() as served, served.reader(key) as reader:
        assert (await reader.get("/")).path == first


@pytest.mark.parametrize("key", [ADMIN, CALLER])
async def test_a_page_that_a_role_may_not_see_says_so_and_is_not_offered(key: str) -> None:
    async with console() as served, served.reader(key) as reader:
        shown = await reader.get("/fleet")
        assert shown.status == 403
        assert "This page needs: operator." in shown.words
        assert 'href="/fleet"' not in (await reader.get("/models")).text


async def test_a_form_of_another_site_or_session_is_refused() -> None:
    async with console() as served, served.reader(OPERATOR) as reader:
        token = (await reader.get("/models")).csrf
        for fields, origin in (
            ({"csrf": token}, "https://evil.example"),
            ({"csrf": "0" * 64}, None),
            ({}, None),
        ):
            assert (await reader.post("/sign-out", fields, origin=origin)).status == 403
        assert (await reader.get("/models")).status == 200
        large = await reader.post("/sign-out", {"csrf": token, "x": "x" * 70_000})
        assert large.status == 413


async def test_unknown_pages_and_methods_are_told() -> None:
    async with console() as served, served.reader(OPERATOR) as reader:
        assert (await reader.get("/nowhere")).status == 404
        assert (await reader.post("/models", {})).status == 405


async def test_a_live_part_comes_alone_and_only_once() -> None:
    async with console() as served, served.reader(OPERATOR) as reader:
        shown = await reader.get("/models", X_Moegate_Live="1")
        assert shown.status == 200
        assert "<html" not in shown.text
        assert "moe" in shown.words
        again = await reader.get("/models", X_Moegate_Live="1", If_None_Match=shown.headers["ETag"])
        assert (again.status, again.text) == (304, "")
    async with console() as served, served.reader() as reader:
        assert (await reader.get("/models", X_Moegate_Live="1")).status == 401
