"""Bounds on the elements of a generation that came as JSON: `limits.elements`.

The number of all JSON values is bounded before the body is parsed (`request_body.py`). Here the
elements that cost most further on are counted, each kind by itself.
"""

from __future__ import annotations

from gateway.config.limits import ElementLimitsConfig
from gateway.domain.generation import Chat, Generation, Grammar, Message, Regex
from gateway.domain.slices import Steps
from gateway.domain.text_size import utf8_bytes
from gateway.doors.http.errors import ErrorKind, HttpError
from gateway.translation.json_depth import deeper_than

_STEP_MESSAGES = 256
"""Messages that are counted in one step."""


def check_elements(generation: Generation, limits: ElementLimitsConfig) -> Steps[None]:
    """Raises HttpError (400) that names the limit which the generation exceeds."""
    _check("stop texts, stop token ids and logit biases", _values(generation), "values", limits)
    match generation.input:
        case str():
            _check("bytes of text", utf8_bytes(generation.input), "text_bytes", limits)
        case tuple():
            _check("token ids", len(generation.input), "token_ids", limits)
        case chat:
            yield from _check_chat(chat, limits)


def _check_chat(chat: Chat, limits: ElementLimitsConfig) -> Steps[None]:
    _check("messages", len(chat.messages), "messages", limits)
    _check("tools", len(chat.tools), "tools", limits)
    parts = calls = signatures = text_bytes = 0
    for number, message in enumerate(chat.messages):
        parts += len(message.parts)
        calls += len(message.tool_calls)
        signatures += len(message.signatures)
        signatures += sum(len(call.signatures) for call in message.tool_calls)
        text_bytes += _text_bytes(message)
        for call in message.tool_calls:
            size = utf8_bytes(call.arguments_json)
            text_bytes += size
            _check("bytes of the arguments of a tool call", size, "arguments_bytes", limits)
            yield from _check_depth(call.arguments_json, "the arguments of a tool call", limits)
        if number % _STEP_MESSAGES == 0:
            yield
    _check("parts of messages", parts, "parts", limits)
    _check("tool calls", calls, "tool_calls", limits)
    _check("signatures of reasoning", signatures, "signatures", limits)
    for tool in chat.tools:
        text_bytes += utf8_bytes(tool.description)
        yield from _check_schema(tool.parameters_json_schema, f"tool {tool.name[:64]}", limits)
    if chat.json_schema is not None:
        yield from _check_schema(chat.json_schema.schema_json, "the answer", limits)
    match chat.constraint:
        case Regex(pattern=text):
            _check("bytes of a regular expression", utf8_bytes(text), "regex_bytes", limits)
        case Grammar(text=text):
            _check("bytes of a grammar", utf8_bytes(text), "grammar_bytes", limits)
        case _:
            pass
    if chat.template_kwargs_json:
        yield from _check_schema(chat.template_kwargs_json, "the chat template", limits)
    _check("bytes of text", text_bytes, "text_bytes", limits)


def _values(generation: Generation) -> int:
    return len(generation.stop) + len(generation.stop_token_ids) + len(generation.logit_bias)


def _text_bytes(message: Message) -> int:
    texts = (part for part in message.parts if isinstance(part, str))
    return sum(map(utf8_bytes, texts)) + utf8_bytes(message.reasoning_text)


def _check_schema(text: str, whose: str, limits: ElementLimitsConfig) -> Steps[None]:
    _check(f"bytes of the JSON of {whose}", utf8_bytes(text), "schema_bytes", limits)
    yield from _check_depth(text, f"the JSON of {whose}", limits)


def _check_depth(text: str, what: str, limits: ElementLimitsConfig) -> Steps[None]:
    if (yield from deeper_than(text.encode(), limits.json_depth)):
        most = limits.json_depth
        raise _too_many(f"{what} nests deeper than {most}: limits.elements.json_depth")


def _check(what: str, count: int, name: str, limits: ElementLimitsConfig) -> None:
    most: int = getattr(limits, name)
    if count > most:
        raise _too_many(f"{count} {what}: at most {most}, limits.elements.{name}")


def _too_many(text: str) -> HttpError:
    return HttpError(ErrorKind.INVALID, text, code="too_many_elements")
