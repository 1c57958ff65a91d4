"""The ledger's writer on a real SQLite: batches, a full disk, the bound of its backlog, the end."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gateway.accounting.accounting import Accounting, open_accounting
from gateway.accounting.budgets import BudgetUnchecked
from gateway.accounting.ledger.append import transactional_append
from gateway.accounting.ledger.database import LedgerUnusable, Tx
from gateway.accounting.ledger.ledger import Ledger as Writer
from gateway.accounting.ledger.retention import PIECE_ROWS, delete_old
from gateway.accounting.ledger.sqlite import SqliteDatabase
from gateway.accounting.rollups.fold import fold
from gateway.config.gateway import GatewayConfig
from gateway.config.ledger import BudgetConfig, LedgerConfig
from gateway.config.problems import ConfigError
from scheduler.budgets.budget_window import Period
from tests.ledgers import booked, one, settled
from tests.serving import until

CAP_USD = "1.0"


@contextlib.asynccontextmanager
async def opened(folder: Path, backlog_rows: int = 1000) -> AsyncIterator[Accounting]:
    budget = BudgetConfig(tenant="team", key="capped", period=Period.MONTH, cap_usd=CAP_USD)
    config = msgspec.structs.replace(
        GatewayConfig(),
        ledger=LedgerConfig(backlog_rows=backlog_rows, retain_days=36_500),
        budgets=(budget,),
    )
    async with open_accounting(config, folder) as made:
        yield made


async def disk(made: Accounting, *, full: bool) -> None:
    """SQLite's own limit on the size of its file: the error is that of a full disk."""

    async def limit(tx: Tx) -> None:
        pages = (await tx.rows("PRAGMA page_count"))[0][0] if full else 1 << 30
        await tx.rows(f"PRAGMA max_page_count = {pages}")

    await made.database.write(limit)


async def nothing(tx: Tx) -> None:
    """A transaction of no statement."""


async def test_rows_of_a_full_disk_wait_and_are_written_once_it_has_room(tmp_path: Path) -> None:
    async with opened(tmp_path) as made:
        await disk(made, full=True)
        for i in range(800):
            made.record_attempt(settled(f"key/{i}", charged=1))
        await until(lambda: made.ledger.status.error != "")
        assert "full" in made.ledger.status.error
        # A grant cannot be had: a budget that cannot be checked is not spent.
        holder = made.budgets.holder("team", "capped", "")
        assert holder is not None
        with pytest.raises(BudgetUnchecked):
            await made.budgets.reserve("capped/1", holder, 10)
        assert made.ledger.status.backlog_rows >= 700
        await disk(made, full=False)
        await until(lambda: made.ledger.status.backlog_rows == 0)
        assert made.ledger.status.error == ""
        assert await one(made.database, "SELECT COUNT(*) FROM attempt") == 800
        await made.budgets.reserve("capped/1", holder, 10)
        made.budgets.release("capped/1")


