"""How long reports over a year take, with ten million attempts in the ledger.

    python -m benchmarks.ledger.reports [--rows 10000000] [--postgres]

Attempts spread over a year, of 40 keys, 4 models, 6 placements and many sessions, are written and
rolled up as the gateway does it. Then each report is read five times; the slowest counts, and
beside it the CPU time: of this process, in which SQLite reads, and of all PostgreSQL's. The
PostgreSQL is Debian's, started for this (tests/stack/ledger/postgres.py); its rows are copied and
summed up in larger transactions than a gateway's. It takes an hour and 10 GB.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gateway.accounting.ledger.database import Database, Tx
from gateway.accounting.ledger.queries import Selection
from gateway.accounting.ledger.rows import INSERT, bare_row
from gateway.accounting.ledger.schema import ATTEMPT_COLUMNS
from gateway.accounting.rollups.fold import fold
from gateway.accounting.rollups.spend import Group, Order, spend
from tests.ledgers import TIME_S

DAY_US = 86_400_000_000
YEAR_US = 365 * DAY_US
KEYS, MODELS, PLACEMENTS = 40, 4, 6
SESSIONS_A_DAY = 800
EPOCH = "benchmark"
BATCH_ROWS = 20_000
FOLD_ROWS, POSTGRES_FOLD_ROWS = 20_000, 500_000
"""The gateway adds 5,000 rows at once, so that others are not held up. Here nobody waits."""
REPEATS = 5
AIM_S = 2.0
REPORTS: tuple[tuple[Group, ...], ...] = (
    *[(), (Group.TENANT,), (Group.KEY, Group.MODEL), (Group.PLACEMENT,), (Group.MODEL, Group.WEEK)],
    *[(Group.MONTH, Group.TENANT), (Group.DAY,), (Group.HOUR,), (Group.SESSION,)],
)


def batches(rows: int) -> Iterator[list[tuple[Any, ...]]]:
    """Rows in the order of their time."""
    chance = random.Random(1)
    start_us = int(TIME_S * 1e6) // YEAR_US * YEAR_US
    blank = dict(zip(ATTEMPT_COLUMNS, bare_row(epoch=EPOCH), strict=True))
    for first in range(0, rows, BATCH_ROWS):
        batch = []
        for seq in range(first, min(rows, first + BATCH_ROWS)):
            at_us = start_us + seq * YEAR_US // rows
            session = min(chance.randrange(SESSIONS_A_DAY), chance.randrange(SESSIONS_A_DAY))
            key = session % KEYS
            place = (session + chance.randrange(2)) % PLACEMENTS
            row = blank | {
                "seq": seq,
                "state": "final",
                "request_id": f"request-{seq}",
                "attempt": 1,
                "key_id": f"key-{key}",
                "tenant": f"tenant-{key % 8}",
                "session_id": f"{at_us // DAY_US}-{session}",
                "model": f"model-{place % MODELS}",
                "slo_class": "interactive",
                "placement": f"placement-{place}",
                "pool": f"pool-{place % MODELS}",
                "kind": "local" if place else "remote",
                "outcome": "ok",
                "started_unix_us": at_us - 10**6,
                "ended_unix_us": at_us,
                "prompt_tokens": 1000,
                "cached_tokens": 300,
                "completion_tokens": 200,
                "metered_nano_usd": 90_000,
                "charged_nano_usd": 100_000,
                "budgeted_nano_usd": 100_000,
                "parts": '[["uncached_input",700,30000],["output",200,60000]]',
                "cheapest_remote_nano_usd": 200_000,
            }
            batch.append(tuple(row.values()))
        yield batch


Add = Callable[[Sequence[tuple[Any, ...]]], Awaitable[None]]
Fold = Callable[[], Awaitable[int]]


async def fill(add: Add, fold_piece: Fold, rows: int) -> None:
    """Writes the rows with `add` and makes the roll-ups. `fold_piece`: see `fold`."""
    began_s = time.perf_counter()
    for batch in batches(rows):
        await add(batch)
    wrote_s = time.perf_counter()
    while await fold_piece():
        pass
    folded_s = time.perf_counter()
    print(
        f"  {rows:,} rows written in {wrote_s - began_s:.0f} s, rolled up in"
        f" {folded_s - wrote_s:.0f} s ({(folded_s - wrote_s) / rows * 1e6:.0f} us a row)",
        flush=True,
    )


REGISTER = f"INSERT INTO fold (epoch, folded_seq) VALUES ('{EPOCH}', -1)"


async def fill_sqlite(database: Database, rows: int) -> None:
    """Fills the file through the ledger's own connection."""

    async def begin(tx: Tx) -> None:
        await tx.run("PRAGMA cache_size = -200000")
        await tx.run(REGISTER)

    await database.write(begin)
    await fill(
        lambda batch: database.write(lambda tx: tx.many(INSERT, batch)),
        lambda: database.write(lambda tx: fold(tx, FOLD_ROWS)),
        rows,
    )


