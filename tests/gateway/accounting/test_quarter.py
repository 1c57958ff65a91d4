"""Ninety days of hourly load with a price change, an outage, two crashes and two leaders at once:
the statement of every window is the sum that was taken apart from it, to the nano-dollar."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from gateway.accounting.ledger.database import Database
from gateway.accounting.ledger.retention import delete_old
from gateway.accounting.ledger.rows import INSERT
from gateway.accounting.ledger.sqlite import SqliteDatabase
from gateway.accounting.reports.statement import SharingRule, Statement
from gateway.accounting.reports.windows import StatementQuery, window_statement
from gateway.accounting.rollups.fold import fold
from gateway.accounting.rollups.spend import Group
from scheduler.metering.totals import HOUR_NS, UNIT
from tests.gateway.accounting.quarter import (
    BEGIN_HOUR,
    BOOK_HOURS,
    HOURS,
    MINUTE_NS,
    TENANTS,
    Quarter,
    bill,
    metered_by,
)

HOUR_US = 3_600_000_000
END_HOUR = BEGIN_HOUR + HOURS
KILLED = ((30, 5), (47, 17))
TAKEN_OVER = (60, 11)
OUTAGE = (20, 12)


async def run(quarter: Quarter) -> None:
    """The events of the quarter. A process books every six hours, and when it ends."""
    process = await quarter.start("first", BEGIN_HOUR * HOUR_NS)
    hour = BEGIN_HOUR
    while hour < END_HOUR:
        when = divmod(hour - BEGIN_HOUR, 24)
        await quarter.hour(process, hour)
        hour += 1
        if when == OUTAGE:
            # Three hours and 20 minutes in which nothing runs there, and it is out of service.
            quarter.end_until(process, (hour + 1) * HOUR_NS)
            quarter.outage(
                process, "own/b", (hour + 1) * HOUR_NS, (hour + 4) * HOUR_NS + 20 * MINUTE_NS
            )
            hour += 5
        if when[1] % BOOK_HOURS == BOOK_HOURS - 1:
            assert await process.accounts.book(process.meter, hour * HOUR_NS)
            await quarter.write(process)
        if when[1] == 3:
            await quarter.correct(hour - 1, when[0] + 1)
        if when in KILLED:
            # An hour after it has booked; its rows were spooled. The next one starts later.
            quarter.metered += metered_by(process)
            await quarter.hour(process, hour)
            late = process.rows
            hour += 3
            process = await quarter.start(f"after-{when}", hour * HOUR_NS - 13 * MINUTE_NS)
            await quarter.database.write(lambda tx: tx.many(INSERT, late))  # noqa: B023
        if when == TAKEN_OVER:
            # Another process takes over while this one still believes that it leads.
            quarter.metered += metered_by(process)
            other = await quarter.start("second-leader", hour * HOUR_NS + 5 * MINUTE_NS)
            await quarter.hour(process, hour)
            assert not await process.accounts.book(process.meter, (hour + 1) * HOUR_NS)
            assert not process.accounts.held
            await quarter.write(process)
            process, hour = other, hour + 1
    quarter.end_until(process, END_HOUR * HOUR_NS - 1)
    assert await process.accounts.book(process.meter, END_HOUR * HOUR_NS)
    quarter.metered += metered_by(process)
    await quarter.write(process)
    while await quarter.database.write(fold):
        pass


async def closed(quarter: Quarter, first: int, last: int, rule: SharingRule) -> Statement:
    query = StatementQuery(
        from_hour=first, to_hour=last, rule=rule, weights={"search": 3, "ads": 1}
    )
    [found] = await quarter.database.read(lambda tx: window_statement(tx, query))
    return found.statement


def windows() -> Iterator[tuple[int, int]]:
    chance = random.Random(3)
    yield BEGIN_HOUR, END_HOUR
    for first_day in range(0, 90, 30):
        yield BEGIN_HOUR + first_day * 24, BEGIN_HOUR + (first_day + 30) * 24
    for _ in range(40):
        first = chance.randrange(BEGIN_HOUR, END_HOUR)
        yield first, min(END_HOUR, first + chance.choice([1, 1, 5, 24, 24 * 7, 24 * 31, 24 * 80]))


def between(amounts: dict[int, int], first: int, last: int) -> int:
    return sum(amount for hour, amount in amounts.items() if first <= hour < last)


async def check(quarter: Quarter, first: int, last: int) -> None:
    """The statement of a window against the truth."""
    gpu_bill = bill("own", first, last) + bill("big", first, last)
    for rule in SharingRule:
        found = await closed(quarter, first, last, rule)
        remotes = sum(
            amount
            for (hour, _, pool), amount in quarter.used.items()
            if not pool and first <= hour < last
        )
        assert (found.gpu_bill_nano_usd, found.remote_bill_nano_usd) == (gpu_bill, remotes)
        assert found.unobserved_nano_usd == between(quarter.unobserved, first, last)
        assert found.unavailable_nano_usd == between(quarter.unavailable, first, last)
        tenants = {line.group[0]: line for line in found.lines}
        for tenant in TENANTS:
            used = {
                kind: sum(
                    amount
                    for (hour, whose, pool), amount in quarter.used.items()
                    if whose == tenant and first <= hour < last and bool(pool) == kind
                )
                for kind in (True, False)
            }
            line = tenants.get(tenant)
            got = (line.own_nano_usd, line.remote_nano_usd) if line else (0, 0)
            assert got == (used[True], used[False])
        parts = found.idle_nano_usd + found.rest_nano_usd
        own = sum(line.own_nano_usd + line.remote_nano_usd for line in found.lines)
        assert own + parts == found.bill_nano_usd == gpu_bill + remotes
        shared = sum(line.shared_nano_usd for line in found.lines)
        if rule in (SharingRule.OWN_ROW, SharingRule.BY_WEIGHT):
            assert shared == parts
            assert found.unshared_nano_usd == 0
        assert shared + found.unshared_nano_usd == parts
        charged = sum(line.charged_nano_usd for line in found.lines)
        assert charged == between(quarter.charged, first, last) + between(
            quarter.corrections, first, last
        )


async def test_every_window_closes(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "ledger")
    try:
        await check_every_window(database)
    finally:
        await database.close()


async def check_every_window(database: Database) -> None:
    """Runs the quarter on an empty database, and checks its windows."""
    quarter = Quarter(database, random.Random(5))
    await run(quarter)
    for first, last in windows():
        await check(quarter, first, last)
    whole = await closed(quarter, BEGIN_HOUR, END_HOUR, SharingRule.NONE)
    own = sum(line.own_nano_usd for line in whole.lines)
    assert abs(quarter.metered // UNIT - own - whole.unsettled_nano_usd) <= len(KILLED) + 2
    assert whole.unobserved_nano_usd > 0
    assert whole.unavailable_nano_usd > 0
    await check_months(quarter)
    # Rows may go when they are in the sums: no window changes.
    while await database.write(lambda tx: delete_old(tx, END_HOUR * HOUR_US)):
        pass
    await check(quarter, BEGIN_HOUR, END_HOUR)
    await check(quarter, BEGIN_HOUR + 700, END_HOUR - 77)


async def check_months(quarter: Quarter) -> None:
    """Months, days and hours of one window sum to the window, and have its tenants and pools."""
    whole = await closed(quarter, BEGIN_HOUR + 5, END_HOUR - 5, SharingRule.BY_USE)
    for period in (Group.MONTH, Group.WEEK, Group.DAY, Group.HOUR):
        query = StatementQuery(
            from_hour=BEGIN_HOUR + 5,
            to_hour=END_HOUR - 5,
            period=period,
            groups=(Group.TENANT, Group.MODEL),
            rule=SharingRule.BY_USE,
        )
        found = await quarter.database.read(lambda tx: window_statement(tx, query))  # noqa: B023
        assert len({part.period for part in found}) == len(found) > 2
        for name in ("bill_nano_usd", "idle_nano_usd", "rest_nano_usd", "gpu_bill_nano_usd"):
            parts = [getattr(part.statement, name) for part in found]
            assert sum(parts) == getattr(whole, name), (period, name)
