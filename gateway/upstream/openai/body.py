"""A generation as the JSON body of an OpenAI-shaped request.

No OpenAI-shaped API can do everything that the gateway's API offers: `BodyOptions.features` says
what a server can do, and a request that needs more is sent elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.config.remote import (
    REASONING_EXPRESSED,
    REASONING_FEATURES,
    Feature,
    HistoryConfig,
    MaxTokensField,
    ReasoningField,
    ReasoningRequest,
    ReasoningTurns,
)
from gateway.domain.generation import (
    Chat,
    Generation,
    Grammar,
    Image,
    JsonSchema,
    Message,
    NamedTool,
    Regex,
    Sampling,
    TextChoice,
)
from gateway.domain.slices import Steps
from gateway.upstream.features import unsupported
from gateway.upstream.histories import reasoning_text
from gateway.upstream.json_body import Base64Text, encoded
from gateway.upstream.openai.reasoning import reasoning_fields, template_variables
from gateway.upstream.openai.signatures import REASONING_LISTS, fields_of
from gateway.upstream.signatures import data_from

CHAT_PATH = "/chat/completions"
COMPLETIONS_PATH = "/completions"


OPENAI_FEATURES = frozenset(Feature) - {
    *(Feature.TOP_K, Feature.MIN_P, Feature.REPETITION_PENALTY, Feature.IGNORE_EOS),
    *(Feature.PROMPT_TOKENS, Feature.CONTINUATION, Feature.MIN_TOKENS, Feature.STOP_TOKEN_IDS),
    *(Feature.REGEX, Feature.TEXT_CHOICE, Feature.GRAMMAR, Feature.CHAT_TEMPLATE_KWARGS),
    Feature.TRUNCATION,
    *(REASONING_FEATURES - REASONING_EXPRESSED[ReasoningRequest.REASONING_EFFORT]),
}
"""Features of OpenAI-shaped APIs by default: the configuration of a remote adds and removes."""


def openai_features(request: ReasoningRequest) -> frozenset[Feature]:
    """The same, for an API that is told in these fields how to reason."""
    return (OPENAI_FEATURES - REASONING_FEATURES) | REASONING_EXPRESSED[request]


_KNOWN_REASONING = HistoryConfig(
    reasoning_field=ReasoningField.REASONING_CONTENT, reasoning_turns=ReasoningTurns.KNOWN
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyOptions:
    """How one server differs from others.

    `features`: what it can do; `max_tokens_field`: its name of the output limit; `history`: what it
    wants in earlier turns, by default known reasoning under the name that hosts of open models
    (DeepSeek first) established; `reasoning_request`: fields that
    say how to reason; `origin`: origin of the signatures that it receives; `extra`:
    fields that every body gets, which never replace one that the gateway sets.
    """

    features: frozenset[Feature] = OPENAI_FEATURES
    max_tokens_field: MaxTokensField = MaxTokensField.MAX_TOKENS
    history: HistoryConfig = _KNOWN_REASONING
    reasoning_request: ReasoningRequest = ReasoningRequest.REASONING_EFFORT
    origin: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


def generation_path(generation: Generation) -> str:
    """Where to send it, behind the server's prefix."""
    return CHAT_PATH if isinstance(generation.input, Chat) else COMPLETIONS_PATH


def generation_body(
    generation: Generation, upstream_model: str, options: BodyOptions | None = None
) -> Steps[bytes]:
    """Body for `generation_path`, a stream with usage. Raises ValueError on unsupported fields."""
    body = yield from body_fields(generation, upstream_model, options or BodyOptions())
    return (yield from encoded(body, generation))


