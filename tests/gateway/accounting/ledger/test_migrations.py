"""The steps of the schema on SQLite: from an empty file, from the schema before steps, and from a
newer one; two at once; a step that fails."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec
import pytest

from gateway.accounting.accounting import open_accounting
from gateway.accounting.ledger.database import Dialect, LedgerUnusable
from gateway.accounting.ledger.migrations import (
    MIGRATIONS,
    Migration,
    apply_next,
    migrate,
)
from gateway.accounting.ledger.schema import ATTEMPT
from gateway.accounting.ledger.sqlite import SqliteDatabase, SqliteTx, run_now, write_migration
from gateway.config.gateway import GatewayConfig
from gateway.config.ledger import LedgerConfig
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
from tests.ledgers import booked, one, settled


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of the schema before steps, with data."""
    file = tmp_path / LedgerConfig().sqlite
    with sqlite3.connect(file) as connection:
        connection.executescript(SCHEMA_1)
    connection.close()
    return file


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)


def bring_forward(connection: sqlite3.Connection, migrations: tuple[Migration, ...]) -> None:
    """As `SqliteDatabase` does, with other steps."""
    run_now(migrate(partial(write_migration, connection), Dialect.SQLITE, migrations))


def test_steps_are_numbered_from_one_without_gaps() -> None:
    assert [m.number for m in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


async def test_an_empty_file_gets_the_columns_that_the_code_writes(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "new.sqlite3")
    columns = await database.read(lambda tx: tx.rows("PRAGMA table_info(attempt)"))
    assert {
        name: sql_type + (" NOT NULL" if not_null else "")
        for _, name, sql_type, not_null, *_ in columns
    } == ATTEMPT
    assert await database.read(version) == len(MIGRATIONS)
    await database.close()


def test_the_first_step_makes_the_schema_from_before_steps(path: Path, tmp_path: Path) -> None:
    """Every table and index is the same, white space apart."""
    fresh = connect(tmp_path / "fresh.sqlite3")
    bring_forward(fresh, MIGRATIONS[:1])
    old = connect(path)
    found = [
        {
            name: "".join(sql.split())
            for name, sql in connection.execute(
                "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"
            )
        }
        for connection in (fresh, old)
    ]
    fresh.close()
    old.close()
    assert found[0] == found[1]
    assert len(found[0]) == 9


async def test_a_ledger_from_before_steps_is_taken_over_whole(path: Path) -> None:
    database = SqliteDatabase(path)
    assert await database.read(content) == expected()
    assert await database.read(version) == len(MIGRATIONS)
    await database.close()
    config = msgspec.structs.replace(
        GatewayConfig(), ledger=LedgerConfig(retain_days=36_500, gateway="gw-1")
    )
    async with open_accounting(config, path.parent) as made:
        # What its killed gateway had leased counts as spent, as it would have by the code before.
        assert await booked(made.database) == CHARGED_NANO_USD + OPEN_NANO_USD
        made.record_attempt(settled("key/4", charged=5))
    database = SqliteDatabase(path)
    assert await booked(database) == CHARGED_NANO_USD + OPEN_NANO_USD + 5
    assert await one(database, "SELECT COUNT(*) FROM budget") == 2
    await database.close()


def test_later_steps_bring_it_forward_and_keep_every_row(path: Path) -> None:
    connection = connect(path)
    tx = SqliteTx(connection)
    bring_forward(connection, LATER)
    assert run_now(version(tx)) == len(LATER)
    assert run_now(content(tx)) == expected()
    assert run_now(tx.rows("SELECT COUNT(*) FROM attempt WHERE stamps <> key_id")) == [(0,)]
    bring_forward(connection, LATER)  # nothing is left to do
    assert run_now(version(tx)) == len(LATER)
    connection.close()


def test_a_step_that_fails_leaves_the_step_before(path: Path) -> None:
    connection = connect(path)
    tx = SqliteTx(connection)
    failure = rf"step {len(BROKEN)} .*\(a slip\) failed.* stays at version {len(LATER)}: no such"
    for _ in range(2):
        with pytest.raises(LedgerUnusable, match=failure):
            bring_forward(connection, BROKEN)
        assert run_now(version(tx)) == len(LATER)
        assert run_now(content(tx)) == expected()
    connection.close()


async def test_a_newer_ledger_is_refused_and_stays(path: Path) -> None:
    connection = connect(path)
    bring_forward(connection, LATER)
    with pytest.raises(LedgerUnusable) as refused:
        SqliteDatabase(path)
    assert str(refused.value) == (
        f"the ledger's schema has version {len(LATER)}, this moegate knows {len(MIGRATIONS)}: "
        "start the newer moegate that wrote it, or name another file or database"
    )
    assert run_now(content(SqliteTx(connection))) == expected()
    connection.close()


def test_two_that_start_at_once_apply_each_step_once(path: Path) -> None:
    """A step that ran twice would fail: its column is there already."""
    barrier = threading.Barrier(4)

    def start() -> None:
        connection = connect(path)
        barrier.wait(timeout=30.0)
        bring_forward(connection, LATER)
        connection.close()

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(start) for _ in range(4)]:
            done.result(timeout=60.0)
    connection = connect(path)
    assert run_now(version(SqliteTx(connection))) == len(LATER)
    assert run_now(content(SqliteTx(connection))) == expected()
    connection.close()


def test_a_step_has_the_sql_of_its_database() -> None:
    steps = (Migration(number=1, name="x", sqlite=("CREATE TABLE a (x)",), postgres=("wrong",)),)
    connection = sqlite3.connect(":memory:", isolation_level=None)
    tx = SqliteTx(connection)
    with pytest.raises(LedgerUnusable, match="wrong"):
        run_now(apply_next(tx, Dialect.POSTGRES, steps))
    assert run_now(apply_next(tx, Dialect.SQLITE, steps))
    assert not run_now(apply_next(tx, Dialect.SQLITE, steps))
    connection.close()
