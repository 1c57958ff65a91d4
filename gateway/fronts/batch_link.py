"""The batch lane over the link between a front and its parent: each call of `BatchPort` is a call
of the link. A refusal travels as a value, because what a call raises is only logged there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import NoneType
from typing import Any, TypeVar

import msgspec

from gateway.batch.files import FileDraft, FileInfo, Piece
from gateway.batch.jobs import Job, JobDraft, ResultPage
from gateway.batch.port import (
    BatchPort,
    BatchReason,
    BatchRefused,
    FilePage,
    JobPage,
    Owner,
    PageQuery,
    ResultQuery,
)
from gateway.batch.quotes import BatchQuote
from gateway.link.wire.connection import CallFailed, Connection, Handler, LinkLost
from gateway.link.wire.messages import LinkError

T = TypeVar("T")
_ARGUMENTS: dict[str, Any] = {
    "create_file": tuple[Owner, FileDraft],
    "write_chunk": tuple[Owner, str, int, bytes],
    "finish_file": tuple[Owner, str, str, str, float | None],
    "file": tuple[Owner, str],
    "files": tuple[Owner, PageQuery],
    "delete_file": tuple[Owner, str],
    "read_file": tuple[Owner, str, int],
    "submit": tuple[Owner, JobDraft],
    "quote": tuple[Owner, JobDraft],
    "job": tuple[Owner, str],
    "jobs": tuple[Owner, PageQuery],
    "cancel": tuple[Owner, str],
    "results": tuple[Owner, ResultQuery],
}
"""Types of the arguments of each call."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """See `BatchRefused`."""

    reason: BatchReason
    message: str
    param: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a call answers: a value, or a refusal."""

    value: msgspec.Raw = msgspec.Raw()
    refusal: Refusal | None = None


def batch_handlers(batches: BatchPort) -> dict[str, Handler]:
    """Returns the calls that a front may make."""
    return {
        f"batch.{name}": (arguments, _answering(getattr(batches, name)))
        for name, arguments in _ARGUMENTS.items()
    }


def _answering(call: Callable[..., Awaitable[Any]]) -> Callable[[Any], Awaitable[Answer]]:
    async def answer(arguments: tuple[Any, ...]) -> Answer:
        try:
            value = await call(*arguments)
        except BatchRefused as refused:
            refusal = Refusal(reason=refused.reason, message=refused.message, param=refused.param)
            return Answer(refusal=refusal)
        return Answer(value=msgspec.Raw(msgspec.msgpack.encode(value)))

    return answer


class RemoteBatches:
    """Implements `BatchPort` at a front. `connection`: the front's link."""

    def __init__(self, connection: Callable[[], Connection]) -> None:
        self._connection = connection

    async def create_file(self, owner: Owner, draft: FileDraft) -> FileInfo:
        """See `BatchPort`."""
        return await self._call("create_file", (owner, draft), FileInfo)

    async def write_chunk(self, owner: Owner, file_id: str, number: int, content: bytes) -> None:
        """See `BatchPort`."""
        await self._call("write_chunk", (owner, file_id, number, content), NoneType)

    async def finish_file(
        self, owner: Owner, file_id: str, purpose: str, filename: str, keep_s: float | None
    ) -> FileInfo:
        """See `BatchPort`."""
        arguments = (owner, file_id, purpose, filename, keep_s)
        return await self._call("finish_file", arguments, FileInfo)

    async def file(self, owner: Owner, file_id: str) -> FileInfo:
        """See `BatchPort`."""
        return await self._call("file", (owner, file_id), FileInfo)

    async def files(self, owner: Owner, query: PageQuery) -> FilePage:
        """See `BatchPort`."""
        return await self._call("files", (owner, query), FilePage)

    async def delete_file(self, owner: Owner, file_id: str) -> None:
        """See `BatchPort`."""
        await self._call("delete_file", (owner, file_id), NoneType)

    async def read_file(self, owner: Owner, file_id: str, cursor: int) -> Piece:
        """See `BatchPort`."""
        return await self._call("read_file", (owner, file_id, cursor), Piece)

    async def submit(self, owner: Owner, draft: JobDraft) -> Job:
        """See `BatchPort`."""
        return await self._call("submit", (owner, draft), Job)

    async def quote(self, owner: Owner, draft: JobDraft) -> BatchQuote:
        """See `BatchPort`."""
        return await self._call("quote", (owner, draft), BatchQuote)

    async def job(self, owner: Owner, job_id: str) -> Job:
        """See `BatchPort`."""
        return await self._call("job", (owner, job_id), Job)

    async def jobs(self, owner: Owner, query: PageQuery) -> JobPage:
        """See `BatchPort`."""
        return await self._call("jobs", (owner, query), JobPage)

    async def cancel(self, owner: Owner, job_id: str) -> Job:
        """See `BatchPort`."""
        return await self._call("cancel", (owner, job_id), Job)

    async def results(self, owner: Owner, query: ResultQuery) -> ResultPage:
        """See `BatchPort`."""
        return await self._call("results", (owner, query), ResultPage)

    async def _call(self, name: str, arguments: tuple[Any, ...], type_: type[T]) -> T:
        try:
            answer: Answer = await self._connection().call(f"batch.{name}", arguments, Answer)
        except (LinkLost, CallFailed, LinkError) as error:
            text = f"the scheduler's process does not answer: {error}"
            raise BatchRefused(BatchReason.UNAVAILABLE, text) from error
        if answer.refusal is not None:
            told = answer.refusal
            raise BatchRefused(told.reason, told.message, told.param)
        return msgspec.msgpack.decode(answer.value, type=type_)
