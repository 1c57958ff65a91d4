"""Idempotency keys: at most one generation for each, while it runs and for 10 minutes after.

A request that was refused, or that failed before it produced any output, releases its key, because
the client is asked to try again with the same key.
"""

from __future__ import annotations

from collections import OrderedDict

REMEMBERED_S = 600.0
"""Time for which a request is remembered after its end."""
MAX_REMEMBERED = 100_000
"""Bound on the remembered requests, some 30 MB; above, requests with a new key are refused."""

Key = tuple[str, str]


class IdempotencyKeys:
    """Keys that are in use or remembered, each with the id of its first request."""

    def __init__(self) -> None:
        self._running: dict[Key, str] = {}
        self._ended: OrderedDict[Key, tuple[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._running) + len(self._ended)

    def first_request(self, key: Key, now: float) -> str | None:
        """Id of the request that holds the key (key id of the caller, value); None if free."""
        self._forget_old(now)
        if key in self._running:
            return self._running[key]
        return self._ended[key][0] if key in self._ended else None

    def claim(self, key: Key, request_id: str) -> bool:
        """Claims a free key. Returns False if too many keys are remembered."""
        if len(self) >= MAX_REMEMBERED:
            return False
        self._running[key] = request_id
        return True

    def end(self, key: Key, now: float, *, remember: bool) -> None:
        """Records that the request of a claimed key has ended."""
        request_id = self._running.pop(key)
        if remember:
            self._ended[key] = (request_id, now + REMEMBERED_S)

    def _forget_old(self, now: float) -> None:
        while self._ended:
            key, (_, until_s) = next(iter(self._ended.items()))
            if until_s > now:
                return
            del self._ended[key]
