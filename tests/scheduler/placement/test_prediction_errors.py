"""The margin follows the errors that were seen."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.placement.prediction_errors import (
    LEAST_UNITS,
    MOST_SHARE,
    MOST_UNITS,
    PredictionErrors,
)
from scheduler.resident import FirstToken, Joins


def test_nine_of_ten_first_tokens_come_within_the_margin() -> None:
    rng, errors = np.random.default_rng(1), PredictionErrors()
    seen = rng.normal(1.0, 0.1, 5000)
    for one in seen:
        errors.observe(1.0, float(one))
    assert errors.late_s == pytest.approx(np.percentile(seen - 1.0, 90), rel=0.25)
    assert errors.margin_s(10.0, 0.0) == errors.late_s


def test_a_margin_has_a_least_and_a_largest_share_of_its_limit() -> None:
    errors = PredictionErrors()
    assert errors.margin_s(2.0, 0.05) == 0.1
    for _ in range(1000):
        errors.observe(0.1, 5.0)
    assert errors.margin_s(2.0, 0.05) == MOST_SHARE * 2.0


def test_it_falls_again_when_predictions_hold() -> None:
    errors = PredictionErrors()
    for _ in range(200):
        errors.observe(1.0, 1.5)
    before_s = errors.late_s
    for _ in range(3000):
        errors.observe(1.0, 1.01)
    assert errors.late_s < 0.4 * before_s


def test_what_later_prompts_add_is_a_median_in_units_and_bounded() -> None:
    rng, errors = np.random.default_rng(1), PredictionErrors()
    first = FirstToken(2.0, Joins.NEXT, 0.5)
    assert errors.typical_s(first) == 2.0
    for units in rng.lognormal(np.log(0.4), 0.3, 2000):
        errors.observe_typical(first, 2.0 + 0.5 * float(units))
    assert errors.typical_s(first) == pytest.approx(2.0 + 0.5 * 0.4, rel=0.02)
    for seen_s, most in ((9.0, MOST_UNITS), (0.1, LEAST_UNITS)):
        for _ in range(300):
            errors.observe_typical(first, seen_s)
        assert errors.typical_s(first) == pytest.approx(2.0 + 0.5 * most)


def test_each_kind_of_step_learns_apart_and_an_idle_engine_adds_nothing() -> None:
    errors = PredictionErrors()
    for _ in range(50):
        errors.observe_typical(FirstToken(1.0, Joins.SHARED, 1.0), 1.3)
        errors.observe_typical(FirstToken(1.0, Joins.OWN, 0.0), 1.3)
    assert errors.typical_s(FirstToken(2.0, Joins.SHARED, 2.0)) == pytest.approx(2.6, rel=0.02)
    for joins in (Joins.OWN, Joins.NEXT):
        assert errors.typical_s(FirstToken(2.0, joins, 1.0)) == 2.0
