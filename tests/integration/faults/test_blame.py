"""Whose fault it is, on real sockets: a request that kills engines, a replica that rejects what
others take, and a tenant whose requests fail. Honest tenants are served throughout."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import msgspec
import pytest
from aiohttp import web
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from gateway.config.gateway import KeyConfig, TenantConfig
from gateway.config.resolve.api_keys import key_sha256
from moegate.v1 import chat_pb2, generation_pb2
from scheduler.limits.breaker import BreakerPhase
from tests import serving
from tests.known import IDLE_METRICS
from tests.serving import METADATA, MODEL, Serving, chat_request, read_stream

HOSTILE = (("authorization", "Bearer mg-hostile"),)
SCHEMA = '{"type": "object", "properties": {"a": {"type": "string", "pattern": "(a+)+"}}}'
WORDS = [" w1", " w2"]

Answer = Callable[[dict[str, Any]], str]
"""What becomes of a request: "ok", "500", "400", "empty", "cut" or "die"."""


@dataclass
class Engine:
    """A server whose behaviour depends on the request. `asked`: bodies of generations."""

    behaves: Answer
    url: str = ""
    alive: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list)
    _open: set[asyncio.Transport] = field(default_factory=set)
    _site: web.TCPSite | None = None
    _stopping: list[asyncio.Task[None]] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.generate)
        app.router.add_post("/v1/completions", self.probe)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/metrics", self.metrics)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            self._site = web.TCPSite(runner, "127.0.0.1", 0)
            await self._site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield
        finally:
            await runner.cleanup()
            await asyncio.gather(*self._stopping)

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        self.asked.append(body)
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        self._open.add(transport)
        try:
            await asyncio.sleep(0.005)
            match self.behaves(body):
                case "500":
                    return web.json_response({"error": {"message": "it broke"}}, status=500)
                case "400":
                    error = {"error": {"message": "no chat template", "code": 400}}
                    return web.json_response(error, status=400)
                case "cut":
                    transport.abort()
                    return web.Response()
                case "die":
                    self.die()
                    return web.Response()
                case "empty":
                    return await self._stream(request, [])
                case _:
                    return await self._stream(request, WORDS)
        finally:
            self._open.discard(transport)

    def die(self) -> None:
        """The process is gone: connections break, and no new one is accepted."""
        self.alive = False
        assert self._site is not None
        for transport in self._open:
            transport.abort()
        self._stopping.append(asyncio.ensure_future(self._site.stop()))

    async def _stream(self, request: web.Request, words: list[str]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for word in words:
            await response.write(_frame({"index": 0, "delta": {"content": word}}))
        last = {"index": 0, "delta": {}, "finish_reason": "stop"}
        await response.write(_frame(last, {"prompt_tokens": 5, "completion_tokens": len(words)}))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def probe(self, request: web.Request) -> web.StreamResponse:
        body = b'{"model":"moe","choices":[{"index":0,"text":"x","finish_reason":"length"}]}'
        answer = b"data: " + body + b"\n\ndata: [DONE]\n\n"
        return web.Response(body=answer, content_type="text/event-stream")

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": MODEL, "max_model_len": 1000}]})

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=IDLE_METRICS)


def _frame(choice: dict[str, Any], usage: dict[str, int] | None = None) -> bytes:
    frame = {"model": MODEL, "choices": [choice], **({"usage": usage} if usage else {})}
    return b"data: " + json.dumps(frame).encode() + b"\n\n"


@contextlib.asynccontextmanager
async def fleet(*engines: Engine) -> AsyncIterator[Serving]:
    """A gateway before these engines, with an honest and a hostile tenant."""
    async with contextlib.AsyncExitStack() as stack:
        for engine in engines:
            await stack.enter_async_context(engine.listening())
        urls = [engine.url for engine in engines]
        settings = serving.config(
            pools=[serving.pool(urls, max_num_seqs=16)], interactive=serving.PATIENT
        )
        key = KeyConfig(id="hostile", sha256=key_sha256("mg-hostile"))
        tenants = (*settings.tenants, TenantConfig(name="hostile", keys=(key,)))
        settings = msgspec.structs.replace(settings, tenants=tenants)
        yield await stack.enter_async_context(serving.serving(settings))


async def serve_honestly(served: Serving, count: int, *, pause_s: float = 0.0) -> list[str]:
    """Different requests of the honest tenant, one after the other; the placements that
    answered."""
    placements = []
    for number in range(count):
        call = served.stub.Generate(chat_request(f"honest {number}"), metadata=METADATA)
        seen = await read_stream(call)
        assert seen.texts == {0: "".join(WORDS)}
        assert seen.done is not None
        placements.append(seen.done.route.attempts[-1].placement)
        await asyncio.sleep(pause_s)
    return placements


async def serve_honestly_everywhere(served: Serving, engines: list[Engine]) -> None:
    """Requests of the honest tenant until every server has answered one."""
    async with asyncio.timeout(serving.READY_S):
        while not all(engine.asked for engine in engines):
            await serve_honestly(served, 1)


async def refused(
    served: Serving, request: generation_pb2.GenerateRequest
) -> tuple[grpc.StatusCode, str, bool]:
    """Status of a hostile request, its reason, and whether it may be sent again."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_stream(served.stub.Generate(request, metadata=HOSTILE))
    status = rpc_status.from_call(caught.value)
    reason, retry = "", False
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            reason = info.reason
        retry = retry or detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR)
    return caught.value.code(), reason, retry


