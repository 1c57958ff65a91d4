"""The table of budgets: a row for each account, and what a budget without an account shows."""

from __future__ import annotations

from rich.console import Console

from moegate.cli.views.budgets import budgets_table
from moegate.v1 import admin_pb2

USD = 10**9


def lines(*budgets: admin_pb2.Budget) -> list[list[str]]:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(budgets_table(budgets))
    drawn = [line.split() for line in capture.get().splitlines()]
    return [words for words in drawn if words and not words[0].startswith("─")][1:]


def budget(**fields: object) -> admin_pb2.Budget:
    scope = admin_pb2.BudgetScope(tenant="acme", period=admin_pb2.BUDGET_PERIOD_DAY, **fields)  # type: ignore[arg-type]
    return admin_pb2.Budget(scope=scope, cap_nano_usd=500 * USD, hard=True)


def test_a_budget_nobody_has_spent_of_has_a_row() -> None:
    assert lines(budget()) == [["acme", "day", "500.00", "0.00", "0.00", "0%"]]


def test_each_session_has_a_row_with_what_is_settled_and_leased() -> None:
    given = budget(key_id="ci", each_session=True)
    given.hard, given.set_at_run_time = False, True
    for session, settled in (("talk", 100), ("", 50)):
        account = given.accounts.add(
            session_id=session, settled_nano_usd=settled * USD, leased_nano_usd=25 * USD
        )
        account.ends_at.FromSeconds(1_800_000_000)
    until, notes = ["2027-01-15", "08:00"], ["soft,", "set", "at", "run", "time"]
    assert lines(given) == [
        ["acme", "ci", "talk", "day", *until, "500.00", "100.00", "25.00", "25%", *notes],
        ["acme", "ci", '""', "day", *until, "500.00", "50.00", "25.00", "15%", *notes],
    ]


def test_a_cap_of_nothing_has_no_share() -> None:
    given = budget()
    given.cap_nano_usd = 0
    assert lines(given) == [["acme", "day", "0.00", "0.00", "0.00"]]
