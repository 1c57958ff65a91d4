"""The vectorised quote against the plain one, over random fleets."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings

from scheduler.placement.quotes import Block
from scheduler.placement.quoting import quote_fleet
from tests.scheduler.placement.fleets_made import NOW, Made, made
from tests.scheduler.placement.reference_quote import plain_quotes

ALL_REASONS = set(Block) - {
    *(Block.NOT_PERMITTED, Block.CONTEXT, Block.NOT_LOADED, Block.ADAPTER_SLOTS)
}


def test_a_quote_is_the_plain_one_for_every_placement() -> None:
    seen: Counter[Block] = Counter()

    @settings(max_examples=300)
    @given(made())
    def compare(made: Made) -> None:
        quote = quote_fleet(made.fleet, made.query, made.policy, NOW)
        for i, plain in enumerate(plain_quotes(made.fleet, made.query, made.policy, NOW)):
            assert quote.ttft_s[i] == pytest.approx(plain.ttft_s)
            assert quote.tpot_s[i] == pytest.approx(plain.tpot_s)
            assert quote.marginal_nano_usd[i] == pytest.approx(plain.marginal_nano_usd)
            assert quote.score[i] == pytest.approx(plain.score)
            expected = pytest.approx(plain.violations_expected, abs=1e-9)
            assert quote.violations_expected[i] == expected
            assert Block(int(quote.blocked[i])) is plain.blocked
            seen[plain.blocked] += 1

    for _ in range(5):  # a rare reason need not be drawn among the first 300
        compare()
        if seen.keys() >= ALL_REASONS:
            break
    assert seen.keys() >= ALL_REASONS, "fleets that never block compare little"


@given(made())
def test_a_kept_quote_outlives_the_next_one(made: Made) -> None:
    quote = quote_fleet(made.fleet, made.query, made.policy, NOW)
    kept, figures, blocked = quote.kept(), quote.figures.copy(), quote.blocked.copy()
    quote_fleet(made.fleet, made.query, made.policy, NOW + 1.0)
    assert np.array_equal(kept.figures, figures)
    assert np.array_equal(kept.blocked, blocked)
    assert kept.slowest_ttft_s == kept.ttft_s.max()
