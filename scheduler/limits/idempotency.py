"""Idempotency keys: at most one generation for each, while it runs and for 10 minutes after.

A request that was refused, or that failed before it produced any output, releases its key, because
the client is asked to try again with the same key. No request is refused for want of room: when the
store is full, the tenant with most remembered keys loses its oldest one before its time.
"""

from __future__ import annotations

from scheduler.limits.tenant_store import TenantStore

REMEMBERED_S = 600.0
"""Time for which a request is remembered after its end."""
MOST_REMEMBERED = 100_000
"""Default bound of the remembered requests, some 30 MB."""

Key = tuple[str, str]


class IdempotencyKeys:
    """Keys that are in use or remembered, each with the id of its first request.

    Keys in use are as many as requests in progress at most; `most` bounds the remembered ones.
    """

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self._running: dict[Key, str] = {}
        self._ended: TenantStore[Key, tuple[str, float]] = TenantStore(most)

    def __len__(self) -> int:
        return len(self._running) + len(self._ended)

    def resize(self, most: int) -> None:
        """Changes the bound of the remembered keys."""
        self._ended.resize(most)

    def first_request(self, key: Key, now: float) -> str | None:
        """Id of the request that holds the key (key id of the caller, value); None if free."""
        self._forget_old(now)
        if key in self._running:
            return self._running[key]
        ended = self._ended.get(key)
        return None if ended is None else ended[0]

    def claim(self, key: Key, request_id: str) -> None:
        """Claims a free key."""
        self._running[key] = request_id

    def end(self, key: Key, tenant: str, now: float, *, remember: bool) -> None:
        """Records that the request of a claimed key has ended. `tenant`: its caller's tenant."""
        request_id = self._running.pop(key)
        if remember:
            self._ended.put(tenant, key, (request_id, now + REMEMBERED_S))

    def remember(self, key: Key, tenant: str, request_id: str, until_s: float) -> None:
        """Remembers a request that has ended before this object was made. A key that is known
        already stays as it is."""
        if key not in self._running and self._ended.get(key) is None:
            self._ended.put(tenant, key, (request_id, until_s))

    def _forget_old(self, now: float) -> None:
        while (oldest := self._ended.oldest()) is not None:
            key, (_, until_s) = oldest
            if until_s > now:
                return
            self._ended.pop(key)
