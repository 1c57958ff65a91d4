"""A full disk and a database that is away, for a minute, under load: requests go on, nothing is
lost, and the figures close afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config.ledger import LedgerConfig
from gateway.config.values import SecretConfig
from tests import serving
from tests.counting import Counting, counting
from tests.ledgers import booked, one
from tests.serving import METADATA, Serving, chat_request, read_stream
from tests.stack.ledger.postgres import Postgres
from tests.stack.ledger.test_budgets_at_scale import gateway

AWAY_S = 60.0
CLIENTS = 3
CAP = 50_000_000
"""Nano-USD: 2 % of it is what a minute of this load costs, and more."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=4m", "moegate-test", folder), check=True)
    try:
        yield folder
    finally:
        subprocess.run(("umount", "-l", folder), check=True)


def fill(folder: Path) -> Path:
    """Takes all the room that is left."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return path


async def client(running: Serving, stop: asyncio.Event) -> int:
    """Requests that were answered; none may fail."""
    answered = 0
    while not stop.is_set():
        await read_stream(running.stub.Generate(chat_request(), metadata=METADATA))
        answered += 1
    return answered


async def test_requests_go_on_and_the_figures_close(
    tmp_path: Path, small_disk: Path, postgres: Postgres
) -> None:
    (tmp_path / "dsn").write_text(await postgres.new_database("away"))
    full, away = Counting(pause_s=0.005), Counting(pause_s=0.005)
    on_disk = LedgerConfig(sqlite=str(small_disk / "ledger.sqlite3"), backlog_rows=20_000)
    on_server = LedgerConfig(postgres=SecretConfig(file="dsn"), gateway="away", backlog_rows=20_000)
    async with (
        counting(full),
        counting(away),
        gateway(tmp_path, full, CAP, on_disk) as first,
        gateway(tmp_path, away, CAP, on_server) as second,
    ):
        stop = asyncio.Event()
        clients = [
            asyncio.create_task(client(running, stop))
            for running in (first, second)
            for _ in range(CLIENTS)
        ]
        await serving.until(lambda: min(full.requests, away.requests) > 20)
        filler = fill(small_disk)
        await asyncio.to_thread(postgres.stop)
        try:
            ledgers = [running.gateway.accounting.ledger for running in (first, second)]
            await serving.until(lambda: all(ledger.status.error for ledger in ledgers))
            before = (full.requests, away.requests)
            await asyncio.sleep(AWAY_S)
            assert all(ledger.status.error for ledger in ledgers)
            went_on = (full.requests - before[0], away.requests - before[1])
            backlogs = [ledger.status.backlog_rows for ledger in ledgers]
            assert min(went_on) > 100
            assert all(100 < backlog <= 20_000 for backlog in backlogs)
        finally:
            os.remove(filler)
            await asyncio.to_thread(postgres.start)
        await serving.until(lambda: not any(ledger.status.error for ledger in ledgers))
        stop.set()
        answered = await asyncio.gather(*clients)
        for running, upstream, mine in (
            (first, full, answered[:CLIENTS]),
            (second, away, answered[CLIENTS:]),
        ):
            await serving.until(lambda: running.gateway.accounting.ledger.status.backlog_rows == 0)  # noqa: B023
            database = running.gateway.accounting.database
            assert running.gateway.accounting.ledger.status.lost_rows == 0
            assert await one(database, "SELECT COUNT(*) FROM attempt") == sum(mine)
            assert await booked(database) == upstream.tokens
            assert await one(database, "SELECT settled_nano_usd FROM account") == upstream.tokens
        print(f"{went_on} requests while the ledgers were away, {backlogs} rows waited")
