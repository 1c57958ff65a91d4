"""Budgets: how they stand, and setting and deleting them, each with a confirmation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import grpc
from aiohttp import web

from gateway.config.gateway import KeyRole
from gateway.config.money import NANO_USD
from gateway.doors.console.problems import Problem
from gateway.doors.console.routes import ADMINS, Page
from gateway.doors.console.visits import Visit
from moegate.v1 import admin_pb2

PERIODS = {
    "hour": admin_pb2.BUDGET_PERIOD_HOUR,
    "day": admin_pb2.BUDGET_PERIOD_DAY,
    "month": admin_pb2.BUDGET_PERIOD_MONTH,
}
_NAMES = {number: name for name, number in PERIODS.items()}
_MOST_USD = Decimal(10**9)
DONE = {"set": "The budget is set.", "deleted": "The budget is deleted."}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One account of a budget, or a budget that nobody has used. `used`: settled and leased."""

    budget: admin_pb2.Budget
    account: admin_pb2.BudgetAccount
    period: str
    used: int

    @property
    def share(self) -> float:
        """Part of the cap that is used."""
        return self.used / self.budget.cap_nano_usd if self.budget.cap_nano_usd else 1.0


def lines_of(budgets: list[admin_pb2.Budget]) -> list[Line]:
    """Returns a line for each account."""
    return [
        Line(
            budget=budget,
            account=account,
            period=_NAMES.get(budget.scope.period, ""),
            used=account.settled_nano_usd + account.leased_nano_usd,
        )
        for budget in budgets
        for account in budget.accounts or [admin_pb2.BudgetAccount()]
    ]


def scope_of(fields: Mapping[str, str]) -> admin_pb2.BudgetScope:
    """Reads the scope from a form or an address. Raises Problem."""
    period = PERIODS.get(fields.get("period", ""))
    if period is None:
        raise Problem(400, "This is no budget", f"Give a period: {', '.join(PERIODS)}.")
    return admin_pb2.BudgetScope(
        tenant=fields.get("tenant", "").strip(),
        key_id=fields.get("key", "").strip(),
        each_session=bool(fields.get("each_session")),
        period=period,
    )


def cap_of(text: str) -> int:
    """Returns a cap in nano-USD of a text in US dollars. Raises Problem."""
    try:
        usd = Decimal(text.strip().removeprefix("$").replace(",", ""))
    except InvalidOperation:
        usd = Decimal(0)
    if not usd.is_finite() or not 0 < usd <= _MOST_USD:
        text = f"{text[:40]}: give US dollars above 0, such as 250.00."
        raise Problem(400, "This is no cap", text)
    nano_usd = usd * NANO_USD
    if nano_usd != nano_usd.to_integral_value():
        raise Problem(400, "This is no cap", "Give at most nine decimals.")
    return int(nano_usd)


async def _list(visit: Visit) -> web.Response:
    answer = await visit.calls.admin.ListBudgets(
        admin_pb2.ListBudgetsRequest(tenant=visit.query.get("tenant", "").strip()), **visit.rpc
    )
    caller = visit.visitor.caller
    tenants = visit.services.active.effective.tenants
    if caller.role is not KeyRole.OPERATOR:
        tenants = tuple(tenant for tenant in tenants if tenant.name == caller.tenant)
    return await visit.page(
        "money/budgets.html",
        lines=lines_of(list(answer.budgets)),
        tenants=tenants,
        periods=PERIODS,
        done=DONE.get(visit.query.get("done", ""), ""),
        draft=visit.query,
        is_operator=caller.role is KeyRole.OPERATOR,
    )


async def _set(visit: Visit) -> web.Response:
    scope, cap = scope_of(visit.form), cap_of(visit.form.get("cap", ""))
    budget = admin_pb2.Budget(scope=scope, cap_nano_usd=cap, hard=bool(visit.form.get("hard")))
    fault = ""
    if visit.form.get("confirmed"):
        request = admin_pb2.SetBudgetRequest(budget=budget, force=bool(visit.form.get("force")))
        try:
            answer = await visit.calls.admin.SetBudget(request, **visit.rpc)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
            fault = error.details() or "It would refuse every request."
        else:
            if not answer.warnings:
                return visit.see("/budgets?done=set")
            return await visit.page("money/budget_set.html", budget=budget, answer=answer)
    return await visit.page(
        "money/budget_confirm.html",
        409 if fault else 200,
        budget=budget,
        period=visit.form["period"],
        cap=visit.form["cap"],
        fault=fault,
    )


async def _ask_delete(visit: Visit) -> web.Response:
    scope = scope_of(visit.query)
    return await visit.page("money/budget_delete.html", scope=scope, period=visit.query["period"])


async def _delete(visit: Visit) -> web.Response:
    request = admin_pb2.DeleteBudgetRequest(scope=scope_of(visit.form))
    await visit.calls.admin.DeleteBudget(request, **visit.rpc)
    return visit.see("/budgets?done=deleted")


BUDGETS_PAGES = (
    Page(path="/budgets", handle=_list, roles=ADMINS, name="Budgets", group="Money"),
    Page(path="/budgets", handle=_set, method="POST", roles=ADMINS),
    Page(path="/budgets/delete", handle=_ask_delete, roles=ADMINS),
    Page(path="/budgets/delete", handle=_delete, method="POST", roles=ADMINS),
)
