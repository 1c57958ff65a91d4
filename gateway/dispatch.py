"""The async shell around the scheduler: performs its actions, tells it what happens.

A request runs in the task of its RPC: cancelling that task cancels its upstream call, and the
`finally` here tells the scheduler. There is no task per request and none per token; one ticker
serves all. Every request that enters leaves the scheduler exactly once, whatever happens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from gateway.accounting.price_book import PriceBook
from gateway.accounting.settlement import SettledAttempt, Sink, settle
from gateway.backends.failures import FailureKind, UpstreamFailure
from gateway.generation import Chunk, Generation, Usage
from gateway.responses import AttemptRecord, Finished
from gateway.trail import UNOBSERVED, AttemptEnd, Trail
from scheduler.core import Scheduler
from scheduler.types import (
    Action,
    AttemptEnded,
    AttemptOutcome,
    Cancelled,
    Dispatch,
    Event,
    Fault,
    PlacementKind,
    Progress,
    Reject,
    Request,
    ServingChanged,
)

PROGRESS_INTERVAL_S = 0.05
"""How often token counts go to the scheduler: a token event each would cost more than it tells."""
MAX_HELD_CHUNKS = 200
MAX_HELD_LOGPROBS = 10_000
"""Chunks without content, and log-probabilities in them (1 MiB or so), that are kept back before
the commit point; more commit the request."""


class Backend(Protocol):
    """What runs a generation at one placement. Raises UpstreamFailure."""

    def stream(self, generation: Generation, *, deadline_s: float) -> AsyncGenerator[Chunk, None]:
        """Chunks as they come; the last one carries the usage."""


class Rejected(Exception):
    """The scheduler refused the request."""

    def __init__(self, reject: Reject) -> None:
        super().__init__(reject.message)
        self.reject = reject


class PartialOutput(Exception):
    """The upstream failed after content was handed over."""

    def __init__(self, failure: UpstreamFailure, usage: Usage) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.usage = usage
        self.settled: SettledAttempt | None = None
        """Its account, once the attempt has ended."""


@dataclass(slots=True, kw_only=True)
class _Flight:
    """A request between submission and end."""

    request: Request
    generation: Generation
    decision: asyncio.Future[Dispatch | Reject]
    book: PriceBook
    trail: Trail
    attempt: int = 0
    output_tokens: int = 0
    reported_tokens: int = 0
    committed: bool = False
    dispatched_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float = 0.0
    usage: Usage | None = None
    model: str = ""
    last: Chunk | None = None
    records: list[AttemptRecord] = field(default_factory=list)
    failure: UpstreamFailure | None = None
    settled: SettledAttempt | None = None
    """The account of its last attempt."""


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
        book: PriceBook,
        sinks: tuple[Sink, ...] = (),
    ) -> None:
        """`book`: prices of requests that come from now on; `sinks` are told of every attempt."""
        self._scheduler = scheduler
        self._backends = backends
        self._clock = clock
        self._on_refused = on_refused
        self._on_silent = on_silent
        self._on_tick = on_tick
        self.book = book
        self._sinks = sinks
        self._pools = {state.facts.name: state.facts.pool for state in scheduler.placements}
        self._flights: dict[str, _Flight] = {}
        self._wake = asyncio.Event()
        self._sleeps_unbounded = False
        self._idle = asyncio.Event()
        self._idle.set()

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
        self._perform(self._scheduler.handle(event, self._clock()))

    async def run(self) -> None:
        """Ticks the scheduler until cancelled: at its wake-ups, and on progress while busy."""
        while True:
            now = self._clock()
            self._on_tick()
            for flight in self._flights.values():
                if flight.output_tokens > flight.reported_tokens:
                    self._report_progress(flight, now)
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
        loop = asyncio.get_running_loop()
        key = request.request_id
        flight = _Flight(
            request=request,
            generation=generation,
            decision=loop.create_future(),
            book=self.book,
            trail=trail,
        )
        waiting_since_s = request.arrival_s
        self._flights[key] = flight
        self._idle.clear()
        try:
            self._perform(self._scheduler.submit(request, self._clock()))
            if self._sleeps_unbounded or not flight.decision.done():
                # The ticker has to learn of the first flight, and of one that waits and can expire.
                self._wake.set()
            while True:
                trail.waits(0 if flight.decision.done() else self._scheduler.queued_requests)
                action = await flight.decision
                trail.decided(action, self._clock() - waiting_since_s)
                if isinstance(action, Reject):
                    last = flight.failure
                    if last is not None and last.fault is Fault.REQUEST:
                        raise last  # what the client can mend, not what ran out
                    raise Rejected(action) from last
                flight.decision = loop.create_future()
                async with aclosing(self._attempt(flight, action, hold)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                if flight.usage is not None and flight.settled is not None:
                    finished = self._finished(flight, action, flight.usage, flight.settled)
                    trail.finished(finished)
                    yield finished
                    return
                waiting_since_s = self._clock()
        except PartialOutput as partial:
            partial.settled = flight.settled
            raise
        finally:
            del self._flights[key]
            if not self._flights:
                self._idle.set()
            # A no-op if the scheduler has seen the end: a refusal, or the last attempt's.
            self.handle(Cancelled(request_id=key))

    async def _attempt(
        self, flight: _Flight, action: Dispatch, hold: bool
    ) -> AsyncGenerator[Chunk, None]:
        """One attempt. Returns without `flight.usage` when another one follows."""
        flight.attempt = action.attempt
        flight.output_tokens = flight.reported_tokens = 0
        flight.first_token_s = flight.last = None
        failed: UpstreamFailure | None = None
        started_s = self._clock()
        if flight.dispatched_s is None:
            flight.dispatched_s = started_s
        held: list[Chunk] = []
        held_logprobs = 0
        outcome, detail = AttemptOutcome.CANCELLED, "cancelled"
        fault, retry_after_s = Fault.NONE, None
        try:
            backend = self._backends[action.placement]
            generation = flight.trail.attempt(action, flight.generation)
            upstream = backend.stream(generation, deadline_s=flight.request.deadline_s)
            async with aclosing(upstream) as chunks:
                async for chunk in chunks:
                    self._note(flight, chunk)
                    if not chunk.deltas:
                        continue
                    flight.last = chunk
                    if flight.trail.wants_content:
                        flight.trail.content(chunk)
                    if not flight.committed:
                        held.append(chunk)
                        held_logprobs += _logprobs_in(chunk)
                        full = len(held) >= MAX_HELD_CHUNKS or held_logprobs >= MAX_HELD_LOGPROBS
                        has_content = any(delta.has_content for delta in chunk.deltas)
                        if hold or not (has_content or full):
                            continue
                        flight.committed = True
                        for early in held:
                            yield early
                        held.clear()
                    else:
                        yield chunk
            outcome, detail = AttemptOutcome.OK, "ok"
            for chunk in held:
                yield chunk
        except UpstreamFailure as failure:
            detail, failed = str(failure), failure
            flight.usage = None
            flight.failure = failure
            retryable = failure.retryable and not flight.committed
            outcome = AttemptOutcome.RETRYABLE if retryable else AttemptOutcome.FAILED
            fault, retry_after_s = failure.fault, failure.retry_after_s
            if action.kind is PlacementKind.REMOTE:
                pass  # nobody looks at a remote: its breaker decides
            elif failure.kind is FailureKind.CONNECT:
                self.handle(
                    ServingChanged(placement=action.placement, serving=False, reason=detail)
                )
                self._on_refused(action.placement)
            elif failure.kind is FailureKind.TIMEOUT:
                self._on_silent(action.placement)
            if flight.committed:
                raise PartialOutput(failure, self._usage_so_far(flight)) from failure
            if not retryable:
                raise
        finally:
            ended_s = self._clock()
            flight.records.append(
                AttemptRecord(
                    placement=action.placement,
                    outcome=detail,
                    started_unix_s=time.time() - (ended_s - started_s),
                    duration_s=ended_s - started_s,
                )
            )
            usage = flight.usage
            settled = self._settle(flight, action, outcome, ended_s - started_s)
            first_s = flight.first_token_s
            flight.trail.ended(
                action,
                AttemptEnd(
                    settled=settled,
                    detail=detail,
                    failure=failed,
                    committed=flight.committed,
                    ttft_s=None if first_s is None else first_s - started_s,
                    tpot_s=_tpot_s(flight),
                    output_tokens=flight.output_tokens,
                    model=flight.model,
                    last=flight.last,
                ),
            )
            self.handle(
                AttemptEnded(
                    request_id=flight.request.request_id,
                    attempt=action.attempt,
                    outcome=outcome,
                    detail=detail,
                    prompt_tokens=usage.prompt_tokens if usage else None,
                    cached_tokens=usage.cached_tokens if usage else None,
                    output_tokens=usage.completion_tokens if usage else None,
                    fault=fault,
                    retry_after_s=retry_after_s,
                )
            )

    def _settle(
        self, flight: _Flight, action: Dispatch, outcome: AttemptOutcome, duration_s: float
    ) -> SettledAttempt:
        """Accounts for an attempt that has ended, and tells the sinks."""
        usage = flight.usage
        if usage is None and (outcome is AttemptOutcome.CANCELLED or flight.output_tokens):
            usage = self._usage_so_far(flight)  # it ran: its prompt, and what came
        now_unix_s = time.time()
        flight.settled = settled = settle(
            flight.request,
            action,
            book=flight.book,
            pool=self._pools[action.placement],
            outcome=outcome,
            handed_over=flight.committed,
            usage=usage,
            metered=None,
            started_unix_s=now_unix_s - duration_s,
            ended_unix_s=now_unix_s,
        )
        for sink in self._sinks:
            sink(settled)
        return settled

    def _note(self, flight: _Flight, chunk: Chunk) -> None:
        """Takes counts and times from a chunk."""
        now = self._clock()
        if chunk.output_tokens > flight.output_tokens:
            flight.output_tokens = chunk.output_tokens
            flight.last_token_s = now
            if flight.first_token_s is None:
                flight.first_token_s = now
                self._report_progress(flight, now)
        if chunk.usage is not None:
            flight.usage = chunk.usage
        if chunk.model:
            flight.model = chunk.model

    def _report_progress(self, flight: _Flight, now: float) -> None:
        flight.reported_tokens = flight.output_tokens
        progress = Progress(
            request_id=flight.request.request_id,
            attempt=flight.attempt,
            output_tokens=flight.output_tokens,
        )
        self._perform(self._scheduler.handle(progress, now))

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            flight = self._flights.get(action.request_id)
            if flight is not None and not flight.decision.done():
                flight.decision.set_result(action)

    @staticmethod
    def _usage_so_far(flight: _Flight) -> Usage:
        return Usage(
            prompt_tokens=flight.request.prompt_tokens,
            completion_tokens=flight.output_tokens,
            estimated=True,
        )

    def _finished(
        self, flight: _Flight, action: Dispatch, usage: Usage, settled: SettledAttempt
    ) -> Finished:
        request, first_s = flight.request, flight.first_token_s
        dispatched_s = request.arrival_s if flight.dispatched_s is None else flight.dispatched_s
        return Finished(
            model=flight.model,
            usage=usage,
            settled=settled,
            kind=action.kind,
            placement=action.placement,
            reason=action.reason,
            attempts=tuple(flight.records),
            queue_s=dispatched_s - request.arrival_s,
            ttft_s=None if first_s is None else first_s - request.arrival_s,
            tpot_s=_tpot_s(flight),
            total_s=self._clock() - request.arrival_s,
        )


def _tpot_s(flight: _Flight) -> float | None:
    """Mean time per output token after the first, of each choice."""
    later_tokens = flight.output_tokens / flight.request.choices - 1
    if flight.first_token_s is None or later_tokens <= 0:
        return None
    return (flight.last_token_s - flight.first_token_s) / later_tokens


def _logprobs_in(chunk: Chunk) -> int:
    """Log-probabilities of a chunk: all that a piece without content can be large with."""
    return sum(1 + len(entry.top) for delta in chunk.deltas for entry in delta.logprobs)
