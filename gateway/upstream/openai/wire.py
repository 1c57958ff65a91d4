"""JSON that OpenAI-shaped servers answer with: only the fields that are read.

Unknown fields are skipped unparsed, and everything may be absent or null: servers differ. Chat
and raw completions share one frame, a choice has `delta` in the one and `text` in the other.
"""

from __future__ import annotations

from typing import Any

import msgspec


class CacheCreation(msgspec.Struct, gc=False):
    """Tokens written to a cache, by how long they stay."""

    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class PromptDetails(msgspec.Struct, gc=False):
    """Breakdown of the prompt's tokens. Cache writes have a name for each server."""

    cached_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_creation_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: CacheCreation | None = None


class CompletionDetails(msgspec.Struct, gc=False):
    """Breakdown of the output's tokens."""

    reasoning_tokens: int | None = None


class Usage(msgspec.Struct, gc=False):
    """Counts of tokens. What each includes differs by server: see `usage.py`."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    """Names of the newer API, which some servers use here."""
    input_tokens_details: PromptDetails | None = None
    output_tokens_details: CompletionDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    """Where DeepSeek's own API puts the cached tokens."""
    cached_tokens: int | None = None
    """Where Moonshot's API puts them."""
    cache_read_input_tokens: int | None = None
    """Where proxies before Anthropic put them."""
    prompt_cache_write_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: CacheCreation | None = None
    reasoning_tokens: int | None = None


class Function(msgspec.Struct, gc=False):
    """A piece of a function call."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct, gc=False):
    """A piece of a tool call. Some servers leave out `index`, or `function` around its fields. The
    last two: see `signatures.py`."""

    index: int | None = None
    id: str | int | None = None
    function: Function | None = None
    name: str | None = None
    arguments: str | None = None
    extra_content: msgspec.Raw = msgspec.Raw()
    provider_specific_fields: msgspec.Raw = msgspec.Raw()


class ContentPart(msgspec.Struct, gc=False):
    """A part of text, or of reasoning (Mistral: `thinking` holds parts)."""

    type: str | None = None
    text: str | None = None
    thinking: str | list[str | ContentPart] | None = None
    reasoning: str | None = None
    content: str | None = None


class Delta(msgspec.Struct, gc=False):
    """New output of a chat choice. Reasoning text has four names, of which some servers send two.
    The four raw fields: see `signatures.py`."""

    content: str | list[str | ContentPart] | None = None
    reasoning: str | list[str | ContentPart] | None = None
    reasoning_content: str | list[str | ContentPart] | None = None
    reasoning_text: str | list[str | ContentPart] | None = None
    thinking: str | list[str | ContentPart] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None
    extra_content: msgspec.Raw = msgspec.Raw()
    provider_specific_fields: msgspec.Raw = msgspec.Raw()
    reasoning_details: msgspec.Raw = msgspec.Raw()
    thinking_blocks: msgspec.Raw = msgspec.Raw()
    usage: Usage | None = None


class TopLogprob(msgspec.Struct, gc=False):
    """An alternative to a token, in a chat."""

    token: str | None = None
    logprob: float | None = None


class TokenLogprob(msgspec.Struct, gc=False):
    """A token's log-probability, in a chat."""

    token: str | None = None
    logprob: float | None = None
    top_logprobs: list[TopLogprob] | None = None


class Logprobs(msgspec.Struct, gc=False):
    """Both shapes: `content` of a chat, the parallel lists of a raw completion."""

    content: list[TokenLogprob] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float | None] | None] | None = None


class Choice(msgspec.Struct, gc=False):
    """New output of one choice. `message`: the whole answer, in place of `delta`. `usage`:
    Moonshot's API has it here. `stop_reason`: vLLM's, the text or token id that ended the choice;
    other servers have other words here."""

    index: int | None = None
    delta: Delta | None = None
    message: Delta | None = None
    text: str | None = None
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    usage: Usage | None = None


class Groq(msgspec.Struct, gc=False):
    """Groq's own field."""

    usage: Usage | None = None


class Frame(msgspec.Struct, gc=False):
    """One event of a stream."""

    id: str | int | None = None
    choices: list[Choice] | None = None
    usage: Usage | None = None
    model: str | None = None
    error: Any = None
    x_groq: Groq | None = None
    metrics: Any = None
    """vLLM's, with `--enable-per-request-metrics`, beside the last usage."""


class TokenCount(msgspec.Struct, gc=False):
    """Answer of vLLM's /tokenize."""

    count: Any = None
    max_model_len: Any = None


class Model(msgspec.Struct, gc=False):
    """A served model. `max_model_len`: tokens; `parent`: base model of an adapter; vLLM only."""

    id: Any = None
    max_model_len: Any = None
    parent: Any = None


class ModelList(msgspec.Struct, gc=False):
    """Answer of /v1/models."""

    data: list[Model]


decode_frame = msgspec.json.Decoder(Frame).decode
decode_token_count = msgspec.json.Decoder(TokenCount).decode
decode_models = msgspec.json.Decoder(ModelList).decode
