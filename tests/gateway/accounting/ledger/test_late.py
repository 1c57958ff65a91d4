"""Rows that come after their lease was taken for lost, and after their budget."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gateway.accounting.accounting import open_accounting
from gateway.accounting.budgets import settle_against_budgets
from gateway.accounting.lease_recovery import recover_silent_gateways
from gateway.accounting.ledger.leases import Owner
from gateway.config.gateway import GatewayConfig
from gateway.config.ledger import BudgetConfig, LedgerConfig
from scheduler.budgets.budget import Budget
from scheduler.budgets.budget_book import BudgetBook
from scheduler.budgets.budget_window import Period
from tests.ledgers import booked, one, settled

BUDGET = BudgetConfig(tenant="team", key="capped", period=Period.MONTH, cap_usd="0.00001")
CONFIG = msgspec.structs.replace(
    GatewayConfig(), ledger=LedgerConfig(retain_days=36_500), budgets=(BUDGET,)
)


async def test_rows_of_a_recovered_lease_are_booked_once_in_whatever_batches_they_come(
    tmp_path: Path,
) -> None:
    async with open_accounting(CONFIG, tmp_path) as made:
        holder = made.budgets.holder("team", "capped", "")
        assert holder is not None
        for name in ("capped/1", "capped/2", "capped/3"):
            await made.budgets.reserve(name, holder, 1000)
        granted = await one(made.database, "SELECT granted_nano_usd FROM lease")
        await made.write(lambda tx: recover_silent_gateways(tx, Owner("other", "later"), -1e12))
        assert await booked(made.database) == granted
        total = 0
        # The last is an overrun: more than the lease, and so than its recovery, ever held.
        for name, charge in (("capped/1", 600), ("capped/2", 900), ("capped/3", granted)):
            made.record_attempt(settled(name, charged=charge, key_id="capped"))
            total += charge
            await made.write(_nothing)
            assert await booked(made.database) == max(granted, total)
            for column in ("settled_nano_usd", "committed_nano_usd"):
                assert await one(made.database, f"SELECT {column} FROM account") == max(
                    granted, total
                )


def test_a_budget_counts_what_ran_before_any_budget_did() -> None:
    book = BudgetBook(lambda: "lease")
    assert settle_against_budgets(book, settled(key_id="k")) is None
    day = Budget(tenant="team", key_id="k", period=Period.DAY, cap_nano_usd=10)
    book.set_budgets((day,))
    found = settle_against_budgets(book, settled(key_id="k", charged=7))
    assert found is not None
    assert (found.lease_id, found.budgeted_nano_usd, found.overrun_nano_usd) == (None, 7, 0)
    assert [account.key_id for account in found.others] == ["k"]


async def _nothing(_: object) -> None:
    """A transaction that only waits for the rows before it."""
