"""Bounds on what a parsed chat may hold, for all dialects of HTTP."""

from __future__ import annotations

from gateway.config.limits import ElementLimitsConfig
from gateway.domain.generation import Message
from gateway.doors.http.errors import ErrorKind, HttpError

CHARACTER_BYTES = 4
"""Longest character of UTF-8."""


class ElementCount:
    """Counts the elements of a chat while it is converted. Raises HttpError (INVALID) beyond a
    bound of `limits.elements`."""

    def __init__(self, limits: ElementLimitsConfig) -> None:
        self._limits = limits
        self._messages = 0
        self._parts = 0
        self._calls = 0
        self._text_chars = 0

    def add(self, message: Message) -> Message:
        """Counts a message and returns it."""
        limits = self._limits
        self._messages += 1
        self._parts += len(message.parts)
        self._calls += len(message.tool_calls)
        self._text_chars += len(message.reasoning_text)
        self._text_chars += sum(len(part) for part in message.parts if isinstance(part, str))
        self._text_chars += sum(len(call.arguments_json) for call in message.tool_calls)
        for name, count, most in (
            ("messages", self._messages, limits.messages),
            ("parts", self._parts, limits.parts),
            ("tool_calls", self._calls, limits.tool_calls),
            ("text_bytes", self._text_chars, limits.text_bytes),
        ):
            if count > most:
                raise too_many(name, most)
        for call in message.tool_calls:
            if len(call.arguments_json) > limits.arguments_bytes:
                raise too_many("arguments_bytes", limits.arguments_bytes)
        return message

    def check_arguments(self, least_bytes: int) -> None:
        """Raises HttpError (INVALID) if arguments of a tool call that have at least so many bytes
        of UTF-8 surely have too many characters."""
        if least_bytes // CHARACTER_BYTES > self._limits.arguments_bytes:
            raise too_many("arguments_bytes", self._limits.arguments_bytes)


def too_many(name: str, most: int) -> HttpError:
    """400: more than `limits.elements` allows."""
    text = f"more than {most} {name}: limits.elements.{name} allows no more"
    return HttpError(ErrorKind.INVALID, text, code="too_many_elements")
