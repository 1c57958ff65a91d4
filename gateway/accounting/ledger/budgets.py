"""Budgets in the database: those that were set at run time, and the standing of accounts."""

from __future__ import annotations

import time
from dataclasses import dataclass

from gateway.accounting.ledger.database import Tx
from scheduler.budgets.budget import Budget, BudgetAccount, Scope
from scheduler.budgets.budget_window import Period, Window, window_at

TOP_SESSIONS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A budget in its current window. `leased`: granted to open leases and not settled."""

    session_id: str
    window: Window
    settled_nano_usd: int
    leased_nano_usd: int


async def overrides(tx: Tx) -> dict[Scope, Budget | None]:
    """Budgets that were set at run time, keyed by scope; None means deleted."""
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
    """Stores a budget; None deletes it, even if the configuration file has it."""
    tenant, key_id, each_session, period = scope
    await tx.run(
        "INSERT INTO budget (tenant, key_id, each_session, period, cap_nano_usd, hard)"
        " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant, key_id, each_session, period)"
        " DO UPDATE SET cap_nano_usd = $5, hard = $6",
        *(tenant, key_id, int(each_session), period.value),
        *(None if budget is None else budget.cap_nano_usd, int(budget is None or budget.hard)),
    )


async def standings(tx: Tx, budget: Budget) -> list[Standing]:
    """The standing of a budget; 0 where nothing was spent."""
    window = window_at(budget.period, time.time())
    account = BudgetAccount(
        tenant=budget.tenant,
        key_id=budget.key_id,
        session_id=None,
        period=budget.period,
        starts_unix_s=window.starts_unix_s,
    )
    rows = await tx.rows(
        "SELECT settled_nano_usd, committed_nano_usd FROM account WHERE account_id = $1",
        account.account_id,
    )
    settled, committed = rows[0] if rows else (0, 0)
    return [_standing("", window, settled, committed)]


async def top_sessions(tx: Tx, budget: Budget) -> list[Standing]:
    """The sessions of a budget that have spent most."""
    window = window_at(budget.period, time.time())
    rows = await tx.rows(
        "SELECT session_id, settled_nano_usd, committed_nano_usd FROM account"
        " WHERE starts_unix_s = $1 AND period = $2 AND tenant = $3 AND key_id = $4"
        f" AND session_id IS NOT NULL ORDER BY committed_nano_usd DESC LIMIT {TOP_SESSIONS}",
        *(window.starts_unix_s, budget.period.value, budget.tenant, budget.key_id),
    )
    return [_standing(session, window, *sums) for session, *sums in rows]


def _standing(session_id: str, window: Window, settled: int, committed: int) -> Standing:
    return Standing(
        session_id=session_id,
        window=window,
        settled_nano_usd=settled,
        leased_nano_usd=committed - settled,
    )
