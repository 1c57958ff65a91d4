"""Price rows: their time, source, what they price, and what should be checked."""

from __future__ import annotations

from datetime import UTC, datetime

from aiohttp import web

from gateway.doors.console.problems import Problem
from gateway.doors.console.routes import OPERATORS, Page
from gateway.doors.console.visits import Visit
from moegate.v1 import usage_pb2

SUBJECTS = {
    usage_pb2.PRICE_SUBJECT_GPU_HOUR: "GPUs of own servers",
    usage_pb2.PRICE_SUBJECT_SHOWBACK: "What tenants are charged for own servers",
    usage_pb2.PRICE_SUBJECT_REMOTE_TOKENS: "Remotes",
}


async def _page(visit: Visit) -> web.Response:
    at, every_row = visit.query.get("at", "").strip(), bool(visit.query.get("all"))
    request = usage_pb2.ListPriceRowsRequest(every_row=every_row)
    if at:
        try:
            request.at.FromDatetime(datetime.strptime(at, "%Y-%m-%d").replace(tzinfo=UTC))
        except ValueError:
            text = f"{at[:40]}: give a day such as 2026-03-07."
            raise Problem(400, "This is no time", text) from None
    answer = await visit.calls.usage.ListPriceRows(request, **visit.rpc)
    return await visit.page(
        "money/prices.html",
        tables=[
            (name, [row for row in answer.rows if row.subject == subject])
            for subject, name in SUBJECTS.items()
        ],
        warnings=answer.warnings,
        at=at,
        every_row=every_row,
    )


PRICES_PAGES = (
    Page(path="/prices", handle=_page, roles=OPERATORS, name="Price rows", group="Money"),
)
