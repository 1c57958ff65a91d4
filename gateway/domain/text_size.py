"""Sizes of texts."""

from __future__ import annotations


def utf8_bytes(text: str) -> int:
    """Returns the bytes of a text in UTF-8. An ASCII text, however long, takes no time."""
    return len(text) if text.isascii() else len(text.encode())
