"""Answers of Chat Completions: whole, and as chunks of a stream."""

from __future__ import annotations

import time
from typing import Any

from gateway.domain.generation import ChoiceDelta, Chunk, FinishReason, ToolCall
from gateway.domain.outcomes import Finished
from gateway.doors.http.answers import encode
from gateway.doors.http.errors import HttpError
from gateway.doors.http.sse import data_event
from gateway.doors.openai.wire.errors import error_object
from gateway.doors.openai.wire.logprobs import token_logprobs
from gateway.doors.openai.wire.reasoning_details import details_of
from gateway.doors.openai.wire.usage import chat_usage

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
FINISH = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.TOOL_CALLS: "tool_calls",
    FinishReason.CONTENT_FILTER: "content_filter",
}


def answer_id(request_id: str) -> str:
    """The id of an answer."""
    return f"chatcmpl-{request_id}"


def whole_answer(
    request_id: str, model: str, choices: list[ChoiceDelta], finished: Finished
) -> dict[str, Any]:
    """The body of a whole answer."""
    return {
        "id": answer_id(request_id),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [_choice(choice) for choice in choices],
        "usage": chat_usage(finished),
    }


def _choice(choice: ChoiceDelta) -> dict[str, Any]:
    # OpenAI's schema wants the first three fields, though two may be null.
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
    }
    if choice.text or not choice.tool_calls:
        message["content"] = choice.text
    if choice.reasoning_text:
        message["reasoning_content"] = choice.reasoning_text
    if choice.tool_calls:
        message["tool_calls"] = [_whole_call(call) for call in choice.tool_calls]
    details = details_of(choice.signatures, choice.tool_calls)
    if details:
        message["reasoning_details"] = details
    logprobs = {"content": token_logprobs(choice.logprobs), "refusal": None}
    return {
        "index": choice.index,
        "message": message,
        "finish_reason": FINISH[choice.finish_reason or FinishReason.STOP],
        "logprobs": logprobs if choice.logprobs else None,
    }


def _whole_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments_json}
    return {"id": call.id, "type": "function", "function": function}


class ChatEvents:
    """Chunks of one stream. `include_usage`: whether the last one tells the usage."""

    def __init__(self, request_id: str, model: str, *, choices: int, include_usage: bool) -> None:
        self._head = {
            "id": answer_id(request_id),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        self._choices = choices
        self._include_usage = include_usage

    def opening(self) -> bytes:
        """One chunk for each choice, with the role."""
        role = {"role": "assistant", "content": ""}
        return b"".join(self._chunk(i, role, None) for i in range(self._choices))

    def chunk(self, chunk: Chunk) -> bytes:
        """New output. The end of a choice is a chunk of its own, as clients expect."""
        found = []
        for delta in chunk.deltas:
            fields = _delta(delta)
            if fields or delta.logprobs:
                found.append(self._chunk(delta.index, fields, None, delta))
            if delta.finish_reason is not None:
                found.append(self._chunk(delta.index, {}, FINISH[delta.finish_reason]))
        return b"".join(found)

    def finished(self, finished: Finished) -> bytes:
        """The usage, if it is wanted, and the end."""
        if not self._include_usage:
            return DONE
        last = self._head | {"choices": [], "usage": chat_usage(finished)}
        return data_event(encode(last)) + DONE

    def failed(self, error: HttpError) -> bytes:
        """The error in place of the rest."""
        return data_event(encode({"error": error_object(error)}))

    def _chunk(
        self,
        index: int,
        fields: dict[str, Any],
        finish: str | None,
        delta: ChoiceDelta | None = None,
    ) -> bytes:
        choice: dict[str, Any] = {"index": index, "delta": fields, "finish_reason": finish}
        if delta is not None and delta.logprobs:
            choice["logprobs"] = {"content": token_logprobs(delta.logprobs), "refusal": None}
        return data_event(encode(self._head | {"choices": [choice]}))


def _delta(delta: ChoiceDelta) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if delta.reasoning_text:
        fields["reasoning_content"] = delta.reasoning_text
    if delta.text:
        fields["content"] = delta.text
    if delta.tool_calls:
        fields["tool_calls"] = [_call_piece(call) for call in delta.tool_calls]
    details = details_of(delta.signatures, delta.tool_calls)
    if details:
        fields["reasoning_details"] = details
    return fields


def _call_piece(call: ToolCall) -> dict[str, Any]:
    """A piece of a tool call. The first one has the id and the name."""
    function: dict[str, str] = {"arguments": call.arguments_json}
    piece: dict[str, Any] = {"index": call.index, "function": function}
    if call.id:
        piece["id"] = call.id
        piece["type"] = "function"
    if call.name:
        function["name"] = call.name
    return piece
