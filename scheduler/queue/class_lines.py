"""The lines of one class of a queue, by tenant."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from operator import attrgetter

from scheduler.queue.queued import Queued

by_order = attrgetter("order")
Lines = dict[str, list[Queued]]


@dataclass(slots=True)
class ClassLines:
    """Requests of one class by tenant, in order; empty lines are not kept."""

    pressed: Lines = field(default_factory=dict)
    live: Lines = field(default_factory=dict)
    """Requests that can wait longer."""
    late: Lines = field(default_factory=dict)
    for_remotes: Lines = field(default_factory=dict)
    """Requests that no self-hosted placement may take. No other request waits behind them."""
    credit_s: float = 0.0
    work_s: float = 0.0
    """Predicted work of the requests that are not late."""
    count: int = 0

    @property
    def head(self) -> Queued | None:
        """The first request that is not late, of any tenant; None: there is none."""
        lines = self.pressed or self.live
        return next(iter(lines.values()))[0] if lines else None

    @property
    def covered(self) -> bool:
        """Whether the credit covers the next request."""
        head = self.head
        return head is not None and self.credit_s >= head.work_s

    def in_time(self) -> Lines:
        """The requests that are not late: of each tenant the pressed ones, then the others."""
        if not self.pressed:
            return self.live
        tenants = (*self.pressed, *(tenant for tenant in self.live if tenant not in self.pressed))
        return {t: [*self.pressed.get(t, ()), *self.live.get(t, ())] for t in tenants}


def put(lines: Lines, queued: Queued) -> None:
    """Adds a request at its seat."""
    insort(lines.setdefault(queued.request.tenant, []), queued, key=by_order)


def take(lines: Lines, queued: Queued) -> None:
    """Removes a request."""
    waiting = lines[queued.request.tenant]
    del waiting[bisect_left(waiting, queued.order, key=by_order)]
    if not waiting:
        del lines[queued.request.tenant]
