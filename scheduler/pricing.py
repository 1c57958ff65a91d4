"""Token prices as integers: the cost of token counts at the rates of one time.

A `TokenRates` is one row of a price catalog at one instant (its windows resolved), or the showback
rate of a self-hosted pool. The largest tier below the input's length prices the whole request,
following vendor practice. Rates are nano-USD per million tokens, so a price per million tokens with
up to nine decimals is exact. A cost is rounded once, half up, over the sum of its parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

MILLION = 1_000_000


class TokenCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one request by price class. No token is counted twice.

    `cache_write_tokens`: input written to a cache for about 5 minutes. `long_cache_write_tokens`:
    input written for an hour. If an API does not bill writes, they count as uncached.
    """

    uncached_input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    long_cache_write_tokens: int = 0

    def __post_init__(self) -> None:
        counts = (self.uncached_input_tokens, self.output_tokens, self.cached_input_tokens)
        if min(*counts, self.cache_write_tokens, self.long_cache_write_tokens) < 0:
            raise ValueError(f"{self}: token counts are not negative")

    @property
    def input_tokens(self) -> int:
        """All input tokens, which select the context tier."""
        written = self.cache_write_tokens + self.long_cache_write_tokens
        return self.uncached_input_tokens + self.cached_input_tokens + written


NO_TOKENS = TokenCounts(uncached_input_tokens=0, output_tokens=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateTier:
    """Rates in nano-USD per million tokens for inputs longer than `context_over_tokens`."""

    uncached_input: int
    cached_input: int
    cache_write: int
    output: int
    long_cache_write: int | None = None
    """None: equal to `cache_write`."""
    context_over_tokens: int = 0

    def parts(self, counts: TokenCounts) -> tuple[int, int, int]:
        """Cost of uncached input with cache writes, cached input, and output, in 1e-15 USD."""
        long_write = self.cache_write if self.long_cache_write is None else self.long_cache_write
        return (
            counts.uncached_input_tokens * self.uncached_input
            + counts.cache_write_tokens * self.cache_write
            + counts.long_cache_write_tokens * long_write,
            counts.cached_input_tokens * self.cached_input,
            counts.output_tokens * self.output,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRates:
    """Rates of one price row. `row_id`: the row's id in the ledger. The first tier starts at 0.
    `batch`: rates of the row for batch work; None: batch work has no price of its own.
    Raises ValueError for tiers that do not start at 0 or do not rise strictly."""

    row_id: str
    tiers: tuple[RateTier, ...]
    batch: TokenRates | None = None

    def __post_init__(self) -> None:
        starts = [tier.context_over_tokens for tier in self.tiers]
        if not starts or starts[0] != 0 or sorted(set(starts)) != starts:
            raise ValueError(
                f"tiers of {self.row_id!r}: start at 0, then strictly rising: {starts}"
            )

    def of_work(self, *, batch: bool) -> TokenRates:
        """Returns the rates of batch work, or those of all other requests."""
        return self.batch if batch and self.batch is not None else self

    def tier(self, input_tokens: int) -> RateTier:
        """Returns the tier for a request with this many input tokens, including cached ones."""
        chosen = self.tiers[0]
        for tier in self.tiers[1:]:
            if input_tokens <= tier.context_over_tokens:
                break
            chosen = tier
        return chosen

    def cost_nano_usd(self, counts: TokenCounts) -> int:
        """Returns the cost of the request in nano-USD, rounded half up once."""
        return _rounded(sum(self.tier(counts.input_tokens).parts(counts)))

    def part_costs_nano_usd(self, counts: TokenCounts) -> tuple[int, int, int]:
        """Returns the costs of uncached input with writes, cached input, and output, in nano-USD.
        They sum to `cost_nano_usd`."""
        uncached, cached, output = self.tier(counts.input_tokens).parts(counts)
        first, second = _rounded(uncached), _rounded(uncached + cached)
        return first, second - first, _rounded(uncached + cached + output) - second


def _rounded(femto_usd: int) -> int:
    return (femto_usd + MILLION // 2) // MILLION
