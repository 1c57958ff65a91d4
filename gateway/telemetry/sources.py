"""Reads the values of a running gateway for its metrics page."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.accounting.accounting import Accounting
from gateway.accounting.ledger.database import LedgerUnavailable, Tx
from gateway.accounting.ledger.ledger import LedgerStatus
from gateway.batch.running.runner import TenantLoad
from gateway.config.money import NANO_USD
from gateway.telemetry.fleet import BudgetLeft
from scheduler.budgets.budget import Budget, Holder, Limit
from scheduler.metering.report import KindRates
from scheduler.port import FleetFigures, SchedulerPort

log = logging.getLogger(__name__)

BUDGETS_S = 10.0
"""Interval at which the budgets are read from the ledger."""
MAX_BUDGETS = 500
"""Most budgets on the page, which more would slow down."""


class Load(Protocol):
    """How busy the gateway is."""

    def share_now(self) -> float:
        """CPU time of its busiest process as a share of one core."""


@dataclass(slots=True, kw_only=True)
class GatewayFigures:
    """Values of one gateway. The budgets are those that `watch_budgets` has read."""

    port: SchedulerPort
    accounting: Accounting
    load: Load
    active_requests: Callable[[], int]
    batches: Callable[[], Sequence[TenantLoad]]
    seen_budgets: Sequence[BudgetLeft] = field(default=())

    async def fleet(self) -> FleetFigures:
        """Current state of the fleet."""
        return await self.port.figures()

    def in_flight(self) -> int:
        """Requests in the gateway, waiting or running."""
        return self.active_requests()

    def busy_share(self) -> float:
        """CPU time of the process as a share of one core."""
        return self.load.share_now()

    async def rates(self) -> Mapping[str, Sequence[KindRates]]:
        """Cost rates by pool."""
        return await self.port.pool_rates()

    def ledger(self) -> LedgerStatus:
        """State of the ledger's writer."""
        return self.accounting.ledger.status

    def budgets(self) -> Sequence[BudgetLeft]:
        """Budgets as of the last read."""
        return self.seen_budgets

    def batch(self) -> Sequence[TenantLoad]:
        """Offline jobs that run here, by tenant."""
        return self.batches()

    async def watch_budgets(self) -> None:
        """Reads the budgets until cancelled. While the ledger fails, the last values stay."""
        while True:
            try:
                self.seen_budgets = await self._look()
            except LedgerUnavailable as error:
                log.warning("the budgets could not be read: %s", error)
            await asyncio.sleep(BUDGETS_S)

    async def _look(self) -> list[BudgetLeft]:
        book = self.accounting.budgets.book
        limits: list[Limit] = []
        for budget in book.applied.budgets[:MAX_BUDGETS]:
            if not budget.each_session:
                limits.extend(_limits(book.applied.accounts(_holder(budget), time.time()), budget))
        if not limits:
            return []
        return await self.accounting.database.read(lambda tx: _left(tx, limits))


def _holder(budget: Budget) -> Holder:
    return Holder(budget.tenant, budget.key_id, None)


def _limits(limits: Sequence[Limit], budget: Budget) -> list[Limit]:
    """The limits of a holder that belong to the budget."""
    return [
        limit
        for limit in limits
        if (limit.account.key_id, limit.account.period) == (budget.key_id, budget.period)
    ]


async def _left(tx: Tx, limits: Sequence[Limit]) -> list[BudgetLeft]:
    found = []
    for limit in limits:
        account = limit.account
        rows = await tx.rows(
            "SELECT committed_nano_usd FROM account WHERE account_id = $1", account.account_id
        )
        committed = rows[0][0] if rows else 0
        cap = limit.cap_nano_usd
        found.append(
            BudgetLeft(
                tenant=account.tenant,
                key_id=account.key_id,
                period=account.period.value,
                cap_usd=cap / NANO_USD,
                left=1 - committed / cap if cap else 0.0,
            )
        )
    return found
