"""JSON bodies of requests and answers.

Unknown fields of a request are ignored, like in vLLM. Answers have the order of keys of vLLM.
Fields that the simulation does not fill are typed as null.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class StreamOptions(msgspec.Struct):
    """Options for the usage in a stream."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Message(msgspec.Struct):
    """A chat message. `content` is text or a list of parts."""

    role: str
    content: str | list[Any] | None = None
    name: str | None = None
    tool_calls: list[Any] | None = None
    reasoning: str | None = None


class StructuredOutputs(msgspec.Struct):
    """Form that the answer must have. `json`: a schema."""

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class GenerationBody(msgspec.Struct):
    """Body of /v1/chat/completions (`messages`) and /v1/completions (`prompt`)."""

    model: str | None = None
    messages: list[Message] | None = None
    prompt: str | list[Any] | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: StructuredOutputs | None = None
    logit_bias: dict[str, float] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    thinking_token_budget: int | None = None
    include_reasoning: bool = True
    chat_template_kwargs: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int = 0
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stream_interval: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    return_token_ids: bool | None = None
    request_id: str | None = None
    cache_salt: str | None = None
    kv_transfer_params: dict[str, Any] | None = None


class TokenizeBody(msgspec.Struct):
    """Body of /tokenize."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[Any] | None = None
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(msgspec.Struct):
    """Body of /detokenize."""

    tokens: list[int]
    model: str | None = None


class TokenizeAnswer(msgspec.Struct):
    """Answer of /tokenize."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class PromptDetails(msgspec.Struct):
    """Breakdown of the prompt. `created_cache_tokens` is 0 in a chat, else null."""

    cached_tokens: int
    created_cache_tokens: int | None = 0
    multimodal_tokens: None = None


class CompletionDetails(msgspec.Struct):
    """Breakdown of the generated tokens."""

    reasoning_tokens: int


class Usage(msgspec.Struct):
    """Usage of an answer that is not streamed."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    prompt_tokens_details: PromptDetails | None
    completion_tokens_details: CompletionDetails | None = None


class FunctionCall(msgspec.Struct, omit_defaults=True):
    """A called function, or a piece of it."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    """A tool call of an answer."""

    id: str
    type: str
    function: FunctionCall


class ToolCallDelta(msgspec.Struct):
    """A piece of a tool call in a stream. `id` and `type` come with the first one."""

    id: str | msgspec.UnsetType
    type: str | msgspec.UnsetType
    index: int
    function: FunctionCall


class RequestTimes(msgspec.Struct):
    """How long the engine worked on a request, of `--enable-per-request-metrics`. The first token's
    time begins when the request is scheduled. The last three are those of moegate's plugin, which
    alone tells of several choices."""

    time_to_first_token_ms: float | None = None
    generation_time_ms: float | None = None
    queue_time_ms: float | None = None
    mean_itl_ms: float | None = None
    tokens_per_second: float | None = None
    speculative_decoding: None = None
    moegate_prefill_ms: float | msgspec.UnsetType = msgspec.UNSET
    moegate_decode_ms: float | msgspec.UnsetType = msgspec.UNSET
    moegate_whole_ms: float | msgspec.UnsetType = msgspec.UNSET


class ChatMessage(msgspec.Struct):
    """The message of a choice."""

    role: str
    content: str | None
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: list[ToolCall] | msgspec.UnsetType = msgspec.UNSET
    reasoning: str | None = None


class ChatChoice(msgspec.Struct):
    """A choice of a chat."""

    index: int
    message: ChatMessage
    logprobs: Any
    finish_reason: str
    stop_reason: str | int | None
    token_ids: list[int] | None
    routed_experts: None = None


class ChatAnswer(msgspec.Struct):
    """A chat answer that is not streamed."""

    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice]
    service_tier: None
    system_fingerprint: str
    usage: Usage
    prompt_logprobs: None
    prompt_token_ids: list[int] | None
    prompt_text: None = None
    kv_transfer_params: dict[str, Any] | None = None
    ec_transfer_params: None = None
    metrics: RequestTimes | None = None


class CompletionChoice(msgspec.Struct):
    """A choice of a raw completion."""

    index: int
    text: str
    logprobs: Any
    finish_reason: str
    stop_reason: str | int | None
    token_ids: list[int] | None
    prompt_logprobs: None
    prompt_token_ids: list[int] | None
    routed_experts: None = None


class CompletionAnswer(msgspec.Struct):
    """A raw completion that is not streamed."""

    id: str
    object: str
    created: int
    model: str
    choices: list[CompletionChoice]
    service_tier: None
    system_fingerprint: str
    usage: Usage
    kv_transfer_params: dict[str, Any] | None = None
    ec_transfer_params: None = None
    metrics: RequestTimes | None = None


decode_generation = msgspec.json.Decoder(GenerationBody, strict=False).decode
decode_tokenize = msgspec.json.Decoder(TokenizeBody, strict=False).decode
decode_detokenize = msgspec.json.Decoder(DetokenizeBody, strict=False).decode
encode = msgspec.json.Encoder().encode
