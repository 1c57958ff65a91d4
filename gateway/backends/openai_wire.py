"""What is read of an OpenAI-shaped answer: the fields that are used, everything else skipped."""

from __future__ import annotations

from typing import Any

import msgspec


class FunctionPiece(msgspec.Struct, frozen=True):
    """Name and arguments of a tool call, or a piece of them."""

    name: str | None = None
    arguments: str | None = None


class ToolCallPiece(msgspec.Struct, frozen=True):
    """A tool call, or a piece of one."""

    index: int = 0
    id: str | None = None
    function: FunctionPiece | None = None


class ChatDelta(msgspec.Struct, frozen=True):
    """New output of a chat choice. The reasoning text goes by two names."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallPiece] | None = None


class TopToken(msgspec.Struct, frozen=True):
    """A token and its log-probability."""

    token: str
    logprob: float


class ChatToken(msgspec.Struct, frozen=True):
    """A token of a chat answer with its rivals."""

    token: str
    logprob: float
    top_logprobs: list[TopToken] | None = None


class Logprobs(msgspec.Struct, frozen=True):
    """Both shapes: `content` of chats, the other three of completions."""

    content: list[ChatToken] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class Choice(msgspec.Struct, frozen=True):
    """One choice of a chunk: `delta` of chats, `text` of completions."""

    index: int = 0
    delta: ChatDelta | None = None
    text: str | None = None
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class PromptDetails(msgspec.Struct, frozen=True):
    """What the prompt tokens were; None: not said."""

    cached_tokens: int | None = None


class CompletionDetails(msgspec.Struct, frozen=True):
    """What the completion tokens were; None: not said."""

    reasoning_tokens: int | None = None


class UsageCounts(msgspec.Struct, frozen=True):
    """Token counts. `prompt_tokens` includes the cached ones in this dialect."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class StreamChunk(msgspec.Struct, frozen=True):
    """A frame of a stream. `error` is set where an upstream fails after HTTP 200."""

    model: str = ""
    choices: list[Choice] = []
    usage: UsageCounts | None = None
    error: Any = None


class ErrorBody(msgspec.Struct, frozen=True):
    """The inside of `{"error": ...}`."""

    message: str = ""
    param: str | None = None


class ModelCard(msgspec.Struct, frozen=True):
    """An entry of /v1/models."""

    id: str
    max_model_len: int | None = None


class ModelList(msgspec.Struct, frozen=True):
    """/v1/models."""

    data: list[ModelCard]


class TokenCount(msgspec.Struct, frozen=True):
    """vLLM's /tokenize."""

    count: int
    max_model_len: int | None = None
