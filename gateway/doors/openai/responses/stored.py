"""Responses that a later request may continue by `previous_response_id`.

They are kept in the memory of this process, within a bound for each tenant and one for all; the
oldest give way. A client that reaches another gateway, or comes too late, is told to send the whole
conversation, as agents do anyhow.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from gateway.config.limits import LimitsConfig
from gateway.domain.generation import Message

KEPT_S = 3600.0
"""How long a response is kept."""
ENTRY_BYTES = 500
"""Memory of an entry without its content."""


class StoredResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation up to and including a response. `messages`: without instructions, which do not
    carry over. `answer`: the JSON of the response."""

    tenant: str
    messages: tuple[Message, ...]
    answer: bytes
    size_bytes: int
    stored_s: float


class ResponseStore:
    """The stored responses, by id. A tenant sees only its own."""

    def __init__(self) -> None:
        # Ids may be chosen by clients, so that two tenants may have the same one.
        self._all: OrderedDict[tuple[str, str], StoredResponse] = OrderedDict()
        self._of_tenant: dict[str, OrderedDict[str, None]] = {}
        self._bytes_of: dict[str, int] = {}
        self._bytes = 0

    @property
    def total_bytes(self) -> int:
        """Memory of all responses."""
        return self._bytes

    def put(self, response_id: str, stored: StoredResponse, limits: LimitsConfig) -> None:
        """Keeps a response, unless it alone is beyond the bound of its tenant."""
        self.remove(response_id, stored.tenant)
        tenant, size = stored.tenant, stored.size_bytes
        if size > limits.stored_tenant_bytes or size > limits.stored_bytes:
            return
        while self._bytes_of.get(tenant, 0) + size > limits.stored_tenant_bytes:
            self._drop(tenant, next(iter(self._of_tenant[tenant])))
        while self._bytes + size > limits.stored_bytes:
            self._drop(*next(iter(self._all)))
        self._all[tenant, response_id] = stored
        self._of_tenant.setdefault(tenant, OrderedDict())[response_id] = None
        self._bytes += size
        self._bytes_of[tenant] = self._bytes_of.get(tenant, 0) + size

    def get(self, response_id: str, tenant: str, now: float) -> StoredResponse | None:
        """A response of the tenant; None: it is not kept."""
        found = self._all.get((tenant, response_id))
        if found is not None and now - found.stored_s > KEPT_S:
            self._drop(tenant, response_id)
            return None
        return found

    def remove(self, response_id: str, tenant: str) -> bool:
        """Forgets a response of the tenant. Returns whether there was one."""
        if (tenant, response_id) not in self._all:
            return False
        self._drop(tenant, response_id)
        return True

    def _drop(self, tenant: str, response_id: str) -> None:
        size = self._all.pop((tenant, response_id)).size_bytes
        self._bytes -= size
        self._bytes_of[tenant] -= size
        del self._of_tenant[tenant][response_id]
        if not self._of_tenant[tenant]:
            del self._of_tenant[tenant], self._bytes_of[tenant]
