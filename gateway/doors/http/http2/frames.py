"""Cuts what a client sends into runs of whole HTTP/2 frames, and counts those that cost the server
more than the client.

The protocol itself is the library's (`h2`). It handles all bytes that it is given in one go, so
each run is small enough for one turn of the event loop. Pure: the connection says the time.
"""

from __future__ import annotations

PREFACE_BYTES = 24
"""Length of what every client sends first."""
HEAD_BYTES = 9
MAX_FRAME_BYTES = 16_384
"""Longest payload of a frame that is taken, the smallest that a server may ask for."""
MAX_BLOCK_BYTES = 65_536
"""Longest block of headers, compressed, with its continuations."""
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY, CONTINUATION = 0, 1, 3, 4, 7, 9
END_STREAM = 1
END_HEADERS = 4

RUN_FRAMES = 32
RUN_BYTES = 65_536
RUN_HEADER_BYTES = 2048
"""Bounds of a run: of its frames, its bytes, and those of its headers, which cost the most."""
SMALL_DATA_BYTES = 256
"""A piece of a body that is smaller counts as a frame of no use, unless it is the last."""

BURST_POINTS = 1000.0
POINTS_PER_S = 100.0
"""What a client may spend on frames that do nothing for a request: at once, and lasting."""
_POINTS = {RST_STREAM: 3.0, SETTINGS: 10.0}
"""Points of a frame, by type; others cost 1. An aborted request may have cost the server much."""
SENT_POINTS = 4.0
"""Given back with each frame that is sent to the client, which it may acknowledge."""


class Flood(Exception):
    """The client sends more frames of no use than it may."""


class FrameCutter:
    """The bytes of one connection."""

    def __init__(self, now_s: float) -> None:
        self._bytes = bytearray()
        self._begun = False
        self._block_bytes = 0
        self._points = BURST_POINTS
        self._counted_s = now_s

    def feed(self, data: bytes) -> None:
        """Takes bytes as they come."""
        self._bytes += data

    @property
    def kept_bytes(self) -> int:
        """Bytes that are in no run yet."""
        return len(self._bytes)

    def sent(self, frames: int) -> None:
        """So many frames have been sent to the client."""
        self._points = min(BURST_POINTS, self._points + SENT_POINTS * frames)

    def run(self, now_s: float) -> bytes:
        """Returns whole frames, at most so many as a turn of the loop bears; empty: none is whole.
        A frame that is too long is cut: the library refuses it by its head. Raises Flood.

        GOAWAY is left out: it ends no request, but for the library it ends the connection.
        """
        self._refill(now_s)
        held = self._bytes
        end = 0
        if not self._begun:
            if len(held) < PREFACE_BYTES:
                return b""
            self._begun = True
            end = PREFACE_BYTES
        frames = header_bytes = 0
        while len(held) - end >= HEAD_BYTES:
            size = int.from_bytes(held[end : end + 3], "big")
            kind, flags = held[end + 3], held[end + 4]
            whole = end + HEAD_BYTES + size
            if size > MAX_FRAME_BYTES:
                end += HEAD_BYTES
                break
            if whole > len(held):
                break
            self._count(kind, flags, size)
            if kind == GOAWAY and not self._block_bytes:
                del held[end:whole]
                continue
            end = whole
            frames += 1
            header_bytes += size if kind in (HEADERS, CONTINUATION) else 0
            if frames >= RUN_FRAMES or end >= RUN_BYTES or header_bytes >= RUN_HEADER_BYTES:
                break
        found = bytes(held[:end])
        del held[:end]
        return found

    def _count(self, kind: int, flags: int, size: int) -> None:
        if kind in (HEADERS, CONTINUATION):
            self._block_bytes += size + HEAD_BYTES
            if self._block_bytes > MAX_BLOCK_BYTES:
                raise Flood(f"a block of headers of more than {MAX_BLOCK_BYTES} bytes")
            if flags & END_HEADERS:
                self._block_bytes = 0
        if kind == HEADERS:
            return
        if kind == DATA and (size >= SMALL_DATA_BYTES or flags & END_STREAM):
            return
        self._points -= _POINTS.get(kind, 1.0)
        if self._points < 0:
            raise Flood("too many frames that are no requests")

    def _refill(self, now_s: float) -> None:
        earned = POINTS_PER_S * max(0.0, now_s - self._counted_s)
        self._points = min(BURST_POINTS, self._points + earned)
        self._counted_s = now_s
