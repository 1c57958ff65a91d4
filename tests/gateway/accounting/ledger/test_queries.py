"""Sums, pages, standings and corrections over the rows of the golden ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.accounting.ledger import queries
from gateway.accounting.ledger.budgets import overrides, standings, top_sessions
from gateway.accounting.ledger.corrections import NoSuchRow, correct
from gateway.accounting.ledger.database import Row, Tx
from gateway.accounting.ledger.queries import Selection, pages
from gateway.accounting.ledger.schema import ATTEMPT_COLUMNS
from gateway.accounting.ledger.sqlite import SqliteDatabase, SqliteTx, run_now
from gateway.accounting.rollups.spend import Group, Order, spend
from scheduler.budgets.budget import Budget, BudgetAccount
from scheduler.budgets.budget_window import Period
from tests.golden_ledger import EPOCH, OTHER_SESSION, SCHEMA_1, WRITTEN_UNIX_S
from tests.ledgers import make_tables

ALL = Selection(from_us=0, to_us=2**62)
MONTH = Budget(tenant="team", key_id="capped", period=Period.MONTH, cap_nano_usd=10**9)
HOUR = Budget(
    tenant="team", key_id="agent", each_session=True, period=Period.HOUR, cap_nano_usd=10**9
)


@pytest.fixture
def tx(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tx]:
    """On the golden rows, in the hour in which they were written."""
    monkeypatch.setattr("time.time", lambda: WRITTEN_UNIX_S)
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(SCHEMA_1)
    make_tables(connection)
    yield SqliteTx(connection)
    connection.close()


def charges(
    tx: Tx, *groups: Group, order: Order = Order.SPEND, limit: int = 100
) -> list[tuple[object, ...]]:
    found = run_now(spend(tx, ALL, groups, order, limit))
    return [(*row.group, row.charged_nano_usd) for row in found]


def test_spend_by_group(tx: Tx) -> None:
    assert charges(tx, Group.KEY) == [("capped", 5515), ("agent", 700), ("key", 40)]
    assert charges(tx, Group.KEY, limit=1) == [("capped", 5515)]
    assert charges(tx, Group.SESSION) == [("", 5555), (OTHER_SESSION, 700)]
    when = datetime.fromtimestamp(WRITTEN_UNIX_S, UTC)
    monday = f"{when:%Y-%m-}{when.day - when.weekday():02}"
    assert charges(tx, Group.HOUR) == [(f"{when:%Y-%m-%dT%H}:00Z", 6255)]
    assert charges(tx, Group.DAY) == [(f"{when:%Y-%m-%d}", 6255)]
    assert charges(tx, Group.WEEK, Group.TENANT) == [(monday, "team", 6255)]
    # Attempts with token counts: six, then two of key `key`, then one.
    by_tokens = charges(tx, Group.KEY, order=Order.TOKENS)
    assert [key for key, _ in by_tokens] == ["capped", "key", "agent"]


def test_the_sums_of_all_rows(tx: Tx) -> None:
    [total] = run_now(spend(tx, ALL, (), Order.SPEND, 10))
    assert (total.requests, total.unpriced_attempts, total.estimated_attempts) == (10, 1, 1)
    assert (total.uncached_input_tokens, total.cached_input_tokens) == (9 * 6, 9 * 4)
    assert total.output_tokens == 9 * 5
    assert (total.corrected_nano_usd, total.recovered_nano_usd) == (-500, 0)


def test_a_selection_has_its_rows_alone(tx: Tx) -> None:
    def count(selection: Selection) -> int:
        [total] = run_now(spend(tx, selection, (), Order.SPEND, 10))
        return total.requests

    assert count(Selection(from_us=0, to_us=2**62, tenant="team", key_id="key")) == 3
    assert count(Selection(from_us=0, to_us=2**62, model="other")) == 0
    [(ended,)] = run_now(tx.rows("SELECT DISTINCT ended_unix_us FROM attempt WHERE attempt = 1"))
    assert count(Selection(from_us=ended, to_us=ended + 1)) == 10
    assert count(Selection(from_us=0, to_us=ended)) == 0


@pytest.mark.parametrize("page_rows", [1, 3, 11, 100])
async def test_pages_have_every_row_once_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page_rows: int
) -> None:
    monkeypatch.setattr(queries, "PAGE_ROWS", page_rows)
    with sqlite3.connect(tmp_path / "ledger") as connection:
        connection.executescript(SCHEMA_1)
    connection.close()
    database = SqliteDatabase(tmp_path / "ledger")
    found: list[Row] = []
    async for page in pages(database.read, ALL):
        assert len(page) <= page_rows
        found += page
    await database.close()
    key = [ATTEMPT_COLUMNS.index(name) for name in ("ended_unix_us", "epoch", "seq")]
    order = [tuple(row[i] for i in key) for row in found]
    assert order == sorted(set(order))
    assert len(order) == 11


def test_standings_and_budgets_of_run_time(tx: Tx) -> None:
    [standing] = run_now(standings(tx, MONTH))
    assert (standing.settled_nano_usd, standing.leased_nano_usd) == (5515, 14926843 - 5515)
    [session] = run_now(top_sessions(tx, HOUR))
    assert (session.session_id, session.settled_nano_usd) == (OTHER_SESSION, 700)
    [nothing] = run_now(standings(tx, HOUR))
    assert (nothing.settled_nano_usd, nothing.leased_nano_usd) == (0, 0)
    found = run_now(overrides(tx))
    assert {scope[:2]: budget and budget.cap_nano_usd for scope, budget in found.items()} == {
        ("team", "late"): 5_000_000_000,
        ("gone", ""): None,
    }


def account(_tenant: str, _key: str, _session: str, _unix_s: float) -> Sequence[BudgetAccount]:
    return [
        BudgetAccount(
            tenant="team",
            key_id="capped",
            session_id=None,
            period=Period.MONTH,
            starts_unix_s=1_793_491_200,
        )
    ]


def test_corrections_add_up_and_move_the_account(tx: Tx) -> None:
    # The golden ledger has one of -500 for the first row, which charged 1000.
    assert run_now(correct(tx, EPOCH, 0, 100, "again", account)) == 600
    assert run_now(correct(tx, EPOCH, 0, -600, "all of it", account)) == 0
    [(settled, committed)] = run_now(
        tx.rows("SELECT settled_nano_usd, committed_nano_usd FROM account WHERE key_id = 'capped'")
    )
    assert (settled, committed) == (5515 - 500, 14926843 - 500)
    with pytest.raises(NoSuchRow):
        run_now(correct(tx, EPOCH, 99, 1, "", account))


def test_the_first_correction_of_an_unpriced_row_prices_it(tx: Tx) -> None:
    run_now(tx.run("UPDATE attempt SET budgeted_nano_usd = 300 WHERE state = 'unpriced'"))
    [(seq,)] = run_now(tx.rows("SELECT seq FROM attempt WHERE state = 'unpriced'"))
    assert run_now(correct(tx, EPOCH, seq, 80, "its price", account)) == 80
    [(counts,)] = run_now(tx.rows("SELECT budgeted_nano_usd FROM attempt WHERE note = 'its price'"))
    assert counts == 80 - 300
