"""The lease in PostgreSQL: one row for each cluster, and a notification of each change.

Every statement is a transaction of its own, and reads the clock of the database only. Each process
holds an advisory lock of its own name as long as its connection lasts: whoever finds that of the
leader free *and* the leader's port closed need not wait for the end of the lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from gateway.accounting.ledger.database import LedgerUnavailable, LedgerUnusable
from gateway.accounting.ledger.postgres import LEADER_TABLE, database_failures
from gateway.leadership.candidate import MARGIN, Leader, Row

if TYPE_CHECKING:
    import asyncpg

CONNECT_S = 2.0
CHANNEL = "moegate_leader"
WARNINGS = "moegate_leader_warnings"
"""Channel of `LeaseRow.warn`."""
TABLE_LOCK = 7_163_054_882
"""Number of the advisory lock under which the table is made."""
NAMES_LOCK_S = 1.0
"""Longest wait for the table's lock where it has no columns for names yet."""
_HAS_NAMES = """
SELECT EXISTS (SELECT FROM pg_attribute
  WHERE attrelid = 'leader'::regclass AND attname = 'front_names' AND NOT attisdropped)"""
_ADD_NAMES = """
ALTER TABLE leader ADD COLUMN IF NOT EXISTS front_names TEXT[],
  ADD COLUMN IF NOT EXISTS front_names_term BIGINT"""
_LOCK = "hashtextextended('moegate leader ' || $1::text || ' ' || {name}, 0)"
_MAKE = (
    "INSERT INTO leader (cluster, term, name, address, wire_version, fronts, expires_at)"
    " VALUES ($1, 0, '', '', 0, 0, '-infinity') ON CONFLICT DO NOTHING"
)
_LOOK = """
SELECT term, name, address, wire_version,
  EXTRACT(EPOCH FROM GREATEST(expires_at, '1970-01-01') - clock_timestamp())::float8
FROM leader WHERE cluster = $1"""
# A leader that did not give its lease back is not expected to come back with its own front: its
# name is removed, and the sign of `fronts` says so until the next leader knows its own fronts.
# Names are of `front_names_term`: a leader of an earlier version only counts, and leaves old names.
# A leader that cannot renew its lease closes its port, too, but not before `MARGIN` of it is left.
# That a leader is gone which did not know its fronts yet says nothing of the one before it.
_TAKE = f"""
WITH old AS (SELECT term, name, fronts, expires_at FROM leader WHERE cluster = $1),
taken AS (
  UPDATE leader SET term = term + 1, name = $2, address = $3, wire_version = $4,
    fronts = CASE WHEN expires_at = '-infinity' THEN fronts
      WHEN front_names_term = term THEN -cardinality(array_remove(front_names, name)) - 1
      ELSE -GREATEST(ABS(fronts), 1) END,
    front_names = CASE WHEN front_names_term IS DISTINCT FROM term THEN NULL
      WHEN expires_at = '-infinity' THEN front_names
      ELSE array_remove(front_names, name) END,
    front_names_term = CASE WHEN front_names_term = term THEN term + 1 END,
    expires_at = clock_timestamp() + $5 * INTERVAL '1 second'
  WHERE cluster = $1 AND CASE
    WHEN expires_at <= clock_timestamp() THEN true
    WHEN term = $6 THEN pg_try_advisory_xact_lock({_LOCK.format(name="name")})
    ELSE false END
  RETURNING term, fronts, front_names
)
SELECT taken.term, taken.fronts, taken.front_names,
  old.name, old.fronts >= 0, old.term = $6 AND old.fronts >= 0
    AND old.expires_at > clock_timestamp() + {MARGIN} * $5 * INTERVAL '1 second'
    AND pg_try_advisory_xact_lock({_LOCK.format(name="old.name")}),
  pg_notify('{CHANNEL}', $1)
FROM taken, old"""
_HOLD = f"SELECT pg_advisory_lock({_LOCK.format(name='$2::text')})"
_RENEW = """
UPDATE leader SET
  expires_at = GREATEST(expires_at, clock_timestamp() + $3 * INTERVAL '1 second'),
  fronts = COALESCE(cardinality($4::text[]), fronts),
  front_names = COALESCE($4::text[], front_names),
  front_names_term = CASE WHEN $4::text[] IS NULL THEN front_names_term ELSE term END
WHERE cluster = $1 AND term = $2 AND expires_at > clock_timestamp() RETURNING term"""
_RELEASE = f"""
WITH released AS (
  UPDATE leader SET expires_at = '-infinity' WHERE cluster = $1 AND term = $2 RETURNING term
)
SELECT pg_notify('{CHANNEL}', $1) FROM released"""


_MEMBERS = """
SELECT COUNT(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = $1"""


@dataclass(frozen=True, slots=True)
class LeaderBefore:
    """What is known of the leader before. `fronts`: of those that it had, those that are expected
    at the next leader; `complete`: whether these are all; `gone`: its process has ended, and no
    other may still run requests; `names`: of the expected fronts; None: it has not written any.
    `missed`: its own front, where that is the only one beside them; "": there is none beside them;
    None: there may be more."""

    fronts: int
    complete: bool
    gone: bool = False
    names: frozenset[str] | None = None
    missed: str | None = None


class Fronts(Protocol):
    """The fronts of the leader, which its lease's row names."""

    def names(self) -> frozenset[str] | None:
        """Called at each renewal. None: they are not known, so that what the row says stays."""

    def renewed(self, names: Iterable[str] | None) -> None:
        """The lease was renewed, with these names."""


