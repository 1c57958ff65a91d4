"""The statement of a window: whose the bill is, and where the rest of it went."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from aiohttp import web

from gateway.config.gateway import KeyRole
from gateway.domain.slices import in_slices, one_by_one
from gateway.doors.console.money.choices import (
    SHARING,
    USES,
    chosen,
    group_values,
    groups_of,
    period_value,
    weights_of,
)
from gateway.doors.console.money.csv_files import Cell, csv_answer
from gateway.doors.console.money.drawn import drawn
from gateway.doors.console.money.timelines import bill_chart
from gateway.doors.console.money.windows import (
    PERIODS,
    SUGGESTIONS,
    Window,
    periods,
    window_of,
)
from gateway.doors.console.routes import ADMINS, Page
from gateway.doors.console.visits import Visit
from moegate.v1 import usage_pb2

MOST_GROUPS = 3
MOST_LINES = 400
"""Lines that the page shows, of all its statements; the file has all."""
MOST_STATEMENTS = 24
REST = ("idle", "unavailable", "external", "unobserved", "unsettled")
HEADER = (
    *("period", "own_nano_usd", "remote_nano_usd", "shared_nano_usd", "cost_nano_usd"),
    "charged_nano_usd",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a reader asks for, as the form has it."""

    window: Window
    groups: list[str]
    period: str
    sharing: str
    weights: str

    @property
    def request(self) -> usage_pb2.GetStatementRequest:
        """The request. Raises Problem."""
        request = usage_pb2.GetStatementRequest(
            group_by=group_values(self.groups),
            period=period_value(self.period),
            sharing=SHARING[self.sharing],
            weights=weights_of(self.weights) if self.sharing == "weight" else {},
        )
        self.window.put_into(request)
        return request


def asked_of(query: Mapping[str, str], role: KeyRole, now: datetime) -> Asked:
    """Reads the address. A tenant's admin always has the tenant among the groups. Raises
    Problem."""
    groups = groups_of(query.get("by", "").strip() or "tenant", USES, MOST_GROUPS)
    if role is not KeyRole.OPERATOR and "tenant" not in groups:
        groups = ["tenant", *groups[: MOST_GROUPS - 1]]
    return Asked(
        window=window_of(query, now, "this-month"),
        groups=groups,
        period=chosen(query.get("per", ""), ("", *PERIODS), "period"),
        sharing=chosen(query.get("share", "none"), SHARING, "rule"),
        weights=query.get("weight", "").strip(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A statement with its sums. None: not the reader's to see.

    Attributes:
        lines: the dearest first, each with its cost.
        more: how many lines are left out.
        parts: where the bill went, by name.
        difference: of the bill and its parts. 0 means that it closes.
    """

    statement: usage_pb2.Statement
    lines: list[tuple[usage_pb2.StatementLine, int]]
    more: int
    total: usage_pb2.StatementLine
    total_cost: int
    bill: int | None
    parts: dict[str, int]
    difference: int | None


def closed(statement: usage_pb2.Statement, most_lines: int = MOST_LINES) -> Closed:
    """Sums a statement up."""
    total = usage_pb2.StatementLine(
        own_nano_usd=sum(line.own_nano_usd for line in statement.lines),
        remote_nano_usd=sum(line.remote_nano_usd for line in statement.lines),
        shared_nano_usd=sum(line.shared_nano_usd for line in statement.lines),
        charged_nano_usd=sum(line.charged_nano_usd for line in statement.lines),
    )
    lines = sorted(((line, cost_of(line)) for line in statement.lines), key=lambda each: -each[1])
    bill = difference = None
    parts = {}
    if statement.HasField("gpu_bill_nano_usd"):
        bill = statement.gpu_bill_nano_usd + statement.remote_bill_nano_usd
        parts = {name: getattr(statement, f"{name}_nano_usd") for name in REST}
        difference = bill - total.own_nano_usd - total.remote_nano_usd - sum(parts.values())
    return Closed(
        statement=statement,
        lines=lines[:most_lines],
        more=max(0, len(lines) - most_lines),
        total=total,
        total_cost=cost_of(total),
        bill=bill,
        parts=parts,
        difference=difference,
    )


def cost_of(line: usage_pb2.StatementLine) -> int:
    """Returns all that a line costs, nano-USD."""
    return line.own_nano_usd + line.remote_nano_usd + line.shared_nano_usd


async def _page(visit: Visit) -> web.Response:
    asked = asked_of(visit.query, visit.visitor.caller.role, datetime.now(UTC))
    if visit.query.get("format") == "csv":
        return await _file(visit, asked)
    answer, by_time = await asyncio.gather(
        visit.calls.usage.GetStatement(asked.request, **visit.rpc), _over_time(visit, asked)
    )
    chart = None
    if visit.visitor.caller.role is KeyRole.OPERATOR:
        period = asked.window.period
        categories = periods(period, asked.window.begin, asked.window.end)
        chart = await drawn(bill_chart(by_time.statements, period, categories), "bill")
    shown = answer.statements[-MOST_STATEMENTS:]
    statements = await asyncio.to_thread(
        lambda: [closed(each, MOST_LINES // len(shown)) for each in reversed(shown)]
    )
    return await visit.page(
        "money/statement.html",
        asked=asked,
        statements=statements,
        left_out=len(answer.statements) - len(shown),
        chart=chart,
        query=visit.request.query_string,
        suggestions=SUGGESTIONS,
        periods=PERIODS,
        sharing=SHARING,
        uses=USES,
    )


async def _over_time(visit: Visit, asked: Asked) -> usage_pb2.GetStatementResponse:
    """The same window by the period of its chart."""
    if visit.visitor.caller.role is not KeyRole.OPERATOR:
        return usage_pb2.GetStatementResponse()
    request = usage_pb2.GetStatementRequest(period=period_value(asked.window.period))
    asked.window.put_into(request)
    answer = await visit.calls.usage.GetStatement(request, **visit.rpc)
    assert isinstance(answer, usage_pb2.GetStatementResponse)
    return answer


async def _file(visit: Visit, asked: Asked) -> web.Response:
    answer = await visit.calls.usage.GetStatement(asked.request, **visit.rpc)
    lines = ((part.period, line) for part in answer.statements for line in part.lines)
    rows = await in_slices(one_by_one(lines, _cells))
    return await csv_answer("statement", [*asked.groups, *HEADER], rows)


def _cells(period_line: tuple[str, usage_pb2.StatementLine]) -> list[Cell]:
    period, line = period_line
    return [
        *line.group,
        period,
        line.own_nano_usd,
        line.remote_nano_usd,
        line.shared_nano_usd,
        cost_of(line),
        line.charged_nano_usd,
    ]


STATEMENT_PAGES = (
    Page(path="/money/statement", handle=_page, roles=ADMINS, name="Statement", group="Money"),
)
