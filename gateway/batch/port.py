"""What doors ask of the batch lane. In one process it is a direct call of `BatchDesk`; a front in
another process reaches it over its link to the scheduler's process.

All values are frozen and hold plain data.
"""

from __future__ import annotations

import enum
from typing import Protocol

import msgspec

from gateway.batch.files import FileDraft, FileInfo, Piece
from gateway.batch.jobs import Job, JobDraft, ResultPage
from gateway.batch.quotes import BatchQuote


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Whose files and jobs. A tenant's keys share them. `all_tenants`: jobs of all tenants may be
    seen, though not their results, nor be stopped."""

    tenant: str
    key_id: str
    all_tenants: bool = False

    @property
    def seen(self) -> str | None:
        """The tenant whose jobs may be seen; None: of all."""
        return None if self.all_tenants else self.tenant


class BatchReason(enum.StrEnum):
    """Why the batch lane refuses something."""

    NOT_FOUND = "not_found"
    INVALID = "invalid"
    LIMIT = "limit"
    """The tenant keeps as much as it may."""
    STATE = "state"
    """It cannot be done in the present state of the file or job."""
    UNAVAILABLE = "unavailable"
    """The database does not answer."""


class BatchRefused(Exception):
    """The batch lane refuses something. `message`: text for a person, with the fix; `param`: the
    field at fault, empty: none."""

    def __init__(self, reason: BatchReason, message: str, param: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.param = param


class PageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which page of a list. `after`: id of the last one of the page before; empty: the first page.
    `purpose`: of files; empty: all."""

    after: str = ""
    limit: int = 20
    newest_first: bool = True
    purpose: str = ""


class FilePage(msgspec.Struct, frozen=True, kw_only=True):
    """Some files. `has_more`: there are further ones."""

    files: tuple[FileInfo, ...]
    has_more: bool


class JobPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some jobs. `has_more`: there are further ones."""

    jobs: tuple[Job, ...]
    has_more: bool


class ResultQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which results of a job. `cursor`: 0 at first, then that of the page before. `in_order`: by
    the number of the item and once the job has ended, else as they end. `is_ok`: only those that
    succeeded, or only those that failed; None: all."""

    job_id: str
    cursor: int = 0
    in_order: bool = False
    is_ok: bool | None = None


class BatchPort(Protocol):
    """The batch lane. Every call raises BatchRefused."""

    async def create_file(self, owner: Owner, draft: FileDraft) -> FileInfo:
        """Begins an upload."""

    async def write_chunk(self, owner: Owner, file_id: str, number: int, content: bytes) -> None:
        """Writes one chunk of an upload, of `CHUNK_BYTES` unless it is the last one."""

    async def finish_file(
        self, owner: Owner, file_id: str, purpose: str, filename: str, keep_s: float | None
    ) -> FileInfo:
        """Ends an upload. Fields of a form may come after the file, so that they are told here."""

    async def file(self, owner: Owner, file_id: str) -> FileInfo:
        """Returns a file."""

    async def files(self, owner: Owner, query: PageQuery) -> FilePage:
        """Lists the tenant's files."""

    async def delete_file(self, owner: Owner, file_id: str) -> None:
        """Deletes a file with its content. That of a job that has not ended is kept."""

    async def read_file(self, owner: Owner, file_id: str, cursor: int) -> Piece:
        """Reads part of a file. `cursor`: 0 at first."""

    async def submit(self, owner: Owner, draft: JobDraft) -> Job:
        """Makes a job. Its file is read afterwards."""

    async def quote(self, owner: Owner, draft: JobDraft) -> BatchQuote:
        """Quotes a job that is not made."""

    async def job(self, owner: Owner, job_id: str) -> Job:
        """Returns a job."""

    async def jobs(self, owner: Owner, query: PageQuery) -> JobPage:
        """Lists the jobs that the owner may see."""

    async def cancel(self, owner: Owner, job_id: str) -> Job:
        """Stops a job. What has ended stays. Has no effect on a job that is being stopped."""

    async def results(self, owner: Owner, query: ResultQuery) -> ResultPage:
        """Reads some results; none of them may have ended yet."""
