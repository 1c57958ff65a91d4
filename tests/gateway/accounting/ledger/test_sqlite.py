"""The ledger in a file: commits are on the disk, failures are undone, reports stop no writer."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from gateway.accounting.ledger.database import LedgerUnavailable, Tx
from gateway.accounting.ledger.leases import Owner, record_heartbeat
from gateway.accounting.ledger.sqlite import SqliteDatabase, run_now
from tests.ledgers import one

COUNT = "SELECT COUNT(*) FROM gateway"


def heartbeat(name: str) -> Owner:
    return Owner(name, "epoch")


async def test_every_commit_waits_for_the_disk(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "ledger")

    async def mode(tx: Tx) -> tuple[object, object]:
        [(synchronous,)] = await tx.rows("PRAGMA synchronous")
        [(journal,)] = await tx.rows("PRAGMA journal_mode")
        return synchronous, journal

    full = 2
    assert await database.write(mode) == (full, "wal")
    await database.close()


async def test_a_transaction_that_raises_is_undone(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "ledger")

    async def fails(tx: Tx) -> None:
        await record_heartbeat(tx, heartbeat("gw"))
        raise KeyError

    with pytest.raises(KeyError):
        await database.write(fails)
    assert await one(database, COUNT) == 0
    with pytest.raises(LedgerUnavailable, match="no such table"):
        await database.write(lambda tx: tx.rows("SELECT * FROM no_table"))
    with pytest.raises(LedgerUnavailable, match="readonly"):
        await database.read(lambda tx: record_heartbeat(tx, heartbeat("gw")))
    await database.write(lambda tx: record_heartbeat(tx, heartbeat("gw")))
    assert await one(database, COUNT) == 1
    await database.close()


async def test_a_report_does_not_stop_the_writer_and_sees_one_state(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "ledger")
    begun, written = threading.Event(), threading.Event()

    async def report(tx: Tx) -> list[int]:
        seen = [(await tx.rows(COUNT))[0][0]]
        begun.set()
        assert written.wait(timeout=30.0)
        return [*seen, (await tx.rows(COUNT))[0][0]]

    reading = asyncio.create_task(database.read(report))
    assert await asyncio.to_thread(begun.wait, 30.0)
    async with asyncio.timeout(5.0):
        await database.write(lambda tx: record_heartbeat(tx, heartbeat("gw")))
    written.set()
    assert await reading == [0, 0]
    assert await one(database, COUNT) == 1
    await database.close()


async def test_a_transaction_may_await_nothing_but_its_tx(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "ledger")
    with pytest.raises(RuntimeError, match="nothing but its Tx"):
        run_now(asyncio.sleep(0))
    await database.close()
    with pytest.raises(sqlite3.ProgrammingError):
        database._writer.execute("SELECT 1")
