"""Signatures of reasoning, whatever the dialect: where they come from, and how many are kept.

A history may hold signatures of several servers. Each server receives only its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from gateway.domain.generation import (
    MAX_ORIGIN_BYTES,
    MAX_SIGNATURE_BYTES,
    MAX_SIGNATURES,
    Chat,
    Generation,
    Signature,
)


def origin_of(api: str, url: str, upstream_model: str) -> str:
    """Origin of the signatures of a server and model, 16 hex digits. All gateways compute the same
    one, and it does not change with the name of the remote."""
    return hashlib.sha256(f"{api}\n{url}\n{upstream_model}".encode()).hexdigest()[:16]


def forwarded_origin(gateway: str, origin: str) -> str:
    """Origin of a signature that another gateway passed on. `gateway`: origin of that gateway."""
    return f"{gateway}/{origin}"


def origin_behind(gateway: str, origin: str) -> str | None:
    """The origin that another gateway gave; None: the signature did not come through it."""
    prefix = f"{gateway}/"
    return origin.removeprefix(prefix) if origin.startswith(prefix) else None


def data_from(origin: str, signatures: Iterable[Signature]) -> list[bytes]:
    """The data of the signatures that `origin` made, in order."""
    return [each.data for each in signatures if each.origin == origin]


def newest_origin(generation: Generation) -> str:
    """Origin of the newest signature in a history, as the first server on the way to it; empty:
    there is none."""
    if not isinstance(generation.input, Chat):
        return ""
    for message in reversed(generation.input.messages):
        of_calls = (each for call in message.tool_calls for each in call.signatures)
        for each in (*message.signatures, *of_calls):
            return each.origin.partition("/")[0]
    return ""


class SignatureBounds:
    """Bounds the signatures of one choice of an answer. What exceeds a bound is left out, because
    the client could not give it back; `left_out` says whether that happened."""

    __slots__ = ("_bytes_left", "_left", "left_out")

    def __init__(self) -> None:
        self.left_out = False
        self._left = MAX_SIGNATURES
        self._bytes_left = MAX_SIGNATURE_BYTES

    def kept(self, signatures: Iterable[Signature]) -> tuple[Signature, ...]:
        """The signatures that are kept, in order."""
        return tuple(each for each in signatures if self._take(each))

    def _take(self, signature: Signature) -> bool:
        size = len(signature.data)
        origin_bytes = len(signature.origin.encode())
        fits = self._left and 0 < size <= self._bytes_left and 0 < origin_bytes <= MAX_ORIGIN_BYTES
        if not fits:
            self.left_out = True
            return False
        self._left -= 1
        self._bytes_left -= size
        return True
