"""`POST /v1/files`: a form of several parts, one of which is the file. The file goes into the store
chunk by chunk as it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.helpers import parse_mimetype
from aiohttp.http_exceptions import HttpProcessingError

from gateway.batch.files import Chunks, FileDraft, FileKind
from gateway.batch.port import Owner
from gateway.doors.http.answers import json_answer
from gateway.doors.http.errors import ErrorKind, HttpError, invalid
from gateway.doors.http.exchange import Exchange
from gateway.doors.openai.batches.queries import batch_errors, owner_of
from gateway.doors.openai.batches.shapes import file_object

T = TypeVar("T")
PURPOSE = "batch"
READ_BYTES = 64 * 1024
MAX_FIELD_BYTES = 1024
MAX_PARTS = 16
MAX_BLANK_LINES = 4
"""Before the form, which some clients send."""
MAX_NAME_CHARS = 255
MAX_KEEP_S = 30 * 86_400
"""Longest time of a file that OpenAI allows."""


@dataclass(slots=True)
class _Form:
    """What the form has said so far."""

    purpose: str | None = None
    anchor: str | None = None
    seconds: str | None = None
    file_id: str = ""
    filename: str = ""


async def upload_file(exchange: Exchange) -> web.StreamResponse:
    """POST /v1/files. Raises HttpError; what was uploaded until then is deleted."""
    request = exchange.request
    assert request is not None
    if not request.content_type.startswith("multipart/"):
        text = f"content-type: {request.content_type[:60]!r}: send multipart/form-data"
        raise HttpError(ErrorKind.INVALID, text, status=415)
    form, owner = _Form(), owner_of(exchange)
    limit_s = exchange.services.active.config.batch.upload_s
    try:
        async with asyncio.timeout(limit_s), batch_errors():
            await _receive(exchange, request, owner, form)
            keep_s = _checked(form)
            info = await exchange.services.batches.finish_file(
                owner, form.file_id, PURPOSE, form.filename, keep_s
            )
    except TimeoutError:
        await _drop(exchange, owner, form)
        text = f"the upload took longer than {limit_s:g} s: batch.upload_s"
        raise HttpError(ErrorKind.DEADLINE, text, status=408) from None
    except (ValueError, AssertionError) as error:  # of a form that is none
        await _drop(exchange, owner, form)
        text = f"the body is no multipart/form-data: {str(error)[:200]}"
        raise HttpError(ErrorKind.INVALID, text, code="invalid_form") from None
    except BaseException:
        await asyncio.shield(_drop(exchange, owner, form))
        raise
    return json_answer(exchange, file_object(info))


async def _receive(exchange: Exchange, request: web.BaseRequest, owner: Owner, form: _Form) -> None:
    reader = await request.multipart()
    await _check_beginning(request, reader)
    for _ in range(MAX_PARTS):
        part = await _of_a_form(reader.next())
        if part is None:
            return
        if not isinstance(part, BodyPartReader):
            raise invalid(PURPOSE, "a form within the form: send its fields one by one")
        encoding = part.headers.get("Content-Transfer-Encoding", "binary").lower()
        if encoding not in ("7bit", "8bit", "binary"):
            raise invalid("body", f"content-transfer-encoding: {encoding[:40]!r}: send plain bytes")
        if part.name == "file" and not form.file_id:
            await _receive_file(exchange, owner, form, part)
        else:
            await _receive_field(form, part)
    raise invalid("body", f"the form has more than {MAX_PARTS} parts")


async def _check_beginning(request: web.BaseRequest, reader: MultipartReader) -> None:
    """Raises ValueError unless the body begins with its boundary. What may stand before it, nobody
    sends, and aiohttp would look through all of it in one turn of the loop."""
    first = b""
    for _ in range(MAX_BLANK_LINES):
        first = await _of_a_form(request.content.readline())
        if first.strip() or not first:
            break
    name = parse_mimetype(request.headers["Content-Type"]).parameters["boundary"]
    boundary = b"--" + name.encode()
    if first.rstrip() not in (boundary, boundary + b"--"):
        raise ValueError(f"it does not begin with {boundary!r}")
    reader._unread.append(first)


async def _of_a_form(reading: Awaitable[T]) -> T:
    """What is read. Raises ValueError for what aiohttp cannot read as a form."""
    try:
        return await reading
    except HttpProcessingError as error:
        raise ValueError(" ".join(error.message.split())) from None
    except RuntimeError as error:  # of a field that names a character set
        raise ValueError(str(error)) from None


async def _receive_file(
    exchange: Exchange, owner: Owner, form: _Form, part: BodyPartReader
) -> None:
    batches = exchange.services.batches
    name = part.filename or "file"
    form.filename = "".join(filter(str.isprintable, name))[:MAX_NAME_CHARS]
    draft = FileDraft(kind=FileKind.LINES, purpose=PURPOSE, filename=form.filename)
    form.file_id = (await batches.create_file(owner, draft)).file_id
    chunks = Chunks()
    while data := await part.read_chunk(READ_BYTES):
        for number, content in chunks.add(data):
            await batches.write_chunk(owner, form.file_id, number, content)
    for number, content in chunks.end():
        await batches.write_chunk(owner, form.file_id, number, content)


async def _receive_field(form: _Form, part: BodyPartReader) -> None:
    value = b""
    while data := await part.read_chunk(MAX_FIELD_BYTES):
        value += data
        if len(value) > MAX_FIELD_BYTES:
            shown = (part.name or "")[:40]
            raise invalid(shown, f"more than {MAX_FIELD_BYTES} bytes: give less")
    text = value.decode(errors="replace")
    match part.name:
        case "purpose":
            form.purpose = text
        case "expires_after[anchor]":
            form.anchor = text
        case "expires_after[seconds]":
            form.seconds = text


def _checked(form: _Form) -> float | None:
    """Checks the fields. Returns how long the file is to be kept. Raises HttpError (INVALID)."""
    if not form.file_id:
        raise invalid("file", "the form has no file: send one")
    if form.purpose != PURPOSE:
        shown = "none" if form.purpose is None else repr(form.purpose[:40])
        raise invalid("purpose", f"{shown}: give batch, the only one here")
    if form.seconds is None:
        return None
    known = form.seconds.isascii() and form.seconds.isdecimal() and len(form.seconds) < 9
    if not known or not 3600 <= int(form.seconds) <= MAX_KEEP_S:
        text = f"{form.seconds[:20]!r}: give 3600 to {MAX_KEEP_S}"
        raise invalid("expires_after.seconds", text)
    if form.anchor != "created_at":
        raise invalid("expires_after.anchor", f"{(form.anchor or '')[:20]!r}: give created_at")
    return float(form.seconds)


async def _drop(exchange: Exchange, owner: Owner, form: _Form) -> None:
    """Deletes what was uploaded. If that fails, retention does it later."""
    if form.file_id:
        try:
            async with batch_errors():
                await exchange.services.batches.delete_file(owner, form.file_id)
        except HttpError:
            return
