"""The keys and tenants made at run time that are in force, and how changes come into force.

There is one store beside each ledger. A change is written, read again, and published to every
process that authenticates before its RPC is answered. Other gateways on the same database look
every `POLL_S` seconds whether there is something new. While the database does not answer, what was
read last stays in force.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

from gateway.access import audit
from gateway.access.audit import Event
from gateway.access.changes import By, Files
from gateway.access.rows import access_table, delete_revoked, version
from gateway.accounting.accounting import Accounting
from gateway.accounting.ledger.database import LedgerUnavailable, Tx
from gateway.auth.run_time import AccessTable, clashes
from gateway.config.gateway import GatewayConfig
from gateway.config.problems import ConfigError, Problem

log = logging.getLogger(__name__)
T = TypeVar("T")

POLL_S = 1.0
RETENTION_S = 3600.0


class ActiveAccess(Protocol):
    """What is in force in this process."""

    @property
    def config(self) -> GatewayConfig:
        """The configuration, as the file declares it."""

    @property
    def access(self) -> AccessTable:
        """Tenants and keys that were made at run time."""


Publish = Callable[[AccessTable], Awaitable[None]]
"""Puts a table into force in every process."""


class AccessStore:
    """Made by `running_store`. `table`: what is in force."""

    def __init__(
        self,
        accounting: Accounting,
        table: AccessTable,
        config: Callable[[], GatewayConfig],
        path: Path | None,
        publish: Publish,
    ) -> None:
        """`config`: the configuration in force, as the file declares it. `path`: the file; None:
        there is none."""
        self.table = table
        self._accounting = accounting
        self._config = config
        self._source = "the configuration" if path is None else str(path)
        self._publish = publish
        self._lock = asyncio.Lock()
        self._unsure = False
        """Whether a change may have been written without being read."""

    def by(self, actor: str) -> By:
        """Who changes something, now."""
        files = Files(self._config(), self._source)
        return By(files=files, actor=actor, now_us=time.time_ns() // 1000)

    async def change(self, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        """Runs one of `changes.py`, and returns its result once it is in force in all processes of
        this gateway. Raises AccessRefused, LedgerUnavailable, or what the transaction raises."""
        async with self._lock:
            self._unsure = True
            result = await self._accounting.write(transaction)
            await self._read_again()
            return result

    async def record(self, event: Event) -> None:
        """Adds an event to the audit log. Where the database does not answer, what was done stands
        nevertheless, and the event is in the log of the process."""
        try:
            await self._accounting.write(lambda tx: audit.record(tx, event))
        except LedgerUnavailable as error:
            log.error(
                "the audit log misses: %s did %s to %s (%s)",
                *(event.actor, event.action, event.target, error),
            )

    async def read(self, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        """Runs a query. Raises LedgerUnavailable."""
        return await self._accounting.database.read(transaction)

    async def run(self) -> None:
        """Follows the changes of other gateways and deletes what is old, until cancelled."""
        retained_s = time.monotonic()
        while True:
            await asyncio.sleep(POLL_S)
            try:
                if self._unsure or self._accounting.shared:
                    async with self._lock:
                        if self._unsure or await self.read(version) != self.table.version:
                            await self._read_again()
                if time.monotonic() - retained_s >= RETENTION_S:
                    retained_s = time.monotonic()
                    await self._delete_old()
            except LedgerUnavailable as error:
                log.warning("keys stay as they were read last: %s", error)
            except Exception:  # one fault must not end the following
                log.exception("following the keys failed")

    async def _read_again(self) -> None:
        """Puts into force what the database has. Raises LedgerUnavailable."""
        table = await self.read(access_table)
        self.table = table
        await self._publish(table)
        self._unsure = False

    async def _delete_old(self) -> None:
        before_us = time.time_ns() // 1000 - self._accounting.retain_audit_days * 86_400_000_000
        await self._accounting.write(lambda tx: audit.delete_old(tx, before_us))
        await self._accounting.write(lambda tx: delete_revoked(tx, before_us))


async def read_access(accounting: Accounting, config: GatewayConfig) -> AccessTable:
    """Returns what the database has at a start, and logs where it clashes with the file, which
    wins. Raises ConfigError if the database does not answer."""
    try:
        table = await accounting.database.read(access_table)
    except LedgerUnavailable as error:
        problem = Problem(
            path="ledger",
            value="",
            message=f"the keys made at run time cannot be read: {error}",
            fix="see docs/ledger.md",
        )
        raise ConfigError("ledger", [problem]) from error
    for clash in clashes(config, table):
        log.warning("the configuration file wins: %s", clash)
    return table


@contextlib.asynccontextmanager
async def running_store(
    accounting: Accounting, active: ActiveAccess, path: Path | None, publish: Publish
) -> AsyncIterator[AccessStore]:
    """Runs a store that begins with what is in force. `path`: the configuration file; None: there
    is none. `publish`: see `Publish`."""
    store = AccessStore(accounting, active.access, lambda: active.config, path, publish)
    task = asyncio.create_task(store.run(), name="moegate-access")
    try:
        yield store
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
