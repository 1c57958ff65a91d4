"""One attempt: a leg at one placement, from the call to the account of it.

Output without content is held back until the commit point, so that a failure before it can be
mended elsewhere. However an attempt ends, it is recorded, settled and told to the scheduler once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

from msgspec import structs

from gateway.accounting.attempt_recorder import AttemptRecorder, AttemptResult, OpenAttempt
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import Chunk, Generation
from gateway.pipeline.continuation import is_continuable
from gateway.pipeline.flight import Leg
from gateway.pipeline.trail import AttemptEnd
from gateway.translation.responses import AttemptRecord
from scheduler.contract import (
    AttemptEnded,
    AttemptOutcome,
    Event,
    Fault,
    PlacementKind,
    Progress,
    ServingChanged,
    Start,
    Usage,
)
from scheduler.metering.settlement import SettledAttempt

MAX_HELD_CHUNKS = 200
MAX_HELD_LOGPROBS = 10_000
"""Chunks without content, and log-probabilities in them (1 MiB or so), that are kept back before
the commit point; more commit the request."""


class Backend(Protocol):
    """What runs a generation at one placement. Raises UpstreamFailure."""

    def stream(self, generation: Generation, *, deadline_s: float) -> AsyncGenerator[Chunk, None]:
        """Chunks as they come; the last one carries the usage."""


_RAN = (AttemptOutcome.CANCELLED, AttemptOutcome.SUPERSEDED, AttemptOutcome.EVICTED)
"""Ends by the gateway's own hand: what ran until then is accounted for."""


class PartialOutput(Exception):
    """The upstream failed after content was handed over."""

    def __init__(self, failure: UpstreamFailure, usage: Usage) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.usage = usage
        self.settled: SettledAttempt | None = None
        """Its account, once the attempt has ended."""


