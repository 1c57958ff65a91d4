"""What callers are told of their spend and budgets, read from a real database."""

from __future__ import annotations

import asyncio
import calendar
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

from gateway.accounting.ledger.append import register_epoch
from gateway.accounting.ledger.caller_reads import CallerReads
from gateway.accounting.ledger.database import Database, LedgerUnavailable, Tx
from gateway.accounting.ledger.rows import INSERT, bare_row
from gateway.accounting.ledger.sqlite import SqliteTx, run_now
from gateway.scheduling.key_accounts import KeyAccounts
from scheduler.budgets.budget import Budget, Holder
from scheduler.budgets.budget_window import Period
from scheduler.budgets.standing import SpendSince
from tests.gateway.scheduling.scheduling_made import MemoryLedger, config, hosted, settings_of

T = TypeVar("T")
WEDNESDAY_S = calendar.timegm((2026, 7, 15, 12, 0, 0))
MONDAY_S = calendar.timegm((2026, 7, 13, 0, 0, 0))
JULY_S = calendar.timegm((2026, 7, 1, 0, 0, 0))


def budget(period: Period, cap: int, *, key_id: str = "", **fields: bool) -> Budget:
    return Budget(tenant="team", key_id=key_id, period=period, cap_nano_usd=cap, **fields)


def write(ledger: MemoryLedger, seq: int, ended_s: int, charged: int, key_id: str = "k") -> None:
    row = bare_row(
        epoch="e",
        seq=seq,
        state="measured",
        tenant="team",
        key_id=key_id,
        started_unix_us=ended_s * 1_000_000,
        ended_unix_us=ended_s * 1_000_000,
        prompt_tokens=10,
        cached_tokens=4,
        completion_tokens=5,
        attempt=1,
        charged_nano_usd=charged,
        budgeted_nano_usd=charged,
    )
    tx = SqliteTx(ledger.connection)
    run_now(register_epoch(tx, "e"))
    run_now(tx.many(INSERT, [row]))


async def test_budgets_of_the_key_and_of_its_tenant_are_told_with_what_is_spent() -> None:
    made = hosted(
        settings_of(config()),
        budgets=[
            budget(Period.MONTH, 5000),
            budget(Period.DAY, 1000, key_id="k", hard=False),
            budget(Period.DAY, 70, key_id="other"),
            budget(Period.HOUR, 7000, key_id="k", each_session=True),
        ],
    )
    holder = Holder("team", "k", "s")
    await made.budgets.reserve("r", holder, 300)
    [lease] = made.budgets.book.leases
    for limit in lease.limits:
        if limit.account.session_id is None:
            made.ledger.connection.execute(
                "UPDATE account SET settled_nano_usd = 200 WHERE account_id = ?",
                (limit.account.account_id,),
            )
    found = await made.local.budget_standings("team", "k")
    assert found is not None
    assert sorted((each.period, each.of_key, each.spent_nano_usd, each.hard) for each in found) == [
        (Period.DAY, True, 200, False),
        (Period.MONTH, False, 200, True),
    ]
    assert await made.local.budget_standings("other team", "k") == ()


async def test_the_spend_of_a_day_a_week_and_a_month() -> None:
    made = hosted(settings_of(config()))
    write(made.ledger, 0, WEDNESDAY_S - 60, 1)
    write(made.ledger, 1, MONDAY_S, 10)
    write(made.ledger, 2, MONDAY_S - 1, 100)
    write(made.ledger, 3, JULY_S, 1000)
    write(made.ledger, 4, JULY_S - 1, 10_000)
    write(made.ledger, 5, WEDNESDAY_S - 60, 100_000, key_id="other")
    found = await KeyAccounts(made.budgets, made.reads, lambda: WEDNESDAY_S).spend("team", "k")
    assert found is not None
    assert found.day == SpendSince(
        starts_unix_s=WEDNESDAY_S - 12 * 3600, requests=1, tokens=15, charged_nano_usd=1
    )
    assert found.week == SpendSince(
        starts_unix_s=MONDAY_S, requests=2, tokens=30, charged_nano_usd=11
    )
    assert found.month == SpendSince(
        starts_unix_s=JULY_S, requests=4, tokens=60, charged_nano_usd=1111
    )


class Away:
    """A database that does not answer."""

    async def read(self, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        await asyncio.sleep(0)
        raise LedgerUnavailable("away")


async def test_without_the_database_nothing_is_known() -> None:
    made = hosted(settings_of(config()), budgets=[budget(Period.MONTH, 5000)])
    accounts = KeyAccounts(made.budgets, CallerReads(cast(Database, Away())))
    assert await accounts.standings("team", "k") is None
    assert await accounts.spend("team", "k") is None
    assert await accounts.standings("without budgets", "k") == ()
