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
    periods: PrefillPeriods,
    now: float,
    pending: int,
    *,
    tokens: int = 1000,
    hits: int = 0,
    name: str = "",
) -> PrefillPeriod | None:
    """The first token of a prompt; without a name it is the whole answer of one that was not
    cached."""
    periods.first_token(
        now,
        request_id=name or "whole",
        prompt_tokens=tokens,
        hit_tokens=hits,
        pending=pending,
        sequences=5,
        kv_tokens=4000.0,
        chunk_tokens=8192,
    )
    return None if name else periods.ended("whole", None, None)


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


def test_what_was_cached_of_a_prompt_is_known_at_the_end_of_its_answer() -> None:
    periods = PrefillPeriods()
    periods.sent(0.0, pending=0, sequences=0)
    assert first(periods, 1.0, 0, tokens=20_000, hits=12_000, name="a") is None
    period = periods.ended("a", 20_000, 19_000)
    assert period is not None
    assert (period.tokens, period.pairs) == (1000.0, 1000.0 * (2 * 20_000.0 - 1000.0))
    assert (period.began_s, period.ended_s, period.steps, period.prompts) == (0.0, 1.0, 1, 1)
    assert (period.weight, period.kv_tokens) == (1.0, 4000.0)
    assert periods.ended("a", 20_000, 19_000) is None


def test_what_is_left_of_a_cached_prompt_is_by_the_count_of_the_engine() -> None:
    periods = PrefillPeriods()
    periods.sent(0.0, pending=0, sequences=0)
    assert first(periods, 1.0, 0, tokens=40_000, hits=36_000, name="a") is None
    period = periods.ended("a", 44_000, 39_600)
    assert period is not None
    assert (period.tokens, period.pairs) == (4400.0, 4400.0 * (2 * 44_000.0 - 4400.0))


def test_a_prefix_that_the_engine_had_dropped_makes_the_steps_of_a_whole_prompt() -> None:
    periods = PrefillPeriods()
    periods.sent(0.0, pending=0, sequences=0)
    first(periods, 4.0, 0, tokens=40_000, hits=39_000, name="a")
    period = periods.ended("a", None, 0)
    assert period is not None
    assert (period.tokens, period.steps) == (40_000.0, 5)


def test_where_the_engine_does_not_tell_what_was_expected_counts_and_is_worth_less() -> None:
    periods = PrefillPeriods()
    periods.sent(0.0, pending=0, sequences=0)
    first(periods, 1.0, 0, hits=400, name="a")
    period = periods.ended("a", None, None)
    assert period is not None
    assert period.tokens == 600.0
    assert period.weight == UNSURE_WEIGHT


def test_a_period_waits_for_all_its_prompts_while_the_next_ones_pass() -> None:
    periods = PrefillPeriods()
    periods.sent(0.0, pending=0, sequences=0)
    periods.sent(0.0, pending=1, sequences=1)
    periods.sent(0.0, pending=2, sequences=2)
    assert first(periods, 1.0, 2, hits=400, name="short") is None
    assert periods.ended("short", None, 300) is None  # others are pending still
    assert first(periods, 1.2, 1, hits=400, name="long") is None
    assert first(periods, 1.2, 0, hits=400, name="longer") is None
    periods.sent(2.0, pending=0, sequences=2)
    assert first(periods, 2.5, 0, name="between") is None
    assert periods.ended("longer", None, 400) is None
    between = periods.ended("between", None, 0)
    assert between is not None
    assert (between.began_s, between.tokens) == (2.0, 1000.0)
    period = periods.ended("long", None, 400)
    assert period is not None
    assert (period.prompts, period.tokens, period.steps) == (3, 700.0 + 600.0 + 600.0, 2)


def test_a_spoiled_period_waits_for_nothing() -> None:
    periods = PrefillPeriods()
    periods.sent(0.0, pending=0, sequences=0)
    periods.spoil()
    assert first(periods, 1.0, 0, hits=400, name="a") is None
    assert periods.ended("a", None, 400) is None


def test_a_prefix_that_nobody_expected_in_the_cache_was_not_computed() -> None:
    periods = PrefillPeriods()
    periods.sent(0.0, pending=0, sequences=0)
    assert first(periods, 1.0, 0, tokens=20_000, name="a") is None
    period = periods.ended("a", 20_000, 19_000)
    assert period is not None
    assert (period.tokens, period.weight) == (1000.0, 1.0)


def test_a_period_whose_answers_have_all_ended_ends_with_its_last_first_token() -> None:
    periods = PrefillPeriods()
    periods.sent(0.0, pending=0, sequences=0)
    periods.sent(0.0, pending=1, sequences=1)
    assert first(periods, 1.0, 1) is None
    period = first(periods, 1.5, 0)
    assert period is not None
    assert period.tokens == 2000.0
