"""Files and batches in OpenAI's shapes. As in OpenAI's answers, what is not there yet is null."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.batch.files import FileInfo
from gateway.batch.jobs import Job, JobState, LineFault
from gateway.batch.quotes import BatchQuote
from gateway.config.money import usd_text

MICRO = 1_000_000


def file_object(info: FileInfo) -> dict[str, Any]:
    """A file."""
    return {
        "id": info.file_id,
        "object": "file",
        "bytes": info.size_bytes,
        "created_at": info.created_unix_us // MICRO,
        "expires_at": info.expires_unix_us // MICRO,
        "filename": info.filename,
        "purpose": info.purpose,
        "status": "processed",
        "status_details": None,
    }


def batch_object(job: Job) -> dict[str, Any]:
    """A batch."""
    ended_s = _seconds(job.ended_unix_us)

    def ended_as(state: JobState) -> int | None:
        return ended_s if job.state is state else None

    window_s = (job.deadline_unix_us - job.created_unix_us) // MICRO
    return {
        "id": job.job_id,
        "object": "batch",
        "endpoint": job.endpoint,
        "errors": _errors(job.faults),
        "input_file_id": job.file_id,
        "completion_window": window_text(window_s),
        "status": job.state.value,
        "output_file_id": job.output_file_id or None,
        "error_file_id": job.error_file_id or None,
        "created_at": job.created_unix_us // MICRO,
        "in_progress_at": _seconds(job.started_unix_us),
        "expires_at": job.deadline_unix_us // MICRO,
        "finalizing_at": ended_as(JobState.COMPLETED),
        "completed_at": ended_as(JobState.COMPLETED),
        "failed_at": ended_as(JobState.FAILED),
        "expired_at": ended_as(JobState.EXPIRED),
        "cancelling_at": _seconds(job.cancelling_unix_us),
        "cancelled_at": ended_as(JobState.CANCELLED),
        "request_counts": {
            "total": job.items,
            "completed": job.succeeded,
            "failed": job.failed,
        },
        "metadata": job.terms.metadata or None,
        "usage": {
            "input_tokens": job.tokens.prompt,
            "input_tokens_details": {"cached_tokens": job.tokens.cached},
            "output_tokens": job.tokens.completion,
            "output_tokens_details": {"reasoning_tokens": job.tokens.reasoning},
            "total_tokens": job.tokens.prompt + job.tokens.completion,
        },
    }


def quote_object(quote: BatchQuote) -> dict[str, Any]:
    """A quote of a batch. What is unknown is null; US dollars are texts."""
    own = quote.own_nano_usd
    return {
        "object": "batch.quote",
        "requests": quote.items,
        "bad_lines": quote.bad_lines,
        "errors": _errors(quote.faults),
        "sampled": quote.sampled,
        "refused": quote.refused,
        "refusal": quote.refusal or None,
        "prompt_tokens": quote.prompt_tokens,
        "output_tokens": quote.output_tokens,
        "own_usd": None if own is None else usd_text(own),
        "remotes_usd": {name: usd_text(cost) for name, cost in quote.remotes.items()},
        "ahead": quote.ahead,
        "ends_at": _seconds(quote.end_unix_us),
    }


def window_text(seconds: int) -> str:
    """A completion window in OpenAI's words: hours where they are whole."""
    if seconds % 3600 == 0:
        return f"{seconds // 3600}h"
    return f"{seconds // 60}m" if seconds % 60 == 0 else f"{seconds}s"


def _errors(faults: Sequence[LineFault]) -> dict[str, Any] | None:
    if not faults:
        return None
    return {"object": "list", "data": [_error(fault) for fault in faults]}


def _error(fault: LineFault) -> dict[str, Any]:
    return {
        "code": fault.code,
        "message": fault.message,
        "param": fault.param,
        "line": fault.line,
    }


def _seconds(unix_us: int | None) -> int | None:
    return None if unix_us is None else unix_us // MICRO


def page(objects: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page of a list."""
    return {
        "object": "list",
        "data": objects,
        "first_id": objects[0]["id"] if objects else None,
        "last_id": objects[-1]["id"] if objects else None,
        "has_more": has_more,
    }
