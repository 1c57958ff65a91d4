"""A generation as the JSON body of an Anthropic-shaped request (Messages API, 2023-06-01).

The shapes differ from OpenAI's: system texts stand beside the messages, results of tools are
parts of a user message, and a schema for the answer is an output format. Of the reasoning
of earlier turns, the blocks that the server signed itself go back; unsigned thinking does where
the configuration says so.

What the API takes is written in Anthropic's documentation: "Extended thinking" (`thinking`, what it
goes together with), "Adaptive thinking", "Effort" (`output_config.effort`: low to max), the
migration guide of each model, and in the types of the package `anthropic` (2.12).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import structs

from gateway.config.remote import REASONING_FEATURES, Feature, HistoryConfig
from gateway.domain.generation import (
    Chat,
    Generation,
    Image,
    Message,
    NamedTool,
    Reasoning,
    Role,
    ToolCall,
    ToolMode,
)
from gateway.domain.slices import Steps
from gateway.upstream.anthropic.signatures import Block, Thinking, blocks_of
from gateway.upstream.features import unsupported
from gateway.upstream.histories import NO_REASONING, reasoning_text
from gateway.upstream.json_body import Base64Text, encoded
from gateway.upstream.signatures import data_from

PATH = "/messages"
_IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_TOOL_MODES = {ToolMode.AUTO: "auto", ToolMode.REQUIRED: "any", ToolMode.NONE: "none"}
_NOT_IN_ID = re.compile(r"[^A-Za-z0-9_-]")
ANTHROPIC_FEATURES = frozenset(
    {
        *(Feature.TOOLS, Feature.TOOL_CHOICE_NONE, Feature.TOOL_CHOICE_REQUIRED),
        *(Feature.TOOL_CHOICE_NAMED, Feature.PARALLEL_TOOL_CALLS, Feature.STRICT),
        *(Feature.IMAGES, Feature.JSON_SCHEMA, Feature.STOP, Feature.SYSTEM),
        *(Feature.TEMPERATURE, Feature.TOP_P, Feature.TOP_K, Feature.ONE_TOOL_CALL),
        *(REASONING_FEATURES - {Feature.EFFORT_MINIMAL}),
    }
)
"""Features of the Messages API by default: the configuration of a remote adds and removes. Models
differ: those before Claude Opus 4.7 have no effort `xhigh`, that one and later ones take no budget
of thinking and no sampling parameters (migration guide)."""
REFUSED_TOGETHER = tuple(
    frozenset({Feature.THINKING, other})
    for other in (
        *(Feature.TEMPERATURE, Feature.TOP_K),
        *(Feature.TOOL_CHOICE_REQUIRED, Feature.TOOL_CHOICE_NAMED),
    )
)
"""What the API refuses beside thinking ("Feature compatibility"). A temperature of 1, its default,
is not among it: see `plain`."""
MIN_THINKING_TOKENS = 1024
"""Least budget of thinking that the API takes; it must also be below `max_tokens`."""
MIN_THINKING_TOP_P = 0.95
"""Least top_p that the API takes beside thinking."""


def plain(generation: Generation) -> Generation:
    """The same generation, without a temperature that the API takes beside thinking because it is
    the default."""
    chat = generation.input
    if not isinstance(chat, Chat) or chat.reasoning is None or not chat.reasoning.is_on:
        return generation
    if generation.sampling.temperature != 1.0:
        return generation
    sampling = structs.replace(generation.sampling, temperature=None)
    return structs.replace(generation, sampling=sampling)


def unsupported_fields(
    generation: Generation,
    features: frozenset[Feature],
    *,
    origin: str = "",
    history: HistoryConfig = NO_REASONING,
) -> tuple[str, ...]:
    """Fields of GenerateRequest that are set and that this API cannot express. `origin`, `history`:
    see `messages_body`."""
    fields = list(unsupported(generation, features))
    temperature = generation.sampling.temperature
    if temperature is not None and temperature > 1.0:
        fields.append("sampling.temperature")
    if any(not stop.strip() for stop in generation.stop):
        fields.append("stop")
    if isinstance(generation.input, Chat):
        fields += _unsupported_messages(generation.input)
        fields += _unsupported_reasoning(generation, generation.input, origin, history)
    return tuple(dict.fromkeys(fields))


def messages_body(
    generation: Generation,
    upstream_model: str,
    features: frozenset[Feature],
    extra: Mapping[str, Any],
    *,
    origin: str = "",
    history: HistoryConfig = NO_REASONING,
) -> Steps[bytes]:
    """Body for `PATH`, a stream. `origin`: of the signed thinking that goes back; `history`:
    whether unsigned thinking does. `thinking` of `extra` is left out of a request that the API
    would refuse for it: one with the results of tools that another server called.

    Raises ValueError on unsupported fields.
    """
    fields = unsupported_fields(generation, features, origin=origin, history=history)
    if fields or not isinstance(generation.input, Chat):
        raise ValueError(f"the Messages API cannot honour {', '.join(fields)}")
    chat, sampling = generation.input, generation.sampling
    body: dict[str, Any] = {**extra, "model": upstream_model}
    system, turns = _split(chat)
    if system:
        body["system"] = [{"type": "text", "text": text} for text in system]
    messages = body["messages"] = yield from _messages(turns, origin, history)
    if _is_forced(extra) and not _allows_forced_thinking(messages):
        del body["thinking"]
    config: dict[str, Any] = {}
    if chat.reasoning is not None:
        body |= _thinking(chat.reasoning)
        if chat.reasoning.effort is not None:
            config["effort"] = chat.reasoning.effort.value
    if "thinking" not in body and _may_think(generation, chat, features):
        body["thinking"] = {"type": "adaptive"}
    body["max_tokens"] = generation.max_output_tokens
    if sampling.temperature is not None:
        body["temperature"] = sampling.temperature
    if sampling.top_p is not None:
        body["top_p"] = sampling.top_p
    if sampling.top_k is not None and sampling.top_k > 0:
        body["top_k"] = sampling.top_k
    if generation.stop:
        body["stop_sequences"] = generation.stop
    if chat.tools:
        body["tools"] = [
            {
                "name": tool.name,
                **({"description": tool.description} if tool.description else {}),
                "input_schema": msgspec.Raw(tool.parameters_json_schema.encode()),
                **({"strict": True} if tool.strict else {}),
            }
            for tool in chat.tools
        ]
        choice: dict[str, Any]
        match chat.tool_choice:
            case None:
                choice = {}
            case NamedTool(name=name):
                choice = {"type": "tool", "name": name}
            case mode:
                choice = {"type": _TOOL_MODES[mode]}
        if chat.parallel_tool_calls is not None and chat.tool_choice is not ToolMode.NONE:
            choice = {"type": "auto", **choice}
            choice["disable_parallel_tool_use"] = not chat.parallel_tool_calls
        if choice:
            body["tool_choice"] = choice
    if chat.json_schema is not None:
        schema = msgspec.Raw(chat.json_schema.schema_json.encode())
        config["format"] = {"type": "json_schema", "schema": schema}
    if config:
        body["output_config"] = config
    body["stream"] = True
    return (yield from encoded(body, generation))


def _unsupported_reasoning(
    generation: Generation, chat: Chat, origin: str, history: HistoryConfig
) -> Iterator[str]:
    reasoning = chat.reasoning
    if reasoning is None:
        return
    top_p = generation.sampling.top_p
    if reasoning.is_on and top_p is not None and top_p < MIN_THINKING_TOP_P:
        yield "sampling.top_p"
    budget = reasoning.budget_tokens
    if budget is None:
        return
    last = next((each for each in reversed(chat.messages) if each.role is Role.ASSISTANT), None)
    has_foreign_calls = last is not None and not _allows_forced_thinking(
        [{"role": "assistant", "content": _blocks(last, origin, history)}]
    )
    too_few = not MIN_THINKING_TOKENS <= budget < generation.max_output_tokens
    if too_few or has_foreign_calls:
        yield "chat.reasoning.budget_tokens"


def _may_think(generation: Generation, chat: Chat, features: frozenset[Feature]) -> bool:
    """Whether the request leaves thinking to the model, and nothing excludes it. It is no more than
    a permission, so that it is left out where the API refuses it beside other fields."""
    sampling = generation.sampling
    return (
        chat.adaptive_thinking
        and Feature.THINKING in features
        and sampling.temperature in (None, 1.0)
        and (sampling.top_k is None or sampling.top_k <= 0)
        and (sampling.top_p is None or sampling.top_p >= MIN_THINKING_TOP_P)
        and chat.tool_choice in (None, ToolMode.AUTO, ToolMode.NONE)
    )


def _thinking(reasoning: Reasoning) -> dict[str, Any]:
    """Whether and how to think. Without a budget the model decides for how long."""
    if reasoning.budget_tokens is not None:
        return {"thinking": {"type": "enabled", "budget_tokens": reasoning.budget_tokens}}
    match reasoning.thinking:
        case None:
            return {}
        case True:
            return {"thinking": {"type": "adaptive"}}
        case False:
            return {"thinking": {"type": "disabled"}}


def _unsupported_messages(chat: Chat) -> list[str]:
    fields: list[str] = []
    _, turns = _split(chat)
    if not turns:
        fields.append("chat.messages")
    first = len(chat.messages) - len(turns)
    for i, message in enumerate(turns, first):
        path = f"chat.messages[{i}]"
        if message.role is Role.SYSTEM:
            fields.append(f"{path}.role")  # instructions stand before the first turn only
        only_blank = all(map(_is_blank, message.parts)) and not message.tool_calls
        if only_blank and message.role is not Role.TOOL and not message.signatures:
            fields.append(f"{path}.parts")
        for call in message.tool_calls:
            if _arguments(call) is None:
                fields.append(f"{path}.tool_calls")
        for part in message.parts:
            if isinstance(part, Image) and (
                message.role in (Role.ASSISTANT, Role.SYSTEM)
                or (part.data and part.media_type not in _IMAGE_TYPES)
            ):
                fields.append(f"{path}.parts")
    return fields


def _split(chat: Chat) -> tuple[list[str], tuple[Message, ...]]:
    """The texts of the system messages at the beginning, and the rest."""
    texts: list[str] = []
    for i, message in enumerate(chat.messages):
        if message.role is not Role.SYSTEM or any(isinstance(p, Image) for p in message.parts):
            return texts, chat.messages[i:]
        texts += [part for part in message.parts if isinstance(part, str) and part.strip()]
    return texts, ()


def _messages(
    turns: tuple[Message, ...], origin: str, history: HistoryConfig
) -> Steps[list[dict[str, Any]]]:
    """Turns of user and model in alternation: neighbours of one role become one message, which the
    results of parallel tool calls have to be."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        role = "assistant" if turn.role is Role.ASSISTANT else "user"
        blocks = _blocks(turn, origin, history)
        if not blocks:
            pass  # it had nothing but signatures of another server
        elif messages and messages[-1]["role"] == role:
            messages[-1]["content"] += blocks
        else:
            messages.append({"role": role, "content": blocks})
        yield
    return messages


