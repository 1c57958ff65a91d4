"""Decision records: for the last requests, every candidate with its figures, and the decision.

A record holds the arrays of the deciding quote; the candidates are built when they are read.
The ring is bounded by records and by array elements, and every tenant has a share of it.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np

from scheduler.contract import PlacementKind
from scheduler.limits.tenant_store import TenantStore
from scheduler.overflow.overflow import RemoteBlock, RemoteQuote
from scheduler.placement.quotes import BLOCK_TEXT, Block, Quote
from scheduler.placement_state import Placement
from scheduler.pricing import TokenCounts

MOST_RECORDS = 1024
MOST_ELEMENTS = 1_000_000
"""Array elements of all records: 8 MB, whatever the number of placements."""
_ARRAYS = Quote.ROWS + 1


class Tier(enum.IntEnum):
    """The decision taken: the first of five that applies."""

    LOCAL = 1
    """A self-hosted placement starts the request now and meets every SLO."""
    WAIT = 2
    """The request waits; its first token is predicted in time."""
    REMOTE = 3
    """A remote starts the request now."""
    WAIT_LATE = 4
    """The request waits although its first token will be late."""
    REFUSE = 5
    """The request is refused, with a time to retry after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One placement with the figures of the decision. None: unknown or not applicable.

    `marginal_nano_usd`: cost of the time that the request adds to its group; `charged_nano_usd`:
    cost of its tokens at the placement's rates; `violations_expected`: running streams whose TPOT
    SLO its prefill is expected to violate.
    """

    placement: str
    kind: PlacementKind
    chosen: bool
    feasible: bool
    ttft_s: float | None
    tpot_s: float | None
    hit_tokens: int
    violations_expected: float | None
    marginal_nano_usd: int | None
    charged_nano_usd: int | None
    reason: str


class Figures(NamedTuple):
    """Figures of one placement in a trace; see `Candidate`."""

    placement: str
    ttft_s: float | None
    tpot_s: float | None
    marginal_nano_usd: int | None
    reason: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The decision for a request, with its figures.

    `self_hosted`, `remotes`: facts of the placements, in the order of `quote` and
    `remote_quotes`.
    """

    request_id: str
    tenant: str
    model: str
    at_s: float
    attempt: int
    tier: Tier
    chosen: str | None
    reason: str
    prompt_tokens: int
    output_tokens: float
    self_hosted: Sequence[Placement]
    quote: Quote | None
    remotes: Sequence[Placement]
    remote_quotes: tuple[RemoteQuote, ...]
    batch_work: bool = False

    @property
    def placements(self) -> int:
        """Number of placements that were considered."""
        return len(self.self_hosted) + len(self.remotes)

    def candidates(self) -> tuple[Candidate, ...]:
        """Returns every placement, best first: the chosen one, then the feasible ones by score or
        price."""
        self_hosted, remotes = self._self_hosted_candidates(), self._remote_candidates()
        return tuple(sorted([*self_hosted, *remotes], key=lambda c: (not c.chosen, not c.feasible)))

    def best_two(self) -> tuple[Figures | None, Figures | None]:
        """Returns the chosen placement and the best other one. Every traced request calls this, so
        it builds only these two, whatever the number of placements."""
        chosen: Figures | None = None
        other: tuple[bool, Figures] | None = None
        if (quote := self.quote) is not None:
            blocked = quote.blocked != Block.FREE
            for i in np.lexsort((quote.score, blocked))[:2].tolist():
                if self.self_hosted[i].name == self.chosen:
                    chosen = self._figures(quote, i, self.reason)
                elif other is None:
                    block = Block(int(quote.blocked[i]))
                    other = block is not Block.FREE, self._figures(quote, i, BLOCK_TEXT[block])
        best: tuple[bool, float] | None = None
        for facts, quoted in zip(self.remotes, self.remote_quotes, strict=False):
            rank = quoted.blocked is not RemoteBlock.FREE, quoted.effective_nano_usd
            if facts.name == self.chosen:
                chosen = Figures(facts.name, quoted.ttft_s, None, quoted.nano_usd, self.reason)
            elif (other is None or rank[0] < other[0]) and (best is None or rank < best):
                best = rank
                found = Figures(
                    facts.name, quoted.ttft_s, None, quoted.nano_usd, quoted.blocked.value
                )
        if best is not None:
            other = best[0], found
        if chosen is None and quote is not None:  # a self-hosted placement that was not the best
            i = next(
                (i for i, facts in enumerate(self.self_hosted) if facts.name == self.chosen), None
            )
            chosen = None if i is None else self._figures(quote, i, self.reason)
        return chosen, None if other is None else other[1]

    def _figures(self, quote: Quote, i: int, reason: str) -> Figures:
        facts = self.self_hosted[i]
        nano_usd = (
            None if facts.nano_usd_per_s is None else round(float(quote.marginal_nano_usd[i]))
        )
        return Figures(facts.name, float(quote.ttft_s[i]), float(quote.tpot_s[i]), nano_usd, reason)

    def _self_hosted_candidates(self) -> list[Candidate]:
        quote = self.quote
        if quote is None:
            return []
        order = sorted(range(len(self.self_hosted)), key=lambda i: float(quote.score[i]))
        return [self._self_hosted_candidate(quote, i) for i in order]

    def _self_hosted_candidate(self, quote: Quote, i: int) -> Candidate:
        facts, block = self.self_hosted[i], Block(int(quote.blocked[i]))
        known = facts.nano_usd_per_s is not None
        return Candidate(
            placement=facts.name,
            kind=facts.kind,
            chosen=facts.name == self.chosen,
            feasible=block is Block.FREE,
            ttft_s=float(quote.ttft_s[i]),
            tpot_s=float(quote.tpot_s[i]),
            hit_tokens=int(quote.hit_tokens[i]),
            violations_expected=float(quote.violations_expected[i]),
            marginal_nano_usd=round(float(quote.marginal_nano_usd[i])) if known else None,
            charged_nano_usd=self._charged(facts, int(quote.hit_tokens[i])),
            reason=self.reason if facts.name == self.chosen else BLOCK_TEXT[block],
        )

    def _remote_candidates(self) -> list[Candidate]:
        quotes = sorted(
            zip(self.remotes, self.remote_quotes, strict=False),
            key=lambda pair: pair[1].effective_nano_usd,
        )
        return [
            Candidate(
                placement=facts.name,
                kind=facts.kind,
                chosen=facts.name == self.chosen,
                feasible=quote.blocked is RemoteBlock.FREE,
                ttft_s=quote.ttft_s,
                tpot_s=None,
                hit_tokens=quote.hit_tokens,
                violations_expected=None,
                marginal_nano_usd=quote.nano_usd,
                charged_nano_usd=quote.nano_usd,
                reason=self.reason if facts.name == self.chosen else quote.blocked.value,
            )
            for facts, quote in quotes
        ]

    def _charged(self, facts: Placement, hit_tokens: int) -> int | None:
        rates = facts.rates_of(self.model)
        if rates is None:
            return None
        return rates.of_work(batch=self.batch_work).cost_nano_usd(
            TokenCounts(
                uncached_input_tokens=max(0, self.prompt_tokens - hit_tokens),
                cached_input_tokens=min(hit_tokens, self.prompt_tokens),
                output_tokens=math.ceil(self.output_tokens),
            )
        )


class Decisions:
    """The newest record of each of the last requests. When the ring is full, the tenant with most
    records loses its oldest one."""

    def __init__(self, placements: int) -> None:
        self._by_id: TenantStore[str, Decision] = TenantStore(MOST_RECORDS)
        self.resize(placements)

    def __len__(self) -> int:
        return len(self._by_id)

    def resize(self, placements: int) -> None:
        """Sets the bound for models with at most `placements` placements. Takes effect at the next
        `add`."""
        most = MOST_ELEMENTS // (_ARRAYS * max(1, placements))
        self._by_id.resize(max(16, min(MOST_RECORDS, most)))

    def add(self, decision: Decision) -> None:
        """Adds a record. It replaces an older record of the same request."""
        self._by_id.put(decision.tenant, decision.request_id, decision)

    def get(self, request_id: str) -> Decision | None:
        """Returns the newest record of a request; None: it has left the ring."""
        return self._by_id.get(request_id)
