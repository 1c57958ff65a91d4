"""An account that is new starts with what the ledger says was spent from it: of its tenant, key and
session, within its window, and nothing else."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.accounting.ledger.append import append
from gateway.accounting.ledger.leases import Extended, Owner, extend
from gateway.accounting.ledger.rows import pending_row
from gateway.accounting.ledger.sqlite import SqliteTx, run_now
from scheduler.budgets.budget import Budget, Holder
from scheduler.budgets.budget_book import BudgetBook
from scheduler.budgets.budget_window import HOUR_S, Period
from tests.ledgers import TIME_S, make_tables, settled

NOW_S = TIME_S + HOUR_S / 2
"""In the middle of an hour that begins at `TIME_S`."""
EDGES_S = (-1.0, -0.5, 0.0, 1.0, HOUR_S - 1.0, HOUR_S - 0.5, HOUR_S, HOUR_S + 1.0)
"""Starts of attempts, which take a second: before, over and after both ends of the hour."""


@dataclass(frozen=True)
class Row:
    tenant: str
    key_id: str
    session_id: str
    starts_s: float
    charged: int


ROWS = st.lists(
    st.builds(
        Row,
        tenant=st.sampled_from(["team", "other"]),
        key_id=st.sampled_from(["k0", "k1"]),
        session_id=st.sampled_from(["", "s0", "s1"]),
        starts_s=st.sampled_from(EDGES_S),
        charged=st.integers(1, 1000),
    ),
    max_size=20,
)


@settings(deadline=None, max_examples=200)
@given(rows=ROWS, key_id=st.sampled_from(["", "k0"]), session_id=st.sampled_from([None, "", "s0"]))
def test_it_starts_with_what_was_spent_before(
    rows: list[Row], key_id: str, session_id: str | None
) -> None:
    budget = Budget(
        tenant="team",
        key_id=key_id,
        each_session=session_id is not None,
        period=Period.HOUR,
        cap_nano_usd=1_000_000,
    )
    book = BudgetBook(lambda: "lease")
    book.set_budgets([budget])
    holder = Holder("team", "k0", session_id)
    step = book.extension(holder, 10, NOW_S)
    entries = [
        pending_row(
            settled(
                tenant=row.tenant,
                key_id=row.key_id,
                session_id=row.session_id,
                charged=row.charged,
                ended_unix_s=TIME_S + row.starts_s + 1.0,
            ),
            None,
        )
        for row in rows
    ]
    connection = sqlite3.connect(":memory:", isolation_level=None)
    tx = SqliteTx(connection)
    make_tables(connection)
    run_now(append(tx, "before", 0, entries))
    granted = run_now(extend(tx, Owner("gateway", "now"), step))
    [(spent,)] = connection.execute("SELECT settled_nano_usd FROM account").fetchall()
    connection.close()
    assert isinstance(granted, Extended)
    assert spent == sum(
        row.charged
        for row in rows
        if row.tenant == "team"
        and key_id in ("", row.key_id)
        and session_id in (None, row.session_id)
        and 0.0 <= row.starts_s < HOUR_S
    )
