"""ListRequests: requests with all their attempts, in order of what they cost."""

from __future__ import annotations

from dataclasses import replace

from gateway.accounting.accounting import Accounting
from gateway.accounting.ledger.caller_reads import TooManyReads
from gateway.accounting.ledger.database import LedgerUnavailable
from gateway.accounting.ledger.queries import Selection
from gateway.accounting.reports.requests import (
    RequestCost,
    RequestFilter,
    RequestOrder,
    list_requests,
)
from gateway.domain.slices import in_slices, one_by_one
from gateway.domain.tags import labels_json
from gateway.doors.grpc import errors
from gateway.doors.grpc.accounts.windows import window_of
from gateway.doors.grpc.ledger_errors import unread
from gateway.doors.grpc.rpc_context import check_texts
from moegate.v1 import usage_pb2

DEFAULT_SPAN_S = 86_400.0
DEFAULT_REQUESTS, MOST_REQUESTS = 20, 1000
_ORDERS = {
    usage_pb2.REQUEST_ORDER_UNSPECIFIED: RequestOrder.CHARGED,
    usage_pb2.REQUEST_ORDER_METERED: RequestOrder.METERED,
    usage_pb2.REQUEST_ORDER_TOKENS: RequestOrder.TOKENS,
    usage_pb2.REQUEST_ORDER_DURATION: RequestOrder.DURATION,
    usage_pb2.REQUEST_ORDER_ENDED: RequestOrder.ENDED,
}
_SAME = (
    *("request_id", "tenant", "key_id", "session_id", "model", "slo_class", "outcome", "attempts"),
    *("prompt_tokens", "cached_tokens", "completion_tokens", "metered_nano_usd"),
    "charged_nano_usd",
)


async def get_requests(
    accounting: Accounting,
    tenant: str,
    selection: Selection,
    request: usage_pb2.ListRequestsRequest,
) -> usage_pb2.ListRequestsResponse:
    """Builds the response. `selection`: what the caller may see; `tenant`: the caller's. Raises
    RpcError."""
    names = ("model", "placement", "session_id", "outcome", "end_user")
    check_texts({name: getattr(request, name) for name in names})
    labels = dict(request.labels)
    try:
        labels_json(labels)
    except ValueError as error:
        raise errors.invalid([("labels", str(error))]) from None
    order = _ORDERS.get(request.order_by)
    if order is None:
        raise errors.invalid([("order_by", f"{request.order_by}: no order")])
    from_us, to_us = window_of(request, DEFAULT_SPAN_S)
    wanted = RequestFilter(
        selection=replace(selection, from_us=from_us, to_us=to_us, model=request.model),
        session_id=request.session_id,
        placement=request.placement,
        outcome=request.outcome,
        end_user=request.end_user,
        labels=labels,
        min_charged_nano_usd=request.min_charged_nano_usd,
    )
    limit = min(request.limit or DEFAULT_REQUESTS, MOST_REQUESTS)
    try:
        found = await accounting.reads.read(
            tenant, lambda tx: list_requests(tx, wanted, order, limit + 1)
        )
    except (LedgerUnavailable, TooManyReads) as error:
        raise unread(error) from error
    messages = await in_slices(one_by_one(found[:limit], _message))
    return usage_pb2.ListRequestsResponse(requests=messages, truncated=len(found) > limit)


def _message(cost: RequestCost) -> usage_pb2.RequestCost:
    message = usage_pb2.RequestCost(
        placements=[name for name in cost.placements.split(",") if name],
        **{name: getattr(cost, name) for name in _SAME},
    )
    message.started_at.FromMicroseconds(cost.started_unix_us)
    message.ended_at.FromMicroseconds(cost.ended_unix_us)
    return message
