"""The ledger and the budgets of a gateway: opened, maintained and closed together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from gateway.accounting.booked import Sought, booked
from gateway.accounting.budgets import Budgets
from gateway.accounting.lease_recovery import recover_own_leases, recover_silent_gateways
from gateway.accounting.ledger.append import transactional_append
from gateway.accounting.ledger.budgets import overrides, set_override
from gateway.accounting.ledger.caller_reads import CallerReads
from gateway.accounting.ledger.database import Database, LedgerUnavailable, LedgerUnusable, Tx
from gateway.accounting.ledger.leases import (
    OpenLease,
    Owner,
    adopt_own_leases,
    record_heartbeat,
)
from gateway.accounting.ledger.ledger import Ledger
from gateway.accounting.ledger.postgres import Fence, connect
from gateway.accounting.ledger.postgres_append import single_statement_append
from gateway.accounting.ledger.retention import PIECE_ROWS, delete_old, delete_old_hours
from gateway.accounting.ledger.rows import pending_row
from gateway.accounting.ledger.spool import Spool, recover_spool
from gateway.accounting.ledger.sqlite import SqliteDatabase
from gateway.accounting.pool_accounts import PoolAccounts, open_pool_accounts
from gateway.accounting.rollups import fold
from gateway.config.gateway import GatewayConfig
from gateway.config.ledger import BudgetConfig
from gateway.config.money import nano_usd
from gateway.config.problems import ConfigError, Problem
from gateway.config.resolve.secrets import resolve
from scheduler.budgets.budget import Budget, Scope
from scheduler.metering.settlement import SettledAttempt

log = logging.getLogger(__name__)
T = TypeVar("T")

MAINTENANCE_S = 1.0
HEARTBEAT_S = 10.0
SILENCE_S = 120.0
"""A gateway that shares the database and wrote no heartbeat for this long counts as dead."""
SETTLE_S = 60.0
"""No gateway is declared dead this soon after the start or after the database was unavailable: the
others need time to write a heartbeat again."""
RETENTION_S = 3600.0
FOLD_S = 15.0
"""Seconds between two additions to the roll-ups; reports add the rows since then."""
WRITE_S = 10.0


@dataclass(slots=True)
class Accounting:
    """Records every attempt, and reserves what a request may spend. Made by `open_accounting`.

    `reads`: for all that callers ask for; `database` is for the gateway itself.
    """

    database: Database
    ledger: Ledger
    budgets: Budgets
    pool_accounts: PoolAccounts
    owner: Owner
    shared: bool
    retain_days: int
    retain_hourly_days: int
    retain_audit_days: int
    reads: CallerReads = field(init=False)

    def __post_init__(self) -> None:
        self.reads = CallerReads(self.database)

    def record_attempt(self, settled: SettledAttempt) -> None:
        """Adds a settled attempt to the ledger and to its budgets. A `Sink`: never blocks."""
        self.ledger.add(pending_row(settled, self.budgets.settle(settled)))

    async def booked(self, sought: Sequence[Sought]) -> dict[tuple[str, int], SettledAttempt]:
        """Returns the accounts of those attempts that are in the ledger. Raises
        LedgerUnavailable."""
        return await self.write(lambda tx: booked(tx, sought))

    async def set_budget(
        self,
        scope: Scope,
        budget: Budget | None,
        also: Callable[[Tx], Awaitable[None]] | None = None,
    ) -> None:
        """Sets a budget, or deletes it (None). This gateway applies it at once, other gateways
        within `HEARTBEAT_S`. `also`: written in the same transaction. Raises LedgerUnavailable."""

        async def transaction(tx: Tx) -> None:
            await set_override(tx, scope, budget)
            if also is not None:
                await also(tx)

        await self.write(transaction)
        self.budgets.override(await self.database.read(overrides))

    async def write(self, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        """Runs a transaction after the rows that were recorded before. Raises LedgerUnavailable."""
        return await self.ledger.after_rows(transaction, WRITE_S)

    async def write_rows(self) -> None:
        """Returns when every row that was recorded before is in the database. Raises
        LedgerUnavailable."""
        await self.write(_nothing)

    async def maintain(self) -> None:
        """Returns unused leases, writes heartbeats, recovers leases of dead gateways, sums new rows
        and deletes old ones, until cancelled."""
        beat_s = retain_s = folded_s = 0.0
        calm_since_s = time.monotonic()
        while True:
            await asyncio.sleep(MAINTENANCE_S)
            now_s = time.monotonic()
            if self.ledger.status.error:
                calm_since_s = now_s
                continue
            try:
                await self.budgets.return_unused()
                if now_s - folded_s >= FOLD_S:
                    added = await self.database.write(fold.fold)
                    # What is left of a long backlog comes next second.
                    folded_s = now_s if added < fold.PIECE_ROWS else -FOLD_S
                if now_s - beat_s >= HEARTBEAT_S:
                    beat_s = now_s
                    await self.database.hold_name(self.owner.gateway)
                    await self.write(lambda tx: record_heartbeat(tx, self.owner))
                    self.budgets.override(await self.database.read(overrides))
                    if self.shared and now_s - calm_since_s >= SETTLE_S:
                        lost = await self.write(
                            lambda tx: recover_silent_gateways(tx, self.owner, SILENCE_S)
                        )
                        _log_recovered(lost, "gateways that fell silent")
                if now_s - retain_s >= RETENTION_S:
                    retain_s = now_s
                    await self._retain()
            except LedgerUnavailable as error:
                log.warning("maintenance of the ledger failed: %s", error)
            except Exception:  # one fault must not end the maintenance
                log.exception("maintenance of the ledger failed")

    async def _retain(self) -> None:
        now_s = time.time()
        before_us = round((now_s - self.retain_days * 86_400) * 1e6)
        hours_before_us = round((now_s - self.retain_hourly_days * 86_400) * 1e6)
        deleted = PIECE_ROWS
        while deleted >= PIECE_ROWS:
            deleted = await self.write(lambda tx: delete_old(tx, before_us))
            await asyncio.sleep(MAINTENANCE_S)  # the rows of requests come first
        deleted = 1
        while deleted:
            deleted = await self.database.write(lambda tx: delete_old_hours(tx, hours_before_us))
            await asyncio.sleep(MAINTENANCE_S)


@contextlib.asynccontextmanager
async def open_accounting(
    config: GatewayConfig,
    base_dir: Path,
    *,
    fence: Fence | None = None,
    adopt: bool = False,
) -> AsyncIterator[Accounting]:
    """Opens the ledger, writes the spooled rows of a killed process, recovers its leases, and
    closes everything in order.

    `fence`: this process leads a cluster, and writes in its name and only while it does; None:
    there is no cluster. `adopt`: the requests of the killed process go on, so that its leases are
    taken over instead, until `AdoptedLeases.end`. Raises ConfigError where the ledger cannot be
    opened.
    """
    settings = config.ledger
    port = config.server.listen.rpartition(":")[2]
    name = f"{socket.gethostname()}-{port}" if fence is None else fence.cluster
    owner = Owner(settings.gateway or name, secrets.token_hex(8))
    database: Database
    try:
        dsn = resolve(settings.postgres, base_dir)
        if dsn is None:
            path = base_dir / settings.sqlite
            database = await asyncio.to_thread(SqliteDatabase, path)
            append = transactional_append(database, owner.epoch)
        else:
            database = postgres = await connect(dsn, owner.gateway, fence)
            append = single_statement_append(postgres, owner.epoch)
    except LedgerUnusable as error:
        raise _unusable(error) from error
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        spool = None
        if settings.spool is not None or dsn is None:
            try:
                spool = Spool(
                    base_dir / (settings.spool or f"{settings.sqlite}.spool"), owner.epoch
                )
                stack.callback(spool.close)
            except (LedgerUnusable, OSError) as error:
                raise _unusable(error) from error
        ledger = Ledger(database, append, settings.backlog_rows, spool)
        budgets = Budgets(ledger, owner)
        budgets.configure(map(configured_budget, config.budgets))
        budgets.override(await database.read(overrides))
        if spool is not None:
            try:
                await recover_spool(spool, database, budgets.accounts_of)
            except (LedgerUnusable, LedgerUnavailable, OSError) as error:
                raise _unusable(error) from error
        adopted: list[OpenLease] = []
        if adopt:
            adopted = await database.write(lambda tx: adopt_own_leases(tx, owner))
        else:
            recovered = await database.write(lambda tx: recover_own_leases(tx, owner))
            _log_recovered(recovered, "a killed gateway")
        if dsn is None:
            # No other gateway can have the file open: other names are old names of this gateway.
            await database.write(lambda tx: recover_silent_gateways(tx, owner, 0.0))
        await database.write(lambda tx: record_heartbeat(tx, owner))
        budgets.adopted.begin(adopted)
        opened = Accounting(
            database,
            ledger,
            budgets,
            await open_pool_accounts(database, owner),
            owner,
            shared=dsn is not None,
            retain_days=settings.retain_days,
            retain_hourly_days=settings.retain_hourly_days,
            retain_audit_days=settings.retain_audit_days,
        )
        writer = asyncio.create_task(ledger.run(), name="moegate-ledger")
        maintenance = asyncio.create_task(opened.maintain(), name="moegate-accounting")
        try:
            yield opened
        finally:
            await _end(maintenance)
            if fence is None and not ledger.status.error:
                await budgets.close()  # of a cluster, the next leader takes the leases over
            await _end(writer)
            if await ledger.flush():
                with contextlib.suppress(LedgerUnavailable):
                    await database.write(fold.fold)


def configured_budget(entry: BudgetConfig) -> Budget:
    """The budget of an entry of the configuration file."""
    return Budget(
        tenant=entry.tenant,
        key_id=entry.key or "",
        each_session=entry.each_session,
        period=entry.period,
        cap_nano_usd=nano_usd(entry.cap_usd),
        hard=entry.hard,
    )


async def _nothing(_: Tx) -> None:
    pass


def _unusable(error: Exception) -> ConfigError:
    problem = Problem(path="ledger", value="", message=str(error), fix="see docs/ledger.md")
    return ConfigError("ledger", [problem])


def _log_recovered(leases: int, whose: str) -> None:
    if leases:
        log.warning("%d open leases of %s count as spent: see `moegate usage`", leases, whose)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    (result,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(result, Exception):
        log.error("a task of the accounting failed", exc_info=result)
