"""The ledger's schema as numbered steps, which a gateway applies when it opens the database.

Table `ledger` holds the number of the last step that was applied. Each step is one transaction that
also writes its number, under a lock of the database: gateways that start at once apply a step once,
and a step that fails leaves the database at the step before. A database with a higher number than
this code knows was written by a newer version, and is refused.

A released step is never changed: a later one follows it. A step that changes the columns of
`attempt` changes `schema.ATTEMPT` too, and `spool.VERSION`, because a spooled row has its columns.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from gateway.accounting.ledger.database import Dialect, LedgerUnusable, Tx
from gateway.accounting.ledger.steps.access import ACCESS_TABLES

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step. Its statements run in order, in one transaction."""

    number: int
    """One more than that of the step before; the first is 1."""
    name: str
    sqlite: tuple[str, ...]
    postgres: tuple[str, ...]

    def statements(self, dialect: Dialect) -> tuple[str, ...]:
        """Its SQL for a database."""
        match dialect:
            case Dialect.SQLITE:
                return self.sqlite
            case Dialect.POSTGRES:
                return self.postgres


_TABLES = (
    """CREATE TABLE attempt (
        epoch TEXT NOT NULL,
        seq BIGINT NOT NULL,
        state TEXT NOT NULL,
        request_id TEXT NOT NULL,
        attempt BIGINT NOT NULL,
        key_id TEXT NOT NULL,
        tenant TEXT NOT NULL,
        session_id TEXT NOT NULL,
        model TEXT NOT NULL,
        slo_class TEXT NOT NULL,
        placement TEXT NOT NULL,
        pool TEXT NOT NULL,
        kind TEXT NOT NULL,
        outcome TEXT NOT NULL,
        started_unix_us BIGINT NOT NULL,
        ended_unix_us BIGINT NOT NULL,
        prompt_tokens BIGINT,
        cached_tokens BIGINT,
        cache_write_tokens BIGINT,
        completion_tokens BIGINT,
        reasoning_tokens BIGINT,
        metered_nano_usd BIGINT,
        charged_nano_usd BIGINT,
        budgeted_nano_usd BIGINT NOT NULL,
        basis TEXT NOT NULL,
        price_row_id TEXT NOT NULL,
        parts TEXT NOT NULL,
        cheapest_remote_nano_usd BIGINT,
        last_attempt BIGINT NOT NULL,
        lease_id TEXT NOT NULL,
        note TEXT NOT NULL,
        PRIMARY KEY (epoch, seq)
    )""",
    "CREATE INDEX attempt_by_end ON attempt (ended_unix_us)",
    """CREATE TABLE budget (
        tenant TEXT NOT NULL,
        key_id TEXT NOT NULL,
        each_session BIGINT NOT NULL,
        period TEXT NOT NULL,
        cap_nano_usd BIGINT,
        hard BIGINT NOT NULL,
        PRIMARY KEY (tenant, key_id, each_session, period)
    )""",
    """CREATE TABLE account (
        account_id TEXT NOT NULL PRIMARY KEY,
        tenant TEXT NOT NULL,
        key_id TEXT NOT NULL,
        session_id TEXT,
        period TEXT NOT NULL,
        starts_unix_s BIGINT NOT NULL,
        settled_nano_usd BIGINT NOT NULL,
        committed_nano_usd BIGINT NOT NULL
    )""",
    "CREATE INDEX account_by_start ON account (starts_unix_s)",
    """CREATE TABLE lease (
        lease_id TEXT NOT NULL PRIMARY KEY,
        gateway TEXT NOT NULL,
        epoch TEXT NOT NULL,
        tenant TEXT NOT NULL,
        key_id TEXT NOT NULL,
        session_id TEXT NOT NULL,
        accounts TEXT NOT NULL,
        state TEXT NOT NULL,
        granted_nano_usd BIGINT NOT NULL,
        settled_nano_usd BIGINT NOT NULL,
        recovered_nano_usd BIGINT NOT NULL,
        opened_unix_us BIGINT NOT NULL,
        closed_unix_us BIGINT
    )""",
    "CREATE INDEX lease_by_state ON lease (state, gateway)",
    """CREATE TABLE gateway (
        name TEXT NOT NULL PRIMARY KEY,
        epoch TEXT NOT NULL,
        seen_unix_us BIGINT NOT NULL
    )""",
)


