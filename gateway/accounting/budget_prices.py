"""Warnings about budgets that cap models or servers without a price per token.

`moegate check` and `moegate admin set-budget` show them. They refuse nothing, because prices may be
added later.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.accounting.prices.catalog import Prices
from gateway.config.gateway import GatewayConfig, KeyConfig, PoolConfig, RemoteConfig
from gateway.config.problems import Problem
from scheduler.budgets.budget import Budget

FIX = (
    "add to prices.catalog a showback row for a self-hosted pool, and give a remote a price_row "
    "(docs/cost.md)"
)


def unpriced_budget(
    budget: Budget, config: GatewayConfig, prices: Prices, unix_s: float, path: str
) -> Iterator[Problem]:
    """One problem for each model that the budget's keys may call and that a server without a price
    at `unix_s` serves; `path` names the budget."""
    keys = [
        key
        for tenant in config.tenants
        if tenant.name == budget.tenant
        for key in tenant.keys
        if budget.key_id in ("", key.id)
    ]
    key = f", key {budget.key_id}" if budget.key_id else ""
    value = f"tenant {budget.tenant}{key}, a {budget.period}"
    servers: dict[str, list[PoolConfig | RemoteConfig]] = {}
    every: list[PoolConfig | RemoteConfig] = [*config.pools, *config.remotes]
    for server in every:
        if any(_may_call(key, server) for key in keys):
            servers.setdefault(server.model, []).append(server)
    for model, serving in servers.items():
        without = [server.name for server in serving if not _priced(server, prices, unix_s)]
        if not without:
            continue
        names, has = ", ".join(without), "has" if len(without) == 1 else "have"
        if not budget.hard:
            effect = "what runs there is charged nothing, and the budget does not count it"
        elif len(without) == len(serving):
            effect = f"every request for {model} is refused, PRICE_UNKNOWN"
        else:
            effect = f"no request for {model} that falls under the budget runs there"
        message = f"{names} {has} no price per token now: {effect}"
        yield Problem(path=path, value=value, message=message, fix=FIX)


def _may_call(key: KeyConfig, server: PoolConfig | RemoteConfig) -> bool:
    if key.models and server.model not in key.models:
        return False
    if isinstance(server, PoolConfig) or key.remote_classes is None:
        return True
    return server.remote_class in key.remote_classes


def _priced(server: PoolConfig | RemoteConfig, prices: Prices, unix_s: float) -> bool:
    if isinstance(server, PoolConfig):
        return prices.showback_rates(server.name, unix_s) is not None
    return server.price_row is not None and (
        prices.remote_rates(server.price_row, unix_s) is not None
    )
