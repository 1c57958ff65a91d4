"""Models ranked week by week, with their growth."""

from __future__ import annotations

from datetime import UTC, datetime

from aiohttp import web

from gateway.doors.console.money.choices import ORDERS, chosen
from gateway.doors.console.money.windows import SUGGESTIONS, window_of
from gateway.doors.console.routes import Page
from gateway.doors.console.visits import Visit
from gateway.translation.spend_figures import known_figures, ranked
from moegate.v1 import usage_pb2

MOST_ROWS = 500


async def _page(visit: Visit) -> web.Response:
    window = window_of(visit.query, datetime.now(UTC), "90d")
    order = chosen(visit.query.get("order", "spend"), ("spend", "tokens"), "order")
    request = usage_pb2.GetSpendRequest(
        group_by=[usage_pb2.SPEND_GROUP_WEEK, usage_pb2.SPEND_GROUP_MODEL],
        order_by=ORDERS[order],
        limit=MOST_ROWS,
    )
    window.put_into(request)
    answer = await visit.calls.usage.GetSpend(request, **visit.rpc)
    return await visit.page(
        "money/models_by_week.html",
        entries=[(entry, known_figures(entry.row)) for entry in ranked(answer.rows)],
        is_truncated=answer.truncated,
        window=window,
        order=order,
        suggestions=SUGGESTIONS,
    )


MODELS_BY_WEEK_PAGES = (
    Page(path="/money/models", handle=_page, name="Models by week", group="Money"),
)
