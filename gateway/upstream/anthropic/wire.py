"""JSON that an Anthropic-shaped server answers with: only the fields that are read.

Everything may be absent or null, unknown fields and events are skipped. One struct serves all
events: `type` says which of its fields are there.
"""

from __future__ import annotations

from typing import Any

import msgspec


class CacheCreation(msgspec.Struct, gc=False):
    """Tokens written to the cache, by how long they stay."""

    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class OutputDetails(msgspec.Struct, gc=False):
    """Breakdown of the output's tokens."""

    thinking_tokens: int | None = None


class Usage(msgspec.Struct, gc=False):
    """Counts of tokens so far. `input_tokens` does not include what was read from or written to
    the cache; `output_tokens` includes thinking."""

    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: CacheCreation | None = None
    output_tokens: int | None = None
    output_tokens_details: OutputDetails | None = None


class Message(msgspec.Struct, gc=False):
    """Head of the answer, in message_start."""

    id: str | None = None
    model: str | None = None
    usage: Usage | None = None


class ContentBlock(msgspec.Struct, gc=False):
    """Start of a block: text, thinking, tool_use or others. `input` is {} unless it came whole;
    `data`: of redacted_thinking."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw()


class Delta(msgspec.Struct, gc=False):
    """New output of a block, or the end of the message (`stop_reason`, `stop_sequence`)."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class Event(msgspec.Struct, gc=False):
    """One event of a stream. `message`: the head of the answer, or the text of an error."""

    type: str = ""
    message: Message | str | None = None
    index: int | None = None
    content_block: ContentBlock | None = None
    delta: Delta | None = None
    usage: Usage | None = None
    error: Any = None


decode_event = msgspec.json.Decoder(Event).decode
