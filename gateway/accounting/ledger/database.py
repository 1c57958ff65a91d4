"""Transactions on the ledger's database: one interface, and SQLite behind it.

A transaction is an async function of a `Tx`; it is written once and runs on both databases. SQLite
has no asynchronous interface: its `Tx` never suspends, so that the whole function runs to its end
in a thread of its own, off the event loop. Statements number their parameters $1, $2.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import os
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from gateway.accounting.ledger.schema import STATEMENTS, VERSION

T = TypeVar("T")
Row = tuple[Any, ...]
BUSY_S = 10.0
"""How long SQLite waits for a lock that a reader of the file holds."""
READ = ("BEGIN",)
WRITE = ("PRAGMA synchronous = FULL", "BEGIN IMMEDIATE")
WRITE_SOON = ("PRAGMA synchronous = NORMAL", "BEGIN IMMEDIATE")
"""How a transaction begins. FULL: its commit is on the disk when it returns. NORMAL: the system has
it, and brings it to the disk with the next FULL one. Immediate: a transaction that reads first and
then finds another writer could not go on."""


class LedgerUnavailable(Exception):
    """The database did not answer, or refused: full disk, lost connection. It may come back."""


class LedgerUnusable(Exception):
    """The ledger cannot be opened as it is configured; the text says what to mend."""


class Tx(Protocol):
    """Inside a transaction."""

    async def run(self, sql: str, *values: object) -> int:
        """Runs a statement; the number of rows that it changed."""

    async def rows(self, sql: str, *values: object) -> Sequence[Row]:
        """Rows of a query, or of a RETURNING."""

    async def many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Runs a statement for each row."""


class Database(Protocol):
    """Where the ledger lies."""

    async def write(self, transaction: Callable[[Tx], Awaitable[T]], *, durable: bool = True) -> T:
        """Runs it and commits it. Raises LedgerUnavailable: then it may have happened, or not.

        `durable`: when it returns, this and all before it survive the machine; else only the
        process, and the machine once a durable one follows.
        """

    async def read(self, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        """Runs what only reads. Raises LedgerUnavailable."""

    async def keep(self, gateway: str) -> None:
        """Sees to it that no other process writes as this gateway. Raises LedgerUnavailable."""

    async def close(self) -> None:
        """Lets go of it."""


async def create_tables(tx: Tx) -> None:
    """Makes the tables where they are missing. Raises LedgerUnusable."""
    for statement in STATEMENTS:
        await tx.run(statement)
    found = await tx.rows("SELECT version FROM ledger")
    if not found:
        await tx.run("INSERT INTO ledger (version) VALUES ($1)", VERSION)
    elif found[0][0] != VERSION:
        raise LedgerUnusable(
            f"the ledger has version {found[0][0]}, this moegate writes {VERSION}: export it with "
            "the moegate that made it, and name another file or database"
        )


@functools.cache
def _numbered(sql: str) -> str:
    """The statement with SQLite's names of its parameters."""
    return sql.replace("$", "?")


class SqliteTx:
    """`Tx` of SQLite: every call is done when it returns."""

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


class SqliteDatabase:
    """A file. One process at a time may write to it; a lock beside it sees to that."""

    def __init__(self, path: Path) -> None:
        """Raises LedgerUnusable."""
        self._lock = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._writer = _connect(path)
            run_now(_in_transaction(self._writer, create_tables, WRITE))
            self._reader = _connect(path)
            self._reader.execute("PRAGMA query_only = 1")
        except BlockingIOError:
            self._unlock()
            raise LedgerUnusable(
                f"ledger {path}: another gateway writes to it: give each a file of its own, or all "
                "of them one PostgreSQL"
            ) from None
        except (OSError, sqlite3.Error) as error:
            self._unlock()
            raise LedgerUnusable(f"ledger {path}: {error}") from error
        except LedgerUnusable:
            self._unlock()
            raise
        self._write_thread = ThreadPoolExecutor(1, "moegate-ledger-write")
        self._read_thread = ThreadPoolExecutor(1, "moegate-ledger-read")

    async def write(self, transaction: Callable[[Tx], Awaitable[T]], *, durable: bool = True) -> T:
        """See `Database`."""
        begin = WRITE if durable else WRITE_SOON
        return await self._in(self._write_thread, self._writer, transaction, begin)

    async def read(self, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        """See `Database`."""
        return await self._in(self._read_thread, self._reader, transaction, READ)

    async def keep(self, gateway: str) -> None:
        """See `Database`: the lock of the file does."""

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
        begin: Sequence[str],
    ) -> T:
        def work() -> T:
            return run_now(_in_transaction(connection, transaction, begin))

        try:
            return await asyncio.get_running_loop().run_in_executor(thread, work)
        except sqlite3.Error as error:
            raise LedgerUnavailable(str(error)) from error

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
    begin: Sequence[str],
) -> T:
    for statement in begin:
        connection.execute(statement)
    try:
        result = await transaction(SqliteTx(connection))
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # a full disk has rolled it back already
            connection.execute("ROLLBACK")
        raise
    return result


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode = WAL")
    return connection
