"""BatchService over real gRPC: a job of messages and one of a file, from submission to results."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from msgspec import structs

from gateway.batch.port import BatchReason, BatchRefused
from gateway.batch.store.desk import BatchDesk
from gateway.telemetry.fleet import FleetMetrics
from gateway.telemetry.sources import GatewayFigures
from moegate.v1 import batch_pb2, batch_pb2_grpc
from tests import serving
from tests.gateway.batch.rig import CHAT, line
from tests.gateway.doors.openai.rig import text_frames
from tests.scripted import Scripted, listening
from tests.serving import METADATA, MODEL, Serving, chat_request, until

Request = batch_pb2.SubmitBatchRequest


@dataclass
class Rig:
    served: Serving
    script: Scripted
    stub: batch_pb2_grpc.BatchServiceAsyncStub

    async def submit(self, messages: Iterable[Request]) -> batch_pb2.Batch:
        answer = await self.stub.SubmitBatch(iter(messages), metadata=METADATA)
        return answer.batch

    async def get(self, batch_id: str) -> batch_pb2.Batch:
        request = batch_pb2.GetBatchRequest(batch_id=batch_id)
        return (await self.stub.GetBatch(request, metadata=METADATA)).batch

    async def ended(self, batch: batch_pb2.Batch) -> batch_pb2.Batch:
        async with asyncio.timeout(60.0):
            while not (now := await self.get(batch.batch_id)).HasField("ended_at"):
                await asyncio.sleep(0.05)
        return now

    async def results(self, batch_id: str, **query: Any) -> list[Any]:
        request = batch_pb2.StreamBatchResultsRequest(batch_id=batch_id, **query)
        async with asyncio.timeout(60.0):
            return [each async for each in self.stub.StreamBatchResults(request, metadata=METADATA)]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    script = Scripted(frames=text_frames("Hello", " there."))
    async with listening(script):
        settings = serving.config(pools=[serving.pool([script.url])])
        async with serving.serving(settings) as served:
            yield Rig(served, script, batch_pb2_grpc.BatchServiceStub(served.channel))


def items(*names: str, **fields: Any) -> list[Request]:
    return [Request(item_id=name, request=chat_request(**fields)) for name in names]


async def test_a_job_of_messages(rig: Rig) -> None:
    messages = items("a", "b", "")
    messages[0].metadata["who"] = "me"
    batch = await rig.submit(messages)
    assert (batch.state, batch.metadata["who"]) == (batch_pb2.BATCH_STATE_QUEUED, "me")
    found = await rig.results(batch.batch_id)  # waits until the job has ended
    assert {each.item_id for each in found} == {"a", "b", "3"}
    for each in found:
        assert each.response.choices[0].text == "Hello there."
        assert each.response.done.usage.completion_tokens == 7
    batch = await rig.get(batch.batch_id)
    assert batch.state == batch_pb2.BATCH_STATE_ENDED
    assert (batch.requests, batch.succeeded, batch.failed) == (3, 3, 0)
    assert (batch.prompt_tokens, batch.completion_tokens) == (36, 21)
    assert not batch.HasField("estimated_end")
    in_order = await rig.results(batch.batch_id, in_order=True)
    assert [each.item_id for each in in_order] == ["a", "b", "3"]
    assert await rig.results(batch.batch_id, in_order=True, skip=2) == in_order[2:]
    assert await rig.results(batch.batch_id, skip=2) == found[2:]
    assert await rig.results(batch.batch_id, skip=3) == []


async def test_an_item_fails_with_its_own_error(rig: Rig) -> None:
    messages = items("good", "bad", "nobody")
    messages[1].request.sampling.temperature = 9.0
    messages[2].request.model = "nobody"
    batch = await rig.ended(await rig.submit(messages))
    assert (batch.succeeded, batch.failed) == (1, 2)
    good, bad, nobody = await rig.results(batch.batch_id, in_order=True)
    assert good.WhichOneof("outcome") == "response"
    assert bad.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "sampling.temperature" in bad.error.message
    assert nobody.error.code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_a_job_of_a_file(rig: Rig) -> None:
    content = line("a", model=MODEL) + b"\n{\n" + line("b", model=MODEL)
    pieces = [content[at : at + 50] for at in range(0, len(content), 50)]
    messages = [Request(openai_lines=piece) for piece in pieces]
    messages[0].endpoint = CHAT
    batch = await rig.ended(await rig.submit(messages))
    assert (batch.endpoint, batch.requests, batch.succeeded) == (CHAT, 2, 2)
    assert batch.bad_lines == 1
    assert [(fault.line, fault.code) for fault in batch.faults] == [(2, "invalid_json_line")]
    found = await rig.results(batch.batch_id, in_order=True)
    texts = [json.loads(each.openai_line) for each in found]
    assert [each["custom_id"] for each in texts] == ["a", "b"]
    assert texts[0]["response"]["status_code"] == 200


async def test_jobs_are_listed_in_pages_and_cancelled(rig: Rig) -> None:
    rig.script.frames, rig.script.end = (), "hang"
    batches = [await rig.submit(items("a", "b")) for _ in range(3)]
    first = await rig.stub.ListBatches(batch_pb2.ListBatchesRequest(page_size=2), metadata=METADATA)
    rest = await rig.stub.ListBatches(
        batch_pb2.ListBatchesRequest(page_token=first.next_page_token), metadata=METADATA
    )
    listed = [each.batch_id for each in (*first.batches, *rest.batches)]
    assert listed == [each.batch_id for each in reversed(batches)]
    assert not rest.next_page_token
    request = batch_pb2.CancelBatchRequest(batch_id=listed[0])
    cancelled = (await rig.stub.CancelBatch(request, metadata=METADATA)).batch
    assert cancelled.state == batch_pb2.BATCH_STATE_CANCELLING
    ended = await rig.ended(cancelled)
    assert (ended.state, ended.failed) == (batch_pb2.BATCH_STATE_CANCELLED, 2)
    [one, _] = await rig.results(listed[0])
    assert (one.error.code, one.error.reason) == (1, "BATCH_CANCELLED")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await rig.stub.CancelBatch(request, metadata=METADATA)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


LATE = Request(request=chat_request())
LATE.complete_before.FromSeconds(int(time.time()) - 10)
FAR = Request(request=chat_request())
FAR.complete_before.FromSeconds(int(time.time()) + 400 * 86_400)
NO_YEAR = Request(request=chat_request(), complete_before=Timestamp(seconds=1 << 62))
NO_TIME = Request(request=chat_request(), complete_before=Timestamp(seconds=1, nanos=-1))


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([], "request: none: send one message or more"),
        ([Request(item_id="a")], "request: none in message 1"),
        (items("a", "b", "a"), "'a' of message 3 stands on an earlier one"),
        (items("x" * 257), "item_id: of message 1: give at most 256 characters"),
        ([Request(openai_lines=b"x")], "endpoint: '': give one of /v1/chat/completions"),
        (
            [Request(openai_lines=b"x", endpoint=CHAT), *items("a")],
            "openai_lines: none in a message after the first one",
        ),
        ([*items("a"), Request(openai_lines=b"x")], "request: none in message 2"),
        (
            [Request(openai_lines=b"x" * (1 << 20) + b"x", endpoint=CHAT)],
            "openai_lines: 1048577 bytes: send at most 1048576 at once",
        ),
        ([LATE], "complete_before: -"),
        ([FAR], "give a time within 30 days"),
        ([NO_YEAR], "complete_before: 4611686018427387904 s since 1970"),
        ([NO_TIME], "complete_before: -1 nanos"),
        ([Request(request=chat_request(), max_cost_nano_usd=0)], "max_cost_nano_usd: 0: give more"),
        ([Request(request=chat_request(), metadata={"k": "v" * 600})], "metadata: give at most 16"),
    ],
)
async def test_a_job_that_is_refused_leaves_nothing(
    rig: Rig, messages: list[Request], text: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await rig.submit(messages)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert text in (refused.value.details() or "")
    accounting = rig.served.gateway.accounting
    for table in ("batch_file", "batch_chunk", "batch_job"):
        count = f"SELECT COUNT(*) FROM {table}"
        assert await accounting.database.read(lambda tx, c=count: tx.rows(c)) == [(0,)]  # type: ignore[misc]


async def test_what_went_wrong_first_is_told_where_the_file_cannot_be_deleted(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any) -> None:
        raise BatchRefused(BatchReason.UNAVAILABLE, "the database does not answer")

    monkeypatch.setattr(BatchDesk, "delete_file", refuse)
    with pytest.raises(grpc.aio.AioRpcError, match="'a' of message 2 stands on an earlier one"):
        await rig.submit(items("a", "a"))


async def test_more_requests_than_a_job_may_have(rig: Rig, tmp_path: Path) -> None:
    config = rig.served.gateway.active.config
    bounds = structs.replace(config.batch, job_items=2)
    await rig.served.gateway.reload(structs.replace(config, batch=bounds), tmp_path)
    with pytest.raises(grpc.aio.AioRpcError, match=r"more than 2 requests, batch\.job_items"):
        await rig.submit(items("a", "b", "c"))


async def test_the_pipeline_is_idle_afterwards(rig: Rig) -> None:
    await rig.ended(await rig.submit(items(*map(str, range(40)))))
    await until(lambda: rig.served.gateway.front.active_requests == 0)
    runner = rig.served.gateway.lane.runner
    assert runner is not None
    assert (runner.jobs, runner.runs.in_flight, runner.runs.waiting.total()) == ((), 0, 0)


async def test_the_metrics_page_tells_what_is_left(rig: Rig) -> None:
    rig.script.frames, rig.script.end = (), "hang"
    batch = await rig.submit(items(*map(str, range(60))))
    lane = rig.served.gateway.lane
    await until(lambda: any(load.in_flight for load in lane.load()))
    figures = GatewayFigures(
        port=rig.served.gateway.scheduler,
        accounting=rig.served.gateway.accounting,
        load=StillLoad(),
        active_requests=lambda: rig.served.gateway.front.active_requests,
        batches=lane.load,
    )
    page = FleetMetrics(figures)
    await page.refresh()
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in page.collect()
        for sample in family.samples
        if sample.name.startswith("moegate_batch_")
    }
    assert found["moegate_batch_jobs", "team"] == 1
    assert found["moegate_batch_items", "team", "left"] == 60
    assert 0 < found["moegate_batch_items", "team", "in_flight"] <= 60
    request = batch_pb2.CancelBatchRequest(batch_id=batch.batch_id)
    await rig.stub.CancelBatch(request, metadata=METADATA)
    await rig.ended(batch)
    assert lane.load() == []


class StillLoad:
    """A process at rest."""

    def share_now(self) -> float:
        return 0.0
