"""The choice among remotes: the cheapest one that keeps the promised time to first token.

A remote's effective price is its rates times the expected tokens, with cached prompt tokens at the
cached rate, divided by its share of successful attempts, and what the way costs at home: a session
whose prefix is cached there finds it gone, and its next turn is computed anew. A remote of unknown
price is not free: it is taken only if no remote of known price can take the request. A remote that
made the reasoning
signatures of the history is taken up to `SIGNED_PREMIUM` times the cheapest price. Every
`EXPLORE_EVERY`-th overflow goes to the remote that was used the longest ago, so that an improvement
is noticed.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence, Set
from dataclasses import dataclass

from scheduler.contract import Request
from scheduler.placement_state import PlacementState
from scheduler.pricing import TokenCounts

EXPLORE_EVERY = 50
"""One overflow in this number explores."""
MOST_ERROR_SHARE = 0.9
"""Bound of the error share in 1 / (1 - share), the factor on a price: at most 10."""


SIGNED_PREMIUM = 2.0
"""Highest effective price, as a multiple of the cheapest one, of a remote that is taken because it
made the reasoning signatures of the history. Another remote would have to reason again."""


class RemoteBlock(enum.StrEnum):
    """The first reason why a remote cannot take the request; FREE if it can."""

    FREE = "can take it"
    UNSUPPORTED = "a field of the request or a spending limit rules it out"
    CLOSED = "not in service, failed before, or ruled out by the data policy"
    GATE = "all its concurrent requests or its rate limits are taken"
    TTFT = "first token would be late"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteQuote:
    """Figures of one remote for one request. None: unknown. `effective_nano_usd`: the price with
    failures and the lost prefix counted in; infinite if the price is unknown. `signed`: the remote
    made the reasoning signatures of the history."""

    placement: str
    blocked: RemoteBlock
    ttft_s: float | None
    hit_tokens: int
    nano_usd: int | None
    effective_nano_usd: float
    signed: bool = False


def quote_remote(
    state: PlacementState,
    request: Request,
    *,
    hit_tokens: int,
    output_tokens: float,
    ttft_left_s: float,
    allowed: bool,
    admits: bool,
    lost_nano_usd: float = 0.0,
) -> RemoteQuote:
    """Quotes `request` on this remote. `ttft_left_s`: time left until its first token is late.
    `lost_nano_usd`: cost of the prefix that is lost at home.

    `allowed`: the remote is in service, and may run the request; `admits`: its breaker, learnt
    slots and rate limits allow one more request now.
    """
    facts = state.facts
    hit_tokens = min(hit_tokens, request.prompt_tokens)
    counts = TokenCounts(
        uncached_input_tokens=request.prompt_tokens - hit_tokens,
        cached_input_tokens=hit_tokens,
        output_tokens=round(output_tokens),
    )
    rates = None if facts.rates is None else facts.rates.of_work(batch=request.batch_work)
    nano_usd = None if rates is None else rates.cost_nano_usd(counts)
    blocked = RemoteBlock.FREE
    if facts.name in request.unsupported_by:
        blocked = RemoteBlock.UNSUPPORTED
    elif not allowed:
        blocked = RemoteBlock.CLOSED
    elif not admits or (state.sequences and state.sequences + request.choices > facts.max_running):
        blocked = RemoteBlock.GATE
    elif state.ttft_s is not None and state.ttft_s > ttft_left_s:
        blocked = RemoteBlock.TTFT
    success = 1.0 - min(state.error_share, MOST_ERROR_SHARE)
    return RemoteQuote(
        placement=facts.name,
        blocked=blocked,
        ttft_s=state.ttft_s,
        hit_tokens=hit_tokens,
        nano_usd=nano_usd,
        effective_nano_usd=math.inf if nano_usd is None else nano_usd / success + lost_nano_usd,
        signed=facts.name in request.signed_by,
    )


class Explorer:
    """Chooses among quoted remotes, and remembers at which overflow each was last used."""

    def __init__(self) -> None:
        self._overflows = 0
        self._tried_at: dict[str, int] = {}

    def choose(self, quotes: Sequence[RemoteQuote]) -> tuple[RemoteQuote, str] | None:
        """The remote to take and the reason; None if no remote can take the request."""
        free = [quote for quote in quotes if quote.blocked is RemoteBlock.FREE]
        if not free:
            return None
        best = min(free, key=_price_then_time)
        most_nano_usd = SIGNED_PREMIUM * best.effective_nano_usd
        signed = [q for q in free if q.signed and q.effective_nano_usd <= most_nano_usd]
        if signed:
            return min(
                signed, key=_price_then_time
            ), "it made the reasoning signatures of the history"
        if (self._overflows + 1) % EXPLORE_EVERY == 0:
            priced = [quote for quote in free if quote.nano_usd is not None] or free
            oldest = min(priced, key=lambda quote: self._tried_at.get(quote.placement, 0))
            if oldest is not best:
                return oldest, "explored: not tried for the longest"
        if best.nano_usd is None:
            return best, "its price is unknown, and no priced one can"
        return best, f"the cheapest of {len(free)}: {best.nano_usd / 1e9:.6f} USD"

    def keep_only(self, placements: Set[str]) -> None:
        """Forgets remotes that are not configured any more."""
        tried = self._tried_at.items()
        self._tried_at = {name: number for name, number in tried if name in placements}

    def record_try(self, placement: str) -> None:
        """Records that a request was sent to the remote."""
        self._overflows += 1
        self._tried_at[placement] = self._overflows


def _price_then_time(quote: RemoteQuote) -> tuple[float, float]:
    return quote.effective_nano_usd, quote.ttft_s or 0.0
