"""The month so far against the last one, its forecast, and when budgets will be gone."""

from __future__ import annotations

import asyncio
from calendar import monthrange
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from aiohttp import web

from gateway.doors.console.charts.chart import USD, Chart, Form, Series
from gateway.doors.console.money.drawn import drawn
from gateway.doors.console.money.timelines import running_sums
from gateway.doors.console.routes import Page
from gateway.doors.console.visits import Visit
from gateway.translation.spend_figures import known_figures
from moegate.v1 import usage_pb2


async def _page(visit: Visit) -> web.Response:
    now = datetime.now(UTC)
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    before = (first - timedelta(days=1)).replace(day=1)
    tenant, key_id = (visit.query.get(name, "").strip() for name in ("tenant", "key"))
    spend = usage_pb2.GetSpendRequest(
        group_by=[usage_pb2.SPEND_GROUP_DAY], tenant=tenant, key_id=key_id
    )
    getattr(spend, "from").FromDatetime(before)
    outlook, days = await asyncio.gather(
        visit.calls.usage.GetOutlook(
            usage_pb2.GetOutlookRequest(tenant=tenant, key_id=key_id), **visit.rpc
        ),
        visit.calls.usage.GetSpend(spend, **visit.rpc),
    )
    months = [
        ("so far", outlook.month_to_date),
        ("last month, to this day", outlook.last_month_to_date),
        ("last month, whole", outlook.last_month),
    ]
    return await visit.page(
        "money/month.html",
        outlook=outlook,
        months=[(name, row, known_figures(row)) for name, row in months],
        growth=growth(
            outlook.month_to_date.charged_nano_usd, outlook.last_month_to_date.charged_nano_usd
        ),
        chart=await drawn(months_chart(days.rows, before, first, now), "months"),
        tenant=tenant,
        key=key_id,
        name=f"{now:%B %Y}",
    )


def growth(now: int, before: int) -> float | None:
    """Returns by which share an amount is above an earlier one; None: there was none."""
    return now / before - 1.0 if before > 0 else None


def months_chart(
    rows: Sequence[usage_pb2.SpendRow], before: datetime, first: datetime, now: datetime
) -> Chart:
    """Charges and metered cost up to each day of the month, of this month and the last one. `rows`:
    by day; `before`, `first`: the begin of both months."""
    lengths = {each: monthrange(each.year, each.month)[1] for each in (before, first)}
    most = max(lengths.values())
    series = []
    for begin, month in ((first, "this month"), (before, "last month")):
        last = now.day if begin == first else lengths[begin]
        for field, name in (("charged_nano_usd", "charged"), ("metered_nano_usd", "metered")):
            days = {
                int(row.group[0][8:]): known_figures(row)[field]
                for row in rows
                if row.group[0].startswith(f"{begin:%Y-%m}-")
            }
            values = running_sums(days, last, most)
            series.append(Series(name=f"{month}, {name}", values=values))
    return Chart(
        title="Spent up to each day of the month",
        form=Form.LINE,
        unit=USD,
        period="day of the month",
        categories=tuple(str(day) for day in range(1, most + 1)),
        series=tuple(series),
    )


MONTH_PAGES = (Page(path="/money/month", handle=_page, name="This month", group="Money"),)
