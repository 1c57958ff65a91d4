"""Bounds the calls in progress of each tenant, over all fronts together.

The scheduler counts them, as slots of the tenant. A front keeps a few free slots of a tenant for
its next calls, so that most calls ask nothing. At most one in `KEPT_PARTS` of `limits.tenant_rpcs`
is kept in each front: by so much a tenant whose calls come through several fronts may be refused
too early, and never too late. A bound below `KEPT_PARTS` is exact.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Callable, Collection

from gateway.config.limits import LimitsConfig
from gateway.doors.entry.calls_in_progress import RETRY_S
from gateway.doors.entry.refusals import CallRefused
from gateway.doors.entry.slots import take_slot
from scheduler.limits.rate_limit import RateLimits
from scheduler.port import SchedulerPort, SlotFreed

KEPT_PARTS = 64
TENANT = "TENANT_RPCS"
"""Reason of refusals."""


class TenantCalls:
    """The calls of all tenants. `limits`: those in force. `refused` receives the reason of every
    refusal. `tenants`: those that there are now; what is kept of others is given back when a tenant
    calls that had not called before."""

    def __init__(
        self,
        port: SchedulerPort,
        limits: Callable[[], LimitsConfig],
        refused: Callable[[str], None],
        tenants: Callable[[], Collection[str]],
    ) -> None:
        self._port = port
        self._limits = limits
        self._refused = refused
        self._tenants = tenants
        self._most: dict[str, int] = {}
        """The bound that each tenant had at its last call."""
        self._kept: dict[str, int] = {}
        """Free slots that are kept here, by tenant."""

    async def begin(self, tenant: str, own_most: int | None = None) -> None:
        """Counts a call until the current task ends. `own_most`: the tenant's own bound; None: that
        of all tenants. Raises CallRefused, and then counts nothing."""
        most = own_most or self._limits().tenant_rpcs
        if most != self._most.get(tenant):
            if tenant not in self._most:
                self._forget_gone()
            # Slots that were kept under another bound may be too many.
            self._most[tenant] = most
            self._keep(tenant, 0)
        kept = self._kept.get(tenant, 0)
        if kept:
            self._kept[tenant] = kept - 1
        elif await take_slot(self._port, _holder(tenant), RateLimits(concurrent_requests=most)):
            self._refused(TENANT)
            bound = "its own rpcs" if own_most else "limits.tenant_rpcs"
            text = f"{most} RPCs of tenant {tenant} are in progress here: {bound}"
            raise CallRefused(TENANT, text, random.uniform(*RETRY_S))
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(functools.partial(self._end, tenant))

    def _end(self, tenant: str, _: asyncio.Task[object]) -> None:
        kept = self._kept.get(tenant, 0) + 1
        self._kept[tenant] = kept
        self._keep(tenant, self._most.get(tenant, 0) // KEPT_PARTS)

    def _forget_gone(self) -> None:
        """Forgets tenants that were deleted. Their calls in progress go on."""
        for tenant in self._most.keys() - set(self._tenants()):
            self._keep(tenant, 0)
            del self._most[tenant]

    def _keep(self, tenant: str, most: int) -> None:
        """Gives back what is kept beyond `most` slots."""
        kept = self._kept.pop(tenant, 0)
        for _ in range(kept - most):
            self._port.send(SlotFreed(key_id=_holder(tenant)))
        if kept := min(kept, most):
            self._kept[tenant] = kept


def _holder(tenant: str) -> str:
    """Names the tenant among the holders of slots; no key's id has a colon."""
    return f"tenant:{tenant}"
