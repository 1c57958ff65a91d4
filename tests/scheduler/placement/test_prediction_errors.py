"""The margin follows the errors that were seen."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.placement.prediction_errors import (
    MOST_RATIO,
    MOST_SHARE,
    PredictionErrors,
    TypicalRatio,
)


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


def test_a_typical_ratio_is_the_median_of_outcomes_over_predictions_and_bounded() -> None:
    rng, one = np.random.default_rng(1), TypicalRatio()
    assert one.ratio == 1.0
    for seen_s in rng.lognormal(np.log(1.3), 0.3, 2000):
        one.observe(2.0, 2.0 * float(seen_s))
    assert one.ratio == pytest.approx(1.3, rel=0.1)
    for factor, most in ((9.0, MOST_RATIO), (0.1, 1.0 / MOST_RATIO)):
        for _ in range(300):
            one.observe(1.0, factor)
        assert one.ratio == pytest.approx(most)
