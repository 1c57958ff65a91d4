"""Reads the file of a job into items, in slices: a database transaction and a turn of the loop
each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec

from gateway.accounting.ledger.database import Database, Tx
from gateway.batch.intake import BadLine, Cut, FrameCutter, Intake, LineCutter
from gateway.batch.jobs import Form, Item, Job, JobState, LineFault
from gateway.batch.running.execution import Execution
from gateway.batch.running.item_experts import ItemExperts
from gateway.batch.running.ordering import WINDOW_ITEMS, Order, order_by_model
from gateway.batch.store.files import read_chunk
from gateway.batch.store.items import insert_items
from gateway.batch.store.jobs import Claim, begin_job, end_job
from gateway.config.batch import BatchConfig

SLICE_LINES = 50
"""Lines that are read before others have their turn."""
EMPTY = LineFault(code="empty_file", message="the file has no requests: one JSON object a line")


async def validate(
    database: Database,
    claim: Claim,
    job: Job,
    execution: Execution,
    bounds: BatchConfig,
    *,
    now_us: Callable[[], int],
    order: Order,
    experts: ItemExperts,
) -> Job | None:
    """Makes the items of a job. Returns the job if it ended, because it has none. Raises ClaimLost
    and LedgerUnavailable; called again, it starts anew."""
    intake = Intake(bounds.job_items)
    window = _Window(database, claim, job.tenant, order, experts)
    cutter = FrameCutter() if job.form is Form.GRPC else LineCutter(bounds.line_bytes)
    number = 0
    while (chunk := await _chunk(database, job.file_id, number)) is not None:
        number += 1
        await _take(cutter.add(chunk), intake, window, job, execution, bounds)
    await _take(cutter.end(), intake, window, job, execution, bounds)
    await window.write()
    faults = intake.faults or ([] if intake.items else [EMPTY])

    async def begin(tx: Tx) -> Job | None:
        await begin_job(tx, claim, intake.items, intake.bad, faults, now_us())
        if intake.items:
            return None
        keep_us = bounds.keep_us
        return await end_job(tx, claim, JobState.FAILED, now_us(), keep_us)

    return await database.write(begin)


async def _take(
    cuts: Iterable[Cut],
    intake: Intake,
    window: _Window,
    job: Job,
    execution: Execution,
    bounds: BatchConfig,
) -> None:
    for count, cut in enumerate(cuts, 1):
        if cut.content is None:
            text = f"{cut.size_bytes} bytes: a line has at most {bounds.line_bytes}"
            intake.refuse(cut.number, LineFault(code="line_too_long", message=text))
            continue
        try:
            head = execution.read(cut.content, job.endpoint)
        except BadLine as error:
            intake.refuse(cut.number, error.fault)
        else:
            item = intake.item(cut, head)
            if item is not None:
                window.add(item, head.beginning)
        if len(window) >= WINDOW_ITEMS:
            await window.write()
        elif count % SLICE_LINES == 0:
            await asyncio.sleep(0)


class _Window:
    """Items that are put in order together."""

    def __init__(
        self, database: Database, claim: Claim, tenant: str, order: Order, experts: ItemExperts
    ) -> None:
        self._database = database
        self._claim = claim
        self._tenant = tenant
        self._order = order
        self._experts = experts
        self._items: list[Item] = []
        self._beginnings: list[bytes] = []
        self._next_place = 0

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: Item, beginning: bytes) -> None:
        self._items.append(item)
        self._beginnings.append(beginning)

    async def write(self) -> None:
        if not self._items:
            return
        models = [item.model for item in self._items]
        tables = self._experts.tables(self._tenant, set(models))
        order = await asyncio.to_thread(
            order_by_model, self._order, models, self._beginnings, tables
        )
        first = self._next_place
        placed = [
            msgspec.structs.replace(self._items[index], place=first + rank)
            for rank, index in enumerate(order)
        ]
        self._next_place += len(placed)
        await self._database.write(lambda tx: insert_items(tx, self._claim, placed))
        self._items.clear()
        self._beginnings.clear()


async def _chunk(database: Database, file_id: str, number: int) -> bytes | None:
    return await database.read(lambda tx: read_chunk(tx, file_id, number))
