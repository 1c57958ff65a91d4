"""The PostgreSQL of this suite is a real one, and can be taken away."""

from __future__ import annotations

import asyncpg
import pytest

from tests.stack.ledger.postgres import Postgres


async def test_it_answers_goes_away_and_comes_back(postgres: Postgres) -> None:
    connection = await asyncpg.connect(postgres.dsn)
    assert "PostgreSQL" in await connection.fetchval("SELECT version()")
    postgres.stop()
    try:
        with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
            await connection.fetchval("SELECT 1")
    finally:
        postgres.start()
        connection.terminate()
    connection = await asyncpg.connect(postgres.dsn)
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()
