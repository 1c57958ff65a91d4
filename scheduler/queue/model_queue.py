"""The bounded queue of one model, and the order in which its requests are tried.

The class decides who is late when not all can be in time, and not who waits while they can: a
request that is pressed, because much of the time that it may wait is gone, goes before all that can
wait longer, whatever their class. Where a higher class loses more than a few requests (not all can
be in time), none of a lower class does. Among the pressed, and among the others, classes have
strict priority, with one exception: a lower class that waits earns credit, a share of the service
given to higher classes, and goes first once the credit covers its next request. The batch class is
never pressed. Within a class, the tenant with the least weighted service goes first; within a
tenant, the request with the shortest predicted prefill, where each second of waiting counts as
`ageing` seconds of prefill. Deadlines set no finer order than that, because earliest-deadline order
would collapse under overload. A request whose time to first token is lost moves behind all others,
until its time in the queue is up.

If the queue is full, a request leaves it: one of the lowest class, and in this class of the tenant
with the most queued requests per weight. A tenant whose share is full gets a place only from a
lower class of its own.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Iterator

from scheduler.contract import Request, SloClass
from scheduler.policy import Policy
from scheduler.queue.class_lines import ClassLines, Lines, by_order, put, take
from scheduler.queue.fairness import ServiceCounters
from scheduler.queue.lost_share import LostShare
from scheduler.queue.queued import Due, Queued
from scheduler.queue.room import QueueLimits as QueueLimits
from scheduler.queue.room import QueueRoom

PRIORITY_STEP_S = 1.0
"""Seconds of waiting that one step of `Request.priority` is worth."""
MOST_TENANTS = 16
MOST_SCANNED = 64
"""Bounds of the tenants, and of the requests of each, that one pass goes through."""
MOST_CREDIT_REQUESTS = 4.0
"""Bound of a class's credit, in multiples of its next request."""
PRESSABLE = (SloClass.INTERACTIVE, SloClass.STANDARD)
"""Classes whose requests are pressed. The batch class runs in what is free."""


