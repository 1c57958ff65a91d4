"""A generation as the JSON body of an OpenAI-shaped request.

vLLM takes everything that the gateway's API offers. A plain OpenAI-shaped server does not:
`unsupported_fields` names what it cannot honour, and the caller sends such a request elsewhere.
"""

from __future__ import annotations

import base64
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.config.remote import Feature, MaxTokensField
from gateway.domain.generation import (
    Chat,
    Generation,
    Image,
    JsonSchema,
    Message,
    NamedTool,
    Sampling,
)
from gateway.upstream.features import OPENAI_FEATURES, VLLM_FEATURES, unsupported

CHAT_PATH = "/chat/completions"
COMPLETIONS_PATH = "/completions"


class Dialect(enum.StrEnum):
    """What a server understands."""

    VLLM = "vllm"
    OPENAI = "openai"


_FEATURES = {Dialect.VLLM: VLLM_FEATURES, Dialect.OPENAI: OPENAI_FEATURES}


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyOptions:
    """How one server differs from others of its dialect.

    `features`: what it can do; `max_tokens_field`: its name of the output limit; `extra`: fields
    that every body gets, which never take the place of one that the gateway sets.
    """

    features: frozenset[Feature]
    max_tokens_field: MaxTokensField = MaxTokensField.MAX_TOKENS
    extra: Mapping[str, msgspec.Raw] = field(default_factory=dict)


def default_options(dialect: Dialect) -> BodyOptions:
    """Those of a server of which nothing else is known."""
    return BodyOptions(features=_FEATURES[dialect])


def unsupported_fields(generation: Generation, dialect: Dialect) -> tuple[str, ...]:
    """Fields of GenerateRequest that are set and that the dialect has no word for."""
    return unsupported(generation, _FEATURES[dialect])


def generation_path(generation: Generation) -> str:
    """Where to send it, behind the server's prefix."""
    return CHAT_PATH if isinstance(generation.input, Chat) else COMPLETIONS_PATH


def generation_body(
    generation: Generation,
    upstream_model: str,
    dialect: Dialect,
    tokens_per_chunk: int = 1,
    options: BodyOptions | None = None,
) -> bytes:
    """Body for `generation_path`, a stream with usage. Raises ValueError on unsupported fields.

    `tokens_per_chunk`: vLLM is asked to put so many into a chunk, after the first one.
    """
    options = options or default_options(dialect)
    fields = unsupported(generation, options.features)
    if fields:
        raise ValueError(f"{dialect} cannot honour {', '.join(fields)}")
    body: dict[str, Any] = {**options.extra, "model": upstream_model}
    logprobs = generation.logprobs
    if isinstance(generation.input, Chat):
        body |= _chat(generation.input, dialect)
        if logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": logprobs}
    else:
        body["prompt"] = generation.input
        if logprobs is not None:
            body["logprobs"] = logprobs
    body[options.max_tokens_field.value] = generation.max_output_tokens
    body |= _sampling(generation.sampling)
    if generation.stop:
        body["stop"] = generation.stop
    if generation.choices > 1:
        body["n"] = generation.choices
    if generation.ignore_eos:
        body["ignore_eos"] = True
    if generation.continues and dialect is Dialect.VLLM:
        # Others take a last message of the model's own as the beginning of its answer, if they can.
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    body["stream"] = True
    stream_options = {"include_usage": True}
    if dialect is Dialect.VLLM:
        stream_options["continuous_usage_stats"] = True
        hints = generation.hints
        if hints.cache_salt:
            body["cache_salt"] = hints.cache_salt
        if hints.priority:
            body["priority"] = hints.priority
        if tokens_per_chunk > 1:
            body["stream_interval"] = tokens_per_chunk
    body["stream_options"] = stream_options
    return msgspec.json.encode(body)


def tokenize_body(generation: Generation, upstream_model: str) -> bytes:
    """Body for vLLM's /tokenize. A prompt of token ids has no such body: ValueError."""
    body: dict[str, Any] = {"model": upstream_model}
    match generation.input:
        case Chat() as chat:
            body["messages"] = [_message(message, Dialect.VLLM) for message in chat.messages]
            if chat.tools:
                body["tools"] = _tools(chat)
        case str(prompt):
            body["prompt"] = prompt
        case _:
            raise ValueError("token ids need no counting")
    return msgspec.json.encode(body)


def _sampling(sampling: Sampling) -> dict[str, Any]:
    """The fields that are set; the gateway's names are the wire's."""
    values = ((name, getattr(sampling, name)) for name in Sampling.__struct_fields__)
    return {name: value for name, value in values if value is not None}


def _chat(chat: Chat, dialect: Dialect) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [_message(message, dialect) for message in chat.messages]}
    if chat.tools:
        body["tools"] = _tools(chat)
        # Without tools, OpenAI refuses even a tool_choice of "none".
        match chat.tool_choice:
            case None:
                pass
            case NamedTool(name=name):
                body["tool_choice"] = {"type": "function", "function": {"name": name}}
            case mode:
                body["tool_choice"] = mode.value
    if chat.json_schema is not None:
        body["response_format"] = _response_format(chat.json_schema)
    elif chat.json_object:
        body["response_format"] = {"type": "json_object"}
    return body


def _tools(chat: Chat) -> list[dict[str, Any]]:
    tools = []
    for tool in chat.tools:
        function: dict[str, Any] = {"name": tool.name}
        if tool.description:
            function["description"] = tool.description
        function["parameters"] = _json(tool.parameters_json_schema)
        if tool.strict:
            function["strict"] = True
        tools.append({"type": "function", "function": function})
    return tools


def _response_format(schema: JsonSchema) -> dict[str, Any]:
    shape = {"name": schema.name, "schema": _json(schema.schema_json), "strict": schema.strict}
    return {"type": "json_schema", "json_schema": shape}


def _message(message: Message, dialect: Dialect) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role.value, "content": _content(message)}
    if message.name:
        body["name"] = message.name
    if message.tool_calls:
        body["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments_json},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        body["tool_call_id"] = message.tool_call_id
    if message.reasoning_text:
        # vLLM 0.32 deprecates the name that hosts of open models (DeepSeek first) established.
        name = "reasoning" if dialect is Dialect.VLLM else "reasoning_content"
        body[name] = message.reasoning_text
    return body


def _content(message: Message) -> str | list[dict[str, Any]] | None:
    match message.parts:
        case ():
            return None
        case (str(text),):
            return text
        case parts:
            return [_part(part) for part in parts]


def _part(part: str | Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    url = part.url
    if part.data:
        url = f"data:{part.media_type};base64,{base64.b64encode(part.data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _json(text: str) -> msgspec.Raw:
    """JSON text, put in as it is: `requests.py` has checked it."""
    return msgspec.Raw(text.encode())
