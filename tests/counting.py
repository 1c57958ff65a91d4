"""An upstream that writes down what it served: the truth that a ledger is held against."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from tests.known import IDLE_METRICS
from tests.misbehaving import on_a_port

ROLE = (
    b'data: {"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},'
    b'"finish_reason":null}]}\n\n'
)
DONE = b"data: [DONE]\n\n"


@dataclass
class Counting:
    """Answers chats and prompts of token ids with `max_tokens` words, one at a time.

    A prompt of token ids has so many tokens, a chat has 20. `tokens`: what was read and written, of
    every request, whether its answer arrived or not.
    """

    pause_s: float = 0.0
    tokens: int = 0
    requests: int = 0
    running: int = 0
    url: str = ""
    runs_by_text: Counter[str] = field(default_factory=Counter)
    """Chats, by the text of their last message."""
    tokens_by_text: Counter[str] = field(default_factory=Counter)
    answers: int = 0
    """Answers that ended."""
    last_answer: float = math.inf
    """Answers beyond so many do not end until it is raised."""

    async def generate(self, request: web.Request) -> web.StreamResponse:
        self.running += 1
        try:
            return await self._generate(request)
        except ConnectionError:  # the gateway was killed
            return web.Response()
        finally:
            self.running -= 1

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = msgspec.json.decode(await request.read())
        prompt = body.get("prompt")
        prompt_tokens = len(prompt) if isinstance(prompt, list) else 20
        output_tokens = int(body.get("max_tokens") or body.get("max_completion_tokens") or 1)
        is_chat = "messages" in body
        counts = is_chat or isinstance(prompt, list)  # a probe is nobody's request
        self.requests += counts
        self.tokens += counts * prompt_tokens
        text = _text(body["messages"]) if is_chat else ""
        self.runs_by_text[text] += 1
        self.tokens_by_text[text] += prompt_tokens
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if is_chat:
            await response.write(ROLE)
        for number in range(1, output_tokens + 1):
            self.tokens += counts  # computed, whether it can still be sent or not
            self.tokens_by_text[text] += 1
            finish = '"length"' if number == output_tokens else "null"
            piece = f'"delta":{{"content":" w{number}"}}' if is_chat else f'"text":" w{number}"'
            frame = (
                f'data: {{"model":"m","choices":[{{"index":0,{piece},"finish_reason":{finish}}}],'
                f'"usage":{{"prompt_tokens":{prompt_tokens},"completion_tokens":{number}}}}}\n\n'
            )
            await response.write(frame.encode())
            if self.pause_s:
                await asyncio.sleep(self.pause_s)
        while self.answers >= self.last_answer:
            await asyncio.sleep(0.01)
        self.answers += 1
        await response.write(DONE)
        return response

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "moe", "max_model_len": 1_000_000}]})

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=IDLE_METRICS)


def _text(messages: list[dict[str, Any]]) -> str:
    content = messages[-1]["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


@contextlib.asynccontextmanager
async def counting(upstream: Counting, port: int = 0) -> AsyncIterator[None]:
    """Listens. `port`: 0: a free one."""
    app = web.Application(handler_args={"handler_cancellation": True}, client_max_size=1 << 26)
    app.router.add_post("/v1/chat/completions", upstream.generate)
    app.router.add_post("/v1/completions", upstream.generate)
    app.router.add_get("/v1/models", upstream.models)
    app.router.add_get("/metrics", upstream.metrics)
    async with on_a_port(app, port) as upstream.url:
        yield
