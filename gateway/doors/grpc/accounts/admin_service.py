"""AdminService: drains placements, reloads the configuration, sets budgets and corrects charges."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gateway.access.audit import Event, record
from gateway.access.store import AccessStore
from gateway.accounting.accounting import Accounting
from gateway.accounting.ledger.corrections import NoSuchRow, correct
from gateway.accounting.ledger.database import LedgerUnavailable, Tx
from gateway.auth.authenticator import Caller
from gateway.config.gateway import KeyRole
from gateway.config.problems import ConfigError, ReloadRefused
from gateway.doors.entry.active_settings import ActiveSettings
from gateway.doors.grpc import errors
from gateway.doors.grpc.access.service import AccessService
from gateway.doors.grpc.accounts.budget_administration import BudgetAdministration
from gateway.doors.grpc.ledger_errors import unavailable
from gateway.doors.grpc.rpc_context import (
    Context,
    check_texts,
    current_caller,
    require,
    rpc_errors,
)
from gateway.translation.responses import duration
from moegate.v1 import admin_pb2
from scheduler.port import SchedulerPort

MAX_NOTE_BYTES = 500
MAX_CORRECTION = 10**15
"""Largest correction, a million US dollars in nano-USD: thousands of them add up in 64 bits."""


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
        self._budgets = BudgetAdministration(active, port, accounting)

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
            return await self._budgets.set(request)

    async def DeleteBudget(
        self, request: admin_pb2.DeleteBudgetRequest, context: Context
    ) -> admin_pb2.DeleteBudgetResponse:
        """Deletes a budget. Raises NOT_FOUND if the scope has none."""
        async with rpc_errors(context):
            await self._budgets.delete(request.scope)
            return admin_pb2.DeleteBudgetResponse()

    async def ListBudgets(
        self, request: admin_pb2.ListBudgetsRequest, context: Context
    ) -> admin_pb2.ListBudgetsResponse:
        """Lists the budgets of the tenants that the caller may see, with their current spend."""
        async with rpc_errors(context):
            budgets = await self._budgets.visible(request.tenant)
            return admin_pb2.ListBudgetsResponse(budgets=budgets)

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
                charged = await self._accounting.write(transaction)
            except NoSuchRow as error:
                raise errors.not_found("attempt", str(error)[:200]) from error
            except LedgerUnavailable as error:
                raise unavailable(error) from error
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
