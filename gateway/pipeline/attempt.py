"""One attempt: a branch at one placement, from the call of its upstream to its end.

Output without content is held back until the commit point, so that a failure before it can be
mended elsewhere. However an attempt ends, the scheduler is told once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from msgspec import structs

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import Chunk
from gateway.domain.outcomes import AttemptRecord, PartialOutput
from gateway.pipeline.active_request import Branch
from gateway.pipeline.continuation import is_continuable
from gateway.pipeline.upstreams import Upstream
from scheduler.contract import AttemptOutcome, Fault, PlacementKind, Progress, Start
from scheduler.port import AttemptEnd, SchedulerPort, Started

MAX_HELD_CHUNKS = 200
MAX_HELD_LOGPROBS = 10_000
"""Chunks without content, and log-probabilities in them (1 MiB or so), that are kept back before
the commit point; more commit the request."""


_RAN = (AttemptOutcome.CANCELLED, AttemptOutcome.SUPERSEDED, AttemptOutcome.EVICTED)
"""Ends by the gateway's own hand: what ran until then is accounted for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """How reading ended."""

    outcome: AttemptOutcome = AttemptOutcome.CANCELLED
    detail: str = "cancelled"


_OK = _End(outcome=AttemptOutcome.OK, detail="ok")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """Runs attempts. `upstreams`: client of each placement; `on_refused` and `on_silent`: a
    self-hosted placement let no connection in, or brought no token in time."""

    port: SchedulerPort
    upstreams: Mapping[str, Upstream]
    clock: Callable[[], float]
    on_refused: Callable[[str, str], None]
    on_silent: Callable[[str], None]

    async def run(self, branch: Branch, started: Started) -> AsyncGenerator[Chunk, None]:
        """Output of one attempt. If `branch.usage` is None when this returns, the scheduler decides
        on another one. Raises PartialOutput, or the UpstreamFailure that no other placement can
        mend."""
        active, start = branch.active, started.start
        branch.begin(start)
        active.attempts += 1
        started_s = self.clock()
        if active.dispatched_s is None:
            active.dispatched_s = started_s
        end = _End()
        try:
            generation = active.observer.attempt(started, branch.kind, branch.generation)
            if start.dp_rank is not None:
                hints = structs.replace(generation.hints, dp_rank=start.dp_rank)
                generation = structs.replace(generation, hints=hints)
            upstream = self._upstream(start).stream(
                generation, deadline_s=branch.request.deadline_s
            )
            async with aclosing(upstream) as chunks:
                try:
                    async with asyncio.timeout(None) as branch.eviction:
                        held = await self._until_commit(branch, chunks)
                except TimeoutError:
                    if not branch.evicted:
                        raise
                    branch.usage = None
                    _leave_race(branch)
                    end = _End(outcome=AttemptOutcome.EVICTED, detail=f"evicted: {branch.evicted}")
                    return
                finally:
                    branch.eviction = None
                if not branch.committed:
                    end = _OK
                for chunk in held:
                    yield chunk
                held.clear()
                if branch.committed:
                    async for chunk in chunks:
                        if self._observe(branch, chunk):
                            yield chunk
                    end = _OK
        except UpstreamFailure as failure:
            end = self._failed(branch, start, failure)
            if branch.committed:
                partial = active.whole_usage(branch.usage_so_far())
                self._finish(branch, start, end, started_s)
                await branch.settlement()
                raise PartialOutput(failure, partial, branch.settled) from failure
            if end.outcome is not AttemptOutcome.RETRYABLE:
                raise
        finally:
            self._finish(branch, start, end, started_s)

    def report_progress(self, branch: Branch) -> None:
        """Tells the scheduler how many tokens have come."""
        if branch.start is None:
            return
        branch.reported_tokens = branch.output_tokens
        self.port.send(
            Progress(
                request_id=branch.request.request_id,
                attempt=branch.start.attempt,
                output_tokens=branch.output_tokens,
            )
        )

    def _upstream(self, start: Start) -> Upstream:
        upstream = self.upstreams.get(start.placement)
        if upstream is None:
            raise UpstreamFailure(FailureKind.CONNECT, f"{start.placement} has no server any more")
        return upstream

    async def _until_commit(self, branch: Branch, chunks: AsyncIterator[Chunk]) -> list[Chunk]:
        """Reads up to the first content, or to the end where the client gets a whole answer;
        returns what was held back."""
        held: list[Chunk] = []
        held_logprobs = 0
        async for chunk in chunks:
            if not self._observe(branch, chunk):
                continue
            held.append(chunk)
            if branch.active.whole_answer:
                continue
            held_logprobs += _logprobs_in(chunk)
            full = len(held) >= MAX_HELD_CHUNKS or held_logprobs >= MAX_HELD_LOGPROBS
            if full or any(delta.has_content for delta in chunk.deltas):
                branch.committed = True
                break
        return held

    def _observe(self, branch: Branch, chunk: Chunk) -> bool:
        """Takes counts and times from a chunk; returns whether it has output."""
        if chunk.output_tokens > branch.output_tokens:
            branch.output_tokens = chunk.output_tokens
            branch.last_token_s = now = self.clock()
            if branch.first_token_s is None:
                branch.first_token_s = now
                if branch.first_token is not None and not branch.first_token.done():
                    branch.first_token.set_result(None)
                self.report_progress(branch)
        if chunk.usage is not None:
            branch.usage = chunk.usage
        if chunk.model:
            branch.model = chunk.model
        if chunk.response_id:
            branch.response_id = chunk.response_id
        if not chunk.deltas:
            return False
        branch.last = chunk
        observer = branch.active.observer
        if observer.wants_content and branch.start is not None:
            observer.content(branch.start.attempt, chunk)
        return True

    def _failed(self, branch: Branch, start: Start, failure: UpstreamFailure) -> _End:
        branch.usage = None
        branch.failure = branch.last_failure = failure
        remote = start.kind is PlacementKind.REMOTE
        # Remotes differ in what they refuse; for self-hosted engines a bad request is one
        # everywhere.
        mendable = failure.retryable or (remote and failure.kind is FailureKind.BAD_REQUEST)
        if not remote and failure.kind is FailureKind.CONNECT:
            self.on_refused(start.placement, str(failure))
        elif not remote and failure.kind is FailureKind.TIMEOUT:
            self.on_silent(start.placement)
        if branch.committed:
            return _End(outcome=AttemptOutcome.FAILED, detail=str(failure))
        _leave_race(branch)
        if not mendable:
            return _End(outcome=AttemptOutcome.FAILED, detail=str(failure))
        return _End(outcome=AttemptOutcome.RETRYABLE, detail=str(failure))

    def _finish(self, branch: Branch, start: Start, end: _End, started_s: float) -> None:
        """Tells the scheduler, once."""
        if branch.ended is not None:
            return
        active, failure = branch.active, branch.failure
        duration_s = self.clock() - started_s
        outcome, detail = end.outcome, end.detail
        if branch.superseded and outcome is AttemptOutcome.CANCELLED:
            outcome, detail = AttemptOutcome.SUPERSEDED, "another answered first"
        active.records.append(
            AttemptRecord(
                placement=start.placement,
                outcome=detail,
                started_unix_s=time.time() - duration_s,
                duration_s=duration_s,
            )
        )
        usage = branch.usage
        if usage is None and (branch.output_tokens or outcome in _RAN):
            usage = branch.usage_so_far()  # it ran: its prompt, and what came
        branch.ended = AttemptEnd(
            request_id=branch.request.request_id,
            attempt=start.attempt,
            outcome=outcome,
            detail=detail,
            usage=usage,
            reported=branch.usage is not None,
            committed=branch.committed and not branch.superseded,
            goes_on=failure is not None and is_continuable(branch, failure),
            abandoned=branch.abandoned,
            duration_s=duration_s,
            first_token_s=_since(branch.first_token_s, started_s),
            ttft_s=_since(branch.first_token_s, active.request.arrival_s),
            tpot_s=branch.tpot_s(),
            output_tokens=branch.output_tokens,
            fault=_fault(failure, start),
            retry_after_s=failure.retry_after_s if failure else None,
        )
        # The answer to this end is decided within the call, or later.
        branch.decision = asyncio.get_running_loop().create_future()
        active.waiting_since_s = self.clock()
        self.port.send(branch.ended)


def _leave_race(branch: Branch) -> None:
    """The branch has no answer. It is abandoned while another branch may still answer; of branches
    that fail at the same moment, the last one is not."""
    if branch.active.racing > 1:
        branch.active.racing -= 1
        branch.abandoned = True


def _fault(failure: UpstreamFailure | None, start: Start) -> Fault:
    if failure is None:
        return Fault.NONE
    if start.kind is PlacementKind.REMOTE and failure.kind is FailureKind.BAD_REQUEST:
        return Fault.REQUEST
    return failure.fault


def _since(at_s: float | None, started_s: float) -> float | None:
    return None if at_s is None else at_s - started_s


def _logprobs_in(chunk: Chunk) -> int:
    """Log-probabilities of a chunk: all that a piece without content can be large with."""
    return sum(1 + len(entry.top) for delta in chunk.deltas for entry in delta.logprobs)
