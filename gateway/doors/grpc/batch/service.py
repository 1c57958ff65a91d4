"""BatchService: offline jobs of the caller's tenant."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from gateway.batch.files import Chunks, FileDraft, FileKind
from gateway.batch.intake import ENDPOINTS, FRAME_HEAD, MAX_CUSTOM_ID_CHARS
from gateway.batch.jobs import Form, Job, JobDraft, JobTerms
from gateway.batch.port import BatchPort, BatchRefused, Owner, PageQuery, ResultQuery
from gateway.batch.quotes import BatchQuote
from gateway.config.batch import BatchConfig
from gateway.config.gateway import KeyRole
from gateway.delivery.watches import Watches
from gateway.domain.request_bounds import MAX_ID_BYTES
from gateway.domain.tags import is_end_user, labels_json
from gateway.doors.entry.active_settings import ActiveSettings
from gateway.doors.grpc import errors
from gateway.doors.grpc.batch.messages import (
    batch_errors,
    batch_message,
    quote_message,
    result_message,
)
from gateway.doors.grpc.rpc_context import (
    BoundedWriter,
    Context,
    check_texts,
    current_caller,
    require,
    rpc_errors,
)
from gateway.doors.grpc.times import microseconds_of
from moegate.v1 import batch_pb2, batch_pb2_grpc
from scheduler.contract import SloClass

T = TypeVar("T")
DEFAULT_PAGE, MAX_PAGE = 100, 1000
POLL_S = 0.5
"""Seconds between two looks for new results."""
MAX_PIECE_BYTES = 1 << 20
MOST_PAIRS, MAX_VALUE_CHARS = 16, 512
FILENAME = "SubmitBatch"


class BatchService(batch_pb2_grpc.BatchServiceServicer):
    """The RPCs of offline jobs. A tenant's keys share its jobs."""

    def __init__(self, active: ActiveSettings, batches: BatchPort, watches: Watches) -> None:
        self._active = active
        self._batches = batches
        self._watches = watches

    async def SubmitBatch(
        self, request_iterator: AsyncIterator[batch_pb2.SubmitBatchRequest], context: Context
    ) -> batch_pb2.SubmitBatchResponse:
        """Stores the requests, or the pieces of a file, as they arrive, and makes a job of them.
        The file of a job that is refused is deleted."""
        async with rpc_errors(context):
            owner, first = await _begin(request_iterator)
            draft = _draft(first, self._active.config.batch)

            async def submitted(file_id: str) -> Job:
                return await self._batches.submit(owner, draft(file_id))

            async with batch_errors():
                job = await self._uploaded(owner, first, request_iterator, submitted)
            return batch_pb2.SubmitBatchResponse(batch=batch_message(job, _now_us()))

    async def QuoteBatch(
        self, request_iterator: AsyncIterator[batch_pb2.QuoteBatchRequest], context: Context
    ) -> batch_pb2.QuoteBatchResponse:
        """Stores the same for a moment, and answers what a job of it would cost and when it would
        end."""
        async with rpc_errors(context):
            messages = (request.batch async for request in request_iterator)
            owner, first = await _begin(messages)
            draft = _draft(first, self._active.config.batch)

            async def quoted(file_id: str) -> BatchQuote:
                quote = await self._batches.quote(owner, draft(file_id))
                await self._batches.delete_file(owner, file_id)
                return quote

            async with batch_errors():
                quote = await self._uploaded(owner, first, messages, quoted)
            deadline_s = draft("").deadline_s or self._active.config.batch.deadline_s
            return quote_message(quote, _now_us() + round(deadline_s * 1e6))

    async def _uploaded(
        self,
        owner: Owner,
        first: batch_pb2.SubmitBatchRequest,
        others: AsyncIterator[batch_pb2.SubmitBatchRequest],
        use: Callable[[str], Awaitable[T]],
    ) -> T:
        """Stores all messages in a file, and returns what `use` makes of it. The file of a job that
        is refused is deleted."""
        is_lines = bool(first.openai_lines)
        kind = FileKind.LINES if is_lines else FileKind.FRAMES
        purpose = "batch" if is_lines else ""
        batches = self._batches
        info = await batches.create_file(
            owner, FileDraft(kind=kind, purpose=purpose, filename=FILENAME)
        )
        file_id = info.file_id
        try:
            writer = _Writer(batches, owner, file_id, self._active.config.batch.job_items)
            await writer.add(first, is_lines=is_lines)
            del first
            async for message in others:
                await writer.add(message, is_lines=is_lines)
            await writer.end()
            await batches.finish_file(owner, file_id, purpose, FILENAME, None)
            return await use(file_id)
        except BaseException:
            with contextlib.suppress(BatchRefused):  # the caller is told what went wrong first
                await asyncio.shield(self._batches.delete_file(owner, file_id))
            raise

    async def GetBatch(
        self, request: batch_pb2.GetBatchRequest, context: Context
    ) -> batch_pb2.GetBatchResponse:
        """Returns one job; operators may see those of all tenants. Raises NOT_FOUND."""
        async with rpc_errors(context), batch_errors():
            owner = _owner(all_tenants=current_caller().role is KeyRole.OPERATOR)
            job = await self._batches.job(owner, request.batch_id[:MAX_CUSTOM_ID_CHARS])
            return batch_pb2.GetBatchResponse(batch=batch_message(job, _now_us()))

    async def ListBatches(
        self, request: batch_pb2.ListBatchesRequest, context: Context
    ) -> batch_pb2.ListBatchesResponse:
        """Lists the tenant's jobs, or all of them for operators, newest first."""
        async with rpc_errors(context), batch_errors():
            if request.all_tenants:
                require(current_caller(), {KeyRole.OPERATOR}, "all_tenants: a list of all jobs")
            size = request.page_size or DEFAULT_PAGE
            if not 1 <= size <= MAX_PAGE:
                raise errors.invalid([("page_size", f"{size}: give 1 to {MAX_PAGE}, or none")])
            check_texts({"page_token": request.page_token})
            query = PageQuery(after=request.page_token, limit=size)
            page = await self._batches.jobs(_owner(all_tenants=request.all_tenants), query)
            now_us = _now_us()
            response = batch_pb2.ListBatchesResponse(
                batches=[batch_message(job, now_us) for job in page.jobs]
            )
            if page.has_more:
                response.next_page_token = page.jobs[-1].job_id
            return response

    async def CancelBatch(
        self, request: batch_pb2.CancelBatchRequest, context: Context
    ) -> batch_pb2.CancelBatchResponse:
        """Stops a job. Raises NOT_FOUND, or FAILED_PRECONDITION if it has ended."""
        async with rpc_errors(context), batch_errors():
            job = await self._batches.cancel(_owner(), request.batch_id[:MAX_CUSTOM_ID_CHARS])
            return batch_pb2.CancelBatchResponse(batch=batch_message(job, _now_us()))

    async def StreamBatchResults(  # type: ignore[override]  # the stub types generators only
        self, request: batch_pb2.StreamBatchResultsRequest, context: Context
    ) -> None:
        """Streams results until the job has ended. A drain ends it; `skip` lets the client go on
        elsewhere."""
        async with rpc_errors(context), batch_errors(), self._watches.open():
            if request.skip < 0:
                raise errors.invalid([("skip", f"{request.skip}: give 0 or more")])
            owner = _owner()
            job = await self._batches.job(owner, request.batch_id[:MAX_CUSTOM_ID_CHARS])
            writer = BoundedWriter(context, self._active.config.server.blocked_write_s)
            in_order, left = request.in_order, request.skip
            # As they end, results have ranks without gaps; item numbers may have gaps.
            cursor: int | None = 0 if in_order else request.skip
            while cursor is not None:
                page = await self._batches.results(
                    owner, ResultQuery(job_id=job.job_id, cursor=cursor, in_order=in_order)
                )
                for result in page.results:
                    if in_order and left:
                        left -= 1
                        continue
                    await writer.write(result_message(job.form, result))
                if not page.results and page.next_cursor is not None:
                    await asyncio.sleep(POLL_S)
                cursor = page.next_cursor


