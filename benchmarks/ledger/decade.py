"""How long reports over ten years of roll-ups take, as retention leaves them.

    python -m benchmarks.ledger.decade [--years 10] [--sessions 100] [--hourly-days 800]
        [--postgres]

A gateway that has served for years has deleted its rows and, after 800 days, its sums by hour. Here
the sums by hour, day and month of 40 keys, 4 models, 6 placements and some sessions a day are
written as they are, without the rows. Each report is read five times; the slowest counts. The
PostgreSQL is Debian's, started for this (tests/stack/ledger/postgres.py). It takes some minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from benchmarks.ledger.reports import time_report
from gateway.accounting.ledger.database import Database
from gateway.accounting.ledger.queries import Selection
from gateway.accounting.rollups.calendar import DAY_HOURS, HOUR_US, months
from gateway.accounting.rollups.columns import (
    DIMENSIONS,
    SESSION_TAG,
    SUMS,
    TAG_DIMENSIONS,
    Span,
)
from gateway.accounting.rollups.spend import Group

KEYS, MODELS, PLACEMENTS, TENANTS = 40, 4, 6, 8
BEGIN_HOUR = int(datetime(2027, 1, 1, tzinfo=UTC).timestamp()) // 3600
BATCH_ROWS = 20_000
AIM_S = 1.0
REPORTS: tuple[tuple[Group, ...], ...] = (
    *[(), (Group.TENANT,), (Group.KEY, Group.MODEL), (Group.PLACEMENT,), (Group.YEAR,)],
    *[(Group.MONTH, Group.TENANT), (Group.MODEL, Group.WEEK), (Group.DAY,), (Group.SESSION,)],
)
Values = tuple[object, ...]


def _sums(chance: random.Random, requests: int) -> Values:
    return tuple(requests * chance.randint(1, 1000) for _ in SUMS)


def _spend_rows(years: int, hourly_days: int) -> Iterator[Values]:
    """Rows of `spend`: every key has two placements."""
    chance = random.Random(1)
    end = _end_hour(years)
    places = [
        (f"tenant-{key % TENANTS}", f"key-{key}", place)
        for key in range(KEYS)
        for place in (key % PLACEMENTS, (key + 1) % PLACEMENTS)
    ]

    def of(span: Span, starts: int, requests: int) -> Iterator[Values]:
        for tenant, key, place in places:
            pool = f"pool-{place % MODELS}" if place else ""
            kind = "local" if place else "remote"
            named = (tenant, key, f"model-{place % MODELS}", f"placement-{place}", pool, kind)
            yield (int(span), starts, *named, *_sums(chance, requests))

    for begin, _ in months(BEGIN_HOUR, end):
        yield from of(Span.MONTH, begin, 720)
    for day in range(BEGIN_HOUR, end, DAY_HOURS):
        yield from of(Span.DAY, day, 24)
    for hour in range(max(BEGIN_HOUR, end - hourly_days * DAY_HOURS), end):
        yield from of(Span.HOUR, hour, 1)
        for number in range(TENANTS):
            blank = (f"tenant-{number}", *[""] * (len(DIMENSIONS) - 1))
            yield (int(Span.TENANT_HOUR), hour, *blank, *_sums(chance, 10))


def _session_rows(years: int, sessions: int) -> Iterator[Values]:
    """Rows of `tagged_spend`: a session lives a day and uses two models."""
    chance = random.Random(2)
    for begin, end in months(BEGIN_HOUR, _end_hour(years)):
        for span in (Span.MONTH, Span.DAY):
            for day in range(begin, end, DAY_HOURS):
                starts = begin if span is Span.MONTH else day
                for number in range(sessions):
                    named = (f"tenant-{number % TENANTS}", f"key-{number % KEYS}")
                    for model in (number % MODELS, (number + 1) % MODELS):
                        value = (f"{day // DAY_HOURS}-{number}", *named, f"model-{model}")
                        key = (int(span), SESSION_TAG, starts, *value)
                        yield (*key, *_sums(chance, 1))


def _end_hour(years: int) -> int:
    return int(datetime(2027 + years, 1, 1, tzinfo=UTC).timestamp()) // 3600


async def fill(database: Database, years: int, sessions: int, hourly_days: int) -> None:
    """Writes the roll-ups."""
    began_s = time.perf_counter()
    for table, keys, rows in (
        ("spend", ("span", "starts_hour", *DIMENSIONS), _spend_rows(years, hourly_days)),
        (
            "tagged_spend",
            ("span", "tag", "starts_hour", *TAG_DIMENSIONS),
            _session_rows(years, sessions),
        ),
    ):
        columns = (*keys, *SUMS)
        values = ", ".join(f"${i + 1}" for i in range(len(columns)))
        sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})"
        count = 0
        while batch := list(islice(rows, BATCH_ROWS)):
            await database.write(lambda tx: tx.many(sql, batch))  # noqa: B023
            count += len(batch)
        print(f"  {count:,} rows of {table}", flush=True)
    print(f"  written in {time.perf_counter() - began_s:.0f} s", flush=True)


async def report(database: Database, years: int, hourly_days: int) -> None:
    """Reads each report, over all the years, and by the hour over what is kept of hours."""
    end = _end_hour(years)
    whole = Selection(from_us=BEGIN_HOUR * HOUR_US, to_us=end * HOUR_US)
    hours = Selection(
        from_us=max(BEGIN_HOUR, end - hourly_days * DAY_HOURS) * HOUR_US, to_us=end * HOUR_US
    )
    for groups, window in (*((groups, whole) for groups in REPORTS), ((Group.HOUR,), hours)):
        await time_report(database, window, groups, AIM_S)


async def measure(args: argparse.Namespace, folder: Path, dsn: str | None) -> None:
    """Fills a new ledger, and reads it."""
    from gateway.accounting.ledger.postgres import connect
    from gateway.accounting.ledger.sqlite import SqliteDatabase

    print("SQLite" if dsn is None else "PostgreSQL", flush=True)
    path = folder / "ledger"
    database: Database = SqliteDatabase(path) if dsn is None else await connect(dsn, "benchmark")
    try:
        await fill(database, args.years, args.sessions, args.hourly_days)
        await report(database, args.years, args.hourly_days)
    finally:
        await database.close()
    if dsn is None:
        print(f"  {path.stat().st_size / 1e9:.1f} GB")


def main() -> None:
    """Prints the times."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--years", type=int, default=10)
    parser.add_argument("--sessions", type=int, default=100, help="a day")
    parser.add_argument("--hourly-days", type=int, default=800, help="of sums by hour")
    parser.add_argument("--postgres", action="store_true", help="on PostgreSQL, not on SQLite")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not args.postgres:
            asyncio.run(measure(args, folder, None))
            return
        from tests.stack.ledger.postgres import running_postgres

        with running_postgres() as server:
            asyncio.run(measure(args, folder, server.dsn))


if __name__ == "__main__":
    main()
