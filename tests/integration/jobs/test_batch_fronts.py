"""Batches at a gateway of two front processes: whatever front is asked, the parent runs the job
once and both know it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from gateway.config.gateway import KeyConfig, KeyRole, TenantConfig
from gateway.config.resolve.api_keys import key_sha256
from moegate.v1 import batch_pb2, batch_pb2_grpc
from tests import serving
from tests.gateway.batch.rig import CHAT, line
from tests.gateway.doors.openai.rig import text_frames
from tests.http_serving import with_http
from tests.integration.processes.test_fronts import two_fronts
from tests.scripted import Scripted, listening
from tests.serving import KEY, METADATA, MODEL, chat_request


async def test_any_front_knows_every_batch(tmp_path: Path) -> None:
    script = Scripted(frames=text_frames("Hello", " there."))
    async with listening(script):
        settings = with_http(serving.config(pools=[serving.pool([script.url])]))
        operator = KeyConfig(id="op", sha256=key_sha256("mg-op"), role=KeyRole.OPERATOR)
        platform = TenantConfig(name="platform", keys=(operator,))
        settings = msgspec.structs.replace(settings, tenants=(*settings.tenants, platform))
        async with two_fronts(settings, tmp_path) as two:
            stubs = [batch_pb2_grpc.BatchServiceStub(channel) for channel in two.channels]
            messages = [
                batch_pb2.SubmitBatchRequest(item_id=f"i{n}", request=chat_request())
                for n in range(30)
            ]
            submitted = await stubs[0].SubmitBatch(iter(messages), metadata=METADATA)
            batch_id = submitted.batch.batch_id
            request = batch_pb2.StreamBatchResultsRequest(batch_id=batch_id)
            for stub in stubs[:6]:
                async with asyncio.timeout(60.0):
                    found = [e async for e in stub.StreamBatchResults(request, metadata=METADATA)]
                assert sorted(each.item_id for each in found) == sorted(m.item_id for m in messages)
                listed = await stub.ListBatches(
                    batch_pb2.ListBatchesRequest(all_tenants=True),
                    metadata=(("authorization", "Bearer mg-op"),),
                )
                assert [(each.batch_id, each.tenant) for each in listed.batches] == [
                    (batch_id, "team")
                ]
            assert script.chats == 30
            assert len({each.request_id for each in two.accounts}) == 30
            await two.nothing_is_left()
            await _over_http(f"http://{two.http_address}")


async def _over_http(url: str) -> None:
    """Each request may reach another front."""
    headers = {"Authorization": f"Bearer {KEY}"}

    async def ask(method: str, path: str, **sent: Any) -> Any:
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.request(method, url + path, **sent) as response,
        ):
            assert response.status == 200, await response.text()
            text = await response.text()
            return text if path.endswith("/content") else json.loads(text)

    form = aiohttp.FormData()
    form.add_field("purpose", "batch")
    content = b"\n".join(line(f"c{n}", "x" * 20_000, model=MODEL) for n in range(20))
    form.add_field("file", content, filename="in.jsonl")
    file = await ask("POST", "/v1/files", data=form)
    body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "1h"}
    batch = await ask("POST", "/v1/batches", json=body)
    async with asyncio.timeout(60.0):
        while batch["status"] in ("validating", "in_progress"):
            await asyncio.sleep(0.1)
            batch = await ask("GET", f"/v1/batches/{batch['id']}")
    assert batch["request_counts"] == {"total": 20, "completed": 20, "failed": 0}
    output = await ask("GET", f"/v1/files/{batch['output_file_id']}/content")
    assert [json.loads(each)["custom_id"] for each in output.splitlines()] == [
        f"c{n}" for n in range(20)
    ]
    assert (await ask("GET", f"/v1/files/{file['id']}/content")).encode() == content
