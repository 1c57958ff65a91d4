"""Leases of a killed scheduler: what its requests hold stays held, the rest is free or spent."""

from __future__ import annotations

import sqlite3
from typing import cast

from gateway.accounting.budgets import Budgets
from gateway.accounting.ledger.leases import Owner, adopt_own_leases
from gateway.accounting.ledger.ledger import Ledger
from gateway.accounting.ledger.sqlite import SqliteTx, run_now
from scheduler.budgets.budget import Budget, Holder
from scheduler.budgets.budget_window import Period
from tests.gateway.scheduling.scheduling_made import MemoryLedger
from tests.ledgers import settled

CAP = 1_000_000
BUDGET = Budget(tenant="team", key_id="", period=Period.MONTH, cap_nano_usd=CAP)
HOLDER = Holder("team", "key", None)


async def killed() -> MemoryLedger:
    """A ledger whose process was killed while a request held 600,000."""
    ledger = MemoryLedger()
    before = Budgets(cast(Ledger, ledger), Owner("gateway", "before"))
    before.configure([BUDGET])
    await before.reserve("key/1", HOLDER, 600_000)
    return ledger


async def adopted(ledger: MemoryLedger) -> Budgets:
    owner = Owner("gateway", "after")
    made = Budgets(cast(Ledger, ledger), owner)
    made.configure([BUDGET])
    made.adopt(run_now(adopt_own_leases(SqliteTx(ledger.connection), owner)))
    return made


def account(connection: sqlite3.Connection) -> tuple[int, int]:
    """Settled and committed."""
    return tuple(
        connection.execute("SELECT settled_nano_usd, committed_nano_usd FROM account").fetchone()
    )


async def test_what_runs_is_settled_in_the_lease_that_it_held() -> None:
    ledger = await killed()
    made = await adopted(ledger)
    [lease] = made.book.leases
    made.book.hold_again("key/1", lease.lease_id, 600_000, 0.0)
    await made.end_adoption(complete=True)
    await made.return_unused()
    assert account(ledger.connection)[1] >= 600_000, "the request holds it"
    found = made.settle(settled(charged=400_000))
    assert found is not None
    assert (found.lease_id, found.budgeted_nano_usd, found.overrun_nano_usd) == (
        lease.lease_id,
        400_000,
        0,
    )
    made.release("key/1")
    ledger.connection.execute(
        "UPDATE lease SET settled_nano_usd = 400000 WHERE lease_id = ?", (lease.lease_id,)
    )  # as its row does
    await made.return_unused()
    assert account(ledger.connection)[1] == 400_000
    assert not made.book.leases


async def test_nothing_returns_before_the_fronts_have_told_what_they_hold() -> None:
    ledger = await killed()
    made = await adopted(ledger)
    await made.return_unused()
    assert account(ledger.connection)[1] >= 600_000
    await made.end_adoption(complete=True)
    await made.return_unused()
    assert account(ledger.connection)[1] == 0, "nobody holds it"


async def test_what_a_lost_front_held_counts_as_spent() -> None:
    ledger = await killed()
    granted = account(ledger.connection)[1]
    made = await adopted(ledger)
    await made.end_adoption(complete=False)
    await made.return_unused()
    assert account(ledger.connection) == (granted, granted)
    states = ledger.connection.execute("SELECT state, charged_nano_usd FROM attempt").fetchall()
    assert states == [("lease_recovery", granted)]


async def test_a_lease_that_is_not_known_is_held_by_nobody() -> None:
    made = await adopted(MemoryLedger())
    made.book.hold_again("key/1", "gone", 600_000, 0.0)
    assert made.book.held("key/1") == ("", 0)
    found = made.settle(settled(charged=400_000))
    assert found is not None
    assert found.lease_id is None
    assert found.budgeted_nano_usd == 400_000