def body_fields(
    generation: Generation, upstream_model: str, options: BodyOptions
) -> Steps[dict[str, Any]]:
    """The fields of that body. Raises ValueError on unsupported fields."""
    fields = unsupported(generation, options.features)
    if fields:
        raise ValueError(f"the server cannot honour {', '.join(fields)}")
    body: dict[str, Any] = {**options.extra, "model": upstream_model}
    logprobs = generation.logprobs
    if isinstance(generation.input, Chat):
        body |= yield from _chat(generation.input, options)
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
    if generation.min_tokens:
        body["min_tokens"] = generation.min_tokens
    if generation.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in generation.logit_bias}
    if generation.stop_token_ids:
        body["stop_token_ids"] = generation.stop_token_ids
    body["stream"] = True
    body["stream_options"] = {"include_usage": True}
    return body


def chat_fields(chat: Chat, options: BodyOptions) -> Steps[dict[str, Any]]:
    """The messages and tools of a chat, and the variables of its template."""
    messages = []
    for message in chat.messages:
        messages.append(_message(message, options))
        yield
    body: dict[str, Any] = {"messages": messages}
    if chat.tools:
        body["tools"] = _tools(chat)
    if variables := template_variables(chat, options.reasoning_request, options.extra):
        body["chat_template_kwargs"] = variables
    return body


def _sampling(sampling: Sampling) -> dict[str, Any]:
    """The fields that are set; the gateway's names are the wire's."""
    values = ((name, getattr(sampling, name)) for name in Sampling.__struct_fields__)
    return {name: value for name, value in values if value is not None}


def _chat(chat: Chat, options: BodyOptions) -> Steps[dict[str, Any]]:
    body = yield from chat_fields(chat, options)
    if chat.tools:
        # Without tools, OpenAI refuses even a tool_choice of "none".
        match chat.tool_choice:
            case None:
                pass
            case NamedTool(name=name):
                body["tool_choice"] = {"type": "function", "function": {"name": name}}
            case mode:
                body["tool_choice"] = mode.value
        parallel = chat.parallel_tool_calls
        if parallel is not None and Feature.ONE_TOOL_CALL in options.features:
            body["parallel_tool_calls"] = parallel
    if chat.reasoning is not None:
        body |= reasoning_fields(chat.reasoning, options.reasoning_request)
    if chat.json_schema is not None:
        body["response_format"] = _response_format(chat.json_schema)
    elif chat.json_object:
        body["response_format"] = {"type": "json_object"}
    match chat.constraint:
        case Regex(pattern):
            body["structured_outputs"] = {"regex": pattern}
        case TextChoice(texts):
            body["structured_outputs"] = {"choice": texts}
        case Grammar(text):
            body["structured_outputs"] = {"grammar": text}
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


def _message(message: Message, options: BodyOptions) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role.value, "content": _content(message)}
    if message.name:
        body["name"] = message.name
    if message.tool_calls:
        body["tool_calls"] = _tool_calls(message, options)
    if message.tool_call_id:
        body["tool_call_id"] = message.tool_call_id
    if message.signatures:
        body |= fields_of(data_from(options.origin, message.signatures))
    if not REASONING_LISTS & body.keys():  # their items hold the text
        text = reasoning_text(message, options.history)
        if text is not None:
            body[options.history.reasoning_field.value] = text
    return body


def _tool_calls(message: Message, options: BodyOptions) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    signed = False
    for call in message.tool_calls:
        body: dict[str, Any] = {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments_json},
        }
        if call.signatures and (fields := fields_of(data_from(options.origin, call.signatures))):
            body |= fields
            signed = True
        calls.append(body)
    placeholder = options.history.placeholder_signature
    if placeholder is not None and not signed:  # Gemini signs only the first of parallel calls
        for body in calls:
            body["extra_content"] = {"google": {"thought_signature": placeholder}}
    return calls


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
    url: str | Base64Text = part.url
    if part.data:
        url = Base64Text(part.data, f"data:{part.media_type};base64,")
    return {"type": "image_url", "image_url": {"url": url}}


def _json(text: str) -> msgspec.Raw:
    """JSON text, put in as it is: `requests.py` has checked it."""
    return msgspec.Raw(text.encode())
