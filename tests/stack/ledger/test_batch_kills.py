"""kill -9 in the middle of a batch, again and again: each item has one result, and the bill is that
of each item once."""

from __future__ import annotations

import asyncio
import math
import random
import socket
from pathlib import Path

import grpc
import pytest
from msgspec import structs

from gateway.accounting.ledger.database import Tx
from gateway.config.gateway import GatewayConfig
from gateway.config.ledger import LedgerConfig
from moegate.v1 import batch_pb2, batch_pb2_grpc
from tests import serving
from tests.counting import Counting, counting
from tests.ledgers import Reader, booked
from tests.serving import METADATA, READY_S, chat_request, until
from tests.stack.ledger.mortal import Mortal
from tests.stack.ledger.postgres import Postgres
from tests.stack.ledger.test_kills import Engine, in_memory, postgresql, sqlite

CATALOG = """
showback:
  - id: one
    pool: own
    usd_per_mtok: {input: "1", cached_input: "1", output: "1"}
    valid_from: 2026-01-01
    source: test
    checked_at: 2026-01-01
"""
NANO_USD_PER_TOKEN = 1000
ITEMS = 1000
KILLS = 3
BEYOND = 32
"""Answers that may end between the moment of a kill and the kill: it meets some amid them."""


@pytest.mark.parametrize("engine", [sqlite, postgresql, in_memory])
async def test_every_item_ends_once_and_is_charged_once(
    engine: Engine, tmp_path: Path, postgres: Postgres
) -> None:
    async with engine(tmp_path, postgres) as (ledger, reader):
        again = await run_with_kills(tmp_path, ledger, reader, ITEMS, KILLS)
    print(f"{engine.__name__}: {KILLS} kills, {again} of {ITEMS} items ran again")


async def run_with_kills(
    folder: Path, ledger: LedgerConfig, reader: Reader, items: int, kills: int
) -> int:
    """Runs a batch of so many items, and kills its gateway so often. Returns how many items ran
    again. Fails unless each item has one result and the bill is that of each item once."""
    upstream = Counting(pause_s=0.01)
    chance = random.Random(3)
    async with counting(upstream):
        gateway = Mortal(config_of(upstream, ledger, folder), folder)
        await gateway.start()
        batch_id = await submit(gateway.address, items)
        for kill in range(1, kills + 1):
            moment = items * (kill - chance.uniform(0.0, 0.5)) / (kills + 1)
            upstream.last_answer = upstream.answers + moment - await ended(reader) + BEYOND
            await has_ended(reader, moment)
            gateway.kill()
            upstream.last_answer = math.inf  # a start sends probes
            await until(lambda: upstream.running == 0)
            assert await ended(reader) < items, f"kill {kill} came too late"
            await gateway.start()
        results = await all_results(gateway.address, batch_id)
        assert sorted(each.item_id for each in results) == sorted(names(items))
        tokens = sum(
            each.response.done.usage.prompt_tokens + each.response.done.usage.completion_tokens
            for each in results
        )
        batch = await state(gateway.address, batch_id)
        assert (batch.requests, batch.succeeded, batch.failed) == (items, items, 0)
        assert batch.charged_nano_usd == tokens * NANO_USD_PER_TOKEN
        assert await booked(reader) == tokens * NANO_USD_PER_TOKEN
        gateway.kill()
    return upstream.requests - items


async def has_ended(reader: Reader, items: float) -> None:
    """Waits until so many items have a result, as long as it goes on getting more."""
    so_far = await ended(reader)
    while so_far < items:
        async with asyncio.timeout(READY_S):
            while (now := await ended(reader)) == so_far:
                await asyncio.sleep(0.01)
        so_far = now


def config_of(upstream: Counting, ledger: LedgerConfig, folder: Path) -> GatewayConfig:
    """A gateway on a port of its own that keeps its prices over a restart."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "prices.yaml").write_text(CATALOG)
    config = serving.config(pools=[serving.pool([upstream.url], max_num_seqs=64)])
    return structs.replace(
        config,
        ledger=ledger,
        prices=structs.replace(config.prices, catalog="prices.yaml"),
        server=structs.replace(config.server, listen=f"127.0.0.1:{port}"),
    )


def names(items: int) -> list[str]:
    return [f"item-{number}" for number in range(items)]


async def submit(address: str, items: int) -> str:
    messages = [
        batch_pb2.SubmitBatchRequest(
            item_id=name, request=chat_request(max_output_tokens=1 + number % 12)
        )
        for number, name in enumerate(names(items))
    ]
    async with grpc.aio.insecure_channel(address) as channel:
        stub = batch_pb2_grpc.BatchServiceStub(channel)
        answer = await stub.SubmitBatch(iter(messages), metadata=METADATA)
        return str(answer.batch.batch_id)


async def all_results(address: str, batch_id: str) -> list[batch_pb2.StreamBatchResultsResponse]:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = batch_pb2_grpc.BatchServiceStub(channel)
        request = batch_pb2.StreamBatchResultsRequest(batch_id=batch_id)
        return [each async for each in stub.StreamBatchResults(request, metadata=METADATA)]


async def state(address: str, batch_id: str) -> batch_pb2.Batch:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = batch_pb2_grpc.BatchServiceStub(channel)
        request = batch_pb2.GetBatchRequest(batch_id=batch_id)
        return (await stub.GetBatch(request, metadata=METADATA)).batch


async def ended(reader: Reader) -> int:
    async def query(tx: Tx) -> int:
        [(count,)] = await tx.rows("SELECT COUNT(*) FROM batch_result")
        return int(count)

    return await reader.read(query)
