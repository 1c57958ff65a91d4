"""The ledger in a SQLite file, which one gateway writes.

SQLite has no asynchronous interface. Its `Tx` never suspends, so that a whole transaction runs to
its end in a thread of its own, off the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import math
import os
import re
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from gateway.accounting.ledger.database import (
    Dialect,
    LedgerUnavailable,
    LedgerUnusable,
    Row,
    Tx,
)
from gateway.accounting.ledger.migrations import migrate

T = TypeVar("T")
BUSY_S = 10.0
"""How long SQLite waits for a lock that a reader of the file holds."""
READ_S = 10.0
"""Longest read, as a statement of PostgreSQL: others wait for it."""
PROGRESS_STEPS = 10_000
"""Steps of SQLite's machine, some 0.1 ms, between two looks at the clock during a read."""
READ = "BEGIN"
WRITE = "BEGIN IMMEDIATE"
"""How a transaction begins. Immediate: one that reads first, and then finds that another connection
has written, could not go on."""


@functools.cache
def _numbered(sql: str) -> str:
    """The statement with SQLite's parameter names."""
    return re.sub(r"\$(?=[0-9])", "?", sql)


class SqliteTx:
    """`Tx` of SQLite. Its calls never suspend."""

    dialect = Dialect.SQLITE

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def run(self, sql: str, *values: object) -> int:
        """See `Tx`."""
        return self._connection.execute(_numbered(sql), values).rowcount

    async def rows(self, sql: str, *values: object) -> Sequence[Row]:
        """See `Tx`."""
        return self._connection.execute(_numbered(sql), values).fetchall()

    async def many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """See `Tx`."""
        self._connection.executemany(_numbered(sql), rows)

    async def computed(self, work: Callable[[], T]) -> T:
        """See `Tx`: the transaction has a thread already."""
        return work()


class SqliteDatabase:
    """A SQLite file. A lock file beside it admits one process at a time."""

    def __init__(self, path: Path) -> None:
        """Raises LedgerUnusable."""
        self._lock = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._writer = _connect(path)
            run_now(migrate(functools.partial(write_migration, self._writer), Dialect.SQLITE))
            self._reader = _connect(path)
            self._reader.execute("PRAGMA query_only = 1")
            self._read_until_s = math.inf
            self._reader.set_progress_handler(self._reads_too_long, PROGRESS_STEPS)
        except BlockingIOError:
            self._unlock()
            raise LedgerUnusable(
                f"{path}: another gateway writes to it: give each a file of its own, or all "
                "of them one PostgreSQL"
            ) from None
        except (OSError, sqlite3.Error) as error:
            self._unlock()
            raise LedgerUnusable(f"{path}: {error}") from error
        except LedgerUnusable:
            self._unlock()
            raise
        self._write_thread = ThreadPoolExecutor(1, "moegate-ledger-write")
        self._read_thread = ThreadPoolExecutor(1, "moegate-ledger-read")

    async def write(self, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        """See `Database`."""
        return await self._in(self._write_thread, self._writer, transaction, WRITE)

    async def read(self, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        """See `Database`. A read that takes longer than `READ_S` is interrupted."""

        def begin() -> None:
            self._read_until_s = time.monotonic() + READ_S

        return await self._in(self._read_thread, self._reader, transaction, READ, begin)

    async def hold_name(self, gateway: str) -> None:
        """See `Database`. The lock file does it."""

    async def close(self) -> None:
        """See `Database`."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._read_thread, self._reader.close)
        await loop.run_in_executor(self._write_thread, self._writer.close)
        self._read_thread.shutdown(wait=False)
        self._write_thread.shutdown(wait=False)
        self._unlock()

    async def _in(
        self,
        thread: ThreadPoolExecutor,
        connection: sqlite3.Connection,
        transaction: Callable[[Tx], Awaitable[T]],
        begin: str,
        before: Callable[[], None] = lambda: None,
    ) -> T:
        def work() -> T:
            before()
            return run_now(_in_transaction(connection, transaction, begin))

        try:
            return await asyncio.get_running_loop().run_in_executor(thread, work)
        except sqlite3.Error as error:
            text = str(error)
            if text == "interrupted":
                text = f"a read took longer than {READ_S:g} s: ask for a shorter window"
            raise LedgerUnavailable(text) from error

    def _reads_too_long(self) -> bool:
        """Whether the present read is to be interrupted. Runs in the thread that reads."""
        return time.monotonic() > self._read_until_s

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def run_now(work: Awaitable[T]) -> T:
    """The result of an awaitable that never suspends."""
    steps = work.__await__()
    try:
        next(steps)
    except StopIteration as done:
        result: T = done.value
        return result
    raise RuntimeError("a transaction of SQLite may await nothing but its Tx")


async def _in_transaction(
    connection: sqlite3.Connection,
    transaction: Callable[[Tx], Awaitable[T]],
    begin: str,
) -> T:
    connection.execute(begin)
    try:
        result = await transaction(SqliteTx(connection))
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # a full disk rolled it back already
            connection.execute("ROLLBACK")
        raise
    return result


async def write_migration(
    connection: sqlite3.Connection, transaction: Callable[[Tx], Awaitable[T]], /
) -> T:
    """Runs a transaction under the write lock of the file, waiting for it."""
    return await _in_transaction(connection, transaction, WRITE)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a commit waits for the disk
    return connection
