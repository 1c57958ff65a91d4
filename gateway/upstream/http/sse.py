"""Server-sent events (WHATWG HTML, 9.2) from bytes that arrive in any pieces.

Only `data` is used; event names, ids and retry times are ignored. There is no loop over bytes: a
stream of one-line events, which all engines send, costs one split per network read.
"""

from __future__ import annotations

import re

_BOM = b"\xef\xbb\xbf"
_DATA_LINES = re.compile(rb"^data(?:: ?(.*))?$", re.M)


class EventTooLarge(Exception):
    """An event is longer than `max_event_bytes`."""

    def __init__(self, max_event_bytes: int) -> None:
        super().__init__(f"an event of more than {max_event_bytes} bytes")
        self.max_event_bytes = max_event_bytes


class SseReader:
    """Splits a stream into the `data` of its events. Cannot be used after EventTooLarge."""

    def __init__(self, max_event_bytes: int = 1 << 20) -> None:
        self._max_event_bytes = max_event_bytes
        # Text since the last complete event, its line ends all LF.
        self._rest = bytearray()
        # First bytes while they may still be a byte order mark; None: past it.
        self._head: bytes | None = b""
        self._ended_in_cr = False

    def feed(self, data: bytes) -> list[bytes]:
        """The events that `data` completes, in order. Raises EventTooLarge."""
        if self._head is not None:
            data = self._skip_bom(data)
        if self._ended_in_cr or b"\r" in data:
            data = self._with_lf(data)
        if not self._rest and data.endswith(b"\n\n"):
            blocks = data[:-2].split(b"\n\n")
        else:
            blocks = self._join(data)
        limit = self._max_event_bytes
        # One more byte: the LF that may already be there of the two that end an event.
        if len(self._rest) > limit + 1:
            raise EventTooLarge(limit)
        events: list[bytes] = []
        for block in blocks:
            if not block:
                continue
            if len(block) > limit:
                raise EventTooLarge(limit)
            if block.startswith(b"data: ") and b"\n" not in block:
                events.append(block[6:])
            elif (event := _data_of(block)) is not None:
                events.append(event)
        return events

    @property
    def pending(self) -> bool:
        """Whether an event has begun and not ended: at the end of input, it was cut."""
        return bool(self._head) or bool(self._rest.strip(b"\n"))

    def end(self) -> list[bytes]:
        """The event that has begun and not ended, at the end of input: some servers leave out its
        last empty line."""
        rest, self._rest = bytes(self._rest).strip(b"\n"), bytearray()
        event = _data_of(rest) if rest else None
        return [] if event is None else [event]

    def _join(self, data: bytes) -> list[bytes]:
        """Adds `data` to the incomplete block; returns the blocks that are complete now."""
        rest = self._rest
        # Bytes that were searched before are not searched again, except half of a separator.
        start = max(0, len(rest) - 1)
        rest += data
        end = rest.rfind(b"\n\n", start)
        if end < 0:
            return []
        blocks = bytes(rest[:end]).split(b"\n\n")
        del rest[: end + 2]
        return blocks

    def _skip_bom(self, data: bytes) -> bytes:
        data = (self._head or b"") + data
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._head = data
            return b""
        self._head = None
        return data.removeprefix(_BOM)

    def _with_lf(self, data: bytes) -> bytes:
        """CRLF and CR as LF. A CR ends its line at once; an LF that follows it adds nothing."""
        if not data:
            return data
        if self._ended_in_cr:
            data = data.removeprefix(b"\n")
        self._ended_in_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _data_of(block: bytes) -> bytes | None:
    """The `data` lines of a block, joined; None when it has none (a comment, a bare id)."""
    values = _DATA_LINES.findall(block)
    return b"\n".join(values) if values else None
