"""Number of values of JSON text, without parsing it: many small ones cost far more than their
bytes."""

from __future__ import annotations

import numpy as np

from gateway.domain.slices import Steps
from gateway.translation.json_depth import PIECE_BYTES

_QUOTE, _BACKSLASH = ord('"'), ord("\\")
_OTHERS = bytes(byte for byte in range(256) if byte not in b'"[{,')


def more_values_than(text: bytes, most: int) -> Steps[bool]:
    """Whether the text may hold more than `most` values, keys not counted.

    Each value but the first follows a comma or an opening bracket. Text that is no JSON gets some
    answer, because its parser refuses it afterwards.
    """
    if text.count(b",") + text.count(b"[") + text.count(b"{") < most:
        return False  # those within strings included
    values = 1
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
        values += int(np.count_nonzero((inside == 0) & ~quotes))
        if values > most:
            return True
        if inside.size:
            in_string = int(inside[-1])
        start = end
        yield
    return False
