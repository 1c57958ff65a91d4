"""The body of `/v1/responses`. Unknown fields are skipped."""

from __future__ import annotations

import msgspec

from gateway.doors.openai.wire.options import ReasoningFields, SamplingFields
from gateway.doors.openai.wire.tools import ChoiceBody


class Part(msgspec.Struct, kw_only=True, gc=False):
    """A part of an item's content. Which field is set depends on the type."""

    type: str = "input_text"
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None


class Item(msgspec.Struct, kw_only=True, gc=False):
    """An item of the input. Without a type it is a message. Which fields are set depends on the
    type."""

    type: str = "message"
    id: str | None = None
    role: str | None = None
    content: str | list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: str | list[Part] | None = None
    summary: list[Part] | None = None
    encrypted_content: str | None = None


class ToolBody(msgspec.Struct, kw_only=True, gc=False):
    """A tool. Types other than `function` are those of servers, which nobody here runs."""

    type: str
    name: str = ""
    description: str | None = None
    parameters: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None


class FormatBody(msgspec.Struct, kw_only=True):
    """`text.format`."""

    type: str = "text"
    name: str = "answer"
    schema: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None


class TextBody(msgspec.Struct, kw_only=True):
    """`text`."""

    format: FormatBody | None = None


class ReasoningBody(ReasoningFields, kw_only=True):
    """`reasoning`. A summary that is asked for is the reasoning itself: open models hide none."""

    summary: str | None = None
    generate_summary: str | None = None


class ResponsesBody(SamplingFields, kw_only=True):
    """The body."""

    model: str
    input: str | list[Item]
    instructions: str | None = None
    stream: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    conversation: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    """Both name what lies on a server, which is not this one."""
    max_output_tokens: int | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
    tools: list[ToolBody] | None = None
    tool_choice: str | ChoiceBody | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningBody | None = None
    text: TextBody | None = None
    metadata: dict[str, str] | None = None
    truncation: str | None = None
    background: bool | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    chat_template_kwargs: msgspec.Raw = msgspec.Raw()


decode_responses = msgspec.json.Decoder(ResponsesBody).decode
