"""Responses that a later request may continue by `previous_response_id`.

They are kept in the memory of this process, within a bound for each tenant and one for all; the
oldest give way. A client that reaches another gateway, or comes too late, is told to send the whole
conversation, as agents do anyhow.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

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
        self._by_id: OrderedDict[str, StoredResponse] = OrderedDict()
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
        self._drop_oldest(
            lambda: self._bytes_of.get(tenant, 0) + size > limits.stored_tenant_bytes, tenant
        )
        self._drop_oldest(lambda: self._bytes + size > limits.stored_bytes, None)
        self._by_id[response_id] = stored
        self._bytes += size
        self._bytes_of[tenant] = self._bytes_of.get(tenant, 0) + size

    def get(self, response_id: str, tenant: str, now: float) -> StoredResponse | None:
        """A response of the tenant; None: it is not kept."""
        found = self._by_id.get(response_id)
        if found is None or found.tenant != tenant:
            return None
        if now - found.stored_s > KEPT_S:
            self._drop(response_id)
            return None
        return found

    def remove(self, response_id: str, tenant: str) -> bool:
        """Forgets a response of the tenant. Returns whether there was one."""
        found = self._by_id.get(response_id)
        if found is None or found.tenant != tenant:
            return False
        self._drop(response_id)
        return True

    def _drop_oldest(self, is_full: Callable[[], bool], tenant: str | None) -> None:
        """Drops the oldest responses, of one tenant or of all, until there is room."""
        if not is_full():
            return
        for response_id in [*self._by_id]:
            if tenant is None or self._by_id[response_id].tenant == tenant:
                self._drop(response_id)
                if not is_full():
                    return

    def _drop(self, response_id: str) -> None:
        stored = self._by_id.pop(response_id)
        self._bytes -= stored.size_bytes
        left = self._bytes_of.pop(stored.tenant) - stored.size_bytes
        if left:
            self._bytes_of[stored.tenant] = left
