"""From the file of a job to its items: cuts lines or messages out of chunks, and reads what the
scheduling of an item needs.

A line that is no item is a fault with its number, and does not sink the job. At most one line is in
memory, and no line longer than `most_bytes`.
"""

from __future__ import annotations

import hashlib
import struct
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from gateway.batch.jobs import MOST_FAULTS, Item, LineFault

MAX_CUSTOM_ID_CHARS = 256
BEGINNING_BYTES = 4096
"""Of each item, what is compared."""
FRAME_HEAD = struct.Struct(">I")
"""Before each message of a file of messages: its length."""
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings")
"""Paths that a line may name."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A line or message. `content`: None: it is longer than allowed."""

    number: int
    start_byte: int
    size_bytes: int
    content: bytes | None


class LineCutter:
    """Cuts lines. Empty ones count, and are left out."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._rest = bytearray()
        self._start = 0
        self._skipped = 0
        self._number = 0

    def add(self, data: bytes) -> Iterator[Cut]:
        """Yields the lines that end in what is added."""
        at = 0
        while (end := data.find(b"\n", at)) >= 0:
            self._keep(data[at:end])
            yield from self._line(1)
            at = end + 1
        self._keep(data[at:])

    def end(self) -> Iterator[Cut]:
        """Yields the last line, if it has no end of its own."""
        yield from self._line(0)

    def _keep(self, data: bytes) -> None:
        room = self._most + 1 - len(self._rest)
        self._rest += data[: max(0, room)]
        self._skipped += max(0, len(data) - max(0, room))

    def _line(self, end_bytes: int) -> Iterator[Cut]:
        size = len(self._rest) + self._skipped
        self._number += 1
        content = bytes(self._rest)
        # Some editors begin a file with a byte order mark, which is no part of its first line.
        mark = len(BOM_UTF8) if self._number == 1 and content.startswith(BOM_UTF8) else 0
        content = content[mark:]
        if content.strip():
            is_long = size > self._most
            start, length = self._start + mark, size - mark
            yield Cut(self._number, start, length, None if is_long else content)
        self._start += size + end_bytes
        self._rest.clear()
        self._skipped = 0


class FrameCutter:
    """Cuts messages, which a door has written and checked."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._start = 0
        self._number = 0

    def add(self, data: bytes) -> Iterator[Cut]:
        """Yields the messages that end in what is added."""
        self._rest += data
        while len(self._rest) >= FRAME_HEAD.size:
            (size,) = FRAME_HEAD.unpack_from(self._rest)
            whole = FRAME_HEAD.size + size
            if len(self._rest) < whole:
                break
            self._number += 1
            content = bytes(self._rest[FRAME_HEAD.size : whole])
            yield Cut(self._number, self._start + FRAME_HEAD.size, size, content)
            del self._rest[:whole]
            self._start += whole

    def end(self) -> Iterator[Cut]:
        """Yields nothing: every message is whole."""
        yield from ()


class LineBody(msgspec.Struct):
    """What scheduling reads of the body of a line."""

    model: str
    stream: bool | None = None


class LineHead(msgspec.Struct):
    """A line of OpenAI's batch format."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


_line = msgspec.json.Decoder(LineHead).decode
_body = msgspec.json.Decoder(LineBody).decode


@dataclass(frozen=True, slots=True)
class ItemHead:
    """What is read of an item before it runs. `name`: that of the caller; `beginning`: of what the
    model is sent, from which the order of items is found."""

    name: str
    model: str
    beginning: bytes


class BadLine(Exception):
    """A line is no item. `code`, `param`: as OpenAI words them."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.fault = LineFault(code=code, message=message, param=param)


def openai_line(content: bytes, endpoint: str) -> ItemHead:
    """Checks a line. Raises BadLine."""
    try:
        head = _line(content)
        body = _body(head.body)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        param = path.removesuffix("`").removeprefix(".") or None
        raise BadLine("invalid_request", f"{param or 'the line'}: {reason}", param) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        text = f"the line is no JSON object: {error}"
        raise BadLine("invalid_json_line", text) from None
    custom_id = head.custom_id
    if not 0 < len(custom_id) <= MAX_CUSTOM_ID_CHARS or "\0" in custom_id:
        text = f"custom_id: {len(custom_id)} characters: give 1 to {MAX_CUSTOM_ID_CHARS}, no NUL"
        raise BadLine("invalid_custom_id", text, "custom_id")
    if head.method != "POST":
        raise BadLine("invalid_method", f"method: {head.method[:20]!r}: give POST", "method")
    if head.url != endpoint:
        text = f"url: {head.url[:80]!r}: give {endpoint}, the endpoint of the batch"
        raise BadLine("mismatched_endpoint", text, "url")
    if body.stream:
        raise BadLine("invalid_request", "body.stream: a batch does not stream", "body.stream")
    if not 0 < len(body.model) <= MAX_CUSTOM_ID_CHARS or "\0" in body.model:
        raise BadLine("invalid_request", "body.model: name a model of /v1/models", "body.model")
    return ItemHead(custom_id, body.model, bytes(head.body)[:BEGINNING_BYTES])


class Intake:
    """Makes items of lines or messages: refuses the second of a custom_id, and what is beyond
    `most_items`. Keeps 8 bytes of each custom_id."""

    def __init__(self, most_items: int) -> None:
        self._most = most_items
        self._known: set[int] = set()
        self.items = 0
        self.bad = 0
        self.faults: list[LineFault] = []

    def item(self, cut: Cut, head: ItemHead) -> Item | None:
        """Returns the item; None: it is refused, which is recorded as a fault."""
        custom_id = head.name
        digest = hashlib.blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        key = int.from_bytes(digest, "big")
        if key in self._known:
            shown = custom_id[:80]
            text = f"custom_id: {shown!r} stands on an earlier line: give each line its own"
            self.refuse(cut.number, LineFault(code="duplicate_custom_id", message=text))
            return None
        if self.items >= self._most:
            text = f"the batch has more than {self._most} requests, batch.job_items: split it"
            self.refuse(cut.number, LineFault(code="too_many_requests", message=text))
            return None
        self._known.add(key)
        self.items += 1
        return Item(
            number=cut.number,
            custom_id=custom_id,
            model=head.model,
            start_byte=cut.start_byte,
            size_bytes=cut.size_bytes,
        )

    def refuse(self, number: int, fault: LineFault) -> None:
        """Records a line that is no item."""
        self.bad += 1
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(msgspec.structs.replace(fault, line=number))
