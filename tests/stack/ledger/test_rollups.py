"""The roll-ups on PostgreSQL: the sums over the rows, while two gateways write and sum at once."""

from __future__ import annotations

import asyncio
import random
from dataclasses import asdict

from gateway.accounting.ledger.postgres import connect
from gateway.accounting.ledger.queries import Selection
from gateway.accounting.rollups.fold import fold
from gateway.accounting.rollups.spend import Group, Order, spend
from tests.rolled_ledgers import LABEL, START_S, Attempt, expected, insert, random_attempts
from tests.stack.ledger.postgres import Postgres

DAY_US = 86_400_000_000
GROUPS = (
    *[(), (Group.TENANT, Group.KEY), (Group.HOUR,), (Group.MONTH,), (Group.WEEK, Group.MODEL)],
    *[(Group.SESSION, Group.DAY), (Group.SESSION, Group.PLACEMENT), (Group.YEAR, Group.KIND)],
    *[(Group.SESSION,), (Group.SESSION, Group.MODEL)],
    *[(Group.END_USER,), (Group.LABEL, Group.DAY), (Group.LABEL, Group.END_USER)],
    *[(Group.LABEL,), (Group.LABEL, Group.KEY)],
)
DEAREST = (
    *[(Group.SESSION,), (Group.END_USER,), (Group.SESSION, Group.MODEL)],
    *[(Group.LABEL,), (Group.LABEL, Group.KEY)],
)
"""Groups of which the dearest are found by one sum first."""


async def test_two_gateways_write_and_sum_at_once(postgres: Postgres) -> None:
    dsn = await postgres.new_database("rollups")
    first, second = await connect(dsn, "gw-1"), await connect(dsn, "gw-2")
    attempts = random_attempts(random.Random(1), 400, 40.0)
    by_epoch: dict[str, list[Attempt]] = {}
    for row in attempts:
        by_epoch.setdefault(row["epoch"], []).append(row)
    halves = [[], []]  # type: list[list[Attempt]]
    for number, rows in enumerate(by_epoch.values()):
        halves[number % 2] += rows

    async def write(number: int) -> None:
        database = (first, second)[number]
        for begin in range(0, len(halves[number]), 20):
            rows = halves[number][begin : begin + 20]
            await database.write(lambda tx: insert(tx, rows))  # noqa: B023
            await database.write(lambda tx: fold(tx, 15))

    try:
        await asyncio.gather(write(0), write(1))
        window = Selection(
            from_us=START_S * 10**6 + DAY_US + 5, to_us=START_S * 10**6 + 33 * DAY_US
        )
        for selection in (Selection(from_us=0, to_us=2**62), window):
            for groups in GROUPS:
                found = await second.read(
                    lambda tx: spend(tx, selection, groups, Order.GROUP, 9999, label=LABEL)  # noqa: B023
                )
                wanted = expected(attempts, selection, groups)
                assert {row.group: _known(asdict(row)) for row in found} == {
                    group: _known(sums) for group, sums in wanted.items()
                }
                if groups in DEAREST:
                    dearest = await second.read(
                        lambda tx: spend(tx, selection, groups, Order.SPEND, 2, label=LABEL)  # noqa: B023
                    )
                    amounts = sorted((row.charged_nano_usd for row in found), reverse=True)
                    assert [row.charged_nano_usd for row in dearest] == amounts[:2]
                    assert all(row in found for row in dearest)
    finally:
        await first.close()
        await second.close()


def _known(sums: dict[str, int]) -> dict[str, int]:
    return {name: value for name, value in sums.items() if name != "group" and value}
