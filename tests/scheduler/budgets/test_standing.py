"""Which budget stops a key first."""

from __future__ import annotations

import pytest

from scheduler.budgets.budget_window import Period
from scheduler.budgets.standing import BudgetStanding, binding_budget


def standing(
    spent: int, cap: int, *, hard: bool = True, ends: int = 100, period: Period = Period.DAY
) -> BudgetStanding:
    return BudgetStanding(
        of_key=True,
        period=period,
        cap_nano_usd=cap,
        spent_nano_usd=spent,
        hard=hard,
        ends_unix_s=ends,
    )


def test_without_budgets_none_binds() -> None:
    assert binding_budget(()) is None


@pytest.mark.parametrize(
    ("binds", "other"),
    [
        (standing(80, 100), standing(700, 1000)),
        (standing(100, 100), standing(99, 100)),
        # Of two that are spent, the one that stays so for longer.
        (standing(100, 100, ends=200), standing(500, 100, ends=100)),
        # A soft budget stops nobody.
        (standing(1, 100), standing(100, 100, hard=False)),
        (standing(100, 100, hard=False), standing(50, 100, hard=False)),
    ],
)
def test_the_budget_that_stops_the_key_first_binds(
    binds: BudgetStanding, other: BudgetStanding
) -> None:
    assert binding_budget([binds, other]) is binds
    assert binding_budget([other, binds]) is binds


def test_shares_and_ends() -> None:
    assert standing(25, 100).used_share == 0.25
    assert standing(0, 0).used_share == 1.0
    assert standing(0, 0).is_spent
    assert not standing(99, 100).is_spent
    assert standing(100, 100).is_spent