def _batch_tables(blob: str) -> tuple[str, ...]:
    """Tables of offline jobs. `blob`: the type of bytes."""
    return (
        """CREATE TABLE batch_file (
            file_id TEXT NOT NULL PRIMARY KEY,
            tenant TEXT NOT NULL,
            key_id TEXT NOT NULL,
            kind TEXT NOT NULL,
            purpose TEXT NOT NULL,
            filename TEXT NOT NULL,
            is_complete BIGINT NOT NULL,
            size_bytes BIGINT NOT NULL,
            job_id TEXT NOT NULL,
            created_unix_us BIGINT NOT NULL,
            expires_unix_us BIGINT NOT NULL
        )""",
        "CREATE INDEX batch_file_by_tenant ON batch_file (tenant, created_unix_us)",
        "CREATE INDEX batch_file_by_expiry ON batch_file (expires_unix_us)",
        f"""CREATE TABLE batch_chunk (
            file_id TEXT NOT NULL,
            number BIGINT NOT NULL,
            content {blob} NOT NULL,
            PRIMARY KEY (file_id, number)
        )""",
        """CREATE TABLE batch_job (
            job_id TEXT NOT NULL PRIMARY KEY,
            tenant TEXT NOT NULL,
            key_id TEXT NOT NULL,
            form TEXT NOT NULL,
            endpoint TEXT NOT NULL,
            file_id TEXT NOT NULL,
            state TEXT NOT NULL,
            terms TEXT NOT NULL,
            faults TEXT NOT NULL,
            items BIGINT NOT NULL,
            succeeded BIGINT NOT NULL,
            failed BIGINT NOT NULL,
            bad_lines BIGINT NOT NULL,
            charged_nano_usd BIGINT NOT NULL,
            unpriced BIGINT NOT NULL,
            prompt_tokens BIGINT NOT NULL,
            cached_tokens BIGINT NOT NULL,
            completion_tokens BIGINT NOT NULL,
            reasoning_tokens BIGINT NOT NULL,
            result_bytes BIGINT NOT NULL,
            created_unix_us BIGINT NOT NULL,
            deadline_unix_us BIGINT NOT NULL,
            started_unix_us BIGINT,
            cancelling_unix_us BIGINT,
            ended_unix_us BIGINT,
            runner TEXT NOT NULL,
            fence BIGINT NOT NULL,
            runner_until_unix_us BIGINT NOT NULL
        )""",
        "CREATE INDEX batch_job_by_tenant ON batch_job (tenant, created_unix_us)",
        "CREATE INDEX batch_job_by_end ON batch_job (ended_unix_us)",
        """CREATE TABLE batch_item (
            job_id TEXT NOT NULL,
            number BIGINT NOT NULL,
            custom_id TEXT NOT NULL,
            model TEXT NOT NULL,
            start_byte BIGINT NOT NULL,
            size_bytes BIGINT NOT NULL,
            place BIGINT NOT NULL,
            state BIGINT NOT NULL,
            taken_unix_us BIGINT NOT NULL,
            PRIMARY KEY (job_id, number)
        )""",
        "CREATE INDEX batch_item_by_place ON batch_item (job_id, state, model, place)",
        f"""CREATE TABLE batch_result (
            job_id TEXT NOT NULL,
            seq BIGINT NOT NULL,
            number BIGINT NOT NULL,
            custom_id TEXT NOT NULL,
            is_ok BIGINT NOT NULL,
            charged_nano_usd BIGINT,
            content {blob} NOT NULL,
            PRIMARY KEY (job_id, seq)
        )""",
        "CREATE UNIQUE INDEX batch_result_by_number ON batch_result (job_id, number)",
    )


