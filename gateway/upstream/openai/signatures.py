"""Signatures of reasoning in OpenAI-shaped messages: the fields in which servers put opaque data.

Gemini has `extra_content` on messages and tool calls, OpenRouter has `reasoning_details`, and
LiteLLM has `thinking_blocks` and `provider_specific_fields`. The data of a signature is a JSON
object that holds one of these fields. A list arrives in pieces, of which each item becomes one
signature.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from gateway.domain.generation import MAX_SIGNATURE_BYTES, Signature
from gateway.upstream.openai import wire
from gateway.upstream.signatures import SignatureBounds

_OBJECTS = ("extra_content", "provider_specific_fields")
REASONING_LISTS = frozenset({"reasoning_details", "thinking_blocks"})
_TEXTS = ("text", "summary", "thinking")
"""Fields of an item that arrive in pieces."""
_SAME = ("type", "index", "id")
"""Fields in which the pieces of an item agree."""


def fields_of(data: Iterable[bytes]) -> dict[str, Any]:
    """The fields to put into a message or tool call. Data that no decoder of this module wrote is
    left out, because it comes from the client."""
    fields: dict[str, Any] = {}
    for each in data:
        for name, value in _object(each).items():
            if name in _OBJECTS and isinstance(value, dict):
                fields[name] = fields.get(name, {}) | value
            elif name in REASONING_LISTS and isinstance(value, dict):
                fields.setdefault(name, []).append(value)
    return fields


class _Item:
    """An item of a list, of which more pieces may come."""

    __slots__ = ("fields", "name", "size_bytes", "texts")

    def __init__(self, name: str, piece: dict[str, Any]) -> None:
        self.name = name
        self.fields: dict[str, Any] = {}
        self.texts: dict[str, list[str]] = {}
        self.size_bytes = 0
        self.extend(piece)

    def continued_by(self, name: str, piece: dict[str, Any]) -> bool:
        """Whether `piece` belongs to this item. A signature ends an item."""
        if name != self.name or self.fields.get("signature") or self.fields.get("data"):
            return False
        return not piece.get("data") and all(self.fields.get(k) == piece.get(k) for k in _SAME)

    def extend(self, piece: dict[str, Any]) -> None:
        """Adds a piece."""
        for name, value in piece.items():
            if name in _TEXTS and isinstance(value, str):
                self.size_bytes += len(value)
                if self.size_bytes <= MAX_SIGNATURE_BYTES:
                    self.texts.setdefault(name, []).append(value)
            elif value is not None or name not in self.fields:
                self.fields[name] = value

    def whole(self) -> dict[str, Any]:
        """The item; empty: it is too large to be given back."""
        if self.size_bytes > MAX_SIGNATURE_BYTES:
            return {}
        return self.fields | {name: "".join(texts) for name, texts in self.texts.items()}


class SignatureDecoder:
    """Collects the signatures of one choice. `origin`: the server; empty: it makes none."""

    __slots__ = ("_bounds", "_complete", "_open", "_origin")

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._bounds = SignatureBounds()
        self._complete: list[tuple[str, dict[str, Any]]] = []
        self._open: _Item | None = None

    def add(self, delta: wire.Delta) -> bool:
        """Adds the fields of a frame. Returns whether a signature is complete."""
        if not self._origin:
            return False
        for name in REASONING_LISTS:
            for piece in _items(getattr(delta, name)):
                if self._open is not None and self._open.continued_by(name, piece):
                    self._open.extend(piece)
                else:
                    self._close()
                    self._open = _Item(name, piece)
        for name in _OBJECTS:
            if value := _object(getattr(delta, name)):
                self._complete.append((name, value))
        return bool(self._complete)

    def pop(self, *, ended: bool) -> tuple[Signature, ...]:
        """The signatures that are complete. `ended`: the choice has ended, so all are."""
        if ended:
            self._close()
        if not self._complete:
            return ()
        complete, self._complete = self._complete, []
        return self._kept(complete)

    def of_call(self, call: wire.ToolCall) -> tuple[Signature, ...]:
        """The signatures in one piece of a tool call."""
        if not self._origin:
            return ()
        return self._kept((name, _object(getattr(call, name))) for name in _OBJECTS)

    def _close(self) -> None:
        """Ends the item that was open."""
        if self._open is not None:
            self._complete.append((self._open.name, self._open.whole()))
            self._open = None

    def _kept(self, fields: Iterable[tuple[str, dict[str, Any]]]) -> tuple[Signature, ...]:
        return self._bounds.kept(
            Signature(origin=self._origin, data=msgspec.json.encode({name: value}))
            for name, value in fields
            if value
        )


def _object(data: bytes | msgspec.Raw) -> dict[str, Any]:
    """The JSON object in `data`; empty: it holds none."""
    value = _decoded(data)
    return value if isinstance(value, dict) else {}


def _items(data: msgspec.Raw) -> list[dict[str, Any]]:
    value = _decoded(data)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _decoded(data: bytes | msgspec.Raw) -> Any:
    if not bytes(data):
        return None
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
