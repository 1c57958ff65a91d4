"""The account of one attempt, over: what the ledger, the telemetry and the limits are told.

`metered` is what the attempt cost: its share of the own servers' bill, or the remote's list price.
`charged` is tokens times the rates that were frozen when the request came. Unknown is None, never
zero. A failed attempt is nobody's to pay: it is charged nothing, unless its output was handed over.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from scheduler.contract import AttemptOutcome, PlacementKind, Request, SloClass, Start, Usage
from scheduler.metering.rate_snapshot import RateSnapshot
from scheduler.metering.token_counts import token_counts
from scheduler.pricing import TokenCounts, TokenRates

_TRIED_AGAIN = (AttemptOutcome.RETRYABLE, AttemptOutcome.EVICTED)
"""Ends after which the request goes on."""
_NOT_FINAL = (*_TRIED_AGAIN, AttemptOutcome.SUPERSEDED)


class CostBasis(enum.StrEnum):
    """How a metered cost was found."""

    METERED = "metered"
    """Share of the own servers' bill."""
    LIST_PRICE = "list_price"
    """Tokens that the upstream reported, times its dated list price."""
    ESTIMATED = "estimated"
    """Tokens that the gateway counted, times the list price: the upstream reported none."""


class TokenKind(enum.StrEnum):
    """Kind of token in an account."""

    UNCACHED_INPUT = "uncached_input"
    """Computed; what was written to a cache, too."""
    CACHED_INPUT = "cached_input"
    OUTPUT = "output"


_KINDS = tuple(TokenKind)
"""To go through them: an enumeration makes a generator of its members each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPart:
    """What the tokens of one kind cost, nano-USD."""

    kind: TokenKind
    tokens: int
    nano_usd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Metered:
    """A share of an own server's bill by kind of token, nano-USD."""

    uncached_input: int
    cached_input: int
    output: int

    @property
    def nano_usd(self) -> int:
        """All of it."""
        return self.uncached_input + self.cached_input + self.output


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledAttempt:
    """One attempt, over. Times are Unix seconds; `pool` is empty for a remote.

    `usage`: None when nothing is known of its tokens (it failed before the first). `parts` are
    those of the metered cost and sum to it. `price_row_id`: the row that charged it; "": no price.
    `cheapest_remote_nano_usd`: what the request would have cost at the cheapest remote that it
    allowed; None: no such remote, or no price. `final`: no other attempt of the request can follow
    (False: the scheduler may try again, or refuse).
    """

    request_id: str
    attempt: int
    key_id: str
    tenant: str
    session_id: str
    model: str
    slo_class: SloClass
    placement: str
    pool: str
    kind: PlacementKind
    outcome: AttemptOutcome
    started_unix_s: float
    ended_unix_s: float
    usage: Usage | None
    metered_nano_usd: int | None
    charged_nano_usd: int | None
    basis: CostBasis | None
    price_row_id: str
    parts: tuple[CostPart, ...]
    cheapest_remote_nano_usd: int | None
    final: bool


Sink = Callable[[SettledAttempt], None]
"""Takes an attempt; must neither block nor raise."""


def settle(
    request: Request,
    start: Start,
    *,
    rate_snapshot: RateSnapshot,
    pool: str,
    outcome: AttemptOutcome,
    committed: bool,
    usage: Usage | None,
    metered: Metered | None,
    started_unix_s: float,
    ended_unix_s: float,
    may_be_continued: bool = False,
) -> SettledAttempt:
    """Computes the cost of an ended attempt.

    `rate_snapshot`: prices at admission. `committed`: the client received output. `metered`: cost
    at a self-hosted placement; None: unknown. `may_be_continued`: the answer broke off, and another
    attempt may continue it.
    """
    counts = None if usage is None else token_counts(usage)
    rates = rate_snapshot.rates.get(start.placement)
    kept = outcome in (AttemptOutcome.OK, AttemptOutcome.CANCELLED) or committed
    basis: CostBasis | None = None
    cost: int | None = None
    parts: tuple[CostPart, ...] = ()
    if start.kind is PlacementKind.SELF_HOSTED:
        if metered is not None:
            basis, cost = CostBasis.METERED, metered.nano_usd
            spent = (metered.uncached_input, metered.cached_input, metered.output)
            parts = _parts(counts or _NO_TOKENS, spent)
    elif usage is None or counts is None:
        cost = 0 if outcome in _TRIED_AGAIN else None  # it got no token out of it
    elif rates is not None:
        basis = CostBasis.ESTIMATED if usage.estimated else CostBasis.LIST_PRICE
        cost = rates.cost_nano_usd(counts)
        parts = _parts(counts, rates.part_costs_nano_usd(counts))
    return SettledAttempt(
        request_id=request.request_id,
        attempt=start.attempt,
        key_id=request.key_id,
        tenant=request.tenant,
        session_id=request.session_id,
        model=request.model,
        slo_class=request.slo.slo_class,
        placement=start.placement,
        pool=pool,
        kind=start.kind,
        outcome=outcome,
        started_unix_s=started_unix_s,
        ended_unix_s=ended_unix_s,
        usage=usage,
        metered_nano_usd=cost,
        charged_nano_usd=_charged(rates, counts) if kept else 0,
        basis=basis,
        price_row_id="" if rates is None else rates.row_id,
        parts=parts,
        cheapest_remote_nano_usd=(
            None if counts is None else rate_snapshot.cheapest_remote_nano_usd(request, counts)
        ),
        final=outcome not in _NOT_FINAL and not may_be_continued,
    )


_NO_TOKENS = TokenCounts(uncached_input_tokens=0, output_tokens=0)


def _charged(rates: TokenRates | None, counts: TokenCounts | None) -> int | None:
    if rates is None or counts is None:
        return None
    return rates.cost_nano_usd(counts)


def _parts(counts: TokenCounts, nano_usd: tuple[int, int, int]) -> tuple[CostPart, ...]:
    """Parts of every kind that has tokens or cost."""
    tokens = (
        counts.input_tokens - counts.cached_input_tokens,
        counts.cached_input_tokens,
        counts.output_tokens,
    )
    return tuple(
        CostPart(kind=kind, tokens=count, nano_usd=cost)
        for kind, count, cost in zip(_KINDS, tokens, nano_usd, strict=True)
        if count or cost
    )
