"""Where a request goes, and the head that it gets."""

from __future__ import annotations

import pytest

from gateway.upstream.http.target import request_head, target_of


@pytest.mark.parametrize(
    ("url", "origin", "line", "host"),
    [
        ("http://a:8000/v1/models", ("a", 8000, False), "/v1/models", "a:8000"),
        ("https://a.example/v1", ("a.example", 443, True), "/v1", "a.example"),
        ("http://a", ("a", 80, False), "/", "a"),
        ("http://[fd00::1]:8/x?a=1&b", ("fd00::1", 8, False), "/x?a=1&b", "[fd00::1]:8"),
        ("https://\u00fc.eu:1/\u00fc%20", ("xn--tda.eu", 1, True), "/%C3%BC%20", "xn--tda.eu:1"),
    ],
)
def test_a_url_names_a_server_a_path_and_a_host(
    url: str, origin: tuple[str, int, bool], line: str, host: str
) -> None:
    assert target_of(url) == (origin, f"{line} HTTP/1.1\r\nHost: {host}\r\n")


@pytest.mark.parametrize("url", ["ftp://a/", "a:8000", "http://", "http://a:99999/"])
def test_what_is_no_http_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"no http|out of range"):
        target_of(url)


def test_the_head_of_a_request() -> None:
    _, line = target_of("http://a:1/p")
    assert request_head("POST", line, {"X": "\u00fc"}, 3) == (
        b"POST /p HTTP/1.1\r\nHost: a:1\r\nUser-Agent: moegate\r\nX: \xc3\xbc\r\n"
        b"Content-Length: 3\r\n\r\n"
    )
    assert b"Content-Length" not in request_head("GET", line, {}, None)


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nX: y", "a\rb", "a\0b"])
def test_a_value_makes_no_header_of_its_own(value: str) -> None:
    _, line = target_of("http://a:1/p")
    for headers in ({"X-Request-Id": value}, {value: "x"}):
        with pytest.raises(ValueError, match="line break"):
            request_head("POST", line, headers, None)
