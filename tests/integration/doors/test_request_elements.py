"""Requests of very many elements, over real sockets: refused in every RPC, and large honest ones
reach the engine whole."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import pytest
from aiohttp import web
from google.rpc import error_details_pb2

from moegate.v1 import chat_pb2, generation_pb2
from tests import serving
from tests.known import IDLE_METRICS
from tests.serving import METADATA, Serving, detail

MESSAGES = b"\x0a\x00" * 100_000
REQUEST = b"\x12\xc0\x9a\x0c" + MESSAGES
"""A GenerateRequest whose chat has 100,000 empty messages."""
WRAPPED = b"\x0a\xc4\x9a\x0c" + REQUEST
"""The same as the first field of another message."""
UNKNOWN = b"\xa0\x3e\x00" * 20_000
"""20,000 fields that no message has."""
INFERENCE = "/moegate.v1.InferenceService"
USAGE = "/moegate.v1.UsageService"


def as_is(data: bytes) -> bytes:
    return data


class Recorder:
    """An engine that keeps the bodies of requests and answers each with one token."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        if "messages" in body:  # no probe
            self.bodies.append(body)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        choice = {"index": 0, "delta": {"content": "x"}, "finish_reason": "length"}
        await response.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "up", "max_model_len": 100_000_000}]})

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=IDLE_METRICS)


@pytest.fixture
async def engine() -> AsyncIterator[tuple[Recorder, str]]:
    recorder = Recorder()
    app = web.Application(client_max_size=1 << 28)
    app.router.add_post("/v1/chat/completions", recorder.chat)
    app.router.add_post("/v1/completions", recorder.chat)
    app.router.add_get("/v1/models", recorder.models)
    app.router.add_get("/metrics", recorder.metrics)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield recorder, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def gateway(engine: tuple[Recorder, str]) -> AsyncIterator[Serving]:
    slow = serving.config().slo_classes.interactive
    slow = type(slow)(ttft_s=3600.0, tpot_s=60.0, max_queue_s=3600.0)
    settings = serving.config(
        pools=[serving.pool([engine[1]], upstream_model="up", max_num_seqs=8)], interactive=slow
    )
    async with serving.serving(settings) as running:
        yield running


@pytest.mark.parametrize(
    ("method", "data", "field", "limit"),
    [
        (f"{INFERENCE}/Generate", REQUEST, "chat.messages", "messages"),
        (f"{INFERENCE}/GenerateOnce", WRAPPED, "request.chat.messages", "messages"),
        (f"{INFERENCE}/CountTokens", WRAPPED, "request.chat.messages", "messages"),
        (f"{INFERENCE}/Quote", WRAPPED, "request.chat.messages", "messages"),
        (f"{INFERENCE}/ListModels", UNKNOWN, "request", "unknown_fields"),
        (f"{INFERENCE}/Explain", UNKNOWN, "request", "unknown_fields"),
        (f"{USAGE}/GetSpend", b"\x1a\xd0\x0f" + b"\x01" * 2000, "group_by", "values"),
        ("/moegate.v1.AdminService/SetBudget", UNKNOWN, "request", "unknown_fields"),
    ],
)
async def test_every_rpc_refuses_too_many_elements(
    gateway: Serving, method: str, data: bytes, field: str, limit: str
) -> None:
    call: Awaitable[object]
    if method.endswith("/Generate"):
        call = gateway.channel.unary_stream(method, as_is, as_is)(data, metadata=METADATA).read()
    else:
        call = gateway.channel.unary_unary(method, as_is, as_is)(data, metadata=METADATA)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(caught.value, error_details_pb2.ErrorInfo).reason == "TOO_MANY_ELEMENTS"
    (fault,) = detail(caught.value, error_details_pb2.BadRequest).field_violations
    assert fault.field == field
    assert f"limits.elements.{limit}" in fault.description


@pytest.mark.parametrize("letters", ["a", "é中😀", '\x01"\\\n', "a😀"])
async def test_large_requests_reach_the_engine_whole(
    gateway: Serving, engine: tuple[Recorder, str], letters: str
) -> None:
    text = letters * (400_000 // len(letters))
    image = bytes(range(256)) * 4000
    request = generation_pb2.GenerateRequest(model="moe", max_output_tokens=1)
    said = request.chat.messages.add(role=chat_pb2.ROLE_USER)
    said.parts.add(text=text)
    said.parts.add(image=chat_pb2.ImagePart(data=image, media_type="image/jpg"))
    for i in range(500):
        request.chat.messages.add(role=chat_pb2.ROLE_USER).parts.add(text=f"step {i}")
    seen = await serving.read_stream(gateway.stub.Generate(request, metadata=METADATA))
    assert seen.texts == {0: "x"}
    messages = engine[0].bodies[-1]["messages"]
    url = f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"
    assert messages[0]["content"] == [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    assert [message["content"] for message in messages[1:]] == [f"step {i}" for i in range(500)]