async def _begin(
    messages: AsyncIterator[batch_pb2.SubmitBatchRequest],
) -> tuple[Owner, batch_pb2.SubmitBatchRequest]:
    """The owner of a new job, and its first message. Raises RpcError."""
    caller = current_caller()
    if not caller.allows_slo_class(SloClass.BATCH):
        mine = ", ".join(caller.slo_classes)
        text = f"key {caller.key_id} may use the classes {mine}: a batch needs batch"
        raise errors.denied(text)
    first = await anext(aiter(messages), None)
    if first is None:
        raise errors.invalid([("request", "none: send one message or more")])
    return Owner(tenant=caller.tenant, key_id=caller.key_id), first


class _Writer:
    """Writes what arrives into the file of a new job."""

    def __init__(self, batches: BatchPort, owner: Owner, file_id: str, most: int) -> None:
        self._batches = batches
        self._owner = owner
        self._file_id = file_id
        self._most = most
        self._chunks = Chunks()
        self._names: set[str] = set()

    async def add(self, message: batch_pb2.SubmitBatchRequest, *, is_lines: bool) -> None:
        """Adds a request or a piece. Raises RpcError (INVALID_ARGUMENT)."""
        if is_lines:
            if message.HasField("request") or not message.openai_lines:
                raise errors.invalid([("openai_lines", "none in a message after the first one")])
            if len(message.openai_lines) > MAX_PIECE_BYTES:
                text = f"{len(message.openai_lines)} bytes: send at most {MAX_PIECE_BYTES} at once"
                raise errors.invalid([("openai_lines", text)])
            await self._write(message.openai_lines)
            return
        number = len(self._names) + 1
        if not message.HasField("request") or message.openai_lines:
            raise errors.invalid([("request", f"none in message {number}: send requests only")])
        if number > self._most:
            text = f"more than {self._most} requests, batch.job_items: split the batch"
            raise errors.invalid([("request", text)], "TOO_MANY_REQUESTS")
        name = message.item_id or str(number)
        if len(name) > MAX_CUSTOM_ID_CHARS or "\0" in name:
            text = f"of message {number}: give at most {MAX_CUSTOM_ID_CHARS} characters, no NUL"
            raise errors.invalid([("item_id", text)])
        if name in self._names:
            text = f"{name!r} of message {number} stands on an earlier one: give each its own"
            raise errors.invalid([("item_id", text)], "DUPLICATE_ITEM")
        self._names.add(name)
        item = batch_pb2.SubmitBatchRequest(item_id=name, request=message.request)
        content = item.SerializeToString()
        await self._write(FRAME_HEAD.pack(len(content)) + content)

    async def end(self) -> None:
        """Writes the last chunk."""
        for number, chunk in self._chunks.end():
            await self._batches.write_chunk(self._owner, self._file_id, number, chunk)

    async def _write(self, data: bytes) -> None:
        for number, chunk in self._chunks.add(data):
            await self._batches.write_chunk(self._owner, self._file_id, number, chunk)