_SPEND_SUMS = """
    requests BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    uncached_input_tokens BIGINT NOT NULL,
    cached_input_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    own_nano_usd BIGINT NOT NULL,
    remote_nano_usd BIGINT NOT NULL,
    wasted_nano_usd BIGINT NOT NULL,
    metered_attempts BIGINT NOT NULL,
    uncached_input_nano_usd BIGINT NOT NULL,
    cached_input_nano_usd BIGINT NOT NULL,
    output_nano_usd BIGINT NOT NULL,
    charged_nano_usd BIGINT NOT NULL,
    unpriced_attempts BIGINT NOT NULL,
    estimated_attempts BIGINT NOT NULL,
    corrected_nano_usd BIGINT NOT NULL,
    recovered_nano_usd BIGINT NOT NULL,
    cheapest_remote_nano_usd BIGINT NOT NULL,
    cheapest_remote_attempts BIGINT NOT NULL"""
_ROLLUPS = (
    # Up to which row of each epoch the roll-ups are made; the epoch "" is their lock.
    "CREATE TABLE fold (epoch TEXT NOT NULL PRIMARY KEY, folded_seq BIGINT NOT NULL)",
    "INSERT INTO fold (epoch, folded_seq) SELECT DISTINCT epoch, -1 FROM attempt",
    "INSERT INTO fold (epoch, folded_seq) VALUES ('', -1)",
    # `span`: 0 an hour, 1 a day, 2 a month; `starts_hour`: hours since 1970, UTC.
    f"""CREATE TABLE spend (
    span BIGINT NOT NULL,
    starts_hour BIGINT NOT NULL,
    tenant TEXT NOT NULL,
    key_id TEXT NOT NULL,
    model TEXT NOT NULL,
    placement TEXT NOT NULL,
    pool TEXT NOT NULL,
    kind TEXT NOT NULL,{_SPEND_SUMS},
    PRIMARY KEY (span, starts_hour, tenant, key_id, model, placement, pool, kind)
    )""",
    f"""CREATE TABLE tagged_spend (
    span BIGINT NOT NULL,
    tag TEXT NOT NULL,
    starts_hour BIGINT NOT NULL,
    value TEXT NOT NULL,
    tenant TEXT NOT NULL,
    key_id TEXT NOT NULL,
    model TEXT NOT NULL,{_SPEND_SUMS},
    PRIMARY KEY (span, tag, starts_hour, value, tenant, key_id, model)
    )""",
    # The bill of each pool, by the same spans.
    """CREATE TABLE pool_account (
        span BIGINT NOT NULL,
        starts_hour BIGINT NOT NULL,
        pool TEXT NOT NULL,
        prefill_nano_usd BIGINT NOT NULL,
        cached_nano_usd BIGINT NOT NULL,
        decode_nano_usd BIGINT NOT NULL,
        waste_nano_usd BIGINT NOT NULL,
        idle_nano_usd BIGINT NOT NULL,
        unavailable_nano_usd BIGINT NOT NULL,
        external_nano_usd BIGINT NOT NULL,
        unobserved_nano_usd BIGINT NOT NULL,
        charged_nano_usd BIGINT NOT NULL,
        paid_ns BIGINT NOT NULL,
        busy_ns BIGINT NOT NULL,
        unpriced_ns BIGINT NOT NULL,
        uncached_tokens BIGINT NOT NULL,
        cached_tokens BIGINT NOT NULL,
        output_tokens BIGINT NOT NULL,
        ended BIGINT NOT NULL,
        slo_known BIGINT NOT NULL,
        slo_met BIGINT NOT NULL,
        PRIMARY KEY (span, starts_hour, pool)
    )""",
    # One row: whose meter writes the accounts, and from where it goes on.
    """CREATE TABLE meter (
        one BIGINT NOT NULL PRIMARY KEY,
        gateway TEXT NOT NULL,
        epoch TEXT NOT NULL,
        booking BIGINT NOT NULL,
        seen_unix_us BIGINT NOT NULL,
        state TEXT NOT NULL
    )""",
    # Before which hour there are no rows (`what` = 0), or only sums of days and months (1).
    "CREATE TABLE retained (what BIGINT NOT NULL PRIMARY KEY, from_hour BIGINT NOT NULL)",
)
_CLUSTERED = ("CREATE TABLE spend (", "CREATE TABLE tagged_spend (")
"""SQLite keeps these in the order of their keys."""

