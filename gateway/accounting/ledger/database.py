"""What the ledger needs of a database: transactions, on SQLite (`sqlite.py`) or PostgreSQL
(`postgres.py`).

A transaction is an async function of a `Tx`; it is written once and runs on both databases.
Statements number their parameters $1, $2.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Row = tuple[Any, ...]


class LedgerUnavailable(Exception):
    """The database did not answer or refused (full disk, lost connection); a retry may succeed."""


class ValueRefused(LedgerUnavailable):
    """The database answers, and refuses a value of the transaction (a text with NUL): a retry of
    the same one never succeeds, and all other transactions do."""


class LedgerFenced(LedgerUnavailable):
    """Another process leads the cluster: this one may write nothing more."""


class LedgerUnusable(Exception):
    """The ledger cannot be opened as configured; the text says what to change."""


class Dialect(enum.Enum):
    """SQL of which database."""

    SQLITE = "sqlite"
    POSTGRES = "postgres"


class Tx(Protocol):
    """An open transaction."""

    @property
    def dialect(self) -> Dialect:
        """Which database it runs on, for the few statements that differ."""

    async def run(self, sql: str, *values: object) -> int:
        """Runs a statement; returns the number of rows that it changed."""

    async def rows(self, sql: str, *values: object) -> Sequence[Row]:
        """Returns the rows of a query or of a RETURNING clause."""

    async def many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Runs a statement for each row."""

    async def computed(self, work: Callable[[], T]) -> T:
        """The result of pure work on many rows, done in a thread: none of it holds the event
        loop."""


class Database(Protocol):
    """A database that holds the ledger."""

    async def write(self, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        """Runs a transaction and commits it to the disk.

        Raises LedgerUnavailable; the transaction may have been committed nevertheless.
        """

    async def read(self, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        """Runs a transaction that only reads. Raises LedgerUnavailable."""

    async def hold_name(self, gateway: str) -> None:
        """Takes the gateway's name again if it was lost, so that no other process writes under it.
        Raises LedgerUnavailable."""

    async def close(self) -> None:
        """Closes the connections."""
