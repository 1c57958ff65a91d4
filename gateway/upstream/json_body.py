"""JSON bodies of requests, encoded in steps where they are large.

A prompt of 10 MB can take 150 ms to encode, and so can an image. Neither is ever held as one text
besides the body.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.domain.generation import Chat, Generation, Image
from gateway.domain.pooling import input_count, input_texts, input_token_ids
from gateway.domain.slices import Steps

LARGE_CHARACTERS = 32_768
"""A prompt with more of them is encoded in steps."""
LARGE_ELEMENTS = 256
"""So is one with more messages or tools, or with 16 times as many token ids."""
STEP_CHARACTERS = 32_768
"""Characters of a text in one step, half a millisecond at most."""
STEP_BYTES = 98_304
"""Bytes of an image in one step. Divisible by 3, so that the pieces join to one base64 text."""
STEP_NUMBERS = 16_384
"""Numbers in one step."""


class Base64Text:
    """A text in the body: a prefix, and bytes in base64. No struct and no dataclass, which msgspec
    would encode as an object."""

    __slots__ = ("data", "prefix")

    def __init__(self, data: bytes, prefix: str = "") -> None:
        self.data = data
        self.prefix = prefix


def _text(value: Any) -> str:
    """Converts what msgspec does not know."""
    if not isinstance(value, Base64Text):
        raise NotImplementedError
    return value.prefix + base64.b64encode(value.data).decode()


def encoded(body: Mapping[str, Any], generation: Generation) -> Steps[bytes]:
    """Encodes the body of a generation."""
    if not is_large(generation):
        return msgspec.json.encode(body, enc_hook=_text)
    out = io.BytesIO()
    yield from _write(body, out)
    return out.getvalue()  # shares the buffer


def is_large(generation: Generation) -> bool:
    """Whether the body of a generation is worth steps."""
    match generation.input:
        case str(prompt):
            return len(prompt) > LARGE_CHARACTERS
        case Chat() as chat:
            if max(len(chat.messages), len(chat.tools)) > LARGE_ELEMENTS:
                return True
            return _characters(chat) > LARGE_CHARACTERS
        case tuple() as token_ids:
            return len(token_ids) > 16 * LARGE_ELEMENTS
        case pooling:
            if max(input_count(pooling), input_token_ids(pooling) // 16) > LARGE_ELEMENTS:
                return True
            return sum(map(len, input_texts(pooling))) > LARGE_CHARACTERS


def _characters(chat: Chat) -> int:
    """Characters of texts and bytes of images."""
    size = 0
    for message in chat.messages:
        size += len(message.reasoning_text)
        for part in message.parts:
            size += len(part.data) if isinstance(part, Image) else len(part)
        for call in message.tool_calls:
            size += len(call.arguments_json)
    for tool in chat.tools:
        size += len(tool.description) + len(tool.parameters_json_schema)
    return size


def _write(value: Any, out: io.BytesIO) -> Steps[None]:
    """Writes a value piece by piece."""
    match value:
        case Base64Text():
            out.write(b'"')
            out.write(_inside(value.prefix))
            for start in range(0, len(value.data), STEP_BYTES):
                out.write(base64.b64encode(value.data[start : start + STEP_BYTES]))
                yield
            out.write(b'"')
        case str() if len(value) > STEP_CHARACTERS:
            out.write(b'"')
            for start in range(0, len(value), STEP_CHARACTERS):
                out.write(_inside(value[start : start + STEP_CHARACTERS]))
                yield
            out.write(b'"')
        case Mapping():
            opener = b"{"
            for name, inner in value.items():
                out.write(opener + msgspec.json.encode(name) + b":")
                yield from _write(inner, out)
                opener = b","
            out.write(b"}" if value else b"{}")
        case list() | tuple():
            yield from _write_list(value, out)
        case _:
            out.write(msgspec.json.encode(value, enc_hook=_text))


def _write_list(values: Sequence[Any], out: io.BytesIO) -> Steps[None]:
    opener = b"["
    if values and isinstance(values[0], int):
        for start in range(0, len(values), STEP_NUMBERS):
            out.write(opener)
            out.write(memoryview(msgspec.json.encode(values[start : start + STEP_NUMBERS]))[1:-1])
            opener = b","
            yield
    else:
        for value in values:
            out.write(opener)
            yield from _write(value, out)
            opener = b","
            yield
    out.write(b"]" if values else b"[]")


def _inside(text: str) -> memoryview:
    """Returns a text in JSON, without its quotes."""
    return memoryview(msgspec.json.encode(text))[1:-1]
