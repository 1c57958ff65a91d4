"""Budgets where they matter: two gateways on one PostgreSQL, and an agent that runs away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import msgspec
import pytest

from gateway.accounting.ledger.database import Database, LedgerUnusable
from gateway.accounting.ledger.postgres import connect
from gateway.config.ledger import BudgetConfig, LedgerConfig
from gateway.config.values import SecretConfig
from moegate.v1 import chat_pb2, generation_pb2
from scheduler.budgets.budget_window import Period
from tests import serving
from tests.counting import Counting, counting
from tests.ledgers import a_nano_dollar_a_token, booked, one
from tests.serving import METADATA, Serving, chat_request, read_stream
from tests.stack.ledger.postgres import Postgres


@contextlib.asynccontextmanager
async def gateway(
    folder: Path, upstream: Counting, cap: int, ledger: LedgerConfig | None = None
) -> AsyncIterator[Serving]:
    """A gateway whose key may spend `cap` nano-USD a month, at a nano-USD a token."""
    budget = BudgetConfig(
        tenant="team", key="test", period=Period.MONTH, cap_usd=f"{cap / 1e9:.9f}"
    )
    config = serving.config(pools=[serving.pool([upstream.url], max_num_seqs=64)])
    config = msgspec.structs.replace(config, budgets=(budget,), ledger=ledger or LedgerConfig())
    async with serving.serving_in(folder, config) as running:
        a_nano_dollar_a_token(running.gateway)
        yield running


async def until_spent(running: Serving) -> int:
    """Asks until nothing is left; answers when what others hold comes free count, too."""
    answered = 0
    while True:
        try:
            call = running.stub.Generate(chat_request(max_output_tokens=10), metadata=METADATA)
            await read_stream(call)
            answered += 1
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                return answered
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            await asyncio.sleep(0.1)


async def watch(database: Database, cap: int) -> None:
    """No account is over the cap, at any look."""
    while True:
        assert await one(database, "SELECT MAX(committed_nano_usd) FROM account") <= cap
        await asyncio.sleep(0.002)


async def test_two_gateways_never_pass_a_cap_together(tmp_path: Path, postgres: Postgres) -> None:
    cap = 20_000
    (tmp_path / "dsn").write_text(await postgres.new_database("two"))
    ledgers = [
        LedgerConfig(postgres=SecretConfig(file="dsn"), gateway=name) for name in ("one", "two")
    ]
    upstream = Counting(pause_s=0.001)
    async with (
        counting(upstream),
        gateway(tmp_path, upstream, cap, ledgers[0]) as one_gateway,
        gateway(tmp_path, upstream, cap, ledgers[1]) as two_gateway,
    ):
        database = one_gateway.gateway.accounting.database
        watching = asyncio.create_task(watch(database, cap))
        clients = [until_spent(g) for g in (one_gateway, two_gateway) for _ in range(6)]
        answered = await asyncio.gather(*clients)
        assert not watching.done(), watching.exception()
        watching.cancel()
        for running in (one_gateway, two_gateway):
            await running.gateway.accounting.write(_nothing)
        assert upstream.tokens <= cap
        assert await booked(database) == upstream.tokens == 30 * sum(answered)
        # Nobody stopped early: what is left is less than the worst case of one more.
        assert cap - upstream.tokens < 400
        assert min(sum(answered[:6]), sum(answered[6:])) > 0


async def test_a_name_is_one_gateway_also_after_the_database_was_away(
    tmp_path: Path, postgres: Postgres
) -> None:
    dsn = await postgres.new_database("names")
    database = await connect(dsn, "one")
    try:
        with pytest.raises(LedgerUnusable, match="another gateway named 'one'"):
            await connect(dsn, "one")
        await asyncio.to_thread(postgres.stop)
        await asyncio.to_thread(postgres.start)
        await serving.until(lambda: database.claim_lost)
        await database.hold_name("one")
        with pytest.raises(LedgerUnusable, match="another gateway named 'one'"):
            await connect(dsn, "one")
    finally:
        await database.close()
    again = await connect(dsn, "one")
    await again.close()


async def test_an_agent_that_runs_away_stops_exactly_at_its_cap(tmp_path: Path) -> None:
    requests, output_tokens, cap = 10_000, 4, 400_000
    upstream = Counting()
    answered, settled, refused = 0, 0, 0
    async with counting(upstream), gateway(tmp_path, upstream, cap) as running:
        for i in range(requests):
            # Its context grows by what it was answered; token ids are counted, not estimated.
            context = [1] * (1 + i // 8)
            request = generation_pb2.GenerateRequest(
                model=serving.MODEL,
                prompt_tokens=chat_pb2.TokenInput(token_ids=context),
                max_output_tokens=output_tokens,
            )
            worst = len(context) + output_tokens
            try:
                await read_stream(running.stub.Generate(request, metadata=METADATA))
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.FAILED_PRECONDITION  # noqa: PT017
                assert settled + worst > cap
                refused += 1
            else:
                assert settled + worst <= cap
                settled += worst
                answered += 1
        await running.gateway.accounting.write(_nothing)
        database = running.gateway.accounting.database
        assert await booked(database) == upstream.tokens == settled
        assert await one(database, "SELECT committed_nano_usd FROM account") <= cap
    assert answered + refused == requests
    assert refused > requests // 4
    assert cap - settled < requests // 8 + output_tokens


async def _nothing(_: object) -> None:
    """A transaction that only waits for the rows before it."""
