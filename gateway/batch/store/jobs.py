"""Transactions on offline jobs.

A job has at most one runner at a time. Its claim has a number, the fence, which grows with each
claim: every write of a runner names the fence of its claim, and one of an earlier claim is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.accounting.ledger.database import Row, Tx
from gateway.batch.files import FILE_PREFIX, FileInfo, FileKind
from gateway.batch.jobs import (
    ENDED,
    JOB_PREFIX,
    Form,
    Job,
    JobState,
    JobTerms,
    JobTokens,
    LineFault,
)
from gateway.batch.port import BatchReason, BatchRefused, JobPage, PageQuery
from gateway.batch.store.files import insert_file
from gateway.config.batch import BatchConfig

_COLUMNS = (
    "job_id, tenant, key_id, form, endpoint, file_id, state, terms, faults, items, succeeded,"
    " failed, bad_lines, charged_nano_usd, unpriced, prompt_tokens, cached_tokens,"
    " completion_tokens, reasoning_tokens, result_bytes, created_unix_us, deadline_unix_us,"
    " started_unix_us, cancelling_unix_us, ended_unix_us"
)
_CLAIMED = "job_id = $1 AND runner = $2 AND fence = $3"
_encode = msgspec.json.Encoder().encode
_terms = msgspec.json.Decoder(JobTerms).decode
_faults = msgspec.json.Decoder(tuple[LineFault, ...]).decode
OUTPUT_PURPOSE = "batch_output"


class ClaimLost(Exception):
    """Another runner has the job."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that a runner holds."""

    job_id: str
    runner: str
    fence: int

    @property
    def key(self) -> tuple[str, str, int]:
        """Parameters $1 to $3 of every statement of its runner."""
        return self.job_id, self.runner, self.fence


def result_file_id(job_id: str, kind: FileKind) -> str:
    """Id of the file of a job's results of a kind."""
    return f"{FILE_PREFIX}{job_id.removeprefix(JOB_PREFIX)}-{kind.value}"


def job_of(row: Sequence[Any]) -> Job:
    """The job of a row of `_COLUMNS`."""
    state = JobState(row[6])
    ended, (succeeded, failed) = state in ENDED, row[10:12]
    return Job(
        job_id=row[0],
        tenant=row[1],
        key_id=row[2],
        form=Form(row[3]),
        endpoint=row[4],
        file_id=row[5],
        state=state,
        terms=_terms(row[7]),
        faults=_faults(row[8]),
        items=row[9],
        succeeded=succeeded,
        failed=failed,
        bad_lines=row[12],
        charged_nano_usd=row[13],
        unpriced=row[14],
        tokens=JobTokens(prompt=row[15], cached=row[16], completion=row[17], reasoning=row[18]),
        result_bytes=row[19],
        created_unix_us=row[20],
        deadline_unix_us=row[21],
        started_unix_us=row[22],
        cancelling_unix_us=row[23],
        ended_unix_us=row[24],
        output_file_id=result_file_id(row[0], FileKind.OUTPUT) if ended and succeeded else "",
        error_file_id=result_file_id(row[0], FileKind.ERRORS) if ended and failed else "",
    )


async def insert_job(tx: Tx, job: Job, bounds: BatchConfig) -> None:
    """Adds a job. Raises BatchRefused (LIMIT) if the tenant has as many open ones as it may."""
    [(open_jobs,)] = await tx.rows(
        "SELECT COUNT(*) FROM batch_job WHERE tenant = $1 AND ended_unix_us IS NULL", job.tenant
    )
    if open_jobs >= bounds.tenant_open_jobs:
        text = f"tenant {job.tenant} has {open_jobs} jobs that have not ended"
        fix = f"batch.tenant_open_jobs allows {bounds.tenant_open_jobs}: wait, or cancel one"
        raise BatchRefused(BatchReason.LIMIT, f"{text}: {fix}")
    zeros = (0,) * 11  # from `items` to `result_bytes`
    await tx.run(
        f"INSERT INTO batch_job ({_COLUMNS}, runner, fence, runner_until_unix_us) VALUES"
        f" ({', '.join(f'${number}' for number in range(1, 29))})",
        *(job.job_id, job.tenant, job.key_id, job.form.value, job.endpoint, job.file_id),
        *(job.state.value, _encode(job.terms).decode(), "[]", *zeros),
        *(job.created_unix_us, job.deadline_unix_us, None, None, None, "", 0, 0),
    )


