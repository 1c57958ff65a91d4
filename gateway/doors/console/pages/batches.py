"""The batch lane: jobs of the reader's tenant, of all tenants for operators, and one of them."""

from __future__ import annotations

from aiohttp import web

from gateway.config.gateway import KeyRole
from gateway.doors.console.routes import Live, Page
from gateway.doors.console.visits import Visit
from moegate.v1 import batch_pb2

PAGE_JOBS = 50
STATES = {
    batch_pb2.BATCH_STATE_QUEUED: ("waits", "calm"),
    batch_pb2.BATCH_STATE_RUNNING: ("runs", "good"),
    batch_pb2.BATCH_STATE_ENDED: ("ended", "good"),
    batch_pb2.BATCH_STATE_CANCELLED: ("stopped", "warn"),
    batch_pb2.BATCH_STATE_EXPIRED: ("expired", "bad"),
    batch_pb2.BATCH_STATE_FAILED: ("failed", "bad"),
    batch_pb2.BATCH_STATE_CANCELLING: ("stops", "warn"),
}
"""Words and colours of the states."""
_UNENDED = (batch_pb2.BATCH_STATE_QUEUED, batch_pb2.BATCH_STATE_RUNNING)


async def _jobs(visit: Visit) -> dict[str, object]:
    is_operator = visit.visitor.caller.role is KeyRole.OPERATOR
    request = batch_pb2.ListBatchesRequest(
        page_size=PAGE_JOBS, page_token=visit.query.get("after", ""), all_tenants=is_operator
    )
    answer = await visit.calls.batches.ListBatches(request, **visit.rpc)
    return {
        "jobs": answer.batches,
        "states": STATES,
        "following": answer.next_page_token,
        "whose": "all tenants" if is_operator else visit.visitor.caller.tenant,
        "of_all": is_operator,
        "done_share": _done_share,
    }


async def _job(visit: Visit) -> dict[str, object]:
    request = batch_pb2.GetBatchRequest(batch_id=visit.parameters["batch_id"])
    answer = await visit.calls.batches.GetBatch(request, **visit.rpc)
    job = answer.batch
    return {"job": job, "states": STATES, "done_share": _done_share}


def _done_share(job: batch_pb2.Batch) -> float | None:
    return (job.succeeded + job.failed) / job.requests if job.requests else None


async def _jobs_page(visit: Visit) -> web.Response:
    return await visit.page("batches.html")


async def _job_page(visit: Visit) -> web.Response:
    job = (await _job(visit))["job"]
    assert isinstance(job, batch_pb2.Batch)
    may_stop = job.state in _UNENDED and job.tenant == visit.visitor.caller.tenant
    return await visit.page("batch.html", job=job, may_stop=may_stop)


async def _stop(visit: Visit) -> web.Response:
    batch_id = visit.parameters["batch_id"]
    await visit.calls.batches.CancelBatch(
        batch_pb2.CancelBatchRequest(batch_id=batch_id), **visit.rpc
    )
    return visit.see(f"/batches/{batch_id}")


BATCH_PAGES = (
    Page(
        path="/batches",
        handle=_jobs_page,
        name="Batches",
        group="Operations",
        live=Live(template="batches_live.html", values=_jobs),
    ),
    Page(
        path="/batches/{batch_id}",
        handle=_job_page,
        live=Live(template="batch_live.html", values=_job),
    ),
    Page(path="/batches/{batch_id}/stop", handle=_stop, method="POST"),
)
