"""Problems of budgets that cap models or servers without a price per token, or cap them at nothing.

For a budget of the configuration file they are warnings, because prices may be added later.
`SetBudget` refuses a budget that would refuse every request of a model, unless it is forced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gateway.accounting.prices.catalog import Prices
from gateway.config.gateway import GatewayConfig, KeyConfig, PoolConfig, RemoteConfig
from gateway.config.problems import Problem
from scheduler.budgets.budget import Budget
from scheduler.pricing import TokenCounts, TokenRates

RatesOf = Callable[[PoolConfig | RemoteConfig], TokenRates | None]
"""Token rates of a pool or remote now; None: unknown."""
LEAST = TokenCounts(uncached_input_tokens=1, output_tokens=1)
FIX = (
    "add to prices.catalog a showback row for a self-hosted pool, and give a remote a price_row "
    "(docs/cost.md)"
)


def refusing_budget(
    budget: Budget, config: GatewayConfig, rates_of: RatesOf, path: str
) -> Iterator[Problem]:
    """Yields a problem for each model whose every request a hard budget would refuse. `path` names
    the budget."""
    for model, serving in _servers(budget, config).items() if budget.hard else ():
        rates = [found for each in serving if (found := rates_of(each))]
        if not rates:
            names, has = _named(serving)
            effect = f"every request for {model} is refused, PRICE_UNKNOWN"
            message = f"{names} {has} no price per token now: {effect}"
            yield Problem(path=path, value=_holder(budget), message=message, fix=FIX)
            continue
        least = min(each.cost_nano_usd(LEAST) for each in rates)
        if least > budget.cap_nano_usd:
            message = (
                f"the cap, {budget.cap_nano_usd} nano-USD, is below the cost of the least request "
                f"for {model}, {least}: every one is refused, BUDGET_SPENT"
            )
            yield Problem(path=path, value=_holder(budget), message=message, fix="raise the cap")


def unpriced_budget(
    budget: Budget, config: GatewayConfig, rates_of: RatesOf, path: str
) -> Iterator[Problem]:
    """Yields a problem for each model that the budget's keys may call and that a server without a
    price serves, `refusing_budget` apart. `path` names the budget."""
    for model, serving in _servers(budget, config).items():
        without = [each for each in serving if rates_of(each) is None]
        if not without or (budget.hard and len(without) == len(serving)):
            continue
        names, has = _named(without)
        if budget.hard:
            effect = f"no request for {model} that falls under the budget runs there"
        else:
            effect = "what runs there is charged nothing, and the budget does not count it"
        message = f"{names} {has} no price per token now: {effect}"
        yield Problem(path=path, value=_holder(budget), message=message, fix=FIX)


def _servers(budget: Budget, config: GatewayConfig) -> dict[str, list[PoolConfig | RemoteConfig]]:
    """Pools and remotes that the budget's keys may call, by model."""
    keys = [
        key
        for tenant in config.tenants
        if tenant.name == budget.tenant
        for key in tenant.keys
        if budget.key_id in ("", key.id)
    ]
    servers: dict[str, list[PoolConfig | RemoteConfig]] = {}
    every: list[PoolConfig | RemoteConfig] = [*config.pools, *config.remotes]
    for server in every:
        if any(_may_call(key, server) for key in keys):
            servers.setdefault(server.model, []).append(server)
    return servers


def _named(servers: list[PoolConfig | RemoteConfig]) -> tuple[str, str]:
    names = ", ".join(server.name for server in servers)
    return names, "has" if len(servers) == 1 else "have"


def _holder(budget: Budget) -> str:
    key = f", key {budget.key_id}" if budget.key_id else ""
    return f"tenant {budget.tenant}{key}, a {budget.period}"


def _may_call(key: KeyConfig, server: PoolConfig | RemoteConfig) -> bool:
    if key.models and server.model not in key.models:
        return False
    if isinstance(server, PoolConfig) or key.remote_classes is None:
        return True
    return server.remote_class in key.remote_classes


def catalog_rates(prices: Prices, unix_s: float) -> RatesOf:
    """Returns the rates that the catalogs have at a moment."""

    def rates_of(server: PoolConfig | RemoteConfig) -> TokenRates | None:
        if isinstance(server, PoolConfig):
            return prices.showback_rates(server.name, unix_s)
        key = server.price_row
        return None if key is None else prices.remote_rates(key, unix_s)

    return rates_of