async def find_job(tx: Tx, tenant: str | None, job_id: str) -> Job:
    """Returns a job of the tenant; None: of any. Raises BatchRefused (NOT_FOUND)."""
    found: Sequence[Row] = ()
    if "\0" not in job_id:  # which PostgreSQL rejects
        found = await tx.rows(f"SELECT {_COLUMNS} FROM batch_job WHERE job_id = $1", job_id)
    found = [row for row in found if tenant in (None, row[1])]
    if not found:
        text = f"there is no batch {job_id[:80]!r}: see the list of batches"
        raise BatchRefused(BatchReason.NOT_FOUND, text, "batch_id")
    return job_of(found[0])


async def list_jobs(tx: Tx, tenant: str | None, query: PageQuery) -> JobPage:
    """Lists the tenant's jobs, newest first; None: of all tenants. Raises BatchRefused (NOT_FOUND)
    for an unknown `after`."""
    edge = (0, "")
    if query.after:
        after = await find_job(tx, tenant, query.after)
        edge = (after.created_unix_us, after.job_id)
    values: list[object] = [*edge, query.limit + 1]
    of_tenant = ""
    if tenant is not None:
        of_tenant = "tenant = $4 AND "
        values.append(tenant)
    found = await tx.rows(
        f"SELECT {_COLUMNS} FROM batch_job WHERE {of_tenant}($2 = '' OR"
        " created_unix_us < $1 OR (created_unix_us = $1 AND job_id < $2))"
        " ORDER BY created_unix_us DESC, job_id DESC LIMIT $3",
        *values,
    )
    jobs = tuple(map(job_of, found[: query.limit]))
    return JobPage(jobs=jobs, has_more=len(found) > query.limit)


async def uses_file(tx: Tx, file_id: str) -> bool:
    """Whether a job that has not ended reads the file."""
    return bool(
        await tx.rows(
            "SELECT 1 FROM batch_job WHERE file_id = $1 AND ended_unix_us IS NULL LIMIT 1", file_id
        )
    )


async def ask_to_cancel(tx: Tx, tenant: str, job_id: str, now_us: int) -> Job:
    """Marks a job as being stopped. Raises BatchRefused: NOT_FOUND, or STATE if it has ended."""
    job = await find_job(tx, tenant, job_id)
    if job.has_ended:
        text = f"batch {job_id} has ended ({job.state.value}): there is nothing to cancel"
        raise BatchRefused(BatchReason.STATE, text, "batch_id")
    await tx.run(
        "UPDATE batch_job SET state = 'cancelling', cancelling_unix_us = $2"
        " WHERE job_id = $1 AND ended_unix_us IS NULL AND cancelling_unix_us IS NULL",
        *(job_id, now_us),
    )
    return await find_job(tx, tenant, job_id)


# What only a runner does.


async def claim_jobs(
    tx: Tx,
    runner: str,
    now_us: int,
    until_us: int,
    limit: int,
    *,
    of_name: bool = False,
    of_anyone: bool = False,
) -> list[tuple[Claim, Job]]:
    """Claims jobs that have no runner, or one that is silent, the oldest first. `of_name`: also
    those of an earlier runner of the same name; `of_anyone`: those of all others, which cannot run
    any more."""
    free = (
        "ended_unix_us IS NULL AND (runner = '' OR runner_until_unix_us < $2"
        " OR (runner = $1 AND $6 = 1) OR $4 = 1)"
    )
    found = await tx.rows(
        "UPDATE batch_job SET runner = $1, fence = fence + 1, runner_until_unix_us = $3"
        f" WHERE {free} AND job_id IN (SELECT job_id FROM batch_job WHERE {free}"
        f" ORDER BY created_unix_us LIMIT $5) RETURNING fence, {_COLUMNS}",
        *(runner, now_us, until_us, int(of_anyone), limit, int(of_name)),
    )
    claimed = [(Claim(row[1], runner, row[0]), job_of(row[1:])) for row in found]
    return sorted(claimed, key=lambda pair: pair[1].created_unix_us)