class NoFronts:
    """Nobody joins."""

    def names(self) -> frozenset[str]:
        """See `Fronts`."""
        return frozenset()

    def renewed(self, names: Iterable[str] | None) -> None:
        """See `Fronts`."""


class LeaseRow:
    """The row of one cluster. It connects when it is asked, and again after a failure. Every method
    raises LedgerUnavailable; the statement may have been committed nevertheless."""

    def __init__(
        self,
        dsn: str,
        cluster: str,
        name: str,
        lease_s: float,
        on_notify: Callable[[], None],
        on_warning: Callable[[], None] = lambda: None,
    ) -> None:
        """`name`: of this process, which no other has. `lease_s`: how long a lease lasts after it
        was taken. `on_notify`: called when the row has changed, and after each connection;
        `on_warning`: after `warn` of any process of the cluster, this one included."""
        self._dsn = dsn
        self._cluster = cluster
        self._name = name
        self._lease_s = lease_s
        # Shorter than a lease, so that another connection may still renew it.
        self._statement_s = lease_s / 2
        self._on_notify = on_notify
        self._on_warning = on_warning
        self._connection: asyncpg.Connection | None = None
        self.before = LeaderBefore(0, complete=True)
        """Known since the last `take`."""
        self.fronts: Fronts = NoFronts()

    async def look(self) -> Row:
        """Reads the row."""
        [row] = await self._rows(_LOOK, self._cluster)
        term, name, address, wire_version, left_s = row
        leader = Leader(term=term, name=name, address=address, wire_version=wire_version)
        return Row(leader=leader, left_s=left_s)

    async def take(self, address: str, wire_version: int, gone: int) -> Leader | None:
        """Takes the lease in a new term; None: it is not free. `gone`: a term whose leader's port
        is closed; 0: none."""
        found = await self._rows(
            _TAKE, self._cluster, self._name, address, wire_version, self._lease_s, gone
        )
        if not found:
            return None
        _, fronts, names, old_name, knew_fronts, is_gone, _ = found[0]
        given_back = fronts >= 0
        self.before = LeaderBefore(
            fronts if given_back else -fronts - 1,
            complete=given_back,
            gone=bool(is_gone),
            names=None if names is None else frozenset(names),
            missed=("" if given_back else old_name) if names is not None and knew_fronts else None,
        )
        return Leader(term=found[0][0], name=self._name, address=address, wire_version=wire_version)

    async def renew(self, term: int, lease_s: float) -> bool:
        """Extends the lease of a term to `lease_s` from now, unless it is longer already; False: it
        is over."""
        names = self.fronts.names()
        written = None if names is None else sorted(names)
        held = bool(await self._rows(_RENEW, self._cluster, term, lease_s, written))
        if held:
            self.fronts.renewed(names)
        return held

    async def release(self, term: int) -> None:
        """Ends the lease of a term, unless another term has begun."""
        await self._rows(_RELEASE, self._cluster, term)

    async def warn(self) -> None:
        """Tells all processes of the cluster, see `on_warning`."""
        await self._rows("SELECT pg_notify($1, $2)", WARNINGS, self._cluster)

    async def members(self) -> int:
        """Returns the number of processes of the cluster that are connected, with this one."""
        [(found,)] = await self._rows(_MEMBERS, _application(self._cluster))
        return int(found)

    async def close(self) -> None:
        """Ends the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*database_failures()):
                await connection.close(timeout=self._statement_s)

    async def prepare(self) -> None:
        """Makes table and row where they are missing. Raises LedgerUnusable, too."""
        try:
            import asyncpg  # noqa: F401
        except ImportError:
            raise LedgerUnusable(
                "cluster: asyncpg is not installed: pip install 'moegate[postgres]'"
            ) from None
        await self._connected()

    async def _rows(self, sql: str, *values: object) -> list[Any]:
        connection = await self._connected()
        try:
            found = await connection.fetch(sql, *values, timeout=self._statement_s)
        except database_failures() as error:
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
                settings = {"application_name": _application(self._cluster)}
                connection = await asyncpg.connect(
                    self._dsn, timeout=CONNECT_S, server_settings=settings
                )
                await connection.add_listener(CHANNEL, self._notified)
                await connection.add_listener(WARNINGS, self._notified)
                await _make_row(connection, self._cluster)
                await connection.execute(_HOLD, self._cluster, self._name)
        except database_failures() as error:
            if connection is not None:
                connection.terminate()
            raise LedgerUnavailable(f"{type(error).__name__}: {error}") from error
        self._connection = connection
        self._on_notify()
        return connection

    def _notified(self, _: object, __: int, channel: str, cluster: str) -> None:
        if cluster == self._cluster:
            (self._on_warning if channel == WARNINGS else self._on_notify)()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
        self._connection = None


def _application(cluster: str) -> str:
    """Name of the connections of a cluster's processes; PostgreSQL keeps 63 bytes."""
    return f"moegate leader {hashlib.sha256(cluster.encode()).hexdigest()[:16]}"


async def _make_row(connection: asyncpg.Connection, cluster: str) -> None:
    if await connection.fetchval("SELECT to_regclass('leader') IS NULL"):
        async with connection.transaction():
            # Two processes that made the table at once would fail.
            await connection.execute(f"SELECT pg_advisory_xact_lock({TABLE_LOCK})")
            await connection.execute(LEADER_TABLE)
    if not await connection.fetchval(_HAS_NAMES):
        async with connection.transaction():
            # A renewal would wait behind this one.
            await connection.execute(f"SET LOCAL lock_timeout = '{NAMES_LOCK_S}s'")
            await connection.execute(_ADD_NAMES)
    await connection.execute(_MAKE, cluster)
