"""A client's request in progress, and its branches.

An active request is one request of a client. A branch is one request to the scheduler on its
behalf: the original, a hedge that runs beside it, or the continuation of an answer that broke off.
Each branch runs one attempt at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec import structs

from gateway.domain.failures import UpstreamFailure
from gateway.domain.generation import Chunk, Deviation, Generation
from gateway.domain.outcomes import AttemptRecord, Finished
from gateway.pipeline.observer import AttemptAnswer, RequestObserver
from scheduler.contract import Evict, Refuse, Request, Start, Usage
from scheduler.engine_steps import EngineTimes
from scheduler.metering.settlement import SettledAttempt
from scheduler.port import (
    Answer,
    AttemptEnd,
    BranchKind,
    CountPrompt,
    Settled,
    Started,
    Waiting,
)

MAX_KEPT_CHARS = 1 << 20
"""Longest answer, in characters, that is kept for a continuation. A longer answer cannot be
continued."""


@dataclass(slots=True, kw_only=True, eq=False)
class ActiveRequest:
    """State of one client request.

    Attributes:
        whole_answer: no output is sent before the answer is complete.
        attempts: number of attempts started, over all branches.
        racing: number of branches that run at the same time and may still answer.
        waiting_since_s: start of the current wait for a decision, on the pipeline's clock.
        dispatched_s: start of the first attempt; None: not started.
        text: text sent to the client so far; None: the answer cannot be continued.
        broken: settled attempts that broke off after the client had received output.
        seen_tokens: prompt and output tokens so far, as counted for the key's limits.
        unsupported: unsupported request fields, keyed by placement.
        admitted: the scheduler holds the request's claims until `RequestEnded`.
        on_start: see `GenerateCall`.
    """

    request: Request
    generation: Generation
    observer: RequestObserver
    whole_answer: bool
    attempts: int = 0
    racing: int = 1
    waiting_since_s: float = 0.0
    dispatched_s: float | None = None
    first_token_s: float | None = None
    records: list[AttemptRecord] = field(default_factory=list)
    text: list[str] | None = None
    text_chars: int = 0
    broken: list[SettledAttempt] = field(default_factory=list)
    branches: list[Branch] = field(default_factory=list)
    seen_tokens: int = 0
    unsupported: dict[str, tuple[str, ...]] = field(default_factory=dict)
    admitted: bool = False
    on_start: Callable[[Start], None] | None = None

    def record_output(self, chunk: Chunk) -> None:
        """Records a chunk that was sent to the client."""
        if self.text is None:
            return
        for delta in chunk.deltas:
            if delta.reasoning_text or delta.tool_calls or delta.logprobs or delta.finish_reason:
                self.text = None
                return
            self.text.append(delta.text)
            self.text_chars += len(delta.text)
        if self.text_chars > MAX_KEPT_CHARS:
            self.text = None

    def record_broken(self, branch: Branch) -> None:
        """Records that the branch's answer broke off and another branch continues it."""
        if branch.settled is not None:
            self.broken.append(branch.settled)
        if self.first_token_s is None:
            self.first_token_s = branch.first_token_s

    def whole_usage(self, usage: Usage) -> Usage:
        """Returns the usage of the whole answer: `usage` of the last attempt plus the attempts that
        broke off."""
        parts = [settled.usage for settled in self.broken if settled.usage is not None]
        if not parts:
            return usage
        # A continuation's prompt includes the earlier output, which the client did not send.
        return structs.replace(
            usage,
            prompt_tokens=parts[0].prompt_tokens,
            cached_tokens=parts[0].cached_tokens,
            cache_write_tokens=parts[0].cache_write_tokens,
            long_cache_write_tokens=parts[0].long_cache_write_tokens,
            completion_tokens=usage.completion_tokens + sum(p.completion_tokens for p in parts),
            estimated=usage.estimated or any(part.estimated for part in parts),
        )


