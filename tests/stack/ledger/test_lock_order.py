"""Transactions lock accounts in the same order, whatever the collation of the database is."""

from __future__ import annotations

import asyncio

import asyncpg

from gateway.accounting.ledger.append import apply
from gateway.accounting.ledger.database import Tx
from gateway.accounting.ledger.postgres import connect
from gateway.accounting.ledger.postgres_append import single_statement_append
from gateway.accounting.ledger.rows import pending_row
from scheduler.budgets.budget import BudgetAccount
from scheduler.budgets.budget_book import BudgetSettlement
from scheduler.budgets.budget_window import Period
from tests.ledgers import settled
from tests.stack.ledger.postgres import Postgres


def account(session_id: str) -> BudgetAccount:
    return BudgetAccount(
        tenant="team", key_id="", session_id=session_id, period=Period.DAY, starts_unix_s=0
    )


async def test_a_batch_and_a_transaction_lock_accounts_in_one_order(postgres: Postgres) -> None:
    made = await asyncpg.connect(postgres.dsn)
    await made.execute("DROP DATABASE IF EXISTS collated WITH (FORCE)")
    await made.execute(
        "CREATE DATABASE collated TEMPLATE template0 ENCODING 'UTF8'"
        " LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"
    )
    await made.close()
    database = await connect(postgres.dsn.removesuffix("/postgres") + "/collated", "gw")
    try:
        accounts = account("Beta"), account("alpha")  # in Python's order
        assert sorted(each.account_id for each in accounts) == [
            each.account_id for each in accounts
        ]
        counts = BudgetSettlement(
            lease_id=None, budgeted_nano_usd=5, overrun_nano_usd=0, others=accounts
        )
        append = single_statement_append(database, "epoch")

        async def add(tx: Tx) -> None:
            for each in accounts:
                await tx.run(
                    "INSERT INTO account VALUES ($1, 'team', '', '', 'day', 0, 0, 0)",
                    each.account_id,
                )

        await database.write(add)
        first, second = (each.account_id for each in accounts)
        held, go_on = asyncio.Event(), asyncio.Event()

        async def both(tx: Tx) -> None:
            await apply(tx, {first: (1, 1)})
            held.set()
            await go_on.wait()
            await apply(tx, {second: (1, 1)})

        transaction = asyncio.create_task(database.write(both))
        await held.wait()
        rows = [pending_row(settled("key/1", charged=5), counts)]
        batch = asyncio.ensure_future(append(0, rows))
        locks = "SELECT COUNT(*) FROM pg_locks WHERE NOT granted"
        while await database.read(lambda tx: tx.rows(locks)) == [(0,)]:
            await asyncio.sleep(0.01)
        go_on.set()
        await asyncio.gather(transaction, batch)
        sums = await database.read(lambda tx: tx.rows("SELECT settled_nano_usd FROM account"))
        assert sums == [(6,), (6,)]
    finally:
        await database.close()
