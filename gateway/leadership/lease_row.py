"""The lease in PostgreSQL: one row for each cluster, and a notification of each change.

Every statement is a transaction of its own, and reads the clock of the database only. A process
that took the lease holds an advisory lock named after the term as long as its connection lasts:
whoever finds the lock free *and* the leader's port closed need not wait for the end of the lease.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gateway.accounting.ledger.database import LedgerUnavailable, LedgerUnusable
from gateway.accounting.ledger.postgres import LEADER_TABLE
from gateway.leadership.candidate import LEASE_S, Leader, Row

if TYPE_CHECKING:
    import asyncpg

CONNECT_S = 2.0
STATEMENT_S = 1.0
"""Longest wait for one statement: shorter than a lease, so that another one may still come."""
CHANNEL = "moegate_leader"
TABLE_LOCK = 7_163_054_882
"""Number of the advisory lock under which the table is made."""
_LOCK = "hashtextextended('moegate leader ' || $1::text || ' ' || {term}, 0)"
_MAKE = (
    "INSERT INTO leader (cluster, term, name, address, wire_version, expires_at)"
    " VALUES ($1, 0, '', '', 0, '-infinity') ON CONFLICT DO NOTHING"
)
_LOOK = """
SELECT term, name, address, wire_version,
  EXTRACT(EPOCH FROM GREATEST(expires_at, '1970-01-01') - clock_timestamp())::float8
FROM leader WHERE cluster = $1"""
_TAKE = f"""
WITH taken AS (
  UPDATE leader SET term = term + 1, name = $2, address = $3, wire_version = $4,
    expires_at = clock_timestamp() + $5 * INTERVAL '1 second'
  WHERE cluster = $1 AND CASE
    WHEN expires_at <= clock_timestamp() THEN true
    WHEN term = $6 THEN pg_try_advisory_xact_lock({_LOCK.format(term="term")})
    ELSE false END
  RETURNING term
)
SELECT term, pg_notify('{CHANNEL}', $1) FROM taken"""
_HOLD = f"SELECT pg_try_advisory_lock({_LOCK.format(term='$2::bigint')})"
_RENEW = """
UPDATE leader SET expires_at = clock_timestamp() + $3 * INTERVAL '1 second'
WHERE cluster = $1 AND term = $2 AND expires_at > clock_timestamp() RETURNING term"""
_RELEASE = f"""
WITH released AS (
  UPDATE leader SET expires_at = '-infinity' WHERE cluster = $1 AND term = $2 RETURNING term
)
SELECT pg_notify('{CHANNEL}', $1) FROM released"""


class LeaseRow:
    """The row of one cluster. It connects when it is asked, and again after a failure. Every method
    raises LedgerUnavailable; the statement may have been committed nevertheless."""

    def __init__(self, dsn: str, cluster: str, on_notify: Callable[[], None]) -> None:
        """`on_notify`: called when the row has changed, and after each connection."""
        self._dsn = dsn
        self._cluster = cluster
        self._on_notify = on_notify
        self._connection: asyncpg.Connection | None = None
        self._held = 0
        """The term whose advisory lock this connection has."""

    async def look(self) -> Row:
        """Reads the row."""
        [row] = await self._rows(_LOOK)
        term, name, address, wire_version, left_s = row
        leader = Leader(term=term, name=name, address=address, wire_version=wire_version)
        return Row(leader=leader, left_s=left_s)

    async def take(self, name: str, address: str, wire_version: int, gone: int) -> Leader | None:
        """Takes the lease in a new term; None: it is not free. `gone`: a term whose leader's port
        is closed; 0: none."""
        found = await self._rows(_TAKE, name, address, wire_version, LEASE_S, gone)
        if not found:
            return None
        leader = Leader(term=found[0][0], name=name, address=address, wire_version=wire_version)
        with contextlib.suppress(LedgerUnavailable):  # the lease holds without it
            await self._hold(leader.term)
        return leader

    async def renew(self, term: int) -> bool:
        """Extends the lease of a term; False: it is over."""
        renewed = bool(await self._rows(_RENEW, term, LEASE_S))
        if renewed and self._held != term:
            await self._hold(term)
        return renewed

    async def release(self, term: int) -> None:
        """Ends the lease of a term, unless another term has begun."""
        await self._rows(_RELEASE, term)

    async def close(self) -> None:
        """Ends the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*_failures()):
                await connection.close(timeout=STATEMENT_S)

    async def prepare(self) -> None:
        """Makes table and row where they are missing. Raises LedgerUnusable, too."""
        try:
            import asyncpg  # noqa: F401
        except ImportError:
            raise LedgerUnusable(
                "cluster: asyncpg is not installed: pip install 'moegate[postgres]'"
            ) from None
        await self._connected()

    async def _hold(self, term: int) -> None:
        """Takes the advisory lock of an own term."""
        if await self._rows(_HOLD, term) == [(True,)]:
            self._held = term

    async def _rows(self, sql: str, *values: object) -> list[Any]:
        connection = await self._connected()
        try:
            found = await connection.fetch(sql, self._cluster, *values, timeout=STATEMENT_S)
        except _failures() as error:
            self._drop()
            raise LedgerUnavailable(f"{type(error).__name__}: {error}") from error
        except asyncio.CancelledError:
            self._drop()
            raise
        return [tuple(record) for record in found]

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        import asyncpg

        connection = None
        try:
            async with asyncio.timeout(CONNECT_S):
                settings = {"application_name": "moegate leader"}
                connection = await asyncpg.connect(
                    self._dsn, timeout=CONNECT_S, server_settings=settings
                )
                await connection.add_listener(CHANNEL, self._notified)
                await _make_row(connection, self._cluster)
        except _failures() as error:
            if connection is not None:
                connection.terminate()
            raise LedgerUnavailable(f"{type(error).__name__}: {error}") from error
        self._connection, self._held = connection, 0
        self._on_notify()
        return connection

    def _notified(self, _: object, __: int, ___: str, cluster: str) -> None:
        if cluster == self._cluster:
            self._on_notify()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
        self._connection = None


async def _make_row(connection: asyncpg.Connection, cluster: str) -> None:
    if await connection.fetchval("SELECT to_regclass('leader') IS NULL"):
        async with connection.transaction():
            # Two processes that made the table at once would fail.
            await connection.execute(f"SELECT pg_advisory_xact_lock({TABLE_LOCK})")
            await connection.execute(LEADER_TABLE)
    await connection.execute(_MAKE, cluster)


def _failures() -> tuple[type[Exception], ...]:
    import asyncpg

    return OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError
