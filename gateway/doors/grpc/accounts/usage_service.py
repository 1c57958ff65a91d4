"""UsageService: spend from the ledger, ledger rows, and the current state of the fleet.

A caller's key sees its own spend, a tenant admin's key sees the tenant's spend, and an operator's
key sees all spend.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from gateway.accounting.accounting import Accounting
from gateway.accounting.ledger.caller_reads import TooManyReads
from gateway.accounting.ledger.database import LedgerUnavailable
from gateway.accounting.ledger.queries import Selection, pages
from gateway.accounting.rollups.calendar import HOUR_US, next_month
from gateway.accounting.rollups.spend import Group, Order, WindowTooFine, spend
from gateway.auth.authenticator import Caller
from gateway.config.gateway import KeyRole
from gateway.delivery.watches import Watches
from gateway.domain.slices import in_slices, one_by_one
from gateway.domain.tags import LABEL_KEY
from gateway.doors.entry.active_settings import ActiveSettings
from gateway.doors.grpc import errors
from gateway.doors.grpc.accounts.fleet_watch import watch_fleet
from gateway.doors.grpc.accounts.outlooks import get_outlook
from gateway.doors.grpc.accounts.pool_cost import pool_cost
from gateway.doors.grpc.accounts.price_rows import list_price_rows
from gateway.doors.grpc.accounts.request_costs import get_requests
from gateway.doors.grpc.accounts.statements import get_statement
from gateway.doors.grpc.accounts.usage_messages import attempt_row, spend_row
from gateway.doors.grpc.accounts.windows import groups_of, window_of
from gateway.doors.grpc.ledger_errors import unread
from gateway.doors.grpc.rpc_context import (
    BoundedWriter,
    Context,
    authenticated_again,
    check_texts,
    current_caller,
    require,
    rpc_errors,
)
from moegate.v1 import usage_pb2, usage_pb2_grpc
from scheduler.port import SchedulerPort

DEFAULT_SPAN_S = 30 * 86_400
DEFAULT_ROWS, MAX_ROWS = 1000, 10_000
MAX_GROUPS = 6

_ORDERS = {
    usage_pb2.SPEND_ORDER_UNSPECIFIED: Order.GROUP,
    usage_pb2.SPEND_ORDER_SPEND: Order.SPEND,
    usage_pb2.SPEND_ORDER_TOKENS: Order.TOKENS,
}


class UsageService(usage_pb2_grpc.UsageServiceServicer):
    """The RPCs about spend and fleet. They raise UNAVAILABLE while the ledger's database fails."""

    def __init__(
        self,
        active: ActiveSettings,
        port: SchedulerPort,
        accounting: Accounting,
        watches: Watches,
    ) -> None:
        self._active = active
        self._port = port
        self._accounting = accounting
        self._watches = watches

    async def GetSpend(
        self, request: usage_pb2.GetSpendRequest, context: Context
    ) -> usage_pb2.GetSpendResponse:
        """Sums ledger rows by up to MAX_GROUPS groups."""
        async with rpc_errors(context):
            caller = current_caller()
            groups = groups_of(request.group_by, MAX_GROUPS)
            if (Group.LABEL in groups) != bool(LABEL_KEY.match(request.label)):
                fault = f"{request.label[:40]!r}: give the key of the label to group by, or neither"
                raise errors.invalid([("label", fault)])
            texts = {"tenant": request.tenant, "key_id": request.key_id, "model": request.model}
            check_texts(texts)
            from_us, to_us = window_of(request, DEFAULT_SPAN_S)
            if not request.HasField("to"):
                # Nothing has ended later, so that whole hours, days and months may be read.
                to_us = next_month(to_us // HOUR_US) * HOUR_US
            selection = replace(
                _selection(caller, request.tenant, request.key_id),
                from_us=from_us,
                to_us=to_us,
                model=request.model,
            )
            limit = min(request.limit or DEFAULT_ROWS, MAX_ROWS)
            order = _ORDERS.get(request.order_by, Order.GROUP)
            try:
                rows = await self._accounting.reads.read(
                    caller.tenant,
                    lambda tx: spend(tx, selection, groups, order, limit + 1, label=request.label),
                )
            except (LedgerUnavailable, TooManyReads) as error:
                raise unread(error) from error
            except WindowTooFine as error:
                raise errors.invalid([("from", str(error))]) from None
            response = usage_pb2.GetSpendResponse(truncated=len(rows) > limit)
            add = response.rows.append
            await in_slices(one_by_one(rows[:limit], lambda row: add(spend_row(row))))
            return response

    async def GetStatement(
        self, request: usage_pb2.GetStatementRequest, context: Context
    ) -> usage_pb2.GetStatementResponse:
        """Closes the books of a window. For operators and tenant admins."""
        async with rpc_errors(context):
            caller = current_caller()
            require(caller, {KeyRole.OPERATOR, KeyRole.TENANT_ADMIN}, "the bill")
            return await get_statement(self._accounting, caller, request)

    async def ListRequests(
        self, request: usage_pb2.ListRequestsRequest, context: Context
    ) -> usage_pb2.ListRequestsResponse:
        """Lists requests with all their attempts."""
        async with rpc_errors(context):
            caller = current_caller()
            check_texts({"tenant": request.tenant, "key_id": request.key_id})
            seen = _selection(caller, request.tenant, request.key_id)
            return await get_requests(self._accounting, caller.tenant, seen, request)

    async def GetOutlook(
        self, request: usage_pb2.GetOutlookRequest, context: Context
    ) -> usage_pb2.GetOutlookResponse:
        """Compares the month with the one before, and forecasts it and its budgets."""
        async with rpc_errors(context):
            caller = current_caller()
            check_texts({"tenant": request.tenant, "key_id": request.key_id})
            seen = _selection(caller, request.tenant, request.key_id)
            return await get_outlook(self._accounting, caller.tenant, seen)

    async def ExportAttempts(  # type: ignore[override]  # the stub types generators only
        self, request: usage_pb2.ExportAttemptsRequest, context: Context
    ) -> None:
        """Streams ledger rows, one page per message. Without `from` it starts at the oldest row. A
        drain ends it."""
        async with rpc_errors(context), self._watches.open():
            caller = current_caller()
            check_texts({"tenant": request.tenant, "request_id": request.request_id})
            from_us, to_us = window_of(request, None)
            selection = replace(
                _selection(caller, request.tenant, ""),
                from_us=from_us,
                to_us=to_us,
                request_id=request.request_id,
            )
            writer = self._writer(context)
            try:
                read = partial(self._accounting.reads.read, caller.tenant)
                async for page in pages(read, selection):
                    rows = await in_slices(one_by_one(page, attempt_row))
                    await writer.write(usage_pb2.ExportAttemptsResponse(rows=rows))
            except (LedgerUnavailable, TooManyReads) as error:
                raise unread(error) from error

    async def GetPoolCost(
        self, request: usage_pb2.GetPoolCostRequest, context: Context
    ) -> usage_pb2.GetPoolCostResponse:
        """Returns the cost per token of a pool and the breakdown of its bill. For operators."""
        async with rpc_errors(context):
            caller = current_caller()
            require(caller, {KeyRole.OPERATOR}, "the cost of a pool")
            return await pool_cost(self._port, request)

    async def ListPriceRows(
        self, request: usage_pb2.ListPriceRowsRequest, context: Context
    ) -> usage_pb2.ListPriceRowsResponse:
        """Lists the rows of the price catalogs. For operators."""
        async with rpc_errors(context):
            require(current_caller(), {KeyRole.OPERATOR}, "the price rows")
            return list_price_rows(self._active.prices, self._active.config, request)

    async def WatchFleet(  # type: ignore[override]  # the stub types generators only
        self, request: usage_pb2.WatchFleetRequest, context: Context
    ) -> None:
        """Streams the state of every placement at each interval, until the client cancels, its key
        is revoked, or the gateway drains. For operators."""

        def authorize() -> None:
            caller = authenticated_again(self._active)
            require(caller, {KeyRole.OPERATOR}, "the state of the fleet")

        async with rpc_errors(context), self._watches.open():
            authorize()
            writer = self._writer(context)
            async for message in watch_fleet(request, self._port):
                authorize()  # a reload may have revoked the key
                await writer.write(message)

    def _writer(self, context: Context) -> BoundedWriter:
        return BoundedWriter(context, self._active.config.server.blocked_write_s)


def _selection(caller: Caller, tenant: str, key_id: str) -> Selection:
    """Restricts the selection to the rows that the caller may see. Raises RpcError
    (PERMISSION_DENIED)."""
    if caller.role is not KeyRole.OPERATOR:
        if tenant not in ("", caller.tenant):
            raise errors.denied(f"tenant: key {caller.key_id} may see only {caller.tenant}")
        tenant = caller.tenant
    if caller.role is KeyRole.CALLER:
        if key_id not in ("", caller.key_id):
            raise errors.denied(f"key_id: key {caller.key_id} may see only its own spend")
        key_id = caller.key_id
    return Selection(from_us=0, to_us=0, tenant=tenant, key_id=key_id)
