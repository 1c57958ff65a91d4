"""Items in flight, of all jobs: starts them within the bounds, runs each in a task, and records
what comes of it.

An item stays in flight until its result is on the disk, so that the bound on items in flight also
bounds what waits for the database.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from gateway.accounting.ledger.database import LedgerUnavailable
from gateway.auth.authenticator import Caller
from gateway.batch.estimates import is_late, needed_per_s
from gateway.batch.jobs import Item, ItemResult, Job, request_id
from gateway.batch.running.execution import ItemAnswer, ItemCall
from gateway.batch.running.ordering import Reordering
from gateway.batch.running.parts import RunnerParts
from gateway.batch.running.recorder import Recorder
from gateway.batch.running.retries import Retry
from gateway.batch.running.running_job import RunningJob
from gateway.batch.store.files import read_bytes
from gateway.batch.store.items import take_items
from gateway.batch.store.jobs import ClaimLost
from scheduler.contract import SloClass
from scheduler.limits.rate_limit import NO_RATE_LIMITS

log = logging.getLogger(__name__)
TAKE_ITEMS = 64
"""Items that are taken from the database at once."""
_KEY_GONE = "key_removed"
_INTERNAL = "internal_error"


class ItemRuns:
    """Runs items. `on_change`: called when another item may be startable; `on_lost`: when another
    runner has the job."""

    def __init__(
        self,
        parts: RunnerParts,
        recorder: Recorder,
        *,
        on_change: Callable[[], None],
        on_lost: Callable[[RunningJob], None],
    ) -> None:
        self._parts = parts
        self._recorder = recorder
        self._on_change = on_change
        self._on_lost = on_lost
        self._turn = 0
        self._reordering = Reordering(parts.database, parts.order, parts.experts)
        self.in_flight = 0
        self.waiting: Counter[str] = Counter()
        """Items by model that have no placement yet."""

    async def close(self) -> None:
        """Ends what runs beside the items."""
        await self._reordering.close()

    async def start(self, jobs: Sequence[RunningJob]) -> None:
        """Starts items of jobs in turns, as far as the bounds let them. Raises
        LedgerUnavailable."""
        bounds, now_s = self._parts.bounds(), self._parts.clock()
        for running in jobs:
            running.release_due(now_s)
        progress = bool(jobs)
        while progress:
            progress = False
            first = self._turn
            for index in ((first + offset) % len(jobs) for offset in range(len(jobs))):
                running = jobs[index]
                for model in sorted(running.models()):
                    if self.in_flight >= bounds.items_in_flight:
                        return
                    if self.waiting[model] >= self._most_waiting(running.job):
                        continue
                    if await self._start_next(running, model):
                        progress = True
                        self._turn = index + 1  # a look that starts nothing is nobody's turn

    def _most_waiting(self, job: Job) -> int:
        """Items of a model that may wait for a placement when another one of this job is started. A
        short queue never shows that own servers are too slow. So of a late job as many may wait as
        have to be started within the promised time to first token: if they cannot be, they are late
        by that time too, and go to a remote."""
        most, now_us = self._parts.bounds().items_waiting, self._parts.now_us()
        if job.terms.local_only or not is_late(job, now_us):
            return most
        in_time = needed_per_s(job, now_us) * self._parts.standard_ttft_s()
        return max(most, math.ceil(min(in_time, self._parts.bounds().items_in_flight)) + 1)

    async def _start_next(self, running: RunningJob, model: str) -> bool:
        if not running.taken.get(model) and running.waiting.get(model):
            now_us = self._parts.now_us()
            try:
                taken = await self._parts.database.write(
                    lambda tx: take_items(tx, running.claim, model, TAKE_ITEMS, now_us)
                )
            except ClaimLost:
                self._on_lost(running)
                return False
            running.add_taken(model, taken)
            if taken:
                execution = self._parts.executions[running.job.form]
                self._reordering.consider(running, model, taken[-1].place, execution)
        item = None if running.stopped else running.next_item(model)
        if item is None:
            return False
        share = running.begin(item)
        self.in_flight += 1
        self.waiting[model] += 1
        running.tasks[item.number] = asyncio.create_task(
            self._run(running, item, share), name="moegate-batch-item"
        )
        return True

    async def _run(self, running: RunningJob, item: Item, share: int | None) -> None:
        waits = True

        def started() -> None:
            nonlocal waits
            if waits:
                waits = False
                self.waiting[item.model] -= 1
                self._on_change()

        try:
            answer = await self._answer(running, item, share, started)
            if answer.retry is None or not running.try_again(
                item, answer.retry, self._parts.clock()
            ):
                await self._record(running, item, answer)
        except ClaimLost:
            self._on_lost(running)
        except LedgerUnavailable as error:
            log.warning("an item of batch %s waits: %s", running.job.job_id, error)
            running.try_again(item, Retry(), self._parts.clock())
        except asyncio.CancelledError:
            if not running.stopped:
                raise
        except Exception:  # one fault must not lose the item: without a result it would never end
            log.exception("an item of batch %s waits", running.job.job_id)
            running.try_again(item, Retry(), self._parts.clock())
        finally:
            started()
            self.in_flight -= 1
            running.tasks.pop(item.number, None)
            self._on_change()

    async def _answer(
        self, running: RunningJob, item: Item, share: int | None, on_start: Callable[[], None]
    ) -> ItemAnswer:
        parts, job = self._parts, running.job
        execution = parts.executions[job.form]
        caller = parts.caller_of(job.key_id)
        if caller is None:
            text = f"key {job.key_id} is not configured any more"
            content = execution.failed(job.job_id, item, _KEY_GONE, text)
            return ItemAnswer(is_ok=False, content=content)
        content = await parts.database.read(
            lambda tx: read_bytes(tx, job.file_id, item.start_byte, item.size_bytes)
        )
        run_id = request_id(job.job_id, item.number)
        if parts.experts.is_told:
            beginning = execution.read(content, job.endpoint).beginning
            parts.experts.follow(job.tenant, item.model, run_id, beginning)
        call = ItemCall(
            job_id=job.job_id,
            request_id=run_id,
            item=item,
            content=content,
            endpoint=job.endpoint,
            # The lane has bounds of its own, and takes nothing from the limits of interactive work.
            caller=replace(caller, limits=NO_RATE_LIMITS),
            terms=job.terms,
            slo_class=_class_of(job, caller, parts.now_us()),
            remaining_s=max(0.001, (job.deadline_unix_us - parts.now_us()) / 1e6),
            max_cost_nano_usd=share,
            on_start=on_start,
        )
        try:
            return await execution.run(call)
        except Exception:
            log.exception("an item of batch %s failed inside the gateway", job.job_id)
            text = "the gateway failed: its log says why"
            content = execution.failed(job.job_id, item, _INTERNAL, text)
            return ItemAnswer(is_ok=False, content=content, retry=Retry(is_failure=True))

    async def _record(self, running: RunningJob, item: Item, answer: ItemAnswer) -> None:
        result = ItemResult(
            number=item.number,
            custom_id=item.custom_id,
            is_ok=answer.is_ok,
            content=answer.content,
            charged_nano_usd=answer.charged_nano_usd,
            has_run=answer.has_run,
            tokens=answer.tokens,
        )
        await self._recorder.record(running.claim, result)
        running.end(item, answer.charged_nano_usd)


def _class_of(job: Job, caller: Caller, now_us: int) -> SloClass:
    """The class of the next run: above batch for a late job, if its key may."""
    if is_late(job, now_us) and caller.allows_slo_class(SloClass.STANDARD):
        return SloClass.STANDARD
    return SloClass.BATCH
