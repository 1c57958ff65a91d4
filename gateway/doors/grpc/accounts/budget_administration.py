"""Budgets that are set and deleted while the gateway runs, for the callers of AdminService."""

from __future__ import annotations

import time

from gateway.access.audit import Event, record
from gateway.accounting.accounting import Accounting
from gateway.accounting.budget_prices import (
    RatesOf,
    catalog_rates,
    refusing_budget,
    unpriced_budget,
)
from gateway.accounting.ledger.budgets import Standing, standings, top_sessions
from gateway.accounting.ledger.caller_reads import TooManyReads
from gateway.accounting.ledger.database import LedgerUnavailable
from gateway.config.gateway import KeyRole
from gateway.config.problems import Problem
from gateway.doors.entry.active_settings import ActiveSettings
from gateway.doors.grpc import errors
from gateway.doors.grpc.accounts.usage_messages import timestamp
from gateway.doors.grpc.ledger_errors import unavailable, unread
from gateway.doors.grpc.rpc_context import (
    current_caller,
    require,
)
from moegate.v1 import admin_pb2
from scheduler.budgets.budget import Budget, Scope
from scheduler.budgets.budget_window import Period
from scheduler.port import SchedulerPort

MAX_TEXT_CHARS = 1000
MAX_SUM = 2**62
_PERIODS = {
    admin_pb2.BUDGET_PERIOD_HOUR: Period.HOUR,
    admin_pb2.BUDGET_PERIOD_DAY: Period.DAY,
    admin_pb2.BUDGET_PERIOD_MONTH: Period.MONTH,
}
_PERIOD_NUMBERS = {period: number for number, period in _PERIODS.items()}


