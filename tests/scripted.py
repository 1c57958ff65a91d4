"""Upstreams that follow a script: what no simulated server would ever do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from gateway.config.gateway import TimeoutsConfig
from gateway.config.telemetry import TelemetryConfig
from scheduler.metering.settlement import Sink
from tests import serving
from tests.known import IDLE_METRICS
from tests.serving import Serving

ROLE = (
    b'data: {"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},'
    b'"finish_reason":null}]}\n\n'
)
ERROR = b'data: {"error":{"message":"EngineCore encountered an issue","code":500}}\n\n'
DONE = b"data: [DONE]\n\n"


def word(number: int, finish: bytes = b"null") -> bytes:
    return (
        b'data: {"model":"m","choices":[{"index":0,"delta":{"content":" w%d"},'
        b'"finish_reason":%b}],"usage":{"prompt_tokens":5,"completion_tokens":%d}}\n\n'
    ) % (number, finish, number)


GOOD = [ROLE, word(1), word(2, b'"length"'), DONE]


@dataclass
class Scripted:
    """An upstream that answers chats by its script; its probes it answers well."""

    frames: Sequence[bytes] = ()
    end: str = "end"
    completions: str = "end"
    pause_s: float = 0.0
    status: int = 200
    context_tokens: Any = 1000
    """As its list of models tells it."""
    metrics: bytes = IDLE_METRICS
    metrics_status: int = 200
    url: str = ""
    chats: int = 0
    probes: int = 0
    """One-token requests."""
    looks: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of the newest chat."""
    body: Any = None
    """Of the newest chat."""
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.chats += 1
        self.headers = request.headers
        self.body = await request.json()
        if self.status != 200:
            error = {"error": {"message": "busy", "code": self.status}}
            return web.json_response(error, status=self.status)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for frame in self.frames:
            await response.write(frame)
            if self.pause_s:
                await asyncio.sleep(self.pause_s)
        if self.end == "cut":
            assert request.transport is not None
            request.transport.abort()
        elif self.end == "hang":
            try:
                await asyncio.sleep(60)
            finally:
                self.left.set()
        return response

    async def completion(self, request: web.Request) -> web.StreamResponse:
        self.probes += 1
        if self.completions == "hang":
            await asyncio.sleep(60)
        body = b'{"model":"m","choices":[{"index":0,"text":"x","finish_reason":"length"}]}'
        return web.Response(
            body=b"data: " + body + b"\n\n" + DONE, content_type="text/event-stream"
        )

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "moe", "max_model_len": self.context_tokens}]})

    async def answer_metrics(self, _: web.Request) -> web.Response:
        self.looks += 1
        return web.Response(body=self.metrics, status=self.metrics_status)


@contextlib.asynccontextmanager
async def listening(*scripts: Scripted) -> AsyncIterator[None]:
    """Scripted upstreams on free ports; each then knows its `url`."""
    async with contextlib.AsyncExitStack() as stack:
        for script in scripts:
            app = web.Application(handler_args={"handler_cancellation": True})
            app.router.add_post("/v1/chat/completions", script.chat)
            app.router.add_post("/v1/completions", script.completion)
            app.router.add_get("/v1/models", script.models)
            app.router.add_get("/metrics", script.answer_metrics)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            script.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield


@contextlib.asynccontextmanager
async def upstreams(
    *scripts: Scripted, sinks: tuple[Sink, ...] = (), telemetry: TelemetryConfig | None = None
) -> AsyncIterator[Serving]:
    """A gateway in front of scripted upstreams, named a, b, c in order."""
    async with listening(*scripts):
        timeouts = TimeoutsConfig(first_token_s=2.0, idle_s=2.0)
        pool = serving.pool([script.url for script in scripts], timeouts=timeouts)
        settings = serving.config(pools=[pool], telemetry=telemetry)
        async with serving.serving(settings, sinks=sinks) as gateway:
            yield gateway