class _ThinkingMode(msgspec.Struct):
    """How a request is to think."""

    type: str = ""


def _is_forced(extra: Mapping[str, Any]) -> bool:
    """Whether the model must think before every answer (`enabled`), in place of when it wants
    (`adaptive`)."""
    mode = extra.get("thinking")
    if not isinstance(mode, msgspec.Raw):
        return False
    try:
        return msgspec.json.decode(mode, type=_ThinkingMode).type == "enabled"
    except (msgspec.DecodeError, RecursionError):
        return False


def _allows_forced_thinking(messages: list[dict[str, Any]]) -> bool:
    """Whether the last turn of the model, if tools were called in it, begins with thinking."""
    last = next((each for each in reversed(messages) if each["role"] == "assistant"), None)
    if last is None:
        return True
    kinds = [None if isinstance(each, Block) else each["type"] for each in last["content"]]
    return "tool_use" not in kinds or kinds[0] is None


def _blocks(turn: Message, origin: str, history: HistoryConfig) -> list[Any]:
    parts: list[Any] = []
    if turn.signatures:
        parts += blocks_of(data_from(origin, turn.signatures))
    if not parts and (text := reasoning_text(turn, history)) is not None:
        parts.append(Thinking(thinking=text, signature=""))
    # A blank text is refused; a turn that holds calls alone may well have one.
    parts += [_part(part) for part in turn.parts if not _is_blank(part)]
    if turn.role is Role.TOOL:
        result: dict[str, Any] = {"type": "tool_result", "tool_use_id": _tool_id(turn.tool_call_id)}
        if parts:
            result["content"] = parts
        return [result]
    for call in turn.tool_calls:
        if call.signatures:
            parts += blocks_of(data_from(origin, call.signatures))
        block = {"type": "tool_use", "id": _tool_id(call.id), "name": call.name}
        parts.append({**block, "input": _arguments(call)})
    return parts


def _is_blank(part: str | Image) -> bool:
    """Whether it is a text without any letter."""
    return isinstance(part, str) and not part.strip()


def _part(part: str | Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not part.data:
        return {"type": "image", "source": {"type": "url", "url": part.url}}
    source = {
        "type": "base64",
        "media_type": part.media_type,
        "data": Base64Text(part.data),
    }
    return {"type": "image", "source": source}


def _arguments(call: ToolCall) -> msgspec.Raw | None:
    """The arguments, put in as they are; None: no JSON object."""
    text = call.arguments_json.strip() or "{}"
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return msgspec.Raw(text.encode())


def _tool_id(call_id: str) -> str:
    """The id of a call in the letters that the API takes; other servers use more of them."""
    return _NOT_IN_ID.sub("_", call_id)
