"""Jobs and their results as messages, and refusals of the batch lane as statuses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from gateway.batch.estimates import estimated_end_us, estimated_nano_usd
from gateway.batch.jobs import Form, Job, JobState, LineFault, StoredResult
from gateway.batch.port import BatchReason, BatchRefused
from gateway.batch.quotes import BatchQuote
from gateway.doors.grpc import errors
from moegate.v1 import batch_pb2

_STATES = {
    JobState.VALIDATING: batch_pb2.BATCH_STATE_QUEUED,
    JobState.IN_PROGRESS: batch_pb2.BATCH_STATE_RUNNING,
    JobState.CANCELLING: batch_pb2.BATCH_STATE_CANCELLING,
    JobState.COMPLETED: batch_pb2.BATCH_STATE_ENDED,
    JobState.FAILED: batch_pb2.BATCH_STATE_FAILED,
    JobState.EXPIRED: batch_pb2.BATCH_STATE_EXPIRED,
    JobState.CANCELLED: batch_pb2.BATCH_STATE_CANCELLED,
}
RETRY_S = 2.0


@asynccontextmanager
async def batch_errors() -> AsyncIterator[None]:
    """Turns a refusal of the batch lane into RpcError."""
    try:
        yield
    except BatchRefused as refused:
        raise rpc_error(refused) from refused


def rpc_error(refused: BatchRefused) -> errors.RpcError:
    """The status of a refusal."""
    match refused.reason:
        case BatchReason.NOT_FOUND:
            return errors.RpcError(grpc.StatusCode.NOT_FOUND, refused.message)
        case BatchReason.INVALID:
            return errors.invalid([(refused.param or "request", refused.message)])
        case BatchReason.LIMIT:
            return errors.exhausted(refused.message, "BATCH_LIMIT", None)
        case BatchReason.STATE:
            return errors.precondition(refused.message, "BATCH_STATE")
        case BatchReason.UNAVAILABLE:
            return errors.unavailable(refused.message, "LEDGER", RETRY_S)


def batch_message(job: Job, now_us: int) -> batch_pb2.Batch:
    """A job. `now_us`: Unix microseconds."""
    message = batch_pb2.Batch(
        batch_id=job.job_id,
        tenant=job.tenant,
        state=_STATES[job.state],
        requests=job.items,
        succeeded=job.succeeded,
        failed=job.failed,
        charged_nano_usd=job.charged_nano_usd,
        unpriced=job.unpriced,
        prompt_tokens=job.tokens.prompt,
        completion_tokens=job.tokens.completion,
        bad_lines=job.bad_lines,
        endpoint=job.endpoint,
        metadata=job.terms.metadata,
        faults=fault_messages(job.faults),
    )
    _write_time(message.created_at, job.created_unix_us)
    _write_time(message.complete_before, job.deadline_unix_us)
    if job.started_unix_us is not None:
        _write_time(message.started_at, job.started_unix_us)
    if job.ended_unix_us is not None:
        _write_time(message.ended_at, job.ended_unix_us)
    end_us = estimated_end_us(job, now_us)
    if end_us is not None:
        _write_time(message.estimated_end, end_us)
    cost = estimated_nano_usd(job)
    if cost is not None:
        message.estimated_nano_usd = cost
    return message


def fault_messages(faults: Iterable[LineFault]) -> list[batch_pb2.BatchFault]:
    """Lines that are no requests."""
    return [
        batch_pb2.BatchFault(
            line=fault.line or 0,
            code=fault.code,
            message=fault.message,
            param=fault.param or "",
        )
        for fault in faults
    ]


def quote_message(quote: BatchQuote, deadline_us: int) -> batch_pb2.QuoteBatchResponse:
    """A quote. `deadline_us`: Unix microsecond at which the job would have to end."""
    message = batch_pb2.QuoteBatchResponse(
        requests=quote.items,
        bad_lines=quote.bad_lines,
        faults=fault_messages(quote.faults),
        sampled=quote.sampled,
        refused=quote.refused,
        refusal=quote.refusal,
        prompt_tokens=quote.prompt_tokens,
        output_tokens=quote.output_tokens,
        own_nano_usd=quote.own_nano_usd,
        remotes=[
            batch_pb2.BatchRemoteQuote(remote=name, nano_usd=cost)
            for name, cost in quote.remotes.items()
        ],
        ahead=quote.ahead,
    )
    if quote.end_unix_us is not None:
        _write_time(message.end, quote.end_unix_us)
    _write_time(message.complete_before, deadline_us)
    return message


def result_message(form: Form, result: StoredResult) -> batch_pb2.StreamBatchResultsResponse:
    """A result. Those of messages are stored as they are sent."""
    if form is Form.GRPC:
        return batch_pb2.StreamBatchResultsResponse.FromString(result.content)
    return batch_pb2.StreamBatchResultsResponse(
        item_id=result.custom_id, openai_line=result.content
    )


def _write_time(message: Timestamp, unix_us: int) -> None:
    message.FromMicroseconds(unix_us)
