"""Every form in which servers say how long to wait."""

from __future__ import annotations

import email.utils
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.domain.failures import MAX_RETRY_AFTER_S
from gateway.upstream.http.retry_hints import retry_after_s, wait

NOW_UNIX_S = 1_800_000_000.0


def iso(seconds: float, zone: timezone = UTC) -> str:
    return datetime.fromtimestamp(NOW_UNIX_S + seconds, zone).isoformat()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("20", 20.0),
        ("0", 0.0),
        ("1.5", 1.5),
        (" 7 ", 7.0),
        (7, 7.0),
        (0.25, 0.25),
        ("20s", 20.0),
        ('"20s"', 20.0),
        ("1m30s", 90.0),
        ("6m0s", 360.0),
        ("2m59.56s", 179.56),
        ("1h2m3s", 3600.0),
        ("100ms", 0.1),
        ("1s250ms", 1.25),
        ("1m", 60.0),
        ("3 seconds", 3.0),
        ("1 min 5 sec", 65.0),
        ("PT20S", 20.0),
        ("pt1m30s", 90.0),
        ({"seconds": 20, "nanos": 500_000_000}, 20.5),
        ({"seconds": "20"}, 20.0),
        (email.utils.formatdate(NOW_UNIX_S + 30, usegmt=True), 30.0),
        (email.utils.formatdate(NOW_UNIX_S + 30, usegmt=False), 30.0),
        (iso(30), 30.0),
        (iso(30).replace("+00:00", "Z"), 30.0),
        (iso(30).replace("+00:00", ""), 30.0),
        (iso(30, timezone(timedelta(hours=2))), 30.0),
        (str(int(NOW_UNIX_S) + 30), 30.0),
        (str((int(NOW_UNIX_S) + 30) * 1000), 30.0),
        (int(NOW_UNIX_S) - 30, 0.0),
        ("-3", 0.0),
        ("-20s", None),
        (10**26, MAX_RETRY_AFTER_S),
        ("1e26", MAX_RETRY_AFTER_S),
        ("1" + "0" * 26, MAX_RETRY_AFTER_S),
        ("inf", MAX_RETRY_AFTER_S),
        ("99d", MAX_RETRY_AFTER_S),
        ("9999-12-31T23:59:59Z", MAX_RETRY_AFTER_S),
        ("nan", None),
        (float("nan"), None),
        ("soon", None),
        ("", None),
        ("20 bananas", None),
        ("s", None),
        ("1" * 5000, MAX_RETRY_AFTER_S),
        (None, None),
        (True, None),
        ([20], None),
        ({}, None),
        ({"seconds": "x"}, None),
    ],
)
def test_a_wait(value: object, seconds: float | None) -> None:
    found = wait(value, NOW_UNIX_S)
    assert found == (None if seconds is None else pytest.approx(seconds, abs=1e-3))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"x-ms-retry-after-ms": "1500"}, 1.5),
        ({"Retry-After": "1", "retry-after-ms": "250"}, 0.25),
        ({"Retry-After": "soon", "x-ratelimit-reset-requests": "20s"}, 20.0),
        ({"x-ratelimit-reset-requests": "20s"}, 20.0),
        ({"x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        ({"X-RateLimit-Reset": str((int(NOW_UNIX_S) + 30) * 1000)}, 30.0),
        ({"X-RateLimit-Reset": str(int(NOW_UNIX_S) + 30)}, 30.0),
        ({"X-RateLimit-Reset": "30"}, 30.0),
        ({"X-Rate-Limit-Reset": "30"}, 30.0),
        ({"RateLimit-Reset": "30"}, 30.0),
        ({"RateLimit": "limit=10, remaining=0, reset=30"}, 30.0),
        ({"x-ratelimit-reset-after": "1.5"}, 1.5),
        ({"anthropic-ratelimit-requests-reset": iso(12)}, 12.0),
        (
            {
                "anthropic-ratelimit-requests-remaining": "49",
                "anthropic-ratelimit-requests-reset": iso(1),
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-input-tokens-reset": iso(40),
            },
            40.0,
        ),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "8s",
                "x-ratelimit-remaining-tokens": "149000",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            8.0,
        ),
        (
            {
                "x-ratelimit-remaining-requests-day": "1000",
                "x-ratelimit-reset-requests-day": "33011.38",
                "x-ratelimit-remaining-tokens-minute": "100",
                "x-ratelimit-reset-tokens-minute": "11.38",
            },
            11.38,
        ),
        ({"x-ratelimit-limit-requests": "20"}, None),
        ({}, None),
    ],
)
def test_headers_of_a_refusal_for_load(headers: dict[str, str], seconds: float | None) -> None:
    for status in (429, 503, 529):
        found = retry_after_s(status, CIMultiDict(headers), b"", NOW_UNIX_S)
        assert found == (None if seconds is None else pytest.approx(seconds, abs=1e-3))