def text_of(body: dict[str, Any]) -> str:
    return json.dumps(body["messages"])


def with_schema(text: str) -> generation_pb2.GenerateRequest:
    schema = chat_pb2.JsonSchemaFormat(name="s", schema_json=SCHEMA)
    made = chat_request(text)
    made.chat.response_format.json_schema.CopyFrom(schema)
    return made


async def phases(served: Serving) -> set[BreakerPhase]:
    figures = await served.gateway.scheduler.figures()
    return set(figures.breaker_phases.values())


@pytest.mark.parametrize("harm", ["die", "cut", "500"])
async def test_one_request_hurts_two_servers_at_most_whatever_its_client_retries(
    harm: str,
) -> None:
    engines = [Engine(lambda body: harm if "poison" in text_of(body) else "ok") for _ in range(6)]
    async with fleet(*engines) as served:
        await serve_honestly_everywhere(served, engines)

        async def attack() -> list[tuple[grpc.StatusCode, str, bool]]:
            told = []
            for _ in range(8):
                told.append(await refused(served, chat_request("poison")))
                await asyncio.sleep(0.05)
            return told

        told, *_ = await asyncio.gather(
            attack(), *(serve_honestly(served, 30, pause_s=0.01) for _ in range(3))
        )
        assert told == [(grpc.StatusCode.FAILED_PRECONDITION, "QUARANTINED", False)] * 8
        hurt = [e for e in engines if any("poison" in text_of(body) for body in e.asked)]
        assert len(hurt) == 2
        if harm == "die":
            assert sum(engine.alive for engine in engines) == 4
        else:
            assert await phases(served) == {BreakerPhase.CLOSED}


@pytest.mark.parametrize("answer", ["400", "empty", "500"])
async def test_a_replica_that_fails_what_another_takes_leaves_service(answer: str) -> None:
    bad, good = Engine(lambda _: answer), Engine(lambda _: "ok")
    async with fleet(bad, good) as served:
        await serve_honestly(served, 60)
        assert len(bad.asked) < 5 + (answer == "500")
        assert BreakerPhase.OPEN in await phases(served)
        figures = await served.gateway.scheduler.figures()
        shares = {p.name: p.error_share for p in figures.snapshot.placements}
        assert shares["own/b"] == 0.0
        assert shares["own/a"] > 0.0


async def test_a_replica_without_a_feature_keeps_serving_the_rest() -> None:
    lacks = Engine(lambda body: "400" if "response_format" in body else "ok")
    has = Engine(lambda _: "ok")
    async with fleet(lacks, has) as served:
        for number in range(30):
            # Two at once, of which each server gets one, whichever of them answered faster so far.
            await asyncio.gather(*(serve_honestly(served, 1) for _ in range(2)))
            made = with_schema(f"schema {number}")
            seen = await read_stream(served.stub.Generate(made, metadata=METADATA))
            assert seen.texts == {0: "".join(WORDS)}
        assert sum("response_format" in body for body in lacks.asked) < 5
        assert sum("response_format" not in body for body in lacks.asked) >= 15


async def test_a_tenant_whose_requests_fail_everywhere_takes_no_server_from_another() -> None:
    """Different prompts with one legal schema, which the servers answer with 500."""
    engines = [Engine(lambda body: "500" if "response_format" in body else "ok") for _ in range(2)]
    async with fleet(*engines) as served:
        await serve_honestly_everywhere(served, engines)

        async def attack() -> None:
            for number in range(60):
                await refused(served, with_schema(f"hostile {number}"))
                await asyncio.sleep(0.02)

        async def watch() -> set[BreakerPhase]:
            seen = set()
            for _ in range(60):
                seen |= await phases(served)
                await asyncio.sleep(0.02)
            return seen

        *_, seen = await asyncio.gather(
            attack(), serve_honestly(served, 103, pause_s=0.01), watch()
        )
        assert seen == {BreakerPhase.CLOSED}
        reached = sum("response_format" in body for engine in engines for body in engine.asked)
        assert reached <= 12, "the schema itself is refused after a few of its requests"
        code, reason, retry = await refused(served, with_schema("another"))
        assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "QUARANTINED")
        assert not retry


async def test_a_fleet_that_fails_everybody_quarantines_nobody_for_long() -> None:
    """What fails here is not the request: it may be sent again, and is told so."""
    down = False
    engines = [Engine(lambda _: "500" if down else "ok") for _ in range(2)]
    async with fleet(*engines) as served:
        await serve_honestly_everywhere(served, engines)
        down = True
        told = [await refused(served, chat_request(f"honest too {n}")) for n in range(12)]
        assert sum(reason == "QUARANTINED" for _, reason, _ in told) <= 1
        assert all(retry for _, reason, retry in told if reason != "QUARANTINED")
        down = False
