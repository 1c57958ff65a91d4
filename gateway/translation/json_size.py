"""What is checked of JSON text before it is parsed: its encoding, and the number of its values and
objects, since many small ones cost far more than their bytes."""

from __future__ import annotations

import codecs

import numpy as np

from gateway.domain.slices import Steps
from gateway.translation.json_depth import PIECE_BYTES

UTF8_PIECE_BYTES = 262_144
"""Bytes that one step decodes, less than a millisecond."""
_QUOTE, _BACKSLASH, _BRACE = ord('"'), ord("\\"), ord("{")
_OTHERS = bytes(byte for byte in range(256) if byte not in b'"[{,')


def is_utf8(text: bytes) -> Steps[bool]:
    """Whether the text is UTF-8. A parser does not look at the parts that it keeps as text."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(text), UTF8_PIECE_BYTES):
            decoder.decode(text[start : start + UTF8_PIECE_BYTES])
            yield
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def holds_more_than(text: bytes, most_values: int, most_objects: int) -> Steps[bool]:
    """Whether the text holds more than `most_values` values, keys not counted, or more than
    `most_objects` objects.

    Each value but the first follows a comma or an opening bracket. Text that is no JSON gets some
    answer, because its parser refuses it afterwards.
    """
    braces = text.count(b"{")
    yield
    others = text.count(b",") + text.count(b"[")
    yield
    if braces <= most_objects and braces + others < most_values:
        return False  # those within strings included
    values, objects = 1, 0
    in_string = 0
    start = 0
    while start < len(text):
        end = min(len(text), start + PIECE_BYTES)
        while end < len(text) and text[end - 1] == _BACKSLASH:
            end += 1  # a piece ends with a whole escape
        unescaped = text[start:end].replace(b"\\\\", b"").replace(b'\\"', b"")
        kept = np.frombuffer(unescaped.translate(None, _OTHERS), np.uint8)
        quotes = kept == _QUOTE
        # The sum of the quotes wraps at 256, which keeps its parity.
        inside = (np.cumsum(quotes, dtype=np.uint8) + np.uint8(in_string)) & 1
        outside = kept[(inside == 0) & ~quotes]
        values += outside.size
        objects += int(np.count_nonzero(outside == _BRACE))
        if values > most_values or objects > most_objects:
            return True
        if inside.size:
            in_string = int(inside[-1])
        start = end
        yield
    return False
