"""Signatures of reasoning, by which a server knows its own reasoning again.

Clients that keep the reasoning of an answer give it back in the next request, as OpenRouter's
`reasoning_details` of a message or as `encrypted_content` of a Responses item. The text holds the
origin, the place and the data of a signature, so that no state is needed here.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence

import msgspec

from gateway.domain.generation import (
    MAX_ORIGIN_BYTES,
    MAX_SIGNATURE_BYTES,
    MAX_SIGNATURES,
    Signature,
    ToolCall,
)

FORMAT = "moegate-v1"


class _Sealed(msgspec.Struct, array_like=True):
    """A signature as text. `call`: index of the tool call that it belongs to; None: the message."""

    format: str
    origin: str
    call: int | None
    data: bytes


class Detail(msgspec.Struct, kw_only=True):
    """An entry of `reasoning_details`."""

    type: str = ""
    data: str | None = None


def sealed(signature: Signature, call: int | None) -> str:
    """A signature as text."""
    text = msgspec.json.encode(_Sealed(FORMAT, signature.origin, call, signature.data))
    return base64.urlsafe_b64encode(text).decode()


def details_of(signatures: Sequence[Signature], calls: Iterable[ToolCall]) -> list[dict[str, str]]:
    """`reasoning_details` of an answer."""
    found = [sealed(each, None) for each in signatures]
    found += [sealed(each, call.index) for call in calls for each in call.signatures]
    return [{"type": "reasoning.encrypted", "data": text, "format": FORMAT} for text in found]


class Unsealed:
    """The signatures of one message. Texts that others made are left out, as are those beyond the
    bounds: they cost only the signature."""

    def __init__(self, texts: Iterable[str | None]) -> None:
        self.of_message: tuple[Signature, ...] = ()
        self._of_calls: dict[int, tuple[Signature, ...]] = {}
        count = size = 0
        for text in texts:
            found = _read(text)
            if found is None:
                continue
            count, size = count + 1, size + len(found.data)
            if count > MAX_SIGNATURES or size > MAX_SIGNATURE_BYTES:
                break
            signature = (Signature(origin=found.origin, data=found.data),)
            if found.call is None:
                self.of_message += signature
            else:
                self._of_calls[found.call] = self.of_call(found.call) + signature

    def of_call(self, index: int) -> tuple[Signature, ...]:
        """Those of a tool call."""
        return self._of_calls.get(index, ())


def _read(text: str | None) -> _Sealed | None:
    if not text:
        return None
    try:
        found = msgspec.json.decode(base64.urlsafe_b64decode(text), type=_Sealed)
    except (ValueError, msgspec.MsgspecError):
        return None
    good = found.format == FORMAT and 0 < len(found.origin.encode()) <= MAX_ORIGIN_BYTES
    return found if good and found.data else None