def _draft(first: batch_pb2.SubmitBatchRequest, bounds: BatchConfig) -> Callable[[str], JobDraft]:
    """Checks the settings of a job, and returns what makes its draft from the id of its file.
    Raises RpcError (INVALID_ARGUMENT)."""
    faults: list[tuple[str, str]] = []
    deadline_s = None
    if first.HasField("complete_before"):
        try:
            deadline_s = (microseconds_of(first.complete_before) - _now_us()) / 1e6
            if not 0 < deadline_s <= bounds.keep_us / 1e6:
                text = f"{deadline_s:.0f} s from now: give a time within {bounds.keep_days} days"
                raise ValueError(text)
        except ValueError as error:
            faults.append(("complete_before", str(error)))
    if first.openai_lines and first.endpoint not in ENDPOINTS:
        text = f"{first.endpoint[:80]!r}: give one of {', '.join(ENDPOINTS)}"
        faults.append(("endpoint", text))
    most = first.max_cost_nano_usd if first.HasField("max_cost_nano_usd") else None
    if most is not None and most <= 0:
        faults.append(("max_cost_nano_usd", f"{most}: give more than 0, or leave it out"))
    pairs = dict(first.metadata)
    if len(pairs) > MOST_PAIRS or any(
        len(key) > MAX_VALUE_CHARS or len(value) > MAX_VALUE_CHARS or "\0" in key + value
        for key, value in pairs.items()
    ):
        text = f"give at most {MOST_PAIRS} pairs of at most {MAX_VALUE_CHARS} characters, no NUL"
        faults.append(("metadata", text))
    labels = ""
    try:
        labels = labels_json(first.labels)
    except ValueError as error:
        faults.append(("labels", str(error)))
    if first.end_user and not is_end_user(first.end_user):
        faults.append(("end_user", f"give at most {MAX_ID_BYTES} bytes, all printable"))
    if faults:
        raise errors.invalid(faults)
    terms = JobTerms(
        local_only=first.data_policy.local_only,
        remote_classes=frozenset(first.data_policy.remote_classes),
        max_cost_nano_usd=most,
        metadata=pairs,
        labels_json=labels,
        end_user=first.end_user,
    )
    form, endpoint = (Form.OPENAI, first.endpoint) if first.openai_lines else (Form.GRPC, "")
    return lambda file_id: JobDraft(
        form=form, file_id=file_id, endpoint=endpoint, deadline_s=deadline_s, terms=terms
    )


def _owner(*, all_tenants: bool = False) -> Owner:
    caller = current_caller()
    return Owner(tenant=caller.tenant, key_id=caller.key_id, all_tenants=all_tenants)


def _now_us() -> int:
    return time.time_ns() // 1000
