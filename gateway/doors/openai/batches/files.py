"""`/v1/files`, but for uploads."""

from __future__ import annotations

from aiohttp import web

from gateway.batch.files import FileInfo
from gateway.delivery.unread import UnreadOutput, write_within
from gateway.doors.http.answers import json_answer
from gateway.doors.http.errors import unread
from gateway.doors.http.exchange import Exchange
from gateway.doors.openai.batches.queries import batch_errors, owner_of, page_query
from gateway.doors.openai.batches.shapes import file_object, page

MOST_FILES = 10_000


async def list_files(exchange: Exchange) -> web.StreamResponse:
    """GET /v1/files."""
    query = page_query(exchange, default=MOST_FILES, most=MOST_FILES)
    async with batch_errors():
        found = await exchange.services.batches.files(owner_of(exchange), query)
    return json_answer(exchange, page([*map(file_object, found.files)], has_more=found.has_more))


async def retrieve_file(exchange: Exchange) -> web.StreamResponse:
    """GET /v1/files/{file_id}."""
    return json_answer(exchange, file_object(await _file(exchange)))


async def delete_file(exchange: Exchange) -> web.StreamResponse:
    """DELETE /v1/files/{file_id}."""
    file_id = exchange.parameters["file_id"]
    async with batch_errors():
        await exchange.services.batches.delete_file(owner_of(exchange), file_id)
    return json_answer(exchange, {"id": file_id, "object": "file", "deleted": True})


async def file_content(exchange: Exchange) -> web.StreamResponse:
    """GET /v1/files/{file_id}/content: the bytes of the file, read and sent piece by piece."""
    info = await _file(exchange)
    owner, batches = owner_of(exchange), exchange.services.batches
    limit_s = exchange.services.active.config.server.blocked_write_s
    async with batch_errors():
        piece = await batches.read_file(owner, info.file_id, 0)
    assert exchange.request is not None
    response = web.StreamResponse(headers=exchange.answer_headers())
    response.content_type = "application/octet-stream"
    response.content_length = info.size_bytes
    try:
        await write_within(_prepared(response, exchange.request), limit_s)
        while True:
            if piece.content:
                await write_within(response.write(piece.content), limit_s)
            if piece.next_cursor is None:
                break
            async with batch_errors():
                piece = await batches.read_file(owner, info.file_id, piece.next_cursor)
        await write_within(response.write_eof(), limit_s)
    except UnreadOutput as error:
        exchange.failed = unread(error.limit_s)
        if exchange.request.transport is not None:
            exchange.request.transport.abort()
    return response


async def _prepared(response: web.StreamResponse, request: web.BaseRequest) -> None:
    await response.prepare(request)


async def _file(exchange: Exchange) -> FileInfo:
    async with batch_errors():
        return await exchange.services.batches.file(
            owner_of(exchange), exchange.parameters["file_id"]
        )
