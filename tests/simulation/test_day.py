"""A short day of overflow: what holds at any length; the bill of a whole one is a benchmark's."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from benchmarks.day import NEWSVENDOR_LOAD, PEAK_OVER_MEAN, QWEN_CAPACITY_PER_S, Day, play, shape


def day(**fields: object) -> Day:
    made = {
        "replicas": 1,
        "day_s": 150.0,
        "capacity_per_s": QWEN_CAPACITY_PER_S,
        "load": NEWSVENDOR_LOAD,
        **fields,
    }
    return Day(**made)  # type: ignore[arg-type]


def test_the_day_has_the_peak_and_the_quarter_above_capacity_that_it_says() -> None:
    demand = np.array([shape(i / 4000) for i in range(4000)])
    assert demand.mean() == pytest.approx(1.0, abs=1e-6)
    assert demand.max() == pytest.approx(PEAK_OVER_MEAN)
    assert (demand * NEWSVENDOR_LOAD > 1.0).mean() == pytest.approx(0.25, abs=0.01)


def test_a_day_overflows_at_its_peak_and_local_only_stays() -> None:
    result = play(day())
    assert result.local_only_sent_out == 0
    assert 0 < result.remote_requests < result.requests / 2
    assert result.interactive_met >= 0.985  # of 766 requests: chance moves it by half a per cent
    assert result.own_usd < result.careless_usd <= result.optimum_usd
    # A short day is dear: the mark holds for a minute, which is a good part of it.
    assert result.over_optimum <= 0.3


def test_around_saturation_overflow_does_not_flap() -> None:
    result = play(day(load=1.0, flat=True))
    assert all(later - earlier >= 60.0 for earlier, later in pairwise(result.switches))
    assert result.local_only_sent_out == 0
