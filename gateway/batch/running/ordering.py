"""The order of items: found when a job is read, and anew for those that wait as more is known of
their experts."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

from gateway.accounting.ledger.database import Database, LedgerUnavailable, Tx
from gateway.batch.intake import BadLine
from gateway.batch.jobs import Item
from gateway.batch.running.execution import Execution
from gateway.batch.running.item_experts import ItemExperts
from gateway.batch.running.running_job import KnownOrder, RunningJob
from gateway.batch.store.files import read_bytes
from gateway.batch.store.items import next_items, place_items
from gateway.batch.store.jobs import ClaimLost
from scheduler.prefix.expert_affinity import ExpertTable

log = logging.getLogger(__name__)
WINDOW_ITEMS = 5_000
"""Items that are put in order together."""
READ_ITEMS = 25
"""Items that are read in one transaction, before others have their turn."""


class Order(Protocol):
    """Gives the order in which items are started."""

    def __call__(self, beginnings: Sequence[bytes], table: ExpertTable | None) -> Sequence[int]:
        """As indices, from the beginnings of their prompts, and from what is known of the experts
        that texts are routed to."""


def order_by_model(
    order: Order,
    models: Sequence[str],
    beginnings: Sequence[bytes],
    tables: Mapping[str, ExpertTable],
) -> list[int]:
    """The order of items of several models, one model after the other."""
    members: dict[str, list[int]] = {}
    for index, model in enumerate(models):
        members.setdefault(model, []).append(index)
    return [
        indices[rank]
        for model, indices in members.items()
        for rank in order([beginnings[index] for index in indices], tables.get(model))
    ]


def ordered_with(experts: ItemExperts, tenant: str, models: Iterable[str]) -> dict[str, KnownOrder]:
    """How the items of a job that has just been read were ordered, by model."""
    return {
        model: KnownOrder(observed=experts.observed(tenant, model), until_place=math.inf)
        for model in experts.tables(tenant, models)
    }


class Reordering:
    """Puts waiting items in order anew, beside those that run."""

    def __init__(self, database: Database, order: Order, experts: ItemExperts) -> None:
        self._database = database
        self._order = order
        self._experts = experts
        self._task: asyncio.Task[None] | None = None
        """One at a time, of all jobs."""

    def consider(self, running: RunningJob, model: str, place: int, execution: Execution) -> None:
        """Begins to order the items of a model that follow `place`, where twice as much is known as
        when they were ordered."""
        if self._task is not None and not self._task.done():
            return
        known = running.orders.setdefault(model, KnownOrder())
        tenant = running.job.tenant
        observed = self._experts.observed(tenant, model)
        if place < known.until_place and observed < 2 * known.observed:
            return
        table = self._experts.tables(tenant, [model]).get(model)
        if table is None:
            return
        known.observed = observed
        self._task = asyncio.create_task(
            self._reorder(running, model, place, execution, table), name="moegate-batch-order"
        )

    async def close(self) -> None:
        """Ends what runs."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _reorder(
        self,
        running: RunningJob,
        model: str,
        place: int,
        execution: Execution,
        table: ExpertTable,
    ) -> None:
        job = running.job
        try:
            items = await self._database.read(
                lambda tx: next_items(tx, job.job_id, model, place, WINDOW_ITEMS)
            )
            beginnings: list[bytes] = []
            for first in range(0, len(items), READ_ITEMS):
                some = items[first : first + READ_ITEMS]
                contents = await self._database.read(partial(_read, job.file_id, some))
                beginnings += [_beginning(execution, each, job.endpoint) for each in contents]
            ordered = await asyncio.to_thread(self._order, beginnings, table)
            places = [
                (items[index].number, item.place)
                for index, item in zip(ordered, items, strict=True)
            ]
            await self._database.write(lambda tx: place_items(tx, running.claim, places))
            running.orders[model].until_place = items[-1].place if items else place
        except ClaimLost:
            pass  # it is another runner's
        except LedgerUnavailable as error:
            log.warning("batch %s keeps its order: %s", job.job_id, error)
        except Exception:  # the order before is right, too
            log.exception("batch %s keeps its order", job.job_id)


async def _read(file_id: str, items: Sequence[Item], tx: Tx) -> list[bytes]:
    return [await read_bytes(tx, file_id, item.start_byte, item.size_bytes) for item in items]


def _beginning(execution: Execution, content: bytes, endpoint: str) -> bytes:
    try:
        return execution.read(content, endpoint).beginning
    except BadLine:
        return b""