class BudgetAdministration:
    """Checks, sets, deletes and lists budgets for the caller of the current RPC. Each change is in
    the audit log. Every method raises RpcError: for a key without the required role, a wrong field,
    or a database that is away."""

    def __init__(self, active: ActiveSettings, port: SchedulerPort, accounting: Accounting) -> None:
        self._active = active
        self._port = port
        self._accounting = accounting

    async def set(self, request: admin_pb2.SetBudgetRequest) -> admin_pb2.SetBudgetResponse:
        """Sets a budget, unless it would refuse every request of a model and is not forced."""
        scope = self._scope(request.budget.scope, "budget.scope")
        cap = request.budget.cap_nano_usd
        if not 0 < cap < MAX_SUM:
            raise errors.invalid([("budget.cap_nano_usd", f"{cap}: give 1 to {MAX_SUM - 1}")])
        tenant, key_id, each_session, period = scope
        budget = Budget(
            tenant=tenant,
            key_id=key_id,
            each_session=each_session,
            period=period,
            cap_nano_usd=cap,
            hard=request.budget.hard,
        )
        rates_of = await self._rates_of()
        refusing = await self._refusing(budget, rates_of)
        if refusing and not request.force:
            text = "; ".join(f"{each.message} ({each.fix})" for each in refusing)
            raise errors.precondition(
                f"budget: {text[:MAX_TEXT_CHARS]}: set `force` (--force) if that is meant",
                "BUDGET_REFUSES_ALL",
            )
        await self._write("SetBudget", scope, budget)
        unpriced = unpriced_budget(
            budget, self._active.effective, self._catalog_rates(), "budget.scope"
        )
        return admin_pb2.SetBudgetResponse(
            budget=await self._message(budget),
            warnings=map(str, [*refusing, *unpriced]),
        )

    async def delete(self, proto: admin_pb2.BudgetScope) -> None:
        """Deletes the budget of a scope, which must have one."""
        scope = self._scope(proto, "scope")
        if all(budget.scope != scope for budget in self._in_force()):
            raise errors.not_found("budget", str(proto).replace("\n", " "))
        await self._write("DeleteBudget", scope, None)

    async def visible(self, tenant: str) -> list[admin_pb2.Budget]:
        """The budgets that the caller may see, with what is spent. `tenant`: of this one; empty: of
        all."""
        caller = current_caller()
        require(caller, {KeyRole.TENANT_ADMIN, KeyRole.OPERATOR}, "a list of budgets")
        if caller.role is KeyRole.TENANT_ADMIN:
            if tenant not in ("", caller.tenant):
                raise errors.denied(f"tenant: key {caller.key_id} may see {caller.tenant}")
            tenant = caller.tenant
        budgets = [budget for budget in self._in_force() if tenant in ("", budget.tenant)]
        return [await self._message(budget) for budget in budgets]

    def _in_force(self) -> tuple[Budget, ...]:
        return self._accounting.budgets.book.applied.budgets

    def _scope(self, proto: admin_pb2.BudgetScope, path: str) -> Scope:
        """Checks the scope and the caller's right to set a budget for it. Raises RpcError."""
        caller = current_caller()
        require(caller, {KeyRole.TENANT_ADMIN, KeyRole.OPERATOR}, "setting a budget")
        period = _PERIODS.get(proto.period)
        if period is None:
            raise errors.invalid([(f"{path}.period", "not set: give an hour, day or month")])
        if caller.role is KeyRole.TENANT_ADMIN and (
            proto.tenant != caller.tenant or not proto.key_id
        ):
            raise errors.denied(
                f"{path}: key {caller.key_id} may set budgets for keys of {caller.tenant} only"
            )
        tenants = {tenant.name: tenant for tenant in self._active.effective.tenants}
        tenant = tenants.get(proto.tenant)
        if tenant is None:
            raise errors.invalid([(f"{path}.tenant", f"{proto.tenant[:100]!r}: no such tenant")])
        if proto.key_id and all(key.id != proto.key_id for key in tenant.keys):
            text = f"{proto.key_id[:100]!r}: tenant {proto.tenant} has no such key"
            raise errors.invalid([(f"{path}.key_id", text)])
        return proto.tenant, proto.key_id, proto.each_session, period

    async def _write(self, action: str, scope: Scope, budget: Budget | None) -> None:
        """Sets a budget or deletes it (None), for the current caller. Raises RpcError."""
        tenant, key_id, each_session, period = scope
        target = "/".join(filter(None, (tenant, key_id, "each session" * each_session, period)))
        stood = (each for each in self._in_force() if each.scope == scope)
        [before, after] = [
            None if each is None else {"cap_nano_usd": each.cap_nano_usd, "hard": each.hard}
            for each in (next(stood, None), budget)
        ]
        event = Event(
            actor=current_caller().actor,
            action=action,
            tenant=tenant,
            target=target,
            before=before,
            after=after,
        )
        try:
            await self._accounting.set_budget(scope, budget, lambda tx: record(tx, event))
        except LedgerUnavailable as error:
            raise unavailable(error) from error

    async def _refusing(self, budget: Budget, rates_of: RatesOf) -> list[Problem]:
        """Returns why a budget would refuse every request of a model, or of all, from now on."""
        found = list(refusing_budget(budget, self._active.effective, rates_of, "budget.scope"))
        if budget.hard and not budget.each_session:
            for standing in await self._standings(budget):
                spent = standing.settled_nano_usd
                if spent >= budget.cap_nano_usd:
                    message = f"{spent} nano-USD of this {budget.period} are spent already"
                    found.append(
                        Problem(
                            path="budget.cap_nano_usd",
                            value=str(budget.cap_nano_usd),
                            message=f"{message}: every request is refused until it ends",
                            fix="raise the cap",
                        )
                    )
        return found

    async def _rates_of(self) -> RatesOf:
        """Returns the rates in force; those of the catalogs for a pool without replicas now."""
        in_force = await self._port.token_rates()
        rates = {
            placement.pool or placement.name: in_force[placement.name]
            for placement in self._port.fleet.placements
            if placement.name in in_force
        }
        otherwise = self._catalog_rates()
        return lambda server: rates.get(server.name) or otherwise(server)

    def _catalog_rates(self) -> RatesOf:
        return catalog_rates(self._active.prices, time.time())

    async def _message(self, budget: Budget) -> admin_pb2.Budget:
        tenant, key_id, each_session, period = budget.scope
        message = admin_pb2.Budget(
            scope=admin_pb2.BudgetScope(
                tenant=tenant,
                key_id=key_id,
                each_session=each_session,
                period=_PERIOD_NUMBERS[period],
            ),
            cap_nano_usd=budget.cap_nano_usd,
            hard=budget.hard,
            set_at_run_time=self._accounting.budgets.was_set(budget.scope),
        )
        message.accounts.extend(map(_account, await self._standings(budget)))
        return message

    async def _standings(self, budget: Budget) -> list[Standing]:
        query = top_sessions if budget.each_session else standings
        try:
            read = self._accounting.reads.read
            return await read(current_caller().tenant, lambda tx: query(tx, budget))
        except (LedgerUnavailable, TooManyReads) as error:
            raise unread(error) from error


def _account(standing: Standing) -> admin_pb2.BudgetAccount:
    return admin_pb2.BudgetAccount(
        session_id=standing.session_id,
        starts_at=timestamp(standing.window.starts_unix_s),
        ends_at=timestamp(standing.window.ends_unix_s),
        settled_nano_usd=standing.settled_nano_usd,
        leased_nano_usd=standing.leased_nano_usd,
    )
