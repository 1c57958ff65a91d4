"""Periods of prefills: what is counted in one, and when it tells nothing."""

from __future__ import annotations

import pytest

from scheduler.step_time.prefill_periods import (
    MOST_PERIOD_S,
    UNSURE_WEIGHT,
    PrefillPeriod,
    PrefillPeriods,
)


def first(
    periods: PrefillPeriods, now: float, pending: int, *, tokens: int = 1000, sure: bool = True
) -> PrefillPeriod | None:
    return periods.first_token(
        now,
        uncached_tokens=tokens,
        context_tokens=tokens,
        sure=sure,
        pending=pending,
        sequences=5,
        chunk_tokens=8192,
    )


def test_a_period_ends_when_no_prompt_is_pending() -> None:
    periods = PrefillPeriods()
    periods.sent(1.0, pending=0, sequences=4)
    periods.sent(1.01, pending=1, sequences=5)
    assert first(periods, 1.2, 1) is None
    period = first(periods, 1.5, 0)
    assert period is not None
    assert (period.began_s, period.took_s) == (1.0, 0.5)
    assert (period.prompts, period.tokens, period.pairs) == (2, 2000.0, 2 * 1000.0**2)
    assert (period.steps, period.joined, period.sequences) == (2, True, 4)
    assert period.weight == 1.0


def test_first_tokens_of_one_step_count_as_one_step_and_long_prompts_as_several() -> None:
    periods = PrefillPeriods()
    periods.sent(1.0, pending=0, sequences=0)
    periods.sent(1.0, pending=1, sequences=1)
    assert first(periods, 1.2, 1) is None
    together = first(periods, 1.2, 0)
    assert together is not None
    assert (together.steps, together.joined) == (1, False)
    periods.sent(2.0, pending=0, sequences=0)
    long = first(periods, 4.0, 0, tokens=40_000)
    assert long is not None
    assert long.steps == 5


def test_a_period_that_does_not_end_is_cut_and_the_next_one_begins_there() -> None:
    periods = PrefillPeriods()
    periods.sent(0.0, pending=0, sequences=0)
    assert first(periods, 5.0, 2) is None
    cut = first(periods, MOST_PERIOD_S + 1.0, 1)
    assert cut is not None
    assert cut.prompts == 2
    rest = first(periods, MOST_PERIOD_S + 2.0, 0)
    assert rest is not None
    assert rest.took_s == pytest.approx(1.0)
    assert (rest.prompts, rest.sequences) == (1, 5)


def test_a_spoiled_period_tells_nothing_and_the_next_one_does() -> None:
    periods = PrefillPeriods()
    periods.sent(0.0, pending=0, sequences=0)
    periods.spoil()
    assert first(periods, 1.0, 0) is None
    periods.sent(2.0, pending=0, sequences=0)
    assert first(periods, 3.0, 0) is not None


def test_what_was_expected_in_the_cache_is_worth_less() -> None:
    periods = PrefillPeriods()
    periods.sent(0.0, pending=0, sequences=0)
    period = first(periods, 1.0, 0, sure=False)
    assert period is not None
    assert period.weight == UNSURE_WEIGHT
