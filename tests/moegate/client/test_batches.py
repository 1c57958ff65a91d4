"""Offline jobs with both clients."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from moegate.client import AsyncClient, Batch, BatchItem, BatchResult, Client, MoegateError
from tests.gateway.batch.rig import line
from tests.serving import KEY, MODEL, Serving


async def until_ended(client: AsyncClient, batch: Batch) -> Batch:
    async with asyncio.timeout(60.0):
        while not batch.has_ended:
            await asyncio.sleep(0.1)
            batch = await client.batch(batch.batch_id)
    return batch


async def test_a_job_of_items(gateway: Serving) -> None:
    items = [
        BatchItem("a", MODEL, "hello", {"max_output_tokens": 4}),
        BatchItem("b", "nobody", "hello"),
    ]
    before = datetime.now(UTC) + timedelta(hours=2)
    async with AsyncClient(gateway.gateway.address, key=KEY) as client:
        batch = await client.submit_batch(items, complete_before=before, metadata={"k": "v"})
        assert (batch.state, batch.metadata) == ("queued", {"k": "v"})
        assert abs(batch.complete_before - before) < timedelta(minutes=1)
        found = [each async for each in client.batch_results(batch.batch_id, in_order=True)]
        batch = await until_ended(client, batch)
        assert [each.batch_id for each in await client.batches()] == [batch.batch_id]
        with pytest.raises(MoegateError, match="there is nothing to cancel"):
            await client.cancel_batch(batch.batch_id)
    assert (batch.state, batch.requests, batch.succeeded, batch.failed) == ("ended", 2, 1, 1)
    assert batch.ended_at is not None
    first, second = found
    assert first.answer is not None
    assert first.answer.usage is not None
    assert first.answer.usage.completion_tokens == 4
    assert (second.item_id, second.answer) == ("b", None)
    assert "'nobody' is not served here" in second.error


async def test_a_file_without_asyncio(gateway: Serving) -> None:
    content = line("a", model=MODEL, max_tokens=3) + b"\n{\n"

    def work() -> tuple[Batch, list[BatchResult]]:
        with Client(gateway.gateway.address, key=KEY) as client:
            batch = client.submit_batch_file([content[:9], content[9:]], max_cost_nano_usd=10**9)
            found = [*client.batch_results(batch.batch_id)]
            with pytest.raises(MoegateError):
                client.cancel_batch("none")
            assert client.batches(limit=1)[0].batch_id == batch.batch_id
            return client.batch(batch.batch_id), found

    batch, found = await asyncio.to_thread(work)
    assert batch.has_ended
    assert (batch.bad_lines, batch.faults[0][0]) == (1, 2)
    [only] = found
    assert json.loads(only.line)["custom_id"] == "a"
