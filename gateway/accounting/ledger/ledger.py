"""The ledger's writer: accepts rows at once and writes them in batches, off the event loop.

With a spool (`spool.py`) an accepted row survives the process, and batches are few and large.
Without one it waits in memory, for at most `GATHER_S` and the writing of the previous batch. While
the database fails, rows wait in order up to a bound, and requests go on; rows beyond the bound are
counted and reported. The same writer runs the transactions of leases, after the rows that came
before them: a lease is closed only when every row that it settled is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from gateway.accounting.ledger.append import Append
from gateway.accounting.ledger.database import (
    Database,
    LedgerFenced,
    LedgerUnavailable,
    Tx,
    ValueRefused,
)
from gateway.accounting.ledger.rows import PendingRow
from gateway.accounting.ledger.spool import Spool

log = logging.getLogger(__name__)
T = TypeVar("T")

SPOOLED_S = 1.0
"""How long a batch gathers spooled rows. It bounds how late reports are, and how often the database
commits."""
GATHER_S = 0.015
"""The same for rows that are only in memory, so that most of them are committed within 50 ms."""
BATCH_ROWS = 2000
"""Most rows of one transaction."""
RETRY_S = 0.25
LONGEST_RETRY_S = 2.0
"""Wait after a failure, doubled at each one."""
CLOSE_S = 10.0
"""How long the end of the process waits for unwritten rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerStatus:
    """State of the writer.

    `error`: why it cannot write, "" where it can. `lost_*`: rows since the start that found no room
    in the backlog, and their charges. `longest_wait_s`: from a row's arrival to its commit,
    failures excluded.
    """

    backlog_rows: int
    backlog_limit_rows: int
    written_rows: int
    error: str
    failing_s: float
    lost_rows: int
    lost_nano_usd: int
    longest_wait_s: float


@dataclass(slots=True)
class _Job:
    """A transaction to run after the rows that were added before it."""

    after_seq: int
    transaction: Callable[[Tx], Awaitable[Any]]
    done: asyncio.Future[Any]


