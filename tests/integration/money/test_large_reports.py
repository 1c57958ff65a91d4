"""Reports of many rows: between two turns of the event loop only a few rows become messages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.domain import slices
from gateway.domain.slices import SLICE_S
from gateway.doors.console.money import spend as spend_page
from gateway.doors.console.money import statement as statement_page
from gateway.doors.grpc.accounts import request_costs, statements, usage_service
from moegate.v1 import usage_pb2, usage_pb2_grpc
from tests import serving
from tests.console_serving import ServingConsole, with_console
from tests.integration.money.test_pool_cost import OPERATOR, OPERATOR_KEY
from tests.integration.money.test_statement import config
from tests.ledgers import settled
from tests.scripted import GOOD, Scripted, listening
from tests.serving import Serving

JANUARY_S = 1_768_176_000.0  # 2026-01-12
ROWS = 400
MOST = 4
"""Looks at the clock that fill a slice: so many rows, one after each."""


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Serving]:
    script = Scripted(GOOD)
    async with listening(script):
        settings = with_console(config(script.url, tmp_path))
        async with serving.serving_in(tmp_path, settings) as running:
            for number in range(ROWS):
                row = settled(f"key/{number}", tenant=f"team-{number}", ended_unix_s=JANUARY_S)
                running.gateway.accounting.record_attempt(row)
            await running.gateway.accounting.write_rows()
            yield running


class Counted:
    """Counts what is converted in one turn of the event loop."""

    def __init__(self) -> None:
        self.all = self.now = self.most = 0

    def wrapped(self, convert: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any) -> Any:
            self.all += 1
            self.now += 1
            self.most = max(self.most, self.now)
            return convert(*args)

        return counting


@contextlib.asynccontextmanager
async def counted(
    patch: pytest.MonkeyPatch, module: object, converter: str
) -> AsyncIterator[Counted]:
    """Counts the calls of a converter. The clock of the slices counts looks instead of seconds."""
    found = Counted()
    looks = 0.0

    def look() -> float:
        nonlocal looks
        looks += 1.01 * SLICE_S / MOST  # not a little less than a slice by rounding
        return looks

    async def turns() -> None:
        while True:
            found.now = 0
            await asyncio.sleep(0)

    with patch.context() as patched:
        patched.setattr(slices, "time", SimpleNamespace(perf_counter=look))
        patched.setattr(module, converter, found.wrapped(getattr(module, converter)))
        turning = asyncio.create_task(turns())
        try:
            yield found
        finally:
            turning.cancel()


def window(request: Any) -> Any:
    getattr(request, "from").FromSeconds(round(JANUARY_S) - 3600)
    request.to.FromSeconds(round(JANUARY_S) + 3600)
    return request


async def test_messages_are_made_in_slices(
    served: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = usage_pb2_grpc.UsageServiceStub(served.channel)
    by_tenant = [usage_pb2.SPEND_GROUP_TENANT]
    async with counted(monkeypatch, usage_service, "spend_row") as found:
        request = window(usage_pb2.GetSpendRequest(group_by=by_tenant))
        spend = await stub.GetSpend(request, metadata=OPERATOR)
    assert len({row.group[0] for row in spend.rows}) == ROWS
    assert (found.all, found.most) == (ROWS, MOST)
    async with counted(monkeypatch, statements, "_line") as found:
        bill = await stub.GetStatement(
            window(usage_pb2.GetStatementRequest(group_by=by_tenant)), metadata=OPERATOR
        )
    assert len({line.group[0] for line in bill.statements[0].lines}) == ROWS
    assert (found.all, found.most) == (ROWS, MOST)
    async with counted(monkeypatch, request_costs, "_message") as found:
        listed = await stub.ListRequests(
            window(usage_pb2.ListRequestsRequest(limit=ROWS)), metadata=OPERATOR
        )
    assert len({each.tenant for each in listed.requests}) == ROWS
    assert (found.all, found.most) == (ROWS, MOST)
    async with counted(monkeypatch, usage_service, "attempt_row") as found:
        export = stub.ExportAttempts(window(usage_pb2.ExportAttemptsRequest()), metadata=OPERATOR)
        exported = [row.tenant async for page in export for row in page.rows]
    assert len(set(exported)) == ROWS
    assert (found.all, found.most) == (ROWS, MOST)


@pytest.mark.parametrize(("path", "module"), [("spend", spend_page), ("statement", statement_page)])
async def test_files_are_made_in_slices(
    served: Serving, monkeypatch: pytest.MonkeyPatch, path: str, module: object
) -> None:
    console = ServingConsole(served, f"http://{served.gateway.front.console_address}")
    async with (
        console.reader(OPERATOR_KEY) as reader,
        counted(monkeypatch, module, "_cells") as found,
    ):
        shown = await reader.get(f"/money/{path}?by=tenant&format=csv&in=2026-01")
    assert shown.status == 200
    assert sum("team-" in line for line in shown.text.splitlines()) == ROWS
    assert (found.all, found.most) == (ROWS, MOST)
