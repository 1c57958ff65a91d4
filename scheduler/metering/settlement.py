"""Cost of one ended attempt, for the ledger, telemetry and limits.

`metered` is the gateway's expense: a share of the self-hosted placement's bill, or the remote's
list price. `charged` is the tenant's charge: tokens times the rates frozen at the request's
admission. None means unknown, never zero. A failed attempt is charged 0, unless the client received
its output.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec

from scheduler.contract import AttemptOutcome, PlacementKind, Request, SloClass, Start, Usage
from scheduler.metering.rate_snapshot import RateSnapshot
from scheduler.pricing import NO_TOKENS, TokenCounts, TokenRates

_TRIED_AGAIN = (AttemptOutcome.RETRYABLE, AttemptOutcome.EVICTED)
"""Outcomes after which the scheduler may try the request again."""
_NOT_FINAL = (*_TRIED_AGAIN, AttemptOutcome.SUPERSEDED)


class CostBasis(enum.StrEnum):
    """Origin of a metered cost."""

    METERED = "metered"
    """Share of a self-hosted placement's bill."""
    LIST_PRICE = "list_price"
    """Reported tokens times the dated list price."""
    ESTIMATED = "estimated"
    """Tokens counted by the gateway times the list price, because the upstream reported none."""


class TokenKind(enum.StrEnum):
    """Kind of token with its own rate."""

    UNCACHED_INPUT = "uncached_input"
    """Input that the engine computed, including tokens written to a cache."""
    CACHED_INPUT = "cached_input"
    OUTPUT = "output"


_KINDS = tuple(TokenKind)
"""Members as a tuple, because iterating an enumeration creates a generator each time."""


class CostPart(msgspec.Struct, frozen=True, kw_only=True):
    """Cost of the tokens of one kind, in nano-USD."""

    kind: TokenKind
    tokens: int
    nano_usd: int


class Metered(msgspec.Struct, frozen=True, kw_only=True):
    """Share of a self-hosted placement's bill per token kind, in nano-USD."""

    uncached_input: int
    cached_input: int
    output: int

    @property
    def nano_usd(self) -> int:
        """Sum over the token kinds."""
        return self.uncached_input + self.cached_input + self.output


class SettledAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """One ended attempt with its cost. Times are Unix seconds; `pool` is empty for a remote.

    `usage`: None: tokens unknown, because the attempt failed before the first. `parts`: parts of
    the metered cost, which sum to it. `price_row_id`: price row of the charge; empty: no price.
    `cheapest_remote_nano_usd`: cost of the same tokens at the cheapest remote that the request
    allows; None: no such remote, or no price. `end_user`, `labels_json`: tags of the request for
    reports. `final`: no other attempt of the request can follow;
    False: the scheduler may try again or refuse.
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
    end_user: str = ""
    labels_json: str = ""


Sink = Callable[[SettledAttempt], None]
"""Receives a settled attempt. Must neither block nor raise."""


def is_useful(outcome: AttemptOutcome, *, committed: bool) -> bool:
    """Whether an attempt is charged. It is waste otherwise: it failed, was taken back or was
    superseded, and the client has no output of it."""
    return committed or outcome in (AttemptOutcome.OK, AttemptOutcome.CANCELLED)


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
    charge_limit_nano_usd: int | None = None,
) -> SettledAttempt:
    """Computes the cost of an ended attempt.

    `rate_snapshot`: prices at admission. `committed`: the client received output. `metered`: cost
    at a self-hosted placement; None: unknown. `may_be_continued`: the answer broke off, and another
    attempt may continue it. `charge_limit_nano_usd`: the request's spending limits allow no higher
    charge, whatever the upstream counts; None: no limit.
    """
    counts = None if usage is None else token_counts(usage)
    rates = rate_snapshot.of(start.placement, request.model, batch=request.batch_work)
    basis: CostBasis | None = None
    cost: int | None = None
    parts: tuple[CostPart, ...] = ()
    if start.kind is PlacementKind.SELF_HOSTED:
        if metered is not None:
            basis, cost = CostBasis.METERED, metered.nano_usd
            spent = (metered.uncached_input, metered.cached_input, metered.output)
            parts = _parts(counts or NO_TOKENS, spent)
    elif usage is None or counts is None:
        cost = 0 if outcome in _TRIED_AGAIN else None  # the attempt produced no token
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
        end_user=request.end_user,
        labels_json=request.labels_json,
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
        charged_nano_usd=(
            _charged(rates, counts, charge_limit_nano_usd)
            if is_useful(outcome, committed=committed)
            else 0
        ),
        basis=basis,
        price_row_id="" if rates is None else rates.row_id,
        parts=parts,
        cheapest_remote_nano_usd=(
            None if counts is None else rate_snapshot.cheapest_remote_nano_usd(request, counts)
        ),
        final=outcome not in _NOT_FINAL and not may_be_continued,
    )


def token_counts(usage: Usage) -> TokenCounts:
    """Tokens by price; unknown cached counts are 0, so that all input counts as computed.

    `Usage` is the one normal form: `prompt_tokens` holds everything that was read, cached tokens
    and cache writes inside; `completion_tokens` everything that was written, reasoning inside.
    """
    cached = min(usage.cached_tokens or 0, usage.prompt_tokens)
    written = min(usage.cache_write_tokens or 0, usage.prompt_tokens - cached)
    long_written = min(usage.long_cache_write_tokens or 0, usage.prompt_tokens - cached - written)
    return TokenCounts(
        uncached_input_tokens=usage.prompt_tokens - cached - written - long_written,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        long_cache_write_tokens=long_written,
        output_tokens=usage.completion_tokens,
    )


def _charged(
    rates: TokenRates | None, counts: TokenCounts | None, limit_nano_usd: int | None
) -> int | None:
    if rates is None or counts is None:
        return None
    cost = rates.cost_nano_usd(counts)
    return cost if limit_nano_usd is None else min(cost, limit_nano_usd)


def _parts(counts: TokenCounts, nano_usd: tuple[int, int, int]) -> tuple[CostPart, ...]:
    """Returns the parts of every kind that has tokens or cost."""
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