class Ledger:
    """Accepts rows by `add`; `run` writes them until it is cancelled."""

    def __init__(
        self, database: Database, append: Append, backlog_rows: int, spool: Spool | None
    ) -> None:
        """`append` writes rows of this process to the database."""
        self._database = database
        self._append = append
        self._limit = backlog_rows
        self._spool = spool
        self._rows: deque[PendingRow] = deque()
        self._jobs: deque[_Job] = deque()
        self._next_seq = 0
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._error = ""
        self._failing_since_s = 0.0
        self._lost_rows = 0
        self._lost_nano_usd = 0
        self._lost_by_lease: dict[str, int] = {}
        self._oldest_s = 0.0
        self._longest_wait_s = 0.0

    @property
    def status(self) -> LedgerStatus:
        """The state of the writer now."""
        return LedgerStatus(
            backlog_rows=len(self._rows),
            backlog_limit_rows=self._limit,
            written_rows=self._next_seq,
            error=self._error,
            failing_s=time.monotonic() - self._failing_since_s if self._error else 0.0,
            lost_rows=self._lost_rows,
            lost_nano_usd=self._lost_nano_usd,
            longest_wait_s=self._longest_wait_s,
        )

    @property
    def accepted_rows(self) -> int:
        """Rows that were accepted since the start."""
        return self._next_seq + len(self._rows)

    @property
    def durable_rows(self) -> int:
        """Those of them that a kill of the process does not lose."""
        spooled = self._spool is not None and self._spool.works
        return self.accepted_rows if spooled else self._next_seq

    def add(self, row: PendingRow) -> None:
        """Accepts a row; never blocks, never raises."""
        if len(self._rows) >= self._limit:
            self._drop(row)
            return
        if not self._rows:
            self._oldest_s = time.monotonic()
            self._wake.set()
        if self._spool is not None:
            self._spool.append(self._next_seq + len(self._rows), row)
        self._rows.append(row)
        if len(self._rows) == BATCH_ROWS:
            self._hurry.set()

    def lost(self, lease_id: str) -> int:
        """The charges of a lease's lost rows, nano-USD. Asking resets them to 0."""
        return self._lost_by_lease.pop(lease_id, 0)

    async def after_rows(self, transaction: Callable[[Tx], Awaitable[T]], timeout_s: float) -> T:
        """Runs a transaction after all rows that were added before. Raises LedgerUnavailable (at
        once while the ledger fails); the transaction may have been committed nevertheless."""
        if self._error:
            raise LedgerUnavailable(self._error)
        job = _Job(
            self._next_seq + len(self._rows),
            transaction,
            asyncio.get_running_loop().create_future(),
        )
        self._jobs.append(job)
        self._wake.set()
        self._hurry.set()
        try:
            async with asyncio.timeout(timeout_s):
                result: T = await job.done
                return result
        except TimeoutError:
            raise LedgerUnavailable(f"no answer within {timeout_s:g} s") from None

    async def run(self) -> None:
        """Writes until cancelled."""
        wait_s = RETRY_S
        while True:
            await self._wake.wait()
            self._wake.clear()
            # Not by wait_for: before Python 3.12 it may swallow the cancellation that ends us.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._gather_s):
                    await self._hurry.wait()
            self._hurry.clear()
            try:
                if self._rows or self._jobs:
                    await self._step()
                while self._jobs or len(self._rows) >= BATCH_ROWS:
                    await self._step()
                if self._rows:  # added meanwhile: a new batch gathers
                    self._wake.set()
            except LedgerUnavailable as error:
                self._fails(str(error))
                await asyncio.sleep(wait_s)
                wait_s = min(LONGEST_RETRY_S, 2 * wait_s)
                self._wake.set()
            else:
                wait_s = RETRY_S
                self._works()

    async def flush(self) -> bool:
        """Writes the waiting rows at the end, for a bounded time, when `run` has ended. Returns
        whether it could: not where another process leads the cluster now."""
        give_up_s = time.monotonic() + CLOSE_S
        while self._rows or self._jobs:
            try:
                await self._step()
            except LedgerUnavailable as error:
                self._fails(str(error))
                if time.monotonic() >= give_up_s or isinstance(error, LedgerFenced):
                    left = "lost" if self._spool is None else "left to the next start"
                    log.error("%d rows of the ledger are %s: %s", len(self._rows), left, error)
                    return False
                await asyncio.sleep(RETRY_S)
        if self._spool is not None:
            with contextlib.suppress(
                OSError
            ):  # the next start then writes them again, without effect
                self._spool.clear()
        return True

    @property
    def _gather_s(self) -> float:
        return SPOOLED_S if self._spool is not None and self._spool.works else GATHER_S

    async def _step(self) -> None:
        """Writes one batch or runs the next job. Raises LedgerUnavailable; the batch then stays."""
        if self._jobs and self._jobs[0].after_seq <= self._next_seq:
            await self._run_job(self._jobs.popleft())
            return
        size = min(len(self._rows), BATCH_ROWS)
        if self._jobs:
            size = min(size, self._jobs[0].after_seq - self._next_seq)
        batch = list(islice(self._rows, size))
        if self._spool is not None:
            self._spool.swap_files(self._next_seq)
        began_s = time.monotonic()
        try:
            await self._append(self._next_seq, batch)
        except LedgerUnavailable:
            raise
        except Exception as error:  # a fault of this code: logged at each retry
            log.exception("the ledger cannot write a batch")
            raise LedgerUnavailable(f"{type(error).__name__}: {error}") from error
        if not self._error:
            self._longest_wait_s = max(self._longest_wait_s, time.monotonic() - self._oldest_s)
        self._oldest_s = began_s  # the rows that remain are younger
        for _ in batch:
            self._rows.popleft()
        self._next_seq += len(batch)

    async def _run_job(self, job: _Job) -> None:
        if job.done.done():
            return  # its caller no longer waits
        try:
            result = await self._database.write(job.transaction)
        except ValueRefused as error:
            _answer(job, error)  # the database writes everything else
        except LedgerUnavailable as error:
            _answer(job, error)
            raise
        except Exception as error:  # raised by the transaction, for its caller
            _answer(job, error)
        else:
            if not job.done.done():
                job.done.set_result(result)

    def _fails(self, error: str) -> None:
        if not self._error:
            self._failing_since_s = time.monotonic()
            log.error(
                "the ledger cannot write, rows wait in memory (at most %d): %s", self._limit, error
            )
        self._error = error
        while self._jobs:
            _answer(self._jobs.popleft(), LedgerUnavailable(error))

    def _works(self) -> None:
        if self._error:
            seconds = time.monotonic() - self._failing_since_s
            log.warning("the ledger writes again, after %.1f s", seconds)
            self._error = ""

    def _drop(self, row: PendingRow) -> None:
        if not self._lost_rows:
            log.error("the ledger's backlog of %d rows is full: rows are lost", self._limit)
        self._lost_rows += 1
        self._lost_nano_usd += row.charged_nano_usd
        if row.lease_id:
            known = self._lost_by_lease.get(row.lease_id, 0)
            self._lost_by_lease[row.lease_id] = known + row.budgeted_nano_usd


def _answer(job: _Job, error: Exception) -> None:
    if not job.done.done():
        job.done.set_exception(error)
