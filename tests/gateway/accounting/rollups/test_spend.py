"""Spend over any window is the sum over its rows, however far the roll-ups have come."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import pytest

from gateway.accounting.ledger.database import Tx
from gateway.accounting.ledger.queries import Selection
from gateway.accounting.ledger.retention import delete_old, delete_old_hours
from gateway.accounting.ledger.sqlite import SqliteTx, run_now
from gateway.accounting.rollups.fold import fold
from gateway.accounting.rollups.spend import Group, Order, Spend, WindowTooFine, spend
from tests.ledgers import make_tables
from tests.rolled_ledgers import LABEL, START_S, Attempt, expected, insert, random_attempts

DAY_US = 86_400_000_000
EVER = Selection(from_us=0, to_us=2**62)
TIMES = (Group.HOUR, Group.DAY, Group.WEEK, Group.MONTH, Group.YEAR)
GROUPS = (
    *[(), (Group.TENANT, Group.KEY), (Group.MODEL, Group.WEEK), (Group.HOUR,), (Group.DAY,)],
    *[(Group.PLACEMENT, Group.KIND, Group.POOL), (Group.MONTH, Group.TENANT), (Group.YEAR,)],
    *[(Group.SESSION,), (Group.SESSION, Group.MONTH), (Group.SESSION, Group.PLACEMENT)],
    *[(Group.SESSION, Group.HOUR), (Group.END_USER,), (Group.END_USER, Group.DAY)],
    *[(Group.LABEL,), (Group.LABEL, Group.MONTH), (Group.WEEK, Group.LABEL, Group.TENANT)],
    *[(Group.LABEL, Group.END_USER), (Group.LABEL, Group.PLACEMENT), (Group.LABEL, Group.HOUR)],
)


@pytest.fixture
def tx() -> Iterator[Tx]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    make_tables(connection)
    yield SqliteTx(connection)
    connection.close()


def reported(
    tx: Tx, selection: Selection, groups: Sequence[Group]
) -> dict[tuple[str, ...], dict[str, int]]:
    """Sums that are not 0, by group."""
    found = run_now(spend(tx, selection, groups, Order.GROUP, 10_000, label=LABEL))
    assert len({row.group for row in found}) == len(found)
    sums = {row.group: asdict(row) for row in found}
    return {
        group: {k: v for k, v in row.items() if k != "group" and v} for group, row in sums.items()
    }


def assert_same(
    tx: Tx, attempts: list[Attempt], selection: Selection, groups: Sequence[Group]
) -> None:
    wanted = {
        group: {name: value for name, value in sums.items() if value}
        for group, sums in expected(attempts, selection, groups).items()
    }
    found = reported(tx, selection, groups)
    if not groups and not wanted:
        wanted = {(): {}}
    assert found == wanted, (selection, groups)


def windows(chance: random.Random) -> Iterator[Selection]:
    start_us = START_S * 10**6
    yield EVER
    yield Selection(from_us=start_us, to_us=start_us + 3600)
    for _ in range(8):
        a, b = sorted(chance.randint(-DAY_US, 45 * DAY_US) for _ in range(2))
        aligned = chance.choice([1, 3_600_000_000, DAY_US])
        yield Selection(
            from_us=(start_us + a) // aligned * aligned,
            to_us=(start_us + b) // aligned * aligned,
            tenant=chance.choice(["", "", "search"]),
            key_id=chance.choice(["", "", "k1"]),
            model=chance.choice(["", "", "big", "none"]),
        )


@pytest.mark.parametrize("seed", range(12))
def test_every_window_is_the_sum_of_its_rows(tx: Tx, seed: int) -> None:
    chance = random.Random(seed)
    attempts = random_attempts(chance, 300, 40.0)
    while_written = sorted(chance.randint(0, len(attempts)) for _ in range(3))
    for first, last in zip([0, *while_written], [*while_written, len(attempts)], strict=True):
        run_now(insert(tx, attempts[first:last]))
        if chance.random() < 0.8:
            run_now(fold(tx, chance.choice([7, 1000])))
    for selection in windows(chance):
        for groups in GROUPS:
            assert_same(tx, attempts, selection, groups)


def test_new_rows_of_many_processes_and_an_empty_window(tx: Tx) -> None:
    attempts = random_attempts(random.Random(9), 120, 30.0)
    for number, row in enumerate(attempts):
        row |= {"epoch": f"process-{number}", "seq": 0}
    run_now(insert(tx, attempts))
    for groups in [(Group.TENANT,), (Group.HOUR,), (Group.SESSION,)]:
        assert_same(tx, attempts, EVER, groups)
    nothing = Selection(from_us=START_S * 10**6, to_us=START_S * 10**6)
    assert_same(tx, attempts, nothing, ())
    assert_same(tx, attempts, nothing, (Group.DAY,))


def test_a_row_is_added_once(tx: Tx) -> None:
    attempts = random_attempts(random.Random(1), 50, 3.0)
    run_now(insert(tx, attempts))
    assert [run_now(fold(tx, 30)), run_now(fold(tx, 30)), run_now(fold(tx, 30))] == [30, 20, 0]
    assert_same(tx, attempts, EVER, (Group.DAY, Group.TENANT))


def test_rows_that_were_deleted_stay_in_the_sums(tx: Tx) -> None:
    attempts = random_attempts(random.Random(2), 200, 20.0)
    run_now(insert(tx, attempts[:150]))
    while run_now(fold(tx)):
        pass
    run_now(insert(tx, attempts[150:]))
    assert run_now(delete_old(tx, 2**62)) == 150, "what is in no roll-up yet stays"
    assert_same(tx, attempts, EVER, (Group.TENANT, Group.MONTH))
    while run_now(fold(tx)):
        pass
    assert run_now(delete_old(tx, 2**62)) == 50
    for groups in [(Group.HOUR,), (Group.SESSION, Group.DAY)]:
        assert_same(tx, attempts, EVER, groups)
    late = random_attempts(random.Random(3), 20, 5.0)
    for number, row in enumerate(late):
        row |= {"epoch": "late", "seq": number}
    run_now(insert(tx, late))
    assert_same(tx, attempts + late, EVER, (Group.DAY,))


def test_a_window_that_cuts_what_is_kept_whole_is_refused(tx: Tx) -> None:
    attempts = random_attempts(random.Random(4), 200, 20.0)
    run_now(insert(tx, attempts))
    run_now(fold(tx))
    middle_us = START_S * 10**6 + 10 * DAY_US
    run_now(delete_old(tx, middle_us))
    cut = Selection(from_us=START_S * 10**6 + DAY_US + 1, to_us=2**62)
    with pytest.raises(WindowTooFine, match="only whole hours are kept"):
        reported(tx, cut, ())
    hour_us = cut.from_us // 3_600_000_000 * 3_600_000_000
    whole = Selection(from_us=hour_us, to_us=2**62)
    assert_same(tx, attempts, whole, (Group.HOUR,))
    while run_now(delete_old_hours(tx, middle_us)):
        pass
    for groups in [(Group.HOUR,), ()]:
        with pytest.raises(WindowTooFine, match="only whole days are kept"):
            reported(tx, whole, groups)
    day_us = hour_us // DAY_US * DAY_US
    assert_same(tx, attempts, Selection(from_us=day_us, to_us=2**62), (Group.WEEK, Group.KEY))
    assert_same(tx, attempts, EVER, (Group.TENANT,))
    after = Selection(from_us=middle_us + DAY_US, to_us=2**62)
    assert_same(tx, attempts, after, (Group.HOUR,))
    assert_same(tx, attempts, Selection(from_us=5, to_us=hour_us - 40 * DAY_US), ())


@pytest.mark.parametrize("order", [Order.SPEND, Order.TOKENS])
@pytest.mark.parametrize("groups", [each for each in GROUPS if each])
def test_the_largest_come_first_and_the_limit_cuts_the_rest(
    tx: Tx, order: Order, groups: tuple[Group, ...]
) -> None:
    chance = random.Random(11)
    attempts = random_attempts(chance, 300, 40.0)
    run_now(insert(tx, attempts[:200]))
    while run_now(fold(tx, 60)):
        pass
    run_now(insert(tx, attempts[200:]))
    for selection in [*windows(chance)][:3]:
        every = run_now(spend(tx, selection, groups, order, 10_000, label=LABEL))
        sums = expected(attempts, selection, groups)
        assert {row.group: row.charged_nano_usd for row in every} == {
            group: row["charged_nano_usd"] for group, row in sums.items()
        }
        times = [i for i, group in enumerate(groups) if group in TIMES]
        assert every == sorted(
            every,
            key=lambda row: (
                *(row.group[i] for i in times),
                -amount(row, order),
                *row.group,
            ),
        )
        for limit in (1, 3):
            assert (
                run_now(spend(tx, selection, groups, order, limit, label=LABEL)) == (every[:limit])
            )


def amount(row: Spend, order: Order) -> int:
    """What an order is by."""
    if order is Order.SPEND:
        return row.charged_nano_usd
    return row.uncached_input_tokens + row.cached_input_tokens + row.output_tokens
