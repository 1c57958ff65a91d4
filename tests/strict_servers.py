"""Remote APIs that refuse wrong histories as their originals do, on real sockets.

Each answers a question with reasoning and a tool call, and the tool's result with a text. Before,
it checks the earlier turns: fields that it does not know, reasoning that it wants, signatures that
it did not make.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from aiohttp import web

from gateway.config.remote import HistoryConfig, ReasoningField, RemoteApi
from tests.misbehaving import on_a_port

Json = dict[str, Any]
REASONING = "Let me look."
ANSWER = "It is 42."
PLACEHOLDER = "skip_thought_signature_validator"
_numbers = itertools.count(1)


@dataclass(slots=True)
class StrictServer:
    """One API. `bodies`, `headers`: what was asked; `made`: signatures that it made."""

    bodies: list[Json] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    made: set[str] = field(default_factory=set)
    url: str = ""

    api: ClassVar[RemoteApi] = RemoteApi.OPENAI
    history: ClassVar[HistoryConfig | None] = None
    known_fields: ClassVar[frozenset[str]] = frozenset(
        {"role", "content", "name", "tool_calls", "tool_call_id"}
    )
    known_call_fields: ClassVar[frozenset[str]] = frozenset({"id", "type", "function"})

    def problem(self, messages: list[Json]) -> str | None:
        """What is wrong with the messages; None: nothing."""
        for i, message in enumerate(messages):
            if unknown := message.keys() - self.known_fields:
                return f"messages[{i}]: unknown field {min(unknown)}"
            for call in message.get("tool_calls", ()):
                if unknown := call.keys() - self.known_call_fields:
                    return f"messages[{i}]: unknown field {min(unknown)} of a tool call"
            if found := self.turn_problem(message):
                return f"{found} at message index {i}"
        return None

    def turn_problem(self, message: Json) -> str | None:
        """What is wrong with one message that has no unknown field."""
        return None

    def deltas(self) -> Iterator[Json]:
        """Reasoning and a tool call, in pieces."""
        yield {"role": "assistant", "content": ""}
        yield {"reasoning_content": REASONING}
        yield {"tool_calls": [self.call()]}

    def call(self) -> Json:
        function = {"name": "look", "arguments": "{}"}
        number = next(_numbers)
        return {"index": 0, "id": f"call_{number}", "type": "function", "function": function}

    def sign(self) -> str:
        """A new signature."""
        signature = base64.b64encode(f"signature {next(_numbers)}".encode()).decode()
        self.made.add(signature)
        return signature

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if problem := self.problem(body["messages"]):
            error = {"message": problem, "type": "invalid_request_error"}
            return web.json_response({"error": error}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for frame in self.frames(after_tool=self.is_after_tool(body["messages"])):
            await response.write(frame)
        return response

    def is_after_tool(self, messages: list[Json]) -> bool:
        return bool(messages[-1]["role"] == "tool")

    def frames(self, *, after_tool: bool) -> Iterator[bytes]:
        deltas = self.answer() if after_tool else self.deltas()
        for delta in deltas:
            yield _data({"model": "m", "choices": [{"index": 0, "delta": delta}]})
        reason = "stop" if after_tool else "tool_calls"
        choice = {"index": 0, "delta": {}, "finish_reason": reason}
        usage = {"prompt_tokens": 5, "completion_tokens": 9}
        yield _data({"model": "m", "choices": [choice], "usage": usage})
        yield b"data: [DONE]\n\n"

    def answer(self) -> Iterator[Json]:
        yield {"content": ANSWER}


class Plain(StrictServer):
    """Knows OpenAI's fields and no others."""

    def deltas(self) -> Iterator[Json]:
        yield {"tool_calls": [self.call()]}


class DeepSeek(StrictServer):
    """Wants `reasoning_content` in turns with tool calls; the empty text suffices."""

    history = HistoryConfig(reasoning_field=ReasoningField.REASONING_CONTENT)
    known_fields = StrictServer.known_fields | {"reasoning_content"}

    def turn_problem(self, message: Json) -> str | None:
        if message.get("tool_calls") and "reasoning_content" not in message:
            return "Missing `reasoning_content` field in the assistant message"
        return None


class Gemini(StrictServer):
    """Wants its signature with each tool call, or the placeholder; signs texts, too."""

    history = HistoryConfig(placeholder_signature=PLACEHOLDER)
    known_fields = StrictServer.known_fields | {"extra_content"}
    known_call_fields = StrictServer.known_call_fields | {"extra_content"}

    def turn_problem(self, message: Json) -> str | None:
        signed = message.get("tool_calls", [])[:1]  # the others of parallel calls need none
        signed += [message] if "extra_content" in message else []
        for part in signed:
            extra = part.get("extra_content", {})
            signature = extra.get("google", {}).get("thought_signature")
            if signature is None:
                return "Function call is missing a thought_signature in functionCall parts"
            if signature not in self.made | {PLACEHOLDER}:
                return "Corrupted thought signature"
        return None

    def call(self) -> Json:
        extra = {"google": {"thought_signature": self.sign()}}
        return {**StrictServer.call(self), "extra_content": extra}

    def deltas(self) -> Iterator[Json]:
        yield {"role": "assistant", "tool_calls": [self.call()]}

    def answer(self) -> Iterator[Json]:
        yield {"content": ANSWER}
        yield {"content": "", "extra_content": {"google": {"thought_signature": self.sign()}}}


