"""A generation as the JSON body of an OpenAI-shaped API: chat or completions."""

from __future__ import annotations

import base64
import enum
from typing import Any

import msgspec

from gateway.generation import Chat, Generation, Image, Message, NamedTool, Tool, ToolCall

Json = dict[str, Any]


class Dialect(enum.StrEnum):
    """What an upstream understands beyond the fields that all OpenAI-shaped APIs share."""

    VLLM = "vllm"
    OPENAI = "openai"


_SHARED_SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed")
_VLLM_SAMPLING = ("top_k", "min_p", "repetition_penalty")


def unsupported_fields(generation: Generation, dialect: Dialect) -> tuple[str, ...]:
    """Paths of the request's fields that the dialect cannot honour; nothing is dropped silently."""
    if dialect is Dialect.VLLM:
        return ()
    found = [
        f"sampling.{name}"
        for name in _VLLM_SAMPLING
        if getattr(generation.sampling, name) is not None
    ]
    if generation.ignore_eos:
        found.append("ignore_eos")
    if isinstance(generation.input, tuple):
        found.append("prompt_tokens")
    return tuple(found)


def path(generation: Generation) -> str:
    """Path of the endpoint that takes the request."""
    return "/v1/chat/completions" if isinstance(generation.input, Chat) else "/v1/completions"


def body(generation: Generation, upstream_model: str, dialect: Dialect) -> bytes:
    """The JSON body of a streaming request."""
    fields: Json = {
        "model": upstream_model,
        "max_tokens": generation.max_output_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if isinstance(generation.input, Chat):
        fields |= _chat(generation.input)
        if generation.logprobs is not None:
            fields |= {"logprobs": True, "top_logprobs": generation.logprobs}
    else:
        fields["prompt"] = generation.input
        if generation.logprobs is not None:
            fields["logprobs"] = generation.logprobs
    names = _SHARED_SAMPLING if dialect is Dialect.OPENAI else _SHARED_SAMPLING + _VLLM_SAMPLING
    for name in names:
        if (value := getattr(generation.sampling, name)) is not None:
            fields[name] = value
    if generation.stop:
        fields["stop"] = generation.stop
    if generation.choices > 1:
        fields["n"] = generation.choices
    if dialect is Dialect.VLLM:
        # Exact token counts with every chunk: chunks themselves say nothing of tokens.
        fields["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
        if generation.ignore_eos:
            fields["ignore_eos"] = True
    return msgspec.json.encode(fields)


def tokenize_body(generation: Generation, upstream_model: str) -> bytes:
    """The JSON body of vLLM's /tokenize."""
    fields: Json = {"model": upstream_model}
    if isinstance(generation.input, Chat):
        chat = _chat(generation.input)
        fields |= {key: chat[key] for key in ("messages", "tools") if key in chat}
    else:
        fields["prompt"] = generation.input
    return msgspec.json.encode(fields)


def _chat(chat: Chat) -> Json:
    fields: Json = {"messages": [_message(message) for message in chat.messages]}
    if chat.tools:
        fields["tools"] = [_tool(tool) for tool in chat.tools]
    if isinstance(chat.tool_choice, NamedTool):
        fields["tool_choice"] = {"type": "function", "function": {"name": chat.tool_choice.name}}
    elif chat.tool_choice is not None:
        fields["tool_choice"] = chat.tool_choice.value
    if chat.json_schema is not None:
        schema: Json = {
            "name": chat.json_schema.name,
            "schema": msgspec.Raw(chat.json_schema.schema_json.encode()),
            "strict": chat.json_schema.strict,
        }
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif chat.json_object:
        fields["response_format"] = {"type": "json_object"}
    return fields


def _message(message: Message) -> Json:
    fields: Json = {"role": message.role.value}
    if all(isinstance(part, str) for part in message.parts) and len(message.parts) <= 1:
        # Some chat templates take a plain string only.
        fields["content"] = message.parts[0] if message.parts else None
    else:
        fields["content"] = [_part(part) for part in message.parts]
    if message.name:
        fields["name"] = message.name
    if message.tool_calls:
        fields["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    if message.tool_call_id:
        fields["tool_call_id"] = message.tool_call_id
    if message.reasoning_text:
        fields["reasoning_content"] = message.reasoning_text
    return fields


def _part(part: str | Image) -> Json:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    url = part.url
    if part.data:
        url = f"data:{part.media_type};base64,{base64.b64encode(part.data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _tool(tool: Tool) -> Json:
    function: Json = {
        "name": tool.name,
        "parameters": msgspec.Raw(tool.parameters_json_schema.encode()),
    }
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _tool_call(call: ToolCall) -> Json:
    function = {"name": call.name, "arguments": call.arguments_json}
    return {"id": call.id, "type": "function", "function": function}
