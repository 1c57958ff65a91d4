"""UsageService: spend from the ledger, ledger rows, and the current state of the fleet.

A caller's key sees its own spend, a tenant admin's key sees the tenant's spend, and an operator's
key sees all spend.
"""

from __future__ import annotations

import time
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
from gateway.doors.entry.active_settings import ActiveSettings
from gateway.doors.grpc import errors
from gateway.doors.grpc.fleet_watch import watch_fleet
from gateway.doors.grpc.pool_cost import pool_cost
from gateway.doors.grpc.rpc_context import (
    BoundedWriter,
    Context,
    authenticated_again,
    check_texts,
    current_caller,
    require,
    rpc_errors,
)
from gateway.doors.grpc.times import microseconds_of
from gateway.doors.grpc.usage_messages import attempt_row, spend_row
from moegate.v1 import usage_pb2, usage_pb2_grpc
from scheduler.port import SchedulerPort

DEFAULT_SPAN_S = 30 * 86_400
DEFAULT_ROWS, MAX_ROWS = 1000, 10_000
MAX_GROUPS = 4
RETRY_S = 2.0

_GROUPS = {
    usage_pb2.SPEND_GROUP_TENANT: Group.TENANT,
    usage_pb2.SPEND_GROUP_KEY: Group.KEY,
    usage_pb2.SPEND_GROUP_MODEL: Group.MODEL,
    usage_pb2.SPEND_GROUP_HOUR: Group.HOUR,
    usage_pb2.SPEND_GROUP_DAY: Group.DAY,
    usage_pb2.SPEND_GROUP_WEEK: Group.WEEK,
    usage_pb2.SPEND_GROUP_PLACEMENT: Group.PLACEMENT,
    usage_pb2.SPEND_GROUP_SESSION: Group.SESSION,
    usage_pb2.SPEND_GROUP_MONTH: Group.MONTH,
    usage_pb2.SPEND_GROUP_YEAR: Group.YEAR,
    usage_pb2.SPEND_GROUP_POOL: Group.POOL,
    usage_pb2.SPEND_GROUP_KIND: Group.KIND,
}
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
            groups = _groups(request)
            texts = {"tenant": request.tenant, "key_id": request.key_id, "model": request.model}
            check_texts(texts)
            from_us, to_us = _window(request, DEFAULT_SPAN_S)
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
                    caller.tenant, lambda tx: spend(tx, selection, groups, order, limit + 1)
                )
            except (LedgerUnavailable, TooManyReads) as error:
                raise unread(error) from error
            except WindowTooFine as error:
                raise errors.invalid([("from", str(error))]) from None
            return usage_pb2.GetSpendResponse(
                rows=[spend_row(row) for row in rows[:limit]], truncated=len(rows) > limit
            )

    async def ExportAttempts(  # type: ignore[override]  # the stub types generators only
        self, request: usage_pb2.ExportAttemptsRequest, context: Context
    ) -> None:
        """Streams ledger rows, one page per message. Without `from` it starts at the oldest row. A
        drain ends it."""
        async with rpc_errors(context), self._watches.open():
            caller = current_caller()
            check_texts({"tenant": request.tenant})
            from_us, to_us = _window(request, None)
            selection = replace(
                _selection(caller, request.tenant, ""), from_us=from_us, to_us=to_us
            )
            writer = self._writer(context)
            try:
                read = partial(self._accounting.reads.read, caller.tenant)
                async for page in pages(read, selection):
                    rows = [attempt_row(row) for row in page]
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


def unavailable(error: LedgerUnavailable) -> errors.RpcError:
    """UNAVAILABLE: the ledger's database does not respond."""
    return errors.unavailable(f"the ledger does not answer: {error}", "LEDGER", RETRY_S)


def unread(error: LedgerUnavailable | TooManyReads) -> errors.RpcError:
    """UNAVAILABLE as above; RESOURCE_EXHAUSTED: the tenant has too many reads of the ledger."""
    if isinstance(error, TooManyReads):
        return errors.exhausted(str(error), "LEDGER_READS", RETRY_S)
    return unavailable(error)


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


def _groups(request: usage_pb2.GetSpendRequest) -> list[Group]:
    if len(request.group_by) > MAX_GROUPS:
        text = f"{len(request.group_by)} groups: at most {MAX_GROUPS}"
        raise errors.invalid([("group_by", text)])
    groups = []
    for i, number in enumerate(request.group_by):
        group = _GROUPS.get(number)
        if group is None or group in groups:
            raise errors.invalid([(f"group_by[{i}]", f"{number}: no group, or there twice")])
        groups.append(group)
    return groups


def _window(
    request: usage_pb2.GetSpendRequest | usage_pb2.ExportAttemptsRequest, span_s: float | None
) -> tuple[int, int]:
    """Returns `from` and `to` of the request in Unix microseconds. An absent `to` means now. An
    absent `from` means `span_s` before the end; None: the oldest row. Raises RpcError
    (INVALID_ARGUMENT)."""
    given: dict[str, int] = {}
    faults = []
    for name in ("from", "to"):
        if request.HasField(name):
            try:
                given[name] = microseconds_of(getattr(request, name))
            except ValueError as error:
                faults.append((name, str(error)))
    if faults:
        raise errors.invalid(faults)
    to_us = given.get("to", round(time.time() * 1e6))
    first_us = min(0, to_us) if span_s is None else to_us - round(span_s * 1e6)
    from_us = given.get("from", first_us)
    if from_us > to_us:
        end = "`to`" if "to" in given else "`to`, which is now"
        raise errors.invalid([("from", f"later than {end}: give an earlier time")])
    return from_us, to_us
