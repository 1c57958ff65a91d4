"""A long batch that is killed again and again: one result an item, and an exact bill.

A gateway on SQLite in a process of its own runs the items on a counting upstream; `kill -9` ends it
at chance moments. With `--cluster` three gateways on a PostgreSQL of its own run them on an engine
in a process of its own, and the leader, another gateway and the engine are killed in turns. The run
fails unless each item has one result and is charged once.

    python -m benchmarks.batch.kills --items 100000 --kills 10 [--cluster]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from gateway.accounting.ledger.sqlite import SqliteDatabase
from gateway.config.ledger import LedgerConfig
from tests.ledgers import FileReader
from tests.stack.gateways.test_batch_cluster_kills import run_cluster_with_kills
from tests.stack.ledger.postgres import running_postgres
from tests.stack.ledger.test_batch_kills import run_with_kills


async def run(items: int, kills: int) -> None:
    """Runs it and prints a line."""
    with tempfile.TemporaryDirectory(prefix="moegate-batch-") as name:
        folder = Path(name)
        path = folder / "ledger.sqlite3"
        await SqliteDatabase(path).close()  # makes the tables
        began_s = time.monotonic()
        ledger = LedgerConfig(sqlite=str(path))
        again = await run_with_kills(folder, ledger, FileReader(path), items, kills)
        took_s = time.monotonic() - began_s
    print(
        f"{items} items, {kills} kills: {items} results, the bill is exact;"
        f" {again} items ran again; {took_s:.0f} s"
    )


async def run_cluster(items: int, kills: int) -> None:
    """The same of a cluster."""
    victims = ["leader", "engine", "member"] * kills
    with tempfile.TemporaryDirectory(prefix="moegate-batch-") as name, running_postgres() as server:
        dsn = await server.new_database("batch")
        began_s = time.monotonic()
        corrected = await run_cluster_with_kills(Path(name), dsn, items, victims[:kills])
        took_s = time.monotonic() - began_s
    print(
        f"{items} items, {kills} kills ({', '.join(victims[:kills])}): {items} results, the bill is"
        f" exact; {corrected} charges of lost runs corrected; {took_s:.0f} s"
    )


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--cluster", action="store_true", help="leader, gateways and engine")
    args = parser.parse_args()
    asyncio.run((run_cluster if args.cluster else run)(args.items, args.kills))


if __name__ == "__main__":
    main()
