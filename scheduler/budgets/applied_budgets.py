"""The budgets in force: which of them apply to a request, and in which accounts it counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scheduler.budgets.budget import Budget, BudgetAccount, Holder, Limit
from scheduler.budgets.budget_window import window_at


@dataclass(frozen=True, slots=True)
class _Applying:
    """The budgets of a key. `holder`: the one holder of all its requests, if no budget is per
    session."""

    budgets: tuple[Budget, ...]
    holder: Holder | None
    hard: bool


class AppliedBudgets:
    """Budgets that hold together; those of a key are looked up once."""

    __slots__ = ("_of_key", "budgets")

    def __init__(self, budgets: Iterable[Budget] = ()) -> None:
        self.budgets = tuple(budgets)
        """All budgets in force."""
        self._of_key: dict[tuple[str, str], _Applying] = {}

    def of_key(self, tenant: str, key_id: str) -> tuple[Budget, ...]:
        """The budgets that apply to the key: its own and its tenant's."""
        return self._applying(tenant, key_id).budgets

    def holder(self, tenant: str, key_id: str, session_id: str) -> Holder | None:
        """The holder of a request; None if no budget applies. Requests without a session share the
        session id ""."""
        applying = self._applying(tenant, key_id)
        if applying.holder is not None or not applying.budgets:
            return applying.holder
        return Holder(tenant, key_id, session_id)

    def is_hard(self, holder: Holder) -> bool:
        """Whether any budget of the holder refuses requests."""
        return self._applying(holder.tenant, holder.key_id).hard

    def accounts(self, holder: Holder, unix_s: float) -> tuple[Limit, ...]:
        """The accounts of the holder at a time, in the order in which the store locks them."""
        limits = []
        for budget in self.of_key(holder.tenant, holder.key_id):
            window = window_at(budget.period, unix_s)
            account = BudgetAccount(
                tenant=budget.tenant,
                key_id=budget.key_id,
                session_id=holder.session_id if budget.each_session else None,
                period=budget.period,
                starts_unix_s=window.starts_unix_s,
            )
            limits.append(
                Limit(
                    account=account,
                    cap_nano_usd=budget.cap_nano_usd,
                    hard=budget.hard,
                    ends_unix_s=window.ends_unix_s,
                )
            )
        return tuple(sorted(limits, key=lambda limit: limit.account.account_id))

    def _applying(self, tenant: str, key_id: str) -> _Applying:
        found = self._of_key.get((tenant, key_id))
        if found is None:
            budgets = tuple(
                budget
                for budget in self.budgets
                if budget.tenant == tenant and budget.key_id in ("", key_id)
            )
            shared = budgets and not any(budget.each_session for budget in budgets)
            found = self._of_key[tenant, key_id] = _Applying(
                budgets=budgets,
                holder=Holder(tenant, key_id, None) if shared else None,
                hard=any(budget.hard for budget in budgets),
            )
        return found
