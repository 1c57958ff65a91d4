"""Signing in leads to a page of the console and nowhere else."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.doors.console.signing_in.places import following

CONSOLE = "https://console.example"
PIECES = [*"/\\\t\r\n .:@?#%;a", "evil.example", "http:"]
TRICKS = st.lists(st.sampled_from(PIECES)).map("".join)


@pytest.mark.parametrize("then", ["/", "/models?x=1&y=2", "/requests/a%2Fb", "/a//b", "/a;b=c"])
def test_pages_of_the_console_follow(then: str) -> None:
    assert following({"then": then}) == then


@pytest.mark.parametrize(
    "then",
    [
        *("//evil.example", "/\\evil.example", "\\\\evil.example", "https://evil.example", ""),
        *("/\t/evil.example", "/\n/evil.example", "/a\r\nSet-Cookie: a=b", "javascript:alert(1)"),
        *("/ü", "/a b", "/" + "a" * 2000, "evil.example", "?a", "/a\n"),
    ],
)
def test_all_else_leads_to_the_first_page(then: str) -> None:
    assert following({"then": then}) == "/"


@given(TRICKS | st.text())
def test_no_text_leads_to_another_site(then: str) -> None:
    followed = following({"then": then})
    # As browsers read addresses: without tabs and line breaks, a backslash as a slash.
    read = "".join(each for each in followed if each not in "\t\r\n").replace("\\", "/")
    assert urlsplit(urljoin(f"{CONSOLE}/sign-in", read)).netloc == "console.example"
    assert followed.isascii()
    assert followed.isprintable()


def test_no_field_leads_to_the_first_page() -> None:
    assert following({}) == "/"
