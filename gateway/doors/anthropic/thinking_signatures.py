"""Signatures of reasoning as the one text that a thinking block of the Messages API has.

A client gives the text back unchanged. It is base64 of msgpack, with a mark before it. A text
without the mark was made by another gateway or provider and means nothing here.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable

import msgspec

from gateway.domain.generation import MAX_ORIGIN_BYTES, Signature

_MARK = "moegate1."


def signature_text(signatures: Iterable[Signature]) -> str:
    """The signatures as one text; empty: there are none."""
    pairs = [(each.origin, each.data) for each in signatures]
    if not pairs:
        return ""
    return _MARK + base64.b64encode(msgspec.msgpack.encode(pairs)).decode()


def signatures_of(text: str) -> tuple[Signature, ...]:
    """The signatures of a text; empty: it is not this gateway's."""
    if not text.startswith(_MARK):
        return ()
    try:
        packed = base64.b64decode(text.removeprefix(_MARK), validate=True)
        pairs = msgspec.msgpack.decode(packed, type=list[tuple[str, bytes]])
    except (ValueError, msgspec.DecodeError):
        return ()
    return tuple(
        Signature(origin=origin, data=data)
        for origin, data in pairs
        if data and 0 < len(origin.encode()) <= MAX_ORIGIN_BYTES
    )
