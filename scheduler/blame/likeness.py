"""Which requests are alike: a retry of the client is like the request that it repeats."""

from __future__ import annotations

from scheduler.contract import Request

Like = tuple[str, str, str, int | str]
"""Tenant, key, model, and what is equal in alike requests."""


def like_of(request: Request) -> Like:
    """Identity that the request shares with its repetitions. A request without a fingerprint is
    like no other."""
    return (
        request.tenant,
        request.key_id,
        request.model,
        request.fingerprint or request.request_id,
    )


def constraint_like(request: Request) -> Like | None:
    """Identity that the request shares with all requests of its key whose output must follow the
    same constraint; None: there is no constraint."""
    if not request.constraint:
        return None
    return (request.tenant, request.key_id, request.model, f"constraint {request.constraint:x}")


class NewestByLike:
    """Times of an event: the newest one, and the newest one of a request unlike that."""

    __slots__ = ("_like", "_other_s", "_s")

    def __init__(self) -> None:
        self._like: Like | None = None
        self._s = self._other_s = float("-inf")

    def record(self, like: Like, now: float) -> None:
        """Records an event of a request."""
        if like != self._like:
            self._like, self._other_s = like, self._s
        self._s = now

    def of_others(self, like: Like) -> float:
        """Time of the newest event of a request that is not like this; -inf: none."""
        return self._other_s if like == self._like else self._s
