"""Requests of the ledger by labels and end user: those whose rows have them."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterator

import pytest

from gateway.accounting.ledger.database import Tx
from gateway.accounting.ledger.queries import Selection
from gateway.accounting.ledger.sqlite import SqliteTx, run_now
from gateway.accounting.reports.requests import RequestFilter, RequestOrder, list_requests
from tests.ledgers import make_tables
from tests.rolled_ledgers import Attempt, insert, random_attempts

EVER = Selection(from_us=0, to_us=2**62)


@pytest.fixture
def tx() -> Iterator[Tx]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    make_tables(connection)
    yield SqliteTx(connection)
    connection.close()


@pytest.mark.parametrize(
    ("labels", "end_user"),
    [
        ({"team": "a"}, ""),
        ({"team": 'b " c', "app.x-y": "it's"}, ""),
        ({"team": "a", "app.x-y": "it's"}, ""),
        ({"other": "a"}, ""),
        ({}, "Zoë"),
        ({"team": "a"}, "u1"),
    ],
)
def test_labels_and_end_user_select_requests(tx: Tx, labels: dict[str, str], end_user: str) -> None:
    attempts = random_attempts(random.Random(4), 200, 10.0)
    named = [{**row, "request_id": f"r{i}"} for i, row in enumerate(attempts)]
    run_now(insert(tx, named))
    wanted = RequestFilter(selection=EVER, labels=labels, end_user=end_user)
    found = run_now(list_requests(tx, wanted, RequestOrder.ENDED, 1000))
    assert {each.request_id for each in found} == {
        row["request_id"] for row in named if has(row, labels, end_user)
    }


def has(row: Attempt, labels: dict[str, str], end_user: str) -> bool:
    mine = json.loads(row["labels"] or "{}")
    return labels.items() <= mine.items() and end_user in ("", row["end_user"])