def test_a_limits_reset_says_nothing_about_another_failure() -> None:
    headers = CIMultiDict({"x-ratelimit-reset-requests": "20s"})
    assert retry_after_s(500, headers, b"try again in 20s", NOW_UNIX_S) is None
    headers["Retry-After"] = "3"
    assert retry_after_s(500, headers, b"", NOW_UNIX_S) == 3.0


GEMINI = {
    "error": {
        "code": 429,
        "message": "You exceeded your current quota.",
        "status": "RESOURCE_EXHAUSTED",
        "details": [
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": []},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "20s"},
        ],
    }
}


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        (GEMINI, 20.0),
        ([GEMINI], 20.0),
        ({"error": {"details": [{"retryDelay": {"seconds": 20}}]}}, 20.0),
        ({"error": {"message": "no", "retry_after": 3}}, 3.0),
        ({"retry_after_ms": 1500}, 1.5),
        ({"error": {"retryAfterMs": "1500"}}, 1.5),
        ({"retry_after_seconds": 4}, 4.0),
        ({"error": {"metadata": {"headers": {"Retry-After": "9"}}}}, 9.0),
        ({"error": {"retry_after": -5}}, 0.0),
        ({"error": {"retry_after": None, "message": "try again in 2s"}}, 2.0),
        ("Rate limit reached. Please try again in 20s. Visit https://x.example/7.", 20.0),
        ("Please try again in 6m0s.", 360.0),
        ("Please try again in 1.2s.", 1.2),
        ("Please try again in 120ms.", 0.12),
        ("Please retry after 3 seconds.", 3.0),
        ("Please retry in 12.5s.", 12.5),
        ("please try again after 1 seconds", 1.0),
        ("Please wait 30 seconds before your next request.", 30.0),
        ("Please retry your request after 2 minutes", 120.0),
        ("Retry after 30.", 30.0),
        ("try again in about 5 seconds", 5.0),
        ("try again at " + iso(45), 45.0),
        ("Too many tokens, please wait before trying again.", None),
        ("Please try again later.", None),
        ("We retry 3 times.", None),
        ("Limit 10000 tokens per minute, 20 s used", None),
        ("", None),
    ],
)
def test_bodies_of_a_refusal_for_load(body: object, seconds: float | None) -> None:
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    found = retry_after_s(429, {}, content, NOW_UNIX_S)
    assert found == (None if seconds is None else pytest.approx(seconds, abs=1e-3))


@given(st.text(max_size=80) | st.floats() | st.integers() | st.dictionaries(st.text(), st.text()))
def test_whatever_comes_is_a_bounded_wait_or_none(value: object) -> None:
    found = wait(value, NOW_UNIX_S)
    assert found is None or 0.0 <= found <= MAX_RETRY_AFTER_S


@given(st.binary(max_size=300), st.text(max_size=60))
def test_whatever_body_comes_is_read(body: bytes, header: str) -> None:
    for content in (body, b"try again in " + body, b"[" * 60_000):
        found = retry_after_s(429, {"x-ratelimit-reset": header}, content, NOW_UNIX_S)
        assert found is None or 0.0 <= found <= MAX_RETRY_AFTER_S
