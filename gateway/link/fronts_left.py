"""Fronts that were in the process of an earlier leader, and have not come back.

What such a front ran is booked from the copy that another front has kept: at once if the leader's
process is known to have ended, and else after `LEFT_S`, since one that was stopped or cut off
still runs its streams and tells better when it is back. The front is taken over as one that is
lost: what the ledger has is not booked again, running attempts are settled with the tokens that
were told last, and what they held of budgets returns.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gateway.link.front_session import FrontSession
from gateway.link.owned import Bookings, booked_of
from gateway.link.session_resumption import resume
from gateway.link.wire.front_copies import FrontCopies, KeptFront
from gateway.link.wire.messages import Kind, state_with_times
from gateway.link.wire.resume import RequestState, Resumed
from gateway.scheduling.claims import client_id
from gateway.scheduling.in_process_scheduler import InProcessScheduler
from scheduler.limits.idempotency import REMEMBERED_S

log = logging.getLogger(__name__)

LEFT_S = REMEMBERED_S
"""Time for such a front to come back, as long as its idempotency keys stay in use. It holds nothing
here meanwhile."""


class FrontsLeft:
    """The fronts that are missed at one scheduler."""

    def __init__(
        self,
        scheduler: InProcessScheduler,
        *,
        clock: Callable[[], float],
        bookings: Bookings,
        gone_term: int,
        own_front: str,
        forget: Callable[[str], None],
    ) -> None:
        """`clock`: monotonic seconds. `bookings`: the ledger. `gone_term`: the term of the leader
        before, if its process has ended; 0: that is not known. `own_front`: that of this process.
        `forget`: tells all fronts that the copy of a front is needed no more."""
        self._scheduler = scheduler
        self._clock = clock
        self._bookings = bookings
        self._gone_term = gone_term
        self._own_front = own_front
        self._forget = forget
        self._left: dict[str, KeptFront] = {}
        """By incarnation."""
        self._taken: list[tuple[str, FrontSession]] = []
        self._booked: deque[tuple[str, int]] = deque()
        """Fronts that are booked, and the ledger's rows then."""
        self._settling: asyncio.Task[None] | None = None
        self.ended: set[str] = set()
        """Fronts that are known to have ended, and were taken over from a whole copy."""

    def add(self, copies: FrontCopies, present: Callable[[str], bool]) -> None:
        """Another front has told these copies. `present`: whether a front is here."""
        over = {front for front, _ in (*self._taken, *self._booked)}
        for front, kept in copies.fronts.items():
            if front == self._own_front:
                continue  # it is told anew
            if present(front):
                self._forget(front)
            elif front not in over and _rank(kept) >= _rank(self._left.get(front, kept)):
                self._left[front] = kept

    def back(self, front: str) -> None:
        """A front has come back, or never was away: it tells itself what it has."""
        if self._left.pop(front, None) is not None:
            self._forget(front)
        self.end()

    async def take(self) -> None:
        """Takes over those that will not come back. They hold what they held until `end`."""
        now = self._clock()
        for kept in self._due(now):
            front = kept.front
            states = [state_with_times(state, now) for state in kept.states(now)]
            booked = await booked_of(self._bookings, states)
            if self._left.get(front) is not kept:
                continue  # it has come back meanwhile
            del self._left[front]
            session = FrontSession(self._scheduler, _unsent, self._clock, self._bookings)
            told = Resumed(reports=0, slots={})
            resume(session, map(self._with_output, states), told, booked)
            self._taken.append((front, session))
            if kept.complete and kept.term == self._gone_term:
                self.ended.add(front)
            log.info(
                "front %s has ended with its leader, with %d requests, %d of its attempts were"
                " booked already",
                *(front, len(states), len(booked)),
            )

    def end(self) -> None:
        """Books what the fronts ran that are taken over."""
        taken, self._taken = self._taken, []
        for front, session in taken:
            session.lose()
            self._booked.append((front, self._bookings.accepted_rows))

    def tick(self) -> None:
        """Goes on with what is due. To be called when requests are admitted."""
        self.end()
        while self._booked and self._booked[0][1] <= self._bookings.durable_rows:
            self._forget(self._booked.popleft()[0])
        if self._due(self._clock()) and (self._settling is None or self._settling.done()):
            self._settling = asyncio.create_task(self.take())

    def close(self) -> None:
        """The term is over."""
        if self._settling is not None:
            self._settling.cancel()

    def _due(self, now: float) -> list[KeptFront]:
        return [
            kept
            for kept in self._left.values()
            if kept.term == self._gone_term or now - kept.told_s >= LEFT_S
        ]

    def _with_output(self, state: RequestState) -> RequestState:
        """Adds what is known of the request's idempotency key, which is told earlier."""
        submission = state.branches[0].submission
        key = submission.request.key_id, submission.idempotency_key
        use = self._scheduler.claims.key_use(key)
        if use is None or use.request_id != client_id(submission.request):
            return state
        return replace(state, may_have_output=state.may_have_output or use.has_output)


def _rank(kept: KeptFront) -> tuple[bool, float]:
    return kept.complete, kept.told_s


def _unsent(kind: Kind, number: int, payload: Any, *, key: str = "") -> None:
    """There is no front to be told."""
