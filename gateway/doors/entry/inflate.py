"""Inflates request bodies within a bound."""

from __future__ import annotations

import asyncio
import zlib

_COMPRESSED = (b"\x1f\x8b", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
"""First bytes of gzip and of deflate streams. gRPC does not tell which messages are compressed.
No message begins like gzip (0x1f is a tag of wire type 7); the rest of one that begins like deflate
fails the stream's checksum. No JSON text begins like either."""
_AT_ONCE_BYTES = 256 * 1024
"""Bytes that are inflated on the event loop. The rest is inflated in a thread: 16 MB take 40 ms."""
_ANY_WRAPPER = zlib.MAX_WBITS | 32
"""Makes zlib accept gzip and deflate streams."""


class TooLarge(Exception):
    """The request is larger than the caller may send. The text says what was sent, and how much may
    be."""

    def __init__(self, size: str, max_bytes: int) -> None:
        """`size`: what was sent."""
        most = f"at most {max_bytes} may be sent here"
        super().__init__(f"{size}: {most}: send less, or ask for a higher limit")


async def inflated(raw: bytes, max_bytes: int) -> bytes:
    """Returns the content of a gzip or deflate stream, and other bytes unchanged.

    Never inflates more than `max_bytes`. Raises TooLarge if there is more.
    """
    if not raw.startswith(_COMPRESSED):
        return raw
    stream = zlib.decompressobj(_ANY_WRAPPER)
    try:
        content = stream.decompress(raw, min(_AT_ONCE_BYTES, max_bytes))
        if not stream.eof:
            # One byte beyond the limit tells a message that is too large from one that just fits.
            left_bytes = max_bytes - len(content) + 1
            tail = stream.unconsumed_tail
            content += await asyncio.to_thread(stream.decompress, tail, left_bytes)
    except zlib.error:
        return raw
    if len(content) > max_bytes:
        raise TooLarge(f"{len(raw)} bytes, which inflate to more", max_bytes)
    return content if stream.eof and not stream.unused_data else raw
