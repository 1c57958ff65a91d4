"""Reads of the ledger that callers ask for, apart from the gateway's own.

The database has few connections, and budgets need them. Callers choose how many reads they ask for
and over how many rows. So few of their reads run at once, one of each tenant, and tenants take
turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from gateway.accounting.ledger.database import Database, Tx

T = TypeVar("T")
READS_AT_ONCE = 2
"""Most reads of callers at once: half of the connections to PostgreSQL."""
MOST_OF_TENANT = 16
"""Most reads of one tenant that run or wait."""


class TooManyReads(Exception):
    """The tenant has as many reads as it may; the text says so."""


@dataclass(slots=True)
class _Turn:
    """A tenant with reads: how many, and the lock that lets one of them run."""

    reads: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class CallerReads:
    """Bounds the reads of all tenants. Tenants without reads are not kept."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._places = asyncio.Semaphore(READS_AT_ONCE)
        self._turns: dict[str, _Turn] = {}

    def __len__(self) -> int:
        return len(self._turns)

    async def read(self, tenant: str, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        """Runs a transaction that only reads. Raises TooManyReads and LedgerUnavailable."""
        turn = self._turns.setdefault(tenant, _Turn())
        if turn.reads >= MOST_OF_TENANT:
            raise TooManyReads(f"{turn.reads} reads of tenant {tenant} run or wait")
        turn.reads += 1
        try:
            # The places go in the order of arrival, and of each tenant one read stands there.
            async with turn.lock, self._places:
                return await self._database.read(transaction)
        finally:
            turn.reads -= 1
            if not turn.reads:
                del self._turns[tenant]
