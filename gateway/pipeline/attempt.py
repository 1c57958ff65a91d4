"""One attempt: a branch at one placement, from the upstream call to its end.

Chunks without content are held back until the commit point, so that another placement can retry a
failure before it. Every attempt is reported to the scheduler exactly once, however it ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from msgspec import structs

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import Chunk, FinishReason
from gateway.domain.outcomes import AttemptRecord, PartialOutput
from gateway.pipeline.active_request import Branch
from gateway.pipeline.continuation import is_continuable
from gateway.pipeline.upstreams import Upstream
from gateway.upstream.deviation_log import DeviationLog
from scheduler.contract import AttemptOutcome, Fault, PlacementKind, Progress, Start
from scheduler.port import AttemptEnd, SchedulerPort, Started

MAX_HELD_CHUNKS = 200
MAX_HELD_LOGPROBS = 10_000
"""Limits on chunks without content, and on their log-probabilities (about 1 MiB), before the commit
point. Exceeding a limit commits the request."""


_RAN = (AttemptOutcome.CANCELLED, AttemptOutcome.SUPERSEDED, AttemptOutcome.EVICTED)
"""Outcomes that the gateway itself causes. Their tokens so far are recorded as usage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """Outcome of reading an upstream's stream."""

    outcome: AttemptOutcome = AttemptOutcome.CANCELLED
    detail: str = "cancelled"


_OK = _End(outcome=AttemptOutcome.OK, detail="ok")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """Runs attempts. `upstreams`: upstream client per placement. `on_refused`: called when a
    self-hosted placement refuses the connection. `on_silent`: called when it times out.
    `on_adapter_missing`: called when it does not have the adapter that a request names.
    `deviations`: log of what answers did not keep to."""

    port: SchedulerPort
    upstreams: Mapping[str, Upstream]
    clock: Callable[[], float]
    on_refused: Callable[[str, str], None]
    on_silent: Callable[[str], None]
    on_adapter_missing: Callable[[str], None]
    deviations: DeviationLog

    async def run(self, branch: Branch, started: Started) -> AsyncGenerator[Chunk, None]:
        """Yields the output of one attempt.

        If `branch.usage` is None when the generator returns, the scheduler decides about another
        attempt. Raises PartialOutput, or an UpstreamFailure that no other placement can fix.
        """
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
                    _require_usage(branch)
                    if start.compare and _is_empty(branch, held):
                        raise UpstreamFailure(FailureKind.EMPTY, "the answer has no output")
                    end = _OK
                for chunk in held:
                    yield chunk
                held.clear()
                if branch.committed:
                    async for chunk in chunks:
                        if self._observe(branch, chunk):
                            yield chunk
                    _require_usage(branch)
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
        """Sends the number of output tokens so far to the scheduler."""
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
        """Reads up to the first content, or up to the end if the client wants a whole answer.
        Returns the chunks read."""
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
        """Updates counts and times from a chunk. Returns whether the chunk has output."""
        if chunk.output_tokens > branch.output_tokens:
            branch.output_tokens = chunk.output_tokens
            before_s, now = branch.last_token_s, self.clock()
            branch.last_token_s = now
            if branch.first_token_s is not None:
                branch.longest_gap_s = max(branch.longest_gap_s or 0.0, now - before_s)
            else:
                branch.first_token_s = now
                if branch.first_token is not None and not branch.first_token.done():
                    branch.first_token.set_result(None)
                self.report_progress(branch)
        if chunk.usage is not None:
            branch.usage, branch.engine = chunk.usage, chunk.engine
            branch.missing_choices, branch.deviations = chunk.missing_choices, chunk.deviations
            if chunk.deviations and branch.start is not None:
                self.deviations.record(branch.start.placement, chunk.deviations)
        if chunk.model:
            branch.model = chunk.model
        if chunk.response_id:
            branch.response_id = chunk.response_id
        if not chunk.deltas and chunk.pooled is None:
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
        # Remotes differ in the requests they accept. Self-hosted engines of one model all reject
        # the same requests, unless one is misconfigured: the scheduler says when to compare.
        compares = remote or start.compare
        mendable = failure.retryable or (compares and failure.kind is FailureKind.BAD_REQUEST)
        if not remote and failure.kind is FailureKind.CONNECT:
            self.on_refused(start.placement, str(failure))
        elif not remote and failure.kind is FailureKind.TIMEOUT:
            self.on_silent(start.placement)
        elif failure.kind is FailureKind.ADAPTER_NOT_FOUND:
            self.on_adapter_missing(start.placement)
        if branch.committed:
            return _End(outcome=AttemptOutcome.FAILED, detail=str(failure))
        _leave_race(branch)
        if not mendable:
            return _End(outcome=AttemptOutcome.FAILED, detail=str(failure))
        return _End(outcome=AttemptOutcome.RETRYABLE, detail=str(failure))

    def _finish(self, branch: Branch, start: Start, end: _End, started_s: float) -> None:
        """Reports the end of the attempt to the scheduler, once."""
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
            usage = branch.usage_so_far()  # the prompt and the output so far
        branch.ended = AttemptEnd(
            request_id=branch.request.request_id,
            attempt=start.attempt,
            outcome=outcome,
            detail=detail,
            usage=usage,
            reported=branch.usage is not None,
            committed=branch.committed and not branch.superseded,
            may_be_continued=failure is not None and is_continuable(branch, failure),
            abandoned=branch.abandoned,
            duration_s=duration_s,
            first_token_s=_since(branch.first_token_s, started_s),
            ttft_s=_since(branch.first_token_s, active.request.arrival_s),
            tpot_s=branch.tpot_s(),
            output_tokens=branch.output_tokens,
            fault=Fault.NONE if failure is None else failure.fault,
            retry_after_s=failure.retry_after_s if failure else None,
            engine=branch.engine,
        )
        # The scheduler may answer within this call or later.
        branch.decision = asyncio.get_running_loop().create_future()
        active.waiting_since_s = self.clock()
        self.port.send(branch.ended)


def _leave_race(branch: Branch) -> None:
    """Removes a failed branch from a race and marks it abandoned. The last remaining branch is not
    marked, so the scheduler may retry it."""
    if branch.active.racing > 1:
        branch.active.racing -= 1
        branch.abandoned = True


def _require_usage(branch: Branch) -> None:
    """Raises UpstreamFailure if the upstream ended its answer without usage: without it the request
    would wait for a decision that never comes."""
    if branch.usage is None:
        raise UpstreamFailure(FailureKind.PROTOCOL, "the answer ended without usage")


def _is_empty(branch: Branch, held: list[Chunk]) -> bool:
    """Whether an answer that ended has neither output nor tokens of it. A provider's content filter
    may leave nothing."""
    assert branch.usage is not None
    if any(chunk.pooled is not None for chunk in held):
        return False
    return branch.usage.completion_tokens == 0 and not any(
        delta.has_content or delta.finish_reason is FinishReason.CONTENT_FILTER
        for chunk in held
        for delta in chunk.deltas
    )


def _since(at_s: float | None, started_s: float) -> float | None:
    return None if at_s is None else at_s - started_s


def _logprobs_in(chunk: Chunk) -> int:
    """Counts the log-probabilities of a chunk, the only large part of a chunk without content."""
    return sum(1 + len(entry.top) for delta in chunk.deltas for entry in delta.logprobs)
