"""SQLite and PostgreSQL give the same answers, and a batch in one statement writes what a
transaction of several writes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gateway.accounting.lease_recovery import (
    record_lost_rows,
    recover_own_leases,
    recover_silent_gateways,
    return_unspent,
)
from gateway.accounting.ledger.append import Append, transactional_append
from gateway.accounting.ledger.budgets import overrides, standings, top_sessions
from gateway.accounting.ledger.corrections import correct
from gateway.accounting.ledger.database import Database, Row, Tx
from gateway.accounting.ledger.leases import (
    Extended,
    Owner,
    extend,
)
from gateway.accounting.ledger.postgres import PostgresTx, connect
from gateway.accounting.ledger.postgres_append import single_statement_append
from gateway.accounting.ledger.queries import Selection, pages
from gateway.accounting.ledger.rows import PendingRow, pending_row
from gateway.accounting.ledger.sqlite import SqliteDatabase, SqliteTx
from gateway.accounting.rollups.spend import Group, Order, spend
from scheduler.budgets.budget import Budget, BudgetAccount, Holder
from scheduler.budgets.budget_book import BudgetBook, BudgetSettlement
from scheduler.budgets.budget_window import Period
from scheduler.budgets.lease import Lease
from tests.golden_ledger import EPOCH, SCHEMA_1, WRITTEN_UNIX_S
from tests.ledgers import TIME_S, settled
from tests.stack.ledger.postgres import Postgres

ALL = Selection(from_us=0, to_us=2**62)
BUDGETS = tuple(
    Budget(tenant="team", key_id=key, each_session=each, period=period, cap_nano_usd=10**9)
    for key in ("", "capped", "agent")
    for each in (False, True)
    for period in Period
)


@contextlib.asynccontextmanager
async def both(
    folder: Path, postgres: Postgres, name: str, *, golden: bool
) -> AsyncIterator[tuple[SqliteDatabase, Database, Append]]:
    """Both databases, and the second one's append in one statement, for epoch `epoch`."""
    dsn = await postgres.new_database(name)
    if golden:
        connection = await asyncpg.connect(dsn)
        await connection.execute(SCHEMA_1)
        await connection.close()
        with sqlite3.connect(folder / "ledger") as file:
            file.executescript(SCHEMA_1)
        file.close()
    first = SqliteDatabase(folder / "ledger")
    second = await connect(dsn, "gw")
    try:
        yield first, second, single_statement_append(second, "epoch")
    finally:
        await first.close()
        await second.close()


async def everything(database: Database) -> list[object]:
    """What every query answers."""
    answers: list[object] = []
    for order in Order:
        for groups in ((), (Group.KEY,), *((Group.SESSION, group) for group in Group)):

            def query(tx: Tx, groups: tuple[Group, ...] = groups, order: Order = order) -> object:
                return spend(tx, ALL, groups, order, 50, label="team")

            answers.append(await database.read(query))  # type: ignore[arg-type]
    answers.append([page async for page in pages(database.read, ALL)])
    answers.append(await database.read(overrides))
    for budget in BUDGETS:
        answers.append(await database.read(lambda tx: standings(tx, budget)))  # noqa: B023
        answers.append(await database.read(lambda tx: top_sessions(tx, budget)))  # noqa: B023
    return answers


