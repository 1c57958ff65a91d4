"""Tells two other fronts what the leader's own front has, so that a copy outlives this process and
one of them.

See `front_copies.py`. A request is told when it holds money or has had an attempt, again when that
changes, and at last that nothing of it is left to book. A front that keeps a copy keeps it as long
as it is connected: another one would have to be told everything first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gateway.link.front_record import FrontRecord
from gateway.link.key_witness import KEEPS_SINCE_VERSION, Witness
from gateway.link.sent import Changes, SentRequest, request_state
from gateway.link.wire.front_copies import MAX_REQUESTS, PIECE
from gateway.link.wire.messages import Kind
from gateway.link.wire.resume import FrontCopy, RequestState, Standing

COPIES = 2
MAX_CHANGES = 100_000
"""Changes that are gathered while the other front does not read. Beyond, all is told anew."""


class OwnFrontCopy:
    """The copies of one front, in one term."""

    def __init__(
        self, record: FrontRecord, front: str, term: int, clock: Callable[[], float]
    ) -> None:
        """`front`: incarnation of the front. `clock`: monotonic seconds."""
        self.front = front
        self._copies = [_Copy(record, front, term, clock) for _ in range(COPIES)]

    def tick(self, candidates: Iterable[Witness]) -> None:
        """Tells what has changed. `candidates`: fronts of other processes."""
        able = [each for each in candidates if each.version >= KEEPS_SINCE_VERSION]
        free = [each for each in able if all(each is not copy.keeper for copy in self._copies)]
        for copy in self._copies:
            if copy.keeper not in able:
                copy.tell_anew(free.pop(0) if free else None)
            copy.tick()

    def close(self) -> None:
        """The term is over."""
        for copy in self._copies:
            copy.tell_anew(None)


class _Copy:
    """The copy that one front keeps. `keeper`: that front; None: there is none."""

    def __init__(
        self, record: FrontRecord, front: str, term: int, clock: Callable[[], float]
    ) -> None:
        self._record = record
        self._front = front
        self._term = term
        self._clock = clock
        self.keeper: Witness | None = None
        self._changes = Changes()
        self._told: set[int] = set()
        """Requests that the keeper has, by the number of their original branch."""
        self._begins = True

    def tick(self) -> None:
        """Tells what has changed."""
        if self.keeper is None:
            return
        if len(self._changes.requests) > MAX_CHANGES:
            self.tell_anew(self.keeper)
        if not self.keeper.connection.is_congested and (self._begins or self._changes):
            self.keeper.connection.post(Kind.FRONT_COPY, 0, self._part())

    def tell_anew(self, keeper: Witness | None) -> None:
        """All is told to this front from the begin, if there is one."""
        known = self._record.changes
        self._record.changes = [each for each in known if each is not self._changes]
        self.keeper = keeper
        self._told.clear()
        self._changes, self._begins = Changes(), True
        if keeper is not None:
            self._changes.requests.update(self._record.known())
            self._record.changes.append(self._changes)

    def _part(self) -> FrontCopy:
        changes, states, over, now = self._changes, list[RequestState](), list[int](), self._clock()
        while changes.requests and len(states) < PIECE:
            request = changes.requests.pop()
            number = request.branches[0].number
            has_room = number in self._told or len(self._told) < MAX_REQUESTS
            if has_room and self._is_open(request):
                states.append(request_state(request, now, with_blocks=False))
                self._told.add(number)
            elif number in self._told:
                over.append(number)
                self._told.discard(number)
        progress = tuple(
            (branch.number, branch.start.attempt, branch.output_tokens)
            for branch in changes.progress
            if branch.start is not None
            and branch.standing is Standing.RUNNING
            and branch.request.branches[0].number in self._told
        )
        changes.progress.clear()
        begins, self._begins = self._begins, False
        return FrontCopy(
            front=self._front,
            term=self._term,
            begins=begins,
            complete=not changes.requests,
            requests=tuple(states),
            progress=progress,
            over=tuple(over),
        )

    def _is_open(self, request: SentRequest) -> bool:
        original = request.branches[0]
        if not self._record.is_known(request) or original.standing is Standing.WITHDRAWN:
            return False
        return request.admitted and (request.attempts > 0 or request.reservation is not None)
