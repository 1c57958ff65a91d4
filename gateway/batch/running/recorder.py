"""Writes results in groups: one transaction for all of a job that gathered in the meantime.

Whoever records a result waits until it is on the disk, so that what waits here is bounded by the
items in flight.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from gateway.accounting.ledger.database import LedgerUnavailable, Tx
from gateway.batch.jobs import ItemResult
from gateway.batch.store.items import record_results
from gateway.batch.store.jobs import Claim, ClaimLost

log = logging.getLogger(__name__)
T = TypeVar("T")
GATHER_S = 0.1
RETRY_S = 2.0
MOST_OF_GROUP = 200


class Write(Protocol):
    """Runs a transaction after all rows of the ledger that were recorded before. Raises
    LedgerUnavailable; the transaction may have been committed nevertheless."""

    async def __call__(self, transaction: Callable[[Tx], Awaitable[T]], /) -> T: ...


class Recorder:
    """Gathers results. `run` writes them until it is cancelled."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._waiting: dict[Claim, list[tuple[ItemResult, asyncio.Future[Any]]]] = {}
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()

    async def record(self, claim: Claim, result: ItemResult) -> None:
        """Returns once the result is on the disk. Raises ClaimLost."""
        written = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(claim, []).append((result, written))
        self._wake.set()
        await written

    async def settle(self, claim: Claim) -> None:
        """Returns once nothing of a job waits."""
        while claim in self._waiting:
            self._progress.clear()
            await self._progress.wait()

    async def run(self) -> None:
        """Writes until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER_S)
            self._wake.clear()
            try:
                while self._waiting:
                    claim, entries = next(iter(self._waiting.items()))
                    await self._write_group(claim, entries[:MOST_OF_GROUP])
            except LedgerUnavailable as error:
                log.warning("results of batches wait for the ledger's database: %s", error)
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    async def _write_group(
        self, claim: Claim, entries: list[tuple[ItemResult, asyncio.Future[Any]]]
    ) -> None:
        numbers = [result.number for result, _ in entries]
        lost: ClaimLost | None = None

        async def transaction(tx: Tx) -> None:
            # After a failure nobody knows whether it was committed.
            done = await recorded(tx, claim.job_id, numbers)
            await record_results(
                tx, claim, [result for result, _ in entries if result.number not in done]
            )

        try:
            await self._write(transaction)
        except ClaimLost as error:
            lost = error
        for _, written in entries:
            if written.done():
                continue  # its task was cancelled
            if lost is None:
                written.set_result(None)
            else:
                written.set_exception(lost)
        left = self._waiting[claim][len(entries) :]
        if left:
            self._waiting[claim] = left
        else:
            del self._waiting[claim]
        self._progress.set()


async def recorded(tx: Tx, job_id: str, numbers: list[int]) -> set[int]:
    """Which of these items have a result."""
    marks = ", ".join(f"${number}" for number in range(2, 2 + len(numbers)))
    found = await tx.rows(
        f"SELECT number FROM batch_result WHERE job_id = $1 AND number IN ({marks})",
        *(job_id, *numbers),
    )
    return {number for (number,) in found}