async def test_queries_and_corrections_answer_the_same(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    def accounts_of(*_: object) -> list[BudgetAccount]:
        return [
            BudgetAccount(
                tenant="team",
                key_id="capped",
                session_id=None,
                period=Period.MONTH,
                starts_unix_s=1_793_491_200,
            )
        ]

    async with both(tmp_path, postgres, "queries", golden=True) as (first, second, _):
        monkeypatch.setattr("time.time", lambda: WRITTEN_UNIX_S)
        for _again in range(2):
            assert await everything(first) == await everything(second)
            charged = [
                await database.write(lambda tx: correct(tx, EPOCH, 1, 77, "more", accounts_of))
                for database in (first, second)
            ]
            assert charged[0] == charged[1]


@dataclass(frozen=True, slots=True)
class Batch:
    """`first_seq` may be that of an earlier batch: a batch whose answer was lost comes again."""

    first_seq: int
    rows: list[PendingRow]


def batches(leases: list[Lease], chance: random.Random) -> list[Batch]:
    """Batches of one epoch, some of them twice, and then with more rows."""
    found: list[Batch] = []
    seq = 0
    others = leases[0].limits[0].account, leases[-1].limits[-1].account
    for _ in range(12):
        rows: list[PendingRow] = []
        for _row in range(chance.randint(1, 6)):
            charge, overrun = chance.randint(0, 900), chance.choice((0, 0, 5))
            counts: BudgetSettlement | None = BudgetSettlement(
                lease_id=chance.choice([*(lease.lease_id for lease in leases), "gone", None]),
                budgeted_nano_usd=charge,
                overrun_nano_usd=overrun,
                others=others[: chance.randint(0, 2)],
            )
            if chance.random() < 0.2:
                counts = None
            rows.append(pending_row(settled(f"capped/{seq + len(rows)}", charged=charge), counts))
        found.append(Batch(seq, rows))
        if chance.random() < 0.4:
            more = pending_row(settled(f"capped/{seq + len(rows)}", charged=3), None)
            rows = [*rows, more]
            found.append(Batch(seq, rows))
        seq += len(rows)
    return found


async def tables(database: Database) -> list[list[Row]]:
    """Rows, leases and accounts, times of the clock left out."""
    rows = (
        "SELECT epoch, seq, state, request_id, charged_nano_usd, budgeted_nano_usd, lease_id, note"
        " FROM attempt ORDER BY epoch, seq"
    )
    leases = (
        "SELECT lease_id, state, granted_nano_usd, settled_nano_usd, recovered_nano_usd"
        " FROM lease ORDER BY lease_id"
    )
    accounts = "SELECT * FROM account ORDER BY account_id"
    return [
        [tuple(row) for row in await database.read(lambda tx: tx.rows(sql))]  # noqa: B023
        for sql in (rows, leases, accounts)
    ]


@pytest.mark.parametrize("seed", range(6))
async def test_one_statement_writes_what_a_transaction_writes(
    tmp_path: Path, postgres: Postgres, seed: int
) -> None:
    chance = random.Random(seed)
    book = BudgetBook(iter(f"lease-{i}" for i in range(10)).__next__)
    book.set_budgets(BUDGETS)
    holders = [Holder("team", "capped", session) for session in ("a", "b", "c")]
    steps = [book.extension(holder, 5000, TIME_S) for holder in holders]
    leases = [step.lease for step in steps]
    owner = Owner("gw", "epoch")
    async with both(tmp_path, postgres, "append", golden=False) as (first, second, append):
        appends = (transactional_append(first, "epoch"), append)
        for database in (first, second):
            for step in steps:
                granted = await database.write(
                    lambda tx: extend(tx, owner, step)  # noqa: B023
                )
                assert isinstance(granted, Extended)
        made = batches(leases, chance)
        for number, batch in enumerate(made):
            if number == len(made) // 3:
                # What a front that comes back late holds was booked as lost: overruns correct that.
                for database in (first, second):
                    await database.write(
                        lambda tx: record_lost_rows(tx, {leases[0].lease_id: 1000}, "lost")
                    )
            if number == len(made) * 2 // 3:
                # Another gateway takes this one for dead: what follows corrects its recovery.
                for database in (first, second):
                    lost = await database.write(
                        lambda tx: recover_silent_gateways(tx, Owner("other", "x"), -1e9)
                    )
                    assert lost == len(leases)
            await asyncio.gather(*(write(batch.first_seq, batch.rows) for write in appends))
            assert await tables(first) == await tables(second)
        unspent = {leases[1].lease_id: 7}
        before = await tables(first)
        for database in (first, second):
            for _ in range(2):  # as after a commit whose answer was lost
                await database.write(lambda tx: return_unspent(tx, unspent, "late"))
            assert len((await tables(database))[0]) == len(before[0]) + 1
        assert await tables(first) == await tables(second)
        rows, _, accounts = await tables(first)
        assert len(rows) > len(made)
        assert len(accounts) > 2


async def test_rows_are_summed_up_off_the_event_loop(tmp_path: Path, postgres: Postgres) -> None:
    async with both(tmp_path, postgres, "computed", golden=False) as (first, second, _):
        for database in (first, second):
            thread = await database.read(lambda tx: tx.computed(threading.get_ident))
            assert thread != threading.get_ident()


async def leased(database: Database, leases: int) -> list[str]:
    """Leases of sessions, each with 5000 nano-USD and more, of process `epoch`. Returns their
    ids."""
    book = BudgetBook(iter(f"lease-{i:04}" for i in range(leases)).__next__)
    # Each lease takes a part of what is left to spare.
    book.set_budgets(replace(budget, cap_nano_usd=10**15) for budget in BUDGETS)
    owner = Owner("gw", "epoch")
    steps = [
        book.extension(Holder("team", "capped", f"s{number}"), 5000, TIME_S)
        for number in range(leases)
    ]

    async def grant(tx: Tx) -> None:
        for step in steps:
            assert isinstance(await extend(tx, owner, step), Extended)

    await database.write(grant)
    return [step.lease.lease_id for step in steps]


async def test_what_comes_again_before_the_first_one_is_committed_is_done_once(
    tmp_path: Path, postgres: Postgres
) -> None:
    """The answer of a commit was lost, and it waits for a standby."""
    async with both(tmp_path, postgres, "again", golden=False) as (_, second, _append):
        [lease_id] = await leased(second, 1)
        done, commit = asyncio.Event(), asyncio.Event()

        async def twice(write: Callable[[Tx], Awaitable[None]]) -> None:
            done.clear()
            commit.clear()

            async def slow(tx: Tx) -> None:
                await write(tx)
                done.set()
                await commit.wait()

            first = asyncio.create_task(second.write(slow))
            await done.wait()
            again = asyncio.create_task(second.write(write))
            locks = "SELECT COUNT(*) FROM pg_locks WHERE NOT granted"
            while await second.read(lambda tx: tx.rows(locks)) == [(0,)]:
                await asyncio.sleep(0.01)
            commit.set()
            await asyncio.gather(first, again)

        await twice(lambda tx: record_lost_rows(tx, {lease_id: 2000}, "unknown"))
        await twice(lambda tx: return_unspent(tx, {lease_id: 1000}, "known"))
        rows = await second.read(lambda tx: tx.rows("SELECT budgeted_nano_usd FROM attempt"))
        assert rows == [(2000,), (-1000,)]


async def test_leases_are_recovered_together_as_one_after_the_other(
    tmp_path: Path, postgres: Postgres
) -> None:
    """Some twice, one beyond its rest, one that is gone; then the rest of all of them."""
    async with both(tmp_path, postgres, "recovered", golden=False) as (first, second, _):
        for database in (first, second):
            ids = await leased(database, 12)
            parts = {lease_id: 100 * number for number, lease_id in enumerate(ids)}
            await database.write(lambda tx: record_lost_rows(tx, parts, "lost"))  # noqa: B023
            more = {ids[3]: 7, ids[5]: 10**15, "gone": 5}
            await database.write(lambda tx: record_lost_rows(tx, more, "lost again"))  # noqa: B023
            rows, leases, accounts = await tables(database)
            booked = {
                (row[6], row[7], row[1], row[4])
                for row in rows  # lease, note, number, charge
            }
            rest = leases[5][2] - 500  # granted
            assert booked == {
                *((lease_id, "lost", 0, parts[lease_id]) for lease_id in ids[1:]),
                (ids[3], "lost again", 1, 7),
                (ids[5], "lost again", 1, rest),
            }
            total = sum(parts.values()) + 7 + rest
            assert sum(lease[3] for lease in leases) == total
            assert sum(lease[4] for lease in leases) == total
            of_tenant = [account for account in accounts if not account[2] and account[3] is None]
            assert {account[6] for account in of_tenant} == {total}
            later = Owner("gw", "later")
            assert await database.write(lambda tx: recover_own_leases(tx, later)) == 12  # noqa: B023
            assert await database.write(lambda tx: recover_own_leases(tx, later)) == 0  # noqa: B023
            rows, leases, accounts = await tables(database)
            assert all(lease[1] == "recovered" and lease[2] == lease[3] for lease in leases)
            assert all(account[6] == account[7] for account in accounts)
        assert await tables(first) == await tables(second)


async def test_as_many_statements_recover_a_hundred_leases_as_ten(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with both(tmp_path, postgres, "statements", golden=False) as (first, second, _):
        asked: list[str] = []
        for kind in (SqliteTx, PostgresTx):
            for name in ("run", "rows", "many"):
                monkeypatch.setattr(kind, name, counted(getattr(kind, name), asked))
        for database in (first, second):
            counts = []
            ids = await leased(database, 110)
            for part in (ids[:10], ids[10:]):
                asked.clear()
                lost = dict.fromkeys(part, 1)
                await database.write(lambda tx: record_lost_rows(tx, lost, "lost"))  # noqa: B023
                counts.append(len(asked))
            assert counts[0] == counts[1]
            assert len((await tables(database))[0]) == 110


def counted(call: Callable[..., Awaitable[Any]], asked: list[str]) -> Callable[..., Awaitable[Any]]:
    """A method of a transaction that notes each call."""

    async def noted(self: object, sql: str, *values: object) -> object:
        asked.append(sql)
        return await call(self, sql, *values)

    return noted
