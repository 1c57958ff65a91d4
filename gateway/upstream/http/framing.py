"""HTTP/1.1 answers (RFC 9112) from bytes that arrive in any pieces: head, and bytes of the body.

Framing is strict, since a wrong length mixes up two answers on one connection. What has no effect
on framing is read leniently: bare LF, folded lines, any bytes in a value.
"""

from __future__ import annotations

import re

from multidict import CIMultiDict

MAX_HEAD_BYTES = 64 * 1024
"""Longest head of an answer, heads of interim answers (1xx) included; also longest trailer."""
MAX_CHUNK_LINE_BYTES = 4096
"""Longest line in front of a chunk, extensions included."""
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_LINE_END = re.compile(rb"\r?\n")
_FOLDED = re.compile(rb"\r?\n[ \t]+")
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: .*)?", re.S)
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*(.*?)[ \t]*", re.S)
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
_BODILESS = frozenset({204, 304})


class NotHttp(Exception):
    """The bytes are no answer of HTTP/1.1."""


class AnswerParser:
    """Reads one answer. Cannot be used after NotHttp.

    Attributes:
        status, headers: of the final answer, once `has_head`.
        complete: the whole answer has come.
        keeps_alive: the connection can take another request, once `complete`.
    """

    __slots__ = (
        "_chunked",
        "_head_bytes",
        "_left_bytes",
        "_needs_chunk_end",
        "_rest",
        "_trailer",
        "complete",
        "has_head",
        "headers",
        "keeps_alive",
        "status",
    )

    def __init__(self) -> None:
        self.status = 0
        self.headers: CIMultiDict[str] = CIMultiDict()
        self.has_head = False
        self.complete = False
        self.keeps_alive = False
        self._rest = b""
        """The start of a head or of a line that is not complete."""
        self._head_bytes = 0
        self._chunked = False
        self._left_bytes: int | None = None
        """Bytes that the body, or its current chunk, still has; None: it ends with the
        connection."""
        self._needs_chunk_end = False
        self._trailer = False

    @property
    def ends_with_connection(self) -> bool:
        """Whether the end of the connection is the regular end of the answer."""
        return self.has_head and not self._chunked and self._left_bytes is None

    def feed(self, data: bytes) -> bytes:
        """The bytes of the body in `data`. Raises NotHttp."""
        start = searched = 0
        if self._rest:
            searched = max(0, len(self._rest) - 3)  # what was searched before is not searched again
            data, self._rest = self._rest + data, b""
        while not self.has_head:
            end = _HEAD_END.search(data, max(start, searched))
            length = (len(data) if end is None else end.end()) - start
            if self._head_bytes + length > MAX_HEAD_BYTES:
                raise NotHttp(f"a head of more than {MAX_HEAD_BYTES} bytes")
            if end is None:
                self._rest = data[start:]
                return b""
            self._head_bytes += length
            self._read_head(data[start : end.start()])
            start = end.end()
        if self.complete:
            return self._completed(data, start, b"")
        if self._chunked:
            return self._read_chunks(data, start)
        if self._left_bytes is None:
            return data[start:]
        body = data[start : start + self._left_bytes]
        self._left_bytes -= len(body)
        return body if self._left_bytes else self._completed(data, start + len(body), body)

    def _read_head(self, head: bytes) -> None:
        if b"\n " in head or b"\n\t" in head:
            head = _FOLDED.sub(b" ", head)
        first, *lines = _LINE_END.split(head)
        found = _STATUS.fullmatch(first)
        if found is None:
            raise NotHttp("no status line of HTTP/1.1")
        status = int(found[2])
        if status < 200:
            if status == 101:
                raise NotHttp("another protocol, which was not asked for")
            return  # an interim answer: the final one follows
        self.has_head, self.status = True, status
        for line in lines:
            field = _FIELD.fullmatch(line)
            if field is None:
                raise NotHttp("a line of the head is no field")
            name, value = field[1].decode(), field[2].decode("utf-8", "surrogateescape")
            self.headers.add(name, value)
        self._read_framing(is_1_1=found[1] == b"1")

    def _read_framing(self, *, is_1_1: bool) -> None:
        headers = self.headers
        connection = _words(headers.getall("Connection", ()))
        self.keeps_alive = "close" not in connection and (is_1_1 or "keep-alive" in connection)
        lengths = set(_words(headers.getall("Content-Length", ())))
        encodings = _words(headers.getall("Transfer-Encoding", ()))
        if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
            raise NotHttp("no valid Content-Length")
        if self.status in _BODILESS:
            self.complete = True
        elif encodings:
            self._chunked = encodings[-1] == "chunked"
            self._left_bytes = 0 if self._chunked else None
            self.keeps_alive = self.keeps_alive and self._chunked and not lengths
        elif lengths:
            self._left_bytes = int(lengths.pop())
            self.complete = not self._left_bytes
        else:
            self.keeps_alive = False

    def _read_chunks(self, data: bytes, at: int) -> bytes:
        pieces: list[bytes] = []
        while not self._trailer:
            assert self._left_bytes is not None
            if self._left_bytes:
                piece = data[at : at + self._left_bytes]
                pieces.append(piece)
                at += len(piece)
                self._left_bytes -= len(piece)
                if self._left_bytes:
                    return b"".join(pieces)
                self._needs_chunk_end = True
            if self._needs_chunk_end:
                line_end = _LINE_END.match(data, at)
                if line_end is None:
                    self._keep_rest(data, at, 1, b"\r")
                    return b"".join(pieces)
                at = line_end.end()
                self._needs_chunk_end = False
            line = _CHUNK.match(data, at)
            if line is None:
                self._keep_rest(data, at, MAX_CHUNK_LINE_BYTES)
                return b"".join(pieces)
            at = line.end()
            self._left_bytes = int(line[1], 16)
            self._trailer = not self._left_bytes
        return self._read_trailer(data, at, b"".join(pieces))

    def _read_trailer(self, data: bytes, at: int, body: bytes) -> bytes:
        """Skips the fields after the last chunk, up to an empty line."""
        end = _LINE_END.match(data, at) or _HEAD_END.search(data, at)
        if end is not None:
            return self._completed(data, end.end(), body)
        if len(data) - at > MAX_HEAD_BYTES:
            raise NotHttp(f"a trailer of more than {MAX_HEAD_BYTES} bytes")
        self._rest = data[at:]
        return body

    def _keep_rest(self, data: bytes, at: int, max_bytes: int, start: bytes = b"") -> None:
        """Keeps a line whose end has not come yet. Raises NotHttp if it can be none."""
        rest = data[at:]
        if b"\n" in rest or len(rest) > max_bytes or (start and not start.startswith(rest)):
            raise NotHttp("no valid chunk")
        self._rest = rest

    def _completed(self, data: bytes, at: int, body: bytes) -> bytes:
        self.complete = True
        if at < len(data):
            self.keeps_alive = False  # bytes that nobody asked for
        return body


def _words(values: tuple[str, ...] | list[str]) -> list[str]:
    """The words of a list field, in lower case."""
    return [word.strip().lower() for value in values for word in value.split(",") if word.strip()]
