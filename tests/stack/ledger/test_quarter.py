"""The simulated quarter on PostgreSQL: every window closes as on SQLite."""

from __future__ import annotations

from gateway.accounting.ledger.postgres import connect
from tests.gateway.accounting.test_quarter import check_every_window
from tests.stack.ledger.postgres import Postgres


async def test_every_window_closes_on_postgresql(postgres: Postgres) -> None:
    database = await connect(await postgres.new_database("quarter"), "cluster")
    try:
        await check_every_window(database)
    finally:
        await database.close()
