"""Large bodies of requests, written in pieces without a copy."""

from __future__ import annotations

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

LARGE_BODY_BYTES = 1 << 20
"""aiohttp copies a larger body as a whole, or warns of it."""
_PIECE_BYTES = 256 * 1024
"""Bytes between two waits for the connection."""


class LargeBody(Payload):
    """The bytes of a body. It can be sent again on another connection."""

    _autoclose = True

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self._size = len(body)
        self._body = body

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Returns the body as text."""
        return self._body.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Writes the whole body."""
        await self.write_with_length(writer, None)

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        """Writes at most `content_length` bytes of the body; None: all."""
        view = memoryview(self._body)[:content_length]
        for start in range(0, len(view), _PIECE_BYTES):
            await writer.write(view[start : start + _PIECE_BYTES])
            await writer.drain()
