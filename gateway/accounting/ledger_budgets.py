"""Budgets in the ledger's database: those that were set at run time, and how accounts stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.accounting.ledger_database import Tx
from scheduler.budget import Budget, Limit, Scope
from scheduler.budget_window import Period


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """An account now. `leased`: granted to open leases and not settled."""

    limit: Limit
    settled_nano_usd: int
    leased_nano_usd: int


async def overrides(tx: Tx) -> dict[Scope, Budget | None]:
    """Budgets that were set at run time, by scope; None: taken away."""
    found: dict[Scope, Budget | None] = {}
    for tenant, key_id, each_session, period, cap, hard in await tx.rows(
        "SELECT tenant, key_id, each_session, period, cap_nano_usd, hard FROM budget"
    ):
        scope = (tenant, key_id, bool(each_session), Period(period))
        found[scope] = None
        if cap is not None:
            found[scope] = Budget(
                tenant=tenant,
                key_id=key_id,
                each_session=bool(each_session),
                period=Period(period),
                cap_nano_usd=cap,
                hard=bool(hard),
            )
    return found


async def set_override(tx: Tx, scope: Scope, budget: Budget | None) -> None:
    """Sets one; None takes the budget away, also one of the configuration file."""
    tenant, key_id, each_session, period = scope
    await tx.run(
        "INSERT INTO budget (tenant, key_id, each_session, period, cap_nano_usd, hard)"
        " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant, key_id, each_session, period)"
        " DO UPDATE SET cap_nano_usd = $5, hard = $6",
        *(tenant, key_id, int(each_session), period.value),
        *(None if budget is None else budget.cap_nano_usd, int(budget is None or budget.hard)),
    )


async def standings(tx: Tx, limits: Sequence[Limit]) -> list[Standing]:
    """How accounts stand; one that nobody has spent from stands at 0."""
    found = []
    for limit in limits:
        rows = await tx.rows(
            "SELECT settled_nano_usd, committed_nano_usd FROM account WHERE account_id = $1",
            limit.account.account_id,
        )
        settled, committed = rows[0] if rows else (0, 0)
        found.append(
            Standing(limit=limit, settled_nano_usd=settled, leased_nano_usd=committed - settled)
        )
    return found
