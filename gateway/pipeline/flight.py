"""A request between submission and end, as the shell keeps it.

A flight is what the client asked for. A leg is one request to the scheduler on its behalf: the
first one, a hedge beside it, or the continuation of an answer that broke off. Each leg has one
attempt at a time; attempts are numbered through the whole flight.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from gateway.accounting.attempt_recorder import OpenAttempt
from gateway.domain.failures import UpstreamFailure
from gateway.domain.generation import Chunk, Generation
from gateway.pipeline.trail import Trail
from gateway.translation.responses import AttemptRecord, Finished
from scheduler.contract import Evict, Refuse, Request, Start, Usage
from scheduler.metering.rate_snapshot import RateSnapshot
from scheduler.metering.settlement import SettledAttempt

MAX_KEPT_CHARS = 1 << 20
"""Of an answer that may have to be gone on with; a longer one is not."""


@dataclass(slots=True, kw_only=True)
class Flight:
    """What the client asked for. `hold`: nothing is handed over before the end.

    `text`: what was handed over, while all of it is plain text and may be gone on with; None: it
    may not. `broken`: accounts of attempts whose output the client has and that broke off.
    """

    request: Request
    generation: Generation
    book: RateSnapshot
    trail: Trail
    hold: bool
    attempts: int = 0
    racing: int = 0
    """Legs that run at the same time."""
    dispatched_s: float | None = None
    first_token_s: float | None = None
    records: list[AttemptRecord] = field(default_factory=list)
    text: list[str] | None = None
    text_chars: int = 0
    broken: list[SettledAttempt] = field(default_factory=list)
    entered: list[str] = field(default_factory=list)
    """Ids of its legs."""

    def handed_over(self, chunk: Chunk) -> None:
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

    def whole(self, usage: Usage) -> Usage:
        """The account of the answer as the client has it: parts that broke off and this one."""
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


@dataclass(slots=True, kw_only=True)
class Leg:
    """One request to the scheduler, and its attempt that runs or ran last."""

    flight: Flight
    request: Request
    generation: Generation
    decision: asyncio.Future[Start | Refuse]
    attempt: int = 0
    """As the scheduler counts them."""
    output_tokens: int = 0
    reported_tokens: int = 0
    committed: bool = False
    """Whether output of it was handed over."""
    superseded: bool = False
    """Whether another leg answered first."""
    given_up: bool = False
    """Whether it failed while another leg ran: the scheduler tries it no more."""
    first_token_s: float | None = None
    first_token: asyncio.Future[None] | None = None
    """Resolved at the first token, where somebody waits for it."""
    last_token_s: float = 0.0
    usage: Usage | None = None
    model: str = ""
    response_id: str = ""
    """The upstream's own name for the answer of its attempt."""
    last: Chunk | None = None
    reader: asyncio.Task[object] | None = None
    """The task that reads its upstream, while the attempt may be taken back."""
    evicted: str = ""
    """Why the attempt is taken back."""
    failure: UpstreamFailure | None = None
    settled: SettledAttempt | None = None
    account: OpenAttempt | None = None
    """Of the attempt that runs."""

    def begin(self, action: Start) -> None:
        """A new attempt starts."""
        self.attempt = action.attempt
        self.output_tokens = self.reported_tokens = 0
        self.first_token_s = self.last = self.usage = None
        self.response_id = ""
        self.reader, self.evicted = asyncio.current_task(), ""

    def evict(self, action: Evict) -> None:
        """Takes its attempt back, unless it is another one by now or output was handed over."""
        if self.reader is not None and self.attempt == action.attempt and not self.evicted:
            self.evicted = action.reason
            self.reader.cancel()

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

    def finished(self, action: Start, now: float) -> Finished | None:
        """The account of the flight if the leg's attempt ended well."""
        if self.usage is None or self.settled is None:
            return None
        flight, arrival_s = self.flight, self.flight.request.arrival_s
        first_s = self.first_token_s if flight.first_token_s is None else flight.first_token_s
        dispatched_s = arrival_s if flight.dispatched_s is None else flight.dispatched_s
        return Finished(
            model=self.model,
            usage=flight.whole(self.usage),
            settled=self.settled,
            broken=tuple(flight.broken),
            kind=action.kind,
            placement=action.placement,
            reason=action.reason,
            attempts=tuple(flight.records),
            queue_s=dispatched_s - arrival_s,
            ttft_s=None if first_s is None else first_s - arrival_s,
            tpot_s=self.tpot_s(),
            total_s=now - arrival_s,
        )
