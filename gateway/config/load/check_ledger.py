"""Checks of the ledger and the budgets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from gateway.config.gateway import GatewayConfig
from gateway.config.money import nano_usd
from gateway.config.problems import ConfigError, Problem, nearest, problem
from gateway.config.resolve.secrets import resolve


def ledger_problems(config: GatewayConfig, base_dir: Path) -> Iterator[Problem]:
    """Problems of `ledger` and `budgets`."""
    try:
        dsn = resolve(config.ledger.postgres, base_dir)
    except ConfigError as error:
        yield from (each.under("ledger.postgres") for each in error.problems)
    else:
        if dsn is not None and not dsn.startswith(("postgresql://", "postgres://")):
            message = "what it holds is no address of a PostgreSQL database"
            fix = "let it hold postgresql://user:password@host/database"
            yield problem("ledger.postgres", "not shown", message, fix)
    keys = {tenant.name: [key.id for key in tenant.keys] for tenant in config.tenants}
    first: dict[tuple[str, str | None, bool, str], str] = {}
    for i, budget in enumerate(config.budgets):
        path = f"budgets[{i}]"
        if budget.tenant not in keys:
            yield _unknown(f"{path}.tenant", budget.tenant, "tenant", keys)
        elif budget.key is not None and budget.key not in keys[budget.tenant]:
            yield _unknown(f"{path}.key", budget.key, "key of this tenant", keys[budget.tenant])
        if nano_usd(budget.cap_usd) == 0:
            message = "a budget of nothing"
            yield problem(f"{path}.cap_usd", budget.cap_usd, message, "give more than 0")
        scope = (budget.tenant, budget.key, budget.each_session, budget.period.value)
        if scope in first:
            message = f"the same tenant, key and period as {first[scope]}"
            yield problem(path, budget.period.value, message, "keep one of them")
        first.setdefault(scope, path)


def _unknown(path: str, name: str, what: str, known: Iterable[str]) -> Problem:
    guess = nearest(name, known)
    listed = ", ".join(sorted(known)) or "none"
    fix = f"did you mean {guess}?" if guess else f"there are: {listed}"
    return problem(path, name, f"no such {what}", fix)
