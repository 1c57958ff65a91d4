"""Money now: what a million tokens costs on each pool, where its bill goes, and overflow."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

from aiohttp import web
from google.protobuf.duration_pb2 import Duration

from gateway.doors.console.money.drawn import drawn
from gateway.doors.console.money.timelines import bill_chart
from gateway.doors.console.money.windows import periods, window_of
from gateway.doors.console.routes import OPERATORS, Live, Page
from gateway.doors.console.visits import Visit
from moegate.v1 import usage_pb2

WINDOW_S = 3600
DAY = "24h"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolNow:
    """Cost of a pool over the last hour. None: unknown.

    Attributes:
        total: its rates of all tokens together.
        accounts: parts of its bill by name.
        nano_usd_per_hour: its bill over the time that it covers.
    """

    pool: str
    cost: usage_pb2.GetPoolCostResponse
    total: usage_pb2.PoolRate
    accounts: dict[str, int]
    nano_usd_per_hour: int | None

    def share(self, account: str) -> float | None:
        """Part of the bill that an account is, 0 to 1."""
        bill = self.cost.bill_nano_usd
        return self.accounts.get(account, 0) / bill if bill else None


async def pools_now(visit: Visit) -> dict[str, object]:
    """Asks for the cost of every pool."""
    names = [pool.name for pool in visit.services.active.config.pools]
    window = Duration(seconds=WINDOW_S)
    answers = await asyncio.gather(
        *(
            visit.calls.usage.GetPoolCost(
                usage_pb2.GetPoolCostRequest(pool=name, window=window), **visit.rpc
            )
            for name in names
        )
    )
    return {"pools": [_pool(name, cost) for name, cost in zip(names, answers, strict=True)]}


def _pool(name: str, cost: usage_pb2.GetPoolCostResponse) -> PoolNow:
    rates = {rate.token_kind: rate for rate in cost.rates}
    covered_s = cost.covered.ToNanoseconds() / 1e9
    per_hour = None
    if covered_s and not cost.unpriced.ToNanoseconds():
        per_hour = round(cost.bill_nano_usd / covered_s * 3600)
    return PoolNow(
        pool=name,
        cost=cost,
        total=rates.get("total", usage_pb2.PoolRate()),
        accounts={account.name: account.nano_usd for account in cost.accounts},
        nano_usd_per_hour=per_hour,
    )


async def _page(visit: Visit) -> web.Response:
    window = window_of({}, datetime.now(UTC), DAY)
    hours = usage_pb2.GetStatementRequest(period=usage_pb2.SPEND_GROUP_HOUR)
    whole = usage_pb2.GetStatementRequest()
    for request in (hours, whole):
        window.put_into(request)
    by_hour, day = await asyncio.gather(
        visit.calls.usage.GetStatement(hours, **visit.rpc),
        visit.calls.usage.GetStatement(whole, **visit.rpc),
    )
    categories = periods("hour", window.begin, window.end)
    return await visit.page(
        "money/now.html",
        chart=await drawn(bill_chart(by_hour.statements, "hour", categories), "bill"),
        overflow=[model for statement in day.statements for model in statement.overflow],
    )


NOW_PAGES = (
    Page(
        path="/money/now",
        handle=_page,
        roles=OPERATORS,
        name="Cost now",
        group="Money",
        live=Live(
            template="money/now_live.html",
            values=pools_now,
            scope=lambda visitor: visitor.caller.role,
        ),
    ),
)
