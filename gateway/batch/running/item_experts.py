"""The experts that items were routed to, from which the order of those that wait is found.

Engines tell the experts of a request some seconds after its end, if they count them. Until then
the runs of its text are kept; what is learnt of them stays with its tenant and model. Everything
here is lost with the process, and costs nothing while no engine counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from scheduler.engine_steps import ExpertSignature
from scheduler.limits.tenant_store import TenantStore
from scheduler.prefix.expert_affinity import ExpertAffinity, ExpertTable, Rows, rows_of

MOST_FOLLOWED = 1024
"""Items that run, or whose experts have not been told: 8 KiB of each at most."""
MOST_LEARNT = 32
"""Pairs of tenant and model: 1 MiB each."""


class ItemExperts:
    """What is known here, of all tenants."""

    def __init__(self) -> None:
        self._followed: TenantStore[str, tuple[str, str, Rows]] = TenantStore(MOST_FOLLOWED)
        self._learnt: TenantStore[tuple[str, str], ExpertAffinity] = TenantStore(MOST_LEARNT)
        self.is_told = False
        """Whether any engine tells experts."""

    def follow(self, tenant: str, model: str, request_id: str, beginning: bytes) -> None:
        """An item starts, whose experts may be told later."""
        self._followed.put(tenant, request_id, (tenant, model, rows_of(beginning)))

    def observe(self, signatures: Iterable[ExpertSignature]) -> None:
        """Takes what an engine tells of finished requests, those of others too. Of an item with
        several choices the first one that is told counts."""
        for signature in signatures:
            self.is_told = True
            found = self._followed.pop(signature.request_id)
            if found is None:
                continue
            tenant, model, rows = found
            affinity = self._learnt.get((tenant, model)) or ExpertAffinity()
            affinity.observe(rows, signature.experts)
            self._learnt.put(tenant, (tenant, model), affinity)

    def observed(self, tenant: str, model: str) -> int:
        """Requests of a tenant and model from which something was learnt."""
        affinity = self._learnt.get((tenant, model))
        return 0 if affinity is None else affinity.observed

    def tables(self, tenant: str, models: Iterable[str]) -> Mapping[str, ExpertTable]:
        """What is known now of each of these models, without those of which it is too little."""
        found = {}
        for model in models:
            affinity = self._learnt.get((tenant, model))
            table = None if affinity is None else affinity.table()
            if table is not None:
                found[model] = table
        return found