async def hold_jobs(tx: Tx, claims: Sequence[Claim], until_us: int) -> dict[str, Job]:
    """Goes on holding jobs. Returns those that are still held, by id, as they stand now."""
    held = {}
    for claim in claims:
        found = await tx.rows(
            f"UPDATE batch_job SET runner_until_unix_us = $4 WHERE {_CLAIMED}"
            f" AND ended_unix_us IS NULL RETURNING {_COLUMNS}",
            *(*claim.key, until_us),
        )
        if found:
            held[claim.job_id] = job_of(found[0])
    return held


async def check_claim(tx: Tx, claim: Claim) -> None:
    """Locks the job until the transaction ends. Raises ClaimLost."""
    if not await tx.run(f"UPDATE batch_job SET fence = fence WHERE {_CLAIMED}", *claim.key):
        raise ClaimLost(claim.job_id)


async def begin_job(
    tx: Tx, claim: Claim, items: int, bad_lines: int, faults: Sequence[LineFault], now_us: int
) -> None:
    """Ends the validation of a job. Raises ClaimLost."""
    await check_claim(tx, claim)
    await tx.run(
        "UPDATE batch_job SET items = $2, bad_lines = $3, faults = $4, started_unix_us = $5,"
        " state = CASE WHEN cancelling_unix_us IS NULL THEN 'in_progress' ELSE state END"
        " WHERE job_id = $1",
        *(claim.job_id, items, bad_lines, _encode(tuple(faults)).decode(), now_us),
    )


async def end_job(tx: Tx, claim: Claim, state: JobState, now_us: int, keep_us: int) -> Job:
    """Ends a job, and makes the files of its results. `keep_us`: how long they are kept. Raises
    ClaimLost."""
    await check_claim(tx, claim)
    [row] = await tx.rows(
        "UPDATE batch_job SET state = $2, ended_unix_us = $3, runner = '' WHERE job_id = $1"
        f" RETURNING {_COLUMNS}",
        *(claim.job_id, state.value, now_us),
    )
    job = job_of(row)
    for kind, is_ok in ((FileKind.OUTPUT, 1), (FileKind.ERRORS, 0)):
        if job.form is not Form.OPENAI or not (job.succeeded if is_ok else job.failed):
            continue
        [(size,)] = await tx.rows(
            "SELECT CAST(SUM(LENGTH(content) + 1) AS BIGINT) FROM batch_result"
            " WHERE job_id = $1 AND is_ok = $2",
            *(job.job_id, is_ok),
        )
        info = FileInfo(
            file_id=result_file_id(job.job_id, kind),
            tenant=job.tenant,
            key_id=job.key_id,
            kind=kind,
            purpose=OUTPUT_PURPOSE,
            filename=f"{job.job_id}_{kind.value}.jsonl",
            is_complete=True,
            size_bytes=size,
            job_id=job.job_id,
            created_unix_us=now_us,
            expires_unix_us=now_us + keep_us,
        )
        await insert_file(tx, info)
    return job


async def remove_old_jobs(tx: Tx, before_us: int, limit: int) -> int:
    """Deletes some jobs that ended before a time, with items, results and files. Returns how
    many; `limit` means that there may be more."""
    found = await tx.rows(
        "SELECT job_id FROM batch_job WHERE ended_unix_us < $1 LIMIT $2", before_us, limit
    )
    for (job_id,) in found:
        for table in ("batch_item", "batch_result", "batch_file", "batch_job"):
            await tx.run(f"DELETE FROM {table} WHERE job_id = $1", job_id)
    return len(found)
