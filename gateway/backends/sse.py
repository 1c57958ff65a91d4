"""Server-sent events from bytes that arrive in pieces: the `data` payloads, nothing else.

Bytes may be split anywhere, in a line end or in a character: nothing is decoded here. (HTML
standard, section 9.2.6, event stream interpretation; fields other than `data` are ignored.)
"""

from __future__ import annotations

import re

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class OversizedEvent(ValueError):
    """An event is longer than the bound: the upstream is not what it should be."""


class SseReader:
    """Splits one stream. `max_event_bytes` bounds what is held of an unfinished event."""

    def __init__(self, max_event_bytes: int = 1 << 20) -> None:
        self._max_event_bytes = max_event_bytes
        self._buffer = b""
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._at_start = True

    @property
    def pending(self) -> bool:
        """Whether an event has begun and not ended: at the end of a stream, it was cut."""
        return bool(self._buffer.strip() or self._data)

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that are complete with `data`. Raises OversizedEvent."""
        buffer = self._buffer + data
        if self._at_start:
            if len(buffer) < len(_BOM) and _BOM.startswith(buffer):
                self._buffer = buffer
                return []
            buffer = buffer.removeprefix(_BOM)
            self._at_start = False
        # A final CR may be the first half of CRLF: it waits for the next byte.
        end = len(buffer) - 1 if buffer.endswith(b"\r") else len(buffer)
        events: list[bytes] = []
        position = 0
        for match in _LINE_END.finditer(buffer, 0, end):
            self._take_line(buffer[position : match.start()], events)
            position = match.end()
        self._buffer = buffer[position:]
        if len(self._buffer) + self._data_bytes > self._max_event_bytes:
            raise OversizedEvent(f"an event of more than {self._max_event_bytes} bytes")
        return events

    def _take_line(self, line: bytes, events: list[bytes]) -> None:
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
                self._data, self._data_bytes = [], 0
        elif line.startswith(b"data:"):
            value = line[6:] if line[5:6] == b" " else line[5:]
            self._data.append(value)
            self._data_bytes += len(value) + 1
            if self._data_bytes > self._max_event_bytes:
                raise OversizedEvent(f"an event of more than {self._max_event_bytes} bytes")
        elif line == b"data":
            self._data.append(b"")
