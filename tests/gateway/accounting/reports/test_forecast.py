"""Forecasts from the spend of days."""

from __future__ import annotations

import pytest

from gateway.accounting.reports.forecast import DAY_S, WeekProfile, week_profile

TODAY = 20_000


def test_a_steady_spend_goes_on() -> None:
    profile = week_profile({day: 700 for day in range(TODAY - 40, TODAY)}, TODAY)
    assert profile is not None
    assert profile.by_weekday == (700,) * 7
    noon_s = TODAY * DAY_S + DAY_S / 2
    assert profile.between(noon_s, (TODAY + 3) * DAY_S) == 350 + 1400
    assert profile.reached(1050, noon_s, (TODAY + 9) * DAY_S) == (TODAY + 2) * DAY_S
    assert profile.reached(1051, noon_s, (TODAY + 2) * DAY_S) is None
    assert profile.reached(0, noon_s, (TODAY + 2) * DAY_S) == noon_s


def test_each_weekday_has_its_own_mean_and_today_does_not_count() -> None:
    spent = {day: 1000 if day % 7 == 3 else 0 for day in range(TODAY - 28, TODAY)}
    profile = week_profile(spent | {TODAY: 10**9}, TODAY)
    assert profile is not None
    assert profile.by_weekday == (0, 0, 0, 1000, 0, 0, 0)


def test_days_before_the_first_spend_do_not_count_and_too_few_days_tell_nothing() -> None:
    assert week_profile({}, TODAY) is None
    assert week_profile({TODAY - 2: 5, TODAY - 1: 5}, TODAY) is None
    profile = week_profile({TODAY - 3: 30}, TODAY)
    assert profile is not None
    # Two days without spend since then; weekdays that were not seen have the mean of the three.
    assert sorted(profile.by_weekday) == [0, 0, 10, 10, 10, 10, 30]


def test_nothing_is_reached_where_nothing_is_spent() -> None:
    silent = WeekProfile((0,) * 7)
    assert silent.reached(1, 0.0, 10**9) is None
    assert silent.between(0.0, 10**6) == pytest.approx(0)
