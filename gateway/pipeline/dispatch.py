"""The async shell around the scheduler: performs its actions, tells it what happens.

A request runs in the task of its RPC: cancelling that task cancels its upstream call, and the
`finally` here tells the scheduler. There is no task per request and none per token; one ticker
serves all. Every request that enters leaves the scheduler exactly once, whatever happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace

from gateway.accounting.attempt_recorder import AttemptRecorder
from gateway.config.remote import FailuresConfig
from gateway.domain.failures import UpstreamFailure
from gateway.domain.generation import Chunk, Generation
from gateway.fleet.drain_filter import DrainFilter
from gateway.pipeline.attempt import Attempts, Backend, PartialOutput
from gateway.pipeline.continuation import continuation, may_be_continued
from gateway.pipeline.flight import Flight, Leg
from gateway.pipeline.hedge import hedged
from gateway.pipeline.trail import UNOBSERVED, Trail
from gateway.translation.responses import Finished
from scheduler.contract import (
    Action,
    Cancelled,
    Event,
    Evict,
    Fault,
    RefusalReason,
    Refuse,
    Request,
    Start,
)
from scheduler.core import Scheduler
from scheduler.limits.retry_budget import RetryBudget, RetryLimits
from scheduler.metering.rate_snapshot import RateSnapshot

PROGRESS_INTERVAL_S = 0.05
"""How often token counts go to the scheduler: a token event each would cost more than it tells."""
HEDGE_RESERVE = 4.0
"""Hedges beyond their share of the requests that a gateway may make when it is new."""


class Rejected(Exception):
    """The scheduler refused the request."""

    def __init__(self, reject: Refuse) -> None:
        super().__init__(reject.message)
        self.reject = reject


class Dispatcher:
    """Runs requests where the scheduler says. `run` must be running."""

    def __init__(
        self,
        scheduler: Scheduler,
        backends: Mapping[str, Backend],
        clock: Callable[[], float],
        *,
        on_refused: Callable[[str], None],
        on_silent: Callable[[str], None],
        on_tick: Callable[[], None],
        accountant: AttemptRecorder,
        failures: FailuresConfig | None = None,
        unable_to_continue: Collection[str] = (),
        gate: DrainFilter | None = None,
    ) -> None:
        """`accountant` follows every attempt; `unable_to_continue`: placements that cannot go on
        with another server's answer; `gate`: which placements an operator has drained."""
        self._scheduler = scheduler
        self._clock = clock
        self._on_tick = on_tick
        self._gate = gate or DrainFilter(frozenset())
        self._accountant = accountant
        self._failures = failures or FailuresConfig()
        self._unable_to_continue = frozenset(unable_to_continue)
        self._hedges = RetryBudget(_hedge_limits(self._failures))
        self._attempts = Attempts(
            backends=backends,
            accountant=accountant,
            clock=clock,
            handle=self.handle,
            on_refused=on_refused,
            on_silent=on_silent,
        )
        self._flights: set[str] = set()
        self._legs: dict[str, Leg] = {}
        self._wake = asyncio.Event()
        self._sleeps_unbounded = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def book(self) -> RateSnapshot:
        """Prices of requests that come from now on."""
        return self._accountant.book

    @book.setter
    def book(self, book: RateSnapshot) -> None:
        self._accountant.book = book

    @property
    def in_flight(self) -> int:
        """Requests that have not ended."""
        return len(self._flights)

    async def until_idle(self) -> None:
        """Waits until no request is in flight."""
        await self._idle.wait()

    def is_in_flight(self, request_id: str) -> bool:
        """Whether a request of this scheduler id has not ended."""
        return request_id in self._flights

    def handle(self, event: Event) -> None:
        """Gives the scheduler an event and performs what it answers."""
        now = self._clock()
        self._accountant.observe(event, now)
        self._perform(self._scheduler.handle(self._gate(event), now))

    async def run(self) -> None:
        """Ticks the scheduler until cancelled: at its wake-ups, and on progress while busy."""
        while True:
            now = self._clock()
            self._on_tick()
            for leg in self._legs.values():
                if leg.output_tokens > leg.reported_tokens:
                    self._attempts.report_progress(leg, now)
            tick = self._scheduler.tick(now)
            self._perform(tick.actions)
            wait_s = PROGRESS_INTERVAL_S if self._flights else None
            if tick.next_wake_s is not None:
                due_s = max(0.0, tick.next_wake_s - now)
                wait_s = due_s if wait_s is None else min(wait_s, due_s)
            self._sleeps_unbounded = wait_s is None
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def stream(
        self,
        request: Request,
        generation: Generation,
        *,
        hold: bool = False,
        trail: Trail = UNOBSERVED,
    ) -> AsyncGenerator[Chunk | Finished, None]:
        """Output of a request, then one `Finished`. `trail` sees what becomes of it.

        Until the first content, a failed attempt is replaced by one on another placement; `hold`
        keeps everything back until the end, so that this holds for the whole answer. Raises
        Rejected, PartialOutput, or the UpstreamFailure that no other placement can mend.
        """
        hedging = self._failures.hedging
        keep_text = self._failures.continue_cut_answers and not hold
        flight = Flight(
            request=request,
            generation=generation,
            book=self.book,
            trail=trail,
            hold=hold,
            text=[] if keep_text and may_be_continued(generation) else None,
        )
        waiting_since_s = request.arrival_s
        self._flights.add(request.request_id)
        self._idle.clear()
        self._hedges.request()
        broken_off: PartialOutput | None = None
        try:
            leg = self._enter(flight, request, generation)
            while True:
                trail.waits(0 if leg.decision.done() else self._scheduler.queued_requests)
                action = await leg.decision
                trail.decided(action, self._clock() - waiting_since_s)
                if isinstance(action, Refuse):
                    raise broken_off or _refusal(leg, action)
                leg.decision = asyncio.get_running_loop().create_future()
                try:
                    if hedging is not None and flight.attempts == 0:
                        race = hedged(self._attempts, leg, action, hedging.after_s, self._rival)
                        async with aclosing(race) as outputs:
                            async for leg, action, chunk in outputs:  # noqa: B007 - read below
                                if chunk is not None:
                                    flight.handed_over(chunk)
                                    yield chunk
                    else:
                        async with aclosing(self._attempts.run(leg, action)) as chunks:
                            async for chunk in chunks:
                                if flight.text is not None:
                                    flight.handed_over(chunk)
                                yield chunk
                except UpstreamFailure as failure:
                    if broken_off is None:
                        raise
                    raise broken_off from failure  # the client has content
                except PartialOutput as partial:
                    partial.settled = leg.settled
                    more = continuation(leg, partial.failure, self._unable_to_continue)
                    if more is None:
                        raise
                    broken_off = partial
                    self._broke_off(leg)
                    leg = self._enter(flight, *more)
                    continue
                finished = leg.finished(action, self._clock())
                if finished is not None:
                    trail.finished(finished)
                    yield finished
                    return
                if leg.given_up and leg.failure is not None:
                    raise leg.failure
                waiting_since_s = self._clock()
        finally:
            for entered in flight.entered:
                del self._legs[entered]
                # A no-op if the scheduler has seen the end: a refusal, or the last attempt's.
                self.handle(Cancelled(request_id=entered))
            self._flights.remove(request.request_id)
            if not self._flights:
                self._idle.set()

    def _enter(self, flight: Flight, request: Request, generation: Generation) -> Leg:
        """A new leg, submitted."""
        leg = Leg(
            flight=flight,
            request=request,
            generation=generation,
            decision=asyncio.get_running_loop().create_future(),
        )
        self._legs[request.request_id] = leg
        flight.entered.append(request.request_id)
        self._perform(self._scheduler.submit(request, self._clock()))
        if self._sleeps_unbounded or not leg.decision.done():
            # The ticker has to learn of the first flight, and of one that waits and can expire.
            self._wake.set()
        return leg

    def _rival(self, leg: Leg, action: Start) -> tuple[Leg, Start] | None:
        """A second leg, if the budget allows one and the scheduler starts it at once elsewhere."""
        if not self._hedges.take(self._clock()):
            return None
        domains = {
            state.facts.name: state.facts.failure_domain for state in self._scheduler.placements
        }
        mine = domains[action.placement]
        alike = {name for name, domain in domains.items() if mine and domain == mine}
        request = leg.request
        rival = replace(
            request,
            request_id=f"{request.request_id}~hedge",
            unsupported_by=request.unsupported_by | alike | {action.placement},
        )
        second = self._enter(leg.flight, rival, leg.generation)
        if second.decision.done():
            decided = second.decision.result()
            if isinstance(decided, Start):
                second.decision = asyncio.get_running_loop().create_future()
                return second, replace(decided, reason=f"hedge: {decided.reason}")
        # To wait for room is no help to a request that waits already.
        self.handle(Cancelled(request_id=rival.request_id))
        return None

    def _broke_off(self, leg: Leg) -> None:
        """The leg's answer is gone on with by another: its account counts into the whole."""
        flight = leg.flight
        if leg.settled is not None:
            flight.broken.append(leg.settled)
        if flight.first_token_s is None:
            flight.first_token_s = leg.first_token_s

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            leg = self._legs.get(action.request_id)
            if leg is None:
                continue
            if isinstance(action, Evict):
                leg.evict(action)
            elif not leg.decision.done():
                leg.decision.set_result(action)


def _refusal(leg: Leg, reject: Refuse) -> Exception:
    """What the client is told: what it can mend, where that is why the attempts ran out."""
    last = leg.failure
    ran_out = reject.reason is RefusalReason.ATTEMPTS_EXHAUSTED
    if last is not None and ran_out and (last.fault is Fault.REQUEST or not last.retryable):
        return last
    rejected = Rejected(reject)
    rejected.__cause__ = last
    return rejected


def _hedge_limits(failures: FailuresConfig) -> RetryLimits:
    share = failures.hedging.share if failures.hedging else 0.0
    return RetryLimits(share=share, reserve=HEDGE_RESERVE, reserve_per_s=0.0)
