"""The table of `moegate admin budgets`: a row for each account of each budget."""

from __future__ import annotations

from collections.abc import Iterable

from moegate.cli.views.fitted_table import Column, FittedTable, number
from moegate.cli.views.money import usd
from moegate.v1 import admin_pb2


def budgets_table(budgets: Iterable[admin_pb2.Budget]) -> FittedTable:
    """A row for each account of a budget, and one for a budget without an account."""
    rows = FittedTable(
        [
            *(Column(header=name) for name in ("tenant", "key", "session", "period")),
            Column(header="until (UTC)", leaves=1),
            number("cap $"),
            number("settled $", leaves=2),
            number("leased $", leaves=3),
            number("used"),
            Column(header="", wraps=11),
        ]
    )
    for budget in budgets:
        for account in budget.accounts or [admin_pb2.BudgetAccount()]:
            rows.add_row(*_cells(budget, account))
    return rows


def _cells(budget: admin_pb2.Budget, account: admin_pb2.BudgetAccount) -> list[str]:
    scope, cap = budget.scope, budget.cap_nano_usd
    session = (account.session_id or '""') if scope.each_session else ""
    ends = account.ends_at.ToDatetime().isoformat(" ", "minutes") if account.ends_at.seconds else ""
    used = account.settled_nano_usd + account.leased_nano_usd
    notes = [] if budget.hard else ["soft"]
    notes += ["set at run time"] if budget.set_at_run_time else []
    period = admin_pb2.BudgetPeriod.Name(scope.period).removeprefix("BUDGET_PERIOD_").lower()
    return [
        *(scope.tenant, scope.key_id, session, period, ends),
        *(usd(cap), usd(account.settled_nano_usd), usd(account.leased_nano_usd)),
        *(f"{used / cap:.0%}" if cap else "", ", ".join(notes)),
    ]