@dataclass(slots=True, kw_only=True)
class Ending:
    """How an attempt ended. `told`: the outcome that the scheduler is told, if another one."""

    outcome: AttemptOutcome = AttemptOutcome.CANCELLED
    detail: str = "cancelled"
    failure: UpstreamFailure | None = None
    told: AttemptOutcome | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """Runs attempts. `handle` gives the scheduler an event; `accountant` follows every attempt;
    `on_refused` and `on_silent`: an own placement let no connection in, or brought no token in
    time."""

    backends: Mapping[str, Backend]
    accountant: AttemptRecorder
    clock: Callable[[], float]
    handle: Callable[[Event], None]
    on_refused: Callable[[str], None]
    on_silent: Callable[[str], None]

    async def run(self, leg: Leg, action: Start) -> AsyncGenerator[Chunk, None]:
        """Output of one attempt. Without `leg.usage` at the end another one follows.

        Raises PartialOutput, or the UpstreamFailure that no other placement can mend.
        """
        flight = leg.flight
        leg.begin(action)
        flight.attempts += 1
        # Numbered through the flight, as the accounts know it.
        known = action
        if action.attempt != flight.attempts:
            known = replace(action, attempt=flight.attempts)
        started_s = self.clock()
        if flight.dispatched_s is None:
            flight.dispatched_s = started_s
        account = self.accountant.begin(flight.request, known, flight.book, started_s)
        leg.account = account
        held: list[Chunk] = []
        held_logprobs = 0
        ending = Ending()
        try:
            generation = flight.trail.attempt(known, leg.generation)
            if action.dp_rank is not None:
                hints = structs.replace(generation.hints, dp_rank=action.dp_rank)
                generation = structs.replace(generation, hints=hints)
            upstream = self.backends[action.placement].stream(
                generation, deadline_s=leg.request.deadline_s
            )
            async with aclosing(upstream) as chunks:
                async for chunk in chunks:
                    self._note(leg, chunk)
                    if not chunk.deltas:
                        continue
                    leg.last = chunk
                    if flight.trail.wants_content:
                        flight.trail.content(known.attempt, chunk)
                    if leg.committed:
                        yield chunk
                        continue
                    held.append(chunk)
                    if flight.hold:
                        continue
                    held_logprobs += _logprobs_in(chunk)
                    full = len(held) >= MAX_HELD_CHUNKS or held_logprobs >= MAX_HELD_LOGPROBS
                    if not full and not any(delta.has_content for delta in chunk.deltas):
                        continue
                    leg.committed, leg.reader = True, None
                    for early in held:
                        yield early
                    held.clear()
            leg.reader = None
            ending = Ending(outcome=AttemptOutcome.OK, detail="ok")
            for chunk in held:
                yield chunk
        except asyncio.CancelledError:
            if not leg.evicted or leg.reader is None or leg.reader.uncancel():
                raise  # the client has gone, too
            leg.usage = None
            ending = Ending(outcome=AttemptOutcome.EVICTED, detail=f"evicted: {leg.evicted}")
        except UpstreamFailure as failure:
            ending = self._failed(leg, action, failure)
            if leg.committed:
                raise PartialOutput(failure, flight.whole(leg.usage_so_far())) from failure
            if ending.outcome is not AttemptOutcome.RETRYABLE:
                raise
        finally:
            leg.reader = None
            self._end(leg, account, action, known, ending, started_s)

    def report_progress(self, leg: Leg, now: float) -> None:
        """Tells the scheduler and the meter how many tokens have come."""
        leg.reported_tokens = leg.output_tokens
        if leg.account is not None:
            leg.account.progress(leg.output_tokens, now)
        self.handle(
            Progress(
                request_id=leg.request.request_id,
                attempt=leg.attempt,
                output_tokens=leg.output_tokens,
            )
        )

    def _note(self, leg: Leg, chunk: Chunk) -> None:
        """Takes counts and times from a chunk."""
        if chunk.output_tokens > leg.output_tokens:
            leg.output_tokens = chunk.output_tokens
            leg.last_token_s = now = self.clock()
            if leg.first_token_s is None:
                leg.first_token_s = now
                if leg.first_token is not None and not leg.first_token.done():
                    leg.first_token.set_result(None)
                self.report_progress(leg, now)
        if chunk.usage is not None:
            leg.usage = chunk.usage
        if chunk.model:
            leg.model = chunk.model
        if chunk.response_id:
            leg.response_id = chunk.response_id

    def _failed(self, leg: Leg, action: Start, failure: UpstreamFailure) -> Ending:
        leg.usage = None
        leg.failure = failure
        remote = action.kind is PlacementKind.REMOTE
        # Remotes differ in what they refuse; for the own engines a bad request is one everywhere.
        mendable = failure.retryable or (remote and failure.kind is FailureKind.BAD_REQUEST)
        if not remote and failure.kind is FailureKind.CONNECT:
            reason = str(failure)
            self.handle(ServingChanged(placement=action.placement, serving=False, reason=reason))
            self.on_refused(action.placement)
        elif not remote and failure.kind is FailureKind.TIMEOUT:
            self.on_silent(action.placement)
        if leg.committed or not mendable:
            return Ending(outcome=AttemptOutcome.FAILED, detail=str(failure), failure=failure)
        leg.given_up = leg.flight.racing > 1  # the other leg may still answer
        return Ending(
            outcome=AttemptOutcome.RETRYABLE,
            detail=str(failure),
            failure=failure,
            told=AttemptOutcome.FAILED if leg.given_up else None,
        )

    def _end(
        self,
        leg: Leg,
        account: OpenAttempt,
        action: Start,
        known: Start,
        ending: Ending,
        started_s: float,
    ) -> None:
        flight, failure = leg.flight, ending.failure
        now = self.clock()
        duration_s = now - started_s
        if leg.superseded and ending.outcome is AttemptOutcome.CANCELLED:
            ending = Ending(outcome=AttemptOutcome.SUPERSEDED, detail="another answered first")
        ended_unix_s = time.time()
        flight.records.append(
            AttemptRecord(
                placement=action.placement,
                outcome=ending.detail,
                started_unix_s=ended_unix_s - duration_s,
                duration_s=duration_s,
            )
        )
        usage = told = leg.usage
        if usage is None and (leg.output_tokens or ending.outcome in _RAN):
            usage = leg.usage_so_far()  # it ran: its prompt, and what came
        result = AttemptResult(
            outcome=ending.outcome,
            handed_over=leg.committed and not leg.superseded,
            usage=usage,
            duration_s=duration_s,
            ttft_s=_since(leg.first_token_s, flight.request.arrival_s),
            tpot_s=leg.tpot_s(),
            goes_on=failure is not None and is_continuable(leg, failure),
        )
        leg.settled = settled = account.end(result, now)
        flight.trail.ended(
            known,
            AttemptEnd(
                settled=settled,
                detail=ending.detail,
                failure=failure,
                committed=leg.committed,
                ttft_s=_since(leg.first_token_s, started_s),
                tpot_s=leg.tpot_s(),
                output_tokens=leg.output_tokens,
                model=leg.model,
                response_id=leg.response_id,
                last=leg.last,
            ),
        )
        self.handle(
            AttemptEnded(
                request_id=leg.request.request_id,
                attempt=action.attempt,
                outcome=ending.told or ending.outcome,
                detail=ending.detail,
                prompt_tokens=told.prompt_tokens if told else None,
                cached_tokens=told.cached_tokens if told else None,
                output_tokens=told.completion_tokens if told else None,
                fault=_fault(failure, action),
                retry_after_s=failure.retry_after_s if failure else None,
            )
        )


def _fault(failure: UpstreamFailure | None, action: Start) -> Fault:
    if failure is None:
        return Fault.NONE
    if action.kind is PlacementKind.REMOTE and failure.kind is FailureKind.BAD_REQUEST:
        return Fault.REQUEST
    return failure.fault


def _since(at_s: float | None, started_s: float) -> float | None:
    return None if at_s is None else at_s - started_s


def _logprobs_in(chunk: Chunk) -> int:
    """Log-probabilities of a chunk: all that a piece without content can be large with."""
    return sum(1 + len(entry.top) for delta in chunk.deltas for entry in delta.logprobs)
