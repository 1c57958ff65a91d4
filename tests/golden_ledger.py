"""A ledger as it was before its schema had numbered steps, with data of every kind, and steps that
a later version may have. The SQL runs on both databases."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from gateway.accounting.ledger.database import Row, Tx
from gateway.accounting.ledger.migrations import MIGRATIONS, Migration

SCHEMA_1 = (Path(__file__).parent / "golden" / "ledger_schema_1.sql").read_text()
"""Written by gateway `gw-1`, which was killed: two leases are open."""
EPOCH = "b383a377979a7adb"
WRITTEN_UNIX_S = 1_795_978_583.0
OTHER_SESSION = 'it\'s a "session" – ü'  # noqa: RUF001
CHARGED_NANO_USD = 6_255
"""What its attempts were charged, with the correction."""
OPEN_NANO_USD = 22_385_284
"""What its open leases had been granted and had not settled."""


def step(*statements: str, after: tuple[Migration, ...], name: str) -> tuple[Migration, ...]:
    """These steps and one more, which has the same SQL on both databases."""
    number = len(after) + 1
    return (
        *after,
        Migration(number=number, name=name, sqlite=statements, postgres=statements),
    )


LATER = step(
    "UPDATE attempt SET stamps = key_id",
    name="stamps are filled",
    after=step(
        "ALTER TABLE attempt ADD COLUMN stamps TEXT NOT NULL DEFAULT ''",
        "CREATE INDEX attempt_by_stamp ON attempt (stamps)",
        name="stamps",
        after=MIGRATIONS,
    ),
)
BROKEN = step("DELETE FROM attempt", "UPDATE no_such_table SET x = 1", name="a slip", after=LATER)


def expected() -> dict[str, tuple[str, list[Row]]]:
    """By table: its columns, comma-separated, and its rows."""
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA_1)
    found = {}
    for table in ("account", "attempt", "budget", "gateway", "lease"):
        columns = ", ".join(row[1] for row in connection.execute(f"PRAGMA table_info({table})"))
        rows = connection.execute(f"SELECT {columns} FROM {table}").fetchall()
        assert rows, table
        found[table] = columns, sorted(rows, key=repr)
    connection.close()
    return found


async def content(tx: Tx) -> dict[str, tuple[str, list[Row]]]:
    """The same of a database that has at least these columns."""
    found = {}
    for table, (columns, _) in expected().items():
        rows = await tx.rows(f"SELECT {columns} FROM {table}")
        found[table] = columns, sorted(map(tuple, rows), key=repr)
    return found


async def version(tx: Tx) -> int:
    """The last step that was applied; there is one such row."""
    [(number,)] = await tx.rows("SELECT version FROM ledger")
    return int(number)
