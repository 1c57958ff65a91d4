"""What a key has spent, and how its budgets stand: read from the ledger for callers that ask."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gateway.accounting.budgets import Budgets
from gateway.accounting.ledger.budgets import standings
from gateway.accounting.ledger.caller_reads import CallerReads, TooManyReads
from gateway.accounting.ledger.database import LedgerUnavailable, Tx
from gateway.accounting.ledger.queries import Selection
from gateway.accounting.rollups.spend import Order, spend
from scheduler.budgets.budget import Budget
from scheduler.budgets.budget_window import DAY_S, Period, window_at
from scheduler.budgets.standing import BudgetStanding, KeySpend, SpendSince

T = TypeVar("T")
WEEK_S = 7 * DAY_S
MONDAY_S = 4 * DAY_S
"""The first Monday after the epoch: 1970-01-05."""


class KeyAccounts:
    """Reads for callers, within the bounds of `CallerReads`. What cannot be read is unknown."""

    def __init__(
        self, budgets: Budgets, reads: CallerReads, unix_s: Callable[[], float] = time.time
    ) -> None:
        self._budgets = budgets
        self._reads = reads
        self._unix_s = unix_s

    async def standings(self, tenant: str, key_id: str) -> tuple[BudgetStanding, ...] | None:
        """The budgets of a key and of its tenant, those of single sessions apart; None: unknown."""
        budgets = [
            budget
            for budget in self._budgets.book.applied.of_key(tenant, key_id)
            if not budget.each_session
        ]
        if not budgets:
            return ()

        async def read(tx: Tx) -> tuple[BudgetStanding, ...]:
            return tuple([await _standing(tx, budget) for budget in budgets])

        return await self._read(tenant, read)

    async def spend(self, tenant: str, key_id: str) -> KeySpend | None:
        """What a key has used; None: unknown."""
        now_s = self._unix_s()
        monday_s = int((now_s - MONDAY_S) // WEEK_S) * WEEK_S + MONDAY_S
        starts = (
            window_at(Period.DAY, now_s).starts_unix_s,
            monday_s,
            window_at(Period.MONTH, now_s).starts_unix_s,
        )

        async def read(tx: Tx) -> KeySpend:
            day, week, month = [await _since(tx, tenant, key_id, each, now_s) for each in starts]
            return KeySpend(day=day, week=week, month=month)

        return await self._read(tenant, read)

    async def _read(self, tenant: str, transaction: Callable[[Tx], Awaitable[T]]) -> T | None:
        try:
            return await self._reads.read(tenant, transaction)
        except (LedgerUnavailable, TooManyReads):
            return None


async def _standing(tx: Tx, budget: Budget) -> BudgetStanding:
    [found] = await standings(tx, budget)
    return BudgetStanding(
        of_key=bool(budget.key_id),
        period=budget.period,
        cap_nano_usd=budget.cap_nano_usd,
        spent_nano_usd=found.settled_nano_usd,
        hard=budget.hard,
        ends_unix_s=found.window.ends_unix_s,
    )


async def _since(tx: Tx, tenant: str, key_id: str, starts_unix_s: int, now_s: float) -> SpendSince:
    selection = Selection(
        from_us=starts_unix_s * 1_000_000,
        to_us=round(now_s * 1e6) + 1,
        tenant=tenant,
        key_id=key_id,
    )
    [sums] = await spend(tx, selection, (), Order.GROUP, 1)
    tokens = sums.uncached_input_tokens + sums.cached_input_tokens + sums.output_tokens
    return SpendSince(
        starts_unix_s=starts_unix_s,
        requests=sums.requests,
        tokens=tokens,
        charged_nano_usd=sums.charged_nano_usd,
    )
