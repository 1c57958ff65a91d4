"""The queue of one model: bounded, ordered by class, priority and age, with deadlines.

Between classes, the one whose head arrived first goes, a lower class counting as arrived
`head_start_s` later; within a class a rank of priority is worth `PRIORITY_STEP_S` of waiting. Both
are bounded, so every request comes to the head in the end: nothing starves.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter

from scheduler.snapshot import QueueSnapshot
from scheduler.types import Request, SloClass

PRIORITY_STEP_S = 1.0
"""How much waiting one rank of priority is worth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """A request that waits. `expires_s`: when it must have left; `work_s`: predicted work."""

    request: Request
    order: tuple[float, int]
    expires_s: float
    work_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """Bounds of one queue."""

    requests: int
    size_bytes: int


_by_order = attrgetter("order")


class ModelQueue:
    """Requests of one model that wait for a place. Sums are kept, not counted anew."""

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._classes: dict[SloClass, list[Queued]] = {name: [] for name in SloClass}
        self._by_id: dict[str, Queued] = {}
        self._expiries: list[tuple[float, str]] = []
        self._arrivals = 0
        self.size_bytes = 0
        self.work_s = 0.0

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Queued]:
        return iter(tuple(self._by_id.values()))

    def __repr__(self) -> str:
        return f"<ModelQueue {len(self)} requests, {self.size_bytes} bytes>"

    def snapshot(self, model: str, predicted_drain_s: float, now: float) -> QueueSnapshot:
        """Figures to show."""
        oldest_s = {
            name: min((q.request.arrival_s for q in line), default=now)
            for name, line in self._classes.items()
        }
        return QueueSnapshot(
            model=model,
            requests={name: len(line) for name, line in self._classes.items()},
            oldest_wait_s={name: now - arrival_s for name, arrival_s in oldest_s.items()},
            size_bytes=self.size_bytes,
            predicted_drain_s=predicted_drain_s,
        )

    def has_room(self, request: Request) -> bool:
        """Whether the request fits the bounds."""
        return (
            len(self._by_id) < self._limits.requests
            and self.size_bytes + request.size_bytes <= self._limits.size_bytes
        )

    def push(self, request: Request, expires_s: float, work_s: float) -> None:
        """Adds a request. Raises OverflowError if it does not fit the bounds."""
        if not self.has_room(request):
            raise OverflowError(f"{self!r} has no room for {request.request_id}")
        self._arrivals += 1
        queued = Queued(
            request=request,
            order=(request.arrival_s - PRIORITY_STEP_S * request.priority, self._arrivals),
            expires_s=expires_s,
            work_s=work_s,
        )
        insort(self._classes[request.slo.slo_class], queued, key=_by_order)
        self._by_id[request.request_id] = queued
        heapq.heappush(self._expiries, (expires_s, request.request_id))
        self.size_bytes += request.size_bytes
        self.work_s += work_s
        if len(self._expiries) > 2 * len(self._by_id) + 64:
            # Entries of requests that left early are dropped here: the heap stays bounded too.
            self._expiries = [(q.expires_s, name) for name, q in self._by_id.items()]
            heapq.heapify(self._expiries)

    def head(self) -> Request | None:
        """The request that goes next."""
        heads = [queue[0].request for queue in self._classes.values() if queue]
        return min(heads, key=lambda r: r.arrival_s + r.slo.head_start_s, default=None)

    def remove(self, request_id: str) -> Queued | None:
        """Takes a request out, wherever it stands; None if it is not here."""
        queued = self._by_id.pop(request_id, None)
        if queued is None:
            return None
        line = self._classes[queued.request.slo.slo_class]
        del line[bisect_left(line, queued.order, key=_by_order)]
        self.size_bytes -= queued.request.size_bytes
        self.work_s = self.work_s - queued.work_s if self._by_id else 0.0
        return queued

    def next_expiry_s(self) -> float | None:
        """When the first request expires; None when the queue is empty."""
        while self._expiries:
            expires_s, request_id = self._expiries[0]
            queued = self._by_id.get(request_id)
            if queued is not None and queued.expires_s == expires_s:
                return expires_s
            heapq.heappop(self._expiries)
        return None

    def expired(self, now: float) -> list[Queued]:
        """Takes out every request that has expired by `now`."""
        gone: list[Queued] = []
        while (first := self.next_expiry_s()) is not None and first <= now:
            queued = self.remove(heapq.heappop(self._expiries)[1])
            if queued is not None:
                gone.append(queued)
        return gone
