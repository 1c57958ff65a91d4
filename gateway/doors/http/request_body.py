"""Receives and parses the body of a request, within the bounds of its key."""

from __future__ import annotations

import asyncio
from codecs import BOM_UTF8
from collections.abc import Callable
from typing import TypeVar, cast

import msgspec
from aiohttp import web
from aiohttp.http import HttpVersion11
from aiohttp.http_writer import StreamWriter

from gateway.config.limits import ElementLimitsConfig
from gateway.domain.slices import in_one_slice, in_slices
from gateway.doors.entry.inflate import TooLarge, inflated
from gateway.doors.http.errors import ErrorKind, HttpError, invalid
from gateway.doors.http.http2.stream import Http2Writer
from gateway.translation.json_size import holds_more_than, is_utf8

T = TypeVar("T")
_ENCODINGS = ("gzip", "deflate")


async def receive_body(request: web.BaseRequest, max_bytes: int, limit_s: float) -> bytes:
    """Returns the body, inflated. `limit_s`: how long it may take to arrive.

    Raises HttpError: 413 beyond `max_bytes`, 408 beyond `limit_s`, 415 for an unknown encoding,
    400 for a body that cannot be inflated.
    """
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", *_ENCODINGS):
        text = f"content-encoding: {encoding[:40]!r}: give {' or '.join(_ENCODINGS)}, or none"
        raise HttpError(ErrorKind.INVALID, text, status=415)
    length = request.content_length
    if length is not None and length > max_bytes:
        raise _too_large(TooLarge(f"{length} bytes", max_bytes))
    if request.headers.get("Expect", "").lower() == "100-continue":
        await _continue(request)
    try:
        async with asyncio.timeout(limit_s):
            raw = await _received(request, max_bytes)
    except TimeoutError:
        text = f"the request took longer than {limit_s:g} s to arrive: limits.request_s"
        raise HttpError(ErrorKind.DEADLINE, text, status=408) from None
    if encoding not in _ENCODINGS:
        return raw
    try:
        content = await inflated(raw, max_bytes)
    except TooLarge as error:
        raise _too_large(error) from None
    if content is raw and raw and not raw.lstrip().startswith((b"{", b"[")):
        text = f"content-encoding: {encoding}: the body is no whole stream of it"
        raise HttpError(ErrorKind.INVALID, text, code="invalid_encoding")
    return content


async def _received(request: web.BaseRequest, max_bytes: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in request.content.iter_any():
        size += len(piece)
        if size > max_bytes:
            raise _too_large(TooLarge(f"more than {max_bytes} bytes", max_bytes))
        pieces.append(piece)
    return b"".join(pieces)


async def _continue(request: web.BaseRequest) -> None:
    """Tells a client that waits before it sends a large body to send it."""
    if isinstance(request.writer, Http2Writer):
        request.writer.send_continue()
    elif request.version >= HttpVersion11:
        writer = cast(StreamWriter, request.writer)
        await writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        writer.output_size = 0  # or a later error would count as one within the answer


async def parse_body(
    body: bytes,
    decode: Callable[[bytes], T],
    elements: ElementLimitsConfig,
    token_ids: int = 0,
) -> T:
    """Returns the value of a JSON body. `decode`: a msgspec decoder's. `token_ids`: values that it
    may hold beside others. Raises HttpError (INVALID) that names the field at fault."""
    body = body.removeprefix(BOM_UTF8)
    objects = elements.messages + elements.parts + elements.tool_calls + elements.unknown_fields
    values = elements.fields + token_ids
    if await in_slices(holds_more_than(body, values, objects)):
        text = f"more than {values} JSON values or {objects} objects: limits.elements forbids it"
        raise HttpError(ErrorKind.INVALID, text, code="too_many_elements")
    if not await in_slices(is_utf8(body)):
        text = "the body is no UTF-8: send JSON in that encoding"
        raise HttpError(ErrorKind.INVALID, text, code="invalid_json")
    try:
        return await in_one_slice(lambda: decode(body))
    except msgspec.ValidationError as error:
        raise _not_valid(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        text = f"the body is no JSON: {error}" if body else "the body is empty: send JSON"
        raise HttpError(ErrorKind.INVALID, text, code="invalid_json") from None


def _not_valid(text: str) -> HttpError:
    """400 with the path of the field, from the text of msgspec: `REASON - at `$.PATH``."""
    reason, _, path = text.partition(" - at `$")
    return invalid(path.removesuffix("`").removeprefix(".") or "body", reason)


def _too_large(error: TooLarge) -> HttpError:
    return HttpError(ErrorKind.TOO_LARGE, str(error), code="request_too_large")