async def test_beyond_the_bound_rows_are_lost_counted_and_covered_by_their_lease(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as made:
        holder = made.budgets.holder("team", "capped", "")
        assert holder is not None
        await made.budgets.reserve("capped/0", holder, 2000)
        made.budgets.release("capped/0")
        await disk(made, full=True)
        for i in range(1, 1201):
            request_id = f"capped/{i}"
            await made.budgets.reserve(request_id, holder, 2000)
            made.record_attempt(settled(request_id, charged=1000, key_id="capped"))
            made.budgets.release(request_id)
        await until(lambda: made.ledger.status.error != "")
        lost = made.ledger.status.lost_rows
        assert 0 < lost <= 200
        assert made.ledger.status.lost_nano_usd == lost * 1000
        assert made.ledger.status.backlog_rows <= 1000
        await disk(made, full=False)
        await until(lambda: made.ledger.status.backlog_rows == 0)
    async with opened(tmp_path) as made:
        assert await booked(made.database) == 1_200_000
        recovered = "SELECT SUM(charged_nano_usd) FROM attempt WHERE state = 'lease_recovery'"
        assert await one(made.database, recovered) == lost * 1000
        assert await one(made.database, "SELECT committed_nano_usd FROM account") == 1_200_000


async def test_the_end_writes_what_waits_and_closes_the_leases(tmp_path: Path) -> None:
    async with opened(tmp_path) as made:
        holder = made.budgets.holder("team", "capped", "")
        assert holder is not None
        await made.budgets.reserve("capped/1", holder, 500)
        made.record_attempt(settled("capped/1", charged=300, key_id="capped"))
        made.budgets.release("capped/1")
    async with opened(tmp_path) as made:
        assert await booked(made.database) == 300
        assert await one(made.database, "SELECT committed_nano_usd FROM account") == 300
        assert await one(made.database, "SELECT COUNT(*) FROM lease WHERE state = 'closed'") == 1


async def test_a_file_has_one_gateway_and_one_version(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(ConfigError, match="another gateway writes to it"):
            async with opened(tmp_path):
                pass
    with sqlite3.connect(tmp_path / LedgerConfig().sqlite) as connection:
        connection.execute("UPDATE ledger SET version = 99")
    connection.close()
    with pytest.raises(LedgerUnusable, match="version 99"):
        SqliteDatabase(tmp_path / LedgerConfig().sqlite)
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerUnusable, match=r"exists|directory"):
        SqliteDatabase(tmp_path / "file" / "ledger.sqlite3")


async def test_a_refusal_that_lasts_is_remembered_for_a_moment(tmp_path: Path) -> None:
    async with opened(tmp_path) as made:
        holder = made.budgets.holder("team", "capped", "")
        assert holder is not None
        for _ in range(3):
            with pytest.raises(Exception, match="budget of tenant team, key capped, a month"):
                await made.budgets.reserve("capped/1", holder, 2_000_000_000)
        await made.budgets.reserve("capped/2", holder, 900_000_000)
        made.budgets.release("capped/2")


async def test_old_rows_are_deleted_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.accounting.accounting.MAINTENANCE_S", 3600.0)
    async with opened(tmp_path, backlog_rows=20_000) as made:
        now = time.time()
        for i in range(PIECE_ROWS + 10):
            made.record_attempt(settled(f"key/{i}", charged=1, ended_unix_s=now - 500 * 86_400))
        made.record_attempt(settled("key/new", charged=1, ended_unix_s=now))
        await until(lambda: made.ledger.status.backlog_rows == 0)
        before_us = round((now - 400 * 86_400) * 1e6)
        assert await made.write(lambda tx: delete_old(tx, before_us)) == 0, "in no sum yet"
        while await made.write(fold):
            pass
        deleted = [await made.write(lambda tx: delete_old(tx, before_us)) for _ in range(3)]
        assert deleted == [PIECE_ROWS, 10, 0]
        assert await one(made.database, "SELECT COUNT(*) FROM attempt") == 1


async def test_nothing_blocks_the_loop_while_a_batch_is_written(tmp_path: Path) -> None:
    async with opened(tmp_path, backlog_rows=100_000) as made:
        for i in range(20_000):
            made.record_attempt(settled(f"key/{i}", charged=1))
        turns = 0
        while made.ledger.status.backlog_rows:
            await asyncio.sleep(0)
            turns += 1
        assert turns > 50
        assert await booked(made.database) == 20_000


@pytest.mark.parametrize("turns", range(8))
async def test_the_writer_ends_at_whatever_moment_it_is_told_to(tmp_path: Path, turns: int) -> None:
    async with opened(tmp_path) as made:
        writer = Writer(made.database, transactional_append(made.database, "other"), 10, None)
        running = asyncio.create_task(writer.run())
        await asyncio.sleep(0)
        asking = asyncio.create_task(writer.after_rows(nothing, 30.0))
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        done, _ = await asyncio.wait([running], timeout=30.0)
        asking.cancel()
        assert done


async def test_a_budget_that_is_taken_away_while_a_request_reserves_holds_it_no_more(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as made:
        holder = made.budgets.holder("team", "capped", "")
        assert holder is not None
        reserving = asyncio.create_task(made.budgets.reserve("capped/1", holder, 10))
        await asyncio.sleep(0)  # it has asked for a lease
        made.budgets.configure(())
        await reserving
        assert made.budgets.holder("team", "capped", "") is None
        assert made.budgets.settle(settled("capped/1", key_id="capped")) is None
        made.budgets.release("capped/1")
