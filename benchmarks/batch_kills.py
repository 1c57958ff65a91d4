"""A long batch whose gateway is killed again and again: one result an item, and an exact bill.

A gateway on SQLite in a process of its own runs the items on a counting upstream; `kill -9` ends it
at chance moments. The run fails unless each item has one result and is charged once.

    python -m benchmarks.batch_kills --items 100000 --kills 10
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
from tests.stack.test_batch_kills import run_with_kills


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


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=10)
    args = parser.parse_args()
    asyncio.run(run(args.items, args.kills))


if __name__ == "__main__":
    main()
