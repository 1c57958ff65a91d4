"""Decision records: for the last requests, every candidate with its figures and what was decided.

A record holds the arrays of the quote that decided, not objects; candidates are made when somebody
asks. The ring is bounded by records and by array elements.
"""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.fleet import Placement
from scheduler.overflow import RemoteBlock, RemoteQuote
from scheduler.placement import BLOCK_TEXT, Block, Quote
from scheduler.pricing import TokenCounts
from scheduler.types import PlacementKind

MOST_RECORDS = 1024
MOST_ELEMENTS = 1_000_000
"""Array elements of all records: 8 MB, whatever the number of placements."""
_ARRAYS = 9


class Tier(enum.IntEnum):
    """Which of the five ways was taken: the first that applies."""

    LOCAL = 1
    """An own placement starts it now and keeps the promise."""
    WAIT = 2
    """It waits: the first token is predicted in time."""
    REMOTE = 3
    """A remote starts it now."""
    WAIT_LATE = 4
    """It waits, though its first token will be late."""
    REFUSE = 5
    """It is refused, with a hint when to try again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One place with the figures that decided. None: unknown or not applicable.

    `marginal_nano_usd`: own group's time that the request adds; `charged_nano_usd`: its tokens at
    the placement's rates; `victims`: streams that its prefill would push past their promise.
    """

    placement: str
    kind: PlacementKind
    chosen: bool
    feasible: bool
    ttft_s: float | None
    tpot_s: float | None
    hit_tokens: int
    victims: float | None
    marginal_nano_usd: int | None
    charged_nano_usd: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was decided for a request, and on which figures.

    `own`, `remotes`: facts of the placements, in the order of `quote` and of `remote_quotes`.
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
    own: Sequence[Placement]
    quote: Quote | None
    remotes: Sequence[Placement]
    remote_quotes: tuple[RemoteQuote, ...]

    def candidates(self) -> tuple[Candidate, ...]:
        """Every place, best first: the chosen one, then the feasible ones by score or price."""
        own, remote = self._own_candidates(), self._remote_candidates()
        return tuple(sorted([*own, *remote], key=lambda c: (not c.chosen, not c.feasible)))

    def of(self, placement: str) -> Candidate | None:
        """One place by its name."""
        names = [facts.name for facts in self.own]
        if self.quote is not None and placement in names:
            return self._own(self.quote, names.index(placement))
        return next((c for c in self._remote_candidates() if c.placement == placement), None)

    def runner_up(self) -> Candidate | None:
        """The best place that was not chosen; made alone, however many places there are."""
        best_own: Candidate | None = None
        if self.quote is not None:
            blocked = self.quote.blocked != Block.FREE
            for i in np.lexsort((self.quote.score, blocked))[:2].tolist():
                if self.own[i].name != self.chosen:
                    best_own = self._own(self.quote, i)
                    break
        found = [c for c in (best_own, *self._remote_candidates()) if c and not c.chosen]
        return min(found, key=lambda c: not c.feasible, default=None)

    def _own_candidates(self) -> list[Candidate]:
        made = self.quote
        if made is None:
            return []
        order = sorted(range(len(self.own)), key=lambda i: float(made.score[i]))
        return [self._own(made, i) for i in order]

    def _own(self, made: Quote, i: int) -> Candidate:
        facts, block = self.own[i], Block(int(made.blocked[i]))
        known = facts.nano_usd_per_s is not None
        return Candidate(
            placement=facts.name,
            kind=facts.kind,
            chosen=facts.name == self.chosen,
            feasible=block is Block.FREE,
            ttft_s=float(made.ttft_s[i]),
            tpot_s=float(made.tpot_s[i]),
            hit_tokens=int(made.hit_tokens[i]),
            victims=float(made.victims[i]),
            marginal_nano_usd=round(float(made.marginal_nano_usd[i])) if known else None,
            charged_nano_usd=self._charged(facts, int(made.hit_tokens[i])),
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
                feasible=made.blocked is RemoteBlock.FREE,
                ttft_s=made.ttft_s,
                tpot_s=None,
                hit_tokens=made.hit_tokens,
                victims=None,
                marginal_nano_usd=made.nano_usd,
                charged_nano_usd=made.nano_usd,
                reason=self.reason if facts.name == self.chosen else made.blocked.value,
            )
            for facts, made in quotes
        ]

    def _charged(self, facts: Placement, hit_tokens: int) -> int | None:
        if facts.rates is None:
            return None
        return facts.rates.cost_nano_usd(
            TokenCounts(
                uncached_input_tokens=max(0, self.prompt_tokens - hit_tokens),
                cached_input_tokens=min(hit_tokens, self.prompt_tokens),
                output_tokens=math.ceil(self.output_tokens),
            )
        )


class Decisions:
    """The newest record of each of the last requests."""

    def __init__(self, placements: int) -> None:
        self._most = max(16, min(MOST_RECORDS, MOST_ELEMENTS // (_ARRAYS * max(1, placements))))
        self._by_id: OrderedDict[str, Decision] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, decision: Decision) -> None:
        """Takes a record; an older one of the same request gives way."""
        self._by_id[decision.request_id] = decision
        self._by_id.move_to_end(decision.request_id)
        if len(self._by_id) > self._most:
            self._by_id.popitem(last=False)

    def get(self, request_id: str) -> Decision | None:
        """The newest record of a request; None when it has left the ring."""
        return self._by_id.get(request_id)
