"""Which budgets apply to a request, and in which accounts it counts."""

from __future__ import annotations

from datetime import UTC, datetime

from scheduler.budgets.applied_budgets import AppliedBudgets
from scheduler.budgets.budget import Budget, Holder
from scheduler.budgets.budget_window import Period

NOON = datetime(2026, 2, 28, 12, 30, tzinfo=UTC)


def test_budgets_apply_to_the_key_the_tenant_and_each_session() -> None:
    key_day = Budget(tenant="t", key_id="k", period=Period.DAY, cap_nano_usd=10_000)
    sessions = Budget(tenant="t", each_session=True, period=Period.HOUR, cap_nano_usd=5)
    month = Budget(tenant="t", period=Period.MONTH, cap_nano_usd=7, hard=False)
    made = AppliedBudgets((key_day, sessions, month))
    holder = made.holder("t", "k", "s")
    assert holder is not None
    limits = made.accounts(holder, NOON.timestamp())
    assert {(limit.account.key_id, limit.account.session_id) for limit in limits} == {
        ("k", None),
        ("", "s"),
        ("", None),
    }
    assert made.is_hard(holder)
    other = made.holder("t", "other", "s")
    assert other is not None
    assert len(made.accounts(other, NOON.timestamp())) == 2
    assert made.holder("another", "k", "s") is None
    assert not AppliedBudgets((month,)).is_hard(other)
    assert made.of_key("t", "k") == (key_day, sessions, month)


def test_requests_without_a_budget_of_each_session_share_one_holder() -> None:
    made = AppliedBudgets((Budget(tenant="t", period=Period.DAY, cap_nano_usd=1),))
    assert made.holder("t", "k", "a") == made.holder("t", "k", "b") == Holder("t", "k", None)
