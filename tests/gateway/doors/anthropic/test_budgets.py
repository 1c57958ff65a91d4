"""Budgets as agents read them: headers of answers and refusals, and `/api/oauth/usage`.

The expected values are those that the provider's own gateway gives."""

from __future__ import annotations

import asyncio
import calendar
import contextlib
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

import anthropic
import msgspec
import pytest

from gateway.config.ledger import BudgetConfig
from gateway.doors.anthropic.budgets import allowed_headers, spent_headers
from gateway.doors.entry import budget_standings
from scheduler.budgets.budget_window import Period, window_at
from scheduler.budgets.standing import BudgetStanding
from scheduler.metering.rate_snapshot import RateSnapshot
from scheduler.pricing import RateTier, TokenRates
from tests import serving
from tests.http_serving import ServingHttp, serving_http
from tests.scripted import DONE, ROLE, Scripted, listening, word
from tests.serving import KEY, MODEL

PREFIX = "anthropic-ratelimit-unified-"
CENT = 10_000_000
A_CENT_A_TOKEN = CENT * 1_000_000
RATES = TokenRates(
    row_id="test",
    tiers=(
        RateTier(
            uncached_input=A_CENT_A_TOKEN,
            cached_input=A_CENT_A_TOKEN,
            cache_write=A_CENT_A_TOKEN,
            output=A_CENT_A_TOKEN,
        ),
    ),
)
ANSWER = [ROLE, word(1), word(2, b'"length"'), DONE]
"""5 tokens of prompt, 2 of output: 7 cents."""


def standing(spent: int, cap: int = 1000, period: Period = Period.DAY) -> BudgetStanding:
    return BudgetStanding(
        of_key=True,
        period=period,
        cap_nano_usd=cap,
        spent_nano_usd=spent,
        hard=True,
        ends_unix_s=1_800_000_000,
    )


def unified(headers: Mapping[str, str]) -> dict[str, str]:
    """The unified headers, without their prefix."""
    return {
        name.lower().removeprefix(PREFIX): value
        for name, value in headers.items()
        if name.lower().startswith("anthropic-ratelimit-")
    }


@pytest.mark.parametrize(
    ("spent", "status", "utilization", "threshold"),
    [
        (0, "allowed", "0", None),
        (500, "allowed", "0.5", None),
        (750, "allowed", "0.75", None),
        (751, "allowed_warning", "0.75", "0.75"),
        (950, "allowed_warning", "0.95", "0.75"),
        (951, "allowed_warning", "0.95", "0.95"),
        (999, "allowed_warning", "0.99", "0.95"),
        (1200, "allowed_warning", "0.99", "0.95"),
    ],
)
def test_headers_of_a_good_answer(
    spent: int, status: str, utilization: str, threshold: str | None
) -> None:
    found = unified(allowed_headers([standing(10), standing(spent)]))
    expected = {
        "status": status,
        "representative-claim": "overage",
        "overage-status": status,
        "overage-utilization": utilization if spent else "0.01",
        "reset": "1800000000",
        "overage-reset": "1800000000",
    }
    if threshold is not None:
        expected["overage-surpassed-threshold"] = threshold
    assert found == expected


def test_a_key_without_a_budget_has_no_headers() -> None:
    assert allowed_headers(()) == {}


@pytest.mark.parametrize(
    ("period", "name"),
    [(Period.HOUR, None), (Period.DAY, "daily"), (Period.MONTH, "monthly")],
)
def test_headers_of_a_refusal(period: Period, name: str | None) -> None:
    window = window_at(period, calendar.timegm((2026, 7, 15, 12, 30, 0)))
    headers = spent_headers(window, window.ends_unix_s - 99.5)
    ends = str(window.ends_unix_s)
    expected = {
        "status": "rejected",
        "reset": ends,
        "overage-reset": ends,
        "overage-utilization": "1",
        "overage-surpassed-threshold": "1",
        "overage-disabled-reason": "org_spend_cap_reached",
    }
    if name is not None:
        expected["overage-period"] = name
    assert unified(headers) == expected
    assert headers["retry-after"] == "100"


