"""Token prices as integers: what a count of tokens costs at a rate that was in force.

A `TokenRates` is one row of a price catalog at one instant (its windows resolved), or the showback
rate of an own pool. The largest tier below the input's length prices the whole request, as vendors
do. Rates are nano-USD per million tokens, so that a price per million tokens of up to nine decimals
is exact; a cost is rounded once, half up, over the sum of its parts.
"""

from __future__ import annotations

from dataclasses import dataclass

MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """Tokens of one request that are priced apart: no token is in two of them.

    `cache_write_tokens`: input that was written to a cache for about 5 minutes;
    `long_cache_write_tokens`: for an hour. APIs that do not bill writes count them as uncached.
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
        """All input: what context tiers go by."""
        written = self.cache_write_tokens + self.long_cache_write_tokens
        return self.uncached_input_tokens + self.cached_input_tokens + written


@dataclass(frozen=True, slots=True, kw_only=True)
class RateTier:
    """Rates in nano-USD per million tokens for inputs longer than `context_over_tokens`."""

    uncached_input: int
    cached_input: int
    cache_write: int
    output: int
    long_cache_write: int | None = None
    """None: the same as `cache_write`."""
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
    """Rates of one price row. `row_id` names it for the ledger; the first tier starts at 0."""

    row_id: str
    tiers: tuple[RateTier, ...]

    def __post_init__(self) -> None:
        starts = [tier.context_over_tokens for tier in self.tiers]
        if not starts or starts[0] != 0 or sorted(set(starts)) != starts:
            raise ValueError(
                f"tiers of {self.row_id!r}: start at 0, then strictly rising: {starts}"
            )

    def tier(self, input_tokens: int) -> RateTier:
        """The tier that prices a request with this many input tokens, cached ones included."""
        chosen = self.tiers[0]
        for tier in self.tiers[1:]:
            if input_tokens <= tier.context_over_tokens:
                break
            chosen = tier
        return chosen

    def cost_nano_usd(self, counts: TokenCounts) -> int:
        """Cost of the request, rounded half up once."""
        return _rounded(sum(self.tier(counts.input_tokens).parts(counts)))

    def part_costs_nano_usd(self, counts: TokenCounts) -> tuple[int, int, int]:
        """Uncached input with writes, cached input, output: they sum to `cost_nano_usd`."""
        uncached, cached, output = self.tier(counts.input_tokens).parts(counts)
        first, second = _rounded(uncached), _rounded(uncached + cached)
        return first, second - first, _rounded(uncached + cached + output) - second


def _rounded(femto_usd: int) -> int:
    return (femto_usd + MILLION // 2) // MILLION
