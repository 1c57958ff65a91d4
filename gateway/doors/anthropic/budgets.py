"""Budgets in the words of the provider's gateway contract: headers of answers, and
`GET /api/oauth/usage`, from which agents show what is left.

All of them tell one budget, the one that stops the key first (`binding_budget`). Sums are cents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from gateway.doors.http.answers import json_answer
from gateway.doors.http.errors import ledger_away
from gateway.doors.http.exchange import Exchange
from scheduler.budgets.budget_window import Period, Window
from scheduler.budgets.standing import BudgetStanding, SpendSince, binding_budget

_PREFIX = "anthropic-ratelimit-unified-"
_NANO_USD_OF_CENT = 10_000_000
_THRESHOLDS = (0.95, 0.75)
"""Shares beyond which clients warn, highest first."""
_GROUPS = {Period.HOUR: "hourly", Period.DAY: "daily", Period.MONTH: "monthly"}
_PERIODS = {Period.DAY: "daily", Period.MONTH: "monthly"}
"""The periods that clients know. They take a cap of a period that they do not know for none, but
know a cap without a period."""


def allowed_headers(standings: Sequence[BudgetStanding]) -> dict[str, str]:
    """Headers of a good answer; none for a key without a budget."""
    binding = binding_budget(standings)
    if binding is None:
        return {}
    threshold = next((each for each in _THRESHOLDS if binding.used_share > each), None)
    status = "allowed" if threshold is None else "allowed_warning"
    found = {
        "status": status,
        "representative-claim": "overage",
        "overage-status": status,
        "overage-utilization": f"{min(0.99, _rounded_share(binding)):g}",
        "reset": str(binding.ends_unix_s),
        "overage-reset": str(binding.ends_unix_s),
    }
    if threshold is not None:
        found["overage-surpassed-threshold"] = f"{threshold:g}"
    return {_PREFIX + name: value for name, value in found.items()}


def spent_headers(window: Window, now_unix_s: float) -> dict[str, str]:
    """Headers of a refusal because a budget is spent. `window`: that of the budget."""
    ends = str(window.ends_unix_s)
    found = {
        "status": "rejected",
        "reset": ends,
        "overage-reset": ends,
        "overage-utilization": "1",
        "overage-surpassed-threshold": "1",
        "overage-disabled-reason": "org_spend_cap_reached",
    }
    if window.period in _PERIODS:
        found["overage-period"] = _PERIODS[window.period]
    headers = {_PREFIX + name: value for name, value in found.items()}
    headers["retry-after"] = str(max(1, math.ceil(window.ends_unix_s - now_unix_s)))
    return headers


async def oauth_usage(exchange: Exchange) -> web.StreamResponse:
    """GET /api/oauth/usage. Raises HttpError while the ledger does not answer."""
    port, caller = exchange.services.port, exchange.caller
    exchange.headers["Cache-Control"] = "no-store"
    standings = await port.budget_standings(caller.tenant, caller.key_id)
    if standings is None:
        raise ledger_away()
    binding = binding_budget(standings)
    if binding is not None:
        limits = [_limit(each, is_active=each is binding) for each in standings]
        return json_answer(exchange, {"extra_usage": _capped(binding), "limits": limits})
    spend = await port.key_spend(caller.tenant, caller.key_id)
    if spend is None:
        raise ledger_away()
    uncapped = {
        "is_enabled": True,
        "monthly_limit": None,
        "used_credits": _used_cents(spend.month.charged_nano_usd),
        "utilization": None,
        "currency": "USD",
        "daily": _without_limit(spend.day),
        "weekly": _without_limit(spend.week),
    }
    return json_answer(exchange, {"extra_usage": uncapped, "limits": []})


def _capped(binding: BudgetStanding) -> dict[str, Any]:
    return {
        "is_enabled": True,
        "monthly_limit": _cents(binding.cap_nano_usd),
        "used_credits": _used_cents(binding.spent_nano_usd),
        "utilization": _percent(binding),
        "currency": "USD",
    }


def _limit(standing: BudgetStanding, *, is_active: bool) -> dict[str, Any]:
    severity = "normal"
    if standing.is_spent or standing.used_share > _THRESHOLDS[0]:
        severity = "critical"
    elif standing.used_share > _THRESHOLDS[1]:
        severity = "warning"
    return {
        "kind": "spend",
        "group": _GROUPS[standing.period],
        "percent": _percent(standing),
        "resets_at": datetime.fromtimestamp(standing.ends_unix_s, UTC).isoformat(),
        "severity": severity,
        "is_active": is_active,
    }


def _without_limit(since: SpendSince) -> dict[str, Any]:
    used = _used_cents(since.charged_nano_usd)
    return {"limit": None, "used_credits": used, "utilization": None}


def _rounded_share(standing: BudgetStanding) -> float:
    """The share used with two decimals; below 1 unless the budget is spent."""
    share = round(standing.used_share, 2)
    return share if standing.is_spent else min(share, 0.99)


def _percent(standing: BudgetStanding) -> int:
    return round(_rounded_share(standing) * 100)


def _cents(nano_usd: int) -> int | float:
    whole, rest = divmod(nano_usd, _NANO_USD_OF_CENT)
    return whole + rest / _NANO_USD_OF_CENT if rest else whole


def _used_cents(nano_usd: int) -> int:
    return nano_usd // _NANO_USD_OF_CENT