async def fill_postgres(dsn: str, rows: int) -> None:
    """Copies the rows on a connection of its own, whose statements may take long."""
    import asyncpg

    from gateway.accounting.ledger.postgres import PostgresTx

    connection = await asyncpg.connect(dsn)

    async def add(batch: Sequence[tuple[Any, ...]]) -> None:
        await connection.copy_records_to_table("attempt", records=batch, columns=ATTEMPT_COLUMNS)

    async def fold_piece() -> int:
        async with connection.transaction():
            return await fold(PostgresTx(connection), POSTGRES_FOLD_ROWS)

    try:
        await connection.execute(
            f"SET synchronous_commit = off; SET work_mem = '256MB'; {REGISTER}"
        )
        await fill(add, fold_piece, rows)
        # A table that grew over a year has its statistics.
        await connection.execute("VACUUM (ANALYZE)")
    finally:
        await connection.close()


def postgres_cpu_s(postmaster: int) -> float:
    """CPU time of a PostgreSQL server so far: of its processes, and of those that have ended."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, fields = stat.parent.name, stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        if int(pid) == postmaster:
            total += sum(map(int, fields[11:15]))
        elif int(fields[1]) == postmaster:
            total += sum(map(int, fields[11:13]))
    return total / os.sysconf("SC_CLK_TCK")


async def time_report(
    database: Database,
    window: Selection,
    groups: tuple[Group, ...],
    aim_s: float,
    cpu: Callable[[], float] = time.process_time,
) -> None:
    """Reads a report `REPEATS` times, and prints the slowest. `cpu`: CPU time so far, seconds."""
    took_s = cpu_s = 0.0
    for _ in range(REPEATS):
        began_s, began_cpu_s = time.perf_counter(), cpu()
        found = await database.read(lambda tx: spend(tx, window, groups, Order.SPEND, 10_000))
        took_s = max(took_s, time.perf_counter() - began_s)
        cpu_s = max(cpu_s, cpu() - began_cpu_s)
    name = ", ".join(groups) or "the sum"
    remark = "" if took_s <= aim_s else f"  (aim: {aim_s:g} s)"
    print(
        f"  by {name}: {len(found):,} rows in {took_s:.2f} s, {cpu_s:.2f} s of CPU{remark}",
        flush=True,
    )


async def report(database: Database, cpu: Callable[[], float]) -> None:
    """Reads each report. `cpu`: see `time_report`."""
    start_us = int(TIME_S * 1e6) // YEAR_US * YEAR_US
    # An hour and a half later, so that both edges are of single rows.
    window = Selection(from_us=start_us + 5_400_000_000, to_us=start_us + YEAR_US)
    for groups in REPORTS:
        await time_report(database, window, groups, AIM_S, cpu)


async def measure(
    rows: int, folder: Path, dsn: str | None, cpu: Callable[[], float] = time.process_time
) -> None:
    """Fills a new ledger, and reads it. `cpu`: see `time_report`."""
    from gateway.accounting.ledger.postgres import connect
    from gateway.accounting.ledger.sqlite import SqliteDatabase

    print("SQLite" if dsn is None else "PostgreSQL", flush=True)
    path = folder / "ledger"
    database = SqliteDatabase(path) if dsn is None else await connect(dsn, "benchmark")
    try:
        if dsn is None:
            await fill_sqlite(database, rows)
        else:
            await fill_postgres(dsn, rows)
        await report(database, cpu)
    finally:
        await database.close()
    if dsn is None:
        print(f"  {path.stat().st_size / 1e9:.1f} GB")


def main() -> None:
    """Prints the times."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--postgres", action="store_true", help="on PostgreSQL, not on SQLite")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if not args.postgres:
            asyncio.run(measure(args.rows, Path(name), None))
            return
        from tests.stack.ledger.postgres import running_postgres

        with running_postgres() as server:
            postmaster = server.postmaster_pid

            def cpu() -> float:
                return time.process_time() + postgres_cpu_s(postmaster)

            asyncio.run(measure(args.rows, Path(name), server.dsn, cpu))


if __name__ == "__main__":
    main()