class ModelQueue:
    """Requests of one model that wait for a place. Sums are updated, not recomputed."""

    def __init__(self, limits: QueueLimits, policy: Policy) -> None:
        self.room = QueueRoom(limits)
        self._policy = policy
        self._classes = {name: ClassLines() for name in SloClass}
        self._by_id: dict[str, Queued] = {}
        self._due: list[tuple[float, Due, str, int]] = []
        self._arrivals = 0
        self.counters = ServiceCounters()
        self._lost = {name: LostShare() for name in PRESSABLE}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Queued]:
        return iter(tuple(self._by_id.values()))

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._by_id

    def __repr__(self) -> str:
        return f"<ModelQueue {len(self)} requests, {self.size_bytes} bytes>"

    def set_limits(self, limits: QueueLimits) -> None:
        """Applies changed bounds; requests that wait already stay."""
        self.room.limits = limits

    @property
    def size_bytes(self) -> int:
        """Bytes of the requests that wait."""
        return self.room.size_bytes

    def has_room(self, request: Request) -> bool:
        """Whether the request fits the bounds."""
        return self.room.fits(request)

    def push(self, queued: Queued) -> None:
        """Adds a request. Raises OverflowError if it does not fit the bounds."""
        request = queued.request
        if not self.has_room(request):
            raise OverflowError(f"{self!r} has no room for {request.request_id}")
        self._arrivals += 1
        queued.order = (self._order_s(request, queued.prefill_s), self._arrivals)
        line = self._classes[request.slo.slo_class]
        if not any(request.tenant in lines for lines in (line.live, line.pressed, line.late)):
            self.counters.tenant_returned(request.tenant, (*line.live, *line.pressed))
        self._enter(queued)
        self._by_id[request.request_id] = queued
        self.room.add(request)
        for due_s, due in self._dues(queued):
            self.schedule(queued, due, due_s)
        if len(self._due) > 6 * len(self._by_id) + 64:
            # Entries of requests that left are dropped here: the heap stays bounded too.
            self._due = [
                (due_s, due, waiting.request.request_id, waiting.order[1])
                for waiting in self._by_id.values()
                for due_s, due in self._dues(waiting)
            ]
            heapq.heapify(self._due)

    def arrived(self, request: Request) -> None:
        """Counts a request of the model, whether it will wait or not."""
        if (lost := self._lost.get(request.slo.slo_class)) is not None:
            lost.arrived()

    def schedule(self, queued: Queued, due: Due, at_s: float) -> None:
        """Schedules an action for a request that waits."""
        heapq.heappush(self._due, (at_s, due, queued.request.request_id, queued.order[1]))

    def remove(self, request_id: str) -> Queued | None:
        """Removes a request from any line and returns it; None if it is not queued."""
        queued = self._by_id.pop(request_id, None)
        if queued is None:
            return None
        self._leave(queued)
        self.room.remove(queued.request)
        return queued

    def credit_lower_classes(self, queued: Queued) -> None:
        """Credits the lower classes that wait with their share of a request that got a place."""
        mine = queued.request.slo.slo_class
        self.counters.tenant_started(queued.request.tenant)
        below = False
        for name, line in self._classes.items():
            if name is mine:
                line.credit_s = max(0.0, line.credit_s - queued.work_s)
                below = True
            elif below and (head := line.head) is not None:
                owed_s = line.credit_s + self._policy.lower_class_share * queued.work_s
                line.credit_s = min(owed_s, MOST_CREDIT_REQUESTS * head.work_s)

    def candidates(self, *, hold_late: bool = False) -> Iterator[tuple[int, Queued]]:
        """Requests for self-hosted placements, in the order in which they are to be tried, each
        with its rank.

        A lower rank goes first, but a class whose credit covers its next request goes before all,
        and pressed requests of all classes go first with the rank of the highest class that waits.
        A request whose time to first token is lost ranks below all others; `hold_late` leaves it
        out. The caller stops when the tries are used up, or at the first request whose rank is
        higher than the rank of an earlier one that competes with it for the same places.
        """
        classes = tuple(enumerate(self._classes.values()))
        for rank, line in classes:
            if line.covered:
                for lines in filter(None, (line.pressed, line.live)):
                    for queued in self._by_tenant(lines):
                        yield rank, queued
        first = min((rank for rank, line in classes if line.head is not None), default=0)
        pressed_upto = len(classes)
        for rank, (name, line) in enumerate(self._classes.items()):
            if line.pressed:
                for queued in self._by_tenant(line.pressed):
                    yield first, queued
            if name in self._lost and self._lost[name].exceeded:
                pressed_upto = rank  # lower classes would go at the expense of this one
                break
        for rank, line in classes:
            for lines in (line.pressed if rank > pressed_upto else {}, line.live):
                if lines:
                    for queued in self._by_tenant(lines):
                        yield rank, queued
        if hold_late:
            return
        for rank, line in enumerate(self._classes.values(), start=len(self._classes)):
            if line.late:
                for queued in self._by_tenant(line.late):
                    yield rank, queued

    def for_remotes(self) -> Iterator[Queued]:
        """Requests that only remotes can take, in the order in which they are to be tried."""
        for line in self._classes.values():
            if line.for_remotes:
                yield from self._by_tenant(line.for_remotes)

    def set_self_hosted(self, queued: Queued, self_hosted: bool) -> None:
        """Records whether a self-hosted placement may take a request that waits."""
        if queued.self_hosted is not self_hosted:
            self._leave(queued)
            queued.self_hosted = self_hosted
            self._enter(queued)

    @property
    def has_late(self) -> bool:
        """Whether a request waits whose time to first token is lost."""
        return any(line.late for line in self._classes.values())

    def overtakes(self, request: Request, slack_nano_usd: float) -> bool:
        """Whether an arrival may be tried before the requests that wait.

        It may pass requests of its own tenant, so that the head of a line blocks no other request.
        It never passes a higher class. It passes another tenant only if its own tenant had at most
        `slack_nano_usd` more service.
        """
        for name, line in self._classes.items():
            if name is request.slo.slo_class:
                tenants = (*line.live, *line.pressed)
                others = [self.counters.served(t) for t in tenants if t != request.tenant]
                if not others:
                    return True
                mine = self.counters.served(request.tenant)
                return mine <= min(others) + slack_nano_usd / request.weight
            if line.head is not None:
                return False
        return True

    def work_s(self, classes: Iterable[SloClass] | None = None) -> float:
        """Predicted work of the requests that wait and are not late; None: of all classes."""
        if classes is not None:
            return sum(self._classes[name].work_s for name in classes)
        work_s = 0.0
        for line in self._classes.values():
            work_s += line.work_s
        return work_s

    def waiting(self, slo_class: SloClass) -> int:
        """Requests of a class that wait."""
        return self._classes[slo_class].count

    def ahead_s(self, request: Request, prefill_s: float) -> float:
        """Predicted work that would be served before this request.

        It is the work of all higher classes, plus a share of the work of its own class: the share
        of its tenant's line that stands before its seat.
        """
        work_s = 0.0
        for name, line in self._classes.items():
            if name is not request.slo.slo_class:
                work_s += line.work_s
                continue
            waiting = line.live.get(request.tenant, ())
            pressed = len(line.pressed.get(request.tenant, ()))
            if waiting or pressed:
                seat = (self._order_s(request, prefill_s), self._arrivals)
                before = pressed + bisect_left(waiting, seat, key=by_order)
                work_s += line.work_s * before / (pressed + len(waiting))
            break
        return work_s

    def displaceable(self, request: Request) -> Queued | None:
        """The request that should leave a full queue for this one; None if none ranks below it.

        No request leaves a queue that a reload has left above its bound, because one that leaves
        does not yet make room. In the same class, a late request leaves, else the last request of
        a tenant with more queued requests.
        """
        if len(self._by_id) > self.room.limits.requests:
            return None
        if not self.room.fits_share(request):
            return self._lower_of_tenant(request)
        for name in reversed(self._classes):
            line = self._classes[name]
            mine = name is request.slo.slo_class
            if line.count:
                lines = line.late or line.for_remotes or line.in_time()
                longest = max(lines.values(), key=lambda w: len(w) / w[0].request.weight)
                own = (len(lines.get(request.tenant, ())) + 1) / request.weight
                if mine and not line.late and own >= len(longest) / longest[0].request.weight:
                    return None
                return longest[-1] if self.room.fits(request, longest[-1].request) else None
            if mine:
                return None
        return None

    def _lower_of_tenant(self, request: Request) -> Queued | None:
        """The last request of the tenant's lowest class below this one, if that makes room."""
        for name in reversed(self._classes):
            if name is request.slo.slo_class:
                return None
            line = self._classes[name]
            for lines in (line.late, line.for_remotes, line.in_time()):
                if waiting := lines.get(request.tenant):
                    fits = self.room.fits(request, waiting[-1].request)
                    return waiting[-1] if fits else None
        return None

    def next_due_s(self) -> float | None:
        """Time of the next due action; None if the queue is empty."""
        while self._due:
            due_s, due, request_id, arrival = self._due[0]
            if self._waits(due, request_id, arrival) is not None:
                return due_s
            heapq.heappop(self._due)
        return None

    def pop_due(self, now: float) -> Iterator[tuple[Due, Queued]]:
        """Actions that are due by `now`, each once. Expired requests leave the queue."""
        while (first_s := self.next_due_s()) is not None and first_s <= now:
            _, due, request_id, arrival = heapq.heappop(self._due)
            queued = self._waits(due, request_id, arrival)
            if queued is None:
                continue
            if due is Due.EXPIRED:
                self.remove(request_id)
            elif due is Due.PRESSED:
                self._press(queued)
            elif due is Due.LATE:
                if (lost := self._lost.get(queued.request.slo.slo_class)) is not None:
                    lost.lost()
                self._leave(queued)
                queued.late = True
                self._enter(queued)
            yield due, queued

    def _order_s(self, request: Request, prefill_s: float) -> float:
        aged_s = request.arrival_s - PRIORITY_STEP_S * request.priority
        return prefill_s + self._policy.ageing * aged_s

    def _by_tenant(self, lines: Lines) -> Iterator[Queued]:
        """The first request of each tenant, least service first, then the second of each, etc."""
        tenants = heapq.nsmallest(MOST_TENANTS, lines, key=self.counters.served)
        waiting = [tuple(lines[tenant][:MOST_SCANNED]) for tenant in tenants]
        for depth in range(max(map(len, waiting))):
            for line in waiting:
                if depth < len(line) and line[depth].request.request_id in self._by_id:
                    yield line[depth]

    def _lines(self, queued: Queued) -> Lines:
        line = self._classes[queued.request.slo.slo_class]
        if not queued.self_hosted:
            return line.for_remotes
        if queued.late and self._policy.shedding:
            return line.late
        return line.pressed if queued.pressed else line.live

    def _press(self, queued: Queued) -> None:
        """Moves a request before those that can wait longer."""
        before = self._lines(queued)
        queued.pressed = True
        after = self._lines(queued)
        if after is not before:
            take(before, queued)
            put(after, queued)

    def _enter(self, queued: Queued) -> None:
        line, lines = self._classes[queued.request.slo.slo_class], self._lines(queued)
        put(lines, queued)
        line.count += 1
        if lines is line.live or lines is line.pressed:
            line.work_s += queued.work_s

    def _leave(self, queued: Queued) -> None:
        line, lines = self._classes[queued.request.slo.slo_class], self._lines(queued)
        take(lines, queued)
        line.count -= 1
        if lines is line.live or lines is line.pressed:
            # Sums of floats drift by rounding; an empty line is exactly empty.
            waits = line.head is not None
            line.work_s = line.work_s - queued.work_s if waits else 0.0
            line.credit_s = line.credit_s if waits else 0.0

    def _dues(self, queued: Queued) -> list[tuple[float, Due]]:
        dues = [(queued.expires_s, Due.EXPIRED)]
        if not queued.late:
            dues += [(queued.last_call_s, Due.LAST_CALL), (queued.late_s, Due.LATE)]
            if queued.spill_s is not None:
                dues.append((queued.spill_s, Due.SPILL))
            if queued.request.slo.slo_class in PRESSABLE:
                may_wait_s = queued.late_s - queued.request.arrival_s
                pressed_s = queued.late_s - self._policy.pressed_share * may_wait_s
                dues.append((pressed_s, Due.PRESSED))
        return dues

    def _waits(self, due: Due, request_id: str, arrival: int) -> Queued | None:
        """The request of a heap entry, if it still waits for the entry's action."""
        queued = self._by_id.get(request_id)
        if queued is None or queued.order[1] != arrival:
            return None
        return None if queued.late and due is not Due.EXPIRED else queued
