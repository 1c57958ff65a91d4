"""Idempotency keys: at most one generation for each, while it runs and for 10 minutes after.

A request that was refused, or that failed before it produced any output, releases its key, because
the client is asked to try again with the same key. No request is refused for want of room: when the
store is full, the tenant with most remembered keys loses its oldest one before its time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from scheduler.limits.tenant_store import TenantStore

REMEMBERED_S = 600.0
"""Time for which a request is remembered after its end."""
MOST_REMEMBERED = 100_000
"""Default bound of the remembered requests, some 30 MB."""

Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """Use of a key. `request_id`: of its first request. `until_s`: when it is forgotten; None: the
    request runs here. `has_output`: the client may have output of it. `has_ended`: it is known to
    have ended."""

    tenant: str
    request_id: str
    until_s: float | None
    has_output: bool = False
    has_ended: bool = False


class IdempotencyKeys:
    """Keys that are in use or remembered, each with the id of its first request.

    Keys in use are as many as requests in progress at most; `most` bounds the remembered ones.
    """

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self._running: dict[Key, KeyUse] = {}
        self._ended: TenantStore[Key, tuple[KeyUse, float]] = TenantStore(most)

    def __len__(self) -> int:
        return len(self._running) + len(self._ended)

    def resize(self, most: int) -> None:
        """Changes the bound of the remembered keys."""
        self._ended.resize(most)

    def first_request(self, key: Key, now: float) -> str | None:
        """Id of the request that holds the key (key id of the caller, value); None if free."""
        self._forget_old(now)
        if key in self._running:
            return self._running[key].request_id
        ended = self._ended.get(key)
        return None if ended is None or ended[1] <= now else ended[0].request_id

    def use(self, key: Key) -> KeyUse | None:
        """Returns the use of a key, which may be over by now; None: there is none."""
        ended = self._ended.get(key)
        return self._running.get(key) or (None if ended is None else ended[0])

    def claim(self, key: Key, tenant: str, request_id: str, *, has_output: bool = False) -> KeyUse:
        """Claims a free key, or one that is remembered for this request. `tenant`: its caller's."""
        self._ended.pop(key)
        use = KeyUse(tenant=tenant, request_id=request_id, until_s=None, has_output=has_output)
        self._running[key] = use
        return use

    def record_output(self, key: Key) -> KeyUse | None:
        """The client may have output of the request of a claimed key. Returns the use if that is
        news."""
        use = self._running.get(key)
        if use is None or use.has_output:
            return None
        self._running[key] = use = replace(use, has_output=True)
        return use

    def end(self, key: Key, now: float, *, remember: bool) -> KeyUse | None:
        """Records that the request of a claimed key has ended. Returns how the key is remembered;
        None: it is free."""
        use = self._running.pop(key)
        if not remember:
            return None
        until_s = now + REMEMBERED_S
        use = replace(use, until_s=until_s, has_output=True, has_ended=True)
        self._ended.put(use.tenant, key, (use, until_s))
        return use

    def remember(self, key: Key, use: KeyUse, until_s: float) -> bool:
        """Remembers a request of which this object has been told. A key that is known already stays
        as it is. Returns whether it was not."""
        if key in self._running or self._ended.get(key) is not None:
            return False
        self._ended.put(use.tenant, key, (use, until_s))
        return True

    def keys(self) -> list[Key]:
        """Returns all keys that are in use or remembered."""
        return [*self._running, *(key for key, _ in self._ended.items())]

    def _forget_old(self, now: float) -> None:
        while (oldest := self._ended.oldest()) is not None:
            key, (_, until_s) = oldest
            if until_s > now:
                return
            self._ended.pop(key)
