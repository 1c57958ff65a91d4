"""The body of /v1/messages, as far as it is read.

Unknown fields are ignored, and blocks of unknown types are left out: clients send what newer
versions of the API know, and a request that can run is not refused for it.
"""

from __future__ import annotations

import msgspec

NOTHING = msgspec.Raw(b"null")


class Base64Source(msgspec.Struct, tag_field="type", tag="base64", kw_only=True):
    """Data in base64."""

    media_type: str
    data: str


class UrlSource(msgspec.Struct, tag_field="type", tag="url", kw_only=True):
    """The address of data."""

    url: str


class TextSource(msgspec.Struct, tag_field="type", tag="text", kw_only=True):
    """A document that is a text."""

    data: str


class ContentSource(msgspec.Struct, tag_field="type", tag="content", kw_only=True):
    """A document of blocks."""

    content: msgspec.Raw


class TextBlock(msgspec.Struct, tag_field="type", tag="text", kw_only=True):
    """A text."""

    text: str


class ImageBlock(msgspec.Struct, tag_field="type", tag="image", kw_only=True):
    """A picture."""

    source: Base64Source | UrlSource


class DocumentBlock(msgspec.Struct, tag_field="type", tag="document", kw_only=True):
    """A document."""

    source: TextSource | ContentSource | Base64Source | UrlSource
    title: str | None = None


class SearchResultBlock(msgspec.Struct, tag_field="type", tag="search_result", kw_only=True):
    """A result that the client's own search found."""

    title: str
    source: str
    content: list[TextBlock]


class ToolUseBlock(msgspec.Struct, tag_field="type", tag="tool_use", kw_only=True):
    """A call that the model asked for."""

    id: str
    name: str
    input: msgspec.Raw = msgspec.Raw(b"{}")


class ToolResultBlock(msgspec.Struct, tag_field="type", tag="tool_result", kw_only=True):
    """The result of a call: a text or blocks."""

    tool_use_id: str
    content: msgspec.Raw = NOTHING
    is_error: bool | None = None


class ThinkingBlock(msgspec.Struct, tag_field="type", tag="thinking", kw_only=True):
    """Reasoning of the model."""

    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(
    msgspec.Struct, tag_field="type", tag="redacted_thinking", kw_only=True
):
    """Reasoning that only the server can read."""

    data: str


Block = (
    TextBlock
    | ImageBlock
    | DocumentBlock
    | SearchResultBlock
    | ToolUseBlock
    | ToolResultBlock
    | ThinkingBlock
    | RedactedThinkingBlock
)
KNOWN_TYPES = frozenset(
    {
        *("text", "image", "document", "search_result", "tool_use", "tool_result"),
        *("thinking", "redacted_thinking"),
    }
)


class AnyBlock(msgspec.Struct, kw_only=True):
    """A block of any type."""

    type: str


class Message(msgspec.Struct, kw_only=True):
    """One turn. `content`: a text or blocks."""

    role: str
    content: msgspec.Raw


class Tool(msgspec.Struct, kw_only=True):
    """A tool. `type`: "custom" or absent for functions of the client."""

    name: str = ""
    type: str | None = None
    description: str | None = None
    input_schema: msgspec.Raw = NOTHING
    strict: bool | None = None


class ToolChoice(msgspec.Struct, kw_only=True):
    """Which tool must be called: "auto", "any", "tool" (`name`) or "none"."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(msgspec.Struct, kw_only=True):
    """Whether the model thinks: "enabled", "disabled" or "adaptive". `display`: "omitted": without
    its text."""

    type: str
    budget_tokens: int | None = None
    display: str | None = None


class OutputFormat(msgspec.Struct, kw_only=True):
    """Form of the answer: "json_schema"."""

    type: str
    schema: msgspec.Raw = NOTHING


class OutputConfig(msgspec.Struct, kw_only=True):
    """How hard the model works, and the form of its answer."""

    effort: str | None = None
    format: OutputFormat | None = None


class Metadata(msgspec.Struct, kw_only=True):
    """About the user. `user_id`: an opaque text; of some clients JSON with a session."""

    user_id: str | None = None


class MessagesBody(msgspec.Struct, kw_only=True):
    """The body. `max_tokens` may be missing only in a count of tokens."""

    model: str
    messages: list[Message]
    max_tokens: int | None = None
    system: msgspec.Raw = NOTHING
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    metadata: Metadata | None = None
    safeguards: msgspec.Raw = NOTHING