@dataclass(slots=True, kw_only=True, eq=False)
class Branch:
    """One branch, and its current or most recent attempt.

    Attributes:
        decision: resolved with the scheduler's answer to the submission or to the last attempt's
            end.
        committed: the client has received output of the branch.
        superseded: another branch answered first.
        abandoned: the attempt failed or was evicted while another branch ran. The scheduler does
            not retry it.
        first_token: resolved at the first token; None: no hedging.
        eviction: timeout scope of the upstream read; None: the attempt cannot be evicted now.
        evicted: reason of the eviction; empty: not evicted.
        missing_choices, deviations: see `Chunk`.
        failure: failure of the current or most recent attempt; None: none.
        last_failure: most recent failure of any attempt of the branch; None: none.
        settled: cost of the attempt; None: the scheduler has not settled it yet.
        settling: resolved by the settlement; None: no coroutine waits for it.
    """

    active: ActiveRequest
    kind: BranchKind
    request: Request
    generation: Generation
    decision: asyncio.Future[Started | Refuse | CountPrompt]
    start: Start | None = None
    output_tokens: int = 0
    reported_tokens: int = 0
    committed: bool = False
    superseded: bool = False
    abandoned: bool = False
    first_token_s: float | None = None
    first_token: asyncio.Future[None] | None = None
    last_token_s: float = 0.0
    longest_gap_s: float | None = None
    usage: Usage | None = None
    engine: EngineTimes | None = None
    model: str = ""
    response_id: str = ""
    last: Chunk | None = None
    missing_choices: int = 0
    deviations: tuple[Deviation, ...] = ()
    eviction: asyncio.Timeout | None = None
    evicted: str = ""
    failure: UpstreamFailure | None = None
    last_failure: UpstreamFailure | None = None
    ended: AttemptEnd | None = None
    settled: SettledAttempt | None = None
    settling: asyncio.Future[None] | None = None

    def deliver(self, answer: Answer) -> None:
        """Handles one answer of the scheduler."""
        match answer:
            case Started() | Refuse() | CountPrompt():
                if not self.decision.done():
                    self.decision.set_result(answer)
            case Waiting():
                self.active.observer.queued(answer.position)
            case Evict():
                self._evict(answer)
            case Settled():
                self.settled = answer.attempt
                if self.settling is not None and not self.settling.done():
                    self.settling.set_result(None)
                if self.start is not None and self.ended is not None:
                    self.active.observer.attempt_ended(
                        self.start, self.ended, self._answer(), answer.attempt
                    )

    async def settlement(self) -> None:
        """Waits until the scheduler has settled the ended attempt. A scheduler in the same process
        has settled it already."""
        if self.settled is None:
            self.settling = asyncio.get_running_loop().create_future()
            await self.settling

    def begin(self, start: Start) -> None:
        """Resets the per-attempt state for a new attempt."""
        self.start = start
        self.output_tokens = self.reported_tokens = 0
        self.longest_gap_s = None
        self.first_token_s = self.last = self.usage = self.ended = self.settled = None
        self.engine = None
        self.response_id = self.evicted = ""
        self.missing_choices, self.deviations = 0, ()
        self.failure = None

    def usage_so_far(self) -> Usage:
        """Returns the estimated usage of the current attempt."""
        return Usage(
            prompt_tokens=self.request.prompt_tokens,
            completion_tokens=self.output_tokens,
            estimated=True,
        )

    def tpot_s(self) -> float | None:
        """Returns the mean seconds per output token after the first, within one choice; None:
        unknown."""
        later_tokens = self.output_tokens / self.request.choices - 1
        if self.first_token_s is None or later_tokens <= 0:
            return None
        return (self.last_token_s - self.first_token_s) / later_tokens

    def finished(self, now: float) -> Finished | None:
        """Returns the summary of the request; None if the attempt did not succeed."""
        if self.usage is None or self.settled is None or self.start is None:
            return None
        active, arrival_s, start = self.active, self.active.request.arrival_s, self.start
        first_s = self.first_token_s if active.first_token_s is None else active.first_token_s
        dispatched_s = arrival_s if active.dispatched_s is None else active.dispatched_s
        return Finished(
            model=self.model,
            usage=active.whole_usage(self.usage),
            settled=self.settled,
            broken=tuple(active.broken),
            kind=start.kind,
            placement=start.placement,
            pool=start.pool,
            replica=start.replica,
            reason=start.reason,
            attempts=tuple(active.records),
            queue_s=dispatched_s - arrival_s,
            ttft_s=None if first_s is None else first_s - arrival_s,
            tpot_s=self.tpot_s(),
            longest_gap_s=self.longest_gap_s,
            total_s=now - arrival_s,
            missing_choices=self.missing_choices,
            dp_rank=start.dp_rank,
        )

    def _evict(self, evict: Evict) -> None:
        """Cancels the upstream read, unless another attempt is running or output was already
        sent."""
        if self.eviction is None or self.start is None or self.evicted:
            return
        if self.start.attempt == evict.attempt:
            self.evicted = evict.reason
            self.eviction.reschedule(asyncio.get_running_loop().time())

    def _answer(self) -> AttemptAnswer:
        return AttemptAnswer(
            failure=self.failure,
            model=self.model,
            response_id=self.response_id,
            last=self.last,
            deviations=self.deviations,
        )
