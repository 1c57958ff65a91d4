"""Budgets and cost limits through a real gateway, its real ledger, and what clients are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import msgspec
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from gateway.config.ledger import BudgetConfig
from scheduler.budgets.budget_window import Period
from tests import serving
from tests.ledgers import a_nano_dollar_a_token, booked, one
from tests.scripted import DONE, ROLE, Scripted, listening, word
from tests.serving import METADATA, Serving, chat_request, read_stream

ANSWER = [ROLE, word(1), word(2, b'"length"'), DONE]
"""5 tokens of prompt, 2 of output."""


@asynccontextmanager
async def gateway(
    folder: Path, *budgets: BudgetConfig, pause_s: float = 0.0, priced: Sequence[str] = ("own/a",)
) -> AsyncIterator[Serving]:
    """One replica with a price of 1 nano-USD a token."""
    script = Scripted(frames=ANSWER, pause_s=pause_s)
    async with listening(script):
        config = msgspec.structs.replace(
            serving.config(pools=[serving.pool([script.url])]), budgets=budgets
        )
        async with serving.serving_in(folder, config) as running:
            a_nano_dollar_a_token(running.gateway, priced)
            yield running


def budget(nano_usd: int, **fields: object) -> BudgetConfig:
    cap = f"{nano_usd / 1e9:.9f}"
    given = {"tenant": "team", "key": "test", "period": Period.MONTH, "cap_usd": cap, **fields}
    return BudgetConfig(**given)  # type: ignore[arg-type]


def told(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str]:
    """Code and the reason of its ErrorInfo; it must hold a QuotaFailure."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type, unused-ignore]
    assert status is not None
    info, quota = error_details_pb2.ErrorInfo(), error_details_pb2.QuotaFailure()
    assert any(detail.Unpack(quota) for detail in status.details)
    assert any(detail.Unpack(info) for detail in status.details)
    return error.code(), info.reason


async def generate(running: Serving, **fields: object) -> int:
    """The output tokens of an answer."""
    call = running.stub.Generate(chat_request("hi", **fields), metadata=METADATA)
    seen = await read_stream(call)
    assert seen.done is not None
    return seen.done.usage.completion_tokens


async def until_refused(running: Serving, **fields: object) -> tuple[int, grpc.aio.AioRpcError]:
    """How many requests were answered before one was refused, and how that was told."""
    answered = 0
    while True:
        try:
            await generate(running, **fields)
        except grpc.aio.AioRpcError as error:
            return answered, error
        answered += 1


async def test_a_cap_is_never_passed_and_stays_spent_after_a_restart(tmp_path: Path) -> None:
    # 7 tokens are charged; the worst case is some 290, by bytes: the stand-in counts no tokens.
    cap = budget(700)
    async with gateway(tmp_path, cap) as running:
        answered, error = await until_refused(running)
        assert told(error) == (grpc.StatusCode.FAILED_PRECONDITION, "BUDGET_SPENT")
        assert dict(error.trailing_metadata() or ())["grpc-retry-pushback-ms"] == "-1"
        assert answered > 50
    async with gateway(tmp_path, cap) as running:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(running)
        assert told(caught.value)[1] == "BUDGET_SPENT"
        database = running.gateway.accounting.database
        assert await booked(database) == 7 * answered
        assert await one(database, "SELECT committed_nano_usd FROM account") == 7 * answered


async def test_what_running_requests_hold_may_come_free(tmp_path: Path) -> None:
    async with gateway(tmp_path, budget(400), pause_s=0.3) as running:
        first = asyncio.create_task(generate(running))
        await serving.until(lambda: running.gateway.pipeline.active_requests == 1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(running)
        assert told(caught.value) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_HELD")
        assert int(dict(caught.value.trailing_metadata() or ())["grpc-retry-pushback-ms"]) > 0
        assert await first == 2
        assert await generate(running) == 2


async def test_a_soft_budget_only_reports(tmp_path: Path) -> None:
    async with gateway(tmp_path, budget(1, hard=False)) as running:
        assert await generate(running) == 2
        database = running.gateway.accounting.database
        await running.gateway.accounting.write(_nothing)
        assert await one(database, "SELECT settled_nano_usd FROM account") == 7


async def test_a_request_keeps_its_own_limit(tmp_path: Path) -> None:
    async with gateway(tmp_path) as running:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(running, max_cost_nano_usd=20)
        assert told(caught.value) == (grpc.StatusCode.FAILED_PRECONDITION, "MAX_COST")
        assert "lower max_output_tokens" in str(caught.value.details())
        assert await generate(running, max_cost_nano_usd=1000) == 2


async def test_an_unknown_price_is_refused_where_a_cap_holds(tmp_path: Path) -> None:
    async with gateway(tmp_path, budget(1000), priced=()) as running:
        for fields in ({}, {"max_cost_nano_usd": 10_000}):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await generate(running, **fields)
            assert told(caught.value) == (grpc.StatusCode.FAILED_PRECONDITION, "PRICE_UNKNOWN")
    async with gateway(tmp_path, priced=()) as running:
        assert await generate(running) == 2
        await running.gateway.accounting.write(_nothing)
        database = running.gateway.accounting.database
        assert await one(database, "SELECT COUNT(*) FROM attempt WHERE state = 'unpriced'") == 1


async def test_each_session_has_its_own_cap(tmp_path: Path) -> None:
    cap = budget(350, key=None, each_session=True)
    async with gateway(tmp_path, cap) as running:
        for session in ("a", "b"):
            _, error = await until_refused(running, session_id=session)
            assert told(error)[1] == "BUDGET_SPENT"
        accounts = await one(running.gateway.accounting.database, "SELECT COUNT(*) FROM account")
        assert accounts == 2


async def test_a_reload_brings_a_budget_that_knows_what_was_spent_before(tmp_path: Path) -> None:
    async with gateway(tmp_path) as running:
        for _ in range(10):
            await generate(running)
        config = running.gateway.active.config
        await running.gateway.reload(
            msgspec.structs.replace(config, budgets=(budget(350),)), tmp_path
        )
        a_nano_dollar_a_token(running.gateway)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(running)
        assert told(caught.value)[1] == "BUDGET_SPENT"


async def _nothing(_: object) -> None:
    """A transaction that only waits for the rows before it."""
