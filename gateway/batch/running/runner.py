"""The runner of offline jobs: claims them, lets their items run, and ends them.

There is one on the scheduler's side of each gateway, and each job is claimed by one runner at a
time. An item is started while fewer than `items_waiting` items of its model wait for a placement:
the scheduler starts them as soon as it has room that nobody else needs, and its queue stays short.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from functools import partial

from gateway.accounting.ledger.database import LedgerUnavailable
from gateway.batch.jobs import Job, JobState
from gateway.batch.running.ending import CANCELLED, EXPIRED, end_rest
from gateway.batch.running.item_runs import ItemRuns
from gateway.batch.running.ordering import ordered_with
from gateway.batch.running.parts import RunnerParts
from gateway.batch.running.recorder import Recorder
from gateway.batch.running.recovery import correct_own_runs, recover_taken
from gateway.batch.running.retention import delete_old
from gateway.batch.running.running_job import RunningJob
from gateway.batch.running.validation import validate
from gateway.batch.store.items import waiting_by_model
from gateway.batch.store.jobs import Claim, ClaimLost, claim_jobs, hold_jobs

log = logging.getLogger(__name__)
POLL_S = 0.25
"""Seconds between two looks at what could be started, unless something ends before."""
HOLD_S = 2.0
"""Seconds between two renewals of the claims, which also show what callers have cancelled."""
CLAIM_S = 30.0
"""A runner that has not renewed a claim for so long has lost it."""
MOST_JOBS = 64
"""Jobs that one runner holds at once."""
RETRY_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantLoad:
    """Jobs of a tenant that run here. `left`: items that have not ended; `in_flight`: of these,
    those that run or wait for a placement."""

    tenant: str
    jobs: int
    left: int
    in_flight: int


class BatchRunner:
    """Runs jobs. `run` does so until it is cancelled."""

    def __init__(self, parts: RunnerParts) -> None:
        self._parts = parts
        self._jobs: dict[str, RunningJob] = {}
        self._recorder = Recorder(parts.write)
        self._wake = asyncio.Event()
        self._look = False
        self._is_draining = False
        self._preparing: set[asyncio.Task[None]] = set()
        self._correcting: dict[str, asyncio.Task[None]] = {}
        """Corrections of jobs that were lost here; this runner takes none of them before."""
        self.runs = ItemRuns(parts, self._recorder, on_change=self._wake.set, on_lost=self._forget)

    @property
    def jobs(self) -> tuple[RunningJob, ...]:
        """The jobs that this runner holds."""
        return tuple(self._jobs.values())

    def load(self) -> list[TenantLoad]:
        """Returns what runs here, by tenant."""
        by_tenant: dict[str, list[RunningJob]] = {}
        for running in self.jobs:
            by_tenant.setdefault(running.job.tenant, []).append(running)
        return [
            TenantLoad(
                tenant=tenant,
                jobs=len(jobs),
                left=sum(running.job.left for running in jobs),
                in_flight=sum(len(running.tasks) for running in jobs),
            )
            for tenant, jobs in by_tenant.items()
        ]

    def notify(self) -> None:
        """A job was submitted or cancelled here."""
        self._look = True
        self._wake.set()

    def begin_drain(self) -> None:
        """Starts no more items. What is in flight goes on until the runner is cancelled."""
        self._is_draining = True

    async def run(self) -> None:
        """Runs jobs until cancelled. What is in flight then is left to the next runner."""
        parts = self._parts
        if parts.opening is not None:
            await parts.opening()
        own = (
            asyncio.create_task(self._recorder.run(), name="moegate-batch-results"),
            asyncio.create_task(
                delete_old(parts.database, parts.bounds, parts.now_us),
                name="moegate-batch-retention",
            ),
        )
        try:
            is_first, held_s = True, parts.clock()
            self.notify()
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._wake.wait()
                self._wake.clear()
                try:
                    if self._look or parts.clock() - held_s >= HOLD_S:
                        self._look, held_s = False, parts.clock()
                        await self._hold()
                        await self._claim(is_first=is_first)
                        is_first = False
                    await self._end_jobs()
                    ready = [job for job in self.jobs if job.is_ready and not job.stopped]
                    if not self._is_draining:
                        await self.runs.start(ready)
                except LedgerUnavailable as error:
                    log.warning("batches wait for the ledger's database: %s", error)
                    await asyncio.sleep(RETRY_S)
                except Exception:  # one fault must not end the lane
                    log.exception("the batch lane failed inside the gateway")
                    await asyncio.sleep(RETRY_S)
        finally:
            await self._close(*own)

    async def _close(self, *own: asyncio.Task[None]) -> None:
        await self.runs.close()
        tasks = [task for job in self.jobs for task in job.tasks.values()]
        tasks += [*self._preparing, *self._correcting.values(), *own]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        claims = [job.claim for job in self.jobs]
        with contextlib.suppress(LedgerUnavailable):
            # Another runner may take them at once.
            await self._parts.database.write(lambda tx: hold_jobs(tx, claims, 0))

    # Claims.

    async def _hold(self) -> None:
        """Renews the claims, and finds jobs that were lost, cancelled, or are late."""
        now_us = self._parts.now_us()
        held = await self._held([job.claim for job in self.jobs])
        for running in self.jobs:
            now = held.get(running.job.job_id)
            if now is None:
                self._forget(running)
                continue
            if running.is_ready:
                running.job = now
            if now.state is JobState.CANCELLING:
                _stop(running, CANCELLED)
            elif now.deadline_unix_us <= now_us:
                _stop(running, EXPIRED)

    async def _held(self, claims: list[Claim]) -> dict[str, Job]:
        until_us = self._until_us()
        return await self._parts.database.write(lambda tx: hold_jobs(tx, claims, until_us))

    async def _claim(self, *, is_first: bool) -> None:
        """Claims jobs. At the start, those of an earlier process of the same name, too."""
        parts, room = self._parts, MOST_JOBS - len(self._jobs)
        if room <= 0:
            return
        claimed = await parts.database.write(
            lambda tx: claim_jobs(
                tx,
                parts.name,
                parts.now_us(),
                self._until_us(),
                room,
                of_name=is_first,
                of_anyone=is_first and parts.owns_database,
            )
        )
        for claim, job in claimed:
            earlier = self._jobs.get(job.job_id)
            if earlier is not None:  # it could not be renewed for a while
                self._forget(earlier)
                await asyncio.gather(*earlier.tasks.values(), return_exceptions=True)
            running = self._jobs[job.job_id] = RunningJob(claim, job)
            task = asyncio.create_task(self._prepare(running), name="moegate-batch-job")
            self._preparing.add(task)
            task.add_done_callback(self._preparing.discard)

    def _until_us(self) -> int:
        return self._parts.now_us() + round(CLAIM_S * 1e6)

    def _forget(self, running: RunningJob) -> None:
        """Drops a job that another runner has."""
        if self._jobs.get(running.job.job_id) is running:
            log.warning("batch %s has another runner now", running.job.job_id)
            del self._jobs[running.job.job_id]
            if running.is_ready:
                task = asyncio.create_task(self._correct(running), name="moegate-batch-lost")
                self._correcting[running.job.job_id] = task
                task.add_done_callback(partial(self._corrected, running.job.job_id))
        _stop(running, "lost")

    def _corrected(self, job_id: str, task: asyncio.Task[None]) -> None:
        if self._correcting.get(job_id) is task:
            del self._correcting[job_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("lost runs of batch %s are not corrected", job_id, exc_info=error)

    async def _correct(self, running: RunningJob) -> None:
        """Takes back what was charged for items of a lost job, which its new runner runs again."""
        parts = self._parts
        await asyncio.gather(*running.tasks.values(), return_exceptions=True)
        job, numbers = running.job, list(running.tries)
        while True:
            try:
                corrected = await parts.write(
                    lambda tx: correct_own_runs(tx, job, numbers, parts.epoch, parts.accounts_of)
                )
                break
            except LedgerUnavailable:
                await asyncio.sleep(RETRY_S)
        if corrected:
            log.warning("batch %s: %d lost runs corrected", job.job_id, corrected)

    async def _prepare(self, running: RunningJob) -> None:
        """Makes the items of a new job, or takes over what an earlier runner left."""
        while True:
            try:
                await self._prepare_once(running)
                return
            except ClaimLost:
                self._forget(running)
                return
            except LedgerUnavailable as error:
                log.warning("batch %s waits for the database: %s", running.job.job_id, error)
            except Exception:
                log.exception("batch %s cannot be prepared", running.job.job_id)
            await asyncio.sleep(RETRY_S)

    async def _prepare_once(self, running: RunningJob) -> None:
        parts, claim, job = self._parts, running.claim, running.job
        if (correction := self._correcting.get(job.job_id)) is not None:
            await asyncio.gather(correction, return_exceptions=True)
        if job.started_unix_us is None:
            execution = parts.executions[job.form]
            ended = await validate(
                *(parts.database, claim, job, execution, parts.bounds()),
                now_us=parts.now_us,
                order=parts.order,
                experts=parts.experts,
            )
            if ended is not None:
                self._jobs.pop(job.job_id, None)
                return
        else:
            recovered = await parts.write(
                lambda tx: recover_taken(tx, claim, job, parts.accounts_of)
            )
            if recovered:
                log.warning("batch %s: %d items run again", job.job_id, recovered)
        running.waiting = await parts.database.read(lambda tx: waiting_by_model(tx, job.job_id))
        if job.started_unix_us is None:
            running.orders = ordered_with(parts.experts, job.tenant, running.waiting)
        held = await self._held([claim])
        if job.job_id not in held:
            raise ClaimLost(job.job_id)
        running.job = held[job.job_id]
        running.charged_nano_usd = running.job.charged_nano_usd
        running.is_ready = True
        self.notify()

    # The end of jobs.

    async def _end_jobs(self) -> None:
        for running in self.jobs:
            if not running.is_ready or running.tasks:
                continue
            if not running.stopped and not running.is_over:
                continue
            try:
                await self._recorder.settle(running.claim)
                job = await end_rest(running, self._parts)
            except ClaimLost:
                self._forget(running)
                continue
            self._jobs.pop(job.job_id, None)
            log.info(
                "batch %s has ended: %s, %d of %d requests succeeded",
                *(job.job_id, job.state.value, job.succeeded, job.items),
            )


def _stop(running: RunningJob, code: str) -> None:
    """Begins the end of a job: what runs is cancelled."""
    if running.stopped:
        return
    running.stopped = code
    for task in running.tasks.values():
        task.cancel()
