"""`/v1/catalog` and `/v1/usage`: what OpenClaw's router plugin reads of a gateway.

The catalog lists the models of the key, with transports and prices. The usage has the budget of the
month, and what the key has used in it. Sums are millionths of US dollars.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from gateway.config.tasks import Task
from gateway.doors.http.answers import json_answer
from gateway.doors.http.errors import ledger_away
from gateway.doors.http.exchange import Exchange
from scheduler.budgets.budget_window import Period
from scheduler.budgets.standing import BudgetStanding, binding_budget
from scheduler.pricing import RateTier, TokenRates

NANO_OF_MICRO = 1000
_PROVIDER = "moegate"
_CAPABILITIES = ("llm.responses", "llm.chat", "llm.messages", "llm.stream")
_ROUTES = (
    {"path": "/v1/messages", "requestFormat": "anthropic.messages", "methods": ["POST"]},
    {"path": "/v1/responses", "requestFormat": "openai.responses", "methods": ["POST"]},
    {"path": "/v1/chat/completions", "requestFormat": "openai.chat", "methods": ["POST"]},
)


async def catalog(exchange: Exchange) -> web.Response:
    """GET /v1/catalog: one provider, which speaks OpenAI's dialect."""
    pipeline, caller = exchange.services.pipeline, exchange.caller
    rates = await exchange.services.port.token_rates()
    models = []
    for name in exchange.model_names():
        if not _generates(exchange, name):
            continue
        most = pipeline.most_output_tokens(name, caller, 1)
        context = exchange.largest_context(name)
        models.append(
            {
                "id": name,
                "displayName": name,
                "upstream": name,
                "capabilities": _CAPABILITIES,
                "pricing": {
                    **_prices(rates, exchange, name),
                    **({} if context is None else {"maxInputTokens": context}),
                    "defaultMaxOutputTokens": most,
                },
            }
        )
    provider = {
        "id": _PROVIDER,
        "displayName": _PROVIDER,
        "openaiCompatible": True,
        # The client drops providers without one, and uses it for no model that speaks OpenAI's.
        "nativeBaseUrl": f"/v1/native/{_PROVIDER}",
        "routes": _ROUTES,
        "models": models,
    }
    return json_answer(exchange, {"providers": [provider]})


def _generates(exchange: Exchange, model: str) -> bool:
    services = exchange.services
    base = services.port.fleet.bases.get(model, model)
    tasks = services.pipeline.settings.tasks.get(base, frozenset())
    return not tasks or Task.GENERATE in tasks


def _prices(rates: Mapping[str, TokenRates], exchange: Exchange, model: str) -> dict[str, float]:
    """The most that each kind of token costs at the placements that the key may use; empty: the
    price of one of them is unknown. Of tiers by context, the first counts."""
    services, caller, found = exchange.services, exchange.caller, []
    classes = {remote.name: remote.remote_class for remote in services.active.config.remotes}
    for placement in services.port.fleet.of_model(model):
        remote_class = classes.get(placement.name)
        if remote_class is not None and not caller.allows_remote_class(remote_class):
            continue
        rate = rates.get(placement.name)
        if rate is None:
            return {}
        found.append(rate.tiers[0])
    return _dearest(found)


def _dearest(tiers: Iterable[RateTier]) -> dict[str, float]:
    dearest: dict[str, float] = {}
    for tier in tiers:
        for name, nano_usd in (
            ("inputMicrosPerMillion", tier.uncached_input),
            ("outputMicrosPerMillion", tier.output),
            ("cachedInputMicrosPerMillion", tier.cached_input),
            ("cacheWrite5mInputMicrosPerMillion", tier.cache_write),
        ):
            dearest[name] = max(dearest.get(name, 0.0), nano_usd / NANO_OF_MICRO)
    return dearest


async def usage(exchange: Exchange) -> web.Response:
    """GET /v1/usage. Raises HttpError while the ledger does not answer."""
    port, caller = exchange.services.port, exchange.caller
    exchange.headers["Cache-Control"] = "no-store"
    standings = await port.budget_standings(caller.tenant, caller.key_id)
    spend = await port.key_spend(caller.tenant, caller.key_id)
    if standings is None or spend is None:
        raise ledger_away()
    month = spend.month
    return json_answer(
        exchange,
        {
            "budget": _budget(caller.key_id, month.starts_unix_s, standings),
            "budgets": [_standing(each) for each in standings],
            "usage": {
                "summary": {
                    "requestCount": month.requests,
                    "totalTokens": month.tokens,
                    "actualCostMicros": _micros(month.charged_nano_usd),
                }
            },
        },
    )


def _budget(
    key_id: str, month_unix_s: int, standings: Iterable[BudgetStanding]
) -> dict[str, object]:
    """The budget of the month; the client knows no other period."""
    binding = binding_budget(each for each in standings if each.period is Period.MONTH)
    if binding is None:
        return {"configured": False}
    month = datetime.fromtimestamp(month_unix_s, UTC)
    return {
        "configured": True,
        "limitMicros": _micros(binding.cap_nano_usd),
        "spentMicros": _micros(binding.spent_nano_usd),
        "windowKey": f"{key_id}/{month:%Y-%m}",
    }


def _standing(standing: BudgetStanding) -> dict[str, Any]:
    """A budget of any period, for clients that know them."""
    return {
        "scope": "key" if standing.of_key else "tenant",
        "period": standing.period.value,
        "limitMicros": _micros(standing.cap_nano_usd),
        "spentMicros": _micros(standing.spent_nano_usd),
        "hard": standing.hard,
        "resetsAt": datetime.fromtimestamp(standing.ends_unix_s, UTC).isoformat(),
    }


def _micros(nano_usd: int) -> int | float:
    whole, rest = divmod(nano_usd, NANO_OF_MICRO)
    return whole + rest / NANO_OF_MICRO if rest else whole
