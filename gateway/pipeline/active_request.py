"""A client's request that has not ended, and its branches.

An active request is what the client asked for. A branch is one request to the scheduler on its
behalf: the original, a hedge beside it, or the continuation of an answer that broke off. Each
branch runs one attempt at a time.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from gateway.domain.failures import UpstreamFailure
from gateway.domain.generation import Chunk, Generation
from gateway.domain.outcomes import AttemptRecord, Finished
from gateway.pipeline.observer import AttemptAnswer, RequestObserver
from scheduler.contract import Evict, Refuse, Request, Start, Usage
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
"""Of an answer that may have to be continued; a longer one is not."""


@dataclass(slots=True, kw_only=True, eq=False)
class ActiveRequest:
    """What the client asked for. `whole_answer`: nothing is handed over before the end.

    Attributes:
        attempts: attempts that began, over all branches.
        racing: branches that run at the same time and may still answer.
        waiting_since_s: since when it waits for a decision, if it does.
        text: what was handed over, while all of it is plain text and may be continued; None: it
            may not be.
        broken: accounts of attempts whose output the client has and that broke off.
        seen_tokens: prompt and output tokens so far, as they count for the key's limits.
        unsupported: fields that a placement does not honour, by placement.
        admitted: the scheduler holds its claims until `RequestEnded`.
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

    def record_output(self, chunk: Chunk) -> None:
        """Output went to the client."""
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
        """The branch's answer broke off, and another one continues it."""
        if branch.settled is not None:
            self.broken.append(branch.settled)
        if self.first_token_s is None:
            self.first_token_s = branch.first_token_s

    def whole_usage(self, usage: Usage) -> Usage:
        """Usage of the answer as the client has it: of parts that broke off, and of the last."""
        parts = [settled.usage for settled in self.broken if settled.usage is not None]
        if not parts:
            return usage
        # A continuation reads what came before it: that is no prompt of the client's.
        return replace(
            usage,
            prompt_tokens=parts[0].prompt_tokens,
            cached_tokens=parts[0].cached_tokens,
            cache_write_tokens=0,
            long_cache_write_tokens=0,
            completion_tokens=usage.completion_tokens + sum(p.completion_tokens for p in parts),
            estimated=usage.estimated or any(part.estimated for part in parts),
        )


@dataclass(slots=True, kw_only=True, eq=False)
class Branch:
    """A branch, and its attempt that runs or ran last.

    Attributes:
        decision: the scheduler's answer to its submission, or to the end of its last attempt.
        committed: output of it was handed over.
        superseded: another branch answered first.
        abandoned: it failed, or was evicted, while another branch ran: the scheduler does not
            retry it.
        first_token: resolved at the first token, where somebody waits for it.
        eviction: while the attempt may be taken back: the scope that reads its upstream.
        evicted: why the attempt is taken back; empty: it is not.
        settled: the account of its attempt, once the scheduler has settled it.
        settling: resolved by the settlement, where somebody waits for it.
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
    usage: Usage | None = None
    model: str = ""
    response_id: str = ""
    last: Chunk | None = None
    eviction: asyncio.Timeout | None = None
    evicted: str = ""
    failure: UpstreamFailure | None = None
    """Of its attempt that runs or ran last; `last_failure`: of any."""
    last_failure: UpstreamFailure | None = None
    ended: AttemptEnd | None = None
    settled: SettledAttempt | None = None
    settling: asyncio.Future[None] | None = None

    def deliver(self, answer: Answer) -> None:
        """Takes an answer of the scheduler."""
        match answer:
            case Started() | Refuse() | CountPrompt():
                if not self.decision.done():
                    self.decision.set_result(answer)
            case Waiting():
                self.active.observer.queued(answer.position)
            case Evict():
                self._evict(answer)
            case Settled():
                self.settled = answer.account
                if self.settling is not None and not self.settling.done():
                    self.settling.set_result(None)
                if self.start is not None and self.ended is not None:
                    self.active.observer.attempt_ended(
                        self.start, self.ended, self._answer(), answer.account
                    )

    async def settlement(self) -> None:
        """Waits for the account of the attempt that has ended. In one process it is there."""
        if self.settled is None:
            self.settling = asyncio.get_running_loop().create_future()
            await self.settling

    def begin(self, start: Start) -> None:
        """A new attempt begins."""
        self.start = start
        self.output_tokens = self.reported_tokens = 0
        self.first_token_s = self.last = self.usage = self.ended = self.settled = None
        self.response_id = self.evicted = ""
        self.failure = None

    def usage_so_far(self) -> Usage:
        """What its attempt has read and written, as far as is known."""
        return Usage(
            prompt_tokens=self.request.prompt_tokens,
            completion_tokens=self.output_tokens,
            estimated=True,
        )

    def tpot_s(self) -> float | None:
        """Mean time per output token after the first, of each choice."""
        later_tokens = self.output_tokens / self.request.choices - 1
        if self.first_token_s is None or later_tokens <= 0:
            return None
        return (self.last_token_s - self.first_token_s) / later_tokens

    def finished(self, now: float) -> Finished | None:
        """The account of the request; None: the branch's attempt did not end well."""
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
            total_s=now - arrival_s,
        )

    def _evict(self, evict: Evict) -> None:
        """Takes its attempt back, unless it is another one by now or output was handed over."""
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
        )
