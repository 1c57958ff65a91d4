"""Reasoning and its signatures, sealed as text that clients keep and give back.

A server knows its own reasoning again by opaque signatures. Clients that keep the reasoning of an
answer give it back in the next request: as OpenRouter's `reasoning_details` of a message, or as
`encrypted_content` of a Responses item. The text holds all that is needed, so that there is no
state here.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from gateway.domain.generation import (
    MAX_ORIGIN_BYTES,
    MAX_SIGNATURE_BYTES,
    MAX_SIGNATURES,
    Signature,
    ToolCall,
)

FORMAT = "moegate-v1"


class Thought(msgspec.Struct, frozen=True, kw_only=True):
    """Reasoning of one turn. `call_signatures`: by the index of the tool call."""

    text: str = ""
    signatures: tuple[Signature, ...] = ()
    call_signatures: dict[int, tuple[Signature, ...]] = {}


class _Sealed(msgspec.Struct, array_like=True):
    """A thought as text. `signatures`: origin, data, and index of the tool call; -1: the turn."""

    format: str
    text: str
    signatures: list[tuple[str, bytes, int]]


class Detail(msgspec.Struct, kw_only=True, gc=False):
    """An entry of `reasoning_details`."""

    type: str = ""
    data: str | None = None


def seal_thought(text: str, signatures: Sequence[Signature], calls: Iterable[ToolCall] = ()) -> str:
    """Reasoning as opaque text."""
    entries = [(each.origin, each.data, -1) for each in signatures]
    entries += [(each.origin, each.data, call.index) for call in calls for each in call.signatures]
    return base64.urlsafe_b64encode(msgspec.json.encode(_Sealed(FORMAT, text, entries))).decode()


def open_thought(sealed: str | None) -> Thought:
    """The reasoning of a sealed text. Text of others is none; what is beyond the bounds of
    signatures is left out, as it costs only the signature."""
    found = _read(sealed)
    if found is None:
        return Thought()
    signatures: tuple[Signature, ...] = ()
    of_calls: dict[int, tuple[Signature, ...]] = {}
    size = 0
    for origin, data, call in found.signatures[:MAX_SIGNATURES]:
        size += len(data)
        if not 0 < len(origin.encode()) <= MAX_ORIGIN_BYTES or not data:
            continue
        if size > MAX_SIGNATURE_BYTES:
            break
        signature = Signature(origin=origin, data=data)
        if call < 0:
            signatures += (signature,)
        else:
            of_calls[call] = (*of_calls.get(call, ()), signature)
    return Thought(text=found.text, signatures=signatures, call_signatures=of_calls)


def details_of(signatures: Sequence[Signature], calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """`reasoning_details` of an answer, which has the text elsewhere; empty without signatures."""
    if not signatures and not any(call.signatures for call in calls):
        return []
    data = seal_thought("", signatures, calls)
    return [{"type": "reasoning.encrypted", "data": data, "format": FORMAT}]


def open_details(details: Sequence[Detail]) -> Thought:
    """The signatures of `reasoning_details`. A stream has one entry for each piece of them."""
    found = [open_thought(detail.data) for detail in details[:MAX_SIGNATURES]]
    of_calls: dict[int, tuple[Signature, ...]] = {}
    for thought in found:
        for index, signatures in thought.call_signatures.items():
            of_calls[index] = (of_calls.get(index, ()) + signatures)[:MAX_SIGNATURES]
    of_turn = tuple(each for thought in found for each in thought.signatures)
    return Thought(signatures=of_turn[:MAX_SIGNATURES], call_signatures=of_calls)


def _read(sealed: str | None) -> _Sealed | None:
    if not sealed:
        return None
    try:
        found = msgspec.json.decode(base64.urlsafe_b64decode(sealed), type=_Sealed)
    except (ValueError, msgspec.MsgspecError):
        return None
    return found if found.format == FORMAT else None
