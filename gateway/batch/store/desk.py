"""The batch lane's answers to doors, from the database that it shares with the ledger.

The desk and the runner meet in the database alone: any gateway at it may answer for a job, whoever
runs it.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gateway.accounting.ledger.database import Database, LedgerUnavailable, Tx
from gateway.batch.files import FILE_PREFIX, FileDraft, FileInfo, FileKind, Piece
from gateway.batch.jobs import JOB_PREFIX, Form, Job, JobDraft, JobState, JobTokens, ResultPage
from gateway.batch.port import (
    BatchReason,
    BatchRefused,
    FilePage,
    JobPage,
    Owner,
    PageQuery,
    ResultQuery,
)
from gateway.batch.quotes import BatchQuote
from gateway.batch.store import files, items, jobs
from gateway.config.batch import BatchConfig

T = TypeVar("T")
MAX_PAGE = 10_000


class BatchDesk:
    """Implements `BatchPort`. `on_change`: called after a job was submitted or cancelled."""

    def __init__(
        self,
        database: Database,
        bounds: Callable[[], BatchConfig],
        *,
        now_us: Callable[[], int],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`bounds`: those in force. `now_us`: Unix microseconds."""
        self._database = database
        self._bounds = bounds
        self._now_us = now_us
        self._on_change = on_change
        self.quotes: Callable[[Owner, JobDraft], Awaitable[BatchQuote]] | None = None
        """Quotes jobs while the lane runs."""

    async def create_file(self, owner: Owner, draft: FileDraft) -> FileInfo:
        """See `BatchPort`."""
        info = FileInfo(
            file_id=FILE_PREFIX + secrets.token_hex(12),
            tenant=owner.tenant,
            key_id=owner.key_id,
            kind=draft.kind,
            purpose=draft.purpose,
            filename=draft.filename,
            is_complete=False,
            size_bytes=0,
            job_id="",
            created_unix_us=self._now_us(),
            expires_unix_us=self._expiry_us(draft.keep_s),
        )

        async def create(tx: Tx) -> None:
            await files.insert_file(tx, info)
            await files.check_room(tx, owner.tenant, self._bounds())

        await self._write(create)
        return info

    async def write_chunk(self, owner: Owner, file_id: str, number: int, content: bytes) -> None:
        """See `BatchPort`."""
        await self._write(
            lambda tx: files.write_chunk(tx, owner.tenant, file_id, number, content, self._bounds())
        )

    async def finish_file(
        self, owner: Owner, file_id: str, purpose: str, filename: str, keep_s: float | None
    ) -> FileInfo:
        """See `BatchPort`."""

        async def finish(tx: Tx) -> None:
            info = await files.find_file(tx, owner.tenant, file_id)
            await files.complete_file(
                tx,
                FileInfo(
                    file_id=file_id,
                    tenant=owner.tenant,
                    key_id=owner.key_id,
                    kind=info.kind,
                    purpose=purpose,
                    filename=filename,
                    is_complete=True,
                    size_bytes=info.size_bytes,
                    job_id="",
                    created_unix_us=info.created_unix_us,
                    expires_unix_us=self._expiry_us(keep_s),
                ),
            )

        await self._write(finish)
        return await self.file(owner, file_id)

    async def file(self, owner: Owner, file_id: str) -> FileInfo:
        """See `BatchPort`."""
        return await self._read(lambda tx: files.find_file(tx, owner.tenant, file_id))

    async def files(self, owner: Owner, query: PageQuery) -> FilePage:
        """See `BatchPort`."""
        _check_page(query)
        return await self._read(lambda tx: files.list_files(tx, owner.tenant, query))

    async def delete_file(self, owner: Owner, file_id: str) -> None:
        """See `BatchPort`. Results of a job go with their file."""

        async def delete(tx: Tx) -> None:
            info = await files.find_file(tx, owner.tenant, file_id)
            if await jobs.uses_file(tx, file_id):
                text = f"file {file_id} is that of a batch that has not ended: cancel it first"
                raise BatchRefused(BatchReason.STATE, text, "file_id")
            if info.job_id:
                await items.remove_results(
                    tx, info.job_id, info.size_bytes, is_ok=info.kind is FileKind.OUTPUT
                )
            await files.remove_file(tx, file_id)

        await self._write(delete)

    async def read_file(self, owner: Owner, file_id: str, cursor: int) -> Piece:
        """See `BatchPort`. The cursor is the number of a chunk, or of the last item."""

        async def read(tx: Tx) -> Piece:
            info = await files.find_file(tx, owner.tenant, file_id)
            if not info.is_complete:
                text = f"file {file_id} is not complete: wait for the end of its upload"
                raise BatchRefused(BatchReason.STATE, text, "file_id")
            if not info.job_id:
                content = await files.read_chunk(tx, file_id, cursor)
                if content is None:
                    return Piece(content=b"", next_cursor=None)
                return Piece(content=content, next_cursor=cursor + 1)
            found = await items.read_results(
                tx, info.job_id, cursor, by_number=True, is_ok=info.kind is FileKind.OUTPUT
            )
            lines = b"".join(each.content + b"\n" for each in found)
            return Piece(content=lines, next_cursor=found[-1].number if found else None)

        return await self._read(read)

    async def submit(self, owner: Owner, draft: JobDraft) -> Job:
        """See `BatchPort`."""
        bounds, now_us = self._bounds(), self._now_us()
        deadline_s = bounds.deadline_s if draft.deadline_s is None else draft.deadline_s
        job = Job(
            job_id=JOB_PREFIX + secrets.token_hex(12),
            tenant=owner.tenant,
            key_id=owner.key_id,
            form=draft.form,
            endpoint=draft.endpoint,
            file_id=draft.file_id,
            state=JobState.VALIDATING,
            terms=draft.terms,
            faults=(),
            items=0,
            succeeded=0,
            failed=0,
            bad_lines=0,
            charged_nano_usd=0,
            unpriced=0,
            tokens=JobTokens(),
            result_bytes=0,
            created_unix_us=now_us,
            deadline_unix_us=now_us + round(deadline_s * 1e6),
            started_unix_us=None,
            cancelling_unix_us=None,
            ended_unix_us=None,
        )

        async def insert(tx: Tx) -> None:
            info = await files.find_file(tx, owner.tenant, draft.file_id, "input_file_id")
            kind = FileKind.LINES if draft.form is Form.OPENAI else FileKind.FRAMES
            if info.kind is not kind or not info.is_complete:
                text = f"file {draft.file_id} holds no requests: upload one with purpose batch"
                raise BatchRefused(BatchReason.INVALID, text, "input_file_id")
            await files.check_room(tx, owner.tenant, bounds)
            await jobs.insert_job(tx, job, bounds)

        await self._write(insert)
        self._on_change()
        return job

    async def quote(self, owner: Owner, draft: JobDraft) -> BatchQuote:
        """See `BatchPort`."""
        if self.quotes is None:
            raise BatchRefused(BatchReason.UNAVAILABLE, "the batch lane does not run here now")
        try:
            return await self.quotes(owner, draft)
        except LedgerUnavailable as error:
            raise _unavailable(error) from error

    async def job(self, owner: Owner, job_id: str) -> Job:
        """See `BatchPort`."""
        return await self._read(lambda tx: jobs.find_job(tx, owner.seen, job_id))

    async def jobs(self, owner: Owner, query: PageQuery) -> JobPage:
        """See `BatchPort`."""
        _check_page(query)
        return await self._read(lambda tx: jobs.list_jobs(tx, owner.seen, query))

    async def cancel(self, owner: Owner, job_id: str) -> Job:
        """See `BatchPort`."""
        now_us = self._now_us()
        job = await self._write(lambda tx: jobs.ask_to_cancel(tx, owner.tenant, job_id, now_us))
        self._on_change()
        return job

    async def results(self, owner: Owner, query: ResultQuery) -> ResultPage:
        """See `BatchPort`."""

        async def read(tx: Tx) -> ResultPage:
            job = await jobs.find_job(tx, owner.tenant, query.job_id)
            if query.in_order and not job.has_ended:
                return ResultPage(results=(), next_cursor=query.cursor)
            found = await items.read_results(
                tx, query.job_id, query.cursor, by_number=query.in_order, is_ok=query.is_ok
            )
            if not found:
                end = None if job.has_ended else query.cursor
                return ResultPage(results=(), next_cursor=end)
            last = found[-1].number if query.in_order else found[-1].seq
            return ResultPage(results=tuple(found), next_cursor=last)

        return await self._read(read)

    def _expiry_us(self, keep_s: float | None) -> int:
        kept_us = self._bounds().keep_us if keep_s is None else round(keep_s * 1e6)
        return self._now_us() + kept_us

    async def _read(self, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        try:
            return await self._database.read(transaction)
        except LedgerUnavailable as error:
            raise _unavailable(error) from error

    async def _write(self, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        try:
            return await self._database.write(transaction)
        except LedgerUnavailable as error:
            raise _unavailable(error) from error


def _check_page(query: PageQuery) -> None:
    if not 1 <= query.limit <= MAX_PAGE:
        text = f"{query.limit}: give 1 to {MAX_PAGE}"
        raise BatchRefused(BatchReason.INVALID, text, "limit")


def _unavailable(error: LedgerUnavailable) -> BatchRefused:
    return BatchRefused(BatchReason.UNAVAILABLE, f"the ledger's database fails: {error}")
