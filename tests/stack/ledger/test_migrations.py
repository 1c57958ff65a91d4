"""The steps of the ledger's schema on PostgreSQL, from the schema before steps with data."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import asyncpg
import msgspec
import pytest

from gateway.accounting.accounting import open_accounting
from gateway.accounting.ledger.database import Dialect, LedgerUnusable
from gateway.accounting.ledger.migrations import MIGRATIONS, Migration, migrate
from gateway.accounting.ledger.postgres import PostgresTx, connect, write_migration
from gateway.accounting.ledger.schema import ATTEMPT
from gateway.config.gateway import GatewayConfig
from gateway.config.ledger import LedgerConfig
from gateway.config.values import SecretConfig
from tests.golden_ledger import (
    BROKEN,
    CHARGED_NANO_USD,
    LATER,
    OPEN_NANO_USD,
    SCHEMA_1,
    content,
    expected,
    version,
)
from tests.ledgers import booked, settled
from tests.stack.ledger.postgres import Postgres


async def old_ledger(postgres: Postgres, name: str) -> str:
    """A database of the schema before steps, with data; its address."""
    dsn = await postgres.new_database(name)
    async with connected(dsn) as connection:
        await connection.execute(SCHEMA_1)
    return dsn


@contextlib.asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def bring_forward(connection: asyncpg.Connection, migrations: tuple[Migration, ...]) -> None:
    """As `connect` does, with other steps."""
    await migrate(partial(write_migration, connection), Dialect.POSTGRES, migrations)


async def test_an_empty_database_gets_the_columns_that_the_code_writes(postgres: Postgres) -> None:
    dsn = await postgres.new_database("fresh")
    database = await connect(dsn, "one")
    assert await database.read(version) == len(MIGRATIONS)
    await database.close()
    async with connected(dsn) as connection:
        columns = await connection.fetch(
            "SELECT column_name, data_type, is_nullable FROM information_schema.columns"
            " WHERE table_name = 'attempt' ORDER BY ordinal_position"
        )
    assert {
        name: sql_type.upper() + (" NOT NULL" if nullable == "NO" else "")
        for name, sql_type, nullable in columns
    } == ATTEMPT


async def test_a_ledger_from_before_steps_is_taken_over_whole(
    tmp_path: Path, postgres: Postgres
) -> None:
    dsn = await old_ledger(postgres, "old")
    database = await connect(dsn, "other")
    assert await database.read(content) == expected()
    assert await database.read(version) == len(MIGRATIONS)
    await database.close()
    (tmp_path / "dsn").write_text(dsn)
    ledger = LedgerConfig(postgres=SecretConfig(file="dsn"), gateway="gw-1", retain_days=36_500)
    config = msgspec.structs.replace(GatewayConfig(), ledger=ledger)
    async with open_accounting(config, tmp_path) as made:
        assert await booked(made.database) == CHARGED_NANO_USD + OPEN_NANO_USD
        made.record_attempt(settled("key/4", charged=5))
    database = await connect(dsn, "other")
    assert await booked(database) == CHARGED_NANO_USD + OPEN_NANO_USD + 5
    await database.close()


async def test_later_steps_keep_every_row_and_a_broken_one_leaves_the_step_before(
    postgres: Postgres,
) -> None:
    async with connected(await old_ledger(postgres, "later")) as connection:
        tx = PostgresTx(connection)
        await bring_forward(connection, LATER)
        assert await version(tx) == len(LATER)
        assert await content(tx) == expected()
        assert await tx.rows("SELECT COUNT(*) FROM attempt WHERE stamps <> key_id") == [(0,)]
        failure = rf"step {len(BROKEN)} .*\(a slip\) failed.* stays at version {len(LATER)}: "
        for _ in range(2):
            with pytest.raises(LedgerUnusable, match=failure):
                await bring_forward(connection, BROKEN)
            assert await version(tx) == len(LATER)
            assert await content(tx) == expected()


async def test_a_newer_ledger_is_refused_and_stays(postgres: Postgres) -> None:
    dsn = await old_ledger(postgres, "newer")
    async with connected(dsn) as connection:
        await bring_forward(connection, LATER)
        with pytest.raises(LedgerUnusable, match=f"has version {len(LATER)}, this moegate knows"):
            await connect(dsn, "one")
        assert await version(PostgresTx(connection)) == len(LATER)
        assert await content(PostgresTx(connection)) == expected()


async def test_two_that_start_at_once_apply_each_step_once(postgres: Postgres) -> None:
    """A step that ran twice would fail: its column is there already."""
    dsn = await old_ledger(postgres, "together")
    async with connected(dsn) as first, connected(dsn) as second, connected(dsn) as third:
        await asyncio.gather(*(bring_forward(c, LATER) for c in (first, second, third)))
        assert await version(PostgresTx(first)) == len(LATER)
        assert await content(PostgresTx(first)) == expected()
    # From nothing, too: whole gateways.
    dsn = await postgres.new_database("together")
    databases = await asyncio.gather(*(connect(dsn, f"gw-{i}") for i in range(3)))
    assert await databases[0].read(version) == len(MIGRATIONS)
    for database in databases:
        await database.close()


async def test_a_step_waits_for_the_lock(postgres: Postgres) -> None:
    dsn = await old_ledger(postgres, "lock")
    async with connected(dsn) as first, connected(dsn) as second:
        entered, leave = asyncio.Event(), asyncio.Event()

        async def held(_: object) -> None:
            entered.set()
            await leave.wait()

        holding = asyncio.create_task(write_migration(first, held))
        await entered.wait()
        waiting = asyncio.create_task(bring_forward(second, LATER))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        leave.set()
        await asyncio.gather(holding, waiting)
        assert await version(PostgresTx(second)) == len(LATER)
