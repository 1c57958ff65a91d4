"""Token prices: tiers, parts that sum, and one rounding."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.pricing import RateTier, TokenCounts, TokenRates

counts = st.integers(0, 1 << 30)
rates_per_mtok = st.integers(0, 100_000_000_000)


def usd(text: str) -> int:
    return int(Decimal(text) * 1_000_000_000)


GPT_5_4 = TokenRates(
    row_id="gpt-5.4",
    tiers=(
        RateTier(
            uncached_input=usd("2.5"),
            cached_input=usd("0.25"),
            cache_write=usd("2.5"),
            output=usd("15"),
        ),
        RateTier(
            context_over_tokens=272_000,
            uncached_input=usd("5"),
            cached_input=usd("0.5"),
            cache_write=usd("5"),
            output=usd("22.5"),
        ),
    ),
)


@pytest.mark.parametrize(("tokens", "usd_cost"), [(272_000, "0.695"), (272_001, "1.382505")])
def test_a_tier_prices_the_whole_request_once_its_input_is_longer(
    tokens: int, usd_cost: str
) -> None:
    counted = TokenCounts(uncached_input_tokens=tokens, output_tokens=1000)
    assert GPT_5_4.cost_nano_usd(counted) == usd(usd_cost)


def test_cached_input_counts_for_the_tier() -> None:
    counted = TokenCounts(
        uncached_input_tokens=1000, cached_input_tokens=272_000, output_tokens=1000
    )
    assert GPT_5_4.cost_nano_usd(counted) == usd("0.005") + usd("0.136") + usd("0.0225")


def test_cache_writes_have_rates_of_their_own() -> None:
    opus = TokenRates(
        row_id="opus",
        tiers=(
            RateTier(
                uncached_input=usd("5"),
                cached_input=usd("0.5"),
                cache_write=usd("6.25"),
                long_cache_write=usd("10"),
                output=usd("25"),
            ),
        ),
    )
    counted = TokenCounts(
        uncached_input_tokens=1_000_000,
        cached_input_tokens=1_000_000,
        cache_write_tokens=1_000_000,
        long_cache_write_tokens=1_000_000,
        output_tokens=1_000_000,
    )
    assert opus.cost_nano_usd(counted) == usd("46.75")


def test_rounds_half_up_once_and_not_each_part() -> None:
    row = TokenRates(
        row_id="r",
        tiers=(
            RateTier(uncached_input=400_000, cached_input=400_000, cache_write=0, output=700_000),
        ),
    )
    counted = TokenCounts(uncached_input_tokens=1, cached_input_tokens=1, output_tokens=1)
    assert row.cost_nano_usd(counted) == 2  # 0.4 + 0.4 + 0.7 = 1.5


@given(counts, counts, counts, counts, counts, rates_per_mtok, rates_per_mtok, rates_per_mtok)
def test_parts_sum_to_the_cost_and_the_cost_is_exact(
    uncached: int, cached: int, written: int, long_written: int, output: int, a: int, b: int, c: int
) -> None:
    tier = RateTier(uncached_input=a, cached_input=b, cache_write=a, output=c)
    row = TokenRates(row_id="r", tiers=(tier,))
    counted = TokenCounts(
        uncached_input_tokens=uncached,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        long_cache_write_tokens=long_written,
        output_tokens=output,
    )
    exact = Decimal((uncached + written + long_written) * a + cached * b + output * c)
    cost = row.cost_nano_usd(counted)
    assert cost == int((exact / 1_000_000).to_integral_value(ROUND_HALF_UP))
    assert sum(row.part_costs_nano_usd(counted)) == cost
    assert min(row.part_costs_nano_usd(counted)) >= 0


@pytest.mark.parametrize("starts", [(), (1,), (0, 0), (0, 5, 3)])
def test_tiers_start_at_zero_and_rise(starts: tuple[int, ...]) -> None:
    tiers = tuple(
        RateTier(
            context_over_tokens=start, uncached_input=1, cached_input=1, cache_write=1, output=1
        )
        for start in starts
    )
    with pytest.raises(ValueError, match="strictly rising"):
        TokenRates(row_id="r", tiers=tiers)


def test_negative_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="not negative"):
        TokenCounts(uncached_input_tokens=-1, output_tokens=0)
