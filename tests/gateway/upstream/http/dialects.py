"""The two HTTP dialects side by side: a client of each, and the pieces of its streams."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any, Protocol

from gateway.config.gateway import TimeoutsConfig
from gateway.domain.generation import Chat, Chunk, Generation, Message, Role
from gateway.upstream.anthropic.client import AnthropicClient
from gateway.upstream.http.connections import HttpSession
from gateway.upstream.http.loop_load import Pace
from gateway.upstream.openai.client import OpenAIClient

GENERATION = Generation(
    request_id="r",
    model="moe",
    input=Chat(messages=(Message(role=Role.USER, parts=("Hello",)),)),
    max_output_tokens=16,
)
Client = OpenAIClient | AnthropicClient


class Dialect(Protocol):
    """Pieces of a stream, as bytes."""

    def client(
        self,
        session: HttpSession,
        url: str,
        timeouts: TimeoutsConfig,
        pace: Pace | None = None,
    ) -> Client:
        """A client of the server at `url`."""

    def head(self) -> bytes: ...
    def text(self, text: str) -> bytes: ...
    def signs_of_life(self) -> tuple[bytes, ...]:
        """Pieces without output."""

    def finish(self) -> bytes: ...
    def marker(self) -> bytes: ...


def _data(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _event(value: dict[str, Any]) -> bytes:
    return b"event: %s\n" % value["type"].encode() + _data(value)


class OpenAI:
    """OpenAI-shaped."""

    def client(
        self,
        session: HttpSession,
        url: str,
        timeouts: TimeoutsConfig,
        pace: Pace | None = None,
    ) -> Client:
        return OpenAIClient(
            session=session,
            base_url=f"{url}/v1",
            upstream_model="moe",
            api_key=None,
            timeouts=timeouts,
            pace=pace,
        )

    def head(self) -> bytes:
        return _data({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})

    def text(self, text: str) -> bytes:
        return _data({"choices": [{"index": 0, "delta": {"content": text}}]})

    def signs_of_life(self) -> tuple[bytes, ...]:
        return (b": keep-alive\n\n", self.head(), _data({"choices": []}))

    def finish(self) -> bytes:
        return _data({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})

    def marker(self) -> bytes:
        return b"data: [DONE]\n\n"


class Anthropic:
    """Anthropic-shaped."""

    def client(
        self,
        session: HttpSession,
        url: str,
        timeouts: TimeoutsConfig,
        pace: Pace | None = None,
    ) -> Client:
        return AnthropicClient(
            session=session,
            base_url=f"{url}/v1",
            upstream_model="moe",
            api_key=None,
            timeouts=timeouts,
            pace=pace,
        )

    def head(self) -> bytes:
        usage = {"input_tokens": 5, "output_tokens": 1}
        block = {"type": "text", "text": ""}
        return _event({"type": "message_start", "message": {"id": "m", "usage": usage}}) + _event(
            {"type": "content_block_start", "index": 0, "content_block": block}
        )

    def text(self, text: str) -> bytes:
        delta = {"type": "text_delta", "text": text}
        return _event({"type": "content_block_delta", "index": 0, "delta": delta})

    def signs_of_life(self) -> tuple[bytes, ...]:
        return (b": keep-alive\n\n", _event({"type": "ping"}), self.text(""))

    def finish(self) -> bytes:
        usage = {"output_tokens": 2}
        delta = {"stop_reason": "end_turn"}
        return _event({"type": "message_delta", "delta": delta, "usage": usage})

    def marker(self) -> bytes:
        return _event({"type": "message_stop"})


DIALECTS = (OpenAI(), Anthropic())


async def run(
    dialect: Dialect,
    session: HttpSession,
    url: str,
    timeouts: TimeoutsConfig,
    got: list[Chunk],
    generation: Generation = GENERATION,
    deadline_s: float = float("inf"),
    pace: Pace | None = None,
) -> str:
    """The text of one generation; `got` keeps what came before a failure."""
    client = dialect.client(session, url, timeouts, pace)
    async with aclosing(client.stream(generation, deadline_s=deadline_s)) as chunks:
        async for chunk in chunks:
            got.append(chunk)
    return text_of(got)


def text_of(chunks: list[Chunk]) -> str:
    """The text of all chunks."""
    return "".join(delta.text for chunk in chunks for delta in chunk.deltas)