_SUMMED = [line.split()[0] for line in _SPEND_SUMS.strip().splitlines()]
_TAGS = (
    "ALTER TABLE attempt ADD COLUMN end_user TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE attempt ADD COLUMN labels TEXT NOT NULL DEFAULT ''",
    # What is rolled up already named no end user.
    "INSERT INTO tagged_spend"
    f" (span, tag, starts_hour, value, tenant, key_id, model, {', '.join(_SUMMED)})"
    " SELECT span, 'end_user', starts_hour, '', tenant, key_id, model,"
    f" {', '.join(f'CAST(SUM({name}) AS BIGINT)' for name in _SUMMED)}"
    " FROM spend WHERE span > 0 GROUP BY span, starts_hour, tenant, key_id, model",
)

_TENANT_HOURS = (
    "INSERT INTO spend"
    f" (span, starts_hour, tenant, key_id, model, placement, pool, kind, {', '.join(_SUMMED)})"
    " SELECT 3, starts_hour, tenant, '', '', '', '', '',"
    f" {', '.join(f'CAST(SUM({name}) AS BIGINT)' for name in _SUMMED)}"
    " FROM spend WHERE span = 0 GROUP BY starts_hour, tenant",
)

MIGRATIONS = (
    # Databases from before there were steps have these tables and the number 1.
    Migration(
        number=1, name="attempts, budgets, accounts, leases", sqlite=_TABLES, postgres=_TABLES
    ),
    Migration(
        number=2,
        name="offline jobs",
        sqlite=_batch_tables("BLOB"),
        postgres=_batch_tables("BYTEA"),
    ),
    Migration(
        number=3,
        name="roll-ups of spend, accounts of pools",
        sqlite=tuple(
            f"{sql} WITHOUT ROWID" if sql.startswith(_CLUSTERED) else sql for sql in _ROLLUPS
        ),
        postgres=_ROLLUPS,
    ),
    Migration(number=4, name="end users and labels", sqlite=_TAGS, postgres=_TAGS),
    Migration(
        number=5, name="sums of tenants' hours", sqlite=_TENANT_HOURS, postgres=_TENANT_HOURS
    ),
    Migration(
        number=6, name="keys, tenants, audit log", sqlite=ACCESS_TABLES, postgres=ACCESS_TABLES
    ),
)


class LockedWrite(Protocol):
    """Runs a transaction while no other connection can write a step, and commits it."""

    async def __call__(self, transaction: Callable[[Tx], Awaitable[T]], /) -> T: ...


async def migrate(
    write: LockedWrite, dialect: Dialect, migrations: Sequence[Migration] = MIGRATIONS
) -> None:
    """Applies every step that the database lacks, in order. Raises LedgerUnusable."""

    async def step(tx: Tx) -> bool:
        return await apply_next(tx, dialect, migrations)

    while await write(step):
        pass


async def apply_next(
    tx: Tx, dialect: Dialect, migrations: Sequence[Migration] = MIGRATIONS
) -> bool:
    """Applies the first step that the database lacks; False: it lacks none.

    Raises LedgerUnusable where the database is newer than the steps, or the step fails.
    """
    await tx.run("CREATE TABLE IF NOT EXISTS ledger (version BIGINT NOT NULL)")
    found = await tx.rows("SELECT version FROM ledger")
    version = found[0][0] if found else 0
    if version > len(migrations):
        raise LedgerUnusable(
            f"the ledger's schema has version {version}, this moegate knows {len(migrations)}: "
            "start the newer moegate that wrote it, or name another file or database"
        )
    if version == len(migrations):
        return False
    migration = migrations[version]
    try:
        for statement in migration.statements(dialect):
            await tx.run(statement)
    except Exception as error:
        raise LedgerUnusable(
            f"step {migration.number} of the ledger's schema ({migration.name}) failed, the ledger "
            f"stays at version {version}: {error}"
        ) from error
    if found:
        await tx.run("UPDATE ledger SET version = $1", migration.number)
        log.info("the ledger's schema is at version %d: %s", migration.number, migration.name)
    else:
        await tx.run("INSERT INTO ledger (version) VALUES ($1)", migration.number)
    return True