@contextlib.asynccontextmanager
async def capped(*budgets: tuple[Period, str, str | None]) -> AsyncIterator[ServingHttp]:
    """A gateway at a cent a token. `budgets`: period, cap in USD, key."""
    script = Scripted(frames=ANSWER)
    async with listening(script):
        settings = msgspec.structs.replace(
            serving.config(pools=[serving.pool([script.url])]),
            budgets=tuple(
                BudgetConfig(tenant="team", key=key, period=period, cap_usd=cap)
                for period, cap, key in budgets
            ),
        )
        async with serving_http(settings) as http:
            http.gateway.scheduler.use_rates(RateSnapshot(rates={"own/a": RATES}))
            yield http


def asked(max_tokens: int = 2, **fields: Any) -> dict[str, Any]:
    return {
        "model": MODEL,
        "max_tokens": max_tokens,
        "messages": [{"role": "user", "content": "hi"}],
        **fields,
    }


async def usage(http: ServingHttp) -> dict[str, Any]:
    async with http.session.get(f"{http.url}/api/oauth/usage") as response:
        assert response.status == 200
        assert response.headers["cache-control"] == "no-store"
        found: dict[str, Any] = await response.json()
        return found


async def until_used(http: ServingHttp, cents: int) -> dict[str, Any]:
    """What is told once the ledger has the charge."""
    async with asyncio.timeout(serving.READY_S):
        while (found := await usage(http))["extra_usage"]["used_credits"] < cents:
            await asyncio.sleep(0.05)
    assert found["extra_usage"]["used_credits"] == cents
    return found


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_tell_the_budget_that_binds(
    stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_standings, "KEPT_S", 0.0)
    month, day = (Period.MONTH, "50.00", None), (Period.DAY, "10.00", "test")
    async with capped(month, day) as http:
        assert (await http.post("/v1/messages", asked()))[0] == 200
        told = await until_used(http, 7)
        body = asked(stream=stream)
        async with http.session.post(f"{http.url}/v1/messages", json=body) as response:
            assert response.status == 200
            await response.read()
            found = unified(response.headers)
        resets = {limit["group"]: limit["resets_at"] for limit in told["limits"]}
        ends_s = datetime.fromisoformat(resets["daily"]).timestamp()
        assert found == {
            "status": "allowed",
            "representative-claim": "overage",
            "overage-status": "allowed",
            "overage-utilization": "0.01",
            "reset": f"{ends_s:.0f}",
            "overage-reset": f"{ends_s:.0f}",
        }
        assert told["extra_usage"] == {
            "is_enabled": True,
            "monthly_limit": 1000,
            "used_credits": 7,
            "utilization": 1,
            "currency": "USD",
        }
        rows = [
            (each["kind"], each["group"], each["percent"], each["severity"], each["is_active"])
            for each in told["limits"]
        ]
        assert sorted(rows) == [
            ("spend", "daily", 1, "normal", True),
            ("spend", "monthly", 0, "normal", False),
        ]


async def test_a_key_without_a_budget_is_told_what_it_has_used() -> None:
    async with capped() as http:
        async with http.session.post(f"{http.url}/v1/messages", json=asked()) as response:
            assert response.status == 200
            assert unified(response.headers) == {}
        told = await until_used(http, 7)
        other = {"limit": None, "used_credits": 7, "utilization": None}
        assert told == {
            "extra_usage": {
                "is_enabled": True,
                "monthly_limit": None,
                "used_credits": 7,
                "utilization": None,
                "currency": "USD",
                "daily": other,
                "weekly": other,
            },
            "limits": [],
        }


async def test_a_spent_budget_is_refused_once_with_the_time_of_its_reset() -> None:
    async with (
        capped((Period.DAY, "5.00", "test")) as http,
        anthropic.AsyncAnthropic(base_url=http.url, auth_token=KEY, api_key=None) as client,
    ):
        with pytest.raises(anthropic.RateLimitError) as caught:
            await client.messages.create(**asked(max_tokens=500))
        headers, body = caught.value.response.headers, caught.value.body
        assert isinstance(body, dict)
        assert body["error"]["type"] == "billing_error"
        assert "$5" in body["error"]["message"]
        assert headers["x-should-retry"] == "false"
        told = await usage(http)
        [limit] = told["limits"]
        ends_s = int(datetime.fromisoformat(limit["resets_at"]).timestamp())
        found = unified(headers)
        assert (found["status"], found["reset"]) == ("rejected", str(ends_s))
        assert "representative-claim" not in found
        assert "overage-status" not in found
        assert 0 < int(headers["retry-after"]) <= 86_400
        # A request that fits is answered.
        answer = await client.messages.create(**asked(max_tokens=2))
        assert answer.usage.output_tokens == 2
