"""Requests with all their attempts: filtered, sorted, page by page."""

from __future__ import annotations

import time
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from urllib.parse import urlencode

from aiohttp import web

from gateway.doors.console.problems import Problem
from gateway.doors.console.routes import Page
from gateway.doors.console.visits import Visit
from moegate.v1 import usage_pb2

PAGE_ROWS = 50
MOST_PAGES = 1000 // PAGE_ROWS
"""ListRequests tells at most 1,000 requests."""
SPANS_S: Mapping[str, tuple[str, int]] = {
    "hour": ("last hour", 3600),
    "day": ("last 24 hours", 86_400),
    "week": ("last 7 days", 7 * 86_400),
    "month": ("last 30 days", 30 * 86_400),
}
ORDERS: Mapping[str, usage_pb2.RequestOrder] = {
    "ended": usage_pb2.REQUEST_ORDER_ENDED,
    "charged": usage_pb2.REQUEST_ORDER_UNSPECIFIED,
    "metered": usage_pb2.REQUEST_ORDER_METERED,
    "tokens": usage_pb2.REQUEST_ORDER_TOKENS,
    "duration": usage_pb2.REQUEST_ORDER_DURATION,
}
OUTCOMES = ("ok", "cancelled", "failed", "retryable", "superseded", "evicted")
_TEXTS = ("model", "tenant", "key_id", "placement", "session_id", "outcome")


async def _page(visit: Visit) -> web.Response:
    query = visit.query
    span = query.get("span", "day")
    order = query.get("order", "ended")
    number = _number(query.get("page", "1"))
    if span not in SPANS_S or order not in ORDERS:
        raise Problem(400, "This cannot be shown", "Choose one of the times and orders offered.")
    texts = {name: query.get(name, "").strip() for name in _TEXTS}
    request = usage_pb2.ListRequestsRequest(
        min_charged_nano_usd=_nano_usd(query.get("min_usd", "")),
        order_by=ORDERS[order],
        limit=number * PAGE_ROWS,
        model=texts["model"],
        tenant=texts["tenant"],
        key_id=texts["key_id"],
        placement=texts["placement"],
        session_id=texts["session_id"],
        outcome=texts["outcome"],
    )
    getattr(request, "from").FromSeconds(round(time.time()) - SPANS_S[span][1])
    answer = await visit.calls.usage.ListRequests(request, **visit.rpc)
    rows = answer.requests[(number - 1) * PAGE_ROWS :]
    kept = {name: value for name, value in query.items() if value and name != "page"}
    return await visit.page(
        "requests.html",
        rows=rows,
        texts=texts,
        span=span,
        spans=SPANS_S,
        order=order,
        outcomes=OUTCOMES,
        min_usd=query.get("min_usd", ""),
        number=number,
        previous=_link(kept, page=str(number - 1)) if number > 1 else "",
        following=_link(kept, page=str(number + 1))
        if answer.truncated and number < MOST_PAGES
        else "",
        is_cut=answer.truncated and number == MOST_PAGES,
        sorted_by={name: _link(kept, order=name) for name in ORDERS},
        link_of=request_link,
        duration_of=_duration_s,
    )


def request_link(row: usage_pb2.RequestCost) -> str:
    """Returns the path of one request's page. The times are those between which its rows are."""
    times = {
        "from": str(row.started_at.ToMicroseconds()),
        "to": str(row.ended_at.ToMicroseconds() + 1),
    }
    named = {"tenant": row.tenant, "key_id": row.key_id}
    return f"/requests/one?{urlencode({'id': row.request_id, **named, **times})}"


def _duration_s(row: usage_pb2.RequestCost) -> float:
    return (row.ended_at.ToMicroseconds() - row.started_at.ToMicroseconds()) / 1e6


def _link(kept: Mapping[str, str], **changed: str) -> str:
    return f"/requests?{urlencode({**kept, **changed})}"


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:6]) <= MOST_PAGES:
        raise Problem(400, "There is no such page", f"Give a page from 1 to {MOST_PAGES}.")
    return int(text[:6])


def _nano_usd(text: str) -> int:
    """An amount in dollars as nano-USD. Raises Problem."""
    if not text.strip():
        return 0
    try:
        amount = Decimal(text.strip().removeprefix("$"))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or not 0 <= amount < 10**9:
        raise Problem(400, "This is no amount", f"{text[:40]!r}: give dollars, such as 0.05.")
    return int(amount * 10**9)


REQUESTS_PAGES = (Page(path="/requests", handle=_page, name="Requests", group="Operations"),)
