"""The body of `/v1/chat/completions`. Unknown fields are skipped."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.doors.openai.wire.options import ReasoningFields, SamplingFields, ThinkingFields
from gateway.doors.openai.wire.reasoning_details import Detail
from gateway.doors.openai.wire.tools import ChoiceBody, FunctionBody, SchemaBody


class ImageUrl(msgspec.Struct, kw_only=True, gc=False):
    """The address of an image."""

    url: str


class Part(msgspec.Struct, kw_only=True, gc=False):
    """A part of a message's content. Which field is set depends on the type."""

    type: str = "text"
    text: str | None = None
    refusal: str | None = None
    thinking: str | list[Part] | None = None
    image_url: ImageUrl | str | None = None


class CallFunction(msgspec.Struct, kw_only=True, gc=False):
    """The function of a tool call. Some clients send the arguments as an object."""

    name: str = ""
    arguments: msgspec.Raw = msgspec.Raw()


class CustomCall(msgspec.Struct, kw_only=True, gc=False):
    """A call of a custom tool."""

    name: str = ""
    input: str = ""


class Call(msgspec.Struct, kw_only=True, gc=False):
    """A tool call of an assistant's message."""

    id: str | None = None
    type: str | None = None
    function: CallFunction | None = None
    custom: CustomCall | None = None


class MessageBody(msgspec.Struct, kw_only=True, gc=False):
    """One message. The reasoning stands in one of two fields, by the server that the client
    knows."""

    role: str
    content: str | list[Part | str] | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[Detail] | None = None


class ToolBody(msgspec.Struct, kw_only=True, gc=False):
    """A tool."""

    type: str = "function"
    function: FunctionBody | None = None


class FormatBody(msgspec.Struct, kw_only=True):
    """`response_format`."""

    type: str = "text"
    json_schema: SchemaBody | None = None


class ConstraintBody(msgspec.Struct, kw_only=True):
    """`structured_outputs` of vLLM."""

    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


class StreamOptions(msgspec.Struct, kw_only=True):
    """`stream_options`."""

    include_usage: bool | None = None


class ChatBody(SamplingFields, kw_only=True):
    """The body."""

    model: str
    messages: list[MessageBody]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[ToolBody] | None = None
    tool_choice: str | ChoiceBody | None = None
    parallel_tool_calls: bool | None = None
    response_format: FormatBody | None = None
    structured_outputs: ConstraintBody | None = None
    reasoning_effort: str | None = None
    reasoning: ReasoningFields | None = None
    thinking: ThinkingFields | None = None
    chat_template_kwargs: msgspec.Raw = msgspec.Raw()
    prompt_cache_key: str | None = None
    safety_identifier: Any = None
    user: Any = None


decode_chat = msgspec.json.Decoder(ChatBody).decode
