"""The end of a job: what has not run fails with the reason, and the results become files."""

from __future__ import annotations

from gateway.accounting.ledger.database import Tx
from gateway.batch.jobs import Item, ItemResult, Job, JobState, request_id
from gateway.batch.running.parts import RunnerParts
from gateway.batch.running.recovery import charges_of
from gateway.batch.running.running_job import RunningJob
from gateway.batch.store.items import fail_waiting, record_results, taken_items
from gateway.batch.store.jobs import end_job

CANCELLED = "batch_cancelled"
EXPIRED = "batch_expired"
PIECE_ITEMS = 500
"""Items that end in one transaction."""
_STATES = {"": JobState.COMPLETED, CANCELLED: JobState.CANCELLED, EXPIRED: JobState.EXPIRED}
_TEXTS = {
    CANCELLED: "This request was not completed because the batch was cancelled.",
    EXPIRED: "This request could not be executed before the completion window expired.",
}


async def end_rest(running: RunningJob, parts: RunnerParts) -> Job:
    """Ends all items that are left of a job in which nothing runs any more, and the job. What a
    cancelled run was charged stays charged. Raises ClaimLost and LedgerUnavailable; called again,
    it goes on."""
    job, claim, code = running.job, running.claim, running.stopped

    def failed(item: Item, charged_nano_usd: int | None = None) -> ItemResult:
        content = parts.executions[job.form].failed(job.job_id, item, code, _TEXTS[code])
        return ItemResult(
            number=item.number,
            custom_id=item.custom_id,
            is_ok=False,
            content=content,
            charged_nano_usd=charged_nano_usd,
            has_run=charged_nano_usd is not None,
        )

    async def end_taken(tx: Tx) -> None:
        taken = await taken_items(tx, job.job_id)
        if not taken:
            return
        ids = {request_id(job.job_id, item.number): item for item, _ in taken}
        charges: dict[str, int] = {}
        for row in await charges_of(tx, job.key_id, list(ids), min(at for _, at in taken)):
            charges[row.request_id] = charges.get(row.request_id, 0) + row.nano_usd
        results = [failed(item, charges.get(name)) for name, item in ids.items()]
        await record_results(tx, claim, results)

    if code:
        await parts.write(end_taken)
        ended = PIECE_ITEMS
        while ended >= PIECE_ITEMS:
            ended = await parts.database.write(
                lambda tx: fail_waiting(tx, claim, PIECE_ITEMS, failed)
            )
    keep_us = parts.bounds().keep_us
    state = _STATES[code]
    return await parts.database.write(lambda tx: end_job(tx, claim, state, parts.now_us(), keep_us))