class OpenRouter(StrictServer):
    """Streams `reasoning_details`, and wants each of them back whole or not at all."""

    known_fields = StrictServer.known_fields | {"reasoning_details"}

    def turn_problem(self, message: Json) -> str | None:
        details = message.get("reasoning_details", [])
        if [detail["index"] for detail in details] != list(range(len(details))):
            return "reasoning_details out of order"
        for detail in details:
            if detail["type"] == "reasoning.text" and detail["text"] != REASONING:
                return "a changed text"
            if (detail.get("signature") or detail.get("data")) not in self.made:
                return "Invalid signature"
        return None

    def deltas(self) -> Iterator[Json]:
        text: Json = {"type": "reasoning.text", "index": 0, "format": "anthropic-claude-v1"}
        for word in REASONING.split(" ", 1):
            piece = word if word.endswith(".") else f"{word} "
            yield {"reasoning": piece, "reasoning_details": [{**text, "text": piece}]}
        sealed = {"type": "reasoning.encrypted", "index": 1, "data": self.sign()}
        yield {"reasoning_details": [{**text, "signature": self.sign()}, sealed]}
        yield {"tool_calls": [self.call()]}


class Anthropic(StrictServer):
    """Signs its thinking, and wants what it signed before its own tool calls."""

    api = RemoteApi.ANTHROPIC

    def problem(self, messages: list[Json]) -> str | None:
        for i, message in enumerate(messages):
            thought = False
            for j, block in enumerate(message["content"]):
                where = f"messages.{i}.content.{j}"
                match block["type"]:
                    case "thinking" | "redacted_thinking":
                        signature = block.get("signature", block.get("data"))
                        if (
                            signature not in self.made
                            or block.get("thinking", REASONING) != REASONING
                        ):
                            return f"{where}: Invalid `signature` in `thinking` block"
                        thought = True
                    case "tool_use" if block["id"] in self.made and not thought:
                        return f"{where}: Expected `thinking`, but found `tool_use`"
        return None

    def is_after_tool(self, messages: list[Json]) -> bool:
        return bool(messages[-1]["content"][0]["type"] == "tool_result")

    def frames(self, *, after_tool: bool) -> Iterator[bytes]:
        yield _event({"type": "message_start", "message": {"usage": {"input_tokens": 5}}})
        blocks = [{"type": "text", "text": ANSWER}] if after_tool else [*self.thinking()]
        for index, block in enumerate(blocks):
            yield from self.block_events(index, block)
        reason = "end_turn" if after_tool else "tool_use"
        end = {"delta": {"stop_reason": reason}, "usage": {"output_tokens": 9}}
        yield _event({"type": "message_delta", **end})
        yield _event({"type": "message_stop"})

    def thinking(self) -> Iterator[Json]:
        yield {"type": "thinking", "thinking": REASONING, "signature": self.sign()}
        yield {"type": "redacted_thinking", "data": self.sign()}
        call_id = f"toolu_{next(_numbers)}"
        self.made.add(call_id)
        yield {"type": "tool_use", "id": call_id, "name": "look", "input": {}}

    def block_events(self, index: int, block: Json) -> Iterator[bytes]:
        start, deltas = dict(block), []
        if block["type"] == "text":
            start["text"] = ""
            deltas.append({"type": "text_delta", "text": block["text"]})
        elif block["type"] == "thinking":
            start |= {"thinking": "", "signature": ""}
            deltas.append({"type": "thinking_delta", "thinking": block["thinking"]})
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        yield _event({"type": "content_block_start", "index": index, "content_block": start})
        for delta in deltas:
            yield _event({"type": "content_block_delta", "index": index, "delta": delta})
        yield _event({"type": "content_block_stop", "index": index})


class DeepSeekMessages(Anthropic):
    """DeepSeek behind the Messages API: thinking before every tool call, signed or not."""

    history = HistoryConfig(reasoning_field=ReasoningField.THINKING)

    def problem(self, messages: list[Json]) -> str | None:
        for i, message in enumerate(messages):
            kinds = [block["type"] for block in message["content"]]
            if "tool_use" in kinds and kinds[0] != "thinking":
                found = "The `content[].thinking` in the thinking mode must be passed back"
                return f"messages.{i}: {found}"
        return None


KINDS: tuple[type[StrictServer], ...] = (
    *(Plain, DeepSeek, Gemini, OpenRouter, Anthropic, DeepSeekMessages),
)


@contextlib.asynccontextmanager
async def strict_server(kind: type[StrictServer]) -> AsyncIterator[StrictServer]:
    """Serves one on a free port."""
    server = kind()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.generate)
    app.router.add_post("/v1/messages", server.generate)
    async with on_a_port(app) as server.url:
        yield server


def _data(value: Json) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _event(value: Json) -> bytes:
    return f"event: {value['type']}\n".encode() + _data(value)
