"""What a million tokens costs on own servers over time, by kind of token."""

from __future__ import annotations

from datetime import UTC, datetime

from aiohttp import web

from gateway.doors.console.money.choices import chosen, period_value
from gateway.doors.console.money.drawn import drawn
from gateway.doors.console.money.timelines import pools_of, rates_chart
from gateway.doors.console.money.windows import PERIODS, SUGGESTIONS, periods, window_of
from gateway.doors.console.routes import OPERATORS, Page
from gateway.doors.console.visits import Visit
from moegate.v1 import usage_pb2

MOST_POOLS = 12


async def _page(visit: Visit) -> web.Response:
    window = window_of(visit.query, datetime.now(UTC), "30d")
    period = chosen(visit.query.get("per", "") or window.period, PERIODS, "period")
    request = usage_pb2.GetStatementRequest(period=period_value(period))
    window.put_into(request)
    answer = await visit.calls.usage.GetStatement(request, **visit.rpc)
    categories = periods(period, window.begin, window.end)
    pools = pools_of(answer.statements)
    return await visit.page(
        "money/rates.html",
        charts=[
            await drawn(rates_chart(answer.statements, pool, period, categories), f"pool-{number}")
            for number, pool in enumerate(pools[:MOST_POOLS])
        ],
        left_out=pools[MOST_POOLS:],
        window=window,
        period=period,
        periods=PERIODS,
        suggestions=SUGGESTIONS,
    )


RATES_PAGES = (
    Page(path="/money/rates", handle=_page, roles=OPERATORS, name="Cost of tokens", group="Money"),
)
