"""Reads that callers ask for: few at once, tenants take turns, and the gateway's own are free."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.accounting.ledger import sqlite
from gateway.accounting.ledger.caller_reads import (
    MOST_OF_TENANT,
    READS_AT_ONCE,
    CallerReads,
    TooManyReads,
)
from gateway.accounting.ledger.database import LedgerUnavailable, Tx
from gateway.accounting.ledger.sqlite import SqliteDatabase

T = TypeVar("T")


class SlowDatabase:
    """A database whose reads end one by one, when the test lets them."""

    def __init__(self) -> None:
        self.running: list[tuple[str, asyncio.Future[None]]] = []
        self.most = 0

    async def read(self, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        """Runs until the test ends it; the result names the tenant."""
        name: T = await transaction(None)  # type: ignore[arg-type]
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (str(name), ended)
        self.running.append(entry)
        self.most = max(self.most, len(self.running))
        try:
            await ended
        finally:
            self.running.remove(entry)
        return name

    async def end_first(self) -> str:
        """Ends the read that has run longest, and lets the next one begin."""
        name, ended = self.running[0]
        ended.set_result(None)
        await turns()
        return name


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def reading(reads: CallerReads, tenant: str) -> asyncio.Task[str]:
    async def transaction(_: Tx) -> str:
        return tenant

    return asyncio.create_task(reads.read(tenant, transaction))


def made() -> tuple[SlowDatabase, CallerReads]:
    database = SlowDatabase()
    return database, CallerReads(database)  # type: ignore[arg-type]


async def test_a_tenant_with_many_reads_lets_others_pass() -> None:
    database, reads = made()
    tasks = [reading(reads, "loud") for _ in range(MOST_OF_TENANT)]
    await turns()
    assert [name for name, _ in database.running] == ["loud"], "one of a tenant at once"
    tasks.append(reading(reads, "quiet"))
    await turns()
    assert [name for name, _ in database.running] == ["loud", "quiet"]
    while database.running:
        await database.end_first()
    await asyncio.gather(*tasks)
    assert database.most == READS_AT_ONCE
    assert len(reads) == 0


async def test_a_read_too_many_is_refused_and_one_that_is_left_makes_room() -> None:
    database, reads = made()
    tasks = [reading(reads, "loud") for _ in range(MOST_OF_TENANT)]
    await turns()
    with pytest.raises(TooManyReads, match="16 reads of tenant loud run or wait"):
        await reading(reads, "loud")
    tasks.pop().cancel()
    tasks.pop(0).cancel()  # the one that runs
    await turns()
    tasks += [reading(reads, "loud"), reading(reads, "loud")]
    await turns()
    while database.running:
        await database.end_first()
    assert await asyncio.gather(*tasks) == ["loud"] * MOST_OF_TENANT
    assert len(reads) == 0


@given(st.lists(st.sampled_from(["loud", "louder", "quiet", "end", "cancel"]), max_size=80))
def test_no_tenant_waits_for_more_than_a_turn_of_each_other(steps: list[str]) -> None:
    async def run() -> None:
        database, reads = made()
        tasks: list[asyncio.Task[str]] = []
        waited = 0  # turns of others since the quiet tenant's only read began to wait
        quiet: asyncio.Task[str] | None = None
        for step in steps:
            match step:
                case "end" if database.running:
                    ended = await database.end_first()
                    waited += ended != "quiet"
                case "cancel" if tasks:
                    tasks.pop(len(tasks) // 2).cancel()
                case "quiet" if quiet is None or quiet.done():
                    quiet, waited = reading(reads, "quiet"), 0
                case "loud" | "louder":
                    tasks.append(reading(reads, step))
            await turns()
            assert len(database.running) <= READS_AT_ONCE
            names = [name for name, _ in database.running]
            assert len(set(names)) == len(names)
            if quiet is not None and not quiet.done() and "quiet" not in names:
                assert waited <= 2, "each of the two others has had its turn"
        while database.running:
            await database.end_first()
        await asyncio.gather(*tasks, return_exceptions=True)
        if quiet is not None:
            assert await quiet == "quiet"
        assert len(reads) == 0

    asyncio.run(run())


async def test_a_read_that_takes_too_long_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "READ_S", 0.05)
    database = SqliteDatabase(tmp_path / "ledger.sqlite3")
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT MAX(x) FROM n"
    try:
        with pytest.raises(LedgerUnavailable, match=r"a read took longer than 0\.05 s"):
            await database.read(lambda tx: tx.rows(endless))
        assert await database.read(lambda tx: tx.rows("SELECT 1")) == [(1,)], "the next one runs"
    finally:
        await database.close()
