"""The pages by plain HTTP: what each shows of a real gateway, to each role."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import msgspec
import pytest

from gateway.config.gateway import KeyConfig, KeyRole, TenantConfig
from gateway.config.resolve.api_keys import key_sha256
from gateway.doors.console.pages.requests import PAGE_ROWS
from moegate.v1 import batch_pb2, batch_pb2_grpc
from tests import serving
from tests.console_serving import (
    ADMIN,
    CALLER,
    OPERATOR,
    Reader,
    ServingConsole,
    Shown,
    console_keys,
    serving_console,
)
from tests.scripted import GOOD, Scripted, listening
from tests.serving import MODEL, chat_request, read_stream


@contextlib.asynccontextmanager
async def console(*tenants: TenantConfig) -> AsyncIterator[ServingConsole]:
    """A gateway with one engine, and a console. `tenants`: beside the usual one."""
    engine = Scripted(GOOD)
    async with listening(engine):
        settings = serving.config(pools=[serving.pool([engine.url])], keys=console_keys())
        settings = msgspec.structs.replace(settings, tenants=(*settings.tenants, *tenants))
        async with serving_console(settings) as served:
            yield served


async def generate(served: ServingConsole, key: str, count: int = 1) -> None:
    metadata = (("authorization", f"Bearer {key}"),)
    for _ in range(count):
        done = (
            await read_stream(served.serving.stub.Generate(chat_request(), metadata=metadata))
        ).done
        assert done is not None


async def booked(reader: Reader, path: str, words: str) -> Shown:
    """The page, once it shows what the gateway writes in its own time."""
    found: list[Shown] = []

    async def look() -> bool:
        found[:] = [await reader.get(path)]
        return words in found[0].words

    await eventually(look)
    return found[0]


async def eventually(look: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(serving.READY_S):
        while not await look():
            await asyncio.sleep(0.05)


async def test_the_fleet_shows_groups_queue_and_remotes() -> None:
    async with console() as served, served.reader(OPERATOR) as reader:
        shown = await reader.get("/fleet")
        assert "1 of 1 group in service, 0 requests run, 0 wait" in shown.words
        assert "own/a serves" in shown.words
        assert "Nothing waits." in shown.words
        assert "There are none: what does not fit here" in shown.words


async def test_one_watch_serves_all_operators() -> None:
    async with console() as served, contextlib.AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(served.reader(OPERATOR)) for _ in range(5)]
        for reader in readers:
            assert (await reader.get("/fleet", X_Moegate_Live="1")).status == 200
        assert served.serving.gateway.watches.open_streams == 1


async def test_models_are_those_of_the_key() -> None:
    async with console() as served, served.reader(CALLER) as reader:
        shown = await reader.get("/models")
        assert f"{MODEL} generates 1 of 1 serve none" in shown.words
        assert "1 model." in shown.words


@pytest.mark.parametrize(("key", "rows"), [(OPERATOR, 3), (ADMIN, 3), (CALLER, 1)])
async def test_requests_are_those_that_the_role_sees(key: str, rows: int) -> None:
    async with console() as served:
        await generate(served, CALLER)
        await generate(served, ADMIN, 2)
        async with served.reader(OPERATOR) as reader:
            await booked(reader, "/requests?key_id=admin", "ok own/a")

            async def all_booked() -> bool:
                return (await reader.get("/requests")).text.count('class="state good"') == 3

            await eventually(all_booked)
        async with served.reader(key) as reader:
            assert (await reader.get("/requests")).text.count('class="state good"') == rows
            other = await reader.get("/requests?tenant=elsewhere")
            assert other.status == (200 if key == OPERATOR else 403)


async def test_requests_are_filtered_sorted_and_paged() -> None:
    async with console() as served, served.reader(OPERATOR) as reader:
        await generate(served, CALLER, PAGE_ROWS + 2)

        async def all_booked() -> bool:
            return (
                "page=2" in (await reader.get("/requests")).text
                and (await reader.get("/requests?page=2")).text.count('class="state good"') == 2
            )

        await eventually(all_booked)
        second = await reader.get("/requests?page=2&order=tokens&model=moe")
        assert second.text.count('class="state good"') == 2
        assert 'aria-sort="descending"' in second.text
        assert 'href="/requests?order=tokens&amp;model=moe&amp;page=1"' in second.text
        assert "No request fits" in (await reader.get("/requests?model=other")).words
        assert "No request fits" in (await reader.get("/requests?outcome=failed")).words
        for wrong in ("page=0", "page=x", "page=21", "order=x", "span=x", "min_usd=much"):
            assert (await reader.get(f"/requests?{wrong}")).status == 400, wrong


async def test_one_request_shows_its_attempts_and_its_decision() -> None:
    async with console() as served, served.reader(OPERATOR) as reader:
        await generate(served, CALLER)
        listed = await booked(reader, "/requests", "ok own/a")
        link = re.search(r'href="(/requests/one[^"]+)"', listed.text)
        assert link is not None
        path = link[1].replace("&amp;", "&")
        shown = await reader.get(path)
        assert shown.status == 200, shown.words
        assert "Attempt 1, decided" in shown.words
        assert "own/a taken" in shown.words
        assert "team, caller" in shown.words
        async with served.reader(ADMIN) as admin:
            seen = await admin.get(path)
            assert "told to the key that sent the request" in seen.words
            assert "1 own/a ok" in seen.words
        assert (await reader.get("/requests/one?id=nothing")).status == 404
        assert (await reader.get("/requests/one?id=x&from=y")).status == 400


async def test_jobs_of_the_batch_lane_are_shown_and_stopped() -> None:
    async with console() as served, served.reader(CALLER) as reader:
        empty = (await reader.get("/batches")).words
        assert "team has no jobs." in empty
        assert "Jobs of all tenants" not in empty
        async with served.reader(OPERATOR) as operator:
            assert "No tenant has jobs." in (await operator.get("/batches")).words
        stub = batch_pb2_grpc.BatchServiceStub(served.serving.channel)
        items = [
            batch_pb2.SubmitBatchRequest(item_id=f"i{number}", request=chat_request())
            for number in range(3)
        ]
        metadata = (("authorization", f"Bearer {CALLER}"),)
        batch = (await stub.SubmitBatch(iter(items), metadata=metadata)).batch
        path = f"/batches/{batch.batch_id}"
        assert batch.batch_id in (await reader.get("/batches")).words
        shown = await booked(reader, path, "of 3 requests have ended")
        stopped = await reader.post(f"{path}/stop", {"csrf": shown.csrf})
        assert stopped.status in (200, 409)  # it may have ended by itself
        assert (await reader.get("/batches/nothing")).status == 404


async def test_an_operator_sees_the_jobs_of_other_tenants() -> None:
    other = KeyConfig(id="outside", sha256=key_sha256("mg-outside"), role=KeyRole.OPERATOR)
    asks = KeyConfig(id="asks", sha256=key_sha256("mg-asks"))
    tenant = TenantConfig(name="platform", keys=(other, asks))
    async with console(tenant) as served:
        stub = batch_pb2_grpc.BatchServiceStub(served.serving.channel)
        item = batch_pb2.SubmitBatchRequest(item_id="one", request=chat_request())
        metadata = (("authorization", f"Bearer {CALLER}"),)
        batch = (await stub.SubmitBatch(iter([item]), metadata=metadata)).batch
        assert batch.tenant == "team"
        path = f"/batches/{batch.batch_id}"
        async with served.reader("mg-outside") as reader:
            listed = await reader.get("/batches")
            assert "Jobs of all tenants, newest first" in listed.words
            assert f"{batch.batch_id} team" in listed.words
            shown = await reader.get(path)
            assert "Tenant team" in shown.words
            assert "Stop this job" not in shown.words
        async with served.reader("mg-asks") as reader:
            assert "platform has no jobs." in (await reader.get("/batches")).words
            assert (await reader.get(path)).status == 404
        every = batch_pb2.ListBatchesRequest(all_tenants=True)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ListBatches(every, metadata=metadata)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
