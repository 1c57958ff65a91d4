"""How the budgets of keys stand, for doors that tell it with every answer.

No request waits for it. A request has its key's standings read, unless they were within the last
`KEPT_S`, and its answer tells what is known when the answer begins.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from gateway.auth.authenticator import Caller
from scheduler.budgets.standing import BudgetStanding
from scheduler.limits.tenant_store import TenantStore
from scheduler.port import SchedulerPort

log = logging.getLogger(__name__)

KEPT_S = 5.0
MOST_KEYS = 10_000
"""Bound of the keys whose standings are kept; a tenant with many keys does not push out others."""
READS_AT_ONCE, READS_OF_TENANT = 32, 4
"""Most reads in progress, in all and of one tenant. Beyond them, an answer tells no standing."""

Standings = tuple[BudgetStanding, ...]


@dataclass(frozen=True, slots=True)
class _Known:
    read_s: float
    standings: Standings


class BudgetStandings:
    """The standings that are known. Needs a running event loop."""

    def __init__(self, port: SchedulerPort, clock: Callable[[], float]) -> None:
        """`clock`: monotonic seconds."""
        self._port = port
        self._clock = clock
        self._known: TenantStore[tuple[str, str], _Known] = TenantStore(MOST_KEYS)
        self._reads: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._of_tenant: Counter[str] = Counter()

    def refresh(self, caller: Caller) -> None:
        """Begins to read the standings of the caller's key, unless they are known."""
        tenant, key = caller.tenant, (caller.tenant, caller.key_id)
        known = self._known.get(key)
        if known is not None and self._clock() - known.read_s < KEPT_S:
            return
        busy = len(self._reads) >= READS_AT_ONCE or self._of_tenant[tenant] >= READS_OF_TENANT
        if key in self._reads or busy:
            return
        self._of_tenant[tenant] += 1
        self._reads[key] = task = asyncio.create_task(self._read(*key))
        task.add_done_callback(lambda _: self._end(key))

    def known(self, caller: Caller) -> Standings:
        """The standings of the caller's key, as far as they are known; empty: none are, or the key
        has no budget."""
        found = self._known.get((caller.tenant, caller.key_id))
        return () if found is None else found.standings

    async def _read(self, tenant: str, key_id: str) -> None:
        read_s = self._clock()
        try:
            found = await self._port.budget_standings(tenant, key_id)
        except Exception as error:  # the link to the scheduler: requests are refused without it
            log.debug("the budgets of key %s cannot be read: %s", key_id, error)
            found = None
        key = (tenant, key_id)
        if found is None:
            self._known.pop(key)
        else:
            self._known.put(tenant, key, _Known(read_s, found))

    def _end(self, key: tuple[str, str]) -> None:
        del self._reads[key]
        tenant = key[0]
        self._of_tenant[tenant] -= 1
        if not self._of_tenant[tenant]:
            del self._of_tenant[tenant]
