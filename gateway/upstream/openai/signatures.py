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

from gateway.domain.generation import MAX_SIGNATURE_BYTES, MAX_SIGNATURES, Signature
from gateway.upstream.openai import wire
from gateway.upstream.signatures import SignatureBounds

_OBJECTS = ("extra_content", "provider_specific_fields")
REASONING_LISTS = frozenset({"reasoning_details", "thinking_blocks"})
_TEXTS = ("text", "summary", "thinking")
"""Fields of an item that arrive in pieces."""
_SAME = ("type", "index", "id")
"""Fields in which the pieces of an item agree."""
_NOTHING = (b"", b"null", b'""', b"{}")
MAX_LIST_BYTES = 512 * 1024
MAX_LIST_ITEMS = 2 * MAX_SIGNATURES
"""Bounds of a list in one frame. A longer list is not read."""


class _Fields(msgspec.Struct, gc=False):
    """Data of a signature. The values stay JSON text, so that they cost no objects."""

    extra_content: msgspec.Raw = msgspec.Raw()
    provider_specific_fields: msgspec.Raw = msgspec.Raw()
    reasoning_details: msgspec.Raw = msgspec.Raw()
    thinking_blocks: msgspec.Raw = msgspec.Raw()


_decode_fields = msgspec.json.Decoder(_Fields).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_item = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def fields_of(data: Iterable[bytes]) -> dict[str, Any]:
    """The fields to put into a message or tool call. Data that no decoder of this module wrote is
    left out, because it comes from the client."""
    fields: dict[str, Any] = {}
    for each in data:
        try:
            each.decode()
            found = _decode_fields(each)
        except _BROKEN:
            continue
        for name in _OBJECTS:
            if _is_object(value := getattr(found, name)):
                fields[name] = value
        for name in sorted(REASONING_LISTS):
            if _is_object(value := getattr(found, name)):
                fields.setdefault(name, []).append(value)
    return fields


class _Item:
    """An item of a list, of which more pieces may come. Fields other than texts stay JSON text."""

    __slots__ = ("fields", "name", "size_bytes", "texts")

    def __init__(self, name: str, piece: dict[str, msgspec.Raw]) -> None:
        self.name = name
        self.fields: dict[str, msgspec.Raw] = {}
        self.texts: dict[str, list[str]] = {}
        self.size_bytes = 0
        self.extend(piece)

    def continued_by(self, name: str, piece: dict[str, msgspec.Raw]) -> bool:
        """Whether `piece` belongs to this item. A signature ends an item."""
        if name != self.name or _has(self.fields, "signature") or _has(self.fields, "data"):
            return False
        return not _has(piece, "data") and all(
            self.fields.get(key) == piece.get(key) for key in _SAME
        )

    def extend(self, piece: dict[str, msgspec.Raw]) -> None:
        """Adds a piece."""
        for name, value in piece.items():
            if name in _TEXTS and _begins(value, b'"'):
                self.size_bytes += len(value)
                if self.size_bytes <= MAX_SIGNATURE_BYTES:
                    self.texts.setdefault(name, []).append(_decode_text(value))
            elif name not in self.fields or bytes(value) != b"null":
                self.size_bytes += len(value)
                self.fields[name] = value.copy()

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
        self._complete: list[tuple[str, Any]] = []
        self._open: _Item | None = None

    @property
    def left_out(self) -> bool:
        """Whether a signature exceeded a bound."""
        return self._bounds.left_out

    def add(self, delta: wire.Delta) -> bool:
        """Adds the fields of a frame. Returns whether a signature is complete."""
        # Most frames have none of the fields, and every frame comes here.
        has_lists = delta.reasoning_details or delta.thinking_blocks
        if not (has_lists or delta.extra_content or delta.provider_specific_fields):
            return False
        if not self._origin:
            return False
        for name in sorted(REASONING_LISTS) if has_lists else ():
            for piece in _items(getattr(delta, name)):
                if self._open is not None and self._open.continued_by(name, piece):
                    self._open.extend(piece)
                else:
                    self._close()
                    self._open = _Item(name, piece)
        for name in _OBJECTS:
            if _is_object(value := getattr(delta, name)):
                self._complete.append((name, value.copy()))
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
        values = ((name, getattr(call, name)) for name in _OBJECTS)
        return self._kept((name, value) for name, value in values if _is_object(value))

    def _close(self) -> None:
        """Ends the item that was open."""
        if self._open is not None:
            whole = self._open.whole()
            if whole and len(self._complete) < MAX_SIGNATURES:
                self._complete.append((self._open.name, whole))
            elif self._open.size_bytes:
                self._bounds.left_out = True
            self._open = None

    def _kept(self, fields: Iterable[tuple[str, Any]]) -> tuple[Signature, ...]:
        return self._bounds.kept(
            Signature(origin=self._origin, data=msgspec.json.encode({name: value}))
            for name, value in fields
        )


def _begins(value: msgspec.Raw, first: bytes) -> bool:
    """Whether a JSON value begins with this character, which tells its type."""
    return bytes(memoryview(value)[:1]) == first


def _is_object(value: msgspec.Raw) -> bool:
    """Whether a JSON value is an object that is not empty, and not too large to be given back."""
    size = len(value)
    return 2 < size <= MAX_SIGNATURE_BYTES and _begins(value, b"{")


def _has(fields: dict[str, msgspec.Raw], name: str) -> bool:
    """Whether a field holds something."""
    return bytes(fields.get(name, b"")) not in _NOTHING


def _items(data: msgspec.Raw) -> list[dict[str, msgspec.Raw]]:
    """The first objects in a JSON list; none: it is no list, or too large."""
    if len(data) > MAX_LIST_BYTES or not _begins(data, b"["):
        return []
    try:
        items = _decode_items(data)[:MAX_LIST_ITEMS]
        return [_decode_item(item) for item in items if _begins(item, b"{")]
    except _BROKEN:
        return []
