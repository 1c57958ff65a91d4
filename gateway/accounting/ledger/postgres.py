"""The ledger on PostgreSQL, which several gateways may share.

A transaction runs on one connection of a small pool. Rows that a decision depends on are locked by
an UPDATE before they are read, always in the order of their ids.

**The fence.** Only the leader of a cluster writes. Table `leader` has one row for each cluster: who
leads, in which term, until when. Each new leader counts the term up. A transaction ends by locking
the row of its own term (`FOR KEY SHARE`): a leader of a later term can be made only before this
lock, and then there is no such row, or after the commit. So what an old leader writes is refused,
and what it has written is visible to the new one. A renewal of the lease changes no key of the row
and waits for no writer.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from gateway.accounting.ledger.database import (
    Dialect,
    LedgerFenced,
    LedgerUnavailable,
    LedgerUnusable,
    Row,
    Tx,
    ValueRefused,
)
from gateway.accounting.ledger.migrations import migrate

if TYPE_CHECKING:
    import asyncpg

log = logging.getLogger(__name__)
T = TypeVar("T")
MAX_CONNECTIONS = 4
CONNECT_S = 5.0
STATEMENT_S = 10.0
IDLE_S = 1.0
"""How long a leader's transaction may rest between two statements."""
CLAIM_S = 10.0
CLAIM_POLL_S = 0.1
MIGRATION_LOCK = 7_163_054_881
"""Number of the advisory lock under which the schema's steps are applied: two gateways may start at
once."""
LEADER_TABLE = """CREATE TABLE IF NOT EXISTS leader (
    cluster TEXT NOT NULL UNIQUE,
    term BIGINT NOT NULL,
    name TEXT NOT NULL,
    address TEXT NOT NULL,
    wire_version BIGINT NOT NULL,
    fronts BIGINT NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (cluster, term)
)"""
"""The term is part of a key, so that an update of it waits for `FOR KEY SHARE`. The table
stands outside of the numbered steps: processes of two versions read it during an upgrade."""
_END_EARLIER = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND CASE
  WHEN starts_with(application_name, $1)
  THEN substr(application_name, length($1) + 1)::bigint < $2 ELSE false END"""
"""Ends connections of leaders before. One that was cut off between the parts of a statement keeps
its locks, and no timeout of PostgreSQL applies to it."""
_PASSWORD = re.compile(r"(://[^:/@]*):[^@]*@")


@dataclass(frozen=True, slots=True)
class Fence:
    """The right to write of one leader. `cluster`: a `Name`; `term`: its term."""

    cluster: str
    term: int

    @property
    def sql(self) -> str:
        """A query that locks the row of the term; no row: the term is over."""
        assert "'" not in self.cluster
        return (
            f"SELECT term FROM leader WHERE cluster = '{self.cluster}' AND term = {self.term}"
            " FOR KEY SHARE"
        )

    @property
    def connections(self) -> str:
        """Begin of the name of all connections that write for a leader of the cluster. Their term
        follows; PostgreSQL keeps 63 bytes."""
        return f"moegate ledger {hashlib.sha256(self.cluster.encode()).hexdigest()[:16]} "

    async def check(self, tx: Tx) -> None:
        """Lets the transaction commit only as that of the leader. Raises LedgerFenced."""
        if not await tx.rows(self.sql):
            raise self.refusal()

    def refusal(self) -> LedgerFenced:
        """Returns the error of a write after the end of the term."""
        return LedgerFenced(f"term {self.term} of cluster {self.cluster} is over")


class PostgresTx:
    """`Tx` of PostgreSQL."""

    dialect = Dialect.POSTGRES

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def run(self, sql: str, *values: object) -> int:
        """See `Tx`."""
        status: str = await self._connection.execute(sql, *values)
        last = status.rpartition(" ")[2]
        return int(last) if last.isdecimal() else 0

    async def rows(self, sql: str, *values: object) -> Sequence[Row]:
        """See `Tx`."""
        return [tuple(record) for record in await self._connection.fetch(sql, *values)]

    async def many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """See `Tx`."""
        await self._connection.executemany(sql, rows)

    async def computed(self, work: Callable[[], T]) -> T:
        """See `Tx`."""
        return await asyncio.to_thread(work)


class PostgresDatabase:
    """A PostgreSQL database. Made by `connect`."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        claim: asyncpg.Connection,
        reconnect: Callable[[], Awaitable[asyncpg.Connection]],
        failures: tuple[type[Exception], ...],
        fence: Fence | None,
    ) -> None:
        """`claim`: the connection that holds the gateway's name; `reconnect` makes another.
        `fence`: lets only the leader write; None: there is no cluster."""
        self._pool = pool
        self._claim = claim
        self._reconnect = reconnect
        self._failures = failures
        self._fence = fence

    async def write(self, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        """See `Database`. Raises LedgerFenced if this process does not lead its cluster."""
        fence = self._fence

        async def fenced(tx: Tx) -> T:
            result = await transaction(tx)
            if fence is not None:
                await fence.check(tx)
            return result

        return await self._in_transaction(fenced, None)

    async def write_at_once(self, ctes: str, answer: str, *values: object) -> Any:
        """Runs one statement, which is committed with its answer.

        `ctes`: common table expressions, which may write only if there is a row in `fence`, the
        first of them; `answer`: expression of the one value to return. Raises LedgerUnavailable;
        LedgerFenced if this process does not lead its cluster.
        """
        fence = "SELECT 0 AS term" if self._fence is None else self._fence.sql
        sql = f"WITH fence AS MATERIALIZED ({fence}), {ctes}"
        try:
            async with self._pool.acquire(timeout=CONNECT_S) as connection:
                [(holds, value)] = await PostgresTx(connection).rows(
                    f"{sql} SELECT EXISTS (SELECT FROM fence), {answer}", *values
                )
        except self._failures as error:
            raise _failure(error) from error
        if self._fence is not None and not holds:
            raise self._fence.refusal()
        return value

    async def read(self, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        """See `Database`. All of its statements see the same rows."""

        async def interpreted(tx: Tx) -> T:
            # Compiling a report over a year took 3 s, and running it 2 s.
            await tx.run("SET LOCAL jit = off")
            return await transaction(tx)

        return await self._in_transaction(interpreted, "repeatable_read")

    async def _in_transaction(
        self, transaction: Callable[[Tx], Awaitable[T]], isolation: str | None
    ) -> T:
        try:
            async with (
                self._pool.acquire(timeout=CONNECT_S) as connection,
                connection.transaction(isolation=isolation, readonly=isolation is not None),
            ):
                return await transaction(PostgresTx(connection))
        except self._failures as error:
            raise _failure(error) from error

    @property
    def claim_lost(self) -> bool:
        """Whether the connection that holds the gateway's name is gone."""
        return bool(self._claim.is_closed())

    async def hold_name(self, gateway: str) -> None:
        """See `Database`: takes the name again after the connection that held it was lost. The
        name of a cluster is held by its leader's lease."""
        if self._fence is not None or not self.claim_lost:
            return
        try:
            self._claim = await self._reconnect()
            await _claim(self._claim, gateway)
        except LedgerUnusable as error:
            self._claim.terminate()
            log.error("%s", error)
        except self._failures as error:
            raise LedgerUnavailable(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """See `Database`."""
        self._claim.terminate()
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._pool.close()
        except self._failures:
            self._pool.terminate()


def database_failures() -> tuple[type[Exception], ...]:
    """Returns the errors of a database that is away. A connection that breaks while asyncpg reads
    an answer ends in its InternalClientError."""
    import asyncpg

    client = (asyncpg.InterfaceError, asyncpg.InternalClientError)
    return OSError, TimeoutError, asyncpg.PostgresError, *client


def _failure(error: Exception) -> BaseException:
    """Returns what a failure is to the caller. The end of a cancelled transaction can fail, too,
    where the connection is lost: it stays a cancellation."""
    import asyncpg

    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return asyncio.CancelledError()
    # Found by the server (class 22), or by asyncpg before the value is sent.
    of_value = isinstance(error, (asyncpg.DataError, ValueError))
    kind = ValueRefused if of_value else LedgerUnavailable
    return kind(f"{type(error).__name__}: {error}")


async def connect(dsn: str, gateway: str, fence: Fence | None = None) -> PostgresDatabase:
    """Connects as the gateway of this name and brings the schema forward.

    `fence`: this process leads a cluster, and may write while it does. Raises LedgerUnusable.
    """
    try:
        import asyncpg
    except ImportError:
        raise LedgerUnusable(
            "ledger.postgres: asyncpg is not installed: pip install 'moegate[postgres]'"
        ) from None
    failures = database_failures()
    where = _PASSWORD.sub(r"\1:***@", dsn)
    settings = {"application_name": "moegate"}
    if fence is not None:
        # A process that is stopped between the fence and its commit must not keep a new leader
        # waiting.
        settings["idle_in_transaction_session_timeout"] = str(round(IDLE_S * 1000))
        settings["application_name"] = f"{fence.connections}{fence.term}"

    async def reconnect() -> asyncpg.Connection:
        return await asyncpg.connect(dsn, timeout=CONNECT_S, server_settings=settings)

    try:
        claim = await reconnect()
    except failures as error:
        raise LedgerUnusable(f"ledger.postgres: cannot connect to {where}: {error}") from error
    try:
        if fence is None:
            await _claim(claim, gateway)
        else:
            await claim.execute(_END_EARLIER, fence.connections, fence.term)
        # Not in the pool: a step may take longer than its statements may.
        await migrate(partial(write_migration, claim), Dialect.POSTGRES)
        pool = await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=MAX_CONNECTIONS,
            timeout=CONNECT_S,
            command_timeout=STATEMENT_S,
            # No transaction changes session settings: resetting them would waste a round trip.
            reset=_as_it_is,
            server_settings=settings,
        )
        database = PostgresDatabase(pool, claim, reconnect, failures, fence)
    except failures as error:
        claim.terminate()
        raise LedgerUnusable(f"ledger.postgres: {where}: {error}") from error
    except LedgerUnusable:
        claim.terminate()
        raise
    return database


async def _claim(connection: asyncpg.Connection, gateway: str) -> None:
    """Takes the gateway's name until the connection ends. Raises LedgerUnusable.

    A name belongs to one process, because a start recovers the leases of the name's earlier
    process.
    """
    for _ in range(round(CLAIM_S / CLAIM_POLL_S)):
        if await connection.fetchval(
            "SELECT pg_try_advisory_lock(hashtextextended('moegate gateway ' || $1, 0))", gateway
        ):
            return
        await asyncio.sleep(CLAIM_POLL_S)  # PostgreSQL notices the end of a killed process soon
    raise LedgerUnusable(
        f"ledger.gateway: another gateway named {gateway!r} writes to this database: "
        "give each a name of its own"
    )


async def _as_it_is(_: asyncpg.pool.PoolConnectionProxy) -> None:
    pass


async def write_migration(
    connection: asyncpg.Connection, transaction: Callable[[Tx], Awaitable[T]], /
) -> T:
    """Runs a transaction under the lock of the schema's steps, waiting for it."""
    async with connection.transaction():
        await connection.execute(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
        return await transaction(PostgresTx(connection))
