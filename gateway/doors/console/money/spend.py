"""The spend explorer: sums by any groups and time, as a table, a chart and a file."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from aiohttp import web

from gateway.config.gateway import KeyRole
from gateway.domain.slices import in_slices, one_by_one
from gateway.doors.console.money.choices import (
    ORDERS,
    SPEND_GROUPS,
    chosen,
    group_values,
    groups_of,
    label_of,
)
from gateway.doors.console.money.csv_files import Cell, csv_answer
from gateway.doors.console.money.drawn import drawn
from gateway.doors.console.money.timelines import spend_chart
from gateway.doors.console.money.windows import (
    PERIODS,
    SUGGESTIONS,
    Window,
    periods,
    window_of,
)
from gateway.doors.console.routes import Page
from gateway.doors.console.visits import Visit
from gateway.translation.spend_figures import NUMBERS, known, known_figures
from moegate.v1 import usage_pb2

MOST_GROUPS = 6
ASKED_ROWS = 2000
SHOWN_ROWS = 200
FILE_ROWS = 10_000
FIGURES = {"charged": "charged_nano_usd", "metered": "metered_nano_usd"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a reader asks for, as the form has it."""

    window: Window
    groups: list[str]
    tenant: str
    key: str
    model: str
    order: str
    figure: str

    def request(self, limit: int) -> usage_pb2.GetSpendRequest:
        """The request for so many rows."""
        request = usage_pb2.GetSpendRequest(
            group_by=group_values(self.groups),
            label=label_of(self.groups),
            tenant=self.tenant,
            key_id=self.key,
            model=self.model,
            order_by=ORDERS[self.order],
            limit=limit,
        )
        self.window.put_into(request)
        return request

    @property
    def period(self) -> str:
        """The time that it is grouped by; "": none."""
        return next((group for group in self.groups if group in PERIODS), "")


def asked_of(query: Mapping[str, str], role: KeyRole, now: datetime) -> Asked:
    """Reads the address. Raises Problem."""
    window = window_of(query, now, "30d")
    default = f"{window.period},{'tenant' if role is KeyRole.OPERATOR else 'model'}"
    return Asked(
        window=window,
        groups=groups_of(query.get("by", default).strip(), SPEND_GROUPS, MOST_GROUPS),
        tenant=query.get("tenant", "").strip(),
        key=query.get("key", "").strip(),
        model=query.get("model", "").strip(),
        order=chosen(query.get("order", "spend"), ORDERS, "order"),
        figure=chosen(query.get("figure", "charged"), FIGURES, "figure"),
    )


async def _page(visit: Visit) -> web.Response:
    asked = asked_of(visit.query, visit.visitor.caller.role, datetime.now(UTC))
    if visit.query.get("format") == "csv":
        return await _file(visit, asked)
    answer = await visit.calls.usage.GetSpend(asked.request(ASKED_ROWS), **visit.rpc)
    chart = None
    if asked.period:
        categories = periods(asked.period, asked.window.begin, asked.window.end)
        title = f"{asked.figure.capitalize()} by {', '.join(asked.groups)}"
        figure = FIGURES[asked.figure]
        chart = await asyncio.to_thread(
            spend_chart, answer.rows, asked.groups, figure, categories, title
        )
    return await visit.page(
        "money/spend.html",
        asked=asked,
        rows=[(row, known_figures(row)) for row in answer.rows[:SHOWN_ROWS]],
        count=len(answer.rows),
        is_truncated=answer.truncated,
        chart=None if chart is None else await drawn(chart, "spend"),
        query=visit.request.query_string,
        suggestions=SUGGESTIONS,
        groups=SPEND_GROUPS,
        orders=ORDERS,
        figures=FIGURES,
        is_operator=visit.visitor.caller.role is KeyRole.OPERATOR,
    )


async def _file(visit: Visit, asked: Asked) -> web.Response:
    answer = await visit.calls.usage.GetSpend(asked.request(FILE_ROWS), **visit.rpc)
    rows = await in_slices(one_by_one(answer.rows, _cells))
    return await csv_answer("spend", [*asked.groups, *NUMBERS], rows)


def _cells(row: usage_pb2.SpendRow) -> list[Cell]:
    return [*row.group, *known(row)]


SPEND_PAGES = (Page(path="/money/spend", handle=_page, name="Spend", group="Money"),)
