"""AdminService: drains placements, reloads the configuration, sets budgets and corrects charges."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gateway.access.audit import Event, record
from gateway.access.store import AccessStore
from gateway.accounting.accounting import Accounting
from gateway.accounting.budget_prices import (
    RatesOf,
    catalog_rates,
    refusing_budget,
    unpriced_budget,
)
from gateway.accounting.ledger.budgets import Standing, standings, top_sessions
from gateway.accounting.ledger.caller_reads import TooManyReads
from gateway.accounting.ledger.corrections import NoSuchRow, correct
from gateway.accounting.ledger.database import LedgerUnavailable, Tx
from gateway.auth.authenticator import Caller
from gateway.config.gateway import KeyRole
from gateway.config.problems import ConfigError, Problem, ReloadRefused
from gateway.doors.entry.active_settings import ActiveSettings
from gateway.doors.grpc import errors
from gateway.doors.grpc.accounts.access_service import AccessService
from gateway.doors.grpc.accounts.ledger_errors import unavailable, unread
from gateway.doors.grpc.accounts.usage_messages import timestamp
from gateway.doors.grpc.rpc_context import (
    Context,
    check_texts,
    current_caller,
    require,
    rpc_errors,
)
from gateway.translation.responses import duration
from moegate.v1 import admin_pb2
from scheduler.budgets.budget import Budget, Scope
from scheduler.budgets.budget_window import Period
from scheduler.port import SchedulerPort

T = TypeVar("T")
MAX_TEXT_CHARS = 1000
MAX_NOTE_BYTES = 500
MAX_SUM = 2**62
MAX_CORRECTION = 10**15
"""Largest correction, a million US dollars in nano-USD: thousands of them add up in 64 bits."""
_PERIODS = {
    admin_pb2.BUDGET_PERIOD_HOUR: Period.HOUR,
    admin_pb2.BUDGET_PERIOD_DAY: Period.DAY,
    admin_pb2.BUDGET_PERIOD_MONTH: Period.MONTH,
}
_PERIOD_NUMBERS = {period: number for number, period in _PERIODS.items()}


class AdminService(AccessService):
    """The RPCs for operators and tenant admins; those on keys, tenants and the audit log are in
    `AccessService`. Every RPC raises UNAUTHENTICATED or PERMISSION_DENIED for a key without the
    required role. What changes something is in the audit log.

    `reload` reads the configuration file again and returns one text per changed part.
    """

    def __init__(
        self,
        active: ActiveSettings,
        port: SchedulerPort,
        accounting: Accounting,
        access: AccessStore,
        reload: Callable[[], Awaitable[list[str]]],
    ) -> None:
        super().__init__(active, access)
        self._port = port
        self._accounting = accounting
        self._reload = reload

    async def Drain(
        self, request: admin_pb2.DrainRequest, context: Context
    ) -> admin_pb2.DrainResponse:
        """Stops new requests to a placement or replica and returns the number of running requests.
        The drain lasts until `Undrain` or a restart. Raises NOT_FOUND for an unknown name."""
        async with rpc_errors(context):
            caller = self._operator(context, "draining")
            self._check_placement(request.placement)
            running = await self._port.drain(request.placement)
            event = Event(
                actor=caller.actor,
                action="Drain",
                target=request.placement,
                after={"running_requests": running},
            )
            await self._access.record(event)
            return admin_pb2.DrainResponse(running_requests=running)

    async def Undrain(
        self, request: admin_pb2.UndrainRequest, context: Context
    ) -> admin_pb2.UndrainResponse:
        """Ends a drain. The placement serves again once its health check passes."""
        async with rpc_errors(context):
            caller = self._operator(context, "draining")
            self._check_placement(request.placement)
            await self._port.undrain(request.placement)
            event = Event(actor=caller.actor, action="Undrain", target=request.placement)
            await self._access.record(event)
            return admin_pb2.UndrainResponse()

    async def Reload(
        self, request: admin_pb2.ReloadRequest, context: Context
    ) -> admin_pb2.ReloadResponse:
        """Reads the configuration file again. An invalid file changes nothing and raises
        FAILED_PRECONDITION."""
        async with rpc_errors(context):
            caller = self._operator(context, "reloading")
            try:
                changes = await self._reload()
            except (ConfigError, ReloadRefused, OSError) as error:
                message = f"the old configuration stays in force: {error}"
                raise errors.precondition(message[:1000], "RELOAD_REFUSED") from error
            event = Event(actor=caller.actor, action="Reload", after={"changes": changes})
            await self._access.record(event)
            return admin_pb2.ReloadResponse(changes=changes)

    async def SetBudget(
        self, request: admin_pb2.SetBudgetRequest, context: Context
    ) -> admin_pb2.SetBudgetResponse:
        """Sets a budget at run time, in nano-USD. The ledger stores it, so it survives a restart
        and applies to every gateway on that ledger. Raises INVALID_ARGUMENT, FAILED_PRECONDITION
        for a budget that would refuse every request of a model, or UNAVAILABLE."""
        async with rpc_errors(context):
            scope = self._scope(request.budget.scope, "budget.scope", context)
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
            await self._set_budget("SetBudget", scope, budget)
            unpriced = unpriced_budget(
                budget, self._active.effective, self._catalog_rates(), "budget.scope"
            )
            return admin_pb2.SetBudgetResponse(
                budget=await self._message(budget),
                warnings=map(str, [*refusing, *unpriced]),
            )

    async def DeleteBudget(
        self, request: admin_pb2.DeleteBudgetRequest, context: Context
    ) -> admin_pb2.DeleteBudgetResponse:
        """Deletes a budget. Raises NOT_FOUND if the scope has none."""
        async with rpc_errors(context):
            scope = self._scope(request.scope, "scope", context)
            if all(budget.scope != scope for budget in self._budgets()):
                raise errors.not_found("budget", str(request.scope).replace("\n", " "))
            await self._set_budget("DeleteBudget", scope, None)
            return admin_pb2.DeleteBudgetResponse()

    async def ListBudgets(
        self, request: admin_pb2.ListBudgetsRequest, context: Context
    ) -> admin_pb2.ListBudgetsResponse:
        """Lists the budgets of the tenants that the caller may see, with their current spend."""
        async with rpc_errors(context):
            caller = current_caller()
            require(caller, {KeyRole.TENANT_ADMIN, KeyRole.OPERATOR}, "a list of budgets")
            tenant = request.tenant
            if caller.role is KeyRole.TENANT_ADMIN:
                if tenant not in ("", caller.tenant):
                    raise errors.denied(f"tenant: key {caller.key_id} may see {caller.tenant}")
                tenant = caller.tenant
            budgets = [budget for budget in self._budgets() if tenant in ("", budget.tenant)]
            return admin_pb2.ListBudgetsResponse(
                budgets=[await self._message(budget) for budget in budgets]
            )

    async def CorrectCharge(
        self, request: admin_pb2.CorrectChargeRequest, context: Context
    ) -> admin_pb2.CorrectChargeResponse:
        """Adds a correction in nano-USD to one ledger row and to every budget that counted the row.
        Raises NOT_FOUND for an unknown row."""
        async with rpc_errors(context):
            caller = self._operator(context, "correcting a charge")
            size = len(request.note.encode())
            if not 0 < size <= MAX_NOTE_BYTES:
                text = f"{size} bytes: say why, in at most {MAX_NOTE_BYTES}"
                raise errors.invalid([("note", text)])
            if "\0" in request.note:
                raise errors.invalid([("note", "holds NUL: leave it out")])
            check_texts({"epoch": request.epoch})
            delta = request.delta_nano_usd
            if not 0 < abs(delta) <= MAX_CORRECTION:
                text = f"{delta}: give an amount other than 0, of at most {MAX_CORRECTION}"
                raise errors.invalid([("delta_nano_usd", text)])
            note = f"{request.note} (by {caller.actor})"

            async def transaction(tx: Tx) -> int:
                charged = await correct(
                    tx,
                    request.epoch,
                    request.seq,
                    request.delta_nano_usd,
                    note,
                    self._accounting.budgets.accounts_of,
                )
                event = Event(
                    actor=caller.actor,
                    action="CorrectCharge",
                    target=f"{request.epoch}/{request.seq}",
                    before={"charged_nano_usd": charged - delta},
                    after={"charged_nano_usd": charged, "note": request.note},
                )
                await record(tx, event)
                return charged

            try:
                charged = await self._ledger(lambda: self._accounting.write(transaction))
            except NoSuchRow as error:
                raise errors.not_found("attempt", str(error)[:200]) from error
            self._accounting.budgets.forget_refusals()
            return admin_pb2.CorrectChargeResponse(charged_nano_usd=charged)

    async def GetLedgerStatus(
        self, request: admin_pb2.GetLedgerStatusRequest, context: Context
    ) -> admin_pb2.GetLedgerStatusResponse:
        """Reports whether ledger writes succeed, and how many rows wait, were written or were
        lost."""
        async with rpc_errors(context):
            self._operator(context, "the state of the ledger")
            status = self._accounting.ledger.status
            return admin_pb2.GetLedgerStatusResponse(
                error=status.error,
                failing=duration(status.failing_s),
                backlog_rows=status.backlog_rows,
                backlog_limit_rows=status.backlog_limit_rows,
                written_rows=status.written_rows,
                lost_rows=status.lost_rows,
                lost_nano_usd=status.lost_nano_usd,
                leases=len(self._accounting.budgets.book.leases),
            )

    def _budgets(self) -> tuple[Budget, ...]:
        return self._accounting.budgets.book.applied.budgets

    def _operator(self, context: Context, what: str) -> Caller:
        caller = current_caller()
        require(caller, {KeyRole.OPERATOR}, what)
        return caller

    def _check_placement(self, name: str) -> None:
        """Raises RpcError unless `name` is a placement or a replica.

        A single data-parallel rank is rejected: the ranks of a replica step together, so the other
        ranks would keep paying for the drained one.
        """
        members = self._port.fleet.members(name)
        if not members:
            raise errors.not_found("placement", name[:200])
        for placement in members:
            if placement.name == name != placement.group:
                replica = placement.group
                message = f"a data-parallel rank, which steps with the others: give {replica}"
                raise errors.invalid([("placement", message)])

    def _scope(self, proto: admin_pb2.BudgetScope, path: str, context: Context) -> Scope:
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

    async def _set_budget(self, action: str, scope: Scope, budget: Budget | None) -> None:
        """Sets a budget or deletes it (None), for the current caller. Raises RpcError."""
        tenant, key_id, each_session, period = scope
        target = "/".join(filter(None, (tenant, key_id, "each session" * each_session, period)))
        stood = (each for each in self._budgets() if each.scope == scope)
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
        await self._ledger(
            lambda: self._accounting.set_budget(scope, budget, lambda tx: record(tx, event))
        )

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

    async def _ledger(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            return await work()
        except LedgerUnavailable as error:
            raise unavailable(error) from error


def _account(standing: Standing) -> admin_pb2.BudgetAccount:
    return admin_pb2.BudgetAccount(
        session_id=standing.session_id,
        starts_at=timestamp(standing.window.starts_unix_s),
        ends_at=timestamp(standing.window.ends_unix_s),
        settled_nano_usd=standing.settled_nano_usd,
        leased_nano_usd=standing.leased_nano_usd,
    )
